//! Node.

use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};

/// Nodes.
pub static NODES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &["no"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.Node",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "status",
        gvk: ("", "v1", "Node"),
        verbs: verbs::GET_PATCH_UPDATE,
        action: Action::Status,
    }],
    columns: &[
        Column::NAME,
        Column::new("Status", "string"),
        Column::new("Roles", "string"),
        Column::new("Age", "string"),
        Column::new("Version", "string"),
        Column::wide("Internal-IP", "string"),
        Column::wide("External-IP", "string"),
        Column::wide("OS-Image", "string"),
        Column::wide("Kernel-Version", "string"),
        Column::wide("Container-Runtime", "string"),
    ],
    rules: Rules::NONE,
};
