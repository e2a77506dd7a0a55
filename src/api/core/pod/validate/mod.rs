//! Validation of pod specs, for pods and for the templates of other kinds.

mod container;
mod env;
mod probe;
mod resources;
mod scheduling;
mod security;
mod update;
mod volume;

use crate::checks::{self, complain, required, required_one_of};
use crate::meta::{names, validate};
use crate::status::{FieldErrors, Path};
use crate::tree::{flag, int, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

pub(crate) use resources::overhead;
pub(crate) use scheduling::{node_term, tolerations};
pub(super) use update::pod_update;

/// Errors of a pod beside those of its metadata.
pub(super) fn pod(pod: &Value, errors: &mut FieldErrors) {
    let path = Path::root("spec");
    let spec = &pod["spec"];
    pod_spec(spec, path, errors);
    if !list(&spec["schedulingGates"]).is_empty() && some_text(&spec["nodeName"]).is_some() {
        let why = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(path.child("nodeName"), why);
    }
}

/// Errors of a pod template at `path`.
pub(crate) fn template(template: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    validate::labels(&template["metadata"]["labels"], &path.child("labels"), errors);
    validate::annotations(&template["metadata"]["annotations"], &path.child("annotations"), errors);
    let spec = path.child("spec");
    pod_spec(&template["spec"], spec, errors);
    if !list(&template["spec"]["ephemeralContainers"]).is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.forbidden(spec.child("ephemeralContainers"), why);
    }
}

/// What the parts of a spec need to know of each other.
#[derive(Clone, Copy)]
struct Context<'a> {
    spec: &'a Value,
    /// Names of the volumes.
    volumes: &'a BTreeSet<&'a str>,
    /// Names of the claims of devices.
    claims: &'a BTreeSet<&'a str>,
    grace_seconds: i64,
}

fn pod_spec(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    volume::volumes(&spec["volumes"], path.child("volumes"), errors);
    let names = |field: &str| -> BTreeSet<&str> { list(&spec[field]).iter().map(|v| text(&v["name"])).collect() };
    let (volumes, claims) = (names("volumes"), names("resourceClaims"));
    let context = Context {
        spec,
        volumes: &volumes,
        claims: &claims,
        grace_seconds: spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30),
    };
    container::containers(context, path, errors);
    policies(spec, path, errors);
    security::pod(spec, path, errors);
    names_and_hosts(spec, path, errors);
    dns(spec, path, errors);
    scheduling::pod(spec, path, errors);
    resources::requirements(&spec["resources"], resources::Owner::Pod, path.child("resources"), &claims, errors);
    resources::overhead(&spec["overhead"], path.child("overhead"), errors);
}

fn policies(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let restart = path.child("restartPolicy");
    required_one_of(&spec["restartPolicy"], restart, &["Always", "OnFailure", "Never"], errors);
    let dns = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    required_one_of(&spec["dnsPolicy"], path.child("dnsPolicy"), &dns, errors);
    validate::labels(&spec["nodeSelector"], &path.child("nodeSelector"), errors);
    let preemption = ["Never", "PreemptLowerPriority"];
    checks::one_of(&spec["preemptionPolicy"], path.child("preemptionPolicy"), &preemption, errors);
    if spec["os"].is_object() {
        required_one_of(&spec["os"]["name"], path.child("os").child("name"), &["linux", "windows"], errors);
    }
    let deadline = spec["activeDeadlineSeconds"].as_i64();
    if let Some(deadline) = deadline.filter(|d| !(1..=i64::from(i32::MAX)).contains(d)) {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.invalid(path.child("activeDeadlineSeconds"), deadline, why);
    }
    if int(&spec["terminationGracePeriodSeconds"]) < 0 {
        let grace = int(&spec["terminationGracePeriodSeconds"]);
        errors.invalid(path.child("terminationGracePeriodSeconds"), grace, checks::NEGATIVE);
    }
    for (i, gate) in list(&spec["readinessGates"]).iter().enumerate() {
        let kind = text(&gate["conditionType"]);
        let at = path.child("readinessGates");
        complain(names::qualified_name(kind), kind, at.index(i).child("conditionType"), errors);
    }
}

fn names_and_hosts(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let subdomain: [&str; 4] = ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"];
    for field in subdomain {
        if let Some(name) = some_text(&spec[field]) {
            complain(names::dns_subdomain(name), name, path.child(field), errors);
        }
    }
    for field in ["hostname", "subdomain"] {
        if let Some(name) = some_text(&spec[field]) {
            complain(names::dns_label(name), name, path.child(field), errors);
        }
    }
    let aliases = path.child("hostAliases");
    for (i, alias) in list(&spec["hostAliases"]).iter().enumerate() {
        let at = aliases.index(i);
        checks::ip(&alias["ip"], at.child("ip"), errors);
        for (n, name) in list(&alias["hostnames"]).iter().enumerate() {
            complain(names::dns_subdomain(text(name)), name, at.child("hostnames").index(n), errors);
        }
    }
    if flag(&spec["hostNetwork"]) {
        host_ports(spec, path, errors);
    }
}

fn host_ports(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let containers = path.child("containers");
    for (i, container) in list(&spec["containers"]).iter().enumerate() {
        let item = containers.index(i);
        let ports = item.child("ports");
        for (n, port) in list(&container["ports"]).iter().enumerate() {
            let host = int(&port["hostPort"]);
            if host != 0 && host != int(&port["containerPort"]) {
                let why = "must match `hostPort` when `hostNetwork` is true";
                errors.invalid(ports.index(n).child("containerPort"), int(&port["containerPort"]), why);
            }
        }
    }
}

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

fn dns(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (config, path) = (&spec["dnsConfig"], path.child("dnsConfig"));
    let own = spec["dnsPolicy"] == "None";
    if !config.is_object() {
        if own {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    }
    let (servers, at) = (list(&config["nameservers"]), path.child("nameservers"));
    if own && servers.is_empty() {
        errors.required(at, "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    if servers.len() > MAX_NAMESERVERS {
        errors.invalid(at, &config["nameservers"], "must not have more than 3 nameservers");
    }
    for (i, server) in servers.iter().enumerate() {
        checks::ip(server, at.index(i), errors);
    }
    let (searches, at) = (list(&config["searches"]), path.child("searches"));
    if searches.len() > MAX_SEARCHES {
        errors.invalid(at, &config["searches"], "must not have more than 32 search paths");
    }
    for (i, search) in searches.iter().enumerate() {
        let name = text(search).trim_end_matches('.').replace('_', "-");
        if !name.is_empty() {
            complain(names::dns_subdomain(&name), search, at.index(i), errors);
        }
    }
    let options = path.child("options");
    for (i, option) in list(&config["options"]).iter().enumerate() {
        required(&option["name"], options.index(i).child("name"), errors);
    }
}

#[cfg(test)]
mod tests;
