//! HTTPS requests to others (identity providers, webhooks): HTTP/2 or 1.1, connections kept, everything bounded.

mod review;
mod tls;

pub(crate) use review::{Reviewer, SetupError};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use naru_client::https::{Credentials, HttpConfig};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The largest answer that is read.
const MAX_ANSWER: usize = 4 << 20;
/// Idle connections kept by one client.
const MAX_IDLE: usize = 8;
/// How long connecting may take, TLS included.
const DIAL: Duration = Duration::from_secs(10);

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutboundError {
    /// No https URL.
    #[error("{0:?} is not an https URL")]
    Url(String),
    /// Certificates or keys that cannot be used.
    #[error("{0}")]
    Tls(String),
    /// No connection.
    #[error("dial {authority}: {reason}")]
    Dial {
        /// Where to.
        authority: String,
        /// Why not.
        reason: String,
    },
    /// The connection broke, or what came was no HTTP.
    #[error("{0}")]
    Http(String),
    /// Too slow.
    #[error("context deadline exceeded")]
    Deadline,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Bytes,
}

/// Sends requests with one identity and one set of trusted authorities.
pub(crate) struct HttpsClient {
    connector: TlsConnector,
    /// The name that certificates must carry, if not the URL's.
    server_name: Option<String>,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    /// Leaf lock, never held across an await.
    idle: Mutex<Vec<(String, Sender)>>,
}

impl std::fmt::Debug for HttpsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpsClient").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// One request, which may have to be sent twice.
struct Asked {
    method: Method,
    uri: Uri,
    accept: &'static str,
    body: Bytes,
    authorization: Option<HeaderValue>,
}

impl Asked {
    fn head(&self, sender: &Sender) -> Result<http::Request<Full<Bytes>>, OutboundError> {
        let mut builder = http::Request::builder()
            .method(&self.method)
            .header(ACCEPT, self.accept)
            .header(USER_AGENT, concat!("naru/", env!("CARGO_PKG_VERSION")));
        builder = match sender {
            Sender::Http2(_) => builder.uri(self.uri.clone()),
            // HTTP/1.1 has the path alone in its first line.
            Sender::Http1(_) => {
                let path = self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
                builder.uri(path).header(HOST, self.uri.authority().map_or("", http::uri::Authority::as_str))
            }
        };
        if !self.body.is_empty() {
            builder = builder.header(CONTENT_TYPE, "application/json");
        }
        if let Some(authorization) = &self.authorization {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        builder.body(Full::new(self.body.clone())).map_err(|error| OutboundError::Http(error.to_string()))
    }
}

fn bearer(token: &str) -> Result<HeaderValue, OutboundError> {
    let value = HeaderValue::try_from(format!("Bearer {}", token.trim()));
    let mut value = value.map_err(|error| OutboundError::Tls(format!("token: {error}")))?;
    value.set_sensitive(true);
    Ok(value)
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    fn is_usable(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    async fn send(&mut self, request: http::Request<Full<Bytes>>) -> hyper::Result<http::Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

impl HttpsClient {
    /// A client that trusts `config`'s authorities, or the machine's where there are none. Its server is not looked
    /// at: each request has a URL.
    pub(crate) fn new(config: &HttpConfig, timeout: Duration) -> Result<Self, OutboundError> {
        let authorization = match &config.credentials {
            Credentials::Token(token) => Some(bearer(token)?),
            Credentials::Anonymous | Credentials::Certificate { .. } => None,
        };
        Ok(Self {
            connector: TlsConnector::from(Arc::new(tls::config(config)?)),
            server_name: config.tls_server_name.clone(),
            authorization,
            timeout,
            idle: Mutex::default(),
        })
    }

    /// GET of a URL.
    pub(crate) async fn get(&self, url: &str, accept: &'static str) -> Result<Answer, OutboundError> {
        self.request(Method::GET, url, accept, Bytes::new(), None).await
    }

    /// GET of a URL with a bearer token for this once.
    pub(crate) async fn get_as(
        &self,
        url: &str,
        token: Option<&str>,
        accept: &'static str,
    ) -> Result<Answer, OutboundError> {
        let authorization = token.map(bearer).transpose()?;
        self.request(Method::GET, url, accept, Bytes::new(), authorization).await
    }

    /// POST of JSON.
    pub(crate) async fn post(&self, url: &str, body: Bytes) -> Result<Answer, OutboundError> {
        self.request(Method::POST, url, "application/json", body, None).await
    }

    async fn request(
        &self,
        method: Method,
        url: &str,
        accept: &'static str,
        body: Bytes,
        authorization: Option<HeaderValue>,
    ) -> Result<Answer, OutboundError> {
        let uri: Uri = url.parse().map_err(|_| OutboundError::Url(url.to_owned()))?;
        if uri.scheme_str() != Some("https") || uri.host().is_none() {
            return Err(OutboundError::Url(url.to_owned()));
        }
        let asked =
            Asked { method, uri, accept, body, authorization: authorization.or_else(|| self.authorization.clone()) };
        let exchange = self.exchange(asked);
        tokio::time::timeout(self.timeout, exchange).await.map_err(|_| OutboundError::Deadline)?
    }

    async fn exchange(&self, asked: Asked) -> Result<Answer, OutboundError> {
        let authority = asked.uri.authority().map(ToString::to_string).unwrap_or_default();
        // A kept connection may have been closed meanwhile; a new one is tried then, once.
        while let Some(mut sender) = self.take_idle(&authority) {
            let request = asked.head(&sender)?;
            if let Ok(response) = sender.send(request).await {
                return self.finish(authority, sender, response).await;
            }
        }
        let mut sender = self.dial(&asked.uri, &authority).await?;
        let request = asked.head(&sender)?;
        let response = sender.send(request).await.map_err(|error| http_error(&error))?;
        self.finish(authority, sender, response).await
    }

    fn take_idle(&self, authority: &str) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, sender)| sender.is_usable());
        let at = idle.iter().position(|(known, _)| known == authority)?;
        // HTTP/2 carries many requests at once: it stays in the list.
        if let Sender::Http2(sender) = &idle[at].1 {
            return Some(Sender::Http2(sender.clone()));
        }
        Some(idle.swap_remove(at).1)
    }

    fn keep(&self, authority: String, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let known = matches!(sender, Sender::Http2(_)) && idle.iter().any(|(other, _)| *other == authority);
        if !known && idle.len() < MAX_IDLE {
            idle.push((authority, sender));
        }
    }

    async fn dial(&self, uri: &Uri, authority: &str) -> Result<Sender, OutboundError> {
        let failed = |reason: String| OutboundError::Dial { authority: authority.to_owned(), reason };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(443);
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let name = rustls_pki_types::ServerName::try_from(name).map_err(|error| failed(error.to_string()))?;
        let connect = async {
            let mut last = "no address".to_owned();
            for address in addresses(host).await.map_err(&failed)? {
                match TcpStream::connect((address, port)).await {
                    Ok(stream) => {
                        let _ = stream.set_nodelay(true);
                        let tls = self.connector.connect(name.clone(), stream).await;
                        return tls.map_err(|error| failed(error.to_string()));
                    }
                    Err(error) => last = error.to_string(),
                }
            }
            Err(failed(last))
        };
        let stream = tokio::time::timeout(DIAL, connect).await.map_err(|_| failed("timed out".to_owned()))??;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let builder = http2::Builder::new(TokioExecutor::new()).timer(TokioTimer::new()).clone();
            let (sender, connection) =
                builder.handshake(TokioIo::new(stream)).await.map_err(|error| http_error(&error))?;
            naru_base::spawn("outbound-http2", ended(connection));
            return Ok(Sender::Http2(sender));
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| http_error(&error))?;
        naru_base::spawn("outbound-http1", ended(connection));
        Ok(Sender::Http1(sender))
    }

    async fn finish(
        &self,
        authority: String,
        sender: Sender,
        response: http::Response<Incoming>,
    ) -> Result<Answer, OutboundError> {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| OutboundError::Http(error.to_string()))?.to_bytes();
        self.keep(authority, sender);
        Ok(Answer { code: parts.status.as_u16(), body })
    }
}

async fn ended(connection: impl Future<Output = hyper::Result<()>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "an outbound connection ended");
    }
}

/// hyper's own text leaves out the cause, which is the useful part.
fn http_error(error: &hyper::Error) -> OutboundError {
    match std::error::Error::source(error) {
        Some(cause) => OutboundError::Http(format!("{error}: {cause}")),
        None => OutboundError::Http(error.to_string()),
    }
}

/// The addresses of a host.
async fn addresses(host: &str) -> Result<Vec<std::net::IpAddr>, String> {
    naru_client::https::resolve(host).await.map_err(|error| match error {
        naru_client::Error::Connection(reason) => reason,
        other => other.to_string(),
    })
}
