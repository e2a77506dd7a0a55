//! A connection that ends when its peer takes nothing for too long, unless a person may be reading from it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long a peer may take nothing of what is there for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Set on a connection that carries a stream a person looks at: logs, a terminal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patient(Arc<AtomicBool>);

impl Patient {
    /// From now on the peer may take its time.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Stalling<T> {
    inner: T,
    patient: Patient,
    /// Runs while something waits to be taken.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T> Stalling<T> {
    /// Watches over a connection.
    pub(crate) fn new(inner: T, patient: Patient) -> Self {
        Self { inner, patient, timer: None }
    }

    /// What to answer to a write of which nothing was taken.
    fn stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
        ready!(timer.as_mut().poll(cx));
        self.timer = None;
        if self.patient.0.load(Ordering::Relaxed) {
            // To be looked at again when there is room.
            return Poll::Pending;
        }
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing"))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stalling<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stalling<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.inner).poll_write(cx, data) {
            Poll::Pending => self.stalled(cx).map(Err),
            taken => {
                self.timer = None;
                taken
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.inner).poll_write_vectored(cx, data) {
            Poll::Pending => self.stalled(cx).map(Err),
            taken => {
                self.timer = None;
                taken
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_flush(cx) {
            Poll::Pending => self.stalled(cx).map(Err),
            flushed => {
                self.timer = None;
                flushed
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_shutdown(cx) {
            Poll::Pending => self.stalled(cx).map(Err),
            done => done,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_left_and_who_takes_little_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = Stalling::new(ours, Patient::default());
        let (written, ()) = tokio::join!(ours.write_all(&[0; 160]), async {
            for _ in 0..10 {
                tokio::time::sleep(PATIENCE / 2).await;
                theirs.read_exact(&mut [0; 16]).await.unwrap();
            }
        });
        written.unwrap();
        let error = ours.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_of_logs_may_pause() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let patient = Patient::default();
        patient.set();
        let mut ours = Stalling::new(ours, patient);
        let (written, ()) = tokio::join!(ours.write_all(&[0; 32]), async {
            tokio::time::sleep(PATIENCE * 10).await;
            theirs.read_exact(&mut [0; 32]).await.unwrap();
        });
        written.unwrap();
    }
}
