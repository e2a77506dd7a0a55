//! Deployment.

use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};

/// Deployments.
pub static DEPLOYMENTS: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["deploy"],
    categories: &["all"],
    type_name: "io.k8s.api.apps.v1.Deployment",
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
            gvk: ("apps", "v1", "Deployment"),
            verbs: verbs::GET_PATCH_UPDATE,
            action: Action::Status,
        },
    ],
    columns: &[
        Column::NAME,
        Column::new("Ready", "string"),
        Column::new("Up-to-date", "string"),
        Column::new("Available", "string"),
        Column::new("Age", "string"),
        Column::wide("Containers", "string"),
        Column::wide("Images", "string"),
        Column::wide("Selector", "string"),
    ],
    rules: Rules::NONE,
};
