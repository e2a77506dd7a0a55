//! What the access reviews have in common.

use crate::meta::names;
use crate::status::FieldErrors;
use crate::tree;
use serde_json::Value;

/// A review is about a resource or about a path, not both.
pub(super) fn attributes(review: &Value, errors: &mut FieldErrors) {
    let spec = &review["spec"];
    match (spec["resourceAttributes"].is_object(), spec["nonResourceAttributes"].is_object()) {
        (true, true) => {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.invalid("spec.nonResourceAttributes", &spec["nonResourceAttributes"], why);
        }
        (false, false) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid("spec.resourceAttributes", &spec["resourceAttributes"], why);
        }
        _ => {}
    }
    let about = &spec["resourceAttributes"];
    for field in ["fieldSelector", "labelSelector"] {
        if about[field].is_object() {
            selector(&about[field], &format!("spec.resourceAttributes.{field}"), field == "labelSelector", errors);
        }
    }
}

/// A selector is raw or a list of requirements. Operators that are not known here are taken: a newer client knows them.
fn selector(selector: &Value, path: &str, labels: bool, errors: &mut FieldErrors) {
    let raw = tree::text(&selector["rawSelector"]);
    let requirements = tree::list(&selector["requirements"]);
    if !raw.is_empty() && !requirements.is_empty() {
        errors.invalid(format!("{path}.rawSelector"), raw, "may not specified at the same time as requirements");
    }
    if raw.is_empty() && requirements.is_empty() {
        let why = format!("when {path} is specified, requirements or rawSelector is required");
        errors.required(format!("{path}.requirements"), &why);
    }
    for (index, requirement) in requirements.iter().enumerate() {
        let at = format!("{path}.requirements[{index}]");
        let key = tree::text(&requirement["key"]);
        let values = tree::list(&requirement["values"]);
        if !labels && key.is_empty() {
            errors.required(format!("{at}.key"), "must be specified");
        }
        match tree::text(&requirement["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(format!("{at}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(format!("{at}.values"), why);
            }
            _ => {}
        }
        if labels {
            for reason in names::qualified_name(key) {
                errors.invalid(format!("{at}.key"), key, &reason);
            }
        }
    }
}
