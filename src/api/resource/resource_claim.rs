//! ResourceClaim: devices that somebody asks for, and gets.

use super::claim;
use super::qualified::uid;
use super::validate::{MAX_CONFIGS, binding, config, items, label, pool, raw, set, toleration};
use crate::core::pod::validate::node_term;
use crate::meta::prepare::keep_status as prepare_update;
use crate::registry::{Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::storage::driver_name;
use crate::tree::{self, list, some_text, text};
use crate::{checks, table};
use crate::{internal, meta};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// ResourceClaims.
pub static RESOURCE_CLAIMS: Resource = Resource {
    group: "resource.k8s.io",
    version: "v1",
    kind: "ResourceClaim",
    plural: "resourceclaims",
    singular: "resourceclaim",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.resource.v1.ResourceClaim",
    churn: Churn::Durable,
    subresources: &[Subresource::status("resource.k8s.io", "v1", "ResourceClaim")],
    columns: &[Column::NAME, Column::new("State", "string"), Column::new("Age", "string")],
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        prepare_status,
        row,
        validate_create: |object, errors| claim::spec(&object["spec"], Path::root("spec"), errors),
        validate_update,
        validate_status,
        ..Rules::NONE
    },
};

const MAX_CONSUMERS: usize = 256;
const MAX_RESULTS: usize = 32;
const MAX_DATA_BYTES: usize = 10 * 1024;
const MAX_IPS: usize = 16;
const MAX_TOLERATIONS: usize = 16;
const MAX_CONDITIONS: usize = 8;

fn default(object: &mut Value) {
    if let Some(spec) = tree::sub(tree::object(object), "spec") {
        claim::default(spec);
    }
}

fn prepare_create(object: &mut Value) {
    tree::object(object).insert("status".to_owned(), json!({}));
}

fn row(object: &Value, now: i64) -> Vec<Value> {
    let (status, deleted) = (&object["status"], object["metadata"]["deletionTimestamp"].is_string());
    let mut states: Vec<&str> = Vec::new();
    if deleted {
        states.push("deleted");
    }
    if status["allocation"].is_object() {
        states.push("allocated");
        if !list(&status["reservedFor"]).is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    vec![table::name(object), states.join(",").into(), table::created(object, now)]
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new["spec"] != old["spec"] {
        errors.immutable("spec", internal::shown(&new["spec"], "io.k8s.api.resource.v1.ResourceClaimSpec"));
    }
}

/// What drivers said about devices that the claim no longer has goes with them.
fn prepare_status(new: &mut Value, old: &Value) {
    let results = |claim: &Value| -> BTreeSet<[String; 3]> {
        let results = list(&claim["status"]["allocation"]["devices"]["results"]).iter();
        results.map(|result| ["driver", "pool", "device"].map(|field| text(&result[field]).to_owned())).collect()
    };
    // The status is all that changes, though its writer may own more.
    let metadata = meta::metadata_mut(new);
    for field in ["annotations", "labels", "finalizers", "ownerReferences"] {
        match old["metadata"].get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    let (before, now) = (results(old), results(new));
    let gone: BTreeSet<_> = before.difference(&now).cloned().collect();
    let Some(status) = new["status"].as_object_mut() else { return };
    if let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) {
        devices.retain(|device| {
            !gone.contains(&["driver", "pool", "device"].map(|field| text(&device[field]).to_owned()))
        });
        if devices.is_empty() {
            status.remove("devices");
        }
    }
}

/// One device, for comparison.
fn device_of(result: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| text(&result[field]))
}

/// How errors name a device.
fn shown(device: &Value) -> String {
    device_of(device).into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

fn validate_status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (status, before, path) = (&new["status"], &old["status"], Path::root("status"));
    let consumers = path.child("reservedFor");
    let key = |consumer: &'_ Value| consumer["uid"].as_str().map(str::to_owned).unwrap_or_default();
    items(&status["reservedFor"], MAX_CONSUMERS, consumers, errors, |consumer, at, errors| {
        for field in ["resource", "name", "uid"] {
            checks::required(&consumer[field], at.child(field), errors);
        }
    });
    let mut seen = BTreeSet::new();
    for (i, consumer) in list(&status["reservedFor"]).iter().enumerate() {
        if !seen.insert(key(consumer)) {
            errors.duplicate(consumers.index(i), key(consumer));
        }
    }
    let allocated: BTreeSet<[&str; 4]> =
        list(&status["allocation"]["devices"]["results"]).iter().map(device_of).collect();
    let devices = path.child("devices");
    let mut told = BTreeSet::new();
    for (i, device) in list(&status["devices"]).iter().enumerate() {
        device_status(device, &allocated, devices.index(i), errors);
        if !told.insert(device_of(device)) {
            errors.duplicate(devices.index(i), shown(device));
        }
    }
    if !list(&status["reservedFor"]).is_empty() {
        if !status["allocation"].is_object() {
            errors.forbidden(consumers, "may not be specified when `allocated` is not set");
        } else if new["metadata"]["deletionTimestamp"].is_string()
            && list(&status["reservedFor"]).iter().any(|consumer| !list(&before["reservedFor"]).contains(consumer))
        {
            let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.forbidden(consumers, why);
        }
    }
    let (now, at) = (&status["allocation"], path.child("allocation"));
    match (now.is_object(), before["allocation"].is_object()) {
        (true, true) if *now != before["allocation"] => {
            errors.immutable(at, internal::shown(now, "io.k8s.api.resource.v1.AllocationResult"));
        }
        (true, false) => allocation(now, &claim::request_names(&new["spec"]), at, errors),
        _ => {}
    }
}

fn allocation(allocation: &Value, names: &BTreeSet<String>, path: Path<'_>, errors: &mut FieldErrors) {
    let (devices, at) = (&allocation["devices"], path.child("devices"));
    items(&devices["results"], MAX_RESULTS, at.child("results"), errors, |result, at, errors| {
        claim::reference(&result["request"], names, at.child("request"), errors);
        driver_name(&result["driver"], at.child("driver"), errors);
        pool(&result["pool"], at.child("pool"), errors);
        label(&result["device"], at.child("device"), errors);
        binding(result, at, errors);
        items(&result["tolerations"], MAX_TOLERATIONS, at.child("tolerations"), errors, toleration);
        if let Some(share) = result["shareID"].as_str() {
            uid(share, at.child("shareID"), errors);
        }
    });
    items(&devices["config"], 2 * MAX_CONFIGS, at.child("config"), errors, |item, at, errors| {
        let source = at.child("source");
        checks::required_one_of(&item["source"], source, &["FromClaim", "FromClass"], errors);
        claim::references(&item["requests"], names, at.child("requests"), errors);
        config(item, at, errors);
    });
    if allocation["nodeSelector"].is_object() {
        let selector = path.child("nodeSelector");
        let terms = selector.child("nodeSelectorTerms");
        node_terms(&allocation["nodeSelector"]["nodeSelectorTerms"], terms, errors);
    }
}

/// The terms of a node selector: one at least.
pub(super) fn node_terms(terms: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if list(terms).is_empty() {
        errors.required(path, "must have at least one node selector term");
    }
    for (i, term) in list(terms).iter().enumerate() {
        node_term(term, false, path.index(i), errors);
    }
}

fn device_status(device: &Value, allocated: &BTreeSet<[&str; 4]>, path: Path<'_>, errors: &mut FieldErrors) {
    driver_name(&device["driver"], path.child("driver"), errors);
    pool(&device["pool"], path.child("pool"), errors);
    label(&device["device"], path.child("device"), errors);
    if let Some(share) = some_text(&device["shareID"]) {
        uid(share, path.child("shareID"), errors);
    }
    if !allocated.contains(&device_of(device)) {
        errors.invalid(path, shown(device), "must be an allocated device in the claim");
    }
    let conditions = list(&device["conditions"]).len();
    if conditions > MAX_CONDITIONS {
        errors.too_many(path.child("conditions"), conditions, MAX_CONDITIONS);
    }
    if !device["data"].is_null() {
        raw(&device["data"], MAX_DATA_BYTES, path.child("data"), errors);
    }
    let (network, at) = (&device["networkData"], path.child("networkData"));
    for (field, max) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if text(&network[field]).len() > max {
            errors.too_long(at.child(field), max);
        }
    }
    set(&network["ips"], MAX_IPS, text, at.child("ips"), errors, checks::cidr);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(devices: Value) -> Vec<String> {
        let mut object = json!({"spec": {"devices": devices}});
        default(&mut object);
        let mut errors = FieldErrors::default();
        claim::spec(&object["spec"], Path::root("spec"), &mut errors);
        errors.messages()
    }

    #[test]
    fn what_can_be_wrong_with_a_request() {
        let good = json!({"name": "a", "exactly": {"deviceClassName": "c"}});
        assert_eq!(errors_of(json!({"requests": [good]})), [""; 0]);
        assert_eq!(
            errors_of(json!({"requests": [good, good, {"name": "b"}, {"name": "c", "exactly":
                {"deviceClassName": "x", "allocationMode": "All", "count": 2, "tolerations": [{"operator": "Exists", "value": "v"}]}}]})),
            [
                "spec.devices.requests[2]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[3].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[3].exactly.tolerations[0].value: Invalid value: \"v\": must be empty for operator `Exists`",
                "spec.devices.requests[1]: Duplicate value: \"a\"",
            ]
        );
        let many: Vec<Value> = (0..33).map(|i| json!({"name": format!("r{i}")})).collect();
        assert_eq!(
            errors_of(json!({"requests": many})),
            ["spec.devices.requests: Too many: 33: must have at most 32 items"]
        );
        let alternatives = json!({"name": "a", "firstAvailable": [{"name": "x", "deviceClassName": "c"}]});
        assert_eq!(
            errors_of(
                json!({"requests": [alternatives], "constraints": [{"requests": ["a/x", "a/y"], "matchAttribute": "m"}]})
            ),
            [
                "spec.devices.constraints[0].requests[1]: Invalid value: \"a/y\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"m\": a fully qualified name must be a domain and a name separated by a slash",
            ]
        );
    }

    #[test]
    fn allocations_are_checked_once_and_stay() {
        let old = json!({"spec": {"devices": {"requests": [{"name": "a"}]}}, "status": {}});
        let mut new = old.clone();
        new["status"] = json!({
            "allocation": {"devices": {"results": [{"request": "b", "driver": "d.example.com", "pool": "p", "device": "x"}]}},
            "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}],
            "devices": [{"driver": "d.example.com", "pool": "p", "device": "other"}],
        });
        let check = |new: &Value, old: &Value| {
            let mut errors = FieldErrors::default();
            validate_status(new, old, &mut errors);
            errors.messages()
        };
        assert_eq!(
            check(&new, &old),
            [
                "status.devices[0]: Invalid value: \"d.example.com/p/other\": must be an allocated device in the claim",
                "status.allocation.devices.results[0].request: Invalid value: \"b\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            ]
        );
        let mut twice = new.clone();
        twice["status"]["devices"] = json!([{"driver": "d.example.com", "pool": "p", "device": "x"}, {"driver": "d.example.com", "pool": "p", "device": "x"}]);
        assert_eq!(check(&twice, &new), ["status.devices[1]: Duplicate value: \"d.example.com/p/x\""]);
        let mut other = new.clone();
        other["status"]["devices"] = json!([]);
        other["status"]["allocation"] = json!({"devices": {}});
        assert_eq!(
            check(&other, &new),
            [
                "status.allocation: Invalid value: {\"Devices\":{\"Results\":null,\"Config\":null},\"NodeSelector\":null,\"AllocationTimestamp\":null}: field is immutable"
            ]
        );
        other["status"] = json!({"reservedFor": new["status"]["reservedFor"]});
        assert_eq!(
            check(&other, &new),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
        assert_eq!(row(&new, 0)[1], "allocated,reserved");
        assert_eq!(row(&old, 0)[1], "pending");
    }
}
