//! Service account tokens: issued for TokenRequest, verified against the accounts and pods that
//! they are bound to.

use super::User;
use super::jwt::{JwtError, Signer};
use crate::cache::Cache;
use naru_api::registry;
use serde_json::{Value, json};

/// What service accounts' user names start with.
pub(crate) const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Issues and verifies service account tokens.
#[derive(Debug)]
pub(crate) struct Issuer {
    signer: Signer,
    url: String,
    audiences: Vec<String>,
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

/// A verified token.
#[derive(Debug)]
pub(crate) struct TokenAnswer {
    /// The account as a user.
    pub(crate) user: User,
    /// The audiences that both the token and the verifier accept.
    pub(crate) audiences: Vec<String>,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// Not a token that this server signed.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// Another issuer's.
    #[error("issued by another issuer")]
    Issuer,
    /// Too late, or too early.
    #[error("expired or not yet valid")]
    Time,
    /// For somebody else.
    #[error("audience is not accepted")]
    Audience,
    /// Lacks a claim.
    #[error("lacks claim {0}")]
    Claim(&'static str),
    /// The account, pod, node or secret is gone or another one of the same name.
    #[error("{0} is gone")]
    Gone(&'static str),
}

impl Issuer {
    /// An issuer with this key.
    pub(crate) fn new(signer: Signer, url: String, mut audiences: Vec<String>) -> Self {
        if audiences.is_empty() {
            audiences.push(url.clone());
        }
        Self { signer, url, audiences }
    }

    /// Audiences of the API server itself; the default of TokenRequest.
    pub(crate) fn api_audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The issuer's URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The key set document (`/openid/v1/jwks`).
    pub(crate) fn key_set(&self) -> Value {
        let (x, y) = self.signer.public_point();
        json!({ "keys": [{
            "use": "sig", "kty": "EC", "kid": self.signer.kid(), "crv": "P-256", "alg": "ES256",
            "x": x, "y": y,
        }] })
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
        seconds: i64,
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
                private["node"] = json!({ "name": node, "uid": node_uid });
            }
        }
        self.signer.sign(&json!({
            "aud": audiences,
            "exp": now + seconds,
            "iat": now,
            "nbf": now,
            "iss": self.url,
            "jti": id,
            "kubernetes.io": private,
            "sub": format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
        }))
    }

    /// Checks a token and the objects it is bound to.
    pub(crate) fn verify(&self, cache: &Cache, token: &str, accepted: &[String]) -> Result<TokenAnswer, TokenError> {
        let claims = self.signer.verify(token)?;
        if claims["iss"].as_str() != Some(&self.url) {
            return Err(TokenError::Issuer);
        }
        check_times(&claims, crate::clock::now_seconds())?;
        let audiences = common_audiences(&claims["aud"], accepted);
        if audiences.is_empty() {
            return Err(TokenError::Audience);
        }
        let private = &claims["kubernetes.io"];
        let namespace = private["namespace"].as_str().ok_or(TokenError::Claim("namespace"))?;
        let account = &private["serviceaccount"];
        let name = account["name"].as_str().ok_or(TokenError::Claim("serviceaccount"))?;
        check_object(cache, &registry::SERVICE_ACCOUNTS, namespace, account, "service account")?;
        if private["pod"].is_object() {
            check_object(cache, &registry::PODS, namespace, &private["pod"], "pod")?;
        } else if private["secret"].is_object() {
            check_object(cache, &registry::SECRETS, namespace, &private["secret"], "secret")?;
        } else if private["node"].is_object() {
            check_object(cache, &registry::NODES, "", &private["node"], "node")?;
        }
        Ok(TokenAnswer { user: self.user(&claims, namespace, name), audiences })
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
    let not_before = claims["nbf"].as_i64().unwrap_or(0) - 60;
    if now >= expires || now < not_before { Err(TokenError::Time) } else { Ok(()) }
}

fn common_audiences(claimed: &Value, accepted: &[String]) -> Vec<String> {
    let claimed: Vec<&str> = match claimed {
        Value::String(one) => vec![one.as_str()],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    accepted.iter().filter(|audience| claimed.contains(&audience.as_str())).cloned().collect()
}

/// The object a claim names must exist, be the same one, and not be long on its way out.
fn check_object(
    cache: &Cache,
    resource: &'static registry::Resource,
    namespace: &str,
    claim: &Value,
    what: &'static str,
) -> Result<(), TokenError> {
    let name = claim["name"].as_str().ok_or(TokenError::Claim(what))?;
    let uid = claim["uid"].as_str().ok_or(TokenError::Claim(what))?;
    let namespace = (!namespace.is_empty()).then_some(namespace);
    match cache.get(resource, namespace, name) {
        Some(object) if object.uid() == uid => Ok(()),
        _ => Err(TokenError::Gone(what)),
    }
}
