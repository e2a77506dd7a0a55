//! ReplicaSet.

use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};

/// ReplicaSets.
pub static REPLICA_SETS: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["rs"],
    categories: &["all"],
    type_name: "io.k8s.api.apps.v1.ReplicaSet",
    churn: Churn::Durable,
    subresources: &[
        Subresource {
            name: "scale",
            gvk: ("autoscaling", "v1", "Scale"),
            verbs: verbs::GET_PATCH_UPDATE,
            action: Action::Scale,
        },
        Subresource {
            name: "status",
            gvk: ("apps", "v1", "ReplicaSet"),
            verbs: verbs::GET_PATCH_UPDATE,
            action: Action::Status,
        },
    ],
    columns: &[
        Column::NAME,
        Column::new("Desired", "integer"),
        Column::new("Current", "integer"),
        Column::new("Ready", "integer"),
        Column::new("Age", "string"),
        Column::wide("Containers", "string"),
        Column::wide("Images", "string"),
        Column::wide("Selector", "string"),
    ],
    rules: Rules::NONE,
};
