//! PersistentVolumeClaim: a wish for storage, and the volume that fulfils it.

use crate::checks::{complain, one_of, required};
use crate::core::access_modes::{self as modes, CLASS_ANNOTATION, CLASS_DEPRECATED};
use crate::internal;
use crate::meta::{names, validate as meta};
use crate::quantity::Quantity;
use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, entries, is_empty, some_text, text};
use serde_json::{Map, Value, json};

/// PersistentVolumeClaims.
pub static PERSISTENT_VOLUME_CLAIMS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["pvc"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.PersistentVolumeClaim",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "status",
        gvk: ("", "v1", "PersistentVolumeClaim"),
        verbs: verbs::GET_PATCH_UPDATE,
        action: Action::Status,
    }],
    columns: &[
        Column::NAME,
        Column::new("Status", "string"),
        Column::new("Volume", "string"),
        Column::new("Capacity", "string"),
        Column::new("Access Modes", "string"),
        Column::new("StorageClass", "string"),
        Column::new("VolumeAttributesClass", "string"),
        Column::new("Age", "string"),
        Column::wide("VolumeMode", "string"),
    ],
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        row,
        validate,
        validate_update,
        validate_status,
        warnings,
        ..Rules::NONE
    },
};

fn default(claim: &mut Value) {
    let claim = tree::object(claim);
    tree::default_zero(tree::ensure(claim, "status"), "phase", "Pending");
    default_spec(tree::ensure(claim, "spec"));
}

/// Completes the spec of a claim, wherever it is.
pub(crate) fn default_spec(spec: &mut Map<String, Value>) {
    tree::default(spec, "volumeMode", "Filesystem");
}

fn prepare_create(claim: &mut Value) {
    let claim = tree::object(claim);
    claim.insert("status".to_owned(), json!({"phase": "Pending"}));
    let spec = tree::ensure(claim, "spec");
    drop_unknown_source(spec);
    match_sources(spec);
}

fn prepare_update(new: &mut Value, old: &Value) {
    let claim = tree::object(new);
    tree::keep_status(claim, old);
    if !old["spec"]["dataSource"].is_object() && !old["spec"]["dataSourceRef"].is_object() {
        drop_unknown_source(tree::ensure(claim, "spec"));
    }
}

/// The older field names claims and snapshots only; all else in it was always ignored.
fn drop_unknown_source(spec: &mut Map<String, Value>) {
    if spec.get("dataSourceRef").is_some_and(Value::is_object) {
        return;
    }
    let known = spec.get("dataSource").is_some_and(|source| {
        matches!(
            (text(&source["apiGroup"]), text(&source["kind"])),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    });
    if !known {
        spec.remove("dataSource");
    }
}

/// Where one of the two fields is set, the other says the same.
fn match_sources(spec: &mut Map<String, Value>) {
    let has = |spec: &Map<String, Value>, field: &str| spec.get(field).is_some_and(Value::is_object);
    let (from, to) = match (has(spec, "dataSource"), has(spec, "dataSourceRef")) {
        (true, false) => ("dataSource", "dataSourceRef"),
        (false, true) if some_text(&spec["dataSourceRef"]["namespace"]).is_none() => ("dataSourceRef", "dataSource"),
        _ => return,
    };
    let mut copy = spec[from].clone();
    tree::object(&mut copy).remove("namespace");
    spec.insert(to.to_owned(), copy);
}

fn row(claim: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&claim["spec"], &claim["status"]);
    let deleted = claim["metadata"]["deletionTimestamp"].is_string();
    let volume = text(&spec["volumeName"]);
    let (capacity, access) = match volume {
        "" => (String::new(), String::new()),
        _ => (modes::quantity(&status["capacity"]["storage"]), modes::short(&status["accessModes"])),
    };
    vec![
        table::name(claim),
        if deleted { "Terminating" } else { text(&status["phase"]) }.into(),
        volume.into(),
        capacity.into(),
        access.into(),
        modes::class(claim).into(),
        spec["volumeAttributesClassName"].as_str().unwrap_or("<unset>").into(),
        table::created(claim, now),
        spec["volumeMode"].as_str().unwrap_or("<unset>").into(),
    ]
}

fn validate(claim: &Value, errors: &mut FieldErrors) {
    validate_spec(&claim["spec"], Path::root("spec"), errors);
}

/// The spec of a claim, wherever it is.
pub(crate) fn validate_spec(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if is_empty(&spec["accessModes"]) {
        errors.required(path.child("accessModes"), "at least 1 access mode is required");
    }
    meta::label_selector(&spec["selector"], &path.child("selector"), errors);
    modes::check(&spec["accessModes"], path.child("accessModes"), errors);
    let (storage, resources) = (&spec["resources"]["requests"]["storage"], path.child("resources"));
    if storage.is_null() {
        errors.required(resources.key("storage"), "");
    } else {
        modes::positive(storage, resources.key("storage"), errors);
    }
    if let Some(class) = some_text(&spec["storageClassName"]) {
        complain(names::dns_subdomain(class), class, path.child("storageClassName"), errors);
    }
    one_of(&spec["volumeMode"], path.child("volumeMode"), &modes::VOLUME_MODES, errors);
    for field in ["dataSource", "dataSourceRef"].into_iter().filter(|f| spec[*f].is_object()) {
        data_source(&spec[field], path.child(field), errors);
    }
    sources_agree(spec, path, errors);
    if let Some(class) = some_text(&spec["volumeAttributesClassName"]) {
        complain(names::dns_subdomain(class), class, path.child("volumeAttributesClassName"), errors);
    }
}

fn data_source(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    required(&source["name"], path.child("name"), errors);
    required(&source["kind"], path.child("kind"), errors);
    match some_text(&source["apiGroup"]) {
        None if source["kind"] != "PersistentVolumeClaim" => {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(path, text(&source["kind"]), why);
        }
        None => {}
        Some(group) => complain(names::dns_subdomain(group), group, path.child("apiGroup"), errors),
    }
    if let Some(namespace) = some_text(&source["namespace"]) {
        complain(names::dns_label(namespace), namespace, path.child("namespace"), errors);
    }
}

fn sources_agree(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (old, new) = (&spec["dataSource"], &spec["dataSourceRef"]);
    if !old.is_object() || !new.is_object() {
        return;
    }
    let named = path.child("dataSource").to_string();
    if some_text(&new["namespace"]).is_some() {
        errors.invalid(path, &named, "may not be specified when dataSourceRef.namespace is specified");
    } else if ["apiGroup", "kind", "name"].iter().any(|f| old[*f] != new[*f]) {
        errors.invalid(path, &named, "must match dataSourceRef");
    }
}

fn amount(value: &Value) -> Quantity {
    Quantity::parse(text(value)).unwrap_or(Quantity::ZERO)
}

fn put(object: &mut Value, key: &str, value: &Value) {
    tree::object(object).insert(key.to_owned(), value.clone());
}

const IMMUTABLE: &str =
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (mut spec, mut before) = (new["spec"].clone(), old["spec"].clone());
    if some_text(&before["volumeName"]).is_none() {
        put(&mut before, "volumeName", &spec["volumeName"]);
    }
    class_update(new, old, &mut spec, &before, errors);
    if let Some(requests) = spec.pointer_mut("/resources/requests").filter(|r| r.is_object())
        && new["status"]["phase"] == "Bound"
    {
        put(requests, "storage", &before["resources"]["requests"]["storage"]);
    }
    put(&mut spec, "volumeAttributesClassName", &before["volumeAttributesClassName"]);
    let path = Path::root("spec");
    let differs = entries(&spec).any(|(k, v)| *v != before[k]) || entries(&before).any(|(k, v)| *v != spec[k]);
    if differs {
        let diff = internal::claim_specs(&before, &spec);
        errors.forbidden(path, &format!("{IMMUTABLE}\n{diff}"));
    }
    let size = |claim: &Value| amount(&claim["spec"]["resources"]["requests"]["storage"]);
    if size(new) < size(old) && size(new) <= amount(&old["status"]["capacity"]["storage"]) {
        let resources = path.child("resources");
        let requests = resources.child("requests");
        errors.forbidden(requests.child("storage"), "field can not be less than status.capacity");
    }
    if new["spec"]["volumeMode"] != old["spec"]["volumeMode"] {
        errors.immutable("volumeMode", &new["spec"]["volumeMode"]);
    }
    if old["spec"]["volumeAttributesClassName"].is_string() {
        let at = path.child("volumeAttributesClassName");
        match new["spec"]["volumeAttributesClassName"].as_str() {
            None => errors.forbidden(at, "update from non-nil value to nil is forbidden"),
            Some("") if old["spec"]["volumeAttributesClassName"] != "" => {
                errors.forbidden(at, "update from non-nil value to an empty string is forbidden");
            }
            Some(_) => {}
        }
    }
}

/// A class may be named once if there was none, and may move from the annotation of old to the field.
fn class_update(new: &Value, old: &Value, spec: &mut Value, before: &Value, errors: &mut FieldErrors) {
    let annotation = |claim: &Value| claim["metadata"]["annotations"][CLASS_ANNOTATION].clone();
    let (now, then) = (annotation(new), annotation(old));
    let had_none = before["storageClassName"].is_null();
    let moved = then.is_string() && had_none && spec["storageClassName"] == then && (now.is_null() || now == then);
    if !moved && text(&now) != text(&then) {
        let metadata = Path::root("metadata");
        let at = metadata.child("annotations");
        errors.immutable(at.child(CLASS_ANNOTATION), text(&now));
    }
    let named = had_none && spec["storageClassName"].is_string();
    if moved || named && (then.is_null() || spec["storageClassName"] == then) {
        put(spec, "storageClassName", &before["storageClassName"]);
    }
}

const RESIZE_STATES: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

fn resource_key(key: &str, path: Path<'_>, errors: &mut FieldErrors) -> bool {
    let before = errors.len();
    complain(names::qualified_name(key), key, path, errors);
    let native = !key.contains('/') || key.contains("kubernetes.io/");
    if errors.len() == before && native && key != "storage" {
        errors.not_supported(path, key, &["storage"]);
    }
    errors.len() == before
}

fn validate_status(new: &Value, _old: &Value, errors: &mut FieldErrors) {
    let (status, path) = (&new["status"], Path::root("status"));
    if is_empty(&new["spec"]["accessModes"]) {
        errors.required("Spec.accessModes", "");
    }
    for (name, amount) in entries(&status["capacity"]) {
        modes::basic(amount, path.child("capacity").key(name), errors);
    }
    let states = path.child("allocatedResourceStatus");
    for (name, state) in entries(&status["allocatedResourceStatuses"]) {
        resource_key(name, states, errors);
        if !RESIZE_STATES.contains(&text(state)) {
            errors.not_supported(states, name, &RESIZE_STATES);
        }
    }
    let allocated = path.child("allocatedResources");
    for (name, amount) in entries(&status["allocatedResources"]) {
        if resource_key(name, allocated, errors) {
            modes::basic(amount, allocated.key(name), errors);
        }
    }
}

fn warnings(claim: &Value) -> Vec<String> {
    let mut all = Vec::new();
    if claim["metadata"]["annotations"][CLASS_ANNOTATION].is_string() {
        let metadata = Path::root("metadata");
        all.push(format!("{}: {CLASS_DEPRECATED}", metadata.child("annotations").key(CLASS_ANNOTATION)));
    }
    all.extend(spec_warnings(&claim["spec"], Path::root("spec")));
    all
}

/// Advice about the spec of a claim, wherever it is.
pub(crate) fn spec_warnings(spec: &Value, path: Path<'_>) -> Vec<String> {
    let resources = path.child("resources");
    let of = |kind: &str| modes::fraction(&spec["resources"][kind]["storage"], resources.child(kind).key("storage"));
    ["requests", "limits"].into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Value {
        json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    }

    fn errors_of(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(&json!({ "spec": spec }), &mut errors);
        errors.messages()
    }

    fn errors_of_update(new: &Value, old: &Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate_update(new, old, &mut errors);
        errors.messages()
    }

    #[test]
    fn a_minimal_claim_is_completed() {
        let mut claim = claim();
        default(&mut claim);
        prepare_create(&mut claim);
        assert_eq!(claim["spec"]["volumeMode"], "Filesystem");
        assert_eq!(claim["status"], json!({"phase": "Pending"}));
        assert_eq!(errors_of(claim["spec"].clone()), [""; 0]);
    }

    #[test]
    fn sources_are_completed_or_dropped() {
        let made = |spec: Value| {
            let mut claim = json!({ "spec": spec });
            prepare_create(&mut claim);
            claim["spec"].clone()
        };
        let source = json!({"kind": "PersistentVolumeClaim", "name": "a"});
        let both = json!({"dataSource": source, "dataSourceRef": source});
        assert_eq!(made(json!({"dataSource": source})), both);
        assert_eq!(made(json!({"dataSourceRef": source})), both);
        assert_eq!(made(json!({"dataSource": {"apiGroup": "x.io", "kind": "X", "name": "a"}})), json!({}));
    }

    #[test]
    fn what_can_be_wrong() {
        assert_eq!(
            errors_of(json!({})),
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value"
            ]
        );
        let spec = json!({"accessModes": ["X"], "resources": {"requests": {"storage": "-1"}}, "volumeMode": "Y",
            "dataSource": {"kind": "X", "name": ""}, "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "a"}});
        assert_eq!(
            errors_of(spec),
            [
                r#"spec.accessModes: Unsupported value: "X": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod""#,
                r#"spec.resources[storage]: Invalid value: "-1": must be greater than zero"#,
                r#"spec.volumeMode: Unsupported value: "Y": supported values: "Block", "Filesystem""#,
                "spec.dataSource.name: Required value",
                r#"spec.dataSource: Invalid value: "X": must be 'PersistentVolumeClaim' when referencing the default apiGroup"#,
                r#"spec: Invalid value: "spec.dataSource": must match dataSourceRef"#,
            ]
        );
    }

    #[test]
    fn a_claim_grows_only_when_bound() {
        let (old, mut new) = (claim(), claim());
        new["spec"]["volumeName"] = "v".into();
        new["spec"]["storageClassName"] = "fast".into();
        assert_eq!(errors_of_update(&new, &old), [""; 0]);
        new["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
        let wrong = errors_of_update(&new, &old);
        assert!(wrong[0].starts_with(&format!("spec: Forbidden: {IMMUTABLE}\n@@ ")), "{wrong:?}");
        assert!(wrong[0].contains("-   \"storage\": \"1Gi\"\n+   \"storage\": \"2Gi\"\n"), "{wrong:?}");
        let status = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        let mut bound = old.clone();
        bound["status"] = status.clone();
        new["status"] = status;
        assert_eq!(errors_of_update(&new, &bound), [""; 0]);
        let mut smaller = bound.clone();
        smaller["spec"]["resources"]["requests"]["storage"] = "1Mi".into();
        assert_eq!(
            errors_of_update(&smaller, &bound),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
    }

    #[test]
    fn classes_and_modes_stay() {
        let mut old = claim();
        old["metadata"]["annotations"] = json!({CLASS_ANNOTATION: "a"});
        old["spec"]["volumeAttributesClassName"] = "gold".into();
        let mut new = old.clone();
        new["spec"]["storageClassName"] = "a".into();
        assert_eq!(errors_of_update(&new, &old), [""; 0]);
        new["metadata"]["annotations"][CLASS_ANNOTATION] = "b".into();
        new["spec"]["volumeMode"] = "Block".into();
        new["spec"]["volumeAttributesClassName"] = "".into();
        let wrong = errors_of_update(&new, &old);
        assert_eq!(
            wrong[0],
            r#"metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: "b": field is immutable"#
        );
        assert_eq!(
            wrong[2..],
            [
                r#"volumeMode: Invalid value: "Block": field is immutable"#,
                "spec.volumeAttributesClassName: Forbidden: update from non-nil value to an empty string is forbidden",
            ]
        );
    }

    #[test]
    fn status_names_storage_alone() {
        let mut claim = claim();
        claim["status"] = json!({"capacity": {"storage": "-1"}, "allocatedResources": {"cpu": "1"}, "allocatedResourceStatuses": {"storage": "X"}});
        let mut errors = FieldErrors::default();
        validate_status(&claim, &Value::Null, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
                r#"status.allocatedResourceStatus: Unsupported value: "storage": supported values: "ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending""#,
                r#"status.allocatedResources: Unsupported value: "cpu": supported values: "storage""#,
            ]
        );
    }

    #[test]
    fn rows_and_warnings() {
        let mut claim = claim();
        claim["spec"]["volumeName"] = "v".into();
        claim["spec"]["storageClassName"] = "s".into();
        claim["spec"]["resources"]["requests"]["storage"] = "500m".into();
        claim["status"] = json!({"phase": "Bound", "capacity": {"storage": "1024Mi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]});
        assert_eq!(
            Value::from(row(&claim, 0)),
            json!(["c", "Bound", "v", "1Gi", "RWO,RWX", "s", "<unset>", "<unknown>", "<unset>"])
        );
        assert_eq!(
            warnings(&claim),
            ["spec.resources.requests[storage]: fractional byte value \"500m\" is invalid, must be an integer"]
        );
    }
}
