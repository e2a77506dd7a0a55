//! TLS for probes, which accept any certificate: they ask whether somebody answers, not who.

use rustls::ClientConfig;
use rustls::crypto::ring;
use std::sync::{Arc, OnceLock};

/// The client configuration, made once.
pub(super) fn any_certificate() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default protocol versions")
            .dangerous()
            .with_custom_certificate_verifier(naru_client::https::any_server(&provider))
            .with_no_client_auth();
        Arc::new(config)
    };
    CONFIG.get_or_init(make).clone()
}
