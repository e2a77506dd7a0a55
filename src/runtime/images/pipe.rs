//! Carries a download from the network's task to the thread that unpacks it.

use bytes::{Buf, Bytes};
use std::io::{self, Read};
use tokio::sync::mpsc;

/// Chunks in flight: some hundred KiB for each layer.
const CHUNKS: usize = 32;

pub(super) struct PipeSender(mpsc::Sender<Option<Bytes>>);

/// The reading end, for a thread that may block.
pub(super) struct PipeReader {
    receiver: mpsc::Receiver<Option<Bytes>>,
    current: Bytes,
    ended: bool,
}

pub(super) fn pipe() -> (PipeSender, PipeReader) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    (PipeSender(sender), PipeReader { receiver, current: Bytes::new(), ended: false })
}

impl PipeSender {
    /// False if the reader has gone.
    pub(super) async fn send(&self, chunk: Bytes) -> bool {
        self.0.send(Some(chunk)).await.is_ok()
    }

    /// Says that everything has been sent; a sender that is merely dropped has failed.
    pub(super) async fn finish(self) {
        let _ = self.0.send(None).await;
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.receiver.blocking_recv() {
                Some(Some(chunk)) => self.current = chunk,
                Some(None) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "download interrupted")),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
