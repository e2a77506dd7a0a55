//! A certificate that is renewed while it is in use: connections made from then on show the new one.

use crate::config::StartError;
use crate::server::certificates;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use std::sync::{Arc, PoisonError, RwLock};

/// A certificate chain with its key, as TLS asks for it at each handshake.
#[derive(Debug)]
pub struct CurrentCertificate {
    /// Leaf lock.
    key: RwLock<Arc<CertifiedKey>>,
}

impl CurrentCertificate {
    /// From a chain and its key, both PEM.
    pub fn new(cert_chain_pem: &str, key_pem: &str) -> Result<Arc<Self>, StartError> {
        Ok(Arc::new(Self { key: RwLock::new(read(cert_chain_pem, key_pem)?) }))
    }

    /// Takes the place of the present one.
    pub fn replace(&self, cert_chain_pem: &str, key_pem: &str) -> Result<(), StartError> {
        let new = read(cert_chain_pem, key_pem)?;
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// When it expires, in seconds since 1970.
    pub fn expires(&self) -> Option<i64> {
        let key = self.now();
        let (_, leaf) = x509_parser::parse_x509_certificate(key.cert.first()?).ok()?;
        Some(leaf.validity().not_after.timestamp())
    }

    fn now(&self) -> Arc<CertifiedKey> {
        self.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(cert_chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, StartError> {
    let wrong = |what: &'static str| move |reason: String| StartError::Config { what, reason };
    let chain = certificates(cert_chain_pem).map_err(wrong("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| wrong("key")(error.to_string()))?;
    let provider = rustls::crypto::ring::default_provider();
    let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| wrong("certificate")(error.to_string()))?;
    Ok(Arc::new(key))
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ResolvesClientCert for CurrentCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
