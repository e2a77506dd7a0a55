//! Containers: names, images, ports, restarts.

use super::{Context, env, mounts, probe, resources, security};
use crate::checks::{self, complain, one_of, required_one_of};
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use crate::tree::{int, is_empty, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// All containers of a spec.
pub(super) fn containers(context: Context<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    let spec = context.spec;
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    main(context, &mut seen, path.child("containers"), errors);
    let at = path.child("initContainers");
    for (i, container) in list(&spec["initContainers"]).iter().enumerate() {
        let item = at.index(i);
        common(container, context, item, errors);
        restart(container, item, errors);
        let name = text(&container["name"]);
        if !name.is_empty() && !seen.insert(name) {
            errors.duplicate(item.child("name"), name);
        }
        // They run one after the other, so that only their own ports can collide.
        host_ports(std::slice::from_ref(container), at, errors);
        init_hooks(container, context, item, errors);
    }
    let others = seen.clone();
    let at = path.child("ephemeralContainers");
    for (i, container) in list(&spec["ephemeralContainers"]).iter().enumerate() {
        let item = at.index(i);
        common(container, context, item, errors);
        image_of_pod(container, item, errors);
        let name = text(&container["name"]);
        if !seen.insert(name) {
            errors.duplicate(item.child("name"), name);
        }
        ephemeral(container, &others, item, errors);
    }
}

fn main<'a>(context: Context<'a>, seen: &mut BTreeSet<&'a str>, path: Path<'_>, errors: &mut FieldErrors) {
    let all = list(&context.spec["containers"]);
    if all.is_empty() {
        errors.required(path, "");
    }
    for (i, container) in all.iter().enumerate() {
        let item = path.index(i);
        common(container, context, item, errors);
        let name = text(&container["name"]);
        if !seen.insert(name) {
            errors.duplicate(item.child("name"), name);
        }
        probe::lifecycle(&container["lifecycle"], context, item.child("lifecycle"), errors);
        probes(container, item, errors);
        restart(container, item, errors);
    }
    host_ports(all, path, errors);
}

const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

/// Whether and when a container is started again.
fn restart(container: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (rules, at) = (list(&container["restartPolicyRules"]), path.child("restartPolicyRules"));
    let policy = path.child("restartPolicy");
    match container["restartPolicy"].as_str() {
        None if rules.is_empty() => return,
        None => errors.required(policy, "must specify restartPolicy when restart rules are used"),
        Some(_) => one_of(&container["restartPolicy"], policy, &["Always", "Never", "OnFailure"], errors),
    }
    if rules.len() > MAX_RULES {
        errors.too_long(at, MAX_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        let item = at.index(i);
        if !matches!(text(&rule["action"]), "Restart" | "RestartAllContainers") {
            errors.not_supported(item.child("action"), text(&rule["action"]), &["Restart"]);
        }
        let (codes, at) = (&rule["exitCodes"], item.child("exitCodes"));
        if !codes.is_object() {
            errors.required(at, "must be specified");
            continue;
        }
        if !matches!(text(&codes["operator"]), "In" | "NotIn") {
            errors.not_supported(at.child("operator"), text(&codes["operator"]), &["In", "NotIn"]);
        }
        if list(&codes["values"]).len() > MAX_EXIT_CODES {
            errors.too_long(at.child("values"), MAX_EXIT_CODES);
        }
    }
}

/// A sidecar may have what a container has; others among the init containers run to completion and
/// are neither probed nor hooked.
fn init_hooks(container: &Value, context: Context<'_>, path: Path<'_>, errors: &mut FieldErrors) {
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

/// Fields of containers that one for debugging does not have, in upstream's order.
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

fn ephemeral(container: &Value, others: &BTreeSet<&str>, path: Path<'_>, errors: &mut FieldErrors) {
    const WHY: &str = "cannot be set for an Ephemeral Container";
    if let Some(target) = some_text(&container["targetContainerName"])
        && !others.contains(target)
    {
        errors.not_found(path.child("targetContainerName"), target);
    }
    for field in NOT_EPHEMERAL.iter().filter(|field| !is_empty(&container[**field])) {
        errors.forbidden(path.child(field), WHY);
    }
    let mounts = path.child("volumeMounts");
    for (i, mount) in list(&container["volumeMounts"]).iter().enumerate() {
        for field in ["subPath", "subPathExpr"] {
            if some_text(&mount[field]).is_some() {
                errors.forbidden(mounts.index(i).child(field), WHY);
            }
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

/// What a template may have and a pod may not: spaces around the image's name.
pub(super) fn image_of_pod(container: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let image = text(&container["image"]);
    if image.trim() != image {
        errors.invalid(path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

/// What holds for all sorts of containers.
fn common(container: &Value, context: Context<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    match some_text(&container["name"]) {
        None => errors.required(path.child("name"), ""),
        Some(name) => complain(names::dns_label(name), name, path.child("name"), errors),
    }
    if text(&container["image"]).is_empty() {
        errors.required(path.child("image"), "");
    }
    let policies = ["File", "FallbackToLogsOnError"];
    let at = path.child("terminationMessagePolicy");
    required_one_of(&container["terminationMessagePolicy"], at, &policies, errors);
    ports(&container["ports"], path.child("ports"), errors);
    env::variables(&container["env"], path.child("env"), errors);
    env::sources(&container["envFrom"], path.child("envFrom"), errors);
    mounts::mounts(container, context, path.child("volumeMounts"), errors);
    mounts::devices(container, context, path.child("volumeDevices"), errors);
    let policies = ["Always", "IfNotPresent", "Never"];
    required_one_of(&container["imagePullPolicy"], path.child("imagePullPolicy"), &policies, errors);
    let owner = resources::Owner::Container;
    resources::requirements(&container["resources"], owner, path.child("resources"), context.claims, errors);
    resize_policy(container, context.spec, path.child("resizePolicy"), errors);
    security::container(&container["securityContext"], context.host_users, path.child("securityContext"), errors);
}

fn resize_policy(container: &Value, spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, policy) in list(&container["resizePolicy"]).iter().enumerate() {
        let name = text(&policy["resourceName"]);
        if !seen.insert(name) {
            errors.duplicate(path.index(i), name);
        }
        required_one_of(&policy["resourceName"], path, &["cpu", "memory"], errors);
        required_one_of(&policy["restartPolicy"], path, &["NotRequired", "RestartContainer"], errors);
        if spec["restartPolicy"] == "Never" && policy["restartPolicy"] != "NotRequired" {
            let why = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.invalid(path, text(&policy["restartPolicy"]), why);
        }
    }
}

fn ports(ports: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, port) in list(ports).iter().enumerate() {
        let item = path.index(i);
        if let Some(name) = some_text(&port["name"]) {
            let wrong = names::port_name(name);
            if wrong.is_empty() && !seen.insert(name) {
                errors.duplicate(item.child("name"), name);
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
    no_dots(value, path, errors);
}

/// A path that never goes upwards.
pub(super) fn no_dots(value: &str, path: Path<'_>, errors: &mut FieldErrors) {
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}
