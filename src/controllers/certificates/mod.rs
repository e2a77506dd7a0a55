//! CertificateSigningRequests: approved where a node asks for itself, signed, and cleaned up.

mod approving;
mod cleaning;
mod signing;

pub(crate) use approving::start as start_approving;
pub(crate) use cleaning::start as start_cleaning;
pub(crate) use signing::start as start_signing;
pub use signing::{Authority, Signer, SigningRequest};

use crate::Context;
use naru_api::registry;
use naru_client::{Error, Informer, ListParams, Next, WorkQueue};
use serde_json::Value;
use std::future::Future;
use std::sync::Arc;

/// Runs a reconciler over all requests. They are few, and looked at whole.
fn run<F, Fut>(context: &Context, reconcile: F)
where
    F: Fn(Arc<Value>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, Error>> + Send + 'static,
{
    let requests: Informer<Value> = context.informers.start(&registry::CERTIFICATE_SIGNING_REQUESTS, ListParams::all());
    let queue: WorkQueue<String> = WorkQueue::new();
    let wake = queue.clone();
    requests.subscribe(move |change| wake.add(change.key.name.clone()));
    let all = requests.clone();
    let reconcile = Arc::new(reconcile);
    context.run(&queue, 1, async move { requests.synced().await }, move |name: String| {
        let (request, reconcile) = (all.get("", &name), reconcile.clone());
        async move {
            match request {
                Some(request) => reconcile(request).await,
                None => Ok(Next::Done),
            }
        }
    });
}

fn name(request: &Value) -> &str {
    request["metadata"]["name"].as_str().unwrap_or_default()
}

/// A condition that holds.
fn condition<'a>(request: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = request["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind && condition["status"] != "False")
}

fn is_issued(request: &Value) -> bool {
    request["status"]["certificate"].as_str().is_some_and(|certificate| !certificate.is_empty())
}

/// The request with one more condition.
fn with_condition(request: &Value, kind: &str, reason: &str, message: &str) -> Value {
    let mut request = request.clone();
    if !request["status"]["conditions"].is_array() {
        request["status"]["conditions"] = Value::Array(Vec::new());
    }
    if let Some(conditions) = request["status"]["conditions"].as_array_mut() {
        conditions.push(serde_json::json!({"type": kind, "status": "True", "reason": reason, "message": message}));
    }
    request
}
