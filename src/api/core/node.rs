//! Node: a machine that runs pods. Its agent creates it with a status.

use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::table;
use crate::tree::{self, list, some_text, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Nodes.
pub static NODES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &["no"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.Node",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "status",
        gvk: ("", "v1", "Node"),
        verbs: verbs::GET_PATCH_UPDATE,
        action: Action::Status,
    }],
    columns: &[
        Column::NAME,
        Column::new("Status", "string"),
        Column::new("Roles", "string"),
        Column::new("Age", "string"),
        Column::new("Version", "string"),
        Column::wide("Internal-IP", "string"),
        Column::wide("External-IP", "string"),
        Column::wide("OS-Image", "string"),
        Column::wide("Kernel-Version", "string"),
        Column::wide("Container-Runtime", "string"),
    ],
    rules: Rules { default, prepare_update, fields, row, ..Rules::NONE },
};

fn default(node: &mut Value) {
    let node = tree::object(node);
    let spec = tree::ensure(node, "spec");
    let one = spec.get("podCIDR").map_or("", text).to_owned();
    let first = spec.get("podCIDRs").map_or("", |l| text(&l[0])).to_owned();
    if !one.is_empty() && one != first {
        spec.insert("podCIDRs".to_owned(), json!([one]));
    } else if one.is_empty() && !first.is_empty() {
        spec.insert("podCIDR".to_owned(), first.into());
    }
    let status = tree::ensure(node, "status");
    if let Some(capacity) = status.get("capacity").cloned() {
        tree::default(status, "allocatable", capacity);
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    tree::keep_status(tree::object(new), old);
}

fn fields(node: &Value) -> Vec<(&'static str, String)> {
    vec![("spec.unschedulable", tree::flag(&node["spec"]["unschedulable"]).to_string())]
}

fn state(node: &Value) -> String {
    let ready = list(&node["status"]["conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut state = match ready {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if tree::flag(&node["spec"]["unschedulable"]) {
        state.push_str(",SchedulingDisabled");
    }
    state
}

fn roles(node: &Value) -> String {
    let roles: BTreeSet<&str> = tree::entries(&node["metadata"]["labels"])
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => some_text(value),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() {
        return "<none>".to_owned();
    }
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn address(node: &Value, kind: &str) -> Value {
    let address = list(&node["status"]["addresses"]).iter().find(|a| a["type"] == kind);
    table::or_none(address.map_or("", |a| text(&a["address"])))
}

fn row(node: &Value, now: i64) -> Vec<Value> {
    let info = &node["status"]["nodeInfo"];
    let known = |field: &str| Value::from(some_text(&info[field]).unwrap_or("<unknown>"));
    vec![
        table::name(node),
        state(node).into(),
        roles(node).into(),
        table::created(node, now),
        text(&info["kubeletVersion"]).into(),
        address(node, "InternalIP"),
        address(node, "ExternalIP"),
        known("osImage"),
        known("kernelVersion"),
        known("containerRuntimeVersion"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_nodes() {
        let node = json!({
            "metadata": {"name": "n", "creationTimestamp": "1970-01-01T00:00:00Z", "labels": {
                "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0"}},
        });
        let expect = json!([
            "n",
            "NotReady,SchedulingDisabled",
            "control-plane,edge",
            "9s",
            "v1.36.0",
            "10.0.0.1",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]);
        assert_eq!(Value::from(row(&node, 9)), expect);
    }
}
