//! ComponentStatus: whether the parts of the control plane are well. Made up when asked for, never stored.

use crate::meta::Verb;
use crate::registry::{Churn, Column, Resource, Rules, Scope};
use crate::table;
use crate::tree::{list, text};
use serde_json::{Value, json};

/// ComponentStatuses.
pub static COMPONENT_STATUSES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ComponentStatus",
    plural: "componentstatuses",
    singular: "componentstatus",
    scope: Scope::Cluster,
    verbs: &[Verb::Get, Verb::List],
    short_names: &["cs"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.ComponentStatus",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Status", "string"),
        Column::new("Message", "string"),
        Column::new("Error", "string"),
    ],
    rules: Rules { row, ..Rules::NONE },
};

fn row(component: &Value, _now: i64) -> Vec<Value> {
    let health = list(&component["conditions"]).iter().find(|condition| condition["type"] == "Healthy");
    let status = match health.map(|health| text(&health["status"])) {
        None => "Unknown",
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
    };
    let part = |field: &str| health.map_or("", |health| text(&health[field]));
    vec![table::name(component), status.into(), part("message").into(), part("error").into()]
}

/// The parts of the control plane, by the names that clients know. They share the server's process: where
/// it can answer, they run.
pub fn components() -> Vec<Value> {
    let healthy = json!([{"type": "Healthy", "status": "True", "message": "ok"}]);
    let component = |name: &str| json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": healthy});
    ["controller-manager", "etcd-0", "scheduler"].map(component).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_parts_say_so() {
        let rows: Vec<Value> = components().iter().map(|component| row(component, 0).into()).collect();
        assert_eq!(rows[0], json!(["controller-manager", "Healthy", "ok", ""]));
        assert_eq!(Value::from(row(&json!({"metadata": {"name": "x"}}), 0)), json!(["x", "Unknown", "", ""]));
    }
}
