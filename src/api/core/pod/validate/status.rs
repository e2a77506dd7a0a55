//! What a node may say of a pod.

use super::annotations;
use crate::checks::{self, complain};
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use crate::tree::{int, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

const COUNT: &str = "must be a non-negative integer";
const BAD_ID: &str = "must be between 0 and 2147483647, inclusive";
const LISTS: [(&str, &str); 3] = [
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
];

/// Errors of an update through `/status`.
pub(in crate::core::pod) fn pod_status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    annotations::update(new, old, errors);
    let path = Path::root("status");
    let (status, before, spec) = (&new["status"], &old["status"], &old["spec"]);
    conditions(&status["conditions"], path.child("conditions"), errors);
    nominated(status, before, spec, path.child("nominatedNodeName"), errors);
    if int(&status["observedGeneration"]) < 0 {
        errors.invalid(path.child("observedGeneration"), int(&status["observedGeneration"]), COUNT);
    }
    if status["qosClass"] != before["qosClass"] {
        errors.immutable(path.child("qosClass"), text(&status["qosClass"]));
    }
    for (statuses, containers) in LISTS {
        transitions(&status[statuses], &before[statuses], spec, containers, path.child(statuses), errors);
    }
    claims(&status["resourceClaimStatuses"], spec, path.child("resourceClaimStatuses"), errors);
    extended(&status["extendedResourceClaimStatus"], spec, path.child("extendedResourceClaimStatus"), errors);
    addresses(&status["podIPs"], path.child("podIPs"), errors);
    let hosts = list(&status["hostIPs"]);
    if hosts.first().is_some_and(|first| first["ip"] != status["hostIP"]) {
        let at = path.child("hostIPs");
        errors.invalid(at.index(0).child("ip"), text(&hosts[0]["ip"]), "must be equal to `hostIP`");
    }
    addresses(&status["hostIPs"], path.child("hostIPs"), errors);
    for (statuses, _) in LISTS {
        users(&status[statuses], spec, path.child(statuses), errors);
    }
    for (statuses, containers) in &LISTS[..2] {
        allocated(&status[*statuses], &spec[*containers], path.child(statuses), errors);
    }
    let at = path.child("ephemeralContainerStatuses");
    for (i, one) in list(&status["ephemeralContainerStatuses"]).iter().enumerate() {
        if !list(&one["allocatedResourcesStatus"]).is_empty() {
            let why = "must not be specified in container status";
            errors.forbidden(at.index(i).child("allocatedResourcesStatus"), why);
        }
    }
}

fn conditions(conditions: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (i, condition) in list(conditions).iter().enumerate() {
        let item = path.index(i);
        let (kind, generation) = (text(&condition["type"]), int(&condition["observedGeneration"]));
        if generation < 0 {
            errors.invalid(item.child("observedGeneration"), generation, COUNT);
        }
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            complain(names::qualified_name(kind), kind, item.child("Type"), errors);
        }
    }
}

fn nominated(status: &Value, before: &Value, spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let name = text(&status["nominatedNodeName"]);
    if name.is_empty() || name == text(&before["nominatedNodeName"]) {
        return;
    }
    complain(names::dns_subdomain(name), name, path, errors);
    if some_text(&spec["nodeName"]).is_some() {
        errors.forbidden(path, "may not be set on pods that are already bound to a node");
    }
}

/// A container that ended and is not to be started again stays ended.
fn transitions(new: &Value, old: &Value, spec: &Value, containers: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let debugging = containers == "ephemeralContainers";
    if !debugging && all_may_restart(spec) {
        return;
    }
    for (i, before) in list(old).iter().enumerate().filter(|(_, s)| s["state"]["terminated"].is_object()) {
        let Some(after) = list(new).iter().find(|s| s["name"] == before["name"]) else { continue };
        if after["state"]["terminated"].is_object() {
            continue;
        }
        let container = list(&spec[containers]).iter().find(|c| c["name"] == before["name"]);
        let code = int(&before["state"]["terminated"]["exitCode"]);
        if debugging || !container.is_some_and(|container| should_restart(container, spec, code)) {
            errors.forbidden(path.index(i).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

/// Whether a rule of one container can restart all of them.
fn all_may_restart(spec: &Value) -> bool {
    let containers = list(&spec["containers"]).iter().chain(list(&spec["initContainers"]));
    containers.flat_map(|c| list(&c["restartPolicyRules"])).any(|rule| rule["action"] == "RestartAllContainers")
}

/// Whether a container that ended with this code is started again.
fn should_restart(container: &Value, spec: &Value, code: i64) -> bool {
    for rule in list(&container["restartPolicyRules"]) {
        let codes = &rule["exitCodes"];
        let named = list(&codes["values"]).iter().any(|value| int(value) == code);
        if codes.is_object() && named == (codes["operator"] == "In") {
            return true;
        }
    }
    let policy = some_text(&container["restartPolicy"]).unwrap_or_else(|| text(&spec["restartPolicy"]));
    policy == "Always" || (policy == "OnFailure" && code != 0)
}

fn claims(statuses: &Value, spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, status) in list(statuses).iter().enumerate() {
        let item = path.index(i);
        let name = text(&status["name"]);
        if !list(&spec["resourceClaims"]).iter().any(|claim| claim["name"] == name) {
            errors.invalid(item.child("name"), name, "must match the name of an entry in `spec.resourceClaims`");
        }
        if !seen.insert(name) {
            errors.duplicate(item.child("name"), name);
        }
        if let Some(claim) = status["resourceClaimName"].as_str() {
            complain(names::dns_subdomain(claim), claim, item.child("name"), errors);
        }
    }
}

fn extended(status: &Value, spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if !status.is_object() {
        return;
    }
    let (mappings, at) = (list(&status["requestMappings"]), path.child("requestMappings"));
    if mappings.is_empty() {
        errors.required(at, "at least one request mapping is required");
    }
    let mut seen: BTreeSet<[&str; 3]> = BTreeSet::new();
    for (i, mapping) in mappings.iter().enumerate() {
        let item = at.index(i);
        let key = ["containerName", "resourceName", "requestName"].map(|field| text(&mapping[field]));
        let mut containers = list(&spec["containers"]).iter().chain(list(&spec["initContainers"]));
        match containers.find(|c| c["name"] == key[0]) {
            None => {
                let why = "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                errors.invalid(item.child("containerName"), key[0], why);
            }
            Some(container) if container["resources"]["requests"][key[1]].is_null() => {
                let why = "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
                errors.invalid(item.child("resourceName"), key[1], why);
            }
            Some(_) => {}
        }
        complain(names::dns_label(key[2]), key[2], path.child("requestName"), errors);
        if !seen.insert(key) {
            for (field, value) in ["containerName", "resourceName", "requestName"].iter().zip(key) {
                errors.duplicate(item.child(field), value);
            }
        }
    }
    match some_text(&status["resourceClaimName"]) {
        None => errors.required(path.child("resourceClaimName"), ""),
        Some(name) => complain(names::dns_subdomain(name), name, path.child("resourceClaimName"), errors),
    }
}

/// One address of each family at most.
fn addresses(addresses: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let all = list(addresses);
    let mut families = Vec::new();
    for (i, address) in all.iter().enumerate() {
        families.extend(checks::ip(&address["ip"], path.index(i), errors).map(|ip| ip.is_ipv4()));
    }
    if all.len() > 1 && (all.len() > 2 || families.first() == families.get(1)) {
        // Upstream shows them under the names of their fields in Go.
        let shown: Vec<Value> = all.iter().map(|a| serde_json::json!({ "IP": a["ip"] })).collect();
        errors.invalid(path, Value::from(shown), "may specify no more than one IP for each IP family");
    }
}

fn users(statuses: &Value, spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (i, status) in list(statuses).iter().enumerate() {
        let linux = &status["user"]["linux"];
        if !linux.is_object() {
            continue;
        }
        let item = path.index(i);
        let at = item.child("user");
        let at = at.child("linux");
        if spec["os"]["name"] == "windows" {
            errors.forbidden(at, "cannot be set for a windows pod");
            continue;
        }
        let groups = at.child("supplementalGroups");
        let all = list(&linux["supplementalGroups"]).iter().enumerate().map(|(i, id)| (id, groups.index(i)));
        for (id, at) in [(&linux["uid"], at.child("uid")), (&linux["gid"], at.child("gid"))].into_iter().chain(all) {
            if !(0..=i64::from(i32::MAX)).contains(&int(id)) {
                errors.invalid(at, int(id), BAD_ID);
            }
        }
    }
}

/// How the devices of containers fare.
fn allocated(statuses: &Value, containers: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (i, status) in list(statuses).iter().enumerate() {
        let item = path.index(i);
        let at = item.child("allocatedResourcesStatus");
        let container = list(containers).iter().find(|c| c["name"] == status["name"]);
        for (j, resource) in list(&status["allocatedResourcesStatus"]).iter().enumerate() {
            let one = at.index(j);
            if let Some(container) = container {
                asked_for(resource, container, one.child("name"), errors);
            }
            let each = one.child("resources");
            let mut seen: BTreeSet<&str> = BTreeSet::new();
            for (k, device) in list(&resource["resources"]).iter().enumerate() {
                let at = each.index(k);
                // An unknown state may be left out on the wire.
                let health = some_text(&device["health"]).unwrap_or("");
                let known = ["Healthy", "Unhealthy", "Unknown"];
                if !known.contains(&health) {
                    errors.not_supported(at.child("health"), health, &known);
                }
                let id = text(&device["resourceID"]);
                if !seen.insert(id) {
                    errors.duplicate(at.child("resourceID"), id);
                }
            }
        }
    }
}

fn asked_for(resource: &Value, container: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let name = text(&resource["name"]);
    let resources = &container["resources"];
    let (known, why) = match name.strip_prefix("claim:") {
        Some(claim) => {
            let matches = |c: &Value| match some_text(&c["request"]) {
                Some(request) => claim == format!("{}/{request}", text(&c["name"])),
                None => claim == text(&c["name"]),
            };
            let why = "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty";
            (list(&resources["claims"]).iter().any(matches), why)
        }
        None => (!resources["requests"][name].is_null(), "must match one of the container's resource requests"),
    };
    if !known {
        errors.invalid(path, name, why);
    }
}
