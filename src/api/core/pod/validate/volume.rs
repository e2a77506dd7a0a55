//! Volumes and their sources.

use super::super::defaults::VOLUME_SOURCES;
use super::container::{no_dots, relative_path};
use super::{env, projected, resources};
use crate::checks::{complain, one_of, required, required_one_of};
use crate::core::persistent_volume_claim;
use crate::meta::{names, validate};
use crate::quantity::Quantity;
use crate::status::{FieldErrors, Path};
use crate::tree::{entries, flag, int, is_empty, list, some_text, text};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const BAD_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const BAD_LUN: &str = "must be between 0 and 255, inclusive";
const BAD_PARTITION: &str = "must be between 0 and 255, inclusive";

/// Checks the list of volumes; those without errors by name.
pub(super) fn volumes<'a>(
    volumes: &'a Value,
    metadata: Option<&Value>,
    path: Path<'_>,
    errors: &mut FieldErrors,
) -> BTreeMap<&'a str, &'a Value> {
    let mut good: BTreeMap<&str, &Value> = BTreeMap::new();
    let pod = metadata.and_then(|m| some_text(&m["name"]));
    let mut made: BTreeSet<String> = BTreeSet::new();
    for (i, volume) in list(volumes).iter().enumerate() {
        let item = path.index(i);
        let mut own = FieldErrors::default();
        source(volume, pod, item, &mut own);
        let name = text(&volume["name"]);
        match name {
            "" => own.required(item.child("name"), ""),
            _ => complain(names::dns_label(name), name, item.child("name"), &mut own),
        }
        if good.contains_key(name) {
            own.duplicate(item.child("name"), name);
        }
        if own.is_empty() {
            good.insert(name, volume);
        } else {
            errors.extend(own);
        }
        if volume["ephemeral"].is_object() {
            made.extend(pod.map(|pod| format!("{pod}-{name}")));
        }
    }
    for (i, volume) in list(volumes).iter().enumerate() {
        let claim = text(&volume["persistentVolumeClaim"]["claimName"]);
        if made.contains(claim) {
            let item = path.index(i);
            let at = item.child("persistentVolumeClaim");
            let why = "must not reference a PVC that was created for an ephemeral volume";
            errors.invalid(at.child("claimName"), claim, why);
        }
    }
    good
}

fn source(volume: &Value, pod: Option<&str>, path: Path<'_>, errors: &mut FieldErrors) {
    let mut set = 0;
    for kind in VOLUME_SOURCES.iter().filter(|kind| !volume[**kind].is_null()) {
        set += 1;
        let at = path.child(kind);
        if set > 1 {
            errors.forbidden(at, "may not specify more than 1 volume type");
        } else {
            one_source(kind, &volume[*kind], pod.is_some(), at, errors);
        }
    }
    if set == 0 {
        errors.required(path, "must specify a volume type");
    }
    let name = text(&volume["name"]);
    let iscsi = &volume["iscsi"];
    let portal = text(&iscsi["targetPortal"]);
    if iscsi["initiatorName"].is_string() && name.len() + 1 + portal.len() > 64 {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.invalid(path.child("name"), name, why);
    }
    if let Some(pod) = pod.filter(|_| volume["ephemeral"].is_object() && !name.is_empty()) {
        let claim = format!("{pod}-{name}");
        for wrong in names::dns_subdomain(&claim) {
            let why = format!("PVC name {}: {wrong}", crate::status::quote(&claim));
            errors.invalid(path.child("name"), name, &why);
        }
    }
}

fn one_source(kind: &str, source: &Value, is_pod: bool, path: Path<'_>, errors: &mut FieldErrors) {
    match kind {
        "emptyDir" => {
            let limit = some_text(&source["sizeLimit"]).and_then(|l| Quantity::parse(l).ok());
            if limit.is_some_and(|l| l.is_negative()) {
                let why = "SizeLimit field must be a valid resource quantity";
                errors.forbidden(path.child("sizeLimit"), why);
            }
        }
        "hostPath" => {
            if required(&source["path"], path.child("path"), errors) {
                no_dots(text(&source["path"]), path.child("path"), errors);
                one_of(&source["type"], path.child("type"), &HOST_PATH_TYPES, errors);
            }
        }
        "secret" => {
            required(&source["secretName"], path.child("secretName"), errors);
            files(source, path, errors);
        }
        "configMap" => {
            required(&source["name"], path.child("name"), errors);
            files(source, path, errors);
        }
        "downwardAPI" => {
            mode(&source["defaultMode"], path.child("defaultMode"), errors);
            downward(source, path, errors);
        }
        "projected" => projected::sources(source, path, errors),
        "image" => {
            if is_pod {
                required(&source["reference"], path.child("reference"), errors);
            }
            let policies = ["Always", "IfNotPresent", "Never"];
            required_one_of(&source["pullPolicy"], path.child("pullPolicy"), &policies, errors);
        }
        "ephemeral" => ephemeral(source, path, errors),
        "csi" => csi(source, path, errors),
        "nfs" => {
            required(&source["server"], path.child("server"), errors);
            let target = text(&source["path"]);
            required(&source["path"], path.child("path"), errors);
            if !target.starts_with('/') {
                errors.invalid(path.child("path"), target, "must be an absolute path");
            }
        }
        "gitRepo" => {
            required(&source["repository"], path.child("repository"), errors);
            relative_path(text(&source["directory"]), path.child("directory"), errors);
        }
        "iscsi" => iscsi(source, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let name = if kind == "gcePersistentDisk" { "pdName" } else { "volumeID" };
            // Upstream calls the first by another name in its paths.
            let shown = path.named(if kind == "gcePersistentDisk" { "persistentDisk" } else { kind });
            required(&source[name], shown.child(name), errors);
            if !(0..=255).contains(&int(&source["partition"])) {
                errors.invalid(shown.child("partition"), int(&source["partition"]), BAD_PARTITION);
            }
        }
        "flocker" => flocker(source, path, errors),
        "quobyte" => quobyte(source, path, errors),
        "azureDisk" => azure_disk(source, path, errors),
        "storageos" => storage_os(source, path, errors),
        "flexVolume" => flex(source, path, errors),
        _ => simple(kind, source, path, errors),
    }
}

/// Sources of which some fields have to be there, and no more is asked.
const REQUIRED: &[(&str, &[&str])] = &[
    ("persistentVolumeClaim", &["claimName"]),
    ("glusterfs", &["endpoints", "path"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
];

fn simple(kind: &str, source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let fields = REQUIRED.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, fields)| fields);
    for field in fields.iter().filter(|field| is_empty(&source[**field])) {
        errors.required(path.child(field), "");
    }
    if kind == "cinder" {
        secret_name(source, path, errors);
    }
}

fn secret_name(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if source["secretRef"].is_object() && text(&source["secretRef"]["name"]).is_empty() {
        errors.required(path.child("secretRef").child("name"), "");
    }
}

fn ephemeral(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (template, at) = (&source["volumeClaimTemplate"], path.child("volumeClaimTemplate"));
    if !template.is_object() {
        return errors.required(at, "");
    }
    let (metadata, meta) = (&template["metadata"], at.child("metadata"));
    validate::annotations(&metadata["annotations"], &meta.child("annotations"), errors);
    validate::labels(&metadata["labels"], &meta.child("labels"), errors);
    for (field, value) in entries(metadata) {
        let nothing = is_empty(value) || value.is_null();
        if !matches!(field.as_str(), "annotations" | "labels") && !nothing {
            errors.forbidden(meta.child(field), "cannot be set");
        }
    }
    persistent_volume_claim::validate_spec(&template["spec"], at.child("spec"), errors);
}

fn csi(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    const MAX_DRIVER: usize = 63;
    let (driver, at) = (text(&source["driver"]), path.child("driver"));
    if required(&source["driver"], at, errors) {
        if driver.len() > MAX_DRIVER {
            errors.too_long(at, MAX_DRIVER);
        }
        complain(names::dns_subdomain(&driver.to_lowercase()), driver, at, errors);
    }
    let secret = &source["nodePublishSecretRef"];
    if secret.is_object() {
        match some_text(&secret["name"]) {
            None => errors.required(path.child("nodePublishSecretRef").child("name"), ""),
            Some(name) => complain(names::dns_subdomain(name), name, path.child("name"), errors),
        }
    }
}

fn iscsi(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    required(&source["targetPortal"], path.child("targetPortal"), errors);
    if required(&source["iqn"], path.child("iqn"), errors) {
        qualified_initiator(text(&source["iqn"]), path.child("iqn"), errors);
    }
    if !(0..=255).contains(&int(&source["lun"])) {
        errors.invalid(path.child("lun"), int(&source["lun"]), BAD_LUN);
    }
    let chap = flag(&source["chapAuthDiscovery"]) || flag(&source["chapAuthSession"]);
    if chap && !source["secretRef"].is_object() {
        errors.required(path.child("secretRef"), "");
    }
    if let Some(name) = source["initiatorName"].as_str() {
        qualified_initiator(name, path.child("initiatorname"), errors);
    }
}

/// `iqn.2001-04.com.example:storage`, `eui.` with 16 or `naa.` with up to 32 hexadecimal digits.
fn qualified_initiator(name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let good = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => name.strip_prefix("eui.").is_some_and(|id| id.len() == 16 && hex(id)),
        Some("naa") => name.strip_prefix("naa.").is_some_and(|id| hex(id) && (1..=32).contains(&id.len())),
        _ => {
            return errors.invalid(path, name, "must be valid format starting with iqn, eui, or naa");
        }
    };
    if !good {
        errors.invalid(path, name, "must be valid format");
    }
}

fn is_iqn(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("iqn.") else { return false };
    let digits = |text: Option<&str>| text.is_some_and(|t| t.bytes().all(|b| b.is_ascii_digit()));
    let date = digits(rest.get(..4)) && rest.get(4..5) == Some("-") && digits(rest.get(5..7));
    let authority = rest.get(7..).and_then(|tail| tail.strip_prefix('.')).unwrap_or("");
    let authority = authority.split(':').next().unwrap_or("");
    date && authority.contains('.') && !authority.ends_with('.')
}

fn fibre_channel(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (targets, at) = (&source["targetWWNs"], path.child("targetWWNs"));
    let (named, other) = (!is_empty(targets), !is_empty(&source["wwids"]));
    if !named && !other {
        errors.required(at, "must specify either targetWWNs or wwids, but not both");
    }
    if named && other {
        errors.invalid(at, targets, "targetWWNs and wwids can not be specified simultaneously");
    }
    if named {
        match source["lun"].as_i64() {
            None => errors.required(path.child("lun"), "lun is required if targetWWNs is specified"),
            Some(lun) if !(0..=255).contains(&lun) => errors.invalid(path.child("lun"), lun, BAD_LUN),
            Some(_) => {}
        }
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
    if let Some(name) = name.filter(|name| name.contains('/')) {
        errors.invalid(path.child("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let (registry, at) = (text(&source["registry"]), path.child("registry"));
    if registry.is_empty() {
        errors.required(at, PAIRS);
    } else if text(&source["tenant"]).len() > 64 {
        errors.required(path.child("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for _ in registry.split(',').filter(|pair| pair.matches(':').count() != 1) {
            errors.invalid(at, registry, PAIRS);
        }
    }
    required(&source["volume"], path.child("volume"), errors);
}

fn azure_disk(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    required(&source["diskName"], path.child("diskName"), errors);
    required(&source["diskURI"], path.child("diskURI"), errors);
    one_of(&source["cachingMode"], path.child("cachingMode"), &["None", "ReadOnly", "ReadWrite"], errors);
    one_of(&source["kind"], path.child("kind"), &["Dedicated", "Managed", "Shared"], errors);
    let (uri, at) = (text(&source["diskURI"]), path.child("diskURI"));
    let managed = source["kind"] == "Managed";
    if managed && !uri.starts_with("/subscriptions/") {
        let form = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
        errors.not_supported(at, uri, &[form]);
    }
    if !managed && source["kind"].is_string() && !uri.starts_with("https://") {
        errors.not_supported(
            at,
            uri,
            &["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"],
        );
    }
}

fn storage_os(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if required(&source["volumeName"], path.child("volumeName"), errors) {
        let name = text(&source["volumeName"]);
        complain(names::dns_label(name), name, path.child("volumeName"), errors);
    }
    if let Some(name) = some_text(&source["volumeNamespace"]) {
        complain(names::dns_label(name), name, path.child("volumeNamespace"), errors);
    }
    secret_name(source, path, errors);
}

fn flex(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    required(&source["driver"], path.child("driver"), errors);
    for (key, _) in entries(&source["options"]) {
        let domain = format!(".{}", key.split('/').next().unwrap_or(key).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let at = path.child("options");
            errors.invalid(at.key(key), key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

/// The permissions of a file.
pub(super) fn mode(mode: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if let Some(mode) = mode.as_i64().filter(|m| !(0..=0o777).contains(m)) {
        errors.invalid(path, mode, BAD_MODE);
    }
}

/// A file's path inside a volume; what starts with two dots is the agent's own.
pub(super) fn file_path(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let name = text(value);
    relative_path(name, path, errors);
    if name.starts_with("..") && !name.starts_with("../") {
        errors.invalid(path, name, "must not start with '..'");
    }
}

/// `defaultMode` and the chosen keys of a ConfigMap or Secret.
fn files(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    mode(&source["defaultMode"], path.child("defaultMode"), errors);
    items(source, path, errors);
}

/// The chosen keys of a ConfigMap or Secret, and where they go.
pub(super) fn items(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("items");
    for (i, item) in list(&source["items"]).iter().enumerate() {
        let one = at.index(i);
        required(&item["key"], one.child("key"), errors);
        required(&item["path"], one.child("path"), errors);
        file_path(&item["path"], one.child("path"), errors);
        mode(&item["mode"], one.child("mode"), errors);
    }
}

/// Files that show fields of the pod. Upstream names them without their index.
pub(super) fn downward(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for item in list(&source["items"]) {
        required(&item["path"], path.child("path"), errors);
        file_path(&item["path"], path.child("path"), errors);
        let (field, resource) = (&item["fieldRef"], &item["resourceFieldRef"]);
        if field.is_object() {
            env::field_ref(field, env::FILE_FIELDS, path.child("fieldRef"), errors);
            if resource.is_object() {
                errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        } else if resource.is_object() {
            resources::field_ref(resource, true, path.child("resourceFieldRef"), errors);
        } else {
            errors.required(path, "one of fieldRef and resourceFieldRef is required");
        }
        mode(&item["mode"], path.child("mode"), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initiators() {
        let check = |name: &str, good: bool| {
            let mut errors = FieldErrors::default();
            qualified_initiator(name, Path::root("iqn"), &mut errors);
            assert_eq!(errors.is_empty(), good, "{name}");
        };
        check("iqn.2015-02.example.com:test", true);
        check("eui.0123456789ABCDEF", true);
        check("naa.62004567BA64678D", true);
        for bad in ["eui.0123", "iqn.2015.example", "naa.", "abc", "iqn"] {
            check(bad, false);
        }
    }
}
