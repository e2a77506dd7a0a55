//! The client certificate of a connection, judged once when the connection is accepted: by the authorities of users,
//! and by those of front proxies.

use super::{User, x509};
use crate::config::{Config, StartError};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::sync::Arc;

/// What is known of the other end of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    /// The user of the client certificate, if one was given that leads to an authority of users.
    pub(crate) user: Option<Arc<User>>,
    /// Whether it is a front proxy's.
    pub(crate) front_proxy: bool,
    /// A certificate was given that is no user's: requests that show nothing better are refused.
    pub(crate) rejected: bool,
    /// Until when the user's certificate is valid, in seconds since 1970.
    pub(crate) expires: Option<i64>,
}

/// Judges client certificates.
#[derive(Debug, Default)]
pub(crate) struct PeerJudge {
    users: Option<Arc<dyn ClientCertVerifier>>,
    proxies: Option<Arc<dyn ClientCertVerifier>>,
    /// Names of front proxies; any, when empty.
    proxy_names: Vec<String>,
}

impl PeerJudge {
    /// With the configured authorities.
    pub(crate) fn new(config: &Config) -> Result<Self, StartError> {
        let verifier = |what: &'static str, pem: &str| -> Result<Option<Arc<dyn ClientCertVerifier>>, StartError> {
            if pem.is_empty() {
                return Ok(None);
            }
            let wrong = |reason: String| StartError::Config { what, reason };
            let mut roots = RootCertStore::empty();
            for certificate in crate::server::certificates(pem).map_err(wrong)? {
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            Ok(Some(built.map_err(|error| wrong(error.to_string()))?))
        };
        Ok(Self {
            users: verifier("client CA", &config.client_ca_pem)?,
            proxies: verifier("requestheader client CA", &config.front_proxy.ca_pem)?,
            proxy_names: config.front_proxy.allowed_names.clone(),
        })
    }

    /// What a chain of certificates says, the client's own first.
    pub(crate) fn judge(&self, chain: &[CertificateDer<'_>]) -> Peer {
        let Some((own, others)) = chain.split_first() else { return Peer::default() };
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            u64::try_from(crate::clock::now_seconds()).unwrap_or_default(),
        ));
        let leads_to = |verifier: &Option<Arc<dyn ClientCertVerifier>>| {
            verifier.as_ref().is_some_and(|verifier| match verifier.verify_client_cert(own, others, now) {
                Ok(_) => true,
                Err(error) => {
                    tracing::debug!(%error, "client certificate refused");
                    false
                }
            })
        };
        let user = leads_to(&self.users).then(|| x509::user(own)).flatten().map(Arc::new);
        let name = x509::common_name(own).unwrap_or_default();
        let front_proxy = leads_to(&self.proxies) && (self.proxy_names.is_empty() || self.proxy_names.contains(&name));
        let expires = user.as_ref().and_then(|_| x509::expires(own));
        Peer { rejected: user.is_none(), user, front_proxy, expires }
    }
}
