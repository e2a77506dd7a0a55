//! Environment variables and where they come from.

use super::container::no_dots;
use super::{each_container, resources};
use crate::checks::{complain, required};
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use crate::tree::{list, some_text, text};
use serde_json::Value;

/// Fields of the pod that a variable may show.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of the pod that a file may show.
pub(super) const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

/// The list of variables.
pub(super) fn variables(env: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (i, variable) in list(env).iter().enumerate() {
        let item = path.index(i);
        if required(&variable["name"], item.child("name"), errors) {
            let name = text(&variable["name"]);
            complain(names::env_name(name), name, item.child("name"), errors);
        }
        if variable["valueFrom"].is_object() {
            value_from(variable, item.child("valueFrom"), errors);
        }
    }
}

fn value_from(variable: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let from = &variable["valueFrom"];
    let set = SOURCES.iter().filter(|s| from[**s].is_object()).count();
    if from["fieldRef"].is_object() {
        field_ref(&from["fieldRef"], ENV_FIELDS, path.child("fieldRef"), errors);
    }
    if from["resourceFieldRef"].is_object() {
        resources::field_ref(&from["resourceFieldRef"], false, path.child("resourceFieldRef"), errors);
    }
    for source in ["configMapKeyRef", "secretKeyRef"] {
        if from[source].is_object() {
            key_ref(&from[source], path.child(source), errors);
        }
    }
    if from["fileKeyRef"].is_object() {
        file_ref(&from["fileKeyRef"], path.child("fileKeyRef"), errors);
    }
    match set {
        0 => errors.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        _ if some_text(&variable["value"]).is_some() => {
            errors.invalid(path, "", "may not be specified when `value` is not empty");
        }
        1 => {}
        _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

fn key_ref(reference: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let name = text(&reference["name"]);
    complain(names::dns_subdomain(name), name, path.child("name"), errors);
    if required(&reference["key"], path.child("key"), errors) {
        let key = text(&reference["key"]);
        complain(names::config_key(key), key, path.child("key"), errors);
    }
}

fn file_ref(reference: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if required(&reference["key"], path.child("key"), errors) {
        let key = text(&reference["key"]);
        complain(names::env_name(key), key, path.child("key"), errors);
    }
    if required(&reference["volumeName"], path.child("volumeName"), errors) {
        let name = text(&reference["volumeName"]);
        complain(names::dns_label(name), name, path.child("volumeName"), errors);
    }
    if required(&reference["path"], path.child("path"), errors) {
        no_dots(text(&reference["path"]), path.child("path"), errors);
    }
}

/// Files of variables lie in volumes that the pod fills itself.
pub(super) fn file_volumes(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    each_container(spec, path, |container, at| {
        let at = at.child("env");
        for (i, variable) in list(&container["env"]).iter().enumerate() {
            let reference = &variable["valueFrom"]["fileKeyRef"];
            if !reference.is_object() {
                continue;
            }
            let item = at.index(i);
            let at = item.child("valueFrom");
            let at = at.child("fileKeyRef");
            let name = text(&reference["volumeName"]);
            match list(&spec["volumes"]).iter().rev().find(|v| v["name"] == name) {
                None => errors.not_found(at.child("volumeName"), name),
                Some(volume) if !volume["emptyDir"].is_object() => {
                    let why = "referenced volume must be of type emptyDir";
                    errors.invalid(at.child("volumeName"), name, why);
                }
                Some(_) => {}
            }
        }
    });
}

/// A reference to a field of the pod, one of `allowed` or one entry of the labels or annotations.
pub(super) fn field_ref(reference: &Value, allowed: &[&str], path: Path<'_>, errors: &mut FieldErrors) {
    if !required(&reference["apiVersion"], path.child("apiVersion"), errors) {
        return;
    }
    if !required(&reference["fieldPath"], path.child("fieldPath"), errors) {
        return;
    }
    let field = text(&reference["fieldPath"]);
    let at = path.child("fieldPath");
    let entry = field.strip_suffix("']").and_then(|rest| rest.split_once("['"));
    match entry {
        Some(("metadata.labels", key)) => complain(names::qualified_name(key), key, path, errors),
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            complain(names::qualified_name(&key), key.as_str(), path, errors);
        }
        Some((other, _)) if ENV_FIELDS.contains(&other) => {
            errors.invalid(path, other, "does not support subscript");
        }
        None if allowed.contains(&field) => {}
        None if ENV_FIELDS.contains(&field) || FILE_FIELDS.contains(&field) => {
            errors.not_supported(at, field, allowed);
        }
        _ => {
            let why = format!("error converting fieldPath: field label not supported: {field}");
            errors.invalid(at, field, &why);
        }
    }
}

/// The list of whole ConfigMaps and Secrets.
pub(super) fn sources(sources: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (i, source) in list(sources).iter().enumerate() {
        let item = path.index(i);
        if let Some(prefix) = some_text(&source["prefix"]) {
            complain(names::env_name(prefix), prefix, item.child("prefix"), errors);
        }
        let mut set = 0;
        for kind in ["configMapRef", "secretRef"] {
            if source[kind].is_object() {
                set += 1;
                if required(&source[kind]["name"], item.child(kind).child("name"), errors) {
                    let name = text(&source[kind]["name"]);
                    let wrong = names::dns_subdomain(&names::as_prefix(name));
                    complain(wrong, name, item.child(kind).child("name"), errors);
                }
            }
        }
        match set {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}
