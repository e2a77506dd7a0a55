//! Whom we trust outside, and who we say we are.

use super::OutboundError;
use naru_client::https::{Credentials, HttpConfig};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// Where distributions keep the authorities that the machine trusts; the first that is there counts.
const HOST_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The TLS side of a client.
pub(super) fn config(config: &HttpConfig) -> Result<rustls::ClientConfig, OutboundError> {
    let wrong = |what: &'static str| move |reason: String| OutboundError::Tls(format!("{what}: {reason}"));
    let roots = if config.ca_pem.is_empty() {
        host_roots()
    } else {
        roots(&config.ca_pem).map_err(wrong("certificate authority"))?
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("tls")(error.to_string()))?
        .with_root_certificates(roots);
    let mut tls = match &config.credentials {
        Credentials::Certificate { cert_pem, key_pem } => {
            let chain = certificates(cert_pem).map_err(wrong("client certificate"))?;
            let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| wrong("client key")(error.to_string()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| wrong("client certificate")(error.to_string()))?
        }
        Credentials::Anonymous | Credentials::Token(_) => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    crate::server::certificates(&String::from_utf8_lossy(pem))
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// The machine's authorities; those that cannot be read are left out, as others do.
fn host_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = HOST_ROOTS.iter().find_map(|path| std::fs::read(path).ok()) {
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    }
    roots
}
