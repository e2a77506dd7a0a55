//! `/exec`: runs a command in a container over a WebSocket (v5 and v4 of the channel protocol).

use super::query::Query;
use super::{Body, text};
use crate::pods::Pods;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use naru_base::spawn;
use naru_runtime::{ExecInput, ExecOutput, ExecSession, ExecSpec};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Message, protocol::WebSocketConfig};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Largest message taken from a client.
const MESSAGE_LIMIT: usize = 1 << 20;
const BUFFER: usize = 32 * 1024;
/// How long output may still come after the command has ended: children in the background keep it open.
const LAST_OUTPUT: Duration = Duration::from_millis(500);
/// Pieces of input waiting for the command to read them; the client waits beyond.
const INPUT_QUEUE: usize = 4;
/// How long the peer may take to answer the end of the conversation.
const FAREWELL: Duration = Duration::from_secs(5);

/// Versions of the protocol, the better one first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

fn choose_protocol(offered: &str) -> Option<&'static str> {
    let offered: Vec<&str> = offered.split(',').map(str::trim).collect();
    PROTOCOLS.into_iter().find(|p| offered.contains(p))
}

/// Answers a request to run a command.
pub(super) async fn serve(
    mut request: Request<Incoming>,
    pods: &Pods,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let Some((_, visible)) = pods.find(namespace, name) else {
        return text(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist"));
    };
    let Some(run) = visible.runs.get(container).filter(|run| run.running) else {
        return text(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")"));
    };
    let spec = ExecSpec {
        container: run.id.clone(),
        args: query.all("command"),
        tty: query.is_on("tty"),
        stdin: query.is_on("stdin") || query.is_on("input"),
        ..Default::default()
    };
    if spec.args.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container");
    }
    let header = |name| request.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
    if !header(UPGRADE).eq_ignore_ascii_case("websocket") {
        return text(StatusCode::BAD_REQUEST, "unable to upgrade: only WebSocket is supported");
    }
    let Some(protocol) = choose_protocol(header(SEC_WEBSOCKET_PROTOCOL)) else {
        return text(
            StatusCode::BAD_REQUEST,
            format!("unable to upgrade: no common protocol, need one of {PROTOCOLS:?}"),
        );
    };
    let accept = derive_accept_key(header(SEC_WEBSOCKET_KEY).as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    let runtime = pods.shared().config.runtime.clone();
    spawn("exec", async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%error, "exec not upgraded"),
        };
        let config =
            WebSocketConfig::default().max_message_size(Some(MESSAGE_LIMIT)).max_frame_size(Some(MESSAGE_LIMIT));
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let status = match runtime.exec(spec).await {
            Ok(session) => converse(&mut socket, session).await,
            Err(error) => Some(failure(&error.to_string())),
        };
        if let Some(status) = status {
            let _ = socket.send(frame(ERROR, status.to_string().as_bytes())).await;
        }
        farewell(&mut socket).await;
    });
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

fn frame(channel: u8, data: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(data.len() + 1);
    bytes.put_u8(channel);
    bytes.put_slice(data);
    Message::Binary(bytes.freeze())
}

/// What the client is told at the end.
fn outcome(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: command terminated with exit code {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn failure(message: &str) -> Value {
    json!({
        "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": format!("Internal error occurred: {message}"),
        "details": {"causes": [{"message": message}]},
    })
}

/// What a message from the client means.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    Data(Bytes),
    Resize(u16, u16),
    Finished,
    Nothing,
}

fn understand(message: &Bytes) -> Input {
    match message.first() {
        Some(&STDIN) => Input::Data(message.slice(1..)),
        Some(&CLOSE) if message.get(1) == Some(&STDIN) => Input::Finished,
        Some(&RESIZE) => {
            let size = serde_json::from_slice::<Value>(&message[1..]).unwrap_or_default();
            let side = |name: &str| size.get(name).and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok());
            match (side("Width"), side("Height")) {
                (Some(width), Some(height)) => Input::Resize(width, height),
                _ => Input::Nothing,
            }
        }
        _ => Input::Nothing,
    }
}

/// Reads from a stream that may have ended; waits for ever if it has.
async fn read(stream: &mut Option<ExecOutput>, buffer: &mut [u8]) -> usize {
    let Some(open) = stream else { return std::future::pending().await };
    match open.read(buffer).await {
        Ok(0) | Err(_) => {
            // A terminal whose last user is gone reads as an error.
            *stream = None;
            0
        }
        Ok(read) => read,
    }
}

/// Ends the conversation. Were the connection dropped with something unread in it, the peer would see
/// it reset and might lose output that is still on its way: so the peer has the last word.
async fn farewell<S>(socket: &mut WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let goodbye = async {
        if socket.close(Some(close)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    // A peer that says nothing more has had its time.
    let _ = tokio::time::timeout(FAREWELL, goodbye).await;
}

/// Writes what comes through the queue, from a task of its own: a command that reads slowly must not
/// keep its output from being carried. The input ends with the queue's senders.
fn feed(mut stdin: ExecInput) -> mpsc::Sender<Bytes> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(INPUT_QUEUE);
    spawn("exec-input", async move {
        while let Some(data) = receiver.recv().await {
            if stdin.write_all(&data).await.is_err() {
                // The command has closed its input.
                break;
            }
        }
    });
    sender
}

/// Puts a piece of input into the queue once there is room; waits for ever if there is nothing to put.
async fn put(stdin: &mut Option<mpsc::Sender<Bytes>>, waiting: &mut Option<Bytes>) {
    let Some(data) = waiting.clone() else { return std::future::pending().await };
    if let Some(open) = stdin
        && open.send(data).await.is_err()
    {
        *stdin = None;
    }
    *waiting = None;
}

/// Carries bytes both ways until the command has ended; `None` if the client went away first.
async fn converse<S>(socket: &mut WebSocketStream<S>, mut session: ExecSession) -> Option<Value>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut stdin = session.stdin.take().map(feed);
    let (mut stdout, mut stderr) = (session.stdout.take(), session.stderr.take());
    // Nothing more is taken from the client while a piece waits for room.
    let mut waiting = None;
    let (mut out_buffer, mut err_buffer) = (vec![0; BUFFER], vec![0; BUFFER]);
    let mut result = None;
    loop {
        let ended = result.is_some();
        if ended && stdout.is_none() && stderr.is_none() {
            break;
        }
        tokio::select! {
            read = read(&mut stdout, &mut out_buffer) => {
                if read > 0 && socket.send(frame(STDOUT, &out_buffer[..read])).await.is_err() {
                    break;
                }
            }
            read = read(&mut stderr, &mut err_buffer) => {
                if read > 0 && socket.send(frame(STDERR, &err_buffer[..read])).await.is_err() {
                    break;
                }
            }
            code = session.wait(), if !ended => {
                result = Some(match code {
                    Ok(code) => outcome(code),
                    Err(error) => failure(&error.to_string()),
                });
            }
            () = tokio::time::sleep(LAST_OUTPUT), if ended => break,
            () = put(&mut stdin, &mut waiting) => {}
            message = socket.next(), if waiting.is_none() => match message {
                Some(Ok(Message::Binary(data))) => match understand(&data) {
                    Input::Data(data) => waiting = Some(data),
                    Input::Resize(width, height) => session.resize(width, height),
                    Input::Finished => stdin = None,
                    Input::Nothing => {}
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    session.kill().await;
                    return None;
                }
                Some(Ok(_)) => {}
            },
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_protocol_is_chosen() {
        assert_eq!(choose_protocol("v4.channel.k8s.io, v5.channel.k8s.io"), Some("v5.channel.k8s.io"));
        assert_eq!(choose_protocol("v4.channel.k8s.io"), Some("v4.channel.k8s.io"));
        assert_eq!(choose_protocol("channel.k8s.io"), None);
    }

    #[test]
    fn messages_are_understood_by_their_channel() {
        let check = |bytes: &[u8], expect| assert_eq!(understand(&Bytes::copy_from_slice(bytes)), expect);
        check(b"\x00hello", Input::Data(Bytes::from_static(b"hello")));
        check(b"\x04{\"Width\":80,\"Height\":24}", Input::Resize(80, 24));
        check(b"\x04junk", Input::Nothing);
        check(b"\xff\x00", Input::Finished);
        check(b"", Input::Nothing);
    }

    #[test]
    fn exit_codes_travel_as_causes() {
        let status = outcome(3);
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(outcome(0)["status"], "Success");
    }
}
