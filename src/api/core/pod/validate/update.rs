//! What may change in a pod once it exists: images, deadlines, more tolerations, fewer gates.

use super::annotations;
use crate::internal;
use crate::status::{FieldErrors, Path};
use crate::tree::{int, list, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Errors of an update through the main resource.
pub(in crate::core::pod) fn pod_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    annotations::update(new, old, errors);
    let path = Path::root("spec");
    let (new, old) = (&new["spec"], &old["spec"]);
    for field in ["containers", "initContainers"] {
        if list(&new[field]).len() != list(&old[field]).len() {
            return errors.forbidden(path.child(field), "pod updates may not add or remove containers");
        }
    }
    if !deadline(new, old, path, errors) {
        return;
    }
    tolerations(new, old, path.child("tolerations"), errors);
    gates(new, old, path.child("schedulingGates"), errors);
    let munged = munged(new, old, path, errors);
    if munged != *old {
        let difference = internal::pod_specs(old, &munged);
        let why = format!("pod updates may not change fields other than {UPDATABLE}\n{difference}");
        errors.forbidden(path, &why);
    }
}

/// Whether there is any use in looking further.
fn deadline(new: &Value, old: &Value, path: Path<'_>, errors: &mut FieldErrors) -> bool {
    let at = path.child("activeDeadlineSeconds");
    match (new["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64()) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(at, new, "must be between 0 and 2147483647, inclusive");
            return false;
        }
        (Some(new), Some(old)) if new > old => {
            errors.invalid(at, new, "must be less than or equal to previous value");
            return false;
        }
        (None, Some(_)) => {
            errors.invalid(at, None::<i64>, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
    true
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
        return errors.forbidden(path, why);
    }
    super::scheduling::tolerations(&new["tolerations"], path, errors);
}

fn gates(new: &Value, old: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let known: BTreeSet<&str> = list(&old["schedulingGates"]).iter().map(|g| text(&g["name"])).collect();
    for (i, gate) in list(&new["schedulingGates"]).iter().enumerate() {
        if !known.contains(text(&gate["name"])) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{}'", text(&gate["name"]));
            errors.forbidden(path.index(i).child("name"), &why);
        }
    }
}

/// The new spec with what may change put back, so that only what may not remains different.
fn munged(new: &Value, old: &Value, path: Path<'_>, errors: &mut FieldErrors) -> Value {
    let mut spec = new.clone();
    let gated = !list(&old["schedulingGates"]).is_empty();
    let Some(object) = spec.as_object_mut() else { return spec };
    let mut fields = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if int(&old["terminationGracePeriodSeconds"]) < 0 && int(&new["terminationGracePeriodSeconds"]) == 1 {
        fields.push("terminationGracePeriodSeconds");
    }
    // A gated pod is not yet considered by the scheduler: where it may run can still be narrowed.
    if gated && new["nodeSelector"] != old["nodeSelector"] {
        node_selector(&new["nodeSelector"], &old["nodeSelector"], path.child("nodeSelector"), errors);
        fields.push("nodeSelector");
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
    let node = "nodeAffinity";
    let (mine, present) = (&new["affinity"][node], &old["affinity"][node]);
    if gated && mine != present {
        node_affinity(mine, present, path.child("affinity").child(node), errors);
        put_back_affinity(&mut spec, old);
    }
    spec
}

/// The node's part of the affinity as it was.
fn put_back_affinity(spec: &mut Value, old: &Value) {
    let others = ["podAffinity", "podAntiAffinity"].iter().any(|f| !spec["affinity"][f].is_null());
    let Some(object) = spec.as_object_mut() else { return };
    if !old["affinity"].is_object() && !others {
        object.remove("affinity");
        return;
    }
    let affinity = crate::tree::ensure(object, "affinity");
    match old["affinity"].get("nodeAffinity") {
        Some(value) => affinity.insert("nodeAffinity".to_owned(), value.clone()),
        None => affinity.remove("nodeAffinity"),
    };
}

fn node_selector(new: &Value, old: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if !crate::tree::entries(old).all(|(key, value)| new[key] == *value) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.invalid(path, new, why);
    }
}

fn node_affinity(new: &Value, old: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let at = path.child(REQUIRED);
    let at = at.child("nodeSelectorTerms");
    let empty = json!([]);
    let of = |affinity: &Value| match &affinity[REQUIRED]["nodeSelectorTerms"] {
        Value::Null => empty.clone(),
        terms => terms.clone(),
    };
    let (new, old) = (of(new), of(old));
    if list(&old).is_empty() {
        return;
    }
    if list(&new).len() != list(&old).len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.invalid(at, &new, why);
    }
    for (i, (new, old)) in list(&new).iter().zip(list(&old)).enumerate() {
        let fields = ["matchExpressions", "matchFields"];
        let was_empty = fields.iter().all(|f| list(&old[f]).is_empty());
        let is_empty = fields.iter().all(|f| list(&new[f]).is_empty());
        let only_more = fields.iter().all(|f| list(&new[f]).starts_with(list(&old[f])));
        if (was_empty && !is_empty) || !only_more {
            errors.invalid(at.index(i), new, "only additions are allowed (no mutations or deletions)");
        }
    }
}

/// Of a pod sent to `/ephemeralcontainers`, nothing else counts.
pub(in crate::core::pod) fn prepare_ephemeral_containers(new: &mut Value, old: &Value) {
    let wanted = new["spec"]["ephemeralContainers"].take();
    let mut merged = old.clone();
    let spec = crate::tree::ensure(crate::tree::object(&mut merged), "spec");
    if list(&wanted).is_empty() {
        spec.remove("ephemeralContainers");
    } else {
        spec.insert("ephemeralContainers".to_owned(), wanted);
    }
    *new = merged;
}

/// Errors of a change of the containers for debugging: they can only be added.
pub(in crate::core::pod) fn ephemeral_containers(new: &Value, old: &Value, errors: &mut FieldErrors) {
    annotations::update(new, old, errors);
    if super::is_mirror(old) {
        *errors = FieldErrors::default();
        return errors.forbidden("", "static pods do not support ephemeral containers");
    }
    let path = Path::root("spec");
    let at = path.child("ephemeralContainers");
    let now = list(&new["spec"]["ephemeralContainers"]);
    for before in list(&old["spec"]["ephemeralContainers"]) {
        let name = crate::status::quote(text(&before["name"]));
        match now.iter().find(|c| c["name"] == before["name"]) {
            None => {
                errors.forbidden(at, &format!("existing ephemeral containers {name} may not be removed\n"));
            }
            Some(after) if after != before => {
                let difference = internal::ephemeral_containers(before, after);
                let why = format!("existing ephemeral containers {name} may not be changed\n{difference}");
                errors.forbidden(at, &why);
            }
            Some(_) => {}
        }
    }
}
