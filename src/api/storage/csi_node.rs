//! CSINode: the drivers of volumes on a node.

use super::validate::driver_name;
use crate::checks::{complain, non_negative, required};
use crate::internal;
use crate::meta::names;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, list, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// CSINodes.
pub static CSI_NODES: Resource = Resource {
    group: "storage.k8s.io",
    version: "v1",
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.storage.v1.CSINode",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Drivers", "integer"), Column::new("Age", "string")],
    rules: Rules { default, row, validate, validate_update, ..Rules::NONE },
};

/// The longest name that a driver may have for the node.
const MAX_NODE_ID: usize = 256;

fn default(node: &mut Value) {
    tree::default(tree::ensure(tree::object(node), "spec"), "drivers", json!([]));
}

fn row(node: &Value, now: i64) -> Vec<Value> {
    vec![table::name(node), list(&node["spec"]["drivers"]).len().into(), table::created(node, now)]
}

fn validate(node: &Value, errors: &mut FieldErrors) {
    let path = Path::root("spec");
    let drivers = path.child("drivers");
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, driver) in list(&node["spec"]["drivers"]).iter().enumerate() {
        let item = drivers.index(i);
        driver_name(&driver["name"], item.child("name"), errors);
        let (id, at) = (text(&driver["nodeID"]), item.child("nodeID"));
        required(&driver["nodeID"], at, errors);
        if id.len() > MAX_NODE_ID {
            errors.invalid(at, id, &format!("must be {MAX_NODE_ID} characters or less"));
        }
        non_negative(&driver["allocatable"], "count", &item.child("allocatable"), errors);
        if !seen.insert(text(&driver["name"])) {
            errors.duplicate(item.child("name"), &driver["name"]);
        }
        let mut keys: BTreeSet<&str> = BTreeSet::new();
        for key in list(&driver["topologyKeys"]).iter().map(text) {
            if key.is_empty() {
                errors.required(item, "");
            }
            if !keys.insert(key) {
                errors.duplicate(item, key);
            }
            complain(names::qualified_name(key), key, item, errors);
        }
    }
}

/// A driver that is there may change its count of volumes, nothing else.
fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let fixed = |driver: &Value| {
        let mut driver = driver.clone();
        tree::object(&mut driver).remove("allocatable");
        driver
    };
    for before in list(&old["spec"]["drivers"]) {
        for driver in list(&new["spec"]["drivers"]).iter().filter(|d| d["name"] == before["name"]) {
            let driver = fixed(driver);
            if driver != fixed(before) {
                errors.immutable("spec.drivers", internal::shown(&driver, "io.k8s.api.storage.v1.CSINodeDriver"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_checked() {
        let node = json!({"spec": {"drivers": [
            {"name": "a", "nodeID": "n", "allocatable": {"count": -1}, "topologyKeys": ["k", "k"]}, {"name": "a"}]}});
        let mut errors = FieldErrors::default();
        validate(&node, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                r#"spec.drivers[0]: Duplicate value: "k""#,
                "spec.drivers[1].nodeID: Required value",
                r#"spec.drivers[1].name: Duplicate value: "a""#,
            ]
        );
        assert_eq!(row(&node, 0)[1], 2);
    }

    #[test]
    fn drivers_stay_but_for_their_count() {
        let node = |id: &str, count: i64| json!({"spec": {"drivers": [{"name": "a", "nodeID": id, "allocatable": {"count": count}}]}});
        let mut errors = FieldErrors::default();
        validate_update(&node("n", 2), &node("n", 1), &mut errors);
        assert!(errors.is_empty());
        validate_update(&node("m", 2), &node("n", 1), &mut errors);
        assert_eq!(
            errors.messages(),
            [
                r#"spec.drivers: Invalid value: {"Name":"a","NodeID":"m","TopologyKeys":null,"Allocatable":null}: field is immutable"#
            ]
        );
    }
}
