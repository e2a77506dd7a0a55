//! gRPC probes: `grpc.health.v1.Health/Check`, spoken directly over HTTP/2.

use super::state::Outcome;
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;
use tokio::net::TcpStream;

/// An answer is a few bytes; more is not one.
const ANSWER_LIMIT: usize = 4096;
const SERVING: u8 = 1;
/// Names of the states in an answer.
const STATES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// Asks `place` about `service` over a connection that `dial` makes.
pub(super) async fn check(
    dial: impl Future<Output = Result<TcpStream, String>>,
    place: &str,
    service: &str,
    timeout: Duration,
) -> Outcome {
    let ask = async { exchange(dial.await?, place, service).await };
    match tokio::time::timeout(timeout, ask).await {
        Ok(Ok(SERVING)) => Outcome::Success,
        Ok(Ok(state)) => {
            let name = STATES.get(usize::from(state)).unwrap_or(&"UNKNOWN");
            Outcome::Failure(format!("service unhealthy (responded with \"{name}\")"))
        }
        Ok(Err(error)) => Outcome::Failure(error),
        Err(_) => {
            let text = format!("timeout: failed to connect service {place:?} within {}", go(timeout));
            Outcome::Failure(text)
        }
    }
}

fn go(duration: Duration) -> String {
    crate::pod::backoff::go_millis(duration)
}

/// The request: an uncompressed message whose first field is the service's name.
fn message(service: &str) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    let name = &service.as_bytes()[..service.len().min(127)];
    if name.is_empty() {
        out.put_u32(0);
    } else {
        out.put_u32(name.len() as u32 + 2);
        out.put_u8(0x0a);
        out.put_u8(name.len() as u8);
        out.put_slice(name);
    }
    out.freeze()
}

/// The state in an answer's message; nothing in it means the first one.
fn state(body: &[u8]) -> u8 {
    match body.get(5..7) {
        Some([0x08, state]) => *state,
        _ => 0,
    }
}

async fn exchange(stream: TcpStream, place: &str, service: &str) -> Result<u8, String> {
    let text = |error: hyper::Error| format!("error: health rpc probe failed: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(text)?;
    let request = http::Request::post(format!("http://{place}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(message(service)))
        .map_err(|error| error.to_string())?;
    let ask = async {
        let answer = sender.send_request(request).await.map_err(text)?;
        let early = status(answer.headers());
        let whole = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
        let whole = whole.map_err(|error| format!("error: health rpc probe failed: {error}"))?;
        let code = early.or_else(|| whole.trailers().and_then(status));
        match code {
            None | Some(0) => Ok(state(&whole.to_bytes())),
            Some(12) => {
                Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into())
            }
            Some(code) => Err(format!("error: health rpc probe failed: rpc error: code = {code}")),
        }
    };
    tokio::pin!(ask);
    tokio::select! {
        biased;
        result = &mut ask => result,
        _ = connection => ask.await,
    }
}

fn status(headers: &http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    async fn ask(answer: &'static [u8], code: &'static str) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        naru_base::spawn("test server", async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |_| async move {
                let response = http::Response::builder().header("grpc-status", code);
                Ok::<_, std::convert::Infallible>(response.body(Full::new(Bytes::from_static(answer))).unwrap())
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
        let dial = async move { TcpStream::connect(address).await.map_err(|error| error.to_string()) };
        check(dial, &address.to_string(), "", Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn states_and_codes_decide() {
        assert_eq!(ask(b"\0\0\0\0\x02\x08\x01", "0").await, Outcome::Success);
        let down = Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".into());
        assert_eq!(ask(b"\0\0\0\0\x02\x08\x02", "0").await, down);
        assert!(matches!(ask(b"", "12").await, Outcome::Failure(text) if text.contains("does not implement")));
    }

    #[test]
    fn requests_name_the_service() {
        assert_eq!(message(""), Bytes::from_static(b"\0\0\0\0\0"));
        assert_eq!(message("ab"), Bytes::from_static(b"\0\0\0\0\x04\x0a\x02ab"));
    }
}
