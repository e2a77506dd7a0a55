//! ClusterRole: permissions, cluster-wide or to be bound in namespaces.

use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::FieldErrors;
use crate::table;
use crate::tree::text;
use serde_json::Value;

/// ClusterRoles.
pub static CLUSTER_ROLES: Resource = Resource {
    group: "rbac.authorization.k8s.io",
    version: "v1",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.rbac.v1.ClusterRole",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Created At", "date")],
    rules: Rules { name: crate::meta::names::path_segment, row, validate, ..Rules::NONE },
};

fn row(role: &Value, _now: i64) -> Vec<Value> {
    vec![table::name(role), text(&role["metadata"]["creationTimestamp"]).into()]
}

fn validate(role: &Value, errors: &mut FieldErrors) {
    super::validate::rules(role, true, errors);
    super::validate::aggregation(role, errors);
}
