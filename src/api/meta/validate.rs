//! Validation of object metadata, the same for every kind but for the shape of the name.

use super::names;
use crate::checks::NEGATIVE;
use crate::registry::Resource;
use crate::status::{FieldErrors, Path};
use crate::tree::{entries, flag, int, list, some_text, text};
use serde_json::Value;

/// All keys and values of an object's annotations together.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// How a kind's objects may be named.
pub type NameRule = fn(&str) -> Vec<String>;

/// Adds the errors of a new or updated object's metadata.
pub fn metadata(resource: &Resource, object: &Value, errors: &mut FieldErrors) {
    let metadata = &object["metadata"];
    let path = Path::root("metadata");
    name(resource, metadata, &path, errors);
    namespace(resource, metadata, &path, errors);
    if int(&metadata["generation"]) < 0 {
        errors.invalid(path.child("generation"), int(&metadata["generation"]), NEGATIVE);
    }
    labels(&metadata["labels"], &path.child("labels"), errors);
    annotations(&metadata["annotations"], &path.child("annotations"), errors);
    owners(metadata, &path, errors);
    finalizers(resource, metadata, &path, errors);
    managed_fields(metadata, &path, errors);
}

fn name(resource: &Resource, metadata: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let rule = resource.rules.name;
    if let Some(prefix) = some_text(&metadata["generateName"]) {
        for why in rule(&names::as_prefix(prefix)) {
            errors.invalid(path.child("generateName"), prefix, &why);
        }
    }
    match some_text(&metadata["name"]) {
        None => errors.required(path.child("name"), "name or generateName is required"),
        Some(name) => {
            for why in rule(name) {
                errors.invalid(path.child("name"), name, &why);
            }
        }
    }
}

fn namespace(resource: &Resource, metadata: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match (resource.is_namespaced(), some_text(&metadata["namespace"])) {
        (true, None) => errors.required(path.child("namespace"), ""),
        (true, Some(namespace)) => {
            for why in names::dns_label(namespace) {
                errors.invalid(path.child("namespace"), namespace, &why);
            }
        }
        (false, Some(_)) => errors.forbidden(path.child("namespace"), "not allowed on this type"),
        (false, None) => {}
    }
}

/// Adds the errors of a map of labels.
pub fn labels(labels: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (key, value) in entries(labels) {
        for why in names::qualified_name(key) {
            errors.invalid(path, key, &why);
        }
        for why in names::label_value(text(value)) {
            errors.invalid(path, value, &why);
        }
    }
}

/// Adds the errors of a map of annotations.
pub fn annotations(annotations: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut size = 0;
    for (key, value) in entries(annotations) {
        for why in names::qualified_name(&key.to_lowercase()) {
            errors.invalid(path, key, &why);
        }
        size += key.len() + text(value).len();
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(path, ANNOTATIONS_MAX);
    }
}

/// Adds the errors of a label selector.
pub fn label_selector(selector: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    labels(&selector["matchLabels"], &path.child("matchLabels"), errors);
    let expressions = path.child("matchExpressions");
    for (i, expression) in list(&selector["matchExpressions"]).iter().enumerate() {
        requirement(expression, &expressions.index(i), errors);
    }
}

fn requirement(expression: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let values = list(&expression["values"]);
    match text(&expression["operator"]) {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(path.child("values"), why);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(path.child("operator"), other, "not a valid selector operator"),
    }
    let key = text(&expression["key"]);
    for why in names::qualified_name(key) {
        errors.invalid(path.child("key"), key, &why);
    }
    for (i, value) in values.iter().enumerate() {
        for why in names::label_value(text(value)) {
            errors.invalid(path.child("values").index(i), value, &why);
        }
    }
}

fn owners(metadata: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("ownerReferences");
    let mut controller: Option<String> = None;
    for owner in list(&metadata["ownerReferences"]) {
        let (version, kind) = (text(&owner["apiVersion"]), text(&owner["kind"]));
        if version.rsplit('/').next().unwrap_or("").is_empty() {
            errors.invalid(path.child("apiVersion"), version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if text(&owner[field]).is_empty() {
                errors.invalid(path.child(field), "", "must not be empty");
            }
        }
        if (version, kind) == ("v1", "Event") {
            errors.invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if flag(&owner["controller"]) {
            let this = format!("{kind}/{}", text(&owner["name"]));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.invalid(path, &metadata["ownerReferences"], &why);
                }
            }
        }
    }
}

/// Groups whose kinds take any qualified name for a finalizer; the others want a path in it.
const FREE_FINALIZERS: [&str; 5] = [
    "coordination.k8s.io",
    "node.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
];

fn finalizers(resource: &Resource, metadata: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("finalizers");
    let all = list(&metadata["finalizers"]);
    for name in all.iter().map(text) {
        for why in names::qualified_name(name) {
            errors.invalid(path, name, &why);
        }
    }
    let has = |name: &str| all.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(path, &metadata["finalizers"], why);
    }
    if FREE_FINALIZERS.contains(&resource.group) {
        return;
    }
    for (i, name) in all.iter().map(text).enumerate() {
        let standard = matches!(name, "kubernetes" | "orphan" | "foregroundDeletion");
        if !name.contains('/') && !standard {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(path.index(i), name, why);
        }
    }
}

const MAX_MANAGER: usize = 128;
const MAX_SUBRESOURCE: usize = 256;

fn managed_fields(metadata: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("managedFields");
    for (i, entry) in list(&metadata["managedFields"]).iter().enumerate() {
        let item = path.index(i);
        if !matches!(text(&entry["operation"]), "Apply" | "Update") {
            errors.invalid(item.child("operation"), text(&entry["operation"]), "must be `Apply` or `Update`");
        }
        if some_text(&entry["fieldsType"]).is_some_and(|t| t != "FieldsV1") {
            errors.invalid(item.child("fieldsType"), &entry["fieldsType"], "must be `FieldsV1`");
        }
        field_manager(text(&entry["manager"]), item.child("manager"), errors);
        if text(&entry["subresource"]).len() > MAX_SUBRESOURCE {
            errors.too_long(item.child("subresource"), MAX_SUBRESOURCE);
        }
    }
}

/// Adds what is wrong with the name of a field manager, in an object or in a request's options.
pub fn field_manager(name: &str, path: impl std::fmt::Display, errors: &mut FieldErrors) {
    if name.len() > MAX_MANAGER {
        errors.too_long(&path, MAX_MANAGER);
    }
    for (at, c) in name.char_indices().filter(|(_, c)| c.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        errors.invalid(&path, name, &why);
    }
}

/// Adds what an update may not change in the metadata. Called in addition to [`metadata`].
pub fn metadata_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (new, old) = (&new["metadata"], &old["metadata"]);
    let path = Path::root("metadata");
    if old["deletionTimestamp"].is_string() {
        let before = list(&old["finalizers"]);
        let mut added: Vec<String> =
            list(&new["finalizers"]).iter().filter(|f| !before.contains(f)).map(|f| format!("{:?}", text(f))).collect();
        added.sort();
        if !added.is_empty() {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.forbidden(path.child("finalizers"), &why);
        }
    }
    if int(&new["generation"]) < int(&old["generation"]) {
        errors.invalid(path.child("generation"), int(&new["generation"]), "must not be decremented");
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new[field] != old[field] {
            errors.immutable(path.child(field), &new[field]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use serde_json::json;

    fn check(resource: &Resource, metadata_value: Value, expect: &[&str]) {
        let mut errors = FieldErrors::default();
        metadata(resource, &json!({ "metadata": metadata_value }), &mut errors);
        let got: Vec<String> =
            errors.messages().iter().map(|m| m.split(": a ").next().unwrap_or("").to_owned()).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn names_by_kind() {
        check(&registry::PODS, json!({"name": "a.b", "namespace": "n"}), &[]);
        check(&registry::CLUSTER_ROLES, json!({"name": "system:x"}), &[]);
        check(
            &registry::CLUSTER_ROLES,
            json!({"name": "a/b"}),
            &[r#"metadata.name: Invalid value: "a/b": may not contain '/'"#],
        );
        check(
            &registry::SERVICES,
            json!({"name": "a.b", "namespace": "n"}),
            &[r#"metadata.name: Invalid value: "a.b": must not contain dots"#],
        );
        check(&registry::NAMESPACES, json!({"name": "A"}), &[r#"metadata.name: Invalid value: "A""#]);
        check(&registry::PODS, json!({"generateName": "a-", "name": "a-x", "namespace": "n"}), &[]);
        check(
            &registry::PODS,
            json!({}),
            &["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"],
        );
        check(
            &registry::NODES,
            json!({"name": "n", "namespace": "x"}),
            &["metadata.namespace: Forbidden: not allowed on this type"],
        );
    }

    #[test]
    fn labels_annotations_owners_and_finalizers() {
        check(
            &registry::CONFIG_MAPS,
            json!({"name": "c", "namespace": "n", "labels": {"a b": "x y"}, "annotations": {"k": "v".repeat(ANNOTATIONS_MAX)},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "", "uid": "u"}],
                "finalizers": ["mine"]}),
            &[
                "metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                "metadata.labels: Invalid value: \"x y\"",
                "metadata.annotations: Too long: may not be more than 262144 bytes",
                "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
                "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
            ],
        );
    }

    #[test]
    fn owners_finalizers_and_managers_by_kind() {
        let owner =
            |name: &str| json!({"apiVersion": "apps/v1", "kind": "R", "name": name, "uid": "u", "controller": true});
        let owners = json!([owner("a"), owner("b")]);
        check(
            &registry::LEASES,
            json!({"name": "l", "namespace": "n", "ownerReferences": owners, "finalizers": ["mine"],
                "managedFields": [{"operation": "X", "fieldsType": "Y", "manager": "a\n"}]}),
            &[
                &format!(
                    "metadata.ownerReferences: Invalid value: {owners}: Only one reference can have Controller set to true. Found \"true\" in references for R/a and R/b"
                ),
                "metadata.managedFields[0].operation: Invalid value: \"X\": must be `Apply` or `Update`",
                "metadata.managedFields[0].fieldsType: Invalid value: \"Y\": must be `FieldsV1`",
                "metadata.managedFields[0].manager: Invalid value: \"a\\n\": invalid character U+000A (at position 1)",
            ],
        );
        let event = json!({"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"});
        check(
            &registry::NODES,
            json!({"name": "n", "ownerReferences": [event], "finalizers": ["orphan", "foregroundDeletion"]}),
            &[
                &format!(
                    "metadata.ownerReferences: Invalid value: {event}: /v1, Kind=Event is disallowed from being an owner"
                ),
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
            ],
        );
    }

    #[test]
    fn what_updates_may_not_change() {
        let old = json!({"metadata": {"name": "a", "uid": "u", "deletionTimestamp": "t", "finalizers": ["x/y"]}});
        let mut new = old.clone();
        new["metadata"]["uid"] = "v".into();
        new["metadata"]["finalizers"] = json!(["x/y", "x/z"]);
        let mut errors = FieldErrors::default();
        metadata_update(&new, &old, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/z\"}",
                "metadata.uid: Invalid value: \"v\": field is immutable",
            ]
        );
    }
}
