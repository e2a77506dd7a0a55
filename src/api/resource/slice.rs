//! What a slice offers: its place, its devices and the counters that they share.

use super::qualified::is_semver;
use super::resource_claim::node_terms;
use super::validate::{MAX_TAINTS, binding, items, label, pool, qualified, set, taint};
use crate::checks::complain;
use crate::meta::names;
use crate::quantity::Quantity;
use crate::status::{FieldErrors, Path};
use crate::storage::driver_name;
use crate::tree::{entries, flag, int, is_empty, list, text};
use serde_json::Value;

const MAX_DEVICES: usize = 128;
/// With taints or shared counters a device says more.
const MAX_RICH_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;
const MAX_COUNTERS: usize = 32;
const MAX_CONSUMPTIONS: usize = 2;
const MAX_ATTRIBUTES: usize = 32;
const MAX_VALUE_BYTES: usize = 64;
const MAX_OPTIONS: usize = 10;

/// Validates a slice's specification.
pub(super) fn spec(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    driver_name(&spec["driver"], path.child("driver"), errors);
    let (own, at) = (&spec["pool"], path.child("pool"));
    pool(&own["name"], at.child("name"), errors);
    let (slices, generation) = (int(&own["resourceSliceCount"]), int(&own["generation"]));
    if slices <= 0 {
        errors.invalid(at.child("resourceSliceCount"), slices, "must be greater than zero");
    }
    if generation < 0 {
        errors.invalid(at.child("generation"), generation, "must be greater than or equal to zero");
    }
    let mut places = place(spec, "must be either unset or set to a non-empty string", path, errors);
    let terms = &spec["nodeSelector"]["nodeSelectorTerms"];
    if spec["nodeSelector"].is_object() && list(terms).len() != 1 {
        let at = path.child("nodeSelector");
        errors.invalid(at.child("nodeSelectorTerms"), terms, "must have exactly one node selector term");
    }
    places.extend(true_or_unset(spec, "perDeviceNodeSelection", path, errors));
    let required = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match places.len() {
        0 => errors.required(path, required),
        1 => {}
        _ => errors.invalid(
            path,
            format!("{{{}}}", places.join(", ")),
            &format!("{required}, but multiple fields are set"),
        ),
    }
    if spec["sharedCounters"].is_array() && spec["devices"].is_array() {
        errors.invalid(path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let rich = |device: &Value| !is_empty(&device["taints"]) || !is_empty(&device["consumesCounters"]);
    let max = if list(&spec["devices"]).iter().any(rich) { MAX_RICH_DEVICES } else { MAX_DEVICES };
    let by_device = flag(&spec["perDeviceNodeSelection"]);
    set(
        &spec["devices"],
        max,
        |d| text(&d["name"]),
        path.child("devices"),
        errors,
        |item, at, errors| {
            device(item, by_device, at, errors);
        },
    );
    let (counters, at) = (&spec["sharedCounters"], path.child("sharedCounters"));
    set(
        counters,
        MAX_COUNTER_SETS,
        |s| text(&s["name"]),
        at,
        errors,
        |item, at, errors| {
            counter_set(item, "name", at, errors);
        },
    );
}

/// Where something is: the fields that say so.
fn place(object: &Value, empty: &str, path: Path<'_>, errors: &mut FieldErrors) -> Vec<&'static str> {
    let mut places = Vec::new();
    match object["nodeName"].as_str() {
        None => {}
        Some("") => errors.invalid(path.child("nodeName"), "", empty),
        Some(name) => {
            places.push("`nodeName`");
            complain(names::dns_subdomain(name), name, path.child("nodeName"), errors);
        }
    }
    if object["nodeSelector"].is_object() {
        places.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        node_terms(&object["nodeSelector"]["nodeSelectorTerms"], at.child("nodeSelectorTerms"), errors);
    }
    places.extend(true_or_unset(object, "allNodes", path, errors));
    places
}

fn true_or_unset(object: &Value, field: &str, path: Path<'_>, errors: &mut FieldErrors) -> Option<&'static str> {
    match object[field].as_bool()? {
        true if field == "allNodes" => Some("`allNodes`"),
        true => Some("`perDeviceNodeSelection`"),
        false => {
            errors.invalid(path.child(field), false, "must be either unset or set to true");
            None
        }
    }
}

fn counter_set(set: &Value, name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    match text(&set[name]) {
        "" => errors.required(path.child(name), ""),
        _ => label(&set[name], path.child(name), errors),
    }
    let (at, count) = (path.child("counters"), entries(&set["counters"]).count());
    if count == 0 {
        errors.required(at, "");
    } else if count > MAX_COUNTERS {
        errors.too_many(at, count, MAX_COUNTERS);
    } else {
        for (counter, _) in entries(&set["counters"]) {
            complain(names::dns_label(counter), counter, at, errors);
        }
    }
}

fn device(device: &Value, by_device: bool, path: Path<'_>, errors: &mut FieldErrors) {
    label(&device["name"], path.child("name"), errors);
    let described = entries(&device["attributes"]).count() + entries(&device["capacity"]).count();
    if described > MAX_ATTRIBUTES {
        let why = format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        errors.invalid(path, described, &why);
    }
    let at = path.child("attributes");
    for (name, value) in entries(&device["attributes"]) {
        qualified(name, at, errors);
        attribute(value, at.key(name), errors);
    }
    let (at, shared) = (path.child("capacity"), flag(&device["allowMultipleAllocations"]));
    for (name, value) in entries(&device["capacity"]) {
        qualified(name, at, errors);
        let (policy, item) = (&value["requestPolicy"], at.key(name));
        if policy.is_object() && !shared {
            errors.forbidden(item.child("requestPolicy"), "allowMultipleAllocations must be true");
        } else if let Ok(capacity) = Quantity::parse(text(&value["value"])) {
            request_policy(policy, capacity, item.child("requestPolicy"), errors);
        }
    }
    items(&device["taints"], MAX_TAINTS, path.child("taints"), errors, taint);
    let (consumed, at) = (&device["consumesCounters"], path.child("consumesCounters"));
    set(
        consumed,
        MAX_CONSUMPTIONS,
        |c| text(&c["counterSet"]),
        at,
        errors,
        |item, at, errors| {
            counter_set(item, "counterSet", at, errors);
        },
    );
    device_place(device, by_device, path, errors);
    binding(device, path, errors);
}

fn device_place(device: &Value, by_device: bool, path: Path<'_>, errors: &mut FieldErrors) {
    if !by_device {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| !device[*field].is_null()) {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(path, &Value::Null, why);
        }
        return;
    }
    let places = place(device, "must not be empty", path, errors);
    let why = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match places.len() {
        0 => errors.required(path, why),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", places.join(", ")), why),
    }
}

fn attribute(attribute: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for field in ["string", "version"] {
        let Some(value) = attribute[field].as_str() else { continue };
        let at = path.child(field);
        if field == "version" && !is_semver(value) {
            errors.invalid(at, value, "must be a string compatible with semver.org spec 2.0.0");
        }
        if value.len() > MAX_VALUE_BYTES {
            errors.too_long(at, MAX_VALUE_BYTES);
        }
    }
    match ["bool", "int", "string", "version"].iter().filter(|field| !attribute[**field].is_null()).count() {
        0 => errors.invalid(path, "", "exactly one value must be specified"),
        1 => {}
        _ => errors.invalid(path, attribute, "exactly one value must be specified"),
    }
}

/// How much of a capacity may be asked for at once.
fn request_policy(policy: &Value, capacity: Quantity, path: Path<'_>, errors: &mut FieldErrors) {
    let (options, range) = (&policy["validValues"], &policy["validRange"]);
    if !is_empty(options) && range.is_object() {
        let why =
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        return errors.forbidden(path, why);
    }
    let default = policy["default"].as_str().and_then(|default| Quantity::parse(default).ok());
    match (!is_empty(options), range.is_object(), default) {
        (true, _, None) => errors.required(path.child("default"), "required when validValues is defined"),
        (_, true, None) => errors.required(path.child("default"), "required when validRange is defined"),
        (true, _, Some(default)) => valid_values(options, default, capacity, path.child("validValues"), errors),
        (_, true, Some(default)) => valid_range(range, default, capacity, path.child("validRange"), errors),
        _ => {}
    }
}

fn valid_values(options: &Value, default: Quantity, capacity: Quantity, path: Path<'_>, errors: &mut FieldErrors) {
    let amounts: Vec<Quantity> = list(options).iter().filter_map(|option| Quantity::parse(text(option)).ok()).collect();
    for (i, pair) in amounts.windows(2).enumerate().filter(|(_, pair)| pair[0] > pair[1]) {
        errors.invalid(path.index(i + 1), pair[1].to_string(), "values must be sorted in ascending order");
    }
    if amounts.len() > MAX_OPTIONS {
        errors.too_many(path, amounts.len(), MAX_OPTIONS);
    } else {
        for (i, option) in amounts.iter().enumerate().filter(|(_, option)| **option > capacity) {
            let why = format!("option is larger than capacity value: {capacity}");
            errors.invalid(path.index(i), option.to_string(), &why);
        }
        for (i, option) in amounts.iter().enumerate().filter(|(i, option)| amounts[..*i].contains(option)) {
            errors.duplicate(path.index(i), option.to_string());
        }
    }
    if !amounts.contains(&default) {
        errors.invalid(path, default.to_string(), "default value is not valid according to the requestPolicy");
    }
}

fn valid_range(range: &Value, default: Quantity, capacity: Quantity, path: Path<'_>, errors: &mut FieldErrors) {
    let amount = |field: &str| range[field].as_str().and_then(|text| Quantity::parse(text).ok());
    let Some(min) = amount("min") else {
        return errors.required(path.child("min"), "required when validRange is defined");
    };
    let mut wrong =
        |field: &str, shown: Quantity, why: String| errors.invalid(path.child(field), shown.to_string(), &why);
    if min > capacity {
        wrong("min", min, format!("min is larger than capacity value: {capacity}"));
    }
    if default < min {
        wrong("default", default, format!("default is less than min: {min}"));
    }
    let max = amount("max");
    if let Some(max) = max {
        if min > max {
            wrong("max", min, format!("min is larger than max: {max}"));
        }
        if max > capacity {
            wrong("max", max, format!("max is larger than capacity value: {capacity}"));
        }
        if default > max {
            wrong("default", default, format!("default is more than max: {max}"));
        }
    }
    let Some(step) = amount("step") else { return };
    if step.is_zero() || step.is_negative() {
        return wrong("step", step, "must be greater than zero".to_owned());
    }
    let added = min + step;
    if added > capacity {
        wrong("step", step, format!("one step {added} is larger than capacity value: {capacity}"));
    }
    for value in [Some(default), max].into_iter().flatten() {
        if (i128::from(value.value()) - i128::from(min.value())) % i128::from(step.value().max(1)) != 0 {
            wrong("step", value, format!("value is not a multiple of a given step ({step}) from ({min})"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors_of(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut slice = json!({"driver": "d.example.com", "nodeName": "n",
            "pool": {"name": "p", "resourceSliceCount": 1, "generation": 0}, "devices": [{"name": "x"}]});
        change(&mut slice);
        let mut errors = FieldErrors::default();
        spec(&slice, Path::root("spec"), &mut errors);
        errors.messages()
    }

    #[test]
    fn places() {
        assert_eq!(errors_of(|_| {}), [""; 0]);
        assert_eq!(
            errors_of(|slice| slice["allNodes"] = true.into()),
            [
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set"
            ]
        );
        assert_eq!(
            errors_of(|slice| slice["nodeName"] = Value::Null),
            [
                "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
            ]
        );
        assert_eq!(
            errors_of(|slice| slice["devices"][0]["nodeName"] = "m".into()),
            [
                "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
            ]
        );
    }

    #[test]
    fn devices() {
        let found = errors_of(|slice| {
            slice["pool"]["resourceSliceCount"] = 0.into();
            slice["devices"] = json!([
                {"name": "x", "attributes": {"a": {"version": "1"}, "b": {}}, "capacity": {"c": {"value": "1", "requestPolicy": {"default": "1"}}}},
                {"name": "x", "taints": [{"key": "k"}], "consumesCounters": [{"counterSet": "s"}]},
            ]);
        });
        assert_eq!(
            found,
            [
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                "spec.devices[0].attributes[a].version: Invalid value: \"1\": must be a string compatible with semver.org spec 2.0.0",
                "spec.devices[0].attributes[b]: Invalid value: \"\": exactly one value must be specified",
                "spec.devices[0].capacity[c].requestPolicy: Forbidden: allowMultipleAllocations must be true",
                "spec.devices[1].taints[0].effect: Required value",
                "spec.devices[1].consumesCounters[0].counters: Required value",
                "spec.devices[1]: Duplicate value: \"x\"",
            ]
        );
    }

    #[test]
    fn request_policies() {
        let check = |policy: Value, expect: &[&str]| {
            let mut errors = FieldErrors::default();
            request_policy(&policy, Quantity::from_value(10), Path::root("p"), &mut errors);
            assert_eq!(errors.messages(), expect);
        };
        check(json!({"default": "2", "validRange": {"min": "2", "max": "10", "step": "2"}}), &[]);
        check(json!({"validValues": ["1"]}), &["p.default: Required value: required when validValues is defined"]);
        check(
            json!({"default": "3", "validValues": ["2", "1", "20"]}),
            &[
                "p.validValues[1]: Invalid value: \"1\": values must be sorted in ascending order",
                "p.validValues[2]: Invalid value: \"20\": option is larger than capacity value: 10",
                "p.validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy",
            ],
        );
        check(
            json!({"default": "3", "validRange": {"min": "2", "step": "2"}}),
            &["p.validRange.step: Invalid value: \"3\": value is not a multiple of a given step (2) from (2)"],
        );
    }
}
