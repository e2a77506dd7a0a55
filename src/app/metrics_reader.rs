//! Who may view a namespace may see what its pods use: a role that the default roles gather.

use naru_api::registry::{self, Resource};
use serde_json::{Value, json};

/// The role under metrics-server's name, since it is ours that answers instead.
pub(crate) fn objects() -> Vec<(&'static Resource, Value)> {
    let gathered = ["view", "edit", "admin"].map(|role| format!("rbac.authorization.k8s.io/aggregate-to-{role}"));
    let labels: serde_json::Map<String, Value> = gathered.into_iter().map(|label| (label, "true".into())).collect();
    let role = json!({
        "metadata": { "name": "system:aggregated-metrics-reader", "labels": labels },
        "rules": [{
            "apiGroups": ["metrics.k8s.io"], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"],
        }],
    });
    vec![(&registry::CLUSTER_ROLES, role)]
}
