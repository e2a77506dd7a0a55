//! HorizontalPodAutoscaler as autoscaling/v2 has it, which is how it is stored.

use crate::meta::prepare::keep_status as prepare_update;
use crate::quantity::Quantity;
use crate::registry::{Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::table;
use crate::tree::{self, int, list, some_text, text};
use serde_json::{Map, Value, json};

/// HorizontalPodAutoscalers of autoscaling/v2.
pub static HORIZONTAL_POD_AUTOSCALERS: Resource = Resource {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["hpa"],
    categories: &["all"],
    type_name: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    churn: Churn::Durable,
    subresources: &[Subresource::status("autoscaling", "v2", "HorizontalPodAutoscaler")],
    columns: COLUMNS,
    rules: RULES,
};

pub(super) const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Reference", "string"),
    Column::new("Targets", "string"),
    Column::new("MinPods", "string"),
    Column::new("MaxPods", "string"),
    Column::new("Replicas", "string"),
    Column::new("Age", "string"),
];

pub(super) const RULES: Rules = Rules {
    default,
    prepare_create,
    prepare_update,
    row,
    validate: super::validate::autoscaler,
    validate_status: super::validate::status,
    ..Rules::NONE
};

/// How much of its CPU a pod should use where nobody says more.
const DEFAULT_UTILIZATION: i32 = 80;

fn default(autoscaler: &mut Value) {
    let spec = tree::ensure(tree::object(autoscaler), "spec");
    tree::default(spec, "minReplicas", 1);
    if tree::is_empty(spec.get("metrics").unwrap_or(&Value::Null)) {
        let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": DEFAULT_UTILIZATION}});
        spec.insert("metrics".to_owned(), json!([{"type": "Resource", "resource": cpu}]));
    }
    let Some(behavior) = tree::sub(spec, "behavior") else { return };
    let up = tree::ensure(behavior, "scaleUp");
    tree::default(up, "stabilizationWindowSeconds", 0);
    rules(up, json!([policy("Pods", 4), policy("Percent", 100)]));
    rules(tree::ensure(behavior, "scaleDown"), json!([policy("Percent", 100)]));
}

fn policy(kind: &str, value: i32) -> Value {
    json!({"type": kind, "value": value, "periodSeconds": 15})
}

fn rules(rules: &mut Map<String, Value>, policies: Value) {
    tree::default(rules, "selectPolicy", "Max");
    tree::default(rules, "policies", policies);
}

fn prepare_create(autoscaler: &mut Value) {
    tree::object(autoscaler).insert("status".to_owned(), json!({"desiredReplicas": 0}));
}

fn row(autoscaler: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&autoscaler["spec"], &autoscaler["status"]);
    let target = &spec["scaleTargetRef"];
    let min = spec["minReplicas"].as_i64().map_or("<unset>".to_owned(), |min| min.to_string());
    vec![
        table::name(autoscaler),
        format!("{}/{}", text(&target["kind"]), text(&target["name"])).into(),
        metrics(list(&spec["metrics"]), list(&status["currentMetrics"])).into(),
        min.into(),
        int(&spec["maxReplicas"]).into(),
        int(&status["currentReplicas"]).into(),
        table::created(autoscaler, now),
    ]
}

/// Metrics shown; of the others there is a count.
const SHOWN: usize = 2;

fn metrics(specs: &[Value], statuses: &[Value]) -> String {
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let none = Value::Null;
    let one = |(i, spec): (usize, &Value)| metric(spec, statuses.get(i).unwrap_or(&none));
    let shown: Vec<String> = specs.iter().enumerate().take(SHOWN).map(one).collect();
    let shown = shown.join(", ");
    match specs.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

/// What a metric is and what it should be.
fn metric(spec: &Value, status: &Value) -> String {
    let source = match text(&spec["type"]) {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (&spec[source]["target"], &status[source]["current"]);
    let amount = |value: &Value| Quantity::parse(text(value)).map(|q| q.to_string()).ok();
    let percent = |value: &Value| value.as_i64().map(|percent| format!("{percent}%"));
    let unknown = |shown: Option<String>| shown.unwrap_or_else(|| "<unknown>".to_owned());
    let average = some_text(&target["averageValue"]).is_some();
    if let "resource" | "containerResource" = source {
        let (now, wanted) = match average {
            true => (amount(&current["averageValue"]), amount(&target["averageValue"])),
            false => (percent(&current["averageUtilization"]), percent(&target["averageUtilization"])),
        };
        let wanted = wanted.unwrap_or_else(|| "<auto>".to_owned());
        return format!("{}: {}/{wanted}", text(&spec[source]["name"]), unknown(now));
    }
    let field = if average || source == "pods" { "averageValue" } else { "value" };
    let note = if average && source != "pods" { " (avg)" } else { "" };
    let wanted = amount(&target[field]).unwrap_or_else(|| "0".to_owned());
    format!("{}/{wanted}{note}", unknown(amount(&current[field])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_autoscaler_is_completed_and_printed() {
        let mut autoscaler = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "behavior": {"scaleDown": {"policies": []}},
            "scaleTargetRef": {"kind": "Deployment", "name": "web"}}});
        default(&mut autoscaler);
        prepare_create(&mut autoscaler);
        let spec = &autoscaler["spec"];
        assert_eq!(spec["minReplicas"], 1);
        assert_eq!(
            spec["behavior"],
            json!({"scaleDown": {"selectPolicy": "Max", "policies": []},
                "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                    {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]}})
        );
        assert_eq!(
            Value::from(row(&autoscaler, 0)),
            json!(["a", "Deployment/web", "cpu: <unknown>/80%", "1", 3, 0, "<unknown>"])
        );
        autoscaler["spec"]["metrics"] = json!([
            {"type": "Pods", "pods": {"target": {"averageValue": "1k"}}},
            {"type": "External", "external": {"target": {"averageValue": "5"}}},
            {"type": "Object"}]);
        autoscaler["status"]["currentMetrics"] =
            json!([{"type": "Pods", "pods": {"current": {"averageValue": "500m"}}}]);
        assert_eq!(row(&autoscaler, 0)[2], "500m/1k, <unknown>/5 (avg) + 1 more...");
    }
}
