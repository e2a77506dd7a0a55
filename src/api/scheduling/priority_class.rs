//! PriorityClass: a name for a pod's priority.

use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::table;
use crate::tree::{self, flag, int, text};
use serde_json::Value;

/// PriorityClasses.
pub static PRIORITY_CLASSES: Resource = Resource {
    group: "scheduling.k8s.io",
    version: "v1",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &["pc"],
    categories: &[],
    type_name: "io.k8s.api.scheduling.v1.PriorityClass",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Value", "integer"),
        Column::new("Global-Default", "boolean"),
        Column::new("Age", "string"),
        Column::new("PreemptionPolicy", "string"),
    ],
    rules: Rules { default, prepare_create, row, ..Rules::NONE },
};

fn default(class: &mut Value) {
    tree::default_zero(tree::object(class), "preemptionPolicy", "PreemptLowerPriority");
}

fn prepare_create(class: &mut Value) {
    tree::ensure(tree::object(class), "metadata").insert("generation".to_owned(), 1.into());
}

fn row(class: &Value, now: i64) -> Vec<Value> {
    vec![
        table::name(class),
        int(&class["value"]).into(),
        flag(&class["globalDefault"]).into(),
        table::created(class, now),
        text(&class["preemptionPolicy"]).into(),
    ]
}
