//! Who may use the node API: the API server's certificate may do everything; other certificates and
//! bearer tokens are judged by the API server, and the verdicts kept for a while.

use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use naru_api::registry::{SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS};
use naru_client::Client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a verdict holds: as upstream's kubelet, for tokens, for what is allowed, for what is not.
const TOKEN: Duration = Duration::from_secs(120);
const ALLOWED: Duration = Duration::from_secs(300);
const DENIED: Duration = Duration::from_secs(30);
/// Verdicts kept; beyond, all are forgotten.
const KEPT: usize = 1024;

/// Who calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

#[derive(Debug)]
struct Kept<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: Eq + Hash, V: Clone> Kept<K, V> {
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn get(&self, key: &K) -> Option<V> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(key).filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, holds: Duration) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= KEPT {
            map.clear();
        }
        map.insert(key, (value, Instant::now() + holds));
    }
}

/// What a request wants to do to the node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Wish {
    pub(super) verb: &'static str,
    /// Subresources of `nodes`, of which one has to be allowed.
    pub(super) subresources: Vec<&'static str>,
}

impl Wish {
    /// By method and path.
    pub(super) fn of(method: &http::Method, path: &str) -> Self {
        let verb = match *method {
            http::Method::POST => "create",
            http::Method::PUT => "update",
            http::Method::PATCH => "patch",
            http::Method::DELETE => "delete",
            _ => "get",
        };
        let below = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
        let subresources = if below("/stats") {
            vec!["stats"]
        } else if below("/metrics") {
            vec!["metrics"]
        } else if below("/logs") {
            vec!["log"]
        } else if below("/pods") || below("/runningpods") {
            vec!["pods", "proxy"]
        } else if below("/healthz") {
            vec!["healthz", "proxy"]
        } else if below("/configz") {
            vec!["configz", "proxy"]
        } else {
            vec!["proxy"]
        };
        Self { verb, subresources }
    }
}

/// Judges callers.
#[derive(Debug)]
pub(super) struct Access {
    client: Client,
    node: String,
    /// Names that may do everything.
    trusted: Vec<String>,
    // Both are leaf locks.
    tokens: Kept<[u8; 32], Option<Caller>>,
    verdicts: Kept<(Caller, Wish), bool>,
}

impl Access {
    pub(super) fn new(client: Client, node: String, trusted: Vec<String>) -> Self {
        Self { client, node, trusted, tokens: Kept::new(), verdicts: Kept::new() }
    }

    /// Whose token this is.
    pub(super) async fn bearer(&self, token: &str) -> Option<Caller> {
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.tokens.get(&key) {
            return known;
        }
        let review: TokenReview = serde_json::from_value(json!({"metadata": {}, "spec": {"token": token}})).ok()?;
        let review: Value = match self.client.create(&TOKEN_REVIEWS, None, &review).await {
            Ok(review) => review,
            Err(error) => {
                tracing::warn!(%error, "token of a caller of the node API not reviewed");
                return None;
            }
        };
        let caller = caller(&review["status"]);
        self.tokens.put(key, caller.clone(), TOKEN);
        caller
    }

    /// Whether the caller may do this.
    pub(super) async fn may(&self, caller: &Caller, wish: &Wish) -> bool {
        if caller.groups.iter().any(|g| g == "system:masters") || self.trusted.contains(&caller.name) {
            return true;
        }
        let key = (caller.clone(), wish.clone());
        if let Some(known) = self.verdicts.get(&key) {
            return known;
        }
        for subresource in &wish.subresources {
            match self.review(caller, wish.verb, subresource).await {
                Ok(true) => {
                    self.verdicts.put(key, true, ALLOWED);
                    return true;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "access to the node API not reviewed");
                    return false;
                }
            }
        }
        self.verdicts.put(key, false, DENIED);
        false
    }

    async fn review(&self, caller: &Caller, verb: &str, subresource: &str) -> Result<bool, naru_client::Error> {
        let review = json!({"metadata": {}, "spec": {
            "user": caller.name, "uid": caller.uid, "groups": caller.groups, "extra": caller.extra,
            "resourceAttributes": {
                "verb": verb, "group": "", "version": "v1", "resource": "nodes", "subresource": subresource,
                "name": self.node,
            },
        }});
        let Ok(review) = serde_json::from_value::<SubjectAccessReview>(review) else { return Ok(false) };
        let review: Value = self.client.create(&SUBJECT_ACCESS_REVIEWS, None, &review).await?;
        Ok(review["status"]["allowed"] == true)
    }
}

/// The user of a token's review.
fn caller(status: &Value) -> Option<Caller> {
    if status["authenticated"] != true {
        return None;
    }
    let user = &status["user"];
    let text = |name: &str| user[name].as_str().unwrap_or_default().to_owned();
    let extra = serde_json::from_value(user["extra"].clone()).unwrap_or_default();
    let groups = serde_json::from_value(user["groups"].clone()).unwrap_or_default();
    Some(Caller { name: text("username"), uid: text("uid"), groups, extra })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_subresources_of_the_node() {
        let check = |path: &str, expect: &[&str]| {
            let wish = Wish::of(&http::Method::GET, path);
            assert_eq!((wish.verb, wish.subresources.as_slice()), ("get", expect), "{path}");
        };
        check("/stats/summary", &["stats"]);
        check("/metrics", &["metrics"]);
        check("/metrics/cadvisor", &["metrics"]);
        check("/metricsx", &["proxy"]);
        check("/pods", &["pods", "proxy"]);
        check("/exec/ns/pod/container", &["proxy"]);
        assert_eq!(Wish::of(&http::Method::POST, "/exec/a/b/c").verb, "create");
    }

    #[test]
    fn a_review_names_the_caller() {
        let status = json!({"authenticated": true, "user": {"username": "u", "groups": ["g"], "extra": {"k": ["v"]}}});
        let caller = caller(&status).unwrap_or_default();
        assert_eq!((caller.name.as_str(), caller.groups.len(), caller.extra.len()), ("u", 1, 1));
        assert_eq!(super::caller(&json!({"authenticated": false, "user": {"username": "u"}})), None);
    }
}
