//! Who is asking: front proxies, client certificates, bearer tokens of several kinds, or nobody (anonymous).

mod bootstrap_token;
mod configuration;
mod expressions;
mod front_proxy;
mod impersonation;
pub(crate) mod jwt;
mod oidc;
mod peer;
mod service_account;
mod structured;
mod tokens;
mod webhook;
mod websocket;
mod x509;

pub(crate) use impersonation::impersonated;
pub(crate) use peer::Peer;
pub use service_account::LegacyToken;
pub(crate) use service_account::{Binding, Issuer, LAST_USED, Life, Remarks, SERVICE_ACCOUNT_PREFIX, day};

use crate::cache::Cache;
use crate::config::{Config, FrontProxy, StartError, StaticToken};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use naru_base::Shutdown;
use service_account::TokenAnswer;
use std::collections::BTreeMap;
use std::sync::Arc;
use structured::Structured;
use tokens::StaticTokens;
use webhook::TokenWebhook;

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

/// The authenticators.
#[derive(Debug)]
pub(crate) struct Authn {
    pub(crate) issuer: Issuer,
    pub(crate) peers: peer::PeerJudge,
    front_proxy: FrontProxy,
    tokens: StaticTokens,
    structured: Structured,
    webhook: Option<TokenWebhook>,
}

/// Credentials were given, but none was valid.
#[derive(Debug)]
pub(crate) struct Unauthenticated;

impl Authn {
    /// All of them, as configured.
    pub(crate) fn new(issuer: Issuer, config: &Config, shutdown: &Shutdown) -> Result<Self, StartError> {
        let flags = &config.flags;
        let mut of_file = Vec::new();
        if let Some(path) = &flags.token_auth_file {
            let wrong = |reason: String| StartError::Config { what: "token-auth-file", reason };
            let text = configuration::read(path).map_err(wrong)?;
            of_file = tokens::parse_file(&text, &path.to_string_lossy()).map_err(wrong)?;
        }
        let asked = &flags.token_webhook;
        let webhook = asked.config_file.as_ref().map(|path| {
            let audiences = issuer.api_audiences().to_vec();
            TokenWebhook::new(path, asked.version.as_deref(), asked.cache_ttl, audiences).map_err(|error| {
                StartError::Config { what: "authentication-token-webhook-config-file", reason: error.to_string() }
            })
        });
        Ok(Self {
            peers: peer::PeerJudge::new(config)?,
            front_proxy: config.front_proxy.clone(),
            tokens: StaticTokens::new(&config.static_tokens, of_file),
            structured: Structured::start(flags, issuer.urls(), shutdown)
                .map_err(|reason| StartError::Config { what: "authentication-config", reason })?,
            webhook: webhook.transpose()?,
            issuer,
        })
    }

    /// Takes other tokens in the place of the configured ones.
    pub(crate) fn replace_static_tokens(&self, tokens: &[StaticToken]) {
        self.tokens.replace(tokens);
    }

    /// The user of a request, whose credentials are taken out of its headers; `Err` when credentials were given and
    /// are not valid, or when none were and the path is not open to everybody (401).
    pub(crate) async fn authenticate(
        &self,
        cache: &Cache,
        peer: &Peer,
        headers: &mut HeaderMap,
        path: &str,
    ) -> Result<(Arc<User>, Remarks), Unauthenticated> {
        let proxied = if peer.front_proxy { front_proxy::user(&self.front_proxy, headers) } else { None };
        front_proxy::strip(&self.front_proxy, headers);
        let authorization = headers.remove(AUTHORIZATION);
        let over_websocket = websocket::take_token(headers);
        if let Some(user) = proxied {
            return Ok((Arc::new(user), Remarks::default()));
        }
        if let Some(user) = &peer.user {
            return Ok((user.clone(), Remarks::default()));
        }
        let given = authorization.as_ref().and_then(|value| value.to_str().ok()).and_then(bearer);
        let token = match (given, &over_websocket) {
            (Some(token), _) => Some(token),
            (None, Ok(token)) => token.as_deref(),
            (None, Err(reason)) => {
                tracing::debug!(reason, "bearer token in a WebSocket's protocols refused");
                return Err(Unauthenticated);
            }
        };
        let Some(token) = token else {
            let open = !peer.rejected && self.structured.anonymous_may(path);
            let nobody = || (Arc::new(User::anonymous()), Remarks::default());
            return if open { Ok(nobody()) } else { Err(Unauthenticated) };
        };
        match self.token(cache, token, self.issuer.api_audiences()).await {
            Ok(Some(answer)) => Ok((Arc::new(answer.user), answer.remarks)),
            Ok(None) => Err(Unauthenticated),
            Err(reason) => {
                tracing::debug!(reason, "bearer token refused");
                Err(Unauthenticated)
            }
        }
    }

    /// Whose token this is, for one of these audiences; `None` when nobody knows it.
    pub(crate) async fn token(
        &self,
        cache: &Cache,
        token: &str,
        accepted: &[String],
    ) -> Result<Option<TokenAnswer>, String> {
        // Most kinds of tokens know no audiences: they are the API server's.
        let ours: Vec<String> =
            accepted.iter().filter(|audience| self.issuer.api_audiences().contains(audience)).cloned().collect();
        let ours = (!ours.is_empty()).then_some(ours);
        let now = crate::clock::now_seconds();
        let mut errors = Vec::new();
        if let Some(audiences) = &ours
            && let Some(user) = self.tokens.user(token)
        {
            return Ok(Some(TokenAnswer::plain((*user).clone(), audiences.clone())));
        }
        match self.issuer.verify(cache, token, accepted) {
            Ok(Some(answer)) => return Ok(Some(answer)),
            Ok(None) => {}
            Err(error) => errors.push(error.to_string()),
        }
        if let Some(audiences) = ours {
            if let Some(user) = bootstrap_token::user(cache, token, now) {
                return Ok(Some(TokenAnswer::plain(user, audiences)));
            }
            match self.structured.user(token, now).await {
                Ok(Some(user)) => return Ok(Some(TokenAnswer::plain(user, audiences))),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        if let Some(webhook) = &self.webhook {
            match webhook.user(token, accepted).await {
                Ok(Some((user, audiences))) => return Ok(Some(TokenAnswer::plain(user, audiences))),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        crate::authz::aggregate(&errors).map_or(Ok(None), Err)
    }
}

/// The token of an Authorization header: the second of its words, which a second space in between makes empty.
fn bearer(header: &str) -> Option<&str> {
    let mut words = header.trim().split(' ');
    let (scheme, token) = (words.next()?, words.next()?);
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
