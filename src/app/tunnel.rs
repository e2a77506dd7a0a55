//! The server's way to nodes it cannot dial, behind a router or a firewall: each agent keeps one connection to the
//! server's port, over which the server opens streams (HTTP/2, whose client is the server, by CONNECT).

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use naru_apiserver::{Destination, Dialer, Direct, Stream};
use naru_base::{Backoff, Shutdown, spawn};
use naru_client::https::{HttpTransport, Server, Servers};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpStream;

/// Where agents connect.
pub(crate) const PATH: &str = "/naru/v1/tunnel";
/// What the connection is upgraded to.
const PROTOCOL: &str = "naru-tunnel";
/// Streams at the same time through one tunnel.
const MAX_STREAMS: u32 = 1000;
/// How soon a dead connection is noticed.
const PING: Duration = Duration::from_secs(30);
/// How long the agent may take to reach what is asked for.
const DIAL: Duration = Duration::from_secs(10);

/// Tunnels of one node: it may reach this server by several addresses.
const MAX_EACH: usize = 4;

type Sender = SendRequest<Empty<Bytes>>;

/// The tunnels that are open, by node. Nodes without one are dialled directly.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tunnels {
    /// What only nodes can reach, as `10.43.0.0/16`: any of them will do.
    behind_nodes: Arc<[String]>,
    /// Leaf lock.
    open: Arc<RwLock<HashMap<String, VecDeque<Sender>>>>,
}

impl Tunnels {
    /// Those of a server that is no node itself: it has no way to pods and Services of its own.
    pub(crate) fn of_no_node(ranges: &[&str]) -> Self {
        Self { behind_nodes: ranges.iter().map(ToString::to_string).collect(), ..Self::default() }
    }

    /// The answer to an agent that wants to open a tunnel; the connection becomes one once that is sent.
    pub(crate) fn accept(&self, node: String, upgrade: OnUpgrade) -> Response<Bytes> {
        let open = self.clone();
        spawn("tunnel", async move {
            match upgrade.await {
                Ok(upgraded) => open.run(node, upgraded).await,
                Err(error) => tracing::debug!(%error, "a tunnel was not opened"),
            }
        });
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
        response
    }

    async fn run<T>(&self, node: String, upgraded: T)
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true)
            .handshake(upgraded);
        let (sender, connection) = match handshake.await {
            Ok(made) => made,
            Err(error) => return tracing::debug!(%error, node, "a tunnel was not opened"),
        };
        {
            // The newest goes first: an older one may be dead without having been noticed.
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            let of_node = open.entry(node.clone()).or_default();
            of_node.retain(|sender| !sender.is_closed());
            of_node.push_front(sender);
            of_node.truncate(MAX_EACH);
        }
        tracing::debug!(node, "tunnel open");
        if let Err(error) = connection.await {
            tracing::debug!(%error, node, "tunnel ended");
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_node) = open.get_mut(&node) {
            of_node.retain(|sender| !sender.is_closed());
            if of_node.is_empty() {
                open.remove(&node);
            }
        }
    }

    fn to(&self, node: &str) -> Option<Sender> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(node)?.iter().find(|sender| !sender.is_closed()).cloned()
    }

    /// A tunnel to what is behind all nodes.
    fn to_any(&self, address: IpAddr) -> Option<Sender> {
        if !self.behind_nodes.iter().any(|range| crate::host::in_range(range, address)) {
            return None;
        }
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.values().flatten().find(|sender| !sender.is_closed()).cloned()
    }
}

impl Dialer for Tunnels {
    fn dial(&self, to: Destination) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let of_node = to.node.as_deref().and_then(|node| self.to(node));
        match of_node.or_else(|| self.to_any(to.address)) {
            Some(sender) => Box::pin(through(sender, SocketAddr::new(to.address, to.port))),
            None => Direct.dial(to),
        }
    }
}

async fn through(mut sender: Sender, to: SocketAddr) -> io::Result<Box<dyn Stream>> {
    let uri = Uri::builder().authority(to.to_string()).build().map_err(io::Error::other)?;
    let request = Request::builder().method(Method::CONNECT).uri(uri).body(Empty::new()).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::GATEWAY_TIMEOUT => return Err(io::ErrorKind::TimedOut.into()),
        StatusCode::FORBIDDEN => return Err(io::Error::other("the node does not pass this address on")),
        _ => return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connect: connection refused")),
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
    Ok(Box::new(TokioIo::new(upgraded)))
}

/// Which addresses an agent passes on: its own, and those of pods and Services.
#[derive(Debug, Clone)]
pub(crate) struct Reachable {
    /// The node's own addresses, as they are now.
    pub(crate) node: tokio::sync::watch::Receiver<Vec<IpAddr>>,
    /// Ranges, as `10.42.0.0/16`.
    pub(crate) ranges: Vec<String>,
}

impl Reachable {
    fn contains(&self, address: IpAddr) -> bool {
        self.node.borrow().contains(&address) || self.ranges.iter().any(|range| crate::host::in_range(range, address))
    }
}

/// The agent's side: keeps a tunnel open to each server until the shutdown, since each dials for itself.
pub(crate) fn keep(transport: Arc<HttpTransport>, servers: &Servers, reachable: Reachable, shutdown: &Shutdown) {
    let (shutdown, mut known, mut addresses) = (shutdown.clone(), servers.known(), reachable.node.clone());
    spawn("tunnels", async move {
        let keep = async {
            let mut open: HashMap<String, Shutdown> = HashMap::new();
            loop {
                let servers = known.borrow_and_update().clone();
                open.retain(|name, stop| {
                    let kept = servers.iter().any(|server| server.to_string() == *name);
                    if !kept {
                        stop.trigger();
                    }
                    kept
                });
                for server in servers.iter() {
                    open.entry(server.to_string()).or_insert_with(|| {
                        let stop = shutdown.child();
                        let (transport, reachable, ended) = (transport.clone(), reachable.clone(), stop.clone());
                        let server = server.clone();
                        spawn("tunnel", async move { ended.guard(keep_to(&transport, &server, &reachable)).await });
                        stop
                    });
                }
                tokio::select! {
                    Ok(()) = known.changed() => {}
                    // Made from an address that this machine has no more, they are of no use.
                    Ok(()) = addresses.changed() => open.drain().for_each(|(_, stop)| stop.trigger()),
                    else => std::future::pending().await,
                }
            }
        };
        shutdown.guard(keep).await;
    });
}

async fn keep_to(transport: &HttpTransport, server: &Server, reachable: &Reachable) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    loop {
        match open(transport, server).await {
            Ok(upgraded) => {
                backoff.reset();
                serve(upgraded, reachable).await;
            }
            Err(error) => tracing::debug!("no tunnel to {server}, trying again: {error:#}"),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn open(transport: &HttpTransport, server: &Server) -> Result<Upgraded> {
    let dialled = transport.dial_http1_to(server).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(dialled.stream)).await?;
    spawn("tunnel-connection", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "the tunnel's connection ended");
        }
    });
    let mut request = Request::builder()
        .uri(format!("{}{PATH}", dialled.prefix))
        .header(HOST, dialled.authority)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, PROTOCOL)
        .body(Empty::<Bytes>::new())?;
    if let Some(authorization) = dialled.authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization);
    }
    let response = sender.send_request(request).await.context("no answer")?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        bail!("the server answered {}", response.status());
    }
    Ok(hyper::upgrade::on(response).await?)
}

async fn serve<T>(upgraded: T, reachable: &Reachable)
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let reachable = reachable.clone();
        async move { Ok::<_, Infallible>(connect(request, &reachable).await) }
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .serve_connection(upgraded, service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "the tunnel ended");
    }
}

/// Opens one stream.
async fn connect(mut request: Request<Incoming>, reachable: &Reachable) -> Response<Empty<Bytes>> {
    let answer = |status: StatusCode| {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = status;
        response
    };
    let to = request.uri().authority().and_then(|authority| authority.as_str().parse::<SocketAddr>().ok());
    let Some(to) = to.filter(|to| request.method() == Method::CONNECT && reachable.contains(to.ip())) else {
        return answer(StatusCode::FORBIDDEN);
    };
    let mut target = match tokio::time::timeout(DIAL, TcpStream::connect(to)).await {
        Ok(Ok(target)) => target,
        Ok(Err(_)) => return answer(StatusCode::BAD_GATEWAY),
        Err(_) => return answer(StatusCode::GATEWAY_TIMEOUT),
    };
    let _ = target.set_nodelay(true);
    let upgrade = hyper::upgrade::on(&mut request);
    spawn("tunnel-stream", async move {
        let Ok(upgraded) = upgrade.await else { return };
        // Either side may end it; there is nobody to tell.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut target).await;
    });
    answer(StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A node with a tunnel, which passes on addresses of these ranges.
    fn join(tunnels: &Tunnels, node: &str, ranges: &[&str]) {
        let (of_server, of_agent) = tokio::io::duplex(1 << 16);
        let (_, own) = tokio::sync::watch::channel(Vec::new());
        let reachable = Reachable { node: own, ranges: ranges.iter().map(ToString::to_string).collect() };
        let (tunnels, node) = (tunnels.clone(), node.to_owned());
        spawn("test-agent", async move { serve(TokioIo::new(of_agent), &reachable).await });
        spawn("test-server", async move { tunnels.run(node, TokioIo::new(of_server)).await });
    }

    async fn open(tunnels: &Tunnels, node: &str) {
        while tunnels.to(node).is_none() {
            tokio::task::yield_now().await;
        }
    }

    /// What is said by the one who listens at an address.
    async fn dial(tunnels: &Tunnels, node: Option<&str>, to: SocketAddr) -> io::Result<String> {
        let to = Destination { node: node.map(str::to_owned), address: to.ip(), port: to.port() };
        let mut stream = tunnels.dial(to).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        Ok(said)
    }

    #[tokio::test]
    async fn a_server_that_is_no_node_reaches_services_through_one() -> Result<()> {
        let service = TcpListener::bind("127.0.0.7:0").await?;
        let address = service.local_addr()?;
        spawn("test-service", async move {
            while let Ok((mut stream, _)) = service.accept().await {
                let _ = stream.write_all(b"hello").await;
            }
        });
        let tunnels = Tunnels::of_no_node(&["127.0.0.0/29", "fd00::/112"]);
        assert_eq!(dial(&tunnels, None, address).await?, "hello", "without any tunnel directly");
        join(&tunnels, "strict", &["192.0.2.0/24"]);
        open(&tunnels, "strict").await;
        for node in [None, Some("strict"), Some("without-tunnel")] {
            let refused = dial(&tunnels, node, address).await.map(drop).map_err(|error| error.to_string());
            let why = "the node does not pass this address on".to_owned();
            assert_eq!(refused, Err(why), "{node:?}: it goes through the tunnel");
        }
        let (no_node, node) = (Tunnels::of_no_node(&["127.0.0.0/29"]), Tunnels::default());
        for tunnels in [&no_node, &node] {
            join(tunnels, "b", &["127.0.0.0/29"]);
            open(tunnels, "b").await;
            assert_eq!(dial(tunnels, None, address).await?, "hello");
        }
        Ok(())
    }
}
