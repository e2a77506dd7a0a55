//! DeviceClass: devices that are alike, by selectors, with their configuration.

use super::validate::{MAX_CONFIGS, config, items, selectors};
use crate::core::resource_names::is_extended;
use crate::meta::prepare::{create as prepare_create, update_spec as prepare_update};
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use serde_json::Value;

/// DeviceClasses.
pub static DEVICE_CLASSES: Resource = Resource {
    group: "resource.k8s.io",
    version: "v1",
    kind: "DeviceClass",
    plural: "deviceclasses",
    singular: "deviceclass",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.resource.v1.DeviceClass",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Age", "string")],
    rules: Rules { prepare_create, prepare_update, row, validate, ..Rules::NONE },
};

fn row(class: &Value, now: i64) -> Vec<Value> {
    vec![table::name(class), table::created(class, now)]
}

fn validate(class: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&class["spec"], Path::root("spec"));
    selectors(&spec["selectors"], path.child("selectors"), errors);
    items(&spec["config"], MAX_CONFIGS, path.child("config"), errors, config);
    if let Some(name) = spec["extendedResourceName"].as_str().filter(|name| !is_extended(name)) {
        errors.invalid(path.child("extendedResourceName"), name, "must be a valid extended resource name");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_are_expressions_about_devices() {
        let check = |expression: &str| {
            let mut errors = FieldErrors::default();
            validate(&json!({"spec": {"selectors": [{"cel": {"expression": expression}}]}}), &mut errors);
            errors.messages()
        };
        for right in [
            r#"device.driver == "d.example.com""#,
            r#"device.attributes["d.example.com"].model == "a100" && "memory" in device.capacity["d.example.com"]"#,
            r#"device.capacity["d.example.com"].memory.compareTo(quantity("1Gi")) >= 0"#,
            r#"device.attributes["d.example.com"].version.isGreaterThan(semver("1.2.3"))"#,
            r#"cel.bind(own, device.attributes["d.example.com"], own.model == "a" || own.?shared.orValue(false))"#,
        ] {
            assert_eq!(check(right), Vec::<String>::new(), "{right}");
        }
        let path = "spec.selectors[0].cel.expression: Invalid value:";
        assert_eq!(
            check("device.driver"),
            [format!("{path} \"device.driver\": must evaluate to bool or the unknown type, not string")]
        );
        for wrong in ["device.drver == 'x'", "device.", "true &&", "cel.bind(1, 2, true)", ""] {
            let found = check(wrong);
            assert!(found.len() == 1 && found[0].starts_with(path), "{wrong}: {found:?}");
            assert!(found[0].contains("compilation failed: ERROR: <input>:1:"), "{wrong}: {found:?}");
        }
    }

    #[test]
    fn what_can_be_wrong() {
        let mut errors = FieldErrors::default();
        let spec = json!({"selectors": [{}], "config": [{}, {"opaque": {"driver": "d.example.com", "parameters": [1]}}],
            "extendedResourceName": "cpu"});
        validate(&json!({ "spec": spec }), &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "spec.selectors[0].cel: Required value",
                "spec.config[0].opaque: Required value",
                "spec.config[1].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
                "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name",
            ]
        );
    }
}
