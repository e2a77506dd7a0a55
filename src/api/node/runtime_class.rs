//! RuntimeClass: how a pod's containers are run, and what that costs.

use crate::checks::complain;
use crate::core::pod;
use crate::internal;
use crate::meta::{names, validate as meta};
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{entries, list, text};
use serde_json::Value;

/// RuntimeClasses.
pub static RUNTIME_CLASSES: Resource = Resource {
    group: "node.k8s.io",
    version: "v1",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.node.v1.RuntimeClass",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Handler", "string"), Column::new("Age", "string")],
    rules: Rules { row, validate, validate_update, warnings, ..Rules::NONE },
};

fn row(class: &Value, now: i64) -> Vec<Value> {
    vec![table::name(class), text(&class["handler"]).into(), table::created(class, now)]
}

fn validate(class: &Value, errors: &mut FieldErrors) {
    let handler = text(&class["handler"]);
    complain(names::dns_label(handler), handler, Path::root("handler"), errors);
    let path = Path::root("overhead");
    pod::validate::overhead(&class["overhead"]["podFixed"], path.child("limits"), errors);
    let (scheduling, path) = (&class["scheduling"], Path::root("scheduling"));
    meta::labels(&scheduling["nodeSelector"], &path.child("nodeSelector"), errors);
    let at = path.child("tolerations");
    pod::validate::tolerations(&scheduling["tolerations"], at, errors);
    let all = list(&scheduling["tolerations"]);
    let key =
        |toleration: &Value| ["key", "operator", "value", "effect"].map(|field| text(&toleration[field]).to_owned());
    for (i, one) in all.iter().enumerate().filter(|(i, one)| all[..*i].iter().any(|other| key(other) == key(one))) {
        errors.duplicate(at.index(i), internal::shown(one, "io.k8s.api.core.v1.Toleration"));
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new["handler"] != old["handler"] {
        errors.immutable("handler", &new["handler"]);
    }
}

fn warnings(class: &Value) -> Vec<String> {
    let selected = entries(&class["scheduling"]["nodeSelector"]);
    selected
        .filter_map(|(key, _)| pod::warnings::renamed(key))
        .map(|why| format!("scheduling.nodeSelector: {why}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_can_be_wrong() {
        let class = json!({"metadata": {"name": "c"}, "handler": "a.b", "overhead": {"podFixed": {"memory": "-1"}},
            "scheduling": {"tolerations": [{"operator": "Equal"}]}});
        let mut errors = FieldErrors::default();
        validate(&class, &mut errors);
        validate_update(&class, &json!({"handler": "b"}), &mut errors);
        assert_eq!(
            errors.messages(),
            [
                r#"handler: Invalid value: "a.b": must not contain dots"#,
                r#"overhead.limits[memory]: Invalid value: "-1": must be greater than or equal to 0"#,
                "scheduling.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                r#"handler: Invalid value: "a.b": field is immutable"#,
            ]
        );
        let twice = json!({"handler": "h", "scheduling": {"tolerations": [
            {"key": "a", "operator": "Exists"}, {"key": "b"}, {"key": "a", "operator": "Exists"}]}});
        let mut errors = FieldErrors::default();
        validate(&twice, &mut errors);
        let shown = r#"{"Key":"a","Operator":"Exists","Value":"","Effect":"","TolerationSeconds":null}"#;
        assert_eq!(errors.messages(), [format!("scheduling.tolerations[2]: Duplicate value: {shown}")]);
        assert_eq!(row(&class, 0), ["c", "a.b", "<unknown>"]);
        assert_eq!(
            warnings(&json!({"scheduling": {"nodeSelector": {"a": "b", "beta.kubernetes.io/os": "linux"}}})),
            ["scheduling.nodeSelector: deprecated since v1.14; use \"kubernetes.io/os\" instead"]
        );
    }
}
