//! The TLS side of a client: trusted certificates, own certificate, ALPN.

use super::{ConfigError, Credentials, HttpConfig};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

fn pem(what: &'static str, error: &impl std::fmt::Display) -> ConfigError {
    ConfigError::Pem { what, detail: error.to_string() }
}

fn certificates(what: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| pem(what, &error))?;
    if found.is_empty() {
        return Err(pem(what, &"no certificate found"));
    }
    Ok(found)
}

pub(super) fn client_config(config: &HttpConfig) -> Result<rustls::ClientConfig, ConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("certificate authority", &config.ca_pem)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut tls = match &config.credentials {
        Credentials::Certificate { cert_pem, key_pem } => {
            let chain = certificates("client certificate", cert_pem)?;
            let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| pem("client key", &error))?;
            builder.with_client_auth_cert(chain, key)?
        }
        Credentials::Anonymous | Credentials::Token(_) => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}
