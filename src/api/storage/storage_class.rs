//! StorageClass: how volumes are made for claims.

use super::validate as shared;
use crate::checks::one_of;
use crate::core::pod;
use crate::meta::names;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, flag, list, some_text, text};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// StorageClasses.
pub static STORAGE_CLASSES: Resource = Resource {
    group: "storage.k8s.io",
    version: "v1",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &["sc"],
    categories: &[],
    type_name: "io.k8s.api.storage.v1.StorageClass",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Provisioner", "string"),
        Column::new("ReclaimPolicy", "string"),
        Column::new("VolumeBindingMode", "string"),
        Column::new("AllowVolumeExpansion", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules { default, row, validate, validate_update, warnings, ..Rules::NONE },
};

const DEFAULT_ANNOTATIONS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

fn default(class: &mut Value) {
    let class = tree::object(class);
    tree::default(class, "reclaimPolicy", "Delete");
    tree::default(class, "volumeBindingMode", "Immediate");
}

fn row(class: &Value, now: i64) -> Vec<Value> {
    let annotations = &class["metadata"]["annotations"];
    let mut name = text(&class["metadata"]["name"]).to_owned();
    if DEFAULT_ANNOTATIONS.iter().any(|a| annotations[*a] == "true") {
        name.push_str(" (default)");
    }
    vec![
        name.into(),
        text(&class["provisioner"]).into(),
        class["reclaimPolicy"].as_str().unwrap_or("Delete").into(),
        class["volumeBindingMode"].as_str().unwrap_or("Immediate").into(),
        flag(&class["allowVolumeExpansion"]).into(),
        table::created(class, now),
    ]
}

fn warnings(class: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for (i, topology) in list(&class["allowedTopologies"]).iter().enumerate() {
        for (j, expression) in list(&topology["matchLabelExpressions"]).iter().enumerate() {
            let why = pod::warnings::renamed(text(&expression["key"]));
            all.extend(why.map(|why| format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key: {why}")));
        }
    }
    all
}

fn validate(class: &Value, errors: &mut FieldErrors) {
    shared::provisioner(&class["provisioner"], Path::root("provisioner"), errors);
    shared::parameters(&class["parameters"], Path::root("parameters"), errors);
    if some_text(&class["reclaimPolicy"]).is_some() {
        one_of(&class["reclaimPolicy"], Path::root("reclaimPolicy"), &["Delete", "Retain"], errors);
    }
    let modes = ["Immediate", "WaitForFirstConsumer"];
    match class["volumeBindingMode"].as_str() {
        None => errors.required("volumeBindingMode", ""),
        Some(_) => one_of(&class["volumeBindingMode"], Path::root("volumeBindingMode"), &modes, errors),
    }
    topologies(&class["allowedTopologies"], Path::root("allowedTopologies"), errors);
}

fn topologies(terms: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for (i, term) in list(terms).iter().enumerate() {
        let item = path.index(i);
        let at = item.child("matchLabelExpressions");
        let mut keys = BTreeMap::new();
        for (n, requirement) in list(&term["matchLabelExpressions"]).iter().enumerate() {
            let one = at.index(n);
            let values_at = one.child("values");
            let mut values = BTreeSet::new();
            if list(&requirement["values"]).is_empty() {
                errors.required(values_at, "");
            }
            for (v, value) in list(&requirement["values"]).iter().enumerate() {
                if !values.insert(text(value)) {
                    errors.duplicate(values_at.index(v), value);
                }
            }
            let key = text(&requirement["key"]);
            crate::checks::complain(names::qualified_name(key), key, one.child("key"), errors);
            if keys.insert(key, values).is_some() {
                errors.duplicate(one.child("key"), key);
            }
        }
        if seen.contains(&keys) {
            errors.duplicate(at, "");
        }
        seen.push(keys);
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if new[field] != old[field] {
            errors.forbidden(field, &format!("updates to {field} are forbidden."));
        }
    }
    if new["volumeBindingMode"] != old["volumeBindingMode"] {
        errors.immutable("volumeBindingMode", &new["volumeBindingMode"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_minimal_class_is_completed() {
        let mut class = json!({"metadata": {"name": "c", "annotations": {DEFAULT_ANNOTATIONS[0]: "true"}}, "provisioner": "example.com/p"});
        default(&mut class);
        assert_eq!(
            Value::from(row(&class, 0)),
            json!(["c (default)", "example.com/p", "Delete", "Immediate", false, "<unknown>"])
        );
        let mut errors = FieldErrors::default();
        validate(&class, &mut errors);
        assert_eq!(errors.messages(), [""; 0]);
    }

    #[test]
    fn what_can_be_wrong() {
        let class = json!({"parameters": {"": "x"}, "reclaimPolicy": "Recycle", "volumeBindingMode": "X",
            "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["a", "a"]}, {"key": "zone"}]}]});
        let mut errors = FieldErrors::default();
        validate(&class, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "provisioner: Required value",
                r#"parameters: Invalid value: "": field can not be empty."#,
                r#"reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain""#,
                r#"volumeBindingMode: Unsupported value: "X": supported values: "Immediate", "WaitForFirstConsumer""#,
                r#"allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "a""#,
                "allowedTopologies[0].matchLabelExpressions[1].values: Required value",
                r#"allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: "zone""#,
            ]
        );
        let mut errors = FieldErrors::default();
        validate_update(
            &json!({"provisioner": "a", "volumeBindingMode": "Immediate"}),
            &json!({"parameters": {"a": "b"}}),
            &mut errors,
        );
        assert_eq!(
            errors.messages(),
            [
                "parameters: Forbidden: updates to parameters are forbidden.",
                "provisioner: Forbidden: updates to provisioner are forbidden.",
                r#"volumeBindingMode: Invalid value: "Immediate": field is immutable"#,
            ]
        );
    }
}
