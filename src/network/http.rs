//! Small pages over HTTP: metrics and health checks, for a scraper or a balancer, never for the world.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// How long a client may take over its request, and over the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request's head beyond this size is refused.
const MAX_HEAD: usize = 8 * 1024;

/// Answers every request on a listener; so many at once, further ones wait in the listen queue.
pub(crate) async fn serve<F>(listener: TcpListener, at_once: usize, answer: F)
where
    F: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    let places = Arc::new(Semaphore::new(at_once));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: that passes.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let answer = answer.clone();
        naru_base::spawn("page", async move {
            let service = service_fn(move |request| {
                let response = answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(MAX_HEAD)
                .keep_alive(false)
                .title_case_headers(true)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever breaks off has had enough.
            let _ = tokio::time::timeout(2 * PATIENCE, served).await;
            drop(place);
        });
    }
}
