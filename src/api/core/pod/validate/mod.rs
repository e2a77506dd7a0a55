//! Validation of pod specs, for pods and for the templates of other kinds.

mod annotations;
mod claims;
mod container;
mod env;
mod mounts;
mod os;
mod probe;
mod projected;
mod resize;
mod resources;
mod scheduling;
mod security;
mod status;
mod update;
mod volume;
mod windows;

use crate::checks::{self, complain, required_one_of};
use crate::meta::{annotation, names, validate};
use crate::status::{FieldErrors, Path};
use crate::tree::{flag, int, list, some_text, text};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub(super) use resize::{prepare_resize, resize};
pub(crate) use resources::overhead;
pub(crate) use scheduling::{node_term, tolerations};
pub(super) use status::pod_status;
pub(super) use update::{ephemeral_containers, pod_update, prepare_ephemeral_containers};

/// What the API says of pods that mirror a file on a node.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

/// Errors of a new or changed pod beside those of its metadata.
pub(super) fn pod(pod: &Value, errors: &mut FieldErrors) {
    let path = Path::root("spec");
    let spec = &pod["spec"];
    annotations::pod(pod, errors);
    pod_spec(spec, Some(&pod["metadata"]), path, errors);
    if some_text(&spec["serviceAccountName"]).is_none() {
        projected::no_tokens(&spec["volumes"], path.child("volumes"), errors);
    }
    for kind in ["containers", "initContainers"] {
        let at = path.child(kind);
        for (i, one) in list(&spec[kind]).iter().enumerate() {
            container::image_of_pod(one, at.index(i), errors);
        }
    }
}

/// Errors of a pod that only a new one can have.
pub(super) fn pod_create(pod: &Value, errors: &mut FieldErrors) {
    let path = Path::root("spec");
    let spec = &pod["spec"];
    if !list(&spec["ephemeralContainers"]).is_empty() {
        errors.forbidden(path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !list(&spec["schedulingGates"]).is_empty() && some_text(&spec["nodeName"]).is_some() {
        let why = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(path.child("nodeName"), why);
    }
    annotations::match_fields(&pod["metadata"], spec, path, errors);
}

/// Errors of a pod template at `path`.
pub(crate) fn template(template: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let metadata = &template["metadata"];
    validate::labels(&metadata["labels"], &path.child("labels"), errors);
    validate::annotations(&metadata["annotations"], &path.child("annotations"), errors);
    annotations::of_spec(metadata, &template["spec"], path.child("annotations"), errors);
    let spec = path.child("spec");
    pod_spec(&template["spec"], None, spec, errors);
    annotations::match_fields(metadata, &template["spec"], spec, errors);
    if !list(&template["spec"]["ephemeralContainers"]).is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.forbidden(spec.child("ephemeralContainers"), why);
    }
}

/// What the parts of a spec need to know of each other.
#[derive(Clone, Copy)]
struct Context<'a> {
    spec: &'a Value,
    /// The volumes without errors of their own, by name.
    volumes: &'a BTreeMap<&'a str, &'a Value>,
    /// Names of the claims of devices.
    claims: &'a BTreeSet<&'a str>,
    grace_seconds: Option<i64>,
    /// Whether the pod's users are the host's.
    host_users: bool,
}

/// The lists of containers in upstream's order, with the names of their fields.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Calls `visit` with each container of a spec and its path.
fn each_container(spec: &Value, path: Path<'_>, mut visit: impl FnMut(&Value, Path<'_>)) {
    for kind in CONTAINERS {
        let at = path.child(kind);
        for (i, container) in list(&spec[kind]).iter().enumerate() {
            visit(container, at.index(i));
        }
    }
}

/// `metadata` is the pod's; a template has none of its own yet.
fn pod_spec(spec: &Value, metadata: Option<&Value>, path: Path<'_>, errors: &mut FieldErrors) {
    let grace_seconds = spec["terminationGracePeriodSeconds"].as_i64();
    if grace_seconds.is_none() {
        errors.required(path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volume::volumes(&spec["volumes"], metadata, path.child("volumes"), errors);
    let claims: BTreeSet<&str> = list(&spec["resourceClaims"]).iter().filter_map(|c| some_text(&c["name"])).collect();
    claims::claims(&spec["resourceClaims"], metadata, path.child("resourceClaims"), errors);
    let host_users = spec["hostUsers"] != false;
    let context = Context { spec, volumes: &volumes, claims: &claims, grace_seconds, host_users };
    container::containers(context, path, errors);
    resources::pod(spec, &claims, path, errors);
    if flag(&spec["hostNetwork"]) {
        host_ports(spec, metadata.is_some(), path, errors);
    }
    let restart = path.child("restartPolicy");
    required_one_of(&spec["restartPolicy"], restart, &["Always", "OnFailure", "Never"], errors);
    let dns_policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    required_one_of(&spec["dnsPolicy"], path.child("dnsPolicy"), &dns_policies, errors);
    validate::labels(&spec["nodeSelector"], &path.child("nodeSelector"), errors);
    security::pod(spec, path, errors);
    scheduling::affinity(&spec["affinity"], path.child("affinity"), errors);
    dns(spec, path, errors);
    let gates = path.child("readinessGates");
    for (i, gate) in list(&spec["readinessGates"]).iter().enumerate() {
        let kind = text(&gate["conditionType"]);
        complain(names::qualified_name(kind), kind, gates.index(i).child("conditionType"), errors);
    }
    scheduling::gates(&spec["schedulingGates"], path.child("schedulingGates"), errors);
    scheduling::spread(&spec["topologySpreadConstraints"], path.child("topologySpreadConstraints"), errors);
    windows::host_process(spec, path, errors);
    security::host_users(spec, path, errors);
    host_name(spec, path, errors);
    names_and_hosts(spec, path, errors);
    resources::overhead(&spec["overhead"], path.child("overhead"), errors);
    os::os(spec, path, errors);
    env::file_volumes(spec, path, errors);
}

fn names_and_hosts(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let subdomain = |field: &str, errors: &mut FieldErrors| {
        if let Some(name) = some_text(&spec[field]) {
            complain(names::dns_subdomain(name), name, path.child(field), errors);
        }
    };
    subdomain("serviceAccountName", errors);
    subdomain("nodeName", errors);
    let deadline = spec["activeDeadlineSeconds"].as_i64();
    if let Some(deadline) = deadline.filter(|d| !(1..=i64::from(i32::MAX)).contains(d)) {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.invalid(path.child("activeDeadlineSeconds"), deadline, why);
    }
    for field in ["hostname", "subdomain"] {
        if let Some(name) = some_text(&spec[field]) {
            complain(names::dns_label(name), name, path.child(field), errors);
        }
    }
    scheduling::tolerations(&spec["tolerations"], path.child("tolerations"), errors);
    let aliases = path.child("hostAliases");
    for (i, alias) in list(&spec["hostAliases"]).iter().enumerate() {
        let at = aliases.index(i);
        checks::ip(&alias["ip"], at.child("ip"), errors);
        for (n, name) in list(&alias["hostnames"]).iter().enumerate() {
            complain(names::dns_subdomain(text(name)), name, at.child("hostnames").index(n), errors);
        }
    }
    subdomain("priorityClassName", errors);
    if let Some(name) = spec["runtimeClassName"].as_str() {
        complain(names::dns_subdomain(name), name, path.child("runtimeClassName"), errors);
    }
    let preemption = ["PreemptLowerPriority", "Never"];
    match spec["preemptionPolicy"].as_str() {
        Some("") => errors.required(path.child("preemptionPolicy"), ""),
        _ => checks::one_of(&spec["preemptionPolicy"], path.child("preemptionPolicy"), &preemption, errors),
    }
}

/// A name of its own leaves no room for one that follows from elsewhere.
fn host_name(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    const MAX: usize = 64;
    let Some(name) = spec["hostnameOverride"].as_str() else { return };
    let at = path.child("hostnameOverride");
    if flag(&spec["setHostnameAsFQDN"]) {
        errors.forbidden(at, "may not be specified when setHostnameAsFQDN is true");
    }
    if flag(&spec["hostNetwork"]) {
        errors.forbidden(at, "may not be specified when hostNetwork is true");
    }
    if name.len() > MAX {
        errors.too_long(at, MAX);
    }
    complain(names::dns_subdomain(name), name, at, errors);
}

/// On the host's network a port is the host's. A template may leave it to the pod's defaults.
fn host_ports(spec: &Value, is_pod: bool, path: Path<'_>, errors: &mut FieldErrors) {
    let containers = path.child("containers");
    for (i, container) in list(&spec["containers"]).iter().enumerate() {
        let item = containers.index(i);
        let ports = item.child("ports");
        for (n, port) in list(&container["ports"]).iter().enumerate() {
            let host = int(&port["hostPort"]);
            if (is_pod || host != 0) && host != int(&port["containerPort"]) {
                let why = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(ports.index(n).child("hostPort"), host, why);
            }
        }
    }
}

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

fn dns(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (config, path) = (&spec["dnsConfig"], path.child("dnsConfig"));
    let (servers, servers_at) = (list(&config["nameservers"]), path.child("nameservers"));
    if spec["dnsPolicy"] == "None" {
        if !config.is_object() {
            return errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            return errors.required(servers_at, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if servers.len() > MAX_NAMESERVERS {
        errors.invalid(servers_at, &config["nameservers"], "must not have more than 3 nameservers");
    }
    for (i, server) in servers.iter().enumerate() {
        checks::ip(server, servers_at.index(i), errors);
    }
    let (searches, at) = (list(&config["searches"]), path.child("searches"));
    if searches.len() > MAX_SEARCHES {
        errors.invalid(at, &config["searches"], "must not have more than 32 search paths");
    }
    let chars = searches.iter().map(|s| text(s).len() + 1).sum::<usize>().saturating_sub(1);
    if chars > MAX_SEARCH_CHARS {
        let why = "must not have more than 2048 characters (including spaces) in the search list";
        errors.invalid(at, &config["searches"], why);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, s)| *s != ".") {
        let name = text(search).strip_suffix('.').unwrap_or(text(search));
        complain(names::dns_subdomain_with_underscore(name), name, at.index(i), errors);
    }
    let options = path.child("options");
    for (i, option) in list(&config["options"]).iter().enumerate() {
        if text(&option["name"]).is_empty() {
            errors.required(options.index(i), "must not be empty");
        }
    }
}

/// Whether the pod mirrors a file on its node.
fn is_mirror(pod: &Value) -> bool {
    annotation(pod, MIRROR).is_some()
}

#[cfg(test)]
mod tests;
