//! Claims that a token does not carry itself: it names a place that answers with another token that does (OpenID
//! Connect Core, 5.6.2).

use super::claims::Claims;
use super::verifier::{MAX_TOKEN, Verifier, untrusted_issuer};
use crate::outbound::HttpsClient;
use naru_base::Shutdown;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Issuers of such tokens, beside the provider itself; there are one or two.
const MAX_ISSUERS: usize = 64;

/// Gets one claim.
#[derive(Debug)]
pub(super) struct Resolver {
    claim: String,
    client: Arc<HttpsClient>,
    /// The provider's own; those of others are like it.
    own: Arc<Verifier>,
    /// Leaf lock, never held across an await.
    others: Mutex<BTreeMap<String, Arc<Verifier>>>,
    shutdown: Shutdown,
}

/// Where claims are to be had.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    endpoint: String,
    access_token: String,
}

impl Resolver {
    pub(super) fn new(claim: String, client: Arc<HttpsClient>, own: Arc<Verifier>, shutdown: Shutdown) -> Self {
        Self { claim, client, own, others: Mutex::default(), shutdown }
    }

    /// Adds the claim to those that the token has, if the token says where it is.
    pub(super) async fn expand(&self, claims: &mut Claims, now: i64) -> Result<(), String> {
        let Some(source) = self.source(claims)? else { return Ok(()) };
        let claim = &self.claim;
        let token = self.fetch(&source).await;
        let token = token.map_err(|reason| format!("while getting distributed claim {claim:?}: {reason}"))?;
        let issuer = untrusted_issuer(&token).map_err(|reason| {
            format!("getting untrusted issuer from endpoint {} failed for claim {claim:?}: {reason}", source.endpoint)
        })?;
        let verifier = self.verifier(&issuer)?;
        let found = verifier.verify(&token, now).await;
        let mut found = found.map_err(|reason| format!("verify distributed claim token: {reason}"))?;
        let value = found.remove(claim).ok_or_else(|| {
            format!("jwt returned by distributed claim endpoint {:?} did not contain claim: {claim}", source.endpoint)
        })?;
        claims.insert(claim.clone(), value);
        Ok(())
    }

    /// Where the claim is; `None` when the token has it itself, or nothing says where, or it comes along in another
    /// token (which upstream does not read either).
    fn source(&self, claims: &Claims) -> Result<Option<Source>, String> {
        let names = match claims.get("_claim_names") {
            Some(names) if !claims.contains_key(&self.claim) => names,
            _ => return Ok(None),
        };
        let names: BTreeMap<String, String> = Deserialize::deserialize(names)
            .map_err(|error| format!("oidc: error parsing distributed claim names: {error}"))?;
        let sources = claims.get("_claim_sources").ok_or("oidc: no claim sources")?;
        let mut sources: BTreeMap<String, Value> = Deserialize::deserialize(sources)
            .map_err(|error| format!("oidc: could not parse claim sources: {error}"))?;
        let Some(name) = names.get(&self.claim) else { return Ok(None) };
        let source = sources
            .remove(name)
            .ok_or_else(|| format!("id token _claim_names contained a source {name} missing in _claims_sources"))?;
        let source: Source =
            serde_json::from_value(source).map_err(|error| format!("oidc: could not parse claim sources: {error}"))?;
        Ok(Some(source).filter(|source| !source.endpoint.is_empty()))
    }

    async fn fetch(&self, source: &Source) -> Result<String, String> {
        let token = Some(source.access_token.as_str()).filter(|token| !token.is_empty());
        let answer = self.client.get_as(&source.endpoint, token, "application/jwt").await;
        let answer = answer.map_err(|error| error.to_string())?;
        if !(200..=226).contains(&answer.code) {
            let code = http::StatusCode::from_u16(answer.code).map_err(|error| error.to_string())?;
            return Err(format!("error while getting distributed claim JWT: {code}"));
        }
        let token = String::from_utf8(answer.body.to_vec()).ok().filter(|token| token.len() <= MAX_TOKEN);
        token.ok_or_else(|| "could not decode distributed claim response".to_owned())
    }

    /// Verifies tokens of this issuer; one that was not known before is reached in the background.
    fn verifier(&self, issuer: &str) -> Result<Arc<Verifier>, String> {
        if self.own.is_of(issuer) {
            return Ok(self.own.clone());
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match others.get(issuer) {
            Some(known) => known.clone(),
            None if others.len() >= MAX_ISSUERS => return Err("too many issuers of distributed claims".to_owned()),
            None => {
                let verifier = Arc::new(self.own.like(issuer));
                naru_base::spawn("distributed-claims", verifier.clone().discover(self.shutdown.clone()));
                others.insert(issuer.to_owned(), verifier.clone());
                verifier
            }
        };
        if known.is_ready() {
            return Ok(known);
        }
        Err(format!("verifying untrusted issuer {issuer} failed: verifier not initialized for issuer: {issuer:?}"))
    }
}
