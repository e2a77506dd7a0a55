//! The client of an exec or attach session, whichever protocol it speaks.

use super::spdy::{Connection, Read, Stream, StreamWriter};
use super::upgrade::Socket;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use std::io;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// How long the peer may take to answer the end of the conversation.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a client may take to open its streams.
const STREAMS: Duration = Duration::from_secs(30);
/// Longest message about the terminal's size.
const MAX_RESIZE: usize = 4096;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Data(Bytes),
    Resize(u16, u16),
    /// No more input.
    Finished,
    /// The client has gone.
    Gone,
    Nothing,
}

/// What the client asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// The client.
pub(super) enum Peer {
    WebSocket(Box<Socket>, Dialect),
    Spdy(Box<Spdy>),
}

/// How channels are put into WebSocket messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    base64: bool,
    /// The end is told as a Status; else as a text, and only if something failed.
    status: bool,
}

/// WebSocket protocols, the better ones first.
pub(super) const WEBSOCKET: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// What a WebSocket speaks that names no protocol: the first there ever was.
pub(super) const UNNAMED: &str = "channel.k8s.io";
/// Protocols over SPDY, the better ones first.
pub(super) const SPDY: [&str; 4] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];

impl Dialect {
    pub(super) fn of(protocol: &str) -> Self {
        Self { base64: protocol.contains("base64"), status: protocol.starts_with('v') }
    }

    /// A message on a channel.
    pub(super) fn message(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            return Message::Text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(data)).into());
        }
        let mut bytes = BytesMut::with_capacity(data.len() + 1);
        bytes.put_u8(channel);
        bytes.put_slice(data);
        Message::Binary(bytes.freeze())
    }

    /// A message's channel and data; nothing if it has none.
    pub(super) fn open(self, message: &Bytes) -> Option<(u8, Bytes)> {
        let first = message.first().copied()?;
        if self.base64 {
            let data = STANDARD.decode(&message[1..]).ok()?;
            return Some((first.wrapping_sub(b'0'), Bytes::from(data)));
        }
        Some((first, message.slice(1..)))
    }

    /// What a message means.
    fn understand(self, message: &Bytes) -> Input {
        let Some((channel, data)) = self.open(message) else { return Input::Nothing };
        match channel {
            STDIN => Input::Data(data),
            CLOSE if data.first() == Some(&STDIN) => Input::Finished,
            RESIZE => size(&data),
            _ => Input::Nothing,
        }
    }
}

fn size(text: &[u8]) -> Input {
    let size = serde_json::from_slice::<Value>(text).unwrap_or_default();
    let side = |name: &str| size.get(name).and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok());
    match (side("Width"), side("Height")) {
        (Some(width), Some(height)) => Input::Resize(width, height),
        _ => Input::Nothing,
    }
}

/// A client with a SPDY stream for each channel.
pub(super) struct Spdy {
    connection: Connection,
    status: bool,
    error: StreamWriter,
    stdout: Option<StreamWriter>,
    stderr: Option<StreamWriter>,
    stdin: Option<Stream>,
    resize: Option<Stream>,
    resize_text: Vec<u8>,
    /// Kept so that what the client sends on them is not refused.
    _others: Vec<Stream>,
}

impl Spdy {
    /// Waits for the streams that were announced.
    pub(super) async fn open(mut connection: Connection, wanted: Wanted, protocol: &str) -> io::Result<Self> {
        let mut names = vec!["error"];
        let stderr = wanted.stderr && !wanted.tty;
        let expected = [
            ("stdin", wanted.stdin),
            ("stdout", wanted.stdout),
            ("stderr", stderr),
            ("resize", wanted.tty && protocol != SPDY[3]),
        ];
        names.extend(expected.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| *name));
        let mut streams: Vec<Stream> = Vec::new();
        let gather = async {
            while names.iter().any(|name| !streams.iter().any(|s| s.header("streamtype") == *name)) {
                streams.push(connection.accept().await.ok_or(io::ErrorKind::UnexpectedEof)?);
            }
            io::Result::Ok(())
        };
        tokio::time::timeout(STREAMS, gather).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let mut take =
            |name: &str| streams.iter().position(|s| s.header("streamtype") == name).map(|at| streams.swap_remove(at));
        let (error, stdin, stdout, stderr, resize) =
            (take("error"), take("stdin"), take("stdout"), take("stderr"), take("resize"));
        let error = error.ok_or(io::ErrorKind::UnexpectedEof)?;
        let writer = |stream: &Option<Stream>| stream.as_ref().map(Stream::writer);
        Ok(Self {
            connection,
            status: protocol.starts_with("v4") || protocol.starts_with("v5"),
            error: error.writer(),
            stdout: writer(&stdout),
            stderr: writer(&stderr),
            stdin,
            resize,
            resize_text: Vec::new(),
            _others: [Some(error), stdout, stderr].into_iter().flatten().collect(),
        })
    }

    async fn next(&mut self) -> Input {
        let (stdin, resize) = (&mut self.stdin, &mut self.resize);
        tokio::select! {
            read = read(stdin) => match read {
                Read::Data(bytes) => Input::Data(bytes),
                Read::Finished => { self.stdin = None; Input::Finished }
                Read::Gone => Input::Gone,
            },
            read = read(resize) => match read {
                Read::Data(bytes) => self.resized(&bytes),
                Read::Finished | Read::Gone => { self.resize = None; Input::Nothing }
            },
            // A further stream means nothing; the end of the connection does.
            stream = self.connection.accept() => if stream.is_some() { Input::Nothing } else { Input::Gone },
        }
    }

    /// Sizes come as one JSON text after another, in pieces of any length.
    fn resized(&mut self, bytes: &[u8]) -> Input {
        self.resize_text.extend_from_slice(bytes);
        let Some(end) = self.resize_text.iter().rposition(|b| *b == b'}') else {
            if self.resize_text.len() > MAX_RESIZE {
                self.resize_text.clear();
            }
            return Input::Nothing;
        };
        let whole: Vec<u8> = self.resize_text.drain(..=end).collect();
        let begin = whole.iter().rposition(|b| *b == b'{').unwrap_or(0);
        size(&whole[begin..])
    }
}

async fn read(stream: &mut Option<Stream>) -> Read {
    match stream {
        Some(open) => open.read().await,
        None => std::future::pending().await,
    }
}

impl Peer {
    /// What the client says next. May be given up and asked again without loss.
    pub(super) async fn next(&mut self) -> Input {
        match self {
            Self::WebSocket(socket, dialect) => match socket.next().await {
                Some(Ok(Message::Binary(data))) => dialect.understand(&data),
                Some(Ok(Message::Text(text))) => dialect.understand(&text.into()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => Input::Gone,
                Some(Ok(_)) => Input::Nothing,
            },
            Self::Spdy(spdy) => spdy.next().await,
        }
    }

    /// Passes output on.
    pub(super) async fn send(&mut self, output: Output, data: &[u8]) -> io::Result<()> {
        match self {
            Self::WebSocket(socket, dialect) => {
                let channel = if output == Output::Stdout { STDOUT } else { STDERR };
                socket.send(dialect.message(channel, data)).await.map_err(io::Error::other)
            }
            Self::Spdy(spdy) => {
                let stream = if output == Output::Stdout { &spdy.stdout } else { &spdy.stderr };
                match stream {
                    Some(stream) => stream.write(Bytes::copy_from_slice(data)).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Shows the client that somebody is there while nothing is taken from it. Only WebSockets need
    /// it: clients give up on a peer that never answers.
    pub(super) async fn keep_alive(&mut self) {
        if let Self::WebSocket(socket, _) = self {
            let _ = socket.send(Message::Pong(Bytes::new())).await;
        }
    }

    /// Tells how it ended, and says goodbye. Were the connection dropped with something unread in it,
    /// the client would see it reset and might lose output that is still on its way: so the client has
    /// the last word.
    pub(super) async fn end(mut self, status: Option<Value>) {
        let goodbye = async {
            match &mut self {
                Self::WebSocket(socket, dialect) => {
                    if let Some(text) = status.and_then(|status| closing_words(&status, dialect.status)) {
                        let _ = socket.send(dialect.message(ERROR, text.as_bytes())).await;
                    }
                    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                    if socket.as_mut().close(Some(close)).await.is_ok() {
                        while let Some(Ok(_)) = socket.next().await {}
                    }
                }
                Self::Spdy(spdy) => {
                    for stream in [&spdy.stdout, &spdy.stderr].into_iter().flatten() {
                        let _ = stream.finish().await;
                    }
                    if let Some(text) = status.and_then(|status| closing_words(&status, spdy.status)) {
                        let _ = spdy.error.write(text.into()).await;
                    }
                    let _ = spdy.error.finish().await;
                }
            }
            if let Self::Spdy(spdy) = self {
                spdy.connection.close().await;
            }
        };
        // A peer that says nothing more has had its time.
        let _ = tokio::time::timeout(FAREWELL, goodbye).await;
    }
}

/// How the end is worded: a Status, or for older protocols a text if something failed.
fn closing_words(status: &Value, as_status: bool) -> Option<String> {
    if as_status {
        return Some(status.to_string());
    }
    (status["status"] != "Success").then(|| status["message"].as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_understood_by_their_channel() {
        let plain = Dialect::of("v5.channel.k8s.io");
        let check = |bytes: &[u8], expect| assert_eq!(plain.understand(&Bytes::copy_from_slice(bytes)), expect);
        check(b"\x00hello", Input::Data(Bytes::from_static(b"hello")));
        check(b"\x04{\"Width\":80,\"Height\":24}", Input::Resize(80, 24));
        check(b"\x04junk", Input::Nothing);
        check(b"\xff\x00", Input::Finished);
        check(b"", Input::Nothing);
        let old = Dialect::of("base64.channel.k8s.io");
        assert_eq!(old.understand(&Bytes::from_static(b"0aGVsbG8=")), Input::Data(Bytes::from_static(b"hello")));
        assert_eq!(old.message(STDOUT, b"hello"), Message::Text("1aGVsbG8=".into()));
    }

    #[test]
    fn older_protocols_hear_of_failures_alone() {
        assert_eq!(closing_words(&json!({"status": "Success"}), false), None);
        assert_eq!(closing_words(&json!({"status": "Failure", "message": "m"}), false).as_deref(), Some("m"));
        assert!(closing_words(&json!({"status": "Success"}), true).is_some());
    }
}
