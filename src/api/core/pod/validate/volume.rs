//! Volumes and their sources.

use super::super::defaults::VOLUME_SOURCES;
use super::container::relative_path;
use super::{env, resources};
use crate::checks::{complain, one_of, required};
use crate::meta::names;
use crate::quantity::Quantity;
use crate::status::{FieldErrors, Path};
use crate::tree::{int, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

const BAD_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// The list of volumes.
pub(super) fn volumes(volumes: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, volume) in list(volumes).iter().enumerate() {
        let item = path.index(i);
        source(volume, item, errors);
        let name = text(&volume["name"]);
        let wrong = names::dns_label(name);
        if name.is_empty() {
            errors.required(item.child("name"), "");
        } else if !wrong.is_empty() {
            complain(wrong, name, item.child("name"), errors);
        } else if seen.contains(&name) {
            errors.duplicate(item.child("name"), name);
        }
        seen.insert(name);
    }
}

fn source(volume: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mut set = 0;
    for kind in VOLUME_SOURCES {
        let source = &volume[*kind];
        if source.is_null() {
            continue;
        }
        set += 1;
        let at = path.child(kind);
        if set > 1 {
            errors.forbidden(at, "may not specify more than 1 volume type");
        } else {
            one_source(kind, source, at, errors);
        }
    }
    if set == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn one_source(kind: &str, source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
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
            }
            one_of(&source["type"], path.child("type"), &HOST_PATH_TYPES, errors);
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
        "projected" => projected(source, path, errors),
        "persistentVolumeClaim" => {
            required(&source["claimName"], path.child("claimName"), errors);
        }
        "nfs" => {
            required(&source["server"], path.child("server"), errors);
            let target = text(&source["path"]);
            if required(&source["path"], path.child("path"), errors) && !target.starts_with('/') {
                errors.invalid(path.child("path"), target, "must be an absolute path");
            }
        }
        "csi" => {
            required(&source["driver"], path.child("driver"), errors);
        }
        "image" => {
            required(&source["reference"], path.child("reference"), errors);
            let policies = ["Always", "IfNotPresent", "Never"];
            one_of(&source["pullPolicy"], path.child("pullPolicy"), &policies, errors);
        }
        "ephemeral" if !source["volumeClaimTemplate"].is_object() => {
            errors.required(path.child("volumeClaimTemplate"), "");
        }
        _ => {}
    }
}

fn no_dots(value: &str, path: Path<'_>, errors: &mut FieldErrors) {
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}

fn mode(mode: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if let Some(mode) = mode.as_i64().filter(|m| !(0..=0o777).contains(m)) {
        errors.invalid(path, mode, BAD_MODE);
    }
}

/// A file's path inside a volume; what starts with two dots is the agent's own.
fn file_path(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let name = text(value);
    relative_path(name, path, errors);
    if name.starts_with("..") && !name.starts_with("../") && name != ".." {
        errors.invalid(path, name, "must not start with '..'");
    }
}

/// `defaultMode` and the chosen keys of a ConfigMap or Secret.
fn files(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    mode(&source["defaultMode"], path.child("defaultMode"), errors);
    items(source, path, errors);
}

fn items(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("items");
    for (i, item) in list(&source["items"]).iter().enumerate() {
        let one = at.index(i);
        required(&item["key"], one.child("key"), errors);
        if required(&item["path"], one.child("path"), errors) {
            file_path(&item["path"], one.child("path"), errors);
        }
        mode(&item["mode"], one.child("mode"), errors);
    }
}

fn downward(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (i, item) in list(&source["items"]).iter().enumerate() {
        if required(&item["path"], path.child("path"), errors) {
            file_path(&item["path"], path.child("path"), errors);
        }
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
        mode(&item["mode"], path.child("items").index(i).child("mode"), errors);
    }
}

fn projected(source: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    mode(&source["defaultMode"], path.child("defaultMode"), errors);
    let at = path.child("sources");
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, part) in list(&source["sources"]).iter().enumerate() {
        let item = at.index(i);
        let mut set = 0;
        let kinds =
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
        for kind in kinds {
            if !part[kind].is_object() {
                continue;
            }
            set += 1;
            let at = item.child(kind);
            if set > 1 {
                errors.forbidden(at, "may not specify more than 1 volume type per source");
                continue;
            }
            projection(kind, &part[kind], at, errors);
            unique_paths(kind, &part[kind], &mut seen, path, errors);
        }
        if set == 0 {
            errors.required(item, "must specify a volume type");
        }
    }
}

fn projection(kind: &str, part: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    match kind {
        "secret" | "configMap" => {
            required(&part["name"], path.child("name"), errors);
            items(part, path, errors);
        }
        "downwardAPI" => downward(part, path, errors),
        "serviceAccountToken" => {
            let seconds = int(&part["expirationSeconds"]);
            let at = path.child("expirationSeconds");
            if seconds < MIN_TOKEN_SECONDS {
                errors.invalid(at, seconds, "may not specify a duration less than 10 minutes");
            } else if seconds > MAX_TOKEN_SECONDS {
                errors.invalid(at, seconds, "may not specify a duration larger than 2^32 seconds");
            }
            if required(&part["path"], path.child("path"), errors) {
                file_path(&part["path"], path.child("path"), errors);
            }
        }
        _ => {}
    }
}

fn unique_paths<'a>(
    kind: &str,
    part: &'a Value,
    seen: &mut BTreeSet<&'a str>,
    path: Path<'_>,
    errors: &mut FieldErrors,
) {
    let paths: Vec<&str> = match kind {
        "serviceAccountToken" => vec![text(&part["path"])],
        _ => list(&part["items"]).iter().map(|i| text(&i["path"])).collect(),
    };
    for one in paths.into_iter().filter(|p| !p.is_empty()) {
        if seen.contains(&one) {
            errors.invalid(path, one, "conflicting duplicate paths");
        }
        seen.insert(one);
    }
}
