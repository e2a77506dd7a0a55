//! Secret.

use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};

/// Secrets.
pub static SECRETS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.core.v1.Secret",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Type", "string"),
        Column::new("Data", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules::NONE,
};
