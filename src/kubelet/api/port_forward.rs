//! `/portForward`: connections to ports of a pod, by SPDY streams, by SPDY inside a WebSocket, or by
//! the channels of a WebSocket.

use super::peer::Dialect;
use super::query::Query;
use super::spdy::{Connection, Read, Stream};
use super::upgrade::{self, Socket, Way};
use super::{Body, text};
use crate::pods::Pods;
use crate::shared::Shared;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use naru_base::spawn;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

const SPDY: [&str; 1] = ["portforward.k8s.io"];
/// What a WebSocket speaks that names no protocol.
const UNNAMED: &str = "v4.channel.k8s.io";
const WEBSOCKET: [&str; 4] =
    ["SPDY/3.1+v2.portforward.k8s.io", "SPDY/3.1+portforward.k8s.io", UNNAMED, "v4.base64.channel.k8s.io"];
const BUFFER: usize = 32 * 1024;
/// How long the second stream of a pair may take.
const PAIR: Duration = Duration::from_secs(30);
/// How long a connection on which nothing is forwarded is kept, as upstream's streaming timeout.
const FAREWELL: Duration = Duration::from_secs(5);
/// Ports in one request.
const MAX_PORTS: usize = 64;
/// Pieces for one port waiting to be written.
const QUEUE: usize = 4;

/// Where connections go.
#[derive(Debug, Clone)]
struct Target {
    shared: Arc<Shared>,
    sandbox: String,
}

impl Target {
    async fn dial(&self, port: u16) -> Result<TcpStream, String> {
        let failed = |error| format!("error forwarding port {port} to pod {}, uid : {error}", self.sandbox);
        self.shared.config.runtime.dial(&self.sandbox, port).await.map_err(failed)
    }
}

/// Answers a request to forward ports.
pub(super) async fn serve(
    mut request: Request<Incoming>,
    pods: &Pods,
    namespace: &str,
    name: &str,
    query: &Query,
) -> Response<Body> {
    let Some((_, visible)) = pods.find(namespace, name) else {
        return text(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist"));
    };
    let Some(sandbox) = visible.sandbox else {
        return text(StatusCode::NOT_FOUND, format!("pod {name:?} has no sandbox yet"));
    };
    let ports: Result<Vec<u16>, _> =
        query.all("port").iter().chain(&query.all("ports")).flat_map(|list| list.split(',')).map(str::parse).collect();
    let (response, pending) = match upgrade::accept(&mut request, &WEBSOCKET, UNNAMED, &SPDY) {
        Ok(accepted) => accepted,
        Err(refusal) => return *refusal,
    };
    let dialect = match pending.way {
        Way::WebSocket(protocol) if !protocol.starts_with("SPDY/") => Some(Dialect::of(protocol)),
        _ => None,
    };
    let ports = match (dialect, ports) {
        (None, _) => Vec::new(),
        (Some(_), Ok(ports)) if !ports.is_empty() && ports.len() <= MAX_PORTS => ports,
        _ => {
            return text(StatusCode::BAD_REQUEST, "query parameter \"port\" must name ports from 1 to 65535");
        }
    };
    let target = Target { shared: pods.shared().clone(), sandbox };
    let ending = pods.shutdown().clone();
    spawn("port-forward", async move {
        let work = async {
            match (pending.way, dialect) {
                (Way::Spdy(_), _) => forward(Connection::new(pending.bytes().await.map_err(other)?)?, &target).await,
                (Way::WebSocket(_), Some(dialect)) => {
                    channels(pending.socket().await.map_err(other)?, dialect, &ports, &target).await;
                }
                (Way::WebSocket(_), None) => {
                    let tunnel = tunnel(pending.socket().await.map_err(other)?);
                    forward(Connection::new(tunnel)?, &target).await;
                }
            }
            std::io::Result::Ok(())
        };
        if let Some(Err(error)) = ending.guard(work).await {
            tracing::debug!(%error, "port-forward ended");
        }
    });
    response
}

fn other(error: hyper::Error) -> std::io::Error {
    std::io::Error::other(error)
}

/// A WebSocket's messages as a stream of bytes.
fn tunnel(mut socket: Socket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(2 * BUFFER);
    spawn("tunnel", async move {
        let (mut reader, mut writer) = tokio::io::split(ours);
        let mut buffer = vec![0; BUFFER];
        let (mut sink, mut source) = {
            let (sink, source) = (&mut socket).split();
            (sink, source)
        };
        let inward = async {
            while let Some(Ok(message)) = source.next().await {
                match message {
                    Message::Binary(bytes) if writer.write_all(&bytes).await.is_err() => return,
                    Message::Close(_) => return,
                    _ => {}
                }
            }
        };
        let outward = async {
            loop {
                match reader.read(&mut buffer).await {
                    Ok(count) if count > 0 => {
                        if sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                            return;
                        }
                    }
                    _ => return,
                }
            }
        };
        tokio::select! { () = inward => {}, () = outward => {} }
        drop((sink, source));
        let _ = tokio::time::timeout(FAREWELL, socket.close(None)).await;
    });
    theirs
}

/// Takes pairs of streams, one for errors and one for data, and connects each pair.
async fn forward(mut connection: Connection, target: &Target) {
    let mut waiting: HashMap<String, (Stream, tokio::time::Instant)> = HashMap::new();
    while let Some(stream) = connection.accept().await {
        waiting.retain(|_, (_, since)| since.elapsed() < PAIR);
        let request = stream.header("requestid").to_owned();
        let Some((first, _)) = waiting.remove(&request) else {
            waiting.insert(request, (stream, tokio::time::Instant::now()));
            continue;
        };
        let (error, data) = match (first.header("streamtype"), stream.header("streamtype")) {
            ("error", "data") => (first, stream),
            ("data", "error") => (stream, first),
            _ => {
                let _ = first.writer().reset().await;
                let _ = stream.writer().reset().await;
                continue;
            }
        };
        let target = target.clone();
        spawn("forwarded", async move { pair(error, data, &target).await });
    }
}

/// One forwarded connection.
async fn pair(error: Stream, data: Stream, target: &Target) {
    let connected = match data.header("port").parse::<u16>() {
        Ok(port) if port > 0 => target.dial(port).await,
        _ => Err(format!("{:?} is not a port", data.header("port"))),
    };
    let writer = data.writer();
    match connected {
        Ok(stream) => {
            join(stream, data).await;
            let _ = writer.finish().await;
        }
        Err(text) => {
            let _ = error.writer().write(text.into()).await;
            let _ = writer.finish().await;
        }
    }
    // The client waits for this one's end before it takes the connection for over.
    let _ = error.writer().finish().await;
}

/// Carries bytes both ways until both have ended, or the client has given up.
async fn join(stream: TcpStream, mut data: Stream) {
    let (mut from_pod, mut to_pod) = stream.into_split();
    let writer = data.writer();
    let inward = async {
        loop {
            match data.read().await {
                Read::Data(bytes) if to_pod.write_all(&bytes).await.is_err() => return true,
                Read::Data(_) => {}
                Read::Finished => {
                    let _ = to_pod.shutdown().await;
                    return true;
                }
                Read::Gone => return false,
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(count) = from_pod.read(&mut buffer).await {
            if count == 0 || writer.write(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                break;
            }
        }
        let _ = writer.finish().await;
    };
    tokio::pin!(inward, outward);
    tokio::select! {
        // The client has nothing more to say; the pod may.
        true = &mut inward => outward.await,
        () = &mut outward => {}
        else => {}
    }
}

/// The older way: for each port a channel of data and one of errors, numbered in the order of the ports.
async fn channels(mut socket: Socket, dialect: Dialect, ports: &[u16], target: &Target) {
    let (out, mut frames) = mpsc::channel::<(u8, Bytes)>(QUEUE);
    let mut inputs: Vec<mpsc::Sender<Bytes>> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let (sender, receiver) = mpsc::channel(QUEUE);
        inputs.push(sender);
        let (out, target, port) = (out.clone(), target.clone(), *port);
        spawn("forwarded", async move { channel(index as u8 * 2, port, receiver, out, &target).await });
    }
    drop(out);
    loop {
        tokio::select! {
            frame = frames.recv() => match frame {
                Some((channel, data)) => if socket.send(dialect.message(channel, &data)).await.is_err() { return },
                None => break,
            },
            message = socket.next() => {
                let opened = match message {
                    Some(Ok(Message::Binary(data))) => dialect.open(&data),
                    Some(Ok(Message::Text(text))) => dialect.open(&text.into()),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => None,
                };
                let Some((channel, data)) = opened.filter(|(channel, _)| channel % 2 == 0) else { continue };
                if let Some(input) = inputs.get(usize::from(channel / 2)) {
                    // A port that has closed swallows what comes.
                    let _ = input.send(data).await;
                }
            }
        }
    }
    let _ = tokio::time::timeout(FAREWELL, socket.close(None)).await;
}

/// One port of [`channels`].
async fn channel(
    number: u8,
    port: u16,
    mut input: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<(u8, Bytes)>,
    target: &Target,
) {
    let send = |channel: u8, data: &[u8]| out.send((channel, Bytes::copy_from_slice(data)));
    // Each channel begins by naming its port.
    for channel in [number, number + 1] {
        if send(channel, &port.to_le_bytes()).await.is_err() {
            return;
        }
    }
    let stream = match target.dial(port).await {
        Ok(stream) => stream,
        Err(text) => {
            let _ = send(number + 1, text.as_bytes()).await;
            return;
        }
    };
    let (mut from_pod, mut to_pod) = stream.into_split();
    let inward = copy_in(&mut input, &mut to_pod);
    let outward = async {
        let mut buffer = vec![0; BUFFER];
        while let Some(count) = read_some(&mut from_pod, &mut buffer).await {
            if send(number, &buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! { () = inward => {}, () = outward => {} }
}

async fn copy_in<W: AsyncWrite + Unpin>(input: &mut mpsc::Receiver<Bytes>, to_pod: &mut W) {
    while let Some(data) = input.recv().await {
        if to_pod.write_all(&data).await.is_err() {
            return;
        }
    }
}

async fn read_some<R: AsyncRead + Unpin>(reader: &mut R, buffer: &mut [u8]) -> Option<usize> {
    reader.read(buffer).await.ok().filter(|count| *count > 0)
}
