//! PriorityClass: a name for a pod's priority.

use crate::checks;
use crate::meta::prepare::create as prepare_create;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, flag, int, text};
use serde_json::Value;

/// PriorityClasses.
pub static PRIORITY_CLASSES: Resource = Resource {
    group: "scheduling.k8s.io",
    version: "v1",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &["pc"],
    categories: &[],
    type_name: "io.k8s.api.scheduling.v1.PriorityClass",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Value", "integer"),
        Column::new("Global-Default", "boolean"),
        Column::new("Age", "string"),
        Column::new("PreemptionPolicy", "string"),
    ],
    rules: Rules { default, prepare_create, row, validate, validate_update, ..Rules::NONE },
};

fn default(class: &mut Value) {
    tree::default_zero(tree::object(class), "preemptionPolicy", "PreemptLowerPriority");
}

fn row(class: &Value, now: i64) -> Vec<Value> {
    vec![
        table::name(class),
        int(&class["value"]).into(),
        flag(&class["globalDefault"]).into(),
        table::created(class, now),
        text(&class["preemptionPolicy"]).into(),
    ]
}

/// Higher values, and names with this prefix, belong to the system.
const MAX_USER_VALUE: i64 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

fn validate(class: &Value, errors: &mut FieldErrors) {
    let (name, value) = (text(&class["metadata"]["name"]), int(&class["value"]));
    if name.starts_with(SYSTEM_PREFIX) {
        let known = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name);
        let wrong = match known {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, expected)) if *expected != value => {
                Some(format!("value of {name} PriorityClass must be {expected}"))
            }
            Some(_) if flag(&class["globalDefault"]) => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(wrong) = wrong {
            let why = format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {wrong}"
            );
            errors.forbidden("metadata.name", &why);
        }
    } else if value > MAX_USER_VALUE {
        let why = format!("maximum allowed value of a user defined priority is {MAX_USER_VALUE}");
        errors.forbidden("value", &why);
    }
    let policies = ["Never", "PreemptLowerPriority"];
    checks::one_of(&class["preemptionPolicy"], Path::root("preemptionPolicy"), &policies, errors);
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if int(&new["value"]) != int(&old["value"]) {
        errors.forbidden("value", "may not be changed in an update.");
    }
    if new["preemptionPolicy"] != old["preemptionPolicy"] {
        errors.immutable("preemptionPolicy", &new["preemptionPolicy"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors_of(class: &Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(class, &mut errors);
        errors.messages()
    }

    #[test]
    fn a_minimal_class_is_completed() {
        let mut class = json!({"metadata": {"name": "c"}, "value": 5});
        default(&mut class);
        prepare_create(&mut class);
        assert_eq!(class["preemptionPolicy"], "PreemptLowerPriority");
        assert_eq!(errors_of(&class), [""; 0]);
        assert_eq!(Value::from(row(&class, 0)), json!(["c", 5, false, "<unknown>", "PreemptLowerPriority"]));
    }

    #[test]
    fn high_values_and_names_are_the_systems() {
        let reserved = "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: ";
        let named = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
        assert_eq!(
            errors_of(&named("system-x", 1)),
            [format!("{reserved}system-x is not a known system priority class")]
        );
        assert_eq!(
            errors_of(&named("system-node-critical", 1)),
            [format!("{reserved}value of system-node-critical PriorityClass must be 2000001000")]
        );
        assert_eq!(errors_of(&named("system-node-critical", 2_000_001_000)), [""; 0]);
        assert_eq!(
            errors_of(&named("x", 1_000_000_001)),
            ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
        );
        let mut errors = FieldErrors::default();
        validate_update(&json!({"value": 1, "preemptionPolicy": "Never"}), &json!({"value": 2}), &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "value: Forbidden: may not be changed in an update.",
                "preemptionPolicy: Invalid value: \"Never\": field is immutable",
            ]
        );
    }
}
