//! The API server: the request pipeline in its visible order, the watch cache, and the documents.
//!
//! Architecture invariant: this is the only crate that touches the store; everything else reaches
//! state through a `Transport`, over HTTPS or in-process.

mod cache;
mod config;

pub use config::{ClientIdentity, Config, ServeError, StartError, StaticToken};

use naru_base::Shutdown;
use naru_client::transport::{Error, Request, Transport, WatchStream};
use std::sync::Arc;
use tokio::net::TcpListener;

/// A running API server. Cloning shares it.
#[derive(Clone, Debug)]
pub struct ApiServer {
    shutdown: Shutdown,
}

impl ApiServer {
    /// Fills the watch cache from the store and writes what must exist before the first request
    /// (namespaces, default RBAC, the `kubernetes` Service).
    pub async fn new(_config: Config, shutdown: Shutdown) -> Result<Self, StartError> {
        Ok(Self { shutdown })
    }

    /// Accepts connections until the shutdown is triggered, then lets running requests finish
    /// (bounded). `tls` comes from [`tls_config`], or is any configuration that offers `h2` and
    /// `http/1.1` and asks for client certificates.
    pub async fn serve(&self, _listener: TcpListener, _tls: Arc<rustls::ServerConfig>) -> Result<(), ServeError> {
        self.shutdown.triggered().await;
        Ok(())
    }

    /// A transport that skips the network and authentication, and nothing else: requests are
    /// authorized, admitted and audited as this user's.
    pub fn in_process(&self, _user: &str, _groups: &[&str]) -> Arc<dyn Transport> {
        Arc::new(Unavailable)
    }
}

struct Unavailable;

#[async_trait::async_trait]
impl Transport for Unavailable {
    async fn send(&self, _: Request) -> Result<bytes::Bytes, Error> {
        Err(Error::Connection("not there yet".to_owned()))
    }

    async fn watch(&self, _: Request) -> Result<WatchStream, Error> {
        Err(Error::Connection("not there yet".to_owned()))
    }
}

/// TLS as the API server wants it: HTTP/2 offered, client certificates of `client_ca_pem` asked for
/// but not demanded (tokens are the other way to identify).
pub fn tls_config(
    cert_chain_pem: &str,
    key_pem: &str,
    client_ca_pem: &str,
) -> Result<rustls::ServerConfig, StartError> {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let wrong = |what: &'static str, reason: String| StartError::Config { what, reason };
    let read = |what: &'static str, pem: &str| {
        CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong(what, error.to_string()))
    };
    let chain = read("serving certificate", cert_chain_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|error| wrong("serving key", error.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in read("client CA", client_ca_pem)? {
        roots.add(certificate).map_err(|error| wrong("client CA", error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| wrong("client CA", error.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("tls", error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| wrong("serving certificate", error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
