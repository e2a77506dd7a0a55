//! One identity provider: from its tokens to users.

use super::claims;
use super::distributed::Resolver;
use super::verifier::{Verifier, untrusted_issuer};
use crate::authn::User;
use crate::authn::configuration::Provider;
use crate::outbound::{HttpsClient, OutboundError};
use naru_base::Shutdown;
use naru_client::https::HttpConfig;
use std::sync::Arc;
use std::time::Duration;

/// How long a provider may take for one document.
const FETCH: Duration = Duration::from_secs(30);

/// Knows the users of one provider.
#[derive(Debug)]
pub(crate) struct JwtProvider {
    configuration: Provider,
    verifier: Arc<Verifier>,
    /// Gets the groups where tokens say only who knows them; there are none without a claim for them.
    resolver: Option<Resolver>,
}

impl JwtProvider {
    /// A provider whose documents are fetched in the background, from now on until `shutdown`.
    pub(crate) fn start(configuration: Provider, shutdown: &Shutdown) -> Result<Self, OutboundError> {
        let issuer = &configuration.issuer;
        let ca_pem = issuer.certificate_authority.clone().into_bytes();
        let client = Arc::new(HttpsClient::new(&HttpConfig { ca_pem, ..HttpConfig::default() }, FETCH)?);
        let (audiences, algorithms) = (issuer.audiences.clone(), configuration.algorithms.clone());
        let verifier = Verifier::new(issuer.url.clone(), client.clone(), audiences, algorithms);
        let verifier = Arc::new(verifier.discovered_at(issuer.discovery_url.clone()));
        naru_base::spawn("identity-provider", verifier.clone().discover(shutdown.clone()));
        let claim = configuration.claim_mappings.groups.claim.clone();
        let resolver = (!claim.is_empty()).then(|| Resolver::new(claim, client, verifier.clone(), shutdown.clone()));
        Ok(Self { configuration, verifier, resolver })
    }

    /// Returns once the provider has been reached.
    pub(crate) async fn ready(&self) {
        self.verifier.ready().await;
    }

    /// The token's user; `None` when the token is another issuer's.
    pub(crate) async fn user(&self, token: &str, now: i64) -> Result<Option<User>, String> {
        if untrusted_issuer(token).as_deref() != Ok(self.configuration.issuer.url.as_str()) {
            return Ok(None);
        }
        if !self.verifier.is_ready() {
            return Err("oidc: authenticator not initialized".to_owned());
        }
        let verified = self.verifier.verify(token, now).await;
        let mut claims = verified.map_err(|reason| format!("oidc: verify token: {reason}"))?;
        if let Some(resolver) = &self.resolver {
            let expanded = resolver.expand(&mut claims, now).await;
            expanded.map_err(|reason| format!("oidc: could not expand distributed claims: {reason}"))?;
        }
        claims::user(&self.configuration, &claims).map(Some)
    }
}
