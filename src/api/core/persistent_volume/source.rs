//! What a volume is made of: one source, each with its rules.

use crate::checks::{complain, one_of, required};
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use crate::storage::driver_name;
use crate::tree::{entries, flag, int, is_empty, some_text, text};
use serde_json::Value;

/// The kinds of sources in the order in which they are checked, with the field that errors name.
const SOURCES: [(&str, &str); 22] = [
    ("hostPath", "hostPath"),
    ("gcePersistentDisk", "persistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("nfs", "nfs"),
    ("rbd", "rbd"),
    ("quobyte", "quobyte"),
    ("cephfs", "cephfs"),
    ("iscsi", "iscsi"),
    ("cinder", "cinder"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("scaleIO", "scaleIO"),
    ("local", "local"),
    ("storageos", "storageos"),
    ("csi", "csi"),
];

/// Whether two specs have the same source.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    SOURCES.iter().all(|(kind, _)| a[*kind] == b[*kind])
}

/// The source of a volume of this name.
pub(super) fn check(spec: &Value, name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let mut found = 0;
    for (kind, shown) in SOURCES {
        let source = &spec[kind];
        if !source.is_object() {
            continue;
        }
        found += 1;
        if found > 1 && kind != "flexVolume" {
            let at = path.child(if kind == "cephfs" { "cephFS" } else { kind });
            errors.forbidden(at, "may not specify more than 1 volume type");
            continue;
        }
        one(kind, source, name, path.child(shown), errors);
        if kind == "local" && !spec["nodeAffinity"].is_object() {
            errors.required(path.child("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if found == 0 {
        errors.required(path, "must specify a volume type");
    }
}

/// Sources of which nothing more is asked than that these fields are there.
fn required_fields(kind: &str) -> &'static [&'static str] {
    match kind {
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" | "cinder" | "portworxVolume" => &["volumeID"],
        "glusterfs" => &["endpoints", "path"],
        "azureFile" => &["secretName", "shareName"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        "flexVolume" => &["driver"],
        "nfs" => &["server", "path"],
        "azureDisk" => &["diskName", "diskURI"],
        _ => &[],
    }
}

fn one(kind: &str, source: &Value, name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    for field in required_fields(kind) {
        required(&source[*field], path.child(field), errors);
    }
    match kind {
        "hostPath" => host_path(source, path, errors),
        "gcePersistentDisk" | "awsElasticBlockStore" => partition(source, path, errors),
        "glusterfs" => glusterfs(source, path, errors),
        "flocker" => flocker(source, path, errors),
        "nfs" if !text(&source["path"]).starts_with('/') => {
            errors.invalid(path.child("path"), text(&source["path"]), "must be an absolute path");
        }
        "rbd" => {
            if is_empty(&source["monitors"]) {
                errors.required(path.child("monitors"), "");
            }
            required(&source["image"], path.child("image"), errors);
        }
        "quobyte" => quobyte(source, path, errors),
        "cephfs" if is_empty(&source["monitors"]) => errors.required(path.child("monitors"), ""),
        "iscsi" => iscsi(source, name, path, errors),
        "cinder" => secret_names(&source["secretRef"], path.child("secretRef"), errors),
        "fc" => fibre_channel(source, path, errors),
        "flexVolume" => flex(source, path, errors),
        "azureFile" if source["secretNamespace"] == "" => errors.required(path.child("secretNamespace"), ""),
        "azureDisk" => azure_disk(source, path, errors),
        "local" => local(source, path, errors),
        "storageos" => storage_os(source, path, errors),
        "csi" => csi(source, path, errors),
        _ => {}
    }
}

fn no_back_steps(value: &str, path: Path<'_>, errors: &mut FieldErrors) {
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

fn host_path(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if required(&source["path"], path.child("path"), errors) {
        no_back_steps(text(&source["path"]), path.child("path"), errors);
        one_of(&source["type"], path.child("type"), &HOST_PATH_TYPES, errors);
    }
}

fn local(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if required(&source["path"], path.child("path"), errors) {
        no_back_steps(text(&source["path"]), path.child("path"), errors);
    }
}

fn partition(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let number = int(&source["partition"]);
    if !(0..=255).contains(&number) {
        errors.invalid(path.child("partition"), number, "must be between 0 and 255, inclusive");
    }
}

fn lun(number: i64, path: Path<'_>, errors: &mut FieldErrors) {
    if !(0..=255).contains(&number) {
        errors.invalid(path, number, "must be between 0 and 255, inclusive");
    }
}

fn glusterfs(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("endpointsNamespace");
    match source["endpointsNamespace"].as_str() {
        None => {}
        Some("") => errors.invalid(at, "", "if the endpointnamespace is set, it must be a valid namespace name"),
        Some(namespace) => complain(names::dns_label(namespace), namespace, at, errors),
    }
}

fn flocker(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (name, uuid) = (some_text(&source["datasetName"]), some_text(&source["datasetUUID"]));
    match (name, uuid) {
        (None, None) => errors.required(path, "one of datasetName and datasetUUID is required"),
        (Some(_), Some(_)) => {
            errors.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously");
        }
        _ => {}
    }
    if let Some(name) = name.filter(|n| n.contains('/')) {
        errors.invalid(path.child("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    const MAX_TENANT: usize = 64;
    match some_text(&source["registry"]) {
        None => errors.required(path.child("registry"), PAIRS),
        Some(_) if text(&source["tenant"]).len() > MAX_TENANT => {
            errors.required(path.child("tenant"), "must be a UUID and may not exceed a length of 64 characters");
        }
        Some(registry) => {
            for _ in registry.split(',').filter(|pair| !pair.contains(':')) {
                errors.invalid(path.child("registry"), registry, PAIRS);
            }
        }
    }
    required(&source["volume"], path.child("volume"), errors);
}

/// Whether a name of an initiator or a target has the shape that its first letters promise.
fn is_iscsi_name(name: &str) -> bool {
    let fixed = |rest: &str, length: usize| {
        let mut chars = rest.chars();
        chars.next().is_some()
            && chars.as_str().len() == length
            && chars.as_str().bytes().all(|b| b.is_ascii_alphanumeric())
    };
    if let Some(rest) = name.strip_prefix("eui") {
        return fixed(rest, 16);
    }
    if let Some(rest) = name.strip_prefix("naa") {
        return fixed(rest, 32);
    }
    let Some((date, rest)) = name.strip_prefix("iqn.").and_then(|rest| rest.split_at_checked(8)) else { return false };
    let date_is_right = date.bytes().enumerate().all(|(i, b)| match i {
        4 => b == b'-',
        7 => b == b'.',
        _ => b.is_ascii_digit(),
    });
    let Some((authority, target)) = rest.split_once(':') else { return false };
    date_is_right
        && !authority.is_empty()
        && authority.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && !target.is_empty()
        && !target.contains([',', ';', '*', '&', '$', '|'])
        && !target.contains(|c: char| c.is_ascii_whitespace())
}

fn iscsi(source: &Value, name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    const TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
    let (portal, initiator) = (text(&source["targetPortal"]), source["initiatorName"].as_str());
    required(&source["targetPortal"], path.child("targetPortal"), errors);
    if initiator.is_some() && name.len() + 1 + portal.len() > 64 {
        errors.invalid(path.child("targetportal"), portal, TOO_LONG);
    }
    if required(&source["iqn"], path.child("iqn"), errors) && !is_iscsi_name(text(&source["iqn"])) {
        errors.invalid(path.child("iqn"), &source["iqn"], "must be valid format");
    }
    lun(int(&source["lun"]), path.child("lun"), errors);
    let (secret, at) = (&source["secretRef"], path.child("secretRef"));
    let authenticates = flag(&source["chapAuthDiscovery"]) || flag(&source["chapAuthSession"]);
    if authenticates && !secret.is_object() {
        errors.required(at, "");
    }
    if secret.is_object() {
        required(&secret["name"], at.child("name"), errors);
    }
    if let Some(initiator) = initiator.filter(|i| !is_iscsi_name(i)) {
        errors.invalid(path.child("initiatorname"), initiator, "must be valid format");
    }
}

fn fibre_channel(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (targets, ids) = (!is_empty(&source["targetWWNs"]), !is_empty(&source["wwids"]));
    let at = path.child("targetWWNs");
    if !targets && !ids {
        errors.required(at, "must specify either targetWWNs or wwids, but not both");
    }
    if targets && ids {
        errors.invalid(at, &source["targetWWNs"], "targetWWNs and wwids can not be specified simultaneously");
    }
    match source["lun"].as_i64() {
        _ if !targets => {}
        None => errors.required(path.child("lun"), "lun is required if targetWWNs is specified"),
        Some(number) => lun(number, path.child("lun"), errors),
    }
}

fn flex(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let options = path.child("options");
    for (key, _) in entries(&source["options"]) {
        let domain = format!(".{}", key.split('/').next().unwrap_or(key).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            errors.invalid(options.key(key), key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn azure_disk(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    one_of(&source["cachingMode"], path.child("cachingMode"), &["None", "ReadOnly", "ReadWrite"], errors);
    one_of(&source["kind"], path.child("kind"), &["Dedicated", "Managed", "Shared"], errors);
    let uri = text(&source["diskURI"]);
    match source["kind"].as_str() {
        Some("Managed") if !uri.starts_with("/subscriptions/") => {
            errors.not_supported(path.child("diskURI"), uri, &[MANAGED]);
        }
        Some(kind) if kind != "Managed" && !uri.starts_with("https://") => {
            errors.not_supported(path.child("diskURI"), uri, &[BLOB]);
        }
        _ => {}
    }
}

fn secret_names(reference: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if reference.is_object() {
        required(&reference["name"], path.child("name"), errors);
        required(&reference["namespace"], path.child("namespace"), errors);
    }
}

fn storage_os(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if required(&source["volumeName"], path.child("volumeName"), errors) {
        complain(
            names::dns_label(text(&source["volumeName"])),
            &source["volumeName"],
            path.child("volumeName"),
            errors,
        );
    }
    if let Some(namespace) = some_text(&source["volumeNamespace"]) {
        complain(names::dns_label(namespace), namespace, path.child("volumeNamespace"), errors);
    }
    secret_names(&source["secretRef"], path.child("secretRef"), errors);
}

fn csi(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    driver_name(&source["driver"], path.child("driver"), errors);
    required(&source["volumeHandle"], path.child("volumeHandle"), errors);
    let references =
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
    for field in references.into_iter().filter(|f| source[*f].is_object()) {
        let (reference, at) = (&source[field], path.child(field));
        if required(&reference["name"], at.child("name"), errors) {
            complain(names::dns_subdomain(text(&reference["name"])), &reference["name"], at.child("name"), errors);
        }
        if required(&reference["namespace"], at.child("namespace"), errors) {
            let namespace = text(&reference["namespace"]);
            complain(names::dns_label(namespace), namespace, at.child("namespace"), errors);
        }
    }
}

/// Sources that came from drivers which are gone, and since when.
const GONE: [(&str, &str); 6] = [
    ("photonPersistentDisk", "deprecated since v1.11, non-functional in v1.16+"),
    ("scaleIO", "deprecated since v1.16, non-functional in v1.22+"),
    ("storageos", "deprecated since v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated since v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated since v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated since v1.28, non-functional in v1.31+"),
];

/// Advice about sources that nobody serves any more.
pub(super) fn warning(spec: &Value) -> Option<String> {
    let (kind, why) = GONE.iter().find(|(kind, _)| spec[*kind].is_object())?;
    let kind = if *kind == "storageos" { "storageOS" } else { kind };
    Some(format!("spec.{kind}: {why}"))
}

/// Whether mount options by annotation mean something to the source.
pub(super) fn takes_mount_options(spec: &Value) -> bool {
    const TAKERS: [&str; 13] = [
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "glusterfs",
        "nfs",
        "rbd",
        "quobyte",
        "iscsi",
        "cinder",
        "cephfs",
        "azureFile",
        "vsphereVolume",
        "azureDisk",
        "portworxVolume",
    ];
    TAKERS.iter().any(|kind| spec[*kind].is_object())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_source_names_what_it_lacks() {
        let check = |spec: Value, expect: &[&str]| {
            let mut errors = FieldErrors::default();
            super::check(&spec, "v", Path::root("spec"), &mut errors);
            assert_eq!(errors.messages(), expect);
        };
        check(json!({}), &["spec: Required value: must specify a volume type"]);
        check(
            json!({"hostPath": {"path": "/a/../b", "type": "X"}}),
            &[
                r#"spec.hostPath.path: Invalid value: "/a/../b": must not contain '..'"#,
                r#"spec.hostPath.type: Unsupported value: "X": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket""#,
            ],
        );
        check(
            json!({"hostPath": {"path": "/a"}, "nfs": {}}),
            &["spec.nfs: Forbidden: may not specify more than 1 volume type"],
        );
        check(
            json!({"nfs": {"server": "s", "path": "p"}}),
            &[r#"spec.nfs.path: Invalid value: "p": must be an absolute path"#],
        );
        check(
            json!({"gcePersistentDisk": {"partition": 256}}),
            &[
                "spec.persistentDisk.pdName: Required value",
                "spec.persistentDisk.partition: Invalid value: 256: must be between 0 and 255, inclusive",
            ],
        );
        check(json!({"awsElasticBlockStore": {}}), &["spec.awsElasticBlockStore.volumeID: Required value"]);
        check(
            json!({"glusterfs": {"endpoints": "e", "path": "p", "endpointsNamespace": ""}}),
            &[
                r#"spec.glusterfs.endpointsNamespace: Invalid value: "": if the endpointnamespace is set, it must be a valid namespace name"#,
            ],
        );
        check(
            json!({"flocker": {}}),
            &["spec.flocker: Required value: one of datasetName and datasetUUID is required"],
        );
        check(json!({"rbd": {}}), &["spec.rbd.monitors: Required value", "spec.rbd.image: Required value"]);
        check(
            json!({"quobyte": {"registry": "a"}}),
            &[
                r#"spec.quobyte.registry: Invalid value: "a": must be a host:port pair or multiple pairs separated by commas"#,
                "spec.quobyte.volume: Required value",
            ],
        );
        check(json!({"cephfs": {}}), &["spec.cephfs.monitors: Required value"]);
        check(
            json!({"cinder": {"secretRef": {}}}),
            &[
                "spec.cinder.volumeID: Required value",
                "spec.cinder.secretRef.name: Required value",
                "spec.cinder.secretRef.namespace: Required value",
            ],
        );
        check(
            json!({"fc": {"targetWWNs": ["a"]}}),
            &["spec.fc.lun: Required value: lun is required if targetWWNs is specified"],
        );
        check(
            json!({"flexVolume": {"driver": "d", "options": {"a.k8s.io/x": "y"}}}),
            &[
                r#"spec.flexVolume.options[a.k8s.io/x]: Invalid value: "a.k8s.io/x": kubernetes.io and k8s.io namespaces are reserved"#,
            ],
        );
        check(
            json!({"azureFile": {"secretName": "s", "shareName": "t", "secretNamespace": ""}}),
            &["spec.azureFile.secretNamespace: Required value"],
        );
        check(
            json!({"azureDisk": {"diskName": "d", "diskURI": "x", "kind": "Managed"}}),
            &[
                r#"spec.azureDisk.diskURI: Unsupported value: "x": supported values: "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}""#,
            ],
        );
        check(json!({"vsphereVolume": {}}), &["spec.vsphereVolume.volumePath: Required value"]);
        check(json!({"photonPersistentDisk": {}}), &["spec.photonPersistentDisk.pdID: Required value"]);
        check(json!({"portworxVolume": {}}), &["spec.portworxVolume.volumeID: Required value"]);
        check(json!({"scaleIO": {"gateway": "g", "system": "s"}}), &["spec.scaleIO.volumeName: Required value"]);
        check(
            json!({"local": {"path": "/x"}}),
            &["spec.nodeAffinity: Required value: Local volume requires node affinity"],
        );
        check(json!({"storageos": {}}), &["spec.storageos.volumeName: Required value"]);
        check(
            json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}}),
            &["spec.csi.volumeHandle: Required value", "spec.csi.nodePublishSecretRef.namespace: Required value"],
        );
    }

    #[test]
    fn iscsi_names() {
        for good in
            ["iqn.2001-04.com.example:storage.disk2", "eui.02004567A425678D", "naa.52004567BA64678D52004567BA64678D"]
        {
            assert!(is_iscsi_name(good), "{good}");
        }
        for bad in ["", "iqn.2001-04.com.example", "iqn.20x1-04.com:a", "eui.0200", "iqn.2001-04.com.example:a b", "x"]
        {
            assert!(!is_iscsi_name(bad), "{bad}");
        }
        let mut errors = FieldErrors::default();
        let source = json!({"targetPortal": "p".repeat(64), "iqn": "x", "lun": 256, "chapAuthSession": true, "initiatorName": "y"});
        iscsi(&source, "v", Path::root("iscsi"), &mut errors);
        assert_eq!(errors.len(), 5, "{:?}", errors.messages());
    }
}
