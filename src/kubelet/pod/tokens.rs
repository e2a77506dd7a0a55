//! Service account tokens of a pod, renewed before they expire.

use super::start::identity;
use crate::credentials::account::{Account, AccountData};
use crate::shared::Shared;
use crate::volumes::payload::TokenRequest;
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1 as auth;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use naru_api::registry::SERVICE_ACCOUNTS;
use serde_json::json;
use std::collections::HashMap;

/// Even a token that holds for years is renewed daily.
const LONGEST_USE: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, Clone)]
struct Token {
    text: String,
    renew_at: Timestamp,
}

/// The tokens of one pod.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    held: HashMap<TokenRequest, Token>,
}

/// When a token issued at `now` that expires at `expiry` is renewed: after four fifths of its time.
fn renewal(now: Timestamp, expiry: Timestamp) -> Timestamp {
    let lifetime = expiry.duration_since(now);
    now + (lifetime * 4 / 5).clamp(SignedDuration::from_secs(10), LONGEST_USE)
}

impl Tokens {
    /// When the first token has to be renewed.
    pub(crate) fn renew_at(&self) -> Option<Timestamp> {
        self.held.values().map(|t| t.renew_at).min()
    }

    /// The tokens for `wanted`, issued or renewed as needed. A failed renewal leaves the old token.
    pub(crate) async fn get(
        &mut self,
        shared: &Shared,
        pod: &Pod,
        wanted: &[TokenRequest],
        now: Timestamp,
    ) -> Result<HashMap<TokenRequest, String>, String> {
        for request in wanted {
            if self.held.get(request).is_some_and(|t| t.renew_at > now) {
                continue;
            }
            match issue(shared, pod, request).await {
                Ok((text, expiry)) => {
                    self.held.insert(request.clone(), Token { text, renew_at: renewal(now, expiry) });
                }
                Err(error) => match self.held.get_mut(request) {
                    Some(token) => {
                        tracing::warn!(pod = pod.metadata.name, error, "token not renewed");
                        token.renew_at = now + SignedDuration::from_secs(60);
                    }
                    None => return Err(format!("failed to fetch token: {error}")),
                },
            }
        }
        Ok(self.held.iter().map(|(request, token)| (request.clone(), token.text.clone())).collect())
    }
}

async fn issue(shared: &Shared, pod: &Pod, request: &TokenRequest) -> Result<(String, Timestamp), String> {
    let (namespace, name, uid) = identity(pod);
    let account = pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.as_deref())
        .filter(|n| !n.is_empty())
        .unwrap_or("default");
    let audiences: Vec<&str> = if request.audience.is_empty() { Vec::new() } else { vec![&request.audience] };
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audiences, "expirationSeconds": request.expiration_seconds,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid},
        },
    });
    let client = &shared.config.client;
    let answer: auth::TokenRequest = client
        .create_sub(&SERVICE_ACCOUNTS, Some(&namespace), account, "token", &body)
        .await
        .map_err(|error| error.to_string())?;
    let status = answer.status.ok_or("the answer holds no token")?;
    let expiry = status.expiration_timestamp.ok_or("the answer holds no expiry")?;
    Ok((status.token.ok_or("the answer holds no token")?, expiry.0))
}

/// The service account of a pod, as programs that know passwords of registries may see it.
#[derive(Debug)]
pub(crate) struct PodAccount<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) pod: &'a Pod,
}

#[async_trait]
impl Account for PodAccount<'_> {
    fn name(&self) -> Option<(String, String)> {
        let name = self.pod.spec.as_ref()?.service_account_name.clone().filter(|name| !name.is_empty())?;
        (!crate::static_pods::is_static(self.pod)).then(|| (identity(self.pod).0, name))
    }

    async fn read(&self) -> Result<AccountData, String> {
        let (namespace, name) = self.name().ok_or("the pod has no service account")?;
        let client = &self.shared.config.client;
        let account: ServiceAccount =
            client.get(&SERVICE_ACCOUNTS, Some(&namespace), &name).await.map_err(|error| error.to_string())?;
        let meta = account.metadata;
        Ok(AccountData { uid: meta.uid.unwrap_or_default(), annotations: meta.annotations.unwrap_or_default() })
    }

    async fn token(&self, audience: &str) -> Result<String, String> {
        // Upstream leaves the time to the API server, whose usual one this is.
        let request = TokenRequest { audience: audience.to_owned(), expiration_seconds: 3600 };
        Ok(issue(self.shared, self.pod, &request).await?.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn tokens_are_renewed_before_they_expire() {
        let at = |secs: i64| Timestamp::from_second(1_700_000_000 + secs).unwrap();
        assert_eq!(renewal(at(0), at(3600)), at(2880));
        assert_eq!(renewal(at(0), at(365 * 86400)), at(86400));
        assert_eq!(renewal(at(0), at(0)), at(10));
    }
}
