//! Service.

use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};

/// Services.
pub static SERVICES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["svc"],
    categories: &["all"],
    type_name: "io.k8s.api.core.v1.Service",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "status",
        gvk: ("", "v1", "Service"),
        verbs: verbs::GET_PATCH_UPDATE,
        action: Action::Status,
    }],
    columns: &[
        Column::NAME,
        Column::new("Type", "string"),
        Column::new("Cluster-IP", "string"),
        Column::new("External-IP", "string"),
        Column::new("Port(s)", "string"),
        Column::new("Age", "string"),
        Column::wide("Selector", "string"),
    ],
    rules: Rules::NONE,
};
