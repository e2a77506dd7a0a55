//! What the access reviews have in common.

use crate::status::FieldErrors;
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
}
