//! Pod.

use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};

/// Pods.
pub static PODS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["po"],
    categories: &["all"],
    type_name: "io.k8s.api.core.v1.Pod",
    churn: Churn::Durable,
    subresources: &[
        Subresource {
            name: "binding",
            gvk: ("", "v1", "Binding"),
            verbs: verbs::CREATE,
            action: Action::Binding,
        },
        Subresource {
            name: "exec",
            gvk: ("", "v1", "PodExecOptions"),
            verbs: verbs::CREATE_GET,
            action: Action::Exec,
        },
        Subresource {
            name: "log",
            gvk: ("", "v1", "Pod"),
            verbs: verbs::GET,
            action: Action::Log,
        },
        Subresource {
            name: "status",
            gvk: ("", "v1", "Pod"),
            verbs: verbs::GET_PATCH_UPDATE,
            action: Action::Status,
        },
    ],
    columns: &[
        Column::NAME,
        Column::new("Ready", "string"),
        Column::new("Status", "string"),
        Column::new("Restarts", "string"),
        Column::new("Age", "string"),
        Column::wide("IP", "string"),
        Column::wide("Node", "string"),
        Column::wide("Nominated Node", "string"),
        Column::wide("Readiness Gates", "string"),
    ],
    rules: Rules::NONE,
};
