//! PersistentVolume: a piece of storage, and which claim has it.

mod source;

use crate::checks::{complain, one_of};
use crate::core::access_modes::{self as modes, CLASS_ANNOTATION, CLASS_DEPRECATED};
use crate::core::pod;
use crate::internal;
use crate::meta::names;
use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, entries, is_empty, list, some_text, text};
use serde_json::{Value, json};

/// PersistentVolumes.
pub static PERSISTENT_VOLUMES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &["pv"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.PersistentVolume",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "status",
        gvk: ("", "v1", "PersistentVolume"),
        verbs: verbs::GET_PATCH_UPDATE,
        action: Action::Status,
    }],
    columns: &[
        Column::NAME,
        Column::new("Capacity", "string"),
        Column::new("Access Modes", "string"),
        Column::new("Reclaim Policy", "string"),
        Column::new("Status", "string"),
        Column::new("Claim", "string"),
        Column::new("StorageClass", "string"),
        Column::new("VolumeAttributesClass", "string"),
        Column::new("Reason", "string"),
        Column::new("Age", "string"),
        Column::wide("VolumeMode", "string"),
    ],
    rules: Rules { default, prepare_create, prepare_update, row, validate, validate_update, warnings, ..Rules::NONE },
};

const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

fn default(volume: &mut Value) {
    let volume = tree::object(volume);
    tree::default_zero(tree::ensure(volume, "status"), "phase", "Pending");
    let spec = tree::ensure(volume, "spec");
    tree::default_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
    tree::default(spec, "volumeMode", "Filesystem");
    if let Some(host_path) = tree::sub(spec, "hostPath") {
        tree::default(host_path, "type", "");
    }
}

fn prepare_create(volume: &mut Value) {
    let volume = tree::object(volume);
    let mut status = json!({"phase": "Pending"});
    // A volume enters its first phase when it is made.
    if let Some(created) = volume.get("metadata").and_then(|m| m["creationTimestamp"].as_str()) {
        status["lastPhaseTransitionTime"] = created.into();
    }
    volume.insert("status".to_owned(), status);
}

/// Notes when the phase has changed, unless the change says when.
pub fn stamp_phase(new: &mut Value, old: &Value, now: &str) {
    let (after, before) = (&new["status"], &old["status"]);
    let told = after["lastPhaseTransitionTime"].is_string()
        && after["lastPhaseTransitionTime"] != before["lastPhaseTransitionTime"];
    if after["phase"] != before["phase"] && !told {
        tree::ensure(tree::object(new), "status").insert("lastPhaseTransitionTime".to_owned(), now.into());
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    tree::keep_status(tree::object(new), old);
}

fn row(volume: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&volume["spec"], &volume["status"]);
    let claim = match &spec["claimRef"] {
        claim @ Value::Object(_) => format!("{}/{}", text(&claim["namespace"]), text(&claim["name"])),
        _ => String::new(),
    };
    let deleted = volume["metadata"]["deletionTimestamp"].is_string();
    vec![
        table::name(volume),
        modes::quantity(&spec["capacity"]["storage"]).into(),
        modes::short(&spec["accessModes"]).into(),
        text(&spec["persistentVolumeReclaimPolicy"]).into(),
        if deleted { "Terminating" } else { text(&status["phase"]) }.into(),
        claim.into(),
        modes::class(volume).into(),
        spec["volumeAttributesClassName"].as_str().unwrap_or("<unset>").into(),
        text(&status["reason"]).into(),
        table::created(volume, now),
        spec["volumeMode"].as_str().unwrap_or("<unset>").into(),
    ]
}

fn validate(volume: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&volume["spec"], Path::root("spec"));
    access(spec, path, errors);
    capacity(spec, path, errors);
    if some_text(&spec["persistentVolumeReclaimPolicy"]).is_some() {
        let policies = ["Delete", "Recycle", "Retain"];
        one_of(&spec["persistentVolumeReclaimPolicy"], path.child("persistentVolumeReclaimPolicy"), &policies, errors);
    }
    if spec["nodeAffinity"].is_object() {
        node_affinity(&spec["nodeAffinity"], path.child("nodeAffinity"), errors);
    }
    source::check(spec, text(&volume["metadata"]["name"]), path, errors);
    if is_root(text(&spec["hostPath"]["path"])) && spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(path.child("persistentVolumeReclaimPolicy"), why);
    }
    if let Some(class) = some_text(&spec["storageClassName"]) {
        complain(names::dns_subdomain(class), class, path.child("storageClassName"), errors);
    }
    one_of(&spec["volumeMode"], path.child("volumeMode"), &modes::VOLUME_MODES, errors);
    attributes_class(spec, path, errors);
    if volume["metadata"]["annotations"][MOUNT_OPTIONS].is_string() && !source::takes_mount_options(spec) {
        let metadata = Path::root("metadata");
        let at = metadata.child("annotations");
        errors.forbidden(at.key(MOUNT_OPTIONS), "may not specify mount options for this volume type");
    }
}

fn access(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if is_empty(&spec["accessModes"]) {
        errors.required(path.child("accessModes"), "");
    }
    modes::check(&spec["accessModes"], path.child("accessModes"), errors);
}

fn capacity(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (capacity, at) = (&spec["capacity"], path.child("capacity"));
    if is_empty(capacity) {
        errors.required(at, "");
    }
    if capacity["storage"].is_null() || entries(capacity).count() > 1 {
        errors.not_supported(at, capacity, &["storage"]);
    }
    for (name, amount) in entries(capacity) {
        modes::basic(amount, at.key(name), errors);
        modes::positive(amount, at.key(name), errors);
    }
}

fn attributes_class(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let Some(class) = spec["volumeAttributesClassName"].as_str() else { return };
    let at = path.child("volumeAttributesClassName");
    if class.is_empty() {
        errors.required(at, "an empty string is disallowed");
    } else {
        complain(names::dns_subdomain(class), class, at, errors);
    }
    if !spec["csi"].is_object() {
        errors.required(path.child("csi"), "has to be specified when using volumeAttributesClassName");
    }
}

fn node_affinity(affinity: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (selector, at) = (&affinity["required"], path.child("required"));
    if !selector.is_object() {
        errors.required(at, "must specify required node constraints");
        return;
    }
    let (terms, at) = (list(&selector["nodeSelectorTerms"]), at.child("nodeSelectorTerms"));
    if terms.is_empty() {
        errors.required(at, "must have at least one node selector term");
    }
    for (i, term) in terms.iter().enumerate() {
        pod::validate::node_term(term, true, at.index(i), errors);
    }
}

/// Whether the path is the root, however it is written.
fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "." | ".."))
}

/// The spec of a volume that lives inside another object: it has no claim, no class and no place.
pub(crate) fn inline_spec(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    const WHY: &str = "may not be specified in the context of inline volumes";
    for field in ["claimRef", "capacity"].into_iter().filter(|f| !is_empty(&spec[*f])) {
        errors.forbidden(path.child(field), WHY);
    }
    if !spec["csi"].is_object() {
        errors.required(path.child("csi"), "has to be specified in the context of inline volumes");
    }
    access(spec, path, errors);
    if some_text(&spec["persistentVolumeReclaimPolicy"]).is_some_and(|p| p != "Retain") {
        let why = "may only be Retain in the context of inline volumes";
        errors.forbidden(path.child("persistentVolumeReclaimPolicy"), why);
    }
    if spec["nodeAffinity"].is_object() {
        errors.forbidden(path.child("nodeAffinity"), WHY);
    }
    source::check(spec, "", path, errors);
    if some_text(&spec["storageClassName"]).is_some() {
        errors.forbidden(path.child("storageClassName"), WHY);
    }
    if spec["volumeMode"].as_str().is_some_and(|m| m != "Filesystem") {
        let why = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.forbidden(path.child("volumeMode"), why);
    }
}

/// The same affinity with labels of nodes by their present names.
fn renamed(affinity: &Value) -> Value {
    let mut affinity = affinity.clone();
    let terms = affinity.pointer_mut("/required/nodeSelectorTerms").and_then(Value::as_array_mut);
    for term in terms.into_iter().flatten().filter_map(Value::as_object_mut) {
        for expression in tree::items(term, "matchExpressions") {
            let key = expression.get("key").map_or("", text);
            if let Some(now) = pod::warnings::renamed_label(key) {
                expression.insert("key".to_owned(), now.into());
            }
        }
    }
    affinity
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (mut spec, before) = (new["spec"].clone(), &old["spec"]);
    // The secret for growing may be added later.
    if before["csi"].is_object()
        && before["csi"]["controllerExpandSecretRef"].is_null()
        && let Some(csi) = spec["csi"].as_object_mut()
    {
        csi.remove("controllerExpandSecretRef");
    }
    let path = Path::root("spec");
    if !source::same(&spec, before) {
        let diff = internal::volume_sources(before, &spec);
        let why = format!("spec.persistentvolumesource is immutable after creation\n{diff}");
        errors.forbidden(path.child("persistentvolumesource"), &why);
    }
    if spec["volumeMode"] != before["volumeMode"] {
        errors.immutable("volumeMode", &spec["volumeMode"]);
    }
    if before["nodeAffinity"].is_object() && renamed(&spec["nodeAffinity"]) != renamed(&before["nodeAffinity"]) {
        let why = "field is immutable, except for updating from beta label to GA";
        errors.invalid("nodeAffinity", &spec["nodeAffinity"], why);
    }
    if before["volumeAttributesClassName"].is_string() && spec["volumeAttributesClassName"].is_null() {
        errors.forbidden(path.child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden");
    }
}

fn warnings(volume: &Value) -> Vec<String> {
    let (spec, path) = (&volume["spec"], Path::root("spec"));
    let metadata = Path::root("metadata");
    let annotations = metadata.child("annotations");
    let mut all = Vec::new();
    let mount_options = "deprecated since v1.31; use \"mountOptions\" attribute instead";
    for (key, why) in [(CLASS_ANNOTATION, CLASS_DEPRECATED), (MOUNT_OPTIONS, mount_options)] {
        if volume["metadata"]["annotations"][key].is_string() {
            all.push(format!("{}: {why}", annotations.key(key)));
        }
    }
    if spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        all.push(format!(
            "{}: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
            path.child("persistentVolumeReclaimPolicy")
        ));
    }
    let terms = path.child("nodeAffinity");
    let terms = terms.child("required");
    let required = &spec["nodeAffinity"]["required"];
    pod::warnings::selector_terms(&required["nodeSelectorTerms"], terms.child("nodeSelectorTerms"), &mut all);
    all.extend(modes::fraction(&spec["capacity"]["storage"], path.child("capacity").key("storage")));
    all.extend(source::warning(spec));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> Value {
        json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/data"}}})
    }

    fn errors_of(volume: &Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(volume, &mut errors);
        errors.messages()
    }

    #[test]
    fn a_minimal_volume_is_completed() {
        let mut volume = volume();
        default(&mut volume);
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        assert_eq!(volume["spec"]["volumeMode"], "Filesystem");
        assert_eq!(volume["spec"]["hostPath"]["type"], "");
        assert_eq!(errors_of(&volume), [""; 0]);
        volume["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        prepare_create(&mut volume);
        assert_eq!(volume["status"], json!({"phase": "Pending", "lastPhaseTransitionTime": "2026-01-01T00:00:00Z"}));
    }

    #[test]
    fn what_can_be_wrong() {
        let spec = json!({"capacity": {"storage": "0", "cpu": "1"}, "accessModes": ["ReadWriteOncePod", "ReadWriteOnce", "X"],
            "persistentVolumeReclaimPolicy": "Recycle", "hostPath": {"path": "/."}, "volumeMode": "Y",
            "volumeAttributesClassName": "", "nodeAffinity": {}});
        assert_eq!(
            errors_of(&json!({"metadata": {"name": "v", "annotations": {MOUNT_OPTIONS: "ro"}}, "spec": spec})),
            [
                r#"spec.accessModes: Unsupported value: "X": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod""#,
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                r#"spec.capacity: Unsupported value: {"cpu":"1","storage":"0"}: supported values: "storage""#,
                r#"spec.capacity[storage]: Invalid value: "0": must be greater than zero"#,
                "spec.nodeAffinity.required: Required value: must specify required node constraints",
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
                r#"spec.volumeMode: Unsupported value: "Y": supported values: "Block", "Filesystem""#,
                "spec.volumeAttributesClassName: Required value: an empty string is disallowed",
                "spec.csi: Required value: has to be specified when using volumeAttributesClassName",
                "metadata.annotations[volume.beta.kubernetes.io/mount-options]: Forbidden: may not specify mount options for this volume type",
            ]
        );
        assert_eq!(
            errors_of(&json!({})),
            [
                "spec.accessModes: Required value",
                "spec.capacity: Required value",
                "spec.capacity: Unsupported value: null: supported values: \"storage\"",
                "spec: Required value: must specify a volume type",
            ]
        );
    }

    #[test]
    fn the_source_stays_and_the_claim_does_not() {
        let old = volume();
        let mut new = old.clone();
        new["spec"]["claimRef"] = json!({"namespace": "n", "name": "c"});
        new["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": []}});
        let mut errors = FieldErrors::default();
        validate_update(&new, &old, &mut errors);
        assert!(errors.is_empty());
        let mut moved = new.clone();
        moved["spec"]["hostPath"]["path"] = "/other".into();
        moved["spec"]["nodeAffinity"] = Value::Null;
        moved["spec"]["volumeMode"] = "Block".into();
        validate_update(&moved, &new, &mut errors);
        let messages = errors.messages();
        assert!(
            messages[0].starts_with("spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n@@ -2,7 +2,7 @@\n"),
            "{messages:?}"
        );
        assert!(messages[0].contains("\n-  \"Path\": \"/data\",\n+  \"Path\": \"/other\",\n"), "{messages:?}");
        assert_eq!(
            messages[1..],
            [
                r#"volumeMode: Invalid value: "Block": field is immutable"#,
                "nodeAffinity: Invalid value: null: field is immutable, except for updating from beta label to GA",
            ]
        );
    }

    #[test]
    fn rows_and_warnings() {
        let mut volume = volume();
        volume["spec"]["claimRef"] = json!({"namespace": "n", "name": "c"});
        volume["spec"]["persistentVolumeReclaimPolicy"] = "Recycle".into();
        volume["spec"]["capacity"]["storage"] = "1500m".into();
        volume["status"] = json!({"phase": "Bound"});
        assert_eq!(
            Value::from(row(&volume, 0)),
            json!(["v", "1500m", "RWO", "Recycle", "Bound", "n/c", "", "<unset>", "", "<unknown>", "<unset>"])
        );
        assert_eq!(
            warnings(&volume),
            [
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
                "spec.capacity[storage]: fractional byte value \"1500m\" is invalid, must be an integer",
            ]
        );
    }
}
