//! RoleBinding: who has a role in a namespace.

use crate::rbac::binding;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};

/// RoleBindings.
pub static ROLE_BINDINGS: Resource = Resource {
    group: "rbac.authorization.k8s.io",
    version: "v1",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.rbac.v1.RoleBinding",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Role", "string"),
        Column::new("Age", "string"),
        Column::wide("Users", "string"),
        Column::wide("Groups", "string"),
        Column::wide("ServiceAccounts", "string"),
    ],
    rules: Rules {
        name: crate::meta::names::path_segment,
        default: binding::default,
        row: binding::row,
        validate: |b, errors| binding::validate(b, &["Role", "ClusterRole"], errors),
        validate_update: binding::validate_update,
        ..Rules::NONE
    },
};
