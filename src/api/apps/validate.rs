//! What the kinds that make pods from a template have in common.

use crate::checks::{self, non_negative};
use crate::core::pod;
use crate::meta::{names, validate};
use crate::status::{FieldErrors, Path};
use crate::tree::{int, is_empty, list, text};
use serde_json::Value;

/// The selector must be there, valid, and select something. `kind` is the word for the kind in the error. Tells
/// whether it can be matched: a missing one can, and matches nothing.
pub(super) fn selector(spec: &Value, path: Path<'_>, kind: &str, errors: &mut FieldErrors) -> bool {
    let (selector, at) = (&spec["selector"], path.child("selector"));
    if !selector.is_object() {
        errors.required(at, "");
        return true;
    }
    let before = errors.len();
    validate::label_selector(selector, &at, errors);
    let readable = errors.len() == before;
    selects_something(selector, at, kind, errors);
    readable
}

/// A selector without requirements would select every pod.
pub(super) fn selects_something(selector: &Value, path: Path<'_>, kind: &str, errors: &mut FieldErrors) {
    if selector.is_object() && is_empty(&selector["matchLabels"]) && list(&selector["matchExpressions"]).is_empty() {
        errors.invalid(path, selector, &format!("empty selector is invalid for {kind}"));
    }
}

/// The template: a pod that is always restarted and that the selector selects.
pub(super) fn template(spec: &Value, path: Path<'_>, kind: &str, errors: &mut FieldErrors) {
    let (template, at) = (&spec["template"], path.child("template"));
    if !template.is_object() {
        errors.required(at, "");
        return;
    }
    selected(&spec["selector"], template, at, errors);
    pod::validate::template(template, at, errors);
    always_restarted(template, at, kind, errors);
}

/// The selector must select the template's pods.
pub(crate) fn selected(selector: &Value, template: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let labels = &template["metadata"]["labels"];
    if !selector.is_object() || !checks::selects(selector, labels) {
        let metadata = path.child("metadata");
        errors.invalid(metadata.child("labels"), labels, "`selector` does not match template `labels`");
    }
}

/// Pods that are to run for ever are restarted and have no deadline.
pub(crate) fn always_restarted(template: &Value, path: Path<'_>, kind: &str, errors: &mut FieldErrors) {
    let (pod, at) = (&template["spec"], path.child("spec"));
    if pod["restartPolicy"] != "Always" {
        errors.not_supported(at.child("restartPolicy"), &pod["restartPolicy"], &["Always"]);
    }
    if !pod["activeDeadlineSeconds"].is_null() {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(at.child("activeDeadlineSeconds"), &why);
    }
}

/// Counts in a status are not negative, and parts not greater than the whole.
pub(crate) fn counts(status: &Value, fields: &[&str], errors: &mut FieldErrors) {
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

/// The count of collisions only grows.
pub(super) fn collisions(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let count = |object: &Value| int(&object["status"]["collisionCount"]);
    if count(new) < count(old) {
        errors.invalid("status.collisionCount", count(new), "cannot be decremented");
    }
}

/// Warnings about the template, and about a name that pods cannot have.
pub(crate) fn named_warnings(object: &Value) -> Vec<String> {
    let mut found: Vec<String> = name_warning(object).into_iter().collect();
    found.extend(warnings(object));
    found
}

/// Pods are named after the object, and hosts after pods.
pub(crate) fn name_warning(object: &Value) -> Option<String> {
    let why = names::dns_label(text(&object["metadata"]["name"]));
    (!why.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            why.join(" ")
        )
    })
}

/// Warnings about the template.
pub(crate) fn warnings(object: &Value) -> Vec<String> {
    pod::warnings::of_template(&object["spec"]["template"], Path::root("spec").child("template"))
}

#[cfg(test)]
mod tests {
    use crate::registry::Resource;
    use crate::status::FieldErrors;
    use serde_json::{Value, json};

    /// What is wrong with a workload that has this selector.
    #[track_caller]
    fn check(resource: &Resource, selector: &Value, expect: &[&str]) {
        let mut object = json!({"metadata": {"name": "w"}, "spec": {"selector": selector, "serviceName": "w",
            "template": {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}});
        (resource.rules.default)(&mut object);
        let mut errors = FieldErrors::default();
        (resource.rules.validate)(&object, &mut errors);
        assert_eq!(errors.messages(), expect, "{}", resource.kind);
    }

    #[test]
    fn selectors_are_there_can_be_read_and_match() {
        use crate::apps::{daemon_set, deployment, replica_set, stateful_set};
        let all = [&deployment::DEPLOYMENTS, &replica_set::REPLICA_SETS, &stateful_set::STATEFUL_SETS];
        let other = "spec.template.metadata.labels: Invalid value: {\"app\":\"w\"}: `selector` does not match template `labels`";
        for resource in all {
            check(resource, &json!({"matchLabels": {"app": "w"}}), &[]);
            check(resource, &Value::Null, &["spec.selector: Required value", other]);
            check(resource, &json!({"matchLabels": {"app": "v"}}), &[other]);
        }
        let odd = json!({"matchExpressions": [{"key": "app", "operator": "Near"}]});
        let operator =
            "spec.selector.matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator";
        let shown = r#"spec.selector: Invalid value: {"matchExpressions":[{"key":"app","operator":"Near"}]}"#;
        let known = format!("{shown}: invalid label selector");
        check(&deployment::DEPLOYMENTS, &odd, &[operator, &known]);
        check(&replica_set::REPLICA_SETS, &odd, &[operator, &known]);
        check(&stateful_set::STATEFUL_SETS, &odd, &[operator, shown]);
        check(&daemon_set::DAEMON_SETS, &odd, &[operator]);
        check(&daemon_set::DAEMON_SETS, &Value::Null, &[other]);
    }
}
