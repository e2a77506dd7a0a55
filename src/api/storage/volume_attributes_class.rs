//! VolumeAttributesClass: attributes of volumes that may be changed while they exist.

use super::validate as shared;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{is_empty, text};
use serde_json::Value;

/// VolumeAttributesClasses.
pub static VOLUME_ATTRIBUTES_CLASSES: Resource = Resource {
    group: "storage.k8s.io",
    version: "v1",
    kind: "VolumeAttributesClass",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &["vac"],
    categories: &[],
    type_name: "io.k8s.api.storage.v1.VolumeAttributesClass",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("DriverName", "string"), Column::new("Age", "string")],
    rules: Rules { row, validate, validate_update, ..Rules::NONE },
};

fn row(class: &Value, now: i64) -> Vec<Value> {
    vec![table::name(class), text(&class["driverName"]).into(), table::created(class, now)]
}

fn validate(class: &Value, errors: &mut FieldErrors) {
    shared::provisioner(&class["driverName"], Path::root("driverName"), errors);
    shared::parameters(&class["parameters"], Path::root("parameters"), errors);
    if is_empty(&class["parameters"]) {
        errors.required("parameters", "must contain at least one key/value pair");
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for field in ["driverName", "parameters"] {
        if new[field] != old[field] {
            errors.forbidden(field, &format!("updates to {field} are forbidden."));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_class_has_a_driver_and_parameters_for_ever() {
        let class = json!({"metadata": {"name": "v"}, "driverName": "d", "parameters": {"iops": "1"}});
        let mut errors = FieldErrors::default();
        validate(&class, &mut errors);
        assert!(errors.is_empty());
        validate(&json!({}), &mut errors);
        validate_update(&json!({}), &class, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "driverName: Required value",
                "parameters: Required value: must contain at least one key/value pair",
                "driverName: Forbidden: updates to driverName are forbidden.",
                "parameters: Forbidden: updates to parameters are forbidden.",
            ]
        );
        assert_eq!(row(&class, 0), ["v", "d", "<unknown>"]);
    }
}
