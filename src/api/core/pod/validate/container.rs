//! Containers: names, images, ports, mounts.

use super::{Context, env, probe, resources, security};
use crate::checks::{self, complain, required, required_one_of};
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use crate::tree::{flag, int, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// All containers of a spec.
pub(super) fn containers(context: Context<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    let spec = context.spec;
    let (main, init) = (list(&spec["containers"]), list(&spec["initContainers"]));
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let at = path.child("containers");
    if main.is_empty() {
        errors.required(at, "");
    }
    for (i, container) in main.iter().enumerate() {
        let item = at.index(i);
        common(container, context, item, errors);
        unique_name(container, &mut seen, item, errors);
        probe::lifecycle(&container["lifecycle"], context, item.child("lifecycle"), errors);
        probes(container, item, errors);
        restart_policy(container, &["Always", "OnFailure", "Never"], item, errors);
    }
    host_ports(main, at, errors);
    let at = path.child("initContainers");
    for (i, container) in init.iter().enumerate() {
        let item = at.index(i);
        common(container, context, item, errors);
        unique_name(container, &mut seen, item, errors);
        init_container(container, context, item, errors);
        host_ports(std::slice::from_ref(container), at, errors);
    }
    let at = path.child("ephemeralContainers");
    for (i, container) in list(&spec["ephemeralContainers"]).iter().enumerate() {
        let item = at.index(i);
        common(container, context, item, errors);
        unique_name(container, &mut seen, item, errors);
        ephemeral(container, spec, item, errors);
    }
}

fn unique_name<'a>(container: &'a Value, seen: &mut BTreeSet<&'a str>, path: Path<'_>, errors: &mut FieldErrors) {
    let name = text(&container["name"]);
    if name.is_empty() {
        return;
    }
    if seen.contains(&name) {
        errors.duplicate(path.child("name"), name);
    } else {
        seen.insert(name);
    }
}

fn restart_policy(container: &Value, allowed: &[&str], path: Path<'_>, errors: &mut FieldErrors) {
    checks::one_of(&container["restartPolicy"], path.child("restartPolicy"), allowed, errors);
}

/// A sidecar may have what a container has; others among the init containers run to completion and
/// are neither probed nor hooked.
fn init_container(container: &Value, context: Context<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    restart_policy(container, &["Always", "OnFailure", "Never"], path, errors);
    if container["restartPolicy"] == "Always" {
        probe::lifecycle(&container["lifecycle"], context, path.child("lifecycle"), errors);
        probes(container, path, errors);
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[field].is_null() {
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(path.child(field), why);
        }
    }
}

fn ephemeral(container: &Value, spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
        if !crate::tree::is_empty(&container[field]) {
            errors.forbidden(path.child(field), "cannot be set for an Ephemeral Container");
        }
    }
    if !crate::tree::is_empty(&container["resources"]) {
        errors.forbidden(path.child("resources"), "cannot be set for an Ephemeral Container");
    }
    if let Some(target) = some_text(&container["targetContainerName"]) {
        let known = ["containers", "initContainers"].iter().any(|l| list(&spec[l]).iter().any(|c| c["name"] == target));
        if !known {
            errors.not_found(path.child("targetContainerName"), target);
        }
    }
}

fn probes(container: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[field];
        if !probe.is_object() {
            continue;
        }
        let at = path.child(field);
        probe::probe(probe, at, errors);
        if field == "readinessProbe" {
            if !probe["terminationGracePeriodSeconds"].is_null() {
                let grace = &probe["terminationGracePeriodSeconds"];
                let why = "must not be set for readinessProbes";
                errors.invalid(at.child("terminationGracePeriodSeconds"), grace, why);
            }
        } else if !probe["successThreshold"].is_null() && int(&probe["successThreshold"]) != 1 {
            errors.invalid(at.child("successThreshold"), int(&probe["successThreshold"]), "must be 1");
        }
    }
}

/// What holds for all sorts of containers.
fn common(container: &Value, context: Context<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    if required(&container["name"], path.child("name"), errors) {
        let name = text(&container["name"]);
        complain(names::dns_label(name), name, path.child("name"), errors);
    }
    let image = text(&container["image"]);
    if image.is_empty() {
        errors.required(path.child("image"), "");
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        errors.invalid(path.child("image"), image, why);
    }
    let policies = ["FallbackToLogsOnError", "File"];
    let at = path.child("terminationMessagePolicy");
    required_one_of(&container["terminationMessagePolicy"], at, &policies, errors);
    ports(&container["ports"], path.child("ports"), errors);
    env::variables(&container["env"], path.child("env"), errors);
    env::sources(&container["envFrom"], path.child("envFrom"), errors);
    mounts(container, context, path.child("volumeMounts"), errors);
    devices(container, context, path.child("volumeDevices"), errors);
    let policies = ["Always", "IfNotPresent", "Never"];
    required_one_of(&container["imagePullPolicy"], path.child("imagePullPolicy"), &policies, errors);
    let owner = resources::Owner::Container;
    resources::requirements(&container["resources"], owner, path.child("resources"), context.claims, errors);
    security::container(&container["securityContext"], path.child("securityContext"), errors);
}

fn ports(ports: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, port) in list(ports).iter().enumerate() {
        let item = path.index(i);
        if let Some(name) = some_text(&port["name"]) {
            let wrong = names::port_name(name);
            if wrong.is_empty() && seen.contains(&name) {
                errors.duplicate(item.child("name"), name);
            } else if wrong.is_empty() {
                seen.insert(name);
            }
            complain(wrong, name, item.child("name"), errors);
        }
        if int(&port["containerPort"]) == 0 {
            errors.required(item.child("containerPort"), "");
        } else {
            checks::port_number(&port["containerPort"], item.child("containerPort"), errors);
        }
        if int(&port["hostPort"]) != 0 {
            checks::port_number(&port["hostPort"], item.child("hostPort"), errors);
        }
        checks::protocol(&port["protocol"], item.child("protocol"), errors);
    }
}

/// No two of the containers may take the same port of the host.
fn host_ports(containers: &[Value], path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let item = path.index(i);
        let at = item.child("ports");
        for (n, port) in list(&container["ports"]).iter().enumerate() {
            let host = int(&port["hostPort"]);
            if host == 0 {
                continue;
            }
            let key = format!("{}/{}/{host}", text(&port["protocol"]), text(&port["hostIP"]));
            if seen.contains(&key) {
                errors.duplicate(at.index(n).child("hostPort"), &key);
            } else {
                seen.insert(key);
            }
        }
    }
}

/// A path inside a volume: relative, and never upwards.
pub(super) fn relative_path(value: &str, path: Path<'_>, errors: &mut FieldErrors) {
    if value.starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}

fn mounts(container: &Value, context: Context<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    let privileged = flag(&container["securityContext"]["privileged"]);
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, mount) in list(&container["volumeMounts"]).iter().enumerate() {
        let item = path.index(i);
        volume_name(mount, context, item, errors);
        let target = text(&mount["mountPath"]);
        if target.is_empty() {
            errors.required(item.child("mountPath"), "");
        }
        if seen.contains(&target) {
            errors.invalid(item.child("mountPath"), target, "must be unique");
        }
        seen.insert(target);
        for field in ["subPath", "subPathExpr"] {
            relative_path(text(&mount[field]), item.child(field), errors);
        }
        if some_text(&mount["subPath"]).is_some() && some_text(&mount["subPathExpr"]).is_some() {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(item.child("subPathExpr"), text(&mount["subPathExpr"]), why);
        }
        let at = item.child("mountPropagation");
        let modes = ["Bidirectional", "HostToContainer", "None"];
        checks::one_of(&mount["mountPropagation"], at, &modes, errors);
        if mount["mountPropagation"] == "Bidirectional" && !privileged {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(at, why);
        }
        recursive_read_only(mount, item, errors);
    }
}

fn recursive_read_only(mount: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("recursiveReadOnly");
    let mode = &mount["recursiveReadOnly"];
    checks::one_of(mode, at, &["Disabled", "Enabled", "IfPossible"], errors);
    if matches!(text(mode), "Enabled" | "IfPossible") && !flag(&mount["readOnly"]) {
        errors.forbidden(at, "may only be specified when readOnly is true");
    }
}

fn volume_name(mount: &Value, context: Context<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    let name = text(&mount["name"]);
    if name.is_empty() {
        errors.required(path.child("name"), "");
    } else if !context.volumes.contains(&name) {
        errors.not_found(path.child("name"), name);
    }
}

fn devices(container: &Value, context: Context<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    for (i, device) in list(&container["volumeDevices"]).iter().enumerate() {
        let item = path.index(i);
        volume_name(device, context, item, errors);
        if text(&device["devicePath"]).is_empty() {
            errors.required(item.child("devicePath"), "");
        }
    }
}
