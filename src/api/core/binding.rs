//! Binding: the older place from which a pod is put on a node. Acted upon and forgotten.

use crate::registry::{Churn, Resource, Rules, Scope, verbs};

/// Bindings.
pub static BINDINGS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Binding",
    plural: "bindings",
    singular: "binding",
    scope: Scope::Namespaced,
    verbs: verbs::CREATE,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.core.v1.Binding",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[],
    rules: Rules::NONE,
};
