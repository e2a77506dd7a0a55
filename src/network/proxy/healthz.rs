//! Port 10256, kube-proxy's own: balancers outside ask there whether to send a node anything at all.

use super::health::listen;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use naru_client::projections::NodeView;
use tokio::sync::watch;

/// Where kube-proxy answers.
const PORT: u16 = 10_256;
/// Checks answered at once; more wait in the listen queue.
const AT_ONCE: usize = 32;
/// Put on nodes that are about to go.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

/// How the proxy of this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Healthz {
    /// Since when the kernel has not what it should have.
    pub(super) behind_since: Option<Timestamp>,
    /// Whether the node stays.
    pub(super) eligible: bool,
}

impl Default for Healthz {
    fn default() -> Self {
        Self { behind_since: None, eligible: true }
    }
}

impl Healthz {
    fn answer(self, path: &str, now: Timestamp) -> Response<Full<Bytes>> {
        let alive = self.behind_since.is_none();
        let good = match path {
            "/healthz" => alive && self.eligible,
            "/livez" => alive,
            _ => return with_status(StatusCode::NOT_FOUND, String::new()),
        };
        let mut body = serde_json::json!({
            "lastUpdated": self.behind_since.unwrap_or(now).to_string(), "currentTime": now.to_string(),
        });
        if path == "/healthz" {
            body["nodeEligible"] = self.eligible.into();
        }
        with_status(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body.to_string())
    }
}

fn with_status(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether balancers may send a node anything new.
pub(super) fn is_eligible(node: &NodeView) -> bool {
    !node.metadata.is_deleting() && !node.spec.taints.iter().any(|taint| taint.key == LEAVING)
}

/// Answers for as long as this is awaited; where somebody else has the port, not at all.
pub(super) async fn serve(health: watch::Receiver<Healthz>) {
    match listen(PORT).await {
        Ok(listener) => {
            let answer = move |request: &hyper::Request<_>| {
                let now = Timestamp::now();
                (*health.borrow()).answer(request.uri().path(), now)
            };
            crate::http::serve(listener, AT_ONCE, answer).await;
        }
        Err(error) => {
            tracing::warn!(
                "balancers cannot ask this node for its health, another kube-proxy may run: port {PORT}: {error}"
            );
            std::future::pending().await
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    async fn check(health: Healthz, path: &str, status: u16, body: Value) {
        let response = health.answer(path, "2026-01-01T00:00:05Z".parse().unwrap());
        assert_eq!(response.status(), status, "{health:?} {path}");
        let said = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&said).unwrap(), body, "{health:?} {path}");
    }

    #[tokio::test]
    async fn a_node_that_leaves_or_lags_behind_says_so() {
        let (now, since) = ("2026-01-01T00:00:05Z", "2026-01-01T00:00:01Z");
        let good = Healthz::default();
        let leaving = Healthz { eligible: false, ..good };
        let behind = Healthz { behind_since: Some(since.parse().unwrap()), ..good };
        let of = |updated: &str, eligible: bool| json!({ "lastUpdated": updated, "currentTime": now, "nodeEligible": eligible });
        let alive = |updated: &str| json!({ "lastUpdated": updated, "currentTime": now });
        check(good, "/healthz", 200, of(now, true)).await;
        check(leaving, "/healthz", 503, of(now, false)).await;
        check(behind, "/healthz", 503, of(since, true)).await;
        check(good, "/livez", 200, alive(now)).await;
        check(leaving, "/livez", 200, alive(now)).await;
        check(behind, "/livez", 503, alive(since)).await;
    }

    #[test]
    fn nodes_that_are_about_to_go_are_known() {
        let check = |node: Value, expect| {
            let node: NodeView = serde_json::from_value(node).unwrap();
            assert_eq!(is_eligible(&node), expect, "{node:?}");
        };
        let metadata = json!({ "name": "a" });
        check(json!({ "metadata": metadata }), true);
        check(json!({ "metadata": metadata, "spec": { "taints": [{ "key": "x", "effect": "NoSchedule" }] } }), true);
        check(
            json!({ "metadata": metadata, "spec": { "taints": [{ "key": LEAVING, "effect": "NoSchedule" }] } }),
            false,
        );
        check(json!({ "metadata": { "name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z" } }), false);
    }
}
