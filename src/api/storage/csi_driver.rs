//! CSIDriver: what a driver of volumes wants from the cluster.

use crate::checks::one_of;
use crate::meta::prepare::{create as prepare_create, update_spec as prepare_update};
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, flag, is_empty, list, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// CSIDrivers.
pub static CSI_DRIVERS: Resource = Resource {
    group: "storage.k8s.io",
    version: "v1",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.storage.v1.CSIDriver",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("AttachRequired", "boolean"),
        Column::new("PodInfoOnMount", "boolean"),
        Column::new("StorageCapacity", "boolean"),
        Column::new("TokenRequests", "string"),
        Column::new("RequiresRepublish", "boolean"),
        Column::new("Modes", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules { default, prepare_create, prepare_update, row, validate, validate_update, ..Rules::NONE },
};

fn default(driver: &mut Value) {
    let spec = tree::ensure(tree::object(driver), "spec");
    tree::default(spec, "attachRequired", true);
    for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        tree::default(spec, field, false);
    }
    tree::default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.get("volumeLifecycleModes").is_none_or(is_empty) {
        spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
    }
}

fn row(driver: &Value, now: i64) -> Vec<Value> {
    let spec = &driver["spec"];
    let join = |values: Vec<&str>| Value::from(values.join(","));
    let audiences = match spec["tokenRequests"].as_array() {
        None => "<unset>".into(),
        Some(requests) => join(requests.iter().map(|r| text(&r["audience"])).collect()),
    };
    let modes: Vec<&str> = list(&spec["volumeLifecycleModes"]).iter().map(text).collect();
    vec![
        table::name(driver),
        spec["attachRequired"].as_bool().unwrap_or(true).into(),
        flag(&spec["podInfoOnMount"]).into(),
        flag(&spec["storageCapacity"]).into(),
        audiences,
        flag(&spec["requiresRepublish"]).into(),
        if modes.is_empty() { "<none>".into() } else { join(modes) },
        table::created(driver, now),
    ]
}

const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const MIN_PERIOD_SECONDS: i64 = 10;

fn validate(driver: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&driver["spec"], Path::root("spec"));
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    one_of(&spec["fsGroupPolicy"], path.child("fsGroupPolicy"), &policies, errors);
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let requests = path.child("tokenRequests");
    for (i, request) in list(&spec["tokenRequests"]).iter().enumerate() {
        let item = requests.index(i);
        let audience = text(&request["audience"]);
        if !seen.insert(audience) {
            errors.duplicate(item.child("audience"), audience);
            continue;
        }
        let Some(seconds) = request["expirationSeconds"].as_i64() else { continue };
        let at = item.child("expirationSeconds");
        if seconds < MIN_TOKEN_SECONDS {
            errors.invalid(at, seconds, "may not specify a duration less than 10 minutes");
        } else if seconds > MAX_TOKEN_SECONDS {
            errors.invalid(at, seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
    for mode in list(&spec["volumeLifecycleModes"]) {
        one_of(mode, path.child("volumeLifecycleModes"), &["Persistent", "Ephemeral"], errors);
    }
    let period = "nodeAllocatableUpdatePeriodSeconds";
    if let Some(seconds) = spec[period].as_i64().filter(|s| *s < MIN_PERIOD_SECONDS) {
        errors.invalid(path.child(period), seconds, "must be greater than or equal to 10 seconds");
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::root("spec");
    for (field, shown) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")] {
        if new["spec"][field] != old["spec"][field] {
            errors.immutable(path.child(shown), &new["spec"][field]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_driver_is_completed() {
        let mut driver = json!({"metadata": {"name": "d"}});
        default(&mut driver);
        prepare_create(&mut driver);
        assert_eq!(
            driver,
            json!({"metadata": {"name": "d", "generation": 1}, "spec": {"attachRequired": true, "podInfoOnMount": false,
                "storageCapacity": false, "requiresRepublish": false, "seLinuxMount": false,
                "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"]}})
        );
        assert_eq!(
            Value::from(row(&driver, 0)),
            json!(["d", true, false, false, "<unset>", false, "Persistent", "<unknown>"])
        );
    }

    #[test]
    fn what_can_be_wrong() {
        let spec = json!({"fsGroupPolicy": "X", "volumeLifecycleModes": ["Y"], "nodeAllocatableUpdatePeriodSeconds": 5,
            "tokenRequests": [{"audience": "a", "expirationSeconds": 1}, {"audience": "a"}]});
        let driver = json!({ "spec": spec });
        let mut errors = FieldErrors::default();
        validate(&driver, &mut errors);
        validate_update(
            &driver,
            &json!({"spec": {"attachRequired": true, "volumeLifecycleModes": ["Y"]}}),
            &mut errors,
        );
        assert_eq!(
            errors.messages(),
            [
                r#"spec.fsGroupPolicy: Unsupported value: "X": supported values: "File", "None", "ReadWriteOnceWithFSType""#,
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                r#"spec.tokenRequests[1].audience: Duplicate value: "a""#,
                r#"spec.volumeLifecycleModes: Unsupported value: "Y": supported values: "Persistent", "Ephemeral""#,
                "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 5: must be greater than or equal to 10 seconds",
                "spec.attachedRequired: Invalid value: null: field is immutable",
            ]
        );
    }
}
