//! One identity provider: its documents, fetched in the background, and its tokens.

use super::claims::{self, Claims};
use super::keys::{self, ALGORITHMS, Key};
use crate::authn::User;
use crate::authn::configuration::Provider;
use crate::outbound::{HttpsClient, OutboundError};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use naru_base::Shutdown;
use naru_client::https::HttpConfig;
use serde::Deserialize;
use serde_json::Value;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

/// Longest token looked at.
const MAX_TOKEN: usize = 64 * 1024;
/// How long a provider may take for one document.
const FETCH: Duration = Duration::from_secs(30);
/// Between attempts to reach a provider for the first time.
const RETRY: Duration = Duration::from_secs(10);
/// Tokens with unknown keys make us fetch the key set no more often than this.
const REFRESH: Duration = Duration::from_secs(10);

/// Verifies the tokens of one provider.
#[derive(Debug)]
pub(crate) struct JwtProvider {
    configuration: Provider,
    client: HttpsClient,
    /// Empty until the provider has been reached. Leaf lock, never held across an await.
    keys: RwLock<Arc<Vec<Key>>>,
    /// Where the keys are and when they were fetched; held while they are, so that one fetch serves all who wait.
    source: Mutex<Option<Source>>,
    ready: watch::Sender<bool>,
}

#[derive(Debug)]
struct Source {
    url: String,
    fetched: Instant,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    #[serde(default)]
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// Why the provider's documents could not be had.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{url}: {source}")]
    Request { url: String, source: OutboundError },
    #[error("{url}: answered {code}")]
    Code { url: String, code: u16 },
    #[error("{url}: {source}")]
    Json { url: String, source: serde_json::Error },
    #[error("issuer did not match the issuer returned by provider, expected {expected:?} got {got:?}")]
    Issuer { expected: String, got: String },
    #[error("provider did not return JWKS URL")]
    NoKeys,
}

impl JwtProvider {
    /// A provider whose documents are fetched as soon as [`JwtProvider::discover`] runs.
    pub(crate) fn new(configuration: Provider) -> Result<Self, OutboundError> {
        let ca_pem = configuration.issuer.certificate_authority.clone().into_bytes();
        let client = HttpsClient::new(&HttpConfig { ca_pem, ..HttpConfig::default() }, FETCH)?;
        let (ready, _) = watch::channel(false);
        Ok(Self { configuration, client, keys: RwLock::default(), source: Mutex::default(), ready })
    }

    /// Tries until the provider has been reached.
    pub(crate) async fn discover(self: Arc<Self>, shutdown: Shutdown) {
        while let Err(error) = self.try_discover().await {
            tracing::warn!(issuer = self.configuration.issuer.url, %error, "identity provider not reached, trying again");
            if shutdown.guard(tokio::time::sleep(RETRY)).await.is_none() {
                return;
            }
        }
        self.ready.send_replace(true);
    }

    /// Returns once the provider has been reached.
    pub(crate) async fn ready(&self) {
        // The sender lives as long as this does.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    async fn try_discover(&self) -> Result<(), FetchError> {
        let issuer = &self.configuration.issuer;
        let url = match issuer.discovery_url.as_deref().filter(|url| !url.is_empty()) {
            Some(url) => url.to_owned(),
            None => format!("{}/.well-known/openid-configuration", issuer.url.trim_end_matches('/')),
        };
        let document = self.fetch(&url).await?;
        let found: Discovery =
            serde_json::from_slice(&document).map_err(|source| FetchError::Json { url: url.clone(), source })?;
        if found.issuer != issuer.url {
            return Err(FetchError::Issuer { expected: issuer.url.clone(), got: found.issuer });
        }
        if found.jwks_uri.is_empty() {
            return Err(FetchError::NoKeys);
        }
        self.fetch_keys(&found.jwks_uri).await?;
        *self.source.lock().await = Some(Source { url: found.jwks_uri, fetched: Instant::now() });
        Ok(())
    }

    async fn fetch_keys(&self, url: &str) -> Result<(), FetchError> {
        let document = self.fetch(url).await?;
        let found = keys::parse(&document).map_err(|source| FetchError::Json { url: url.to_owned(), source })?;
        tracing::debug!(url, keys = found.len(), "key set fetched");
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        Ok(())
    }

    async fn fetch(&self, url: &str) -> Result<bytes::Bytes, FetchError> {
        let answer = self.client.get(url, "application/json").await;
        let answer = answer.map_err(|source| FetchError::Request { url: url.to_owned(), source })?;
        if answer.code != 200 {
            return Err(FetchError::Code { url: url.to_owned(), code: answer.code });
        }
        Ok(answer.body)
    }

    /// The token's user; `None` when the token is another issuer's.
    pub(crate) async fn user(&self, token: &str, now: i64) -> Result<Option<User>, String> {
        if !self.issued(token) {
            return Ok(None);
        }
        if !*self.ready.borrow() {
            return Err("oidc: authenticator not initialized".to_owned());
        }
        let verified = match self.verify(token).await {
            Ok(claims) => claims::check(&self.configuration, &claims, now).map(|()| claims),
            Err(reason) => Err(reason),
        };
        let claims = verified.map_err(|reason| format!("oidc: verify token: {reason}"))?;
        claims::user(&self.configuration, &claims).map(Some)
    }

    /// Whether the token says that it is this provider's; it need not be true.
    fn issued(&self, token: &str) -> bool {
        let payload = token.split('.').nth(1).filter(|_| token.len() <= MAX_TOKEN);
        payload.and_then(decode::<Value>).is_some_and(|claims| claims["iss"] == *self.configuration.issuer.url)
    }

    /// The claims of a token that one of the provider's keys has signed.
    async fn verify(&self, token: &str) -> Result<Claims, String> {
        let malformed = || "oidc: malformed jwt".to_owned();
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
        let header: Header = decode(header).ok_or_else(malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?;
        let allowed = &self.configuration.algorithms;
        let listed = allowed.is_empty() || allowed.contains(&header.alg);
        if !listed || !ALGORITHMS.contains(&header.alg.as_str()) {
            return Err(format!("oidc: id token signed with unsupported algorithm, got {:?}", header.alg));
        }
        let good = |keys: &[Key]| {
            let mut called = keys.iter().filter(|key| key.is_called(&header.kid));
            called.any(|key| key.verifies(&header.alg, signed.as_bytes(), &signature))
        };
        let before = self.known_keys();
        if !good(&before) {
            self.refresh(&before).await;
            if !good(&self.known_keys()) {
                return Err("failed to verify signature: failed to verify id token signature".to_owned());
            }
        }
        decode(payload).ok_or_else(malformed)
    }

    fn known_keys(&self) -> Arc<Vec<Key>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches the keys again, unless somebody else just has.
    async fn refresh(&self, before: &Arc<Vec<Key>>) {
        let mut source = self.source.lock().await;
        let Some(source) = source.as_mut() else { return };
        if !Arc::ptr_eq(before, &self.known_keys()) || source.fetched.elapsed() < REFRESH {
            return;
        }
        source.fetched = Instant::now();
        if let Err(error) = self.fetch_keys(&source.url).await {
            tracing::warn!(%error, "the key set of an identity provider could not be fetched");
        }
    }
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
