//! ControllerRevision: one state of a StatefulSet's or DaemonSet's template, kept to go back to.

use crate::checks;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::FieldErrors;
use crate::table;
use crate::tree::{flag, int, list, text};
use serde_json::Value;

/// ControllerRevisions.
pub static CONTROLLER_REVISIONS: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.apps.v1.ControllerRevision",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Controller", "string"),
        Column::new("Revision", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules { row, validate, validate_update, ..Rules::NONE },
};

/// The controlling owner as kubectl names objects: `statefulset.apps/web`.
fn controller(revision: &Value) -> String {
    let owners = list(&revision["metadata"]["ownerReferences"]);
    let Some(owner) = owners.iter().find(|owner| flag(&owner["controller"])) else { return "<none>".to_owned() };
    let kind = text(&owner["kind"]).to_lowercase();
    match text(&owner["apiVersion"]).split_once('/') {
        Some((group, _)) => format!("{kind}.{}/{}", group.to_lowercase(), text(&owner["name"])),
        None => format!("{kind}/{}", text(&owner["name"])),
    }
}

fn row(revision: &Value, now: i64) -> Vec<Value> {
    vec![
        table::name(revision),
        controller(revision).into(),
        int(&revision["revision"]).into(),
        table::created(revision, now),
    ]
}

fn validate(revision: &Value, errors: &mut FieldErrors) {
    if revision["data"].is_null() {
        errors.required("data", "data is mandatory");
    }
    if int(&revision["revision"]) < 0 {
        errors.invalid("revision", int(&revision["revision"]), checks::NEGATIVE);
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new["data"] != old["data"] {
        errors.immutable("data", &new["data"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_name_the_controller() {
        let mut revision = json!({"metadata": {"name": "web-1", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "controller": true}]}, "revision": 3});
        assert_eq!(Value::from(row(&revision, 0)), json!(["web-1", "statefulset.apps/web", 3, "<unknown>"]));
        revision["metadata"]["ownerReferences"] = Value::Null;
        assert_eq!(row(&revision, 0)[1], "<none>");
    }

    #[test]
    fn what_can_be_wrong() {
        let mut errors = FieldErrors::default();
        validate(&json!({"revision": -1}), &mut errors);
        validate_update(&json!({"data": {"a": 1}}), &json!({"data": {"a": 2}}), &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "data: Required value: data is mandatory",
                "revision: Invalid value: -1: must be greater than or equal to 0",
                "data: Invalid value: {\"a\":1}: field is immutable",
            ]
        );
    }
}
