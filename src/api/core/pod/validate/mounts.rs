//! What containers mount, and the devices they get.

use super::Context;
use super::container::{no_dots, relative_path};
use crate::checks::one_of;
use crate::status::{FieldErrors, Path};
use crate::tree::{flag, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// The mounts of a container.
pub(super) fn mounts(container: &Value, context: Context<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    let devices = list(&container["volumeDevices"]);
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, mount) in list(&container["volumeMounts"]).iter().enumerate() {
        let item = path.index(i);
        let (name, target) = (text(&mount["name"]), text(&mount["mountPath"]));
        if name.is_empty() {
            errors.required(item.child("name"), "");
        }
        if !context.volumes.contains_key(name) {
            errors.not_found(item.child("name"), name);
        }
        if target.is_empty() {
            errors.required(item.child("mountPath"), "");
        }
        if !seen.insert(target) {
            errors.invalid(item.child("mountPath"), target, "must be unique");
        }
        if devices.iter().any(|d| d["name"] == name) {
            errors.invalid(item.child("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|d| d["devicePath"] == target) {
            errors.invalid(item.child("mountPath"), target, "must not already exist as a path in volumeDevices");
        }
        sub_path(mount, item, path, errors);
        propagation(mount, container, path.child("mountPropagation"), errors);
        recursive_read_only(mount, path.child("recursiveReadOnly"), errors);
    }
}

/// Upstream names these fields without the mount's index.
fn sub_path(mount: &Value, item: Path<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    let (plain, expression) = (some_text(&mount["subPath"]), some_text(&mount["subPathExpr"]));
    if let Some(plain) = plain {
        relative_path(plain, path.child("subPath"), errors);
    }
    if let Some(expression) = expression {
        if plain.is_some() {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(item.child("subPathExpr"), expression, why);
        }
        relative_path(expression, path.child("subPathExpr"), errors);
    }
}

fn propagation(mount: &Value, container: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    one_of(&mount["mountPropagation"], path, &["Bidirectional", "HostToContainer", "None"], errors);
    if mount["mountPropagation"] == "Bidirectional" && !flag(&container["securityContext"]["privileged"]) {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(path, why);
    }
}

fn recursive_read_only(mount: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    match mount["recursiveReadOnly"].as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !flag(&mount["readOnly"]) {
                errors.forbidden(path, "may only be specified when readOnly is true");
            }
            if mount["mountPropagation"].as_str().is_some_and(|mode| mode != "None") {
                let why = "may only be specified when mountPropagation is None or not specified";
                errors.forbidden(path, why);
            }
        }
        Some(other) => errors.not_supported(path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

/// The block devices of a container.
pub(super) fn devices(container: &Value, context: Context<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    let mounts = list(&container["volumeMounts"]);
    let (mut names, mut paths): (BTreeSet<&str>, BTreeSet<&str>) = Default::default();
    for (i, device) in list(&container["volumeDevices"]).iter().enumerate() {
        let item = path.index(i);
        let (name, target) = (text(&device["name"]), text(&device["devicePath"]));
        if name.is_empty() {
            errors.required(item.child("name"), "");
        }
        if names.contains(name) {
            errors.invalid(item.child("name"), name, "must be unique");
        }
        match context.volumes.get(name) {
            None => errors.not_found(item.child("name"), name),
            Some(volume) if volume["persistentVolumeClaim"].is_object() || volume["ephemeral"].is_object() => {}
            Some(_) => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(item.child("name"), name, why);
            }
        }
        if target.is_empty() {
            errors.required(item.child("devicePath"), "");
        }
        if paths.contains(target) {
            errors.invalid(item.child("devicePath"), target, "must be unique");
        }
        let mut upwards = FieldErrors::default();
        no_dots(target, path, &mut upwards);
        if upwards.is_empty() {
            paths.insert(target);
        } else {
            errors.invalid(item.child("devicePath"), target, "can not contain backsteps ('..')");
        }
        if mounts.iter().any(|m| m["name"] == name) {
            errors.invalid(item.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| m["mountPath"] == target) {
            errors.invalid(item.child("devicePath"), target, "must not already exist as a path in volumeMounts");
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}
