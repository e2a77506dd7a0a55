//! What the kinds that make pods from a template have in common.

use crate::checks::{self, non_negative};
use crate::core::pod;
use crate::meta::validate;
use crate::status::{FieldErrors, Path};
use crate::tree::{entries, is_empty, list};
use serde_json::{Map, Value};

/// The selector must be there, valid, and select something.
pub(super) fn selector(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (selector, at) = (&spec["selector"], path.child("selector"));
    if !selector.is_object() {
        errors.required(at, "");
        return;
    }
    validate::label_selector(selector, &at, errors);
    if entries(&selector["matchLabels"]).next().is_none() && list(&selector["matchExpressions"]).is_empty() {
        errors.invalid(at, selector, "empty selector is invalid for deployment");
    }
}

/// The template: a pod that is always restarted and that the selector selects.
pub(super) fn template(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (template, at) = (&spec["template"], path.child("template"));
    if !template.is_object() {
        errors.required(at, "");
        return;
    }
    let labels = &template["metadata"]["labels"];
    if spec["selector"].is_object() && !is_empty(&spec["selector"]) && !checks::selects(&spec["selector"], labels) {
        let none = Value::Object(Map::new());
        let shown = if labels.is_object() { labels } else { &none };
        let metadata = at.child("metadata");
        errors.invalid(metadata.child("labels"), shown, "`selector` does not match template `labels`");
    }
    pod::validate::template(template, at, errors);
    let (pod, at) = (&template["spec"], at.child("spec"));
    if pod["restartPolicy"] != "Always" {
        errors.not_supported(at.child("restartPolicy"), &pod["restartPolicy"], &["Always"]);
    }
    if !pod["activeDeadlineSeconds"].is_null() {
        let why = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.forbidden(at.child("activeDeadlineSeconds"), why);
    }
}

/// Counts in a status are not negative, and parts not greater than the whole.
pub(super) fn counts(status: &Value, fields: &[&str], errors: &mut FieldErrors) {
    let path = Path::root("status");
    for field in fields {
        non_negative(status, field, &path, errors);
    }
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    for (part, whole, why) in [
        ("updatedReplicas", "replicas", "cannot be greater than status.replicas"),
        ("fullyLabeledReplicas", "replicas", "cannot be greater than status.replicas"),
        ("readyReplicas", "replicas", "cannot be greater than status.replicas"),
        ("availableReplicas", "replicas", "cannot be greater than status.replicas"),
        ("availableReplicas", "readyReplicas", "cannot be greater than readyReplicas"),
    ] {
        if count(part) > count(whole) {
            errors.invalid(path.child(part), count(part), why);
        }
    }
}

/// Warnings about the template.
pub(super) fn warnings(object: &Value) -> Vec<String> {
    let path = Path::root("spec");
    let at = path.child("template");
    pod::warnings::of_spec(&object["spec"]["template"]["spec"], at.child("spec"))
}
