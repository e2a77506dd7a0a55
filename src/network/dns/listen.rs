//! The sockets: datagrams, streams, and metrics.

use super::metrics::Exchange;
use super::resolver::{Resolver, Step, datagram};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use naru_base::{Shutdown, spawn};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Port of the metrics, as CoreDNS'.
const METRICS_PORT: u16 = 9153;
/// Streams open at the same time, per address.
const MAX_STREAMS: usize = 256;
/// Datagrams that wait for other resolvers at the same time, per address.
const MAX_WAITING: usize = 1000;
/// Scrapers served at once.
const MAX_SCRAPERS: usize = 4;
/// How long a stream may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// Longest question taken.
const MAX_QUESTION: usize = 4096;
/// Datagrams answered before other tasks get their turn.
const BURST: u32 = 64;

/// Sockets of one address, bound but not yet served.
#[derive(Debug)]
pub(super) struct Sockets {
    datagrams: UdpSocket,
    streams: TcpListener,
    metrics: Option<TcpListener>,
}

impl Sockets {
    /// Binds the address. Metrics are left out where their port is taken.
    pub(super) async fn bind(address: IpAddr, port: u16) -> io::Result<Self> {
        let streams = TcpListener::bind((address, port)).await?;
        Ok(Self {
            // Port 0 means any, and the same for both.
            datagrams: UdpSocket::bind((address, streams.local_addr()?.port())).await?,
            streams,
            metrics: TcpListener::bind((address, METRICS_PORT)).await.ok(),
        })
    }

    /// Where datagrams are taken, and streams on the same port.
    pub(super) fn place(&self) -> io::Result<std::net::SocketAddr> {
        self.datagrams.local_addr()
    }

    /// Serves until the shutdown.
    pub(super) fn serve(self, resolver: &Arc<Resolver>, shutdown: &Shutdown) {
        let (of_datagrams, of_streams, stop) = (resolver.clone(), resolver.clone(), shutdown.clone());
        spawn("dns-datagrams", async move { stop.guard(datagrams(self.datagrams, of_datagrams)).await });
        let stop = shutdown.clone();
        spawn("dns-streams", async move { stop.guard(streams(self.streams, of_streams)).await });
        if let Some(listener) = self.metrics {
            let (resolver, stop) = (resolver.clone(), shutdown.clone());
            let page = move |request: &Request<Incoming>| metrics(request, &resolver);
            spawn("dns-metrics", async move { stop.guard(crate::http::serve(listener, MAX_SCRAPERS, page)).await });
        }
    }
}

async fn datagrams(socket: UdpSocket, resolver: Arc<Resolver>) {
    let socket = Arc::new(socket);
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    let mut buffer = vec![0; MAX_QUESTION];
    let mut burst = 0;
    loop {
        burst += 1;
        if burst % BURST == 0 {
            tokio::task::yield_now().await;
        }
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // Unreachable clients are reported here too; the socket stays good.
                tracing::debug!(%error, "a datagram could not be received");
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        let started = Instant::now();
        let Some(question) = buffer.get(..length) else { continue };
        let (step, size) = resolver.begin(question, from.ip());
        let exchange = Exchange { tcp: false, v6: from.is_ipv6(), asked: length, started };
        match step {
            Step::Ignore => {}
            Step::Reply(response) => {
                let about = Exchange::about(&response);
                if let Some(bytes) = datagram(size, *response) {
                    // A full send queue drops; the client asks again.
                    let _ = socket.send_to(&bytes, from).await;
                    resolver.metrics.answered(exchange, about, bytes.len());
                }
            }
            Step::Ask(asking) => {
                // Beyond the bound the client gets nothing and asks again.
                let Ok(permit) = waiting.clone().try_acquire_owned() else { continue };
                let (socket, resolver) = (socket.clone(), resolver.clone());
                spawn("dns-question", async move {
                    let response = resolver.finish(*asking).await;
                    let about = Exchange::about(&response);
                    if let Some(bytes) = datagram(size, response) {
                        let _ = socket.send_to(&bytes, from).await;
                        resolver.metrics.answered(exchange, about, bytes.len());
                    }
                    drop(permit);
                });
            }
        }
    }
}

async fn streams(listener: TcpListener, resolver: Arc<Resolver>) {
    let open = Arc::new(Semaphore::new(MAX_STREAMS));
    loop {
        let Ok(permit) = open.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let resolver = resolver.clone();
                spawn("dns-stream", async move {
                    if let Err(error) = stream_questions(stream, from.ip(), &resolver).await {
                        tracing::debug!(%error, "a stream of questions ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a stream could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn stream_questions(mut stream: TcpStream, from: IpAddr, resolver: &Resolver) -> io::Result<()> {
    let mut buffer = vec![0; MAX_QUESTION];
    loop {
        let length: usize = match tokio::time::timeout(SILENCE, stream.read_u16()).await? {
            Ok(length) => length.into(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(question) = buffer.get_mut(..length) else {
            return Err(io::Error::other("a question that is too long"));
        };
        tokio::time::timeout(SILENCE, stream.read_exact(question)).await??;
        let started = Instant::now();
        let response = match resolver.begin(question, from).0 {
            Step::Ignore => continue,
            Step::Reply(response) => *response,
            Step::Ask(asking) => resolver.finish(*asking).await,
        };
        let bytes = response.to_vec().map_err(io::Error::other)?;
        let exchange = Exchange { tcp: true, v6: from.is_ipv6(), asked: length, started };
        resolver.metrics.answered(exchange, Exchange::about(&response), bytes.len());
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &bytes].concat();
        tokio::time::timeout(SILENCE, stream.write_all(&framed)).await??;
    }
}

/// The page of the metrics.
fn metrics(request: &Request<Incoming>, resolver: &Resolver) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let mut response = Response::new(Full::new(resolver.metrics.render(resolver.remembered()).into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}
