//! Who is asking: client certificates, bearer tokens, or nobody (anonymous).

mod bootstrap_token;
mod impersonation;
pub(crate) mod jwt;
mod service_account;
mod tokens;
mod x509;

pub(crate) use impersonation::impersonated;
pub(crate) use service_account::{Binding, Issuer, Life, SERVICE_ACCOUNT_PREFIX};
pub(crate) use tokens::StaticTokens;

use service_account::{TokenAnswer, TokenError};

use crate::cache::Cache;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The group of everybody who proved an identity.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody who did not.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// An authenticated (or anonymous) user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// Name.
    pub(crate) name: String,
    /// Unique id, may be empty.
    pub(crate) uid: String,
    /// Groups.
    pub(crate) groups: Vec<String>,
    /// Extra facts, such as the pod that a token is bound to.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The user of requests that carry no credentials.
    pub(crate) fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            uid: String::new(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            extra: BTreeMap::new(),
        }
    }

    /// A user with these groups and `system:authenticated`.
    pub(crate) fn authenticated(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), uid: String::new(), groups, extra: BTreeMap::new() }
    }

    /// Whether the user belongs to a group.
    pub(crate) fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// Certificate identity of one connection, worked out once when it is accepted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    /// The user of the client certificate, if one was given and verified.
    pub(crate) user: Option<Arc<User>>,
}

impl Peer {
    /// Reads the identity in a client certificate that TLS has already verified.
    pub(crate) fn from_certificate(der: Option<&[u8]>) -> Self {
        Self { user: der.and_then(x509::user).map(Arc::new) }
    }
}

/// The authenticators, in order.
#[derive(Debug)]
pub(crate) struct Authn {
    pub(crate) issuer: Issuer,
    pub(crate) tokens: StaticTokens,
    /// Whether requests without credentials are served; `None`: where they ask for the health checks.
    pub(crate) anonymous: Option<bool>,
}

/// What is open to everybody: load balancers ask for these.
const ANONYMOUS_PATHS: [&str; 3] = ["/livez", "/readyz", "/healthz"];

impl Authn {
    /// The user of a request; `Err` when credentials were given and are not valid, or when none were and the path
    /// is not open to everybody (401).
    pub(crate) fn authenticate(
        &self,
        cache: &Cache,
        peer: &Peer,
        authorization: Option<&str>,
        path: &str,
    ) -> Result<Arc<User>, Unauthenticated> {
        if let Some(user) = &peer.user {
            return Ok(user.clone());
        }
        let Some(token) = authorization.and_then(bearer) else {
            let open = self.anonymous.unwrap_or_else(|| ANONYMOUS_PATHS.contains(&path));
            return if open { Ok(Arc::new(User::anonymous())) } else { Err(Unauthenticated) };
        };
        match self.token(cache, token, self.issuer.api_audiences()) {
            Ok(answer) => Ok(Arc::new(answer.user)),
            Err(reason) => {
                tracing::debug!(%reason, "bearer token refused");
                Err(Unauthenticated)
            }
        }
    }

    /// Whose token this is, for one of these audiences.
    pub(crate) fn token(&self, cache: &Cache, token: &str, accepted: &[String]) -> Result<TokenAnswer, TokenError> {
        // Static and bootstrap tokens know no audiences: they are the API server's.
        let ours: Vec<String> =
            accepted.iter().filter(|audience| self.issuer.api_audiences().contains(audience)).cloned().collect();
        if !ours.is_empty() {
            if let Some(user) = self.tokens.user(token) {
                return Ok(TokenAnswer { user: (*user).clone(), audiences: ours });
            }
            if let Some(user) = bootstrap_token::user(cache, token, crate::clock::now_seconds()) {
                return Ok(TokenAnswer { user, audiences: ours });
            }
        }
        self.issuer.verify(cache, token, accepted)
    }
}

/// Credentials were given, but none was valid.
#[derive(Debug)]
pub(crate) struct Unauthenticated;

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
