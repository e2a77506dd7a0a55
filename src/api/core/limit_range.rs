//! LimitRange: bounds and defaults for what pods, containers and claims of a namespace ask for.

use super::resource_names as resources;
use crate::checks::complain;
use crate::meta::names;
use crate::quantity::Quantity;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, entries, list, some_text, text};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// LimitRanges.
pub static LIMIT_RANGES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["limits"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.LimitRange",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Created At", "date")],
    rules: Rules { default, row, validate, ..Rules::NONE },
};

const CONTAINER: &str = "Container";
const POD: &str = "Pod";
const CLAIM: &str = "PersistentVolumeClaim";

fn default(range: &mut Value) {
    let Some(spec) = tree::sub(tree::object(range), "spec") else { return };
    for item in tree::items(spec, "limits") {
        if item.get("type").is_some_and(|kind| kind == CONTAINER) {
            default_container(item);
        }
    }
}

/// What is not said follows from what is: limits from the maximum, requests from limits, then from the minimum.
fn default_container(item: &mut Map<String, Value>) {
    fill(item, "max", "default");
    fill(item, "default", "defaultRequest");
    fill(item, "min", "defaultRequest");
}

fn fill(item: &mut Map<String, Value>, from: &str, to: &str) {
    let Some(from) = item.get(from).and_then(Value::as_object).filter(|from| !from.is_empty()).cloned() else { return };
    let to = tree::ensure(item, to);
    for (name, amount) in from {
        to.entry(name).or_insert(amount);
    }
}

fn row(range: &Value, _now: i64) -> Vec<Value> {
    vec![table::name(range), text(&range["metadata"]["creationTimestamp"]).into()]
}

fn validate(range: &Value, errors: &mut FieldErrors) {
    let spec = Path::root("spec");
    let limits = spec.child("limits");
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, item) in list(&range["spec"]["limits"]).iter().enumerate() {
        let at = limits.index(i);
        let kind = text(&item["type"]);
        type_name(kind, at.child("type"), errors);
        if !seen.insert(kind) {
            errors.duplicate(at.child("type"), kind);
        }
        names_of(item, kind, at, errors);
        let keys: BTreeSet<&str> =
            PARTS.iter().flat_map(|part| entries(&item[*part])).map(|(k, _)| k.as_str()).collect();
        for key in keys {
            amounts(item, kind, key, at, errors);
        }
    }
}

const PARTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

fn type_name(kind: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let wrong = names::qualified_name(kind);
    if !wrong.is_empty() {
        complain(wrong, kind, path, errors);
    } else if !kind.contains('/') && ![POD, CONTAINER, CLAIM].contains(&kind) {
        errors.invalid(path, kind, "must be a standard limit type or fully qualified");
    }
}

fn names_of(item: &Value, kind: &str, path: Path<'_>, errors: &mut FieldErrors) {
    for part in PARTS {
        let at = path.child(part);
        let of_pod = kind == POD && part.starts_with("default");
        if of_pod && entries(&item[part]).next().is_some() {
            errors.forbidden(at, "may not be specified when `type` is 'Pod'");
        }
        if part == "maxLimitRequestRatio"
            && kind == CLAIM
            && ["min", "max"].iter().all(|p| item[p]["storage"].is_null())
        {
            let why = "either minimum or maximum storage value is required, but neither was provided";
            errors.required(path.child("limits"), why);
        }
        for (name, _) in entries(&item[part]).filter(|_| !of_pod) {
            match kind {
                POD | CONTAINER => resources::container_resource(name, at.key(name), errors),
                _ => resources::resource(name, at.key(name), errors),
            }
        }
    }
}

/// How the amounts of one resource relate.
fn amounts(item: &Value, kind: &str, key: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let amount = |part: &str| some_text(&item[part][key]).and_then(|t| Quantity::parse(t).ok());
    let (min, max, ratio) = (amount("min"), amount("max"), amount("maxLimitRequestRatio"));
    let of_pod = kind == POD;
    let limit = amount("default").filter(|_| !of_pod);
    let request = amount("defaultRequest").filter(|_| !of_pod);
    let mut wrong = |part: &str, shown: Quantity, why: String| {
        errors.invalid(path.child(part).key(key), shown.to_string(), &why);
    };
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        wrong("min", min, format!("min value {min} is greater than max value {max}"));
    }
    if let (Some(request), Some(min)) = (request, min)
        && min > request
    {
        wrong("defaultRequest", request, format!("min value {min} is greater than default request value {request}"));
    }
    if let (Some(request), Some(max)) = (request, max)
        && request > max
    {
        wrong("defaultRequest", request, format!("default request value {request} is greater than max value {max}"));
    }
    if let (Some(request), Some(limit)) = (request, limit)
        && request > limit
    {
        let why = format!("default request value {request} is greater than default limit value {limit}");
        wrong("defaultRequest", request, why);
    }
    if let (Some(limit), Some(min)) = (limit, min)
        && min > limit
    {
        wrong("default", min, format!("min value {min} is greater than default value {limit}"));
    }
    if let (Some(limit), Some(max)) = (limit, max)
        && limit > max
    {
        wrong("default", max, format!("default value {limit} is greater than max value {max}"));
    }
    if let Some(ratio) = ratio {
        if ratio < Quantity::from_value(1) {
            wrong("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (min, max) {
            let bound = max.ratio(min);
            if ratio.ratio(Quantity::from_value(1)) > bound {
                let bound = if bound.is_finite() { format!("{bound:.6}") } else { "+Inf".to_owned() };
                wrong("maxLimitRequestRatio", ratio, format!("ratio {ratio} is greater than max/min = {bound}"));
            }
        }
    }
    if let (Some(request), Some(limit)) = (request, limit)
        && !resources::may_overcommit(key)
        && request != limit
    {
        let why = format!("default value {limit} must equal to defaultRequest value {request} in {key}");
        wrong("defaultRequest", request, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors_of(item: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(&json!({"spec": {"limits": [item]}}), &mut errors);
        errors.messages()
    }

    #[test]
    fn container_defaults_follow_from_bounds() {
        let mut range = json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}},
            {"type": "Pod", "max": {"cpu": "2"}},
        ]}});
        default(&mut range);
        let limits = &range["spec"]["limits"];
        assert_eq!(limits[0]["default"], json!({"cpu": "2"}));
        assert_eq!(limits[0]["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        assert!(limits[1].get("default").is_none());
    }

    #[test]
    fn what_can_be_wrong() {
        assert!(
            errors_of(json!({"type": "Container", "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"}}))
                .is_empty()
        );
        let cases = [
            (
                json!({"type": "foo"}),
                "spec.limits[0].type: Invalid value: \"foo\": must be a standard limit type or fully qualified",
            ),
            (
                json!({"type": "PersistentVolumeClaim"}),
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ),
            (
                json!({"type": "Pod", "default": {"cpu": "1"}}),
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}),
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            ),
            (
                json!({"type": "Container", "min": {"memory": "512Mi"}, "max": {"memory": "2Gi"}, "maxLimitRequestRatio": {"memory": "10"}}),
                "spec.limits[0].maxLimitRequestRatio[memory]: Invalid value: \"10\": ratio 10 is greater than max/min = 4.000000",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "800m"}}),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"800m\": ratio 800m is less than 1",
            ),
            (
                json!({"type": "Container", "default": {"a.com/b": "2"}, "defaultRequest": {"a.com/b": "1"}}),
                "spec.limits[0].defaultRequest[a.com/b]: Invalid value: \"1\": default value 2 must equal to defaultRequest value 1 in a.com/b",
            ),
            (
                json!({"type": "Container", "max": {"storage": "1"}}),
                "spec.limits[0].max[storage]: Invalid value: \"storage\": must be a standard resource for containers",
            ),
        ];
        for (item, expect) in cases {
            assert_eq!(errors_of(item), [expect]);
        }
        let mut errors = FieldErrors::default();
        validate(&json!({"spec": {"limits": [{"type": "Pod"}, {"type": "Pod"}]}}), &mut errors);
        assert_eq!(errors.messages(), ["spec.limits[1].type: Duplicate value: \"Pod\""]);
    }
}
