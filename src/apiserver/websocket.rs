//! Watches over a WebSocket: each event is a message, text for JSON and binary for protobuf. And logs: each piece is a
//! message.

use crate::negotiate::Encoding;
use crate::response::{self, Body};
use base64::Engine;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use naru_client::transport::{WatchEvent, WatchStream};
use std::time::Duration;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Largest message taken from a client, of whom nothing but the end is expected.
const MESSAGE_LIMIT: usize = 64 * 1024;
/// How long a client may take over a message.
const WRITE: Duration = Duration::from_secs(30);
/// What a protobuf event is preceded by on a plain connection, and not here.
const FRAME_HEAD: usize = 4;

/// Protocols of one stream, from the server.
const READERS: [&str; 2] = ["binary.k8s.io", BASE64];
const BASE64: &str = "base64.binary.k8s.io";

/// Whether a request asks for a WebSocket.
pub(crate) fn is_asked_for(method: &Method, headers: &HeaderMap) -> bool {
    let upgrade = headers.get(UPGRADE).and_then(|value| value.to_str().ok());
    method == Method::GET && upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

/// A request for a WebSocket, kept until it is known that it may have one.
pub(crate) struct Asked {
    upgrade: OnUpgrade,
    accept: Option<String>,
    protocols: Vec<String>,
}

impl Asked {
    /// What these headers ask for.
    pub(crate) fn new(upgrade: OnUpgrade, headers: &HeaderMap) -> Self {
        let version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
        let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| version);
        let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let protocols = offered.flat_map(|value| value.split(',')).map(|protocol| protocol.trim().to_owned());
        Self { upgrade, accept: key.map(|key| derive_accept_key(key.as_bytes())), protocols: protocols.collect() }
    }

    /// Switches over, and sends the events until one side ends it.
    pub(crate) fn watch(self, events: WatchStream, encoding: Encoding) -> Response<Body> {
        let protocol = match self.protocols.as_slice() {
            [] => None,
            [protocol] => HeaderValue::from_str(protocol).ok(),
            _ => return refusal("missing or bad WebSocket-Protocol"),
        };
        self.open(protocol, move |socket| send(socket, events, encoding))
    }

    /// Switches over, and sends what is read until one side ends it: as it is, or as text where the protocol says so.
    pub(crate) fn read(self, body: Body) -> Response<Body> {
        let known = |protocol: &&String| READERS.contains(&protocol.as_str());
        let (protocol, encoded) = match self.protocols.iter().find(known) {
            Some(protocol) => (HeaderValue::from_str(protocol).ok(), protocol == BASE64),
            None if self.protocols.is_empty() => (None, false),
            None => return refusal("requested protocol(s) are not supported"),
        };
        self.open(protocol, move |socket| pass_on(socket, body, encoded))
    }

    fn open<F>(
        self,
        protocol: Option<HeaderValue>,
        serve: impl FnOnce(WebSocketStream<TokioIo<Upgraded>>) -> F + Send + 'static,
    ) -> Response<Body>
    where
        F: Future<Output = ()> + Send,
    {
        let Some(accept) = self.accept.and_then(|accept| HeaderValue::from_str(&accept).ok()) else {
            return refusal("mismatch challenge/response");
        };
        let upgrade = self.upgrade;
        naru_base::spawn("websocket", async move {
            match upgrade.await {
                Ok(upgraded) => {
                    let config = WebSocketConfig::default()
                        .max_message_size(Some(MESSAGE_LIMIT))
                        .max_frame_size(Some(MESSAGE_LIMIT));
                    let socket =
                        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
                    serve(socket).await;
                }
                Err(error) => tracing::debug!(%error, "the connection did not become a WebSocket"),
            }
        });
        let mut response = Response::new(response::full(""));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}

fn refusal(why: &'static str) -> Response<Body> {
    let mut response = Response::new(response::full(format!("{why}\n")));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Sends a body piece by piece, after an empty message that says that it has begun. A log may pause, so only a
/// message that is not taken ends it.
async fn pass_on<S>(socket: WebSocketStream<S>, mut body: Body, encoded: bool)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut sink, mut source) = socket.split();
    let mut piece = Bytes::new();
    loop {
        let message = match encoded {
            true => Message::text(base64::engine::general_purpose::STANDARD.encode(&piece)),
            false => Message::Binary(piece),
        };
        if !matches!(tokio::time::timeout(WRITE, sink.send(message)).await, Ok(Ok(()))) {
            return;
        }
        piece = loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                heard = source.next() => match heard {
                    Some(Ok(message)) if !message.is_close() => continue,
                    _ => return,
                },
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => break data,
                    Err(_) => continue,
                },
                Some(Err(_)) | None => {
                    let _ = tokio::time::timeout(WRITE, sink.send(Message::Close(None))).await;
                    return;
                }
            }
        };
    }
}

/// Sends what there is together. A client that does not take a message in time is left.
async fn send<S>(socket: WebSocketStream<S>, events: WatchStream, encoding: Encoding)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut sink, mut source) = socket.split();
    let mut events = events.ready_chunks(64);
    loop {
        let chunk = tokio::select! {
            chunk = events.next() => chunk,
            heard = source.next() => match heard {
                // Nothing that a client says matters, but that it goes.
                Some(Ok(message)) if !message.is_close() => continue,
                _ => return,
            },
        };
        let Some(chunk) = chunk else {
            let _ = tokio::time::timeout(WRITE, sink.send(Message::Close(None))).await;
            return;
        };
        let sent = async {
            for event in chunk {
                let Ok(event) = event else { return Ok(()) };
                if let Some(message) = message(&event, encoding) {
                    sink.feed(message).await?;
                }
            }
            sink.flush().await
        };
        if !matches!(tokio::time::timeout(WRITE, sent).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// An event as it is sent.
fn message(event: &WatchEvent, encoding: Encoding) -> Option<Message> {
    let mut out = BytesMut::new();
    if let Err(error) = response::encode_event(event, encoding, &mut out) {
        tracing::warn!(%error, "an event could not be encoded for a WebSocket");
        return None;
    }
    let bytes: Bytes = out.freeze();
    match encoding {
        Encoding::Protobuf => Some(Message::Binary(bytes.slice(FRAME_HEAD.min(bytes.len())..))),
        Encoding::Json | Encoding::Yaml => Utf8Bytes::try_from(bytes).ok().map(Message::Text),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use naru_client::transport::EventType;

    #[tokio::test]
    async fn events_are_text_messages_and_the_end_is_told() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let event = |n: u8| WatchEvent { kind: EventType::Added, object: format!("{{\"n\":{n}}}").into() };
        let events = futures::stream::iter([Ok(event(1)), Ok(event(2))]).boxed();
        let server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        let (_, messages) = tokio::join!(send(server, events, Encoding::Json), async {
            let mut messages = Vec::new();
            while let Some(Ok(message)) = client.next().await {
                messages.push(message);
            }
            messages
        });
        let text = |n: u8| Message::text(format!("{{\"type\":\"ADDED\",\"object\":{{\"n\":{n}}}}}\n"));
        assert_eq!(messages, [text(1), text(2), Message::Close(None)]);
    }

    #[tokio::test]
    async fn a_log_is_sent_in_pieces_after_an_empty_one() {
        for (encoded, expect) in [
            (false, [Message::binary(""), Message::binary("line"), Message::Close(None)]),
            (true, [Message::text(""), Message::text("bGluZQ=="), Message::Close(None)]),
        ] {
            let (ours, theirs) = tokio::io::duplex(4096);
            let server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
            let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
            let (_, messages) = tokio::join!(pass_on(server, response::full("line"), encoded), async {
                let mut messages = Vec::new();
                while let Some(Ok(message)) = client.next().await {
                    messages.push(message);
                }
                messages
            });
            assert_eq!(messages, expect);
        }
    }

    #[tokio::test]
    async fn a_client_that_goes_ends_the_watch() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        let sending = send(server, futures::stream::pending().boxed(), Encoding::Json);
        let leaving = async {
            client.send(Message::text("hello")).await.unwrap();
            client.close(None).await.unwrap();
        };
        tokio::join!(sending, leaving);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_left() {
        let (ours, theirs) = tokio::io::duplex(64);
        let server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let large = WatchEvent { kind: EventType::Added, object: format!("\"{}\"", "x".repeat(1000)).into() };
        let events = futures::stream::repeat_with(move || Ok(large.clone())).boxed();
        send(server, events, Encoding::Json).await;
        drop(theirs);
    }
}
