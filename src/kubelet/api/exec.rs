//! `/exec` and `/attach`: a command in a container, or the container's own streams.

use super::peer::{self, Dialect, Input, Output, Peer, Wanted};
use super::query::Query;
use super::upgrade::{self, Pending, Way};
use super::{Body, spdy, text};
use crate::pod::worker::VisibleRun;
use crate::pods::Pods;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use naru_base::spawn;
use naru_runtime::{ExecInput, ExecOutput, ExecSession, ExecSpec};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

const BUFFER: usize = 32 * 1024;
/// How long output may still come after the command has ended: children in the background keep it open.
const LAST_OUTPUT: Duration = Duration::from_millis(500);
/// Pieces of input waiting for the command to read them; the client waits beyond.
const INPUT_QUEUE: usize = 4;
/// How often a client whose input waits is told that somebody is there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

impl Wanted {
    /// What the client asked for, by either spelling.
    fn of(query: &Query) -> Self {
        let on = |ours, theirs| query.is_on(ours) || query.is_on(theirs);
        let tty = query.is_on("tty");
        Self { stdin: on("input", "stdin"), stdout: on("output", "stdout"), stderr: on("error", "stderr") && !tty, tty }
    }
}

fn find(
    pods: &Pods,
    namespace: &str,
    name: &str,
    container: &str,
) -> Result<(Arc<Pod>, VisibleRun), Box<Response<Body>>> {
    let Some((pod, mut visible)) = pods.find(namespace, name) else {
        return Err(Box::new(text(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist"))));
    };
    match visible.runs.remove(container).filter(|run| run.running) {
        Some(run) => Ok((pod, run)),
        None => Err(Box::new(text(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))),
    }
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
    let run = match find(pods, namespace, name, container) {
        Ok((_, run)) => run,
        Err(refusal) => return *refusal,
    };
    let wanted = Wanted::of(query);
    let spec = ExecSpec {
        container: run.id.clone(),
        args: query.all("command"),
        tty: wanted.tty,
        stdin: wanted.stdin,
        ..Default::default()
    };
    if spec.args.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container");
    }
    let (response, pending) = match start(&mut request, wanted) {
        Ok(started) => started,
        Err(refusal) => return *refusal,
    };
    let shared = pods.shared().clone();
    let ending = pods.shutdown().clone();
    spawn("exec", async move {
        let Some(mut peer) = meet(pending, wanted).await else { return };
        let status = match shared.config.runtime.exec(spec).await {
            Ok(session) => match ending.guard(converse(&mut peer, session, wanted)).await {
                Some(status) => status,
                None => Some(failure("the node agent is ending")),
            },
            Err(error) => Some(failure(&error.to_string())),
        };
        peer.end(status).await;
    });
    response
}

/// Answers a request to attach to a container.
pub(super) async fn attach(
    mut request: Request<Incoming>,
    pods: &Pods,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let (pod, run) = match find(pods, namespace, name, container) {
        Ok(found) => found,
        Err(refusal) => return *refusal,
    };
    let wanted = Wanted::of(query);
    let ephemeral = || pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
    let once = crate::pod::plan::containers(&pod).any(|(c, _)| c.name == container && c.stdin_once == Some(true))
        || ephemeral().any(|c| c.name == container && c.stdin_once == Some(true));
    let terminal = crate::pod::plan::containers(&pod).any(|(c, _)| c.name == container && c.tty == Some(true))
        || ephemeral().any(|c| c.name == container && c.tty == Some(true));
    let (response, pending) = match start(&mut request, wanted) {
        Ok(started) => started,
        Err(refusal) => return *refusal,
    };
    let shared = pods.shared().clone();
    let ending = pods.shutdown().clone();
    spawn("attach", async move {
        let Some(mut peer) = meet(pending, wanted).await else { return };
        let runtime = &shared.config.runtime;
        let status = match runtime.attach(&run.id).await {
            Ok(session) => {
                let had_input = session.stdin.is_some() && wanted.stdin;
                let closing = async {
                    // The input ends for the container with the first who wrote to it.
                    if once
                        && had_input
                        && let Err(error) = runtime.close_stdin(&run.id).await
                    {
                        tracing::debug!(container = run.id, %error, "standard input not closed");
                    }
                    // Who has nothing more to say leaves a container that goes on waiting for others; where the input
                    // has ended for good, the output is still awaited.
                    had_input && (terminal || !once)
                };
                let status = ending.guard(attached(&mut peer, session, wanted, closing)).await;
                status.unwrap_or_else(|| Some(failure("the node agent is ending")))
            }
            Err(error) => Some(failure(&error.to_string())),
        };
        peer.end(status).await;
    });
    response
}

/// Chooses the protocol.
fn start(request: &mut Request<Incoming>, wanted: Wanted) -> Result<(Response<Body>, Pending), Box<Response<Body>>> {
    if !wanted.stdin && !wanted.stdout && !wanted.stderr {
        return Err(Box::new(text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr")));
    }
    upgrade::accept(request, &peer::WEBSOCKET, peer::UNNAMED, &peer::SPDY)
}

/// The client on its upgraded connection.
async fn meet(pending: Pending, wanted: Wanted) -> Option<Peer> {
    let met = match pending.way {
        Way::WebSocket(protocol) => match pending.socket().await {
            Ok(socket) => Ok(Peer::WebSocket(Box::new(socket), Dialect::of(protocol))),
            Err(error) => Err(error.to_string()),
        },
        Way::Spdy(protocol) => match pending.bytes().await {
            Ok(bytes) => {
                let opened = async { peer::Spdy::open(spdy::Connection::new(bytes)?, wanted, protocol).await };
                opened.await.map(|spdy| Peer::Spdy(Box::new(spdy))).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        },
    };
    met.inspect_err(|error| tracing::debug!(error, "connection not upgraded")).ok()
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

/// Writes what comes through the queue, from a task of its own: a command that reads slowly must not
/// keep its output from being carried. The input ends with the queue's senders, and then `over` does.
fn feed(mut stdin: ExecInput, over: mpsc::Sender<()>) -> mpsc::Sender<Bytes> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(INPUT_QUEUE);
    spawn("exec-input", async move {
        while let Some(data) = receiver.recv().await {
            if stdin.write_all(&data).await.is_err() {
                // The command has closed its input.
                break;
            }
        }
        drop(stdin);
        drop(over);
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

/// As [`converse`], for a container's own streams. `closing` runs once the client's input has been
/// written, or the client has gone, and says whether the conversation ends with it.
async fn attached(
    peer: &mut Peer,
    mut session: ExecSession,
    wanted: Wanted,
    closing: impl Future<Output = bool>,
) -> Option<Value> {
    let (over, mut written) = mpsc::channel::<()>(1);
    let closed = async {
        written.recv().await;
        if !closing.await {
            // The conversation ends by its output, not by its input.
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(closed);
    if !wanted.stdin {
        session.stdin = None;
    }
    let status = tokio::select! {
        status = carry(peer, session, wanted, over) => status,
        () = &mut closed => return Some(outcome(0)),
    };
    // Input that the container does not read must not keep this waiting.
    let _ = tokio::time::timeout(LAST_OUTPUT, closed).await;
    status
}

/// Carries bytes both ways until the command has ended; `None` if the client went away first.
async fn converse(peer: &mut Peer, session: ExecSession, wanted: Wanted) -> Option<Value> {
    carry(peer, session, wanted, mpsc::channel(1).0).await
}

async fn carry(peer: &mut Peer, mut session: ExecSession, wanted: Wanted, over: mpsc::Sender<()>) -> Option<Value> {
    let mut stdin = session.stdin.take().map(|stdin| feed(stdin, over));
    let mut stdout = session.stdout.take().filter(|_| wanted.stdout || wanted.tty);
    let mut stderr = session.stderr.take().filter(|_| wanted.stderr);
    // Nothing more is taken from the client while a piece waits for room.
    let mut waiting = None;
    let (mut out_buffer, mut err_buffer) = (vec![0; BUFFER], vec![0; BUFFER]);
    let mut result = None;
    loop {
        let ended = result.is_some();
        if (ended || session.is_attached()) && stdout.is_none() && stderr.is_none() {
            break;
        }
        tokio::select! {
            read = read(&mut stdout, &mut out_buffer) => {
                if read > 0 && peer.send(Output::Stdout, &out_buffer[..read]).await.is_err() {
                    break;
                }
            }
            read = read(&mut stderr, &mut err_buffer) => {
                if read > 0 && peer.send(Output::Stderr, &err_buffer[..read]).await.is_err() {
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
            () = tokio::time::sleep(KEEP_ALIVE), if waiting.is_some() => peer.keep_alive().await,
            input = peer.next(), if waiting.is_none() => match input {
                Input::Data(data) => waiting = Some(data),
                Input::Resize(width, height) => session.resize(width, height),
                Input::Finished => stdin = None,
                Input::Nothing => {}
                Input::Gone => {
                    session.kill().await;
                    return None;
                }
            },
        }
    }
    Some(result.unwrap_or_else(|| outcome(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_travel_as_causes() {
        let status = outcome(3);
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(outcome(0)["status"], "Success");
    }

    #[test]
    fn streams_are_named_in_two_ways() {
        let wanted = Wanted::of(&Query::parse("input=1&output=1&error=1&tty=1"));
        assert!(wanted.stdin && wanted.stdout && !wanted.stderr && wanted.tty, "a terminal has one output");
        let wanted = Wanted::of(&Query::parse("stdout=true&stderr=true"));
        assert!(!wanted.stdin && wanted.stdout && wanted.stderr);
    }
}
