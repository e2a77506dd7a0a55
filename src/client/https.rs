//! Requests over HTTPS: one HTTP/2 connection, dialled again when it breaks.

mod frames;
mod names;
mod servers;
mod tls;

use crate::transport::{Error, Request, Transport, WatchStream, failure_of};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use naru_base::spawn;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::client::TlsStream;

pub use names::resolve;
pub use servers::{Server, Servers};
pub use tls::any_server;

/// How long a connection may take to be made.
const DIAL: Duration = Duration::from_secs(10);
/// The same for each of several servers.
const DIAL_EACH: Duration = Duration::from_secs(5);
/// How long an answer's headers, and then its body, may take.
const ANSWER: Duration = Duration::from_secs(60);
/// The largest answer taken in whole.
const BODY: usize = 512 << 20;
/// Flow-control windows: a stream's, and the whole connection's.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Pings show a dead connection to watches that wait.
const PING: Duration = Duration::from_secs(30);

/// How a client shows who it is.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Not at all.
    #[default]
    Anonymous,
    /// By a client certificate (chain) and its key, as PEM.
    Certificate {
        /// Certificates, the client's own first.
        cert_pem: Vec<u8>,
        /// Private key.
        key_pem: Vec<u8>,
    },
    /// By a bearer token.
    Token(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Certificate { .. } => "Certificate",
            Self::Token(_) => "Token",
        })
    }
}

/// Where the API server is, what it is trusted by, and who asks.
#[derive(Debug, Clone, Default)]
pub struct HttpConfig {
    /// `https://host:port`, the host an address or a name.
    pub server: String,
    /// Certificates that the server's must lead to, as PEM.
    pub ca_pem: Vec<u8>,
    /// The name that the server's certificate must carry, if not the host.
    pub tls_server_name: Option<String>,
    /// Who asks.
    pub credentials: Credentials,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The server's URL is no https URL.
    #[error("server {0:?} is not an https URL")]
    Server(String),
    /// Unreadable PEM.
    #[error("{what}: {detail}")]
    Pem {
        /// Which input.
        what: &'static str,
        /// Why.
        detail: String,
    },
    /// TLS refuses the certificate and key.
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
}

/// The parts of a configuration that are ready for use.
struct Endpoint {
    server: Server,
    authority: String,
    prefix: String,
    /// What the certificate of each server must say, if not its own host.
    name: Option<rustls_pki_types::ServerName<'static>>,
    tls: Arc<rustls::ClientConfig>,
    token: Option<http::HeaderValue>,
}

type Sender = SendRequest<Full<Bytes>>;

/// The transport over HTTPS.
pub struct HttpTransport {
    endpoint: RwLock<Arc<Endpoint>>,
    /// The current connection. Held while dialling, so that one dial serves all who wait.
    connection: Mutex<Option<Connection>>,
    /// Others that will do as well.
    servers: Option<Arc<Servers>>,
    /// Seconds that this machine's clock was ahead of the server's at the last answer.
    ahead: AtomicI64,
}

/// A connection, and the socket by which it is ended with all that is on it.
struct Connection {
    sender: Sender,
    socket: std::net::TcpStream,
}

/// [`HttpTransport::ahead`] before there was an answer.
const UNKNOWN: i64 = i64::MIN;

impl std::fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpTransport").field("server", &self.endpoint().authority).finish()
    }
}

impl HttpTransport {
    /// A transport that dials on its first request.
    pub fn new(config: &HttpConfig) -> Result<Self, ConfigError> {
        Ok(Self::with(Endpoint::new(config)?, None))
    }

    /// A transport that goes to any of the servers, which it shares with others of its process. The one in its
    /// configuration gives requests their host.
    pub fn balanced(config: &HttpConfig, servers: Arc<Servers>) -> Result<Self, ConfigError> {
        Ok(Self::with(Endpoint::new(config)?, Some(servers)))
    }

    fn with(endpoint: Endpoint, servers: Option<Arc<Servers>>) -> Self {
        let endpoint = RwLock::new(Arc::new(endpoint));
        Self { endpoint, connection: Mutex::new(None), servers, ahead: AtomicI64::new(UNKNOWN) }
    }

    /// By how many seconds this machine's clock was ahead of the server's when that answered last; negative: behind.
    pub fn seconds_ahead(&self) -> Option<i64> {
        Some(self.ahead.load(Ordering::Relaxed)).filter(|ahead| *ahead != UNKNOWN)
    }

    fn compare_clocks(&self, headers: &http::HeaderMap) {
        let said = headers.get(http::header::DATE).and_then(|date| date.to_str().ok());
        let Some(said) = said.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else { return };
        let ahead = jiff::Timestamp::now().as_second() - said.timestamp().as_second();
        self.ahead.store(ahead, Ordering::Relaxed);
    }

    /// Uses a new configuration (renewed certificates) from the next request on. Requests under way
    /// end on the old connection.
    pub async fn reload(&self, config: &HttpConfig) -> Result<(), ConfigError> {
        let endpoint = Arc::new(Endpoint::new(config)?);
        *self.endpoint.write().unwrap_or_else(PoisonError::into_inner) = endpoint;
        *self.connection.lock().await = None;
        Ok(())
    }

    /// Ends the connection with all that is on it: this machine's address, from which it was made, is another one now,
    /// and nobody would notice for a while.
    pub async fn disconnect(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            // One that has ended already is what is wanted.
            let _ = connection.socket.shutdown(std::net::Shutdown::Both);
        }
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        self.endpoint.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A TLS connection of its own that speaks HTTP/1.1, for protocol upgrades (exec). Gives also the
    /// authority and the Authorization header to use on it.
    pub async fn dial_http1(&self) -> Result<Upgradable, Error> {
        self.upgradable(None).await
    }

    /// The same to one of several servers.
    pub async fn dial_http1_to(&self, server: &Server) -> Result<Upgradable, Error> {
        self.upgradable(Some(server)).await
    }

    async fn upgradable(&self, server: Option<&Server>) -> Result<Upgradable, Error> {
        let endpoint = self.endpoint();
        let mut tls = (*endpoint.tls).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = match server {
            Some(server) => endpoint.dial(server, Arc::new(tls), DIAL).await?,
            None => self.dial(&endpoint, Arc::new(tls)).await?,
        };
        let (authority, prefix) = (endpoint.authority.clone(), endpoint.prefix.clone());
        Ok(Upgradable { stream, authority, prefix, authorization: endpoint.token.clone() })
    }

    /// Sends a request and streams the body of a 2xx answer as it arrives (logs).
    pub async fn stream(&self, request: Request) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let response = self.respond(&request).await?;
        let chunks = response.into_body().into_data_stream();
        Ok(chunks.map(|chunk| chunk.map_err(|error| connection(&error))).boxed())
    }

    /// Sends a request that asks for another form of the answer than plain JSON (tables).
    pub async fn send_accepting(&self, request: Request, accept: &str) -> Result<Bytes, Error> {
        collect(self.respond_accepting(&request, accept).await?.into_body()).await
    }

    async fn sender(&self, endpoint: &Endpoint) -> Result<Sender, Error> {
        let mut current = self.connection.lock().await;
        if let Some(current) = current.as_ref().filter(|current| !current.sender.is_closed()) {
            return Ok(current.sender.clone());
        }
        let stream = self.dial(endpoint, endpoint.tls.clone()).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Error::Connection(format!("{}: no HTTP/2", endpoint.authority)));
        }
        let socket = stream.get_ref().0.as_fd().try_clone_to_owned();
        let socket = socket.map_err(|error| Error::Connection(error.to_string()))?.into();
        let (sender, driver) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| connection(&error))?;
        spawn("http2", async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "connection to the api server ended");
            }
        });
        *current = Some(Connection { sender: sender.clone(), socket });
        Ok(sender)
    }

    /// Connects to the server, or to the first of several that answers.
    async fn dial(&self, endpoint: &Endpoint, tls: Arc<rustls::ClientConfig>) -> Result<TlsStream<TcpStream>, Error> {
        let Some(servers) = &self.servers else { return endpoint.dial(&endpoint.server, tls, DIAL).await };
        let mut last = None;
        for server in servers.order() {
            match endpoint.dial(&server, tls.clone(), DIAL_EACH).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    servers.failed(&server);
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Connection("no server is known".into())))
    }

    async fn respond(&self, request: &Request) -> Result<http::Response<Incoming>, Error> {
        self.respond_accepting(request, "application/json").await
    }

    /// Sends until there is an answer with a 2xx status.
    async fn respond_accepting(&self, request: &Request, accept: &str) -> Result<http::Response<Incoming>, Error> {
        let endpoint = self.endpoint();
        for attempt in 0.. {
            let mut sender = self.sender(&endpoint).await?;
            let answer = sender.send_request(endpoint.request(request, accept)?);
            let answer = tokio::time::timeout(ANSWER, answer).await;
            let response = match answer.map_err(|_| Error::Connection("no answer in time".into()))? {
                Ok(response) => response,
                // The connection was going down before the request was taken, or repeating it does
                // no harm.
                Err(error) if attempt == 0 && (error.is_canceled() || request.method == http::Method::GET) => {
                    *self.connection.lock().await = None;
                    continue;
                }
                Err(error) => return Err(connection(&error)),
            };
            self.compare_clocks(response.headers());
            if response.status().is_success() {
                return Ok(response);
            }
            let code = response.status().as_u16();
            let body = collect(response.into_body()).await?;
            return Err(Error::Status(Box::new(failure_of(code, &body))));
        }
        Err(Error::Connection("not reached".into()))
    }
}

/// Fetches a path without knowing whom from: the answer is to be checked by other means before it is believed.
///
/// # Errors
/// The server cannot be reached, or answers with another status than 200.
pub async fn fetch_untrusted(server: &str, path: &str) -> Result<Bytes, Error> {
    let config = HttpConfig { server: server.to_owned(), ..HttpConfig::default() };
    let endpoint = Endpoint::untrusting(&config).map_err(|error| Error::Connection(error.to_string()))?;
    let transport = HttpTransport::with(endpoint, None);
    let request = Request {
        method: http::Method::GET,
        uri: path.to_owned(),
        content_type: "application/json",
        body: Bytes::new(),
    };
    transport.send(request).await
}

/// A connection to be upgraded, and what its first request has to say.
#[derive(Debug)]
pub struct Upgradable {
    /// The connection.
    pub stream: TlsStream<TcpStream>,
    /// For the Host header.
    pub authority: String,
    /// Goes before the path, mostly empty.
    pub prefix: String,
    /// For the Authorization header.
    pub authorization: Option<http::HeaderValue>,
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: Request) -> Result<Bytes, Error> {
        let response = self.respond(&request).await?;
        collect(response.into_body()).await
    }

    async fn watch(&self, request: Request) -> Result<WatchStream, Error> {
        let response = self.respond(&request).await?;
        let chunks = response.into_body().into_data_stream();
        Ok(frames::events(chunks.map(|chunk| chunk.map_err(|error| connection(&error))).boxed()))
    }
}

impl Endpoint {
    fn new(config: &HttpConfig) -> Result<Self, ConfigError> {
        Self::with_tls(config, tls::client_config(config)?)
    }

    /// Believes any server.
    fn untrusting(config: &HttpConfig) -> Result<Self, ConfigError> {
        Self::with_tls(config, tls::untrusting_config()?)
    }

    fn with_tls(config: &HttpConfig, tls: rustls::ClientConfig) -> Result<Self, ConfigError> {
        let bad = || ConfigError::Server(config.server.clone());
        let uri: http::Uri = config.server.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("https") {
            return Err(bad());
        }
        let authority = uri.authority().ok_or_else(bad)?;
        let server = Server::parse(authority.as_str()).ok_or_else(bad)?;
        rustls_pki_types::ServerName::try_from(server.host.as_str()).map_err(|_| bad())?;
        let name = config.tls_server_name.clone().map(rustls_pki_types::ServerName::try_from).transpose();
        let token = match &config.credentials {
            Credentials::Token(token) => {
                let mut value = http::HeaderValue::try_from(format!("Bearer {}", token.trim()))
                    .map_err(|error| ConfigError::Pem { what: "token", detail: error.to_string() })?;
                value.set_sensitive(true);
                Some(value)
            }
            _ => None,
        };
        Ok(Self {
            server,
            authority: authority.to_string(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            name: name.map_err(|_| bad())?,
            tls: Arc::new(tls),
            token,
        })
    }

    async fn dial(
        &self,
        server: &Server,
        tls: Arc<rustls::ClientConfig>,
        patience: Duration,
    ) -> Result<TlsStream<TcpStream>, Error> {
        let unreachable = |error: &dyn std::fmt::Display| Error::Connection(format!("{server}: {error}"));
        let name = match &self.name {
            Some(name) => name.clone(),
            None => rustls_pki_types::ServerName::try_from(server.host.clone()).map_err(|error| unreachable(&error))?,
        };
        let attempt = async {
            let mut last = unreachable(&"no address");
            for address in names::resolve(&server.host).await? {
                match TcpStream::connect((address, server.port)).await {
                    Ok(stream) => {
                        let _ = stream.set_nodelay(true);
                        let connector = tokio_rustls::TlsConnector::from(tls);
                        let stream = connector.connect(name, stream).await;
                        return stream.map_err(|error| unreachable(&error));
                    }
                    Err(error) => last = unreachable(&error),
                }
            }
            Err(last)
        };
        tokio::time::timeout(patience, attempt).await.map_err(|_| unreachable(&"timed out"))?
    }

    fn request(&self, request: &Request, accept: &str) -> Result<http::Request<Full<Bytes>>, Error> {
        let uri = format!("https://{}{}{}", self.authority, self.prefix, request.uri);
        let mut builder = http::Request::builder()
            .method(request.method.clone())
            .uri(uri)
            .header(ACCEPT, accept)
            .header(USER_AGENT, concat!("naru/", env!("CARGO_PKG_VERSION")));
        if !request.body.is_empty() {
            builder = builder.header(CONTENT_TYPE, request.content_type);
        }
        if let Some(token) = &self.token {
            builder = builder.header(AUTHORIZATION, token.clone());
        }
        builder.body(Full::new(request.body.clone())).map_err(|error| Error::Connection(error.to_string()))
    }
}

async fn collect(body: Incoming) -> Result<Bytes, Error> {
    let body = tokio::time::timeout(ANSWER, Limited::new(body, BODY).collect()).await;
    let body = body.map_err(|_| Error::Connection("answer broke off".into()))?;
    Ok(body.map_err(|error| Error::Connection(error.to_string()))?.to_bytes())
}

/// hyper's own text leaves out the cause, which is the useful part.
fn connection(error: &hyper::Error) -> Error {
    match std::error::Error::source(error) {
        Some(cause) => Error::Connection(format!("{error}: {cause}")),
        None => Error::Connection(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
