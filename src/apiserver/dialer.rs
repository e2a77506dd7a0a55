//! Connections that the server makes itself: to kubelets, and to pods and nodes that requests are passed on to.

use crate::config::{Config, StartError};
use crate::response::Body;
use crate::server::certificates;
use futures::future::BoxFuture;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::fmt::{Debug, Display};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long connecting may take, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// Where a connection is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The node that has the address, where it is known: a tunnel goes by it.
    pub node: Option<String>,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

impl Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", SocketAddr::new(self.address, self.port))
    }
}

/// A connection's two directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens connections into the cluster. All that the server dials itself goes through the one of its
/// configuration.
pub trait Dialer: Debug + Send + Sync {
    /// Opens a connection.
    fn dial(&self, to: Destination) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// Dials on this machine's own network.
#[derive(Debug, Clone, Copy)]
pub struct Direct;

impl Dialer for Direct {
    fn dial(&self, to: Destination) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect((to.address, to.port)).await?;
            let _ = stream.set_nodelay(true);
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// How the other side proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Not at all, and the connection is not encrypted.
    Plain,
    /// By a certificate of the kubelets' authority; the server shows its own.
    Kubelet,
    /// By any certificate; the server shows its own.
    KubeletUnverified,
    /// By any certificate.
    Unverified,
}

/// HTTP connections to what serves inside the cluster.
pub(crate) struct Backends {
    dialer: Arc<dyn Dialer>,
    kubelet: Option<(TlsConnector, TlsConnector)>,
    unverified: TlsConnector,
}

impl Debug for Backends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backends").field("dialer", &self.dialer).finish_non_exhaustive()
    }
}

impl Backends {
    /// With the configured identity; without one, kubelets cannot be reached.
    pub(crate) fn new(config: &Config) -> Result<Self, StartError> {
        let wrong = |what: &'static str| move |reason: String| StartError::Config { what, reason };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map_err(|error| wrong("tls")(error.to_string()))
        };
        let anybody = naru_client::https::any_server(&provider);
        let unverified = builder()?.dangerous().with_custom_certificate_verifier(anybody.clone()).with_no_client_auth();
        let kubelet = match &config.kubelet_client {
            None => None,
            Some(identity) => {
                let mut roots = rustls::RootCertStore::empty();
                for certificate in certificates(&config.kubelet_ca_pem).map_err(wrong("kubelet CA"))? {
                    roots.add(certificate).map_err(|error| wrong("kubelet CA")(error.to_string()))?;
                }
                let verified = builder()?.with_root_certificates(roots).with_client_cert_resolver(identity.clone());
                let any = builder()?
                    .dangerous()
                    .with_custom_certificate_verifier(anybody)
                    .with_client_cert_resolver(identity.clone());
                Some((TlsConnector::from(Arc::new(verified)), TlsConnector::from(Arc::new(any))))
            }
        };
        Ok(Self { dialer: config.dialer.clone(), kubelet, unverified: TlsConnector::from(Arc::new(unverified)) })
    }

    fn connector(&self, trust: Trust) -> Result<Option<&TlsConnector>, String> {
        let kubelet = || self.kubelet.as_ref().ok_or("the server has no identity towards nodes");
        Ok(match trust {
            Trust::Plain => None,
            Trust::Kubelet => Some(&kubelet()?.0),
            Trust::KubeletUnverified => Some(&kubelet()?.1),
            Trust::Unverified => Some(&self.unverified),
        })
    }

    /// A connection for one request. What fails is told as clients know it.
    pub(crate) async fn connect(&self, to: Destination, trust: Trust) -> Result<http1::SendRequest<Body>, String> {
        let connector = self.connector(trust)?;
        let name = ServerName::IpAddress(to.address.into());
        let open = async {
            let stream = self.dialer.dial(to.clone()).await.map_err(|error| dial_error(&to, &error))?;
            let stream: Box<dyn Stream> = match connector {
                None => stream,
                Some(connector) => {
                    let tls = connector.connect(name, stream).await;
                    Box::new(tls.map_err(|error| format!("tls: {error}"))?)
                }
            };
            Ok::<_, String>(stream)
        };
        let stream = tokio::time::timeout(CONNECT, open).await.map_err(|_| format!("dial tcp {to}: i/o timeout"))??;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("http to {to}: {error}"))?;
        naru_base::spawn("backend-connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a backend ended");
            }
        });
        Ok(sender)
    }
}

/// In the words that clients and people look for.
fn dial_error(to: &Destination, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {to}: {why}")
}
