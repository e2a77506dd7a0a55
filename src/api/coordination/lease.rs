//! Lease: who leads, or that a node is alive. Renewals are kept lazily.

use crate::checks;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::text;
use serde_json::Value;

/// Leases.
pub static LEASES: Resource = Resource {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.coordination.v1.Lease",
    churn: Churn::LazyRenewals,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Holder", "string"), Column::new("Age", "string")],
    rules: Rules { row, validate, ..Rules::NONE },
};

fn row(lease: &Value, now: i64) -> Vec<Value> {
    vec![table::name(lease), text(&lease["spec"]["holderIdentity"]).into(), table::created(lease, now)]
}

fn validate(lease: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&lease["spec"], Path::root("spec"));
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|s| *s <= 0) {
        errors.invalid(path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    checks::non_negative(spec, "leaseTransitions", &path, errors);
}
