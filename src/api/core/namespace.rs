//! Namespace.

use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};

/// Namespaces.
pub static NAMESPACES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    scope: Scope::Cluster,
    verbs: verbs::NO_COLLECTION_DELETE,
    short_names: &["ns"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.Namespace",
    churn: Churn::Durable,
    subresources: &[
        Subresource {
            name: "finalize",
            gvk: ("", "v1", "Namespace"),
            verbs: verbs::UPDATE,
            action: Action::Finalize,
        },
        Subresource {
            name: "status",
            gvk: ("", "v1", "Namespace"),
            verbs: verbs::GET_PATCH_UPDATE,
            action: Action::Status,
        },
    ],
    columns: &[
        Column::NAME,
        Column::new("Status", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules::NONE,
};
