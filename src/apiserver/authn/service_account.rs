//! Service account tokens: issued for TokenRequest, verified against the accounts and pods that
//! they are bound to.

use super::User;
use super::jwt::{self, JwtError, Signer};
use super::oidc::Key;
use crate::cache::Cache;
use crate::config::{Config, StartError};
use base64::Engine;
use naru_api::registry;
use serde_json::{Value, json};

/// What service accounts' user names start with.
pub(crate) const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// `iss` of tokens that live in Secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// Labels of Secrets that hold tokens.
pub(crate) const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Seconds that clocks may differ, and that an object may be overdue for deletion.
const LEEWAY: i64 = 60;

/// Issues and verifies service account tokens.
#[derive(Debug)]
pub(crate) struct Issuer {
    signer: Signer,
    /// `iss` of new tokens first, then of older ones that are still accepted.
    urls: Vec<String>,
    audiences: Vec<String>,
    /// Keys of before, whose tokens are still accepted.
    others: Vec<Key>,
    /// Where the keys are published, if not here.
    pub(crate) jwks_uri: Option<String>,
}

/// How long a token lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    /// Until it is refused.
    pub(crate) seconds: i64,
    /// Until its use is worth a warning, where that is sooner.
    pub(crate) warn_after: Option<i64>,
}

/// The object that a token's life is bound to, beside its service account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Binding {
    /// `pod`, `node` or `secret`.
    pub(crate) kind: &'static str,
    /// Its name.
    pub(crate) name: String,
    /// Its uid.
    pub(crate) uid: String,
    /// For pods, the node's name and uid.
    pub(crate) node: Option<(String, String)>,
}

/// Whose token goes into which Secret.
#[derive(Debug, Clone, Copy)]
pub struct LegacyToken<'a> {
    /// Of both.
    pub namespace: &'a str,
    /// The Secret.
    pub secret: &'a str,
    /// The service account.
    pub account: &'a str,
    /// Its uid.
    pub account_uid: &'a str,
}

/// A verified token.
#[derive(Debug)]
pub(crate) struct TokenAnswer {
    /// The account as a user.
    pub(crate) user: User,
    /// The audiences that both the token and the verifier accept.
    pub(crate) audiences: Vec<String>,
    /// What there is to say about its use.
    pub(crate) remarks: Remarks,
}

impl TokenAnswer {
    /// A token of which there is nothing to say.
    pub(crate) fn plain(user: User, audiences: Vec<String>) -> Self {
        Self { user, audiences, remarks: Remarks::default() }
    }
}

/// What is said when a token is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Remarks {
    /// To the client.
    pub(crate) warning: Option<&'static str>,
    /// To the audit log.
    pub(crate) audit: Vec<(&'static str, String)>,
    /// Namespace and name of the Secret whose label says on which day it was last used, when that is to be set.
    pub(crate) last_used: Option<(String, String)>,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// Not a token that this server signed.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// Too late.
    #[error("service account token has expired")]
    Expired,
    /// Too early.
    #[error("service account token is not valid yet")]
    Early,
    /// For somebody else.
    #[error("token audiences {claimed} is invalid for the target audiences {accepted}")]
    Audience {
        /// The token's.
        claimed: String,
        /// The verifier's.
        accepted: String,
    },
    /// Lacks a claim.
    #[error("lacks claim {0}")]
    Claim(&'static str),
    /// The pod, node or secret is gone, or the token is no longer the one in its secret.
    #[error("service account token has been invalidated")]
    Invalidated,
    /// The Secret is marked.
    #[error(
        "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
    )]
    Marked {
        /// Where it is.
        namespace: String,
        /// The Secret.
        secret: String,
        /// The account.
        account: String,
    },
    /// The account is gone.
    #[error("serviceaccounts {0:?} not found")]
    NoAccount(String),
    /// Another one of the same name.
    #[error("{what} UID ({present}) does not match {claim} ({claimed})")]
    Uid {
        /// Kind.
        what: &'static str,
        /// What the claim is called.
        claim: &'static str,
        /// The uid of the present object.
        present: String,
        /// The uid in the token.
        claimed: String,
    },
}

impl Issuer {
    /// An issuer with this key.
    pub(crate) fn new(signer: Signer, config: &Config) -> Result<Self, StartError> {
        let mut others = Vec::new();
        for path in &config.flags.service_account.key_files {
            let wrong = |reason: String| {
                let reason = format!("{}: {reason}", path.display());
                StartError::Config { what: "service-account-key-file", reason }
            };
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            others.extend(Key::all_in(&pem).map_err(wrong)?);
        }
        let flags = &config.flags;
        let mut urls = flags.service_account.issuers.clone();
        if urls.is_empty() {
            urls.push(config.issuer.clone());
        }
        let mut audiences = flags.api_audiences.clone();
        audiences.extend(config.api_audiences.iter().filter(|_| flags.api_audiences.is_empty()).cloned());
        if audiences.is_empty() {
            audiences.clone_from(&urls);
        }
        Ok(Self { signer, urls, audiences, others, jwks_uri: flags.service_account.jwks_uri.clone() })
    }

    /// Audiences of the API server itself; the default of TokenRequest.
    pub(crate) fn api_audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Every `iss` that is accepted.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The issuer's URL.
    pub(crate) fn url(&self) -> &str {
        &self.urls[0]
    }

    /// The key set document (`/openid/v1/jwks`).
    pub(crate) fn key_set(&self) -> Value {
        let (x, y) = self.signer.public_point();
        let own = json!({
            "use": "sig", "kty": "EC", "kid": self.signer.kid(), "crv": "P-256", "alg": "ES256", "x": x, "y": y,
        });
        let others = self.others.iter().map(Key::to_value);
        json!({ "keys": std::iter::once(own).chain(others).collect::<Vec<_>>() })
    }

    /// The claims of a token that this server's key, or one of before, has signed.
    fn claims(&self, token: &str) -> Result<Value, JwtError> {
        match self.signer.verify(token) {
            Err(JwtError::UnknownKey | JwtError::Signature) if !self.others.is_empty() => {
                jwt::verify_with(&self.others, token)
            }
            other => other,
        }
    }

    /// A new token. `id` is its unique id, `now` and `seconds` bound its life.
    #[allow(clippy::too_many_arguments, reason = "each is a claim")]
    pub(crate) fn issue(
        &self,
        namespace: &str,
        account: (&str, &str),
        audiences: &[String],
        binding: Option<&Binding>,
        now: i64,
        life: Life,
        id: &str,
    ) -> Result<String, ring::error::Unspecified> {
        let (name, uid) = account;
        let mut private = json!({
            "namespace": namespace,
            "serviceaccount": { "name": name, "uid": uid },
        });
        if let Some(binding) = binding {
            private[binding.kind] = json!({ "name": binding.name, "uid": binding.uid });
            if let Some((node, node_uid)) = &binding.node {
                private["node"] = json!({ "name": node });
                if !node_uid.is_empty() {
                    private["node"]["uid"] = node_uid.clone().into();
                }
            }
        }
        if let Some(after) = life.warn_after {
            private["warnafter"] = (now + after).into();
        }
        self.signer.sign(&json!({
            "aud": audiences,
            "exp": now + life.seconds,
            "iat": now,
            "nbf": now,
            "iss": self.url(),
            "jti": id,
            "kubernetes.io": private,
            "sub": format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
        }))
    }

    /// A token for a Secret: it names no time at which it ends.
    pub(crate) fn issue_legacy(&self, token: &LegacyToken<'_>) -> Result<String, ring::error::Unspecified> {
        self.signer.sign(&json!({
            "iss": LEGACY_ISSUER,
            "kubernetes.io/serviceaccount/namespace": token.namespace,
            "kubernetes.io/serviceaccount/secret.name": token.secret,
            "kubernetes.io/serviceaccount/service-account.name": token.account,
            "kubernetes.io/serviceaccount/service-account.uid": token.account_uid,
            "sub": format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", token.namespace, token.account),
        }))
    }

    /// Checks a token and the objects it is bound to; `None` when it is another issuer's, or no such token.
    pub(crate) fn verify(
        &self,
        cache: &Cache,
        token: &str,
        accepted: &[String],
    ) -> Result<Option<TokenAnswer>, TokenError> {
        match jwt::claimed_issuer(token) {
            Some(issuer) if issuer == LEGACY_ISSUER => {
                self.verify_legacy(cache, &self.claims(token)?, token, accepted).map(Some)
            }
            Some(issuer) if self.urls.contains(&issuer) => self.verify_bound(cache, token, accepted).map(Some),
            _ => Ok(None),
        }
    }

    fn verify_bound(&self, cache: &Cache, token: &str, accepted: &[String]) -> Result<TokenAnswer, TokenError> {
        let claims = self.claims(token)?;
        let now = crate::clock::now_seconds();
        check_times(&claims, now)?;
        let audiences = common_audiences(&claims["aud"], accepted)?;
        let private = &claims["kubernetes.io"];
        let namespace = private["namespace"].as_str().ok_or(TokenError::Claim("namespace"))?;
        let account = &private["serviceaccount"];
        let name = account["name"].as_str().ok_or(TokenError::Claim("serviceaccount"))?;
        let bound = |part: &str, place: (&'static registry::Resource, &str), what: (&'static str, &'static str)| {
            if private[part].is_object() { check_object(cache, place, &private[part], what, now) } else { Ok(()) }
        };
        check_object(cache, (&registry::SERVICE_ACCOUNTS, namespace), account, ("service account", "claim"), now)
            .map_err(|error| match error {
                TokenError::Invalidated => TokenError::NoAccount(name.to_owned()),
                other => other,
            })?;
        bound("secret", (&registry::SECRETS, namespace), ("secret", "service account secret ref claim"))?;
        bound("pod", (&registry::PODS, namespace), ("pod", "service account pod ref claim"))?;
        // A pod's token names its node too, but lives by the pod alone.
        if !private["pod"].is_object() {
            bound("node", (&registry::NODES, ""), ("node", "service account node ref claim"))?;
        }
        let mut answer = TokenAnswer::plain(self.user(&claims, namespace, name), audiences);
        if let Some(late) = private["warnafter"].as_i64().map(|after| now - after).filter(|late| *late > 0) {
            let text = format!("subject: {}, seconds after warning threshold: {late}", answer.user.name);
            answer.remarks.audit.push(("authentication.k8s.io/stale-token", text));
        }
        Ok(answer)
    }

    /// A token from a Secret of the old kind: it lives as long as the Secret holds it.
    fn verify_legacy(
        &self,
        cache: &Cache,
        claims: &Value,
        token: &str,
        accepted: &[String],
    ) -> Result<TokenAnswer, TokenError> {
        let claim = |name: &'static str| {
            claims[format!("kubernetes.io/serviceaccount/{name}")].as_str().ok_or(TokenError::Claim(name))
        };
        let (namespace, secret) = (claim("namespace")?, claim("secret.name")?);
        let (name, uid) = (claim("service-account.name")?, claim("service-account.uid")?);
        // Such tokens are for the API server alone.
        if !accepted.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(TokenError::Audience { claimed: quoted(&self.audiences), accepted: quoted(accepted) });
        }
        let found = cache.get(&registry::SECRETS, Some(namespace), secret).ok_or(TokenError::Invalidated)?;
        let found = crate::objects::tree(&found).map_err(|_| TokenError::Invalidated)?;
        let held = found["data"]["token"].as_str().unwrap_or_default();
        let deleted = !found["metadata"]["deletionTimestamp"].is_null();
        if deleted || held != base64::engine::general_purpose::STANDARD.encode(token) {
            return Err(TokenError::Invalidated);
        }
        let claim = json!({ "name": name, "uid": uid });
        let now = crate::clock::now_seconds();
        check_object(cache, (&registry::SERVICE_ACCOUNTS, namespace), &claim, ("service account", "claim"), now)
            .map_err(|_| TokenError::NoAccount(name.to_owned()))?;
        if found["metadata"]["labels"][INVALID_SINCE].as_str().is_some_and(|since| !since.is_empty()) {
            let (namespace, secret, account) = (namespace.to_owned(), secret.to_owned(), name.to_owned());
            return Err(TokenError::Marked { namespace, secret, account });
        }
        let mut user = service_account_user(namespace, name);
        uid.clone_into(&mut user.uid);
        let audiences = accepted.iter().filter(|audience| self.audiences.contains(audience)).cloned().collect();
        let remarks = legacy_remarks(cache, &found, (namespace, name, secret), now);
        Ok(TokenAnswer { user, audiences, remarks })
    }

    fn user(&self, claims: &Value, namespace: &str, name: &str) -> User {
        let private = &claims["kubernetes.io"];
        let mut user = service_account_user(namespace, name);
        user.uid = private["serviceaccount"]["uid"].as_str().unwrap_or_default().to_owned();
        let mut extra = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
            }
        };
        let id = claims["jti"].as_str().map(|id| format!("JTI={id}"));
        extra("credential-id", id.as_deref());
        extra("pod-name", private["pod"]["name"].as_str());
        extra("pod-uid", private["pod"]["uid"].as_str());
        extra("node-name", private["node"]["name"].as_str());
        extra("node-uid", private["node"]["uid"].as_str());
        user
    }
}

/// What is said when a token from a Secret is used.
fn legacy_remarks(cache: &Cache, found: &Value, (namespace, account, secret): (&str, &str, &str), now: i64) -> Remarks {
    let mut remarks = Remarks::default();
    let account = cache.get(&registry::SERVICE_ACCOUNTS, Some(namespace), account);
    let account = account.and_then(|account| crate::objects::tree(&account).ok()).unwrap_or_default();
    // Secrets that were made for an account are in its list; those that people make are not.
    let listed = account["secrets"].as_array().into_iter().flatten().any(|one| one["name"] == secret);
    let key = if listed {
        remarks.warning = Some(
            "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.",
        );
        "authentication.k8s.io/legacy-token-autogenerated-secret"
    } else {
        "authentication.k8s.io/legacy-token-manual-secret"
    };
    remarks.audit.push((key, secret.to_owned()));
    // Another server's clock may be in the next day already.
    let known = found["metadata"]["labels"][LAST_USED].as_str().unwrap_or_default();
    if known != day(now) && known != day(now + 24 * 3600) {
        remarks.last_used = Some((namespace.to_owned(), secret.to_owned()));
    }
    remarks
}

/// The day of a time, as labels have it.
pub(crate) fn day(seconds: i64) -> String {
    crate::clock::rfc3339(seconds).chars().take(10).collect()
}

/// A service account as a user.
pub(crate) fn service_account_user(namespace: &str, name: &str) -> User {
    User::authenticated(
        format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
        ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
    )
}

fn check_times(claims: &Value, now: i64) -> Result<(), TokenError> {
    let expires = claims["exp"].as_i64().ok_or(TokenError::Claim("exp"))?;
    // Nodes' clocks may be a little apart from the server's that reads the token.
    let not_before = claims["nbf"].as_i64().unwrap_or(0) - LEEWAY;
    match now {
        _ if now >= expires => Err(TokenError::Expired),
        _ if now < not_before => Err(TokenError::Early),
        _ => Ok(()),
    }
}

fn common_audiences(claimed: &Value, accepted: &[String]) -> Result<Vec<String>, TokenError> {
    let claimed: Vec<String> = match claimed {
        Value::String(one) => vec![one.clone()],
        Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let common: Vec<String> = accepted.iter().filter(|audience| claimed.contains(audience)).cloned().collect();
    if common.is_empty() {
        return Err(TokenError::Audience { claimed: quoted(&claimed), accepted: quoted(accepted) });
    }
    Ok(common)
}

/// `["a" "b"]`.
fn quoted(list: &[String]) -> String {
    format!("[{}]", list.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(" "))
}

/// The object a claim names must exist, be the same one, and not be long on its way out.
fn check_object(
    cache: &Cache,
    (resource, namespace): (&'static registry::Resource, &str),
    claim: &Value,
    (what, claim_name): (&'static str, &'static str),
    now: i64,
) -> Result<(), TokenError> {
    let name = claim["name"].as_str().ok_or(TokenError::Claim(what))?;
    let uid = claim["uid"].as_str().ok_or(TokenError::Claim(what))?;
    let namespace = (!namespace.is_empty()).then_some(namespace);
    let found = cache.get(resource, namespace, name).ok_or(TokenError::Invalidated)?;
    if found.uid() != uid {
        let (present, claimed) = (found.uid().to_owned(), uid.to_owned());
        return Err(TokenError::Uid { what, claim: claim_name, present, claimed });
    }
    let deleted = crate::objects::tree(&found)
        .ok()
        .and_then(|object| crate::clock::parse_rfc3339(naru_api::meta::deletion_timestamp(&object)?));
    if deleted.is_some_and(|at| at < now - LEEWAY) { Err(TokenError::Invalidated) } else { Ok(()) }
}
