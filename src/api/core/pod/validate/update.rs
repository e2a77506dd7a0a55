//! What may change in a pod once it exists: images, deadlines, more tolerations, fewer gates.

use crate::status::{FieldErrors, Path};
use crate::tree::{int, list, text};
use serde_json::Value;
use std::collections::BTreeSet;

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// So many differing fields are named.
const MAX_SHOWN: usize = 10;

/// Errors of an update through the main resource.
pub(in crate::core::pod) fn pod_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::root("spec");
    let (new, old) = (&new["spec"], &old["spec"]);
    for (field, what) in [("containers", "containers"), ("initContainers", "init containers")] {
        if list(&new[field]).len() != list(&old[field]).len() {
            let why = format!("pod updates may not add or remove {what}");
            errors.forbidden(path.child(field), &why);
            return;
        }
    }
    deadline(new, old, path, errors);
    tolerations(new, old, path.child("tolerations"), errors);
    gates(new, old, path.child("schedulingGates"), errors);
    let differences = differences(&munged(new, old), old);
    if !differences.is_empty() {
        let why = format!("pod updates may not change fields other than {UPDATABLE}\n{}", differences.join("\n"));
        errors.forbidden(path, &why);
    }
}

fn deadline(new: &Value, old: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("activeDeadlineSeconds");
    match (new["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64()) {
        (Some(new), Some(old)) if new > old => {
            errors.invalid(at, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            errors.invalid(at, None::<i64>, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
}

/// What tells one toleration from another.
fn without_seconds(toleration: &Value) -> String {
    let mut copy = toleration.clone();
    if let Some(copy) = copy.as_object_mut() {
        copy.remove("tolerationSeconds");
    }
    copy.to_string()
}

fn tolerations(new: &Value, old: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let present: BTreeSet<String> = list(&new["tolerations"]).iter().map(without_seconds).collect();
    if !list(&old["tolerations"]).iter().all(|t| present.contains(&without_seconds(t))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(path, why);
    }
}

fn gates(new: &Value, old: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let known: BTreeSet<&str> = list(&old["schedulingGates"]).iter().map(|g| text(&g["name"])).collect();
    for (i, gate) in list(&new["schedulingGates"]).iter().enumerate() {
        if !known.contains(text(&gate["name"])) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{}'", text(&gate["name"]));
            errors.forbidden(path.index(i), &why);
        }
    }
}

/// The new spec with what may change put back, so that only what may not remains different.
fn munged(new: &Value, old: &Value) -> Value {
    let mut spec = new.clone();
    let gated = !list(&old["schedulingGates"]).is_empty();
    let Some(object) = spec.as_object_mut() else { return spec };
    let mut fields = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    let old_grace = int(&old["terminationGracePeriodSeconds"]);
    if old_grace < 0 && int(&new["terminationGracePeriodSeconds"]) == 1 {
        fields.push("terminationGracePeriodSeconds");
    }
    // A gated pod is not yet considered by the scheduler: where it may run can still be narrowed.
    if gated && narrows(&new["nodeSelector"], &old["nodeSelector"]) {
        fields.push("nodeSelector");
    }
    if gated {
        fields.push("affinity");
    }
    for field in fields {
        match old.get(field) {
            Some(value) => object.insert(field.to_owned(), value.clone()),
            None => object.remove(field),
        };
    }
    for field in ["containers", "initContainers"] {
        for (container, old) in crate::tree::items(object, field).zip(list(&old[field])) {
            container.insert("image".to_owned(), old["image"].clone());
        }
    }
    spec
}

fn narrows(new: &Value, old: &Value) -> bool {
    crate::tree::entries(old).all(|(key, value)| new[key] == *value)
}

fn differences(new: &Value, old: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(new, old, "spec", &mut found);
    found
}

fn walk(new: &Value, old: &Value, path: &str, found: &mut Vec<String>) {
    if new == old || found.len() >= MAX_SHOWN {
        return;
    }
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            for key in old.keys().chain(new.keys().filter(|k| !old.contains_key(*k))) {
                let (new, old) = (new.get(key), old.get(key));
                let path = format!("{path}.{key}");
                walk(new.unwrap_or(&Value::Null), old.unwrap_or(&Value::Null), &path, found);
            }
        }
        (Value::Array(new), Value::Array(old)) if new.len() == old.len() => {
            for (i, (new, old)) in new.iter().zip(old).enumerate() {
                walk(new, old, &format!("{path}[{i}]"), found);
            }
        }
        _ => found.push(format!("  {path}: {old} -> {new}")),
    }
}
