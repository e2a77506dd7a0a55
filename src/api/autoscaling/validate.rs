//! Validation of HorizontalPodAutoscalers.

use crate::checks::{NEGATIVE, complain, non_negative};
use crate::core::resource_names;
use crate::meta::names;
use crate::quantity::Quantity;
use crate::status::{FieldErrors, Path};
use crate::tree::{int, list, some_text, text};
use serde_json::Value;

const MAX_WINDOW_SECONDS: i64 = 3600;
const MAX_PERIOD_SECONDS: i64 = 1800;
const SOURCES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// A whole autoscaler.
pub(super) fn autoscaler(autoscaler: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&autoscaler["spec"], Path::root("spec"));
    let (min, max) = (spec["minReplicas"].as_i64(), int(&spec["maxReplicas"]));
    if let Some(min) = min.filter(|min| *min < 1) {
        errors.invalid(path.child("minReplicas"), min, "must be greater than or equal to 1");
    }
    if max < 1 {
        errors.invalid(path.child("maxReplicas"), max, "must be greater than 0");
    }
    if min.is_some_and(|min| max < min) {
        errors.invalid(path.child("maxReplicas"), max, "must be greater than or equal to `minReplicas`");
    }
    reference(&spec["scaleTargetRef"], path.child("scaleTargetRef"), errors);
    let metrics = path.child("metrics");
    for (i, one) in list(&spec["metrics"]).iter().enumerate() {
        metric(one, metrics.index(i), errors);
    }
    if min == Some(0) && !list(&spec["metrics"]).iter().any(|m| matches!(text(&m["type"]), "Object" | "External")) {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(metrics, why);
    }
    let behavior = path.child("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        if spec["behavior"][direction].is_object() {
            rules(&spec["behavior"][direction], behavior.child(direction), errors);
        }
    }
}

/// An update of the status.
pub(super) fn status(new: &Value, _old: &Value, errors: &mut FieldErrors) {
    for field in ["currentReplicas", "desiredReplicas"] {
        non_negative(&new["status"], field, &Path::root("status"), errors);
    }
}

fn segment(value: &Value, detail: &str, path: Path<'_>, errors: &mut FieldErrors) {
    match text(value) {
        "" => errors.required(path, detail),
        name => complain(names::path_segment(name), name, path, errors),
    }
}

fn reference(reference: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    segment(&reference["kind"], "", path.child("kind"), errors);
    segment(&reference["name"], "", path.child("name"), errors);
}

fn rules(rules: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (window, at) = (int(&rules["stabilizationWindowSeconds"]), path.child("stabilizationWindowSeconds"));
    if window < 0 {
        errors.invalid(at, window, "must be greater than or equal to zero");
    }
    if window > MAX_WINDOW_SECONDS {
        errors.invalid(at, window, "must be less than or equal to 3600");
    }
    let select = &rules["selectPolicy"];
    if !select.is_null() && !matches!(text(select), "Max" | "Min" | "Disabled") {
        errors.not_supported(path.child("selectPolicy"), select, &["Disabled", "Max", "Min"]);
    }
    let policies = path.child("policies");
    if list(&rules["policies"]).is_empty() {
        errors.required(policies, "must specify at least one Policy");
    }
    for (i, policy) in list(&rules["policies"]).iter().enumerate() {
        let at = policies.index(i);
        if !matches!(text(&policy["type"]), "Pods" | "Percent") {
            errors.not_supported(at.child("type"), text(&policy["type"]), &["Percent", "Pods"]);
        }
        let (value, period) = (int(&policy["value"]), int(&policy["periodSeconds"]));
        if value <= 0 {
            errors.invalid(at.child("value"), value, "must be greater than zero");
        }
        if period <= 0 {
            errors.invalid(at.child("periodSeconds"), period, "must be greater than zero");
        }
        if period > MAX_PERIOD_SECONDS {
            errors.invalid(at.child("periodSeconds"), period, "must be less than or equal to 1800");
        }
    }
    let tolerance = &rules["tolerance"];
    if Quantity::parse(text(tolerance)).is_ok_and(|quantity| quantity.is_negative()) {
        errors.invalid(path.child("tolerance"), tolerance, NEGATIVE);
    }
}

type Check = fn(&Value, Path<'_>, &mut FieldErrors);

fn metric(metric: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let kind = text(&metric["type"]);
    if kind.is_empty() {
        errors.required(path.child("type"), "must specify a metric source type");
    }
    if !SOURCES.contains(&kind) {
        errors.not_supported(path.child("type"), kind, &SOURCES);
    }
    let sources: [(&str, &str, Check); 5] = [
        ("object", "Object", object),
        ("external", "External", external),
        ("pods", "Pods", pods),
        ("resource", "Resource", resource),
        ("containerResource", "ContainerResource", container),
    ];
    let present: Vec<_> = sources.iter().filter(|(field, _, _)| !metric[field].is_null()).collect();
    if let Some((field, _, check)) = present.first() {
        check(&metric[field], path.child(field), errors);
    }
    match sources.iter().find(|(_, of, _)| *of == kind) {
        Some((field, _, _)) if metric[field].is_null() => {
            errors.required(path.child(field), "must populate information for the given metric source");
        }
        Some(_) => {}
        None => errors.not_supported(path.child("type"), kind, &SOURCES),
    }
    if present.len() > 1 {
        for (field, _, _) in present.iter().filter(|(_, of, _)| *of != kind) {
            errors.forbidden(path.child(field), "must populate the given metric source only");
        }
    }
}

fn identifier(metric: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    segment(&metric["name"], "must specify a metric name", path.child("name"), errors);
}

fn object(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    reference(&source["describedObject"], path.child("describedObject"), errors);
    identifier(&source["metric"], path.child("metric"), errors);
    let (wanted, at) = (&source["target"], path.child("target"));
    target(wanted, at, errors);
    if wanted["value"].is_null() && wanted["averageValue"].is_null() {
        errors.required(at.child("averageValue"), "must set either a target value or averageValue");
    }
}

fn external(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    identifier(&source["metric"], path.child("metric"), errors);
    let (wanted, at) = (&source["target"], path.child("target"));
    target(wanted, at, errors);
    match (wanted["value"].is_null(), wanted["averageValue"].is_null()) {
        (true, true) => {
            let why = "must set either a target value for metric or a per-pod target";
            errors.required(at.child("averageValue"), why);
        }
        (false, false) => {
            let why = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(at.child("value"), why);
        }
        _ => {}
    }
}

fn pods(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    identifier(&source["metric"], path.child("metric"), errors);
    let (wanted, at) = (&source["target"], path.child("target"));
    target(wanted, at, errors);
    if wanted["averageValue"].is_null() {
        errors.required(at.child("averageValue"), "must specify a positive target averageValue");
    }
}

fn resource(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if text(&source["name"]).is_empty() {
        errors.required(path.child("name"), "must specify a resource name");
    }
    utilization(&source["target"], path.child("target"), errors);
}

fn container(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    match some_text(&source["name"]) {
        None => errors.required(path.child("name"), "must specify a resource name"),
        Some(name) => resource_names::container_resource(name, path.child("name"), errors),
    }
    match some_text(&source["container"]) {
        None => errors.required(path.child("container"), "must specify a container"),
        Some(name) => complain(names::dns_label(name), name, path.child("container"), errors),
    }
    utilization(&source["target"], path.child("target"), errors);
}

fn utilization(wanted: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    target(wanted, path, errors);
    match (wanted["averageUtilization"].is_null(), wanted["averageValue"].is_null()) {
        (true, true) => {
            let why = "must set either a target raw value or a target utilization";
            errors.required(path.child("averageUtilization"), why);
        }
        (false, false) => {
            let why = "may not set both a target raw value and a target utilization";
            errors.forbidden(path.child("averageValue"), why);
        }
        _ => {}
    }
}

fn target(target: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let kind = text(&target["type"]);
    if kind.is_empty() {
        errors.required(path.child("type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errors.invalid(path.child("type"), kind, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        let positive = |q: Quantity| !q.is_negative() && !q.is_zero();
        if !target[field].is_null() && !Quantity::parse(text(&target[field])).is_ok_and(positive) {
            errors.invalid(path.child(field), &target[field], "must be positive");
        }
    }
    if let Some(percent) = target["averageUtilization"].as_i64().filter(|percent| *percent < 1) {
        errors.invalid(path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors_of(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        autoscaler(&json!({ "spec": spec }), &mut errors);
        errors.messages()
    }

    #[test]
    fn what_can_be_wrong() {
        assert_eq!(
            errors_of(json!({"minReplicas": 5, "maxReplicas": 0, "scaleTargetRef": {"kind": "a/b"}, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {}}, "pods": {}},
                {"type": "Odd"},
            ], "behavior": {"scaleUp": {"stabilizationWindowSeconds": 3601, "selectPolicy": "Odd",
                "policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]}}})),
            [
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
                "spec.scaleTargetRef.kind: Invalid value: \"a/b\": may not contain '/'",
                "spec.scaleTargetRef.name: Required value",
                "spec.metrics[0].pods.metric.name: Required value: must specify a metric name",
                "spec.metrics[0].pods.target.type: Required value: must specify a metric target type",
                "spec.metrics[0].pods.target.type: Invalid value: \"\": must be either Utilization, Value, or AverageValue",
                "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue",
                "spec.metrics[0].pods: Forbidden: must populate the given metric source only",
                "spec.metrics[1].type: Unsupported value: \"Odd\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                "spec.metrics[1].type: Unsupported value: \"Odd\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Odd\": supported values: \"Disabled\", \"Max\", \"Min\"",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
            ]
        );
        let target = json!({"kind": "Deployment", "name": "web"});
        assert_eq!(
            errors_of(json!({"maxReplicas": 1, "scaleTargetRef": target, "metrics": [
                {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "a",
                    "target": {"type": "Utilization", "averageUtilization": 0, "averageValue": "0"}}}]})),
            [
                "spec.metrics[0].containerResource.target.averageValue: Invalid value: \"0\": must be positive",
                "spec.metrics[0].containerResource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                "spec.metrics[0].containerResource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization",
            ]
        );
    }
}
