//! HorizontalPodAutoscaler as autoscaling/v1 has it: CPU alone, all else in annotations.

use super::annotations;
use super::horizontal_pod_autoscaler::{COLUMNS, HORIZONTAL_POD_AUTOSCALERS, RULES};
use crate::registry::{Churn, Resource, Rules, Scope, Subresource, View, verbs};
use crate::tree::{self, list, text};
use serde_json::{Map, Value, json};

/// HorizontalPodAutoscalers of autoscaling/v1.
pub static HORIZONTAL_POD_AUTOSCALERS_V1: Resource = Resource {
    group: "autoscaling",
    version: "v1",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["hpa"],
    categories: &["all"],
    type_name: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
    churn: Churn::Durable,
    subresources: &[Subresource::status("autoscaling", "v1", "HorizontalPodAutoscaler")],
    columns: COLUMNS,
    rules: Rules {
        view: Some(View { of: &HORIZONTAL_POD_AUTOSCALERS, to_stored, from_stored, field: |_| None }),
        ..RULES
    },
};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Whether a metric is what `targetCPUUtilizationPercentage` stands for.
fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

fn take(metadata: &mut Map<String, Value>, key: &str) -> Option<String> {
    let annotations = tree::sub(metadata, "annotations")?;
    let taken = annotations.remove(key).map(|value| text(&value).to_owned());
    if annotations.is_empty() && taken.is_some() {
        metadata.remove("annotations");
    }
    taken
}

fn to_stored(autoscaler: &mut Value) {
    let object = tree::object(autoscaler);
    let metadata = tree::ensure(object, "metadata");
    let [metrics, current, conditions, behavior] =
        [METRICS, CURRENT, CONDITIONS, BEHAVIOR].map(|key| take(metadata, key));
    let spec = tree::ensure(object, "spec");
    let mut all = metrics.map(|text| annotations::specs_from_old(&text)).unwrap_or_default();
    if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").filter(|percent| !percent.is_null()) {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        all.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    if !all.is_empty() {
        spec.insert("metrics".to_owned(), all.into());
    }
    if let Some(behavior) = behavior.and_then(|text| annotations::behavior_from_old(&text)) {
        spec.insert("behavior".to_owned(), behavior);
    }
    let Some(status) = tree::sub(object, "status") else { return };
    if let Some(percent) = status.remove("currentCPUUtilizationPercentage").filter(|percent| !percent.is_null()) {
        let current = json!({"averageUtilization": percent});
        let cpu = json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]);
        status.insert("currentMetrics".to_owned(), cpu);
    }
    if let Some(current) = current {
        status.insert("currentMetrics".to_owned(), annotations::statuses_from_old(&current).into());
    }
    if let Some(conditions) = conditions.and_then(|text| annotations::conditions(&text)) {
        status.insert("conditions".to_owned(), conditions);
    }
}

fn from_stored(autoscaler: &mut Value) {
    let object = tree::object(autoscaler);
    let spec = tree::ensure(object, "spec");
    let metrics = spec.remove("metrics").unwrap_or_default();
    let behavior = spec.remove("behavior").filter(Value::is_object);
    let percent = list(&metrics).iter().find(|metric| is_cpu(metric));
    let percent = percent.map(|metric| metric["resource"]["target"]["averageUtilization"].clone());
    if let Some(percent) = percent.filter(|percent| !percent.is_null()) {
        spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
    }
    let plain = |metric: &&Value| is_cpu(metric) && !metric["resource"]["target"]["averageUtilization"].is_null();
    let others: Vec<&Value> = list(&metrics).iter().filter(|metric| !plain(metric)).collect();
    let mut notes = Vec::new();
    if !others.is_empty() {
        notes.push((METRICS, annotations::specs_to_old(&others)));
    }
    if let Some(behavior) = behavior {
        notes.push((BEHAVIOR, annotations::behavior_to_old(&behavior)));
    }
    if let Some(status) = tree::sub(object, "status") {
        tree::default(status, "currentReplicas", 0);
        let current = status.remove("currentMetrics").unwrap_or_default();
        let conditions = status.remove("conditions").unwrap_or_default();
        let measured = list(&current).iter().filter(|metric| is_cpu(metric));
        let mut percents = measured.map(|metric| metric["resource"]["current"]["averageUtilization"].clone());
        if let Some(percent) = percents.rfind(|percent| !percent.is_null()) {
            status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
        }
        if !list(&current).is_empty() {
            notes.push((CURRENT, annotations::statuses_to_old(list(&current))));
        }
        if !list(&conditions).is_empty() {
            notes.push((CONDITIONS, conditions.to_string()));
        }
    }
    if !notes.is_empty() {
        let annotations = tree::ensure(tree::ensure(object, "metadata"), "annotations");
        annotations.extend(notes.into_iter().map(|(key, value)| (key.to_owned(), value.into())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_autoscalers_need_no_annotations() {
        let old = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50},
            "status": {"currentReplicas": 1, "desiredReplicas": 1}});
        let mut object = old.clone();
        to_stored(&mut object);
        assert_eq!(
            object["spec"]["metrics"],
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}])
        );
        from_stored(&mut object);
        assert_eq!(object, old);
    }

    #[test]
    fn all_else_is_kept_in_annotations_and_comes_back() {
        let metrics = json!([
            {"type": "Pods", "pods": {"metric": {"name": "hits", "selector": {"matchLabels": {"a": "b"}}}, "target": {"type": "AverageValue", "averageValue": "1k"}}},
            {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "m"}, "target": {"type": "Value", "value": "5"}}},
            {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 60}}},
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]);
        let new = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "metrics": metrics,
                "behavior": {"scaleDown": {"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}}},
            "status": {"currentReplicas": 1, "desiredReplicas": 1,
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 10, "averageValue": "4m"}}}],
                "conditions": [{"type": "AbleToScale", "status": "True"}]}});
        let mut object = new.clone();
        from_stored(&mut object);
        assert_eq!(object["spec"], json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}));
        assert_eq!(object["status"]["currentCPUUtilizationPercentage"], 10);
        let annotations = &object["metadata"]["annotations"];
        assert_eq!(
            annotations[BEHAVIOR],
            "{\"ScaleDown\":{\"Policies\":[{\"PeriodSeconds\":15,\"Type\":\"Percent\",\"Value\":100}],\"SelectPolicy\":\"Max\"}}"
        );
        assert_eq!(
            annotations[CURRENT],
            "[{\"resource\":{\"currentAverageUtilization\":10,\"currentAverageValue\":\"4m\",\"name\":\"cpu\"},\"type\":\"Resource\"}]"
        );
        to_stored(&mut object);
        assert_eq!(object, new);
    }
}
