//! One issuer of tokens: its documents, fetched in the background, and the signatures of its tokens.

use super::claims::{self, Claims};
use super::keys::{self, ALGORITHMS, Key};
use crate::outbound::{HttpsClient, OutboundError};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use naru_base::Shutdown;
use serde::Deserialize;
use serde_json::Value;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

/// Longest token looked at.
pub(super) const MAX_TOKEN: usize = 64 * 1024;
/// Between attempts to reach a provider for the first time.
const RETRY: Duration = Duration::from_secs(10);
/// Tokens with unknown keys make us fetch the key set no more often than this.
const REFRESH: Duration = Duration::from_secs(10);

/// Verifies the tokens of one issuer.
#[derive(Debug)]
pub(super) struct Verifier {
    issuer: String,
    /// Where its documents begin, if not below its own name.
    discovery_url: Option<String>,
    /// For whom its tokens may be.
    audiences: Vec<String>,
    /// How they may be signed; empty: in all ways that are safe.
    algorithms: Vec<String>,
    client: Arc<HttpsClient>,
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

impl Verifier {
    /// A verifier that knows no keys until [`Verifier::discover`] runs.
    pub(super) fn new(
        issuer: String,
        client: Arc<HttpsClient>,
        audiences: Vec<String>,
        algorithms: Vec<String>,
    ) -> Self {
        let (ready, _) = watch::channel(false);
        let (keys, source) = (RwLock::default(), Mutex::default());
        Self { issuer, discovery_url: None, audiences, algorithms, client, keys, source, ready }
    }

    /// With documents that are elsewhere than the issuer's name says.
    pub(super) fn discovered_at(self, discovery_url: Option<String>) -> Self {
        Self { discovery_url: discovery_url.filter(|url| !url.is_empty()), ..self }
    }

    /// For another issuer, the rest being the same.
    pub(super) fn like(&self, issuer: &str) -> Self {
        let (audiences, algorithms) = (self.audiences.clone(), self.algorithms.clone());
        Self::new(issuer.to_owned(), self.client.clone(), audiences, algorithms)
    }

    /// Whether it verifies this issuer's tokens.
    pub(super) fn is_of(&self, issuer: &str) -> bool {
        self.issuer == issuer
    }

    /// Tries until the issuer has been reached.
    pub(super) async fn discover(self: Arc<Self>, shutdown: Shutdown) {
        while let Err(error) = self.try_discover().await {
            tracing::warn!(issuer = self.issuer, %error, "identity provider not reached, trying again");
            if shutdown.guard(tokio::time::sleep(RETRY)).await.is_none() {
                return;
            }
        }
        self.ready.send_replace(true);
    }

    /// Returns once the issuer has been reached.
    pub(super) async fn ready(&self) {
        // The sender lives as long as this does.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Whether it has been reached.
    pub(super) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    async fn try_discover(&self) -> Result<(), FetchError> {
        let url = match &self.discovery_url {
            Some(url) => url.clone(),
            None => format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/')),
        };
        let document = self.fetch(&url).await?;
        let found: Discovery =
            serde_json::from_slice(&document).map_err(|source| FetchError::Json { url: url.clone(), source })?;
        if found.issuer != self.issuer {
            return Err(FetchError::Issuer { expected: self.issuer.clone(), got: found.issuer });
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

    /// The claims of a token that one of the issuer's keys has signed, that is for one of the audiences and valid now.
    pub(super) async fn verify(&self, token: &str, now: i64) -> Result<Claims, String> {
        let malformed = || "oidc: malformed jwt".to_owned();
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
        let claims: Claims = decode(payload).ok_or_else(malformed)?;
        claims::check(&self.issuer, &self.audiences, &claims, now)?;
        let header: Header = decode(header).ok_or_else(malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?;
        let listed = self.algorithms.is_empty() || self.algorithms.contains(&header.alg);
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
        Ok(claims)
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

/// The issuer that a token names; it need not be true.
pub(super) fn untrusted_issuer(token: &str) -> Result<String, &'static str> {
    let parts: Vec<&str> = token.splitn(4, '.').collect();
    let [_, payload, _] = parts[..] else { return Err("malformed token") };
    if token.len() > MAX_TOKEN {
        return Err("token is too long");
    }
    let claims: Value = decode(payload).ok_or("error decoding token")?;
    Ok(super::claims::issuer_of(claims["iss"].as_str().unwrap_or_default()).to_owned())
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
