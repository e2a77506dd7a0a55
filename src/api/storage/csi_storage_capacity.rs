//! CSIStorageCapacity: how much a class can still provide in a part of the cluster.

use crate::checks::{self, complain};
use crate::core::pod;
use crate::meta::{names, validate as meta};
use crate::quantity::Quantity;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{entries, text};
use serde_json::Value;

/// CSIStorageCapacities.
pub static CSI_STORAGE_CAPACITIES: Resource = Resource {
    group: "storage.k8s.io",
    version: "v1",
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.storage.v1.CSIStorageCapacity",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Created At", "date")],
    rules: Rules { row, validate, validate_update, warnings, ..Rules::NONE },
};

fn row(capacity: &Value, _now: i64) -> Vec<Value> {
    vec![table::name(capacity), text(&capacity["metadata"]["creationTimestamp"]).into()]
}

fn validate(capacity: &Value, errors: &mut FieldErrors) {
    meta::label_selector(&capacity["nodeTopology"], &Path::root("nodeTopology"), errors);
    let class = text(&capacity["storageClassName"]);
    complain(names::dns_subdomain(class), class, Path::root("storageClassName"), errors);
    if let Ok(amount) = Quantity::parse(text(&capacity["capacity"]))
        && amount.is_negative()
    {
        errors.invalid("capacity", amount.to_string().as_str(), checks::NEGATIVE);
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for field in ["nodeTopology", "storageClassName"] {
        if new[field] != old[field] {
            errors.immutable(field, &new[field]);
        }
    }
}

fn warnings(capacity: &Value) -> Vec<String> {
    let (topology, path) = (&capacity["nodeTopology"], Path::root("nodeTopology"));
    let mut all = Vec::new();
    pod::warnings::expressions(topology, path, &mut all);
    let at = path.child("matchLabels");
    for (key, _) in entries(&topology["matchLabels"]) {
        all.extend(pod::warnings::renamed(key).map(|why| format!("{}: {why}", at.child(key))));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn capacities_are_checked_and_bound_to_their_place() {
        let good = json!({"metadata": {"name": "c"}, "storageClassName": "fast", "capacity": "1Gi"});
        let mut errors = FieldErrors::default();
        validate(&good, &mut errors);
        assert!(errors.is_empty());
        let old = json!({"nodeTopology": {"matchLabels": {"beta.kubernetes.io/os": "linux"},
            "matchExpressions": [{"key": "beta.kubernetes.io/arch", "operator": "Exists"}]}});
        assert_eq!(
            warnings(&old),
            [
                "nodeTopology.matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use \"kubernetes.io/arch\" instead",
                "nodeTopology.matchLabels.beta.kubernetes.io/os: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            ]
        );
        let bad = json!({"storageClassName": "slow", "capacity": "-1"});
        validate(&bad, &mut errors);
        validate_update(&bad, &good, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                r#"capacity: Invalid value: "-1": must be greater than or equal to 0"#,
                r#"storageClassName: Invalid value: "slow": field is immutable"#,
            ]
        );
    }
}
