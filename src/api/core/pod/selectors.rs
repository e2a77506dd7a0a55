//! Selectors that are completed from the pod's own labels when it is created.

use crate::tree::{items, list, sub, text};
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// Adds what `matchLabelKeys` and `mismatchLabelKeys` say to the selectors beside them.
pub(super) fn complete(spec: &mut Object, labels: &Value) {
    if let Some(affinity) = sub(spec, "affinity") {
        for kind in ["podAffinity", "podAntiAffinity"] {
            let Some(pods) = sub(affinity, kind) else { continue };
            for weighted in items(pods, "preferredDuringSchedulingIgnoredDuringExecution") {
                sub(weighted, "podAffinityTerm").into_iter().for_each(|term| merge(term, labels));
            }
            items(pods, "requiredDuringSchedulingIgnoredDuringExecution").for_each(|term| merge(term, labels));
        }
    }
    items(spec, "topologySpreadConstraints").for_each(|constraint| merge(constraint, labels));
}

fn merge(term: &mut Object, labels: &Value) {
    let mut wanted = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.get(field).map_or(&[][..], list) {
            if let Some(value) = labels[text(key)].as_str() {
                wanted.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    // A selector that is not there selects nothing, and is not made to.
    let Some(selector) = sub(term, "labelSelector").filter(|_| !wanted.is_empty()) else { return };
    ensure_list(selector).extend(wanted);
}

fn ensure_list(selector: &mut Object) -> &mut Vec<Value> {
    let place = selector.entry("matchExpressions").or_insert_with(|| json!([]));
    if !place.is_array() {
        *place = json!([]);
    }
    match place {
        Value::Array(list) => list,
        _ => unreachable!("made a list just above"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_expressions() {
        let mut spec = json!({"topologySpreadConstraints": [
            {"matchLabelKeys": ["a", "b"], "labelSelector": {}}, {"matchLabelKeys": ["a"]}]});
        complete(ensure_object(&mut spec), &json!({"a": "1"}));
        assert_eq!(
            spec["topologySpreadConstraints"],
            json!([{"matchLabelKeys": ["a", "b"], "labelSelector":
                {"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}}, {"matchLabelKeys": ["a"]}])
        );
    }

    fn ensure_object(value: &mut Value) -> &mut Object {
        crate::tree::object(value)
    }
}
