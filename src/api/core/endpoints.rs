//! Endpoints.

use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};

/// Objects of endpoints.
pub static ENDPOINTS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["ep"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.Endpoints",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Endpoints", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules::NONE,
};
