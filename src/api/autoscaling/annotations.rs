//! What autoscaling/v1 has no fields for is kept in annotations there, in the words of an older version.

use crate::tree::{list, text};
use serde_json::{Map, Value};

/// Names of a metric's parts here (as paths), and in the annotation.
type Names = &'static [(&'static [&'static str], &'static str)];

const SPECS: [(&str, Names); 5] = [
    (
        "object",
        &[
            (&["describedObject"], "target"),
            (&["metric", "name"], "metricName"),
            (&["target", "value"], "targetValue"),
            (&["metric", "selector"], "selector"),
            (&["target", "averageValue"], "averageValue"),
        ],
    ),
    (
        "pods",
        &[
            (&["metric", "name"], "metricName"),
            (&["target", "averageValue"], "targetAverageValue"),
            (&["metric", "selector"], "selector"),
        ],
    ),
    (
        "resource",
        &[
            (&["name"], "name"),
            (&["target", "averageUtilization"], "targetAverageUtilization"),
            (&["target", "averageValue"], "targetAverageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            (&["name"], "name"),
            (&["target", "averageUtilization"], "targetAverageUtilization"),
            (&["target", "averageValue"], "targetAverageValue"),
            (&["container"], "container"),
        ],
    ),
    (
        "external",
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "metricSelector"),
            (&["target", "value"], "targetValue"),
            (&["target", "averageValue"], "targetAverageValue"),
        ],
    ),
];

const STATUSES: [(&str, Names); 5] = [
    (
        "object",
        &[
            (&["describedObject"], "target"),
            (&["metric", "name"], "metricName"),
            (&["current", "value"], "currentValue"),
            (&["metric", "selector"], "selector"),
            (&["current", "averageValue"], "averageValue"),
        ],
    ),
    (
        "pods",
        &[
            (&["metric", "name"], "metricName"),
            (&["current", "averageValue"], "currentAverageValue"),
            (&["metric", "selector"], "selector"),
        ],
    ),
    (
        "resource",
        &[
            (&["name"], "name"),
            (&["current", "averageUtilization"], "currentAverageUtilization"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            (&["name"], "name"),
            (&["current", "averageUtilization"], "currentAverageUtilization"),
            (&["current", "averageValue"], "currentAverageValue"),
            (&["container"], "container"),
        ],
    ),
    (
        "external",
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "metricSelector"),
            (&["current", "value"], "currentValue"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
];

fn get<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, field| &value[*field])
}

fn put(value: &mut Map<String, Value>, path: &[&str], leaf: Value) {
    match path {
        [] => {}
        [field] => drop(value.insert((*field).to_owned(), leaf)),
        [field, rest @ ..] => put(crate::tree::ensure(value, field), rest, leaf),
    }
}

fn to_old(metric: &Value, sources: &[(&str, Names)]) -> Value {
    let mut old = Map::new();
    old.insert("type".to_owned(), metric["type"].clone());
    for (source, names) in sources {
        if metric[source].is_object() {
            let into = crate::tree::ensure(&mut old, source);
            for (path, name) in *names {
                let value = get(&metric[source], path);
                if !value.is_null() {
                    into.insert((*name).to_owned(), value.clone());
                }
            }
        }
    }
    old.into()
}

fn from_old(old: &Value, sources: &[(&str, Names)], values: &str) -> Value {
    let mut metric = Map::new();
    metric.insert("type".to_owned(), text(&old["type"]).into());
    for (source, names) in sources {
        if old[source].is_object() {
            let into = crate::tree::ensure(&mut metric, source);
            crate::tree::ensure(into, values);
            for (path, name) in *names {
                let value = &old[source][name];
                if !value.is_null() {
                    put(into, path, value.clone());
                }
            }
            if values == "target" {
                let kind = target_type(&into["target"]);
                put(into, &["target", "type"], kind.into());
            }
        }
    }
    metric.into()
}

/// What a target is told by, which the annotation does not say.
fn target_type(target: &Value) -> &'static str {
    if !target["averageUtilization"].is_null() {
        "Utilization"
    } else if target["averageValue"].is_null() {
        "Value"
    } else {
        "AverageValue"
    }
}

/// Metrics as the annotation has them.
pub(super) fn specs_to_old(metrics: &[&Value]) -> String {
    Value::from_iter(metrics.iter().map(|metric| to_old(metric, &SPECS))).to_string()
}

/// Metrics out of the annotation.
pub(super) fn specs_from_old(text: &str) -> Vec<Value> {
    let old: Value = serde_json::from_str(text).unwrap_or_default();
    list(&old).iter().map(|metric| from_old(metric, &SPECS, "target")).collect()
}

/// Measured metrics as the annotation has them.
pub(super) fn statuses_to_old(metrics: &[Value]) -> String {
    Value::from_iter(metrics.iter().map(|metric| to_old(metric, &STATUSES))).to_string()
}

/// Measured metrics out of the annotation.
pub(super) fn statuses_from_old(text: &str) -> Vec<Value> {
    let old: Value = serde_json::from_str(text).unwrap_or_default();
    list(&old).iter().map(|metric| from_old(metric, &STATUSES, "current")).collect()
}

/// Conditions out of the annotation.
pub(super) fn conditions(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(Value::is_array)
}

/// Changes the first letter of each field's name.
fn recased(value: &Value, change: fn(char) -> char) -> Value {
    match value {
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| {
                let mut letters = key.chars();
                let first: String = letters.next().map(change).into_iter().collect();
                (first + letters.as_str(), recased(value, change))
            };
            map.iter().map(entry).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(|item| recased(item, change)).collect(),
        other => other.clone(),
    }
}

/// The behavior as the annotation has it: with capitals.
pub(super) fn behavior_to_old(behavior: &Value) -> String {
    recased(behavior, |c| c.to_ascii_uppercase()).to_string()
}

/// The behavior out of the annotation; what is null there is not here.
pub(super) fn behavior_from_old(text: &str) -> Option<Value> {
    let old: Value = serde_json::from_str(text).ok()?;
    let mut behavior = recased(&old, |c| c.to_ascii_lowercase());
    for rules in behavior.as_object_mut()?.values_mut() {
        if let Some(rules) = rules.as_object_mut() {
            rules.retain(|_, value| !value.is_null());
        }
    }
    behavior.as_object_mut()?.retain(|_, rules| rules.is_object());
    Some(behavior)
}
