//! Turns a request into a two-way connection: WebSocket or SPDY/3.1, by what the client offers.

use super::{Body, text};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Largest message taken from a client.
const MESSAGE_LIMIT: usize = 1 << 20;
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// How the client speaks, with the protocol that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    WebSocket(&'static str),
    Spdy(&'static str),
}

/// A connection about to be upgraded, once the response is sent.
pub(super) struct Pending {
    pub(super) way: Way,
    upgrade: OnUpgrade,
}

impl Pending {
    /// The connection as a plain stream of bytes.
    pub(super) async fn bytes(self) -> Result<TokioIo<Upgraded>, hyper::Error> {
        self.upgrade.await.map(TokioIo::new)
    }

    /// The connection as a WebSocket.
    pub(super) async fn socket(self) -> Result<Socket, hyper::Error> {
        let config =
            WebSocketConfig::default().max_message_size(Some(MESSAGE_LIMIT)).max_frame_size(Some(MESSAGE_LIMIT));
        Ok(WebSocketStream::from_raw_socket(self.bytes().await?, Role::Server, Some(config)).await)
    }
}

/// The first of `ours` that the client offers.
fn choose(offered: &str, ours: &[&'static str]) -> Option<&'static str> {
    let offered: Vec<&str> = offered.split(',').map(str::trim).collect();
    ours.iter().copied().find(|p| offered.contains(p))
}

fn header(request: &Request<Incoming>, name: &HeaderName) -> String {
    let values = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

/// Chooses among the protocols that are served, the better ones first; a WebSocket for which the client
/// names none speaks `unnamed`. The response has to be sent before the connection can be used.
pub(super) fn accept(
    request: &mut Request<Incoming>,
    websocket: &[&'static str],
    unnamed: &'static str,
    spdy: &[&'static str],
) -> Result<(Response<Body>, Pending), Box<Response<Body>>> {
    let wanted = header(request, &UPGRADE).to_ascii_lowercase();
    let refuse = |code, message: String| Box::new(text(code, message));
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let way = match wanted.as_str() {
        "websocket" => {
            let offered = header(request, &SEC_WEBSOCKET_PROTOCOL);
            let chosen = if offered.is_empty() { Some(unnamed) } else { choose(&offered, websocket) };
            let Some(protocol) = chosen else {
                let text = format!(
                    "unable to upgrade: unable to negotiate protocol: client supports [{offered}], server accepts {websocket:?}"
                );
                return Err(refuse(StatusCode::FORBIDDEN, text));
            };
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            if !offered.is_empty() {
                headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
            }
            let accept = derive_accept_key(header(request, &SEC_WEBSOCKET_KEY).as_bytes());
            if let Ok(accept) = HeaderValue::from_str(&accept) {
                headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
            }
            Way::WebSocket(protocol)
        }
        "spdy/3.1" => {
            let offered = header(request, &STREAM_PROTOCOL);
            let Some(protocol) = choose(&offered, spdy) else {
                let text = format!(
                    "unable to upgrade: unable to negotiate protocol: client supports [{offered}], server accepts {spdy:?}"
                );
                return Err(refuse(StatusCode::FORBIDDEN, text));
            };
            headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
            Way::Spdy(protocol)
        }
        _ => return Err(refuse(StatusCode::BAD_REQUEST, "Upgrade request required".into())),
    };
    Ok((response, Pending { way, upgrade: hyper::upgrade::on(request) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_protocol_is_chosen() {
        let ours = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
        assert_eq!(choose("v4.channel.k8s.io, v5.channel.k8s.io", &ours), Some("v5.channel.k8s.io"));
        assert_eq!(choose("v4.channel.k8s.io", &ours), Some("v4.channel.k8s.io"));
        assert_eq!(choose("channel.k8s.io", &ours), None);
    }
}
