//! Streams of an HTTP/2 connection. One of which the peer takes nothing for too long is reset, though the peer
//! answers pings and reads other streams.

use crate::response::{Body, BodyError};
use crate::stall::PATIENCE;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::time::Sleep;

/// What is given to a stream at a time: no more of an answer waits in a stream that is not read.
const PIECE: usize = 64 * 1024;

tokio::task_local! {
    static PACE: Arc<Pace>;
}

/// How far a stream's body has come.
#[derive(Debug, Default)]
struct Pace {
    /// Pieces given so far.
    given: AtomicU64,
    /// The body has nothing to give at present.
    idle: AtomicBool,
}

/// The answer's body, watched over if this is the task of an HTTP/2 stream.
pub(crate) fn watched(body: Body) -> Body {
    if body.size_hint().exact().is_some_and(|size| size <= PIECE as u64) {
        return body;
    }
    match PACE.try_with(Arc::clone) {
        Ok(pace) => Paced { body, pace, rest: Bytes::new() }.boxed_unsync(),
        Err(_) => body,
    }
}

/// A body that is given in pieces and counts them.
struct Paced {
    body: Body,
    pace: Arc<Pace>,
    /// What is left of the last frame.
    rest: Bytes,
}

impl Paced {
    fn piece(&mut self) -> Frame<Bytes> {
        self.pace.given.fetch_add(1, Ordering::Relaxed);
        Frame::data(self.rest.split_to(self.rest.len().min(PIECE)))
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.pace.idle.store(polled.is_pending(), Ordering::Relaxed);
        Poll::Ready(match ready!(polled) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.rest = data;
                    Some(Ok(self.piece()))
                }
                Err(trailers) => Some(Ok(trailers)),
            },
            ended => ended,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

/// Spawns hyper's tasks, one for each stream, each under watch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams;

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let pace = Arc::new(Pace::default());
        let stream = Box::pin(PACE.scope(pace.clone(), stream));
        naru_base::spawn("api-stream", Timed { stream, pace, seen: 0, timer: None });
    }
}

/// A stream's task. It ends when nothing of the body is taken any more; dropping it resets the stream.
struct Timed<F> {
    stream: Pin<Box<F>>,
    pace: Arc<Pace>,
    /// The pieces given when the timer was set.
    seen: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for Timed<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let given = self.pace.given.load(Ordering::Relaxed);
        // Who has not begun works on the answer, who is idle waits for an event; else there is no room.
        if given == 0 || self.pace.idle.load(Ordering::Relaxed) {
            self.timer = None;
            return Poll::Pending;
        }
        if self.timer.is_none() || self.seen != given {
            self.seen = given;
            self.timer = Some(Box::pin(tokio::time::sleep(PATIENCE)));
        }
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
            tracing::debug!("the peer takes nothing of a stream");
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use futures::StreamExt;
    use http::{Request, Response};
    use http_body_util::{Empty, StreamBody};
    use hyper::client::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use std::convert::Infallible;
    use std::time::Duration;
    use tokio::sync::Notify;

    /// Tells when it goes.
    struct Held(Arc<Notify>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }

    /// Gives 16 KiB a second for ever.
    fn ticking(held: Held) -> Body {
        let ticks = futures::stream::unfold(held, |held| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, BodyError>(Frame::data(Bytes::from(vec![0; 16 * 1024]))), held))
        });
        StreamBody::new(ticks.boxed()).boxed_unsync()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_not_read_is_reset_and_its_neighbour_is_not() {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let dropped = Arc::new(Notify::new());
        let gone = dropped.clone();
        let server = naru_base::spawn("test-server", async move {
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let unread = request.uri().path() == "/unread";
                let held = Held(if unread { gone.clone() } else { Arc::default() });
                async move { Ok::<_, Infallible>(Response::new(watched(ticking(held)))) }
            });
            crate::server::builder().serve_connection(TokioIo::new(theirs), service).await
        });
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .handshake(TokioIo::new(ours))
            .await
            .unwrap();
        let client = naru_base::spawn("test-client", connection);
        let ask = |path: &str| Request::get(format!("http://a{path}")).body(Empty::<Bytes>::new()).unwrap();
        let unread = sender.send_request(ask("/unread")).await.unwrap();
        let mut read = sender.send_request(ask("/read")).await.unwrap().into_body();
        let mut dropped = std::pin::pin!(dropped.notified());
        let mut taken = 0;
        loop {
            tokio::select! {
                () = dropped.as_mut() => break,
                frame = read.frame() => taken += frame.unwrap().unwrap().into_data().unwrap().len(),
            }
        }
        // It filled its window in four seconds, and was waited for.
        assert!((60 * 16 * 1024..70 * 16 * 1024).contains(&taken), "{taken}");
        assert!(read.frame().await.unwrap().is_ok(), "the neighbour goes on");
        let rest = unread.into_body().collect().await;
        assert!(rest.is_err(), "it was reset");
        client.abort();
        server.abort();
    }

    #[tokio::test]
    async fn pieces_make_the_whole() {
        let whole: Bytes = (0..=255_u8).cycle().take(PIECE * 2 + 5).collect::<Vec<_>>().into();
        let body = PACE.sync_scope(Arc::default(), || watched(crate::response::full(whole.clone())));
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        let mut body = std::pin::pin!(body);
        let mut sizes = Vec::new();
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            sizes.push(data.len());
            all.extend_from_slice(&data);
        }
        assert_eq!(sizes, [PIECE, PIECE, 5]);
        assert_eq!(all, whole);
    }
}
