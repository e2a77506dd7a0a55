//! PriorityClass.

use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};

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
    rules: Rules::NONE,
};
