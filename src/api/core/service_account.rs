//! ServiceAccount.

use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};

/// ServiceAccounts.
pub static SERVICE_ACCOUNTS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["sa"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.ServiceAccount",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "token",
        gvk: ("authentication.k8s.io", "v1", "TokenRequest"),
        verbs: verbs::CREATE,
        action: Action::Token,
    }],
    columns: &[Column::NAME, Column::new("Age", "string")],
    rules: Rules::NONE,
};
