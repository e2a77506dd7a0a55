//! Role: permissions inside a namespace.

use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::table;
use crate::tree::text;
use serde_json::Value;

/// Roles.
pub static ROLES: Resource = Resource {
    group: "rbac.authorization.k8s.io",
    version: "v1",
    kind: "Role",
    plural: "roles",
    singular: "role",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.rbac.v1.Role",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Created At", "date")],
    rules: Rules {
        name: crate::meta::names::path_segment,
        row,
        validate: |role, errors| super::validate::rules(role, false, errors),
        ..Rules::NONE
    },
};

fn row(role: &Value, _now: i64) -> Vec<Value> {
    vec![table::name(role), text(&role["metadata"]["creationTimestamp"]).into()]
}
