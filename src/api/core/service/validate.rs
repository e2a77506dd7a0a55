//! Validation of Services, in upstream's order.

use super::families;
use super::update::{is_external, needs_health_port};
use crate::address;
use crate::checks::{self, complain, one_of, required_one_of};
use crate::meta::names;
use crate::meta::validate::labels;
use crate::status::{FieldErrors, Path, Shown, quote};
use crate::tree::{int, is_empty, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

const MAX_AFFINITY_SECONDS: i64 = 86_400;
const LOAD_BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
const EXTERNAL_NAME: &str = "may not be set for ExternalName services";
const SET_ONCE: &str = "may not change once set";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

pub(super) fn is_headless(spec: &Value) -> bool {
    matches!(list(&spec["clusterIPs"]), [one] if one == "None")
}

pub(super) fn service(service: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&service["spec"], Path::root("spec"));
    let kind = text(&spec["type"]);
    annotations(service, errors);
    if list(&spec["ports"]).is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required(path.child("ports"), "");
    }
    by_type(spec, kind, path, errors);
    ports(spec, path.child("ports"), errors);
    labels(&spec["selector"], &path.child("selector"), errors);
    affinity(spec, path, errors);
    cluster_addresses(spec, errors);
    let at = path.child("externalIPs");
    for (i, ip) in list(&spec["externalIPs"]).iter().enumerate() {
        let before = errors.len();
        if let Some(address) = checks::ip(ip, at.index(i), errors).filter(|_| errors.len() == before) {
            checks::ordinary_ip(address, ip, at.index(i), errors);
        }
    }
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    required_one_of(&spec["type"], path.child("type"), &kinds, errors);
    port_numbers(spec, kind, path.child("ports"), errors);
    source_ranges(service, kind, path, errors);
    balancer(spec, kind, path, errors);
    traffic(spec, kind, path, errors);
}

fn annotations(service: &Value, errors: &mut FieldErrors) {
    let all = &service["metadata"]["annotations"];
    if let (Some(mode), Some(hints)) = (all[TOPOLOGY_MODE].as_str(), all[TOPOLOGY_HINTS].as_str())
        && mode != hints
    {
        let (metadata, why) =
            (Path::root("metadata"), format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified"));
        errors.invalid(metadata.child("annotations").key(TOPOLOGY_MODE), mode, &why);
    }
}

fn by_type(spec: &Value, kind: &str, path: Path<'_>, errors: &mut FieldErrors) {
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let why = format!("may not be set to 'None' for {kind} services");
            errors.invalid(path.child("clusterIPs").index(0), "None", &why);
        }
        "ExternalName" => {
            if !is_empty(&spec["clusterIPs"]) || !is_empty(&spec["clusterIP"]) {
                errors.forbidden(path.child("clusterIPs"), EXTERNAL_NAME);
            }
            for field in ["ipFamilies", "ipFamilyPolicy"].iter().filter(|f| !is_empty(&spec[**f])) {
                errors.forbidden(path.child(field), EXTERNAL_NAME);
            }
            let name = text(&spec["externalName"]);
            // One dot may end it.
            let trimmed = name.strip_suffix('.').unwrap_or(name);
            if trimmed.is_empty() {
                errors.required(path.child("externalName"), "");
            } else {
                complain(names::dns_subdomain(trimmed), trimmed, path.child("externalName"), errors);
            }
        }
        _ => {}
    }
}

fn ports(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let all = list(&spec["ports"]);
    let mut named: BTreeSet<&str> = BTreeSet::new();
    for (i, port) in all.iter().enumerate() {
        let item = path.index(i);
        match some_text(&port["name"]) {
            None if all.len() > 1 => errors.required(item.child("name"), ""),
            None => {}
            Some(name) => {
                complain(names::dns_label(name), name, item.child("name"), errors);
                if !named.insert(name) {
                    errors.duplicate(item.child("name"), name);
                }
            }
        }
        checks::port_number(&port["port"], item.child("port"), errors);
        checks::protocol(&port["protocol"], item.child("protocol"), errors);
        checks::port(&port["targetPort"], item.child("targetPort"), errors);
        if let Some(protocol) = port["appProtocol"].as_str() {
            complain(names::qualified_name(protocol), protocol, item.child("appProtocol"), errors);
        }
    }
}

/// Ports of the nodes, and the same port twice.
fn port_numbers(spec: &Value, kind: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let node_ports = || {
        let numbers = list(&spec["ports"]).iter().enumerate().map(|(i, p)| (i, p, int(&p["nodePort"])));
        numbers.filter(|(_, _, number)| *number != 0)
    };
    if kind == "ClusterIP" {
        for (i, ..) in node_ports() {
            let why = "may not be used when `type` is 'ClusterIP'";
            errors.forbidden(path.index(i).child("nodePort"), why);
        }
    }
    let mut taken: BTreeSet<(&str, i64)> = BTreeSet::new();
    for (i, port, number) in node_ports() {
        if !taken.insert((text(&port["protocol"]), number)) {
            errors.duplicate(path.index(i).child("nodePort"), number);
        }
    }
    let mut seen: BTreeSet<(&str, i64)> = BTreeSet::new();
    for (i, port) in list(&spec["ports"]).iter().enumerate() {
        let (protocol, number) = (text(&port["protocol"]), int(&port["port"]));
        if !seen.insert((protocol, number)) {
            let shown = format!(
                r#"{{"Name":"","Protocol":{},"AppProtocol":null,"Port":{number},"TargetPort":0,"NodePort":0}}"#,
                quote(protocol)
            );
            errors.duplicate(path.index(i), Shown(shown));
        }
    }
}

fn affinity(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let kinds = ["ClientIP", "None"];
    required_one_of(&spec["sessionAffinity"], path.child("sessionAffinity"), &kinds, errors);
    let (config, at) = (&spec["sessionAffinityConfig"], path.child("sessionAffinityConfig"));
    match text(&spec["sessionAffinity"]) {
        "ClientIP" => {
            let (seconds, client) = (&config["clientIP"]["timeoutSeconds"], at.child("clientIP"));
            let why = "when session affinity type is ClientIP";
            if !config.is_object() {
                errors.required(at, why);
            } else if !config["clientIP"].is_object() {
                errors.required(client, why);
            } else if seconds.is_null() {
                errors.required(client.child("timeoutSeconds"), why);
            } else if !(1..=MAX_AFFINITY_SECONDS).contains(&int(seconds)) {
                let why = "must be greater than 0 and less than 86400";
                errors.invalid(client.child("timeoutSeconds"), int(seconds), why);
            }
        }
        "None" if config.is_object() => {
            errors.forbidden(at, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

/// Addresses, families and the policy. Also looked at before anything is allocated.
pub(super) fn cluster_addresses(spec: &Value, errors: &mut FieldErrors) {
    if spec["type"] == "ExternalName" {
        return;
    }
    let path = Path::root("spec");
    let (ips, at) = (list(&spec["clusterIPs"]), path.child("clusterIPs"));
    match (some_text(&spec["clusterIP"]), ips.first()) {
        (Some(_), None) => errors.required(at, ""),
        (Some(one), Some(first)) if text(first) != one => {
            errors.invalid(at, &spec["clusterIPs"], "first value must match `clusterIP`");
        }
        (None, Some(_)) => {
            errors.invalid(at, &spec["clusterIPs"], "must be empty when `clusterIP` is not specified");
        }
        _ => {}
    }
    let (named, families_at) = (list(&spec["ipFamilies"]), path.child("ipFamilies"));
    for (i, family) in named.iter().enumerate() {
        if !matches!(text(family), "IPv4" | "IPv6") {
            errors.not_supported(families_at.index(i), family, &["IPv4", "IPv6"]);
        }
        if named[..i].contains(family) {
            errors.duplicate(families_at.index(i), family);
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of(&spec["ipFamilyPolicy"], path.child("ipFamilyPolicy"), &policies, errors);
    let before = errors.len();
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == "None" {
            if ips.len() > 1 {
                errors.invalid(at, &spec["clusterIPs"], "'None' must be the first and only value");
            }
        } else {
            checks::ip(ip, at.index(i), errors);
        }
    }
    let readable = errors.len() == before;
    if ips.len() > 2 {
        errors.invalid(at, &spec["clusterIPs"], "may only hold up to 2 values");
    }
    if !readable {
        return;
    }
    if let [first, second] = ips
        && families::of_address(text(first)) == families::of_address(text(second))
    {
        errors.invalid(at, &spec["clusterIPs"], "may specify no more than one IP for each IP family");
    }
    if is_headless(spec) {
        return;
    }
    for (i, (ip, family)) in ips.iter().zip(named).enumerate() {
        if matches!(text(family), "IPv4" | "IPv6") && families::of_address(text(ip)) != text(family) {
            let why = format!("expected an {} value as indicated by `ipFamilies[{i}]`", text(family));
            errors.invalid(at.index(i), ip, &why);
        }
    }
}

fn source_ranges(service: &Value, kind: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let ranges = list(&service["spec"]["loadBalancerSourceRanges"]);
    if !ranges.is_empty() {
        // Upstream's spelling of the path.
        let at = path.child("LoadBalancerSourceRanges");
        if kind != "LoadBalancer" {
            errors.forbidden(at, LOAD_BALANCER_ONLY);
        }
        for (i, range) in ranges.iter().enumerate() {
            address::check_cidr(text(range).trim(), at.index(i), errors);
        }
    } else if let Some(ranges) = service["metadata"]["annotations"][SOURCE_RANGES].as_str() {
        let metadata = Path::root("metadata");
        let all = metadata.child("annotations");
        let at = all.key(SOURCE_RANGES);
        if kind != "LoadBalancer" {
            errors.forbidden(at, LOAD_BALANCER_ONLY);
        }
        for range in ranges.split(',').map(str::trim).filter(|_| !ranges.trim().is_empty()) {
            address::check_cidr(range, at, errors);
        }
    }
}

fn balancer(spec: &Value, kind: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let allocate = &spec["allocateLoadBalancerNodePorts"];
    let at = path.child("allocateLoadBalancerNodePorts");
    if kind != "LoadBalancer" && !allocate.is_null() {
        errors.forbidden(at, LOAD_BALANCER_ONLY);
    } else if kind == "LoadBalancer" && allocate.is_null() {
        errors.required(at, "");
    }
    let at = path.child("loadBalancerClass");
    match spec["loadBalancerClass"].as_str() {
        Some(class) if kind == "LoadBalancer" => complain(names::qualified_name(class), class, at, errors),
        Some(_) => errors.forbidden(at, LOAD_BALANCER_ONLY),
        None => {}
    }
}

fn traffic(spec: &Value, kind: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let policies = ["Cluster", "Local"];
    let (policy, at) = (&spec["externalTrafficPolicy"], path.child("externalTrafficPolicy"));
    if is_external(spec) {
        required_one_of(policy, at, &policies, errors);
    } else if let Some(policy) = some_text(policy) {
        errors.invalid(at, policy, "may only be set for externally-accessible services");
    }
    let (port, at) = (&spec["healthCheckNodePort"], path.child("healthCheckNodePort"));
    if needs_health_port(spec) {
        match int(port) {
            0 => errors.required(at, ""),
            _ => checks::port_number(port, at, errors),
        }
    } else if int(port) != 0 {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(at, int(port), why);
    }
    let (internal, at) = (&spec["internalTrafficPolicy"], path.child("internalTrafficPolicy"));
    if internal.is_null() && matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        errors.required(at, "");
    }
    one_of(internal, at, &policies, errors);
    let spreads = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    one_of(&spec["trafficDistribution"], path.child("trafficDistribution"), &spreads, errors);
}

/// An update: what may not change, and then all else.
pub(super) fn update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    if before["type"] != "ExternalName" && spec["type"] != "ExternalName" {
        kept_addresses(spec, before, errors);
        kept_families(spec, before, errors);
    }
    let class = &spec["loadBalancerClass"];
    if before["type"] == "LoadBalancer"
        && spec["type"] == "LoadBalancer"
        && text(class) != text(&before["loadBalancerClass"])
    {
        errors.invalid(Path::root("spec").child("loadBalancerClass"), class, SET_ONCE);
    }
    service(new, errors);
}

fn kept_addresses(spec: &Value, before: &Value, errors: &mut FieldErrors) {
    if is_headless(spec) && is_headless(before) {
        return;
    }
    let (ips, old) = (list(&spec["clusterIPs"]), list(&before["clusterIPs"]));
    let path = Path::root("spec");
    let at = path.child("clusterIPs");
    if ips.len() == old.len() {
        for (i, _) in ips.iter().zip(old).enumerate().filter(|(_, (new, old))| new != old) {
            errors.invalid(at.index(i), &spec["clusterIPs"], SET_ONCE);
        }
        return;
    }
    if ips.is_empty() {
        errors.invalid(at.index(0), &spec["clusterIPs"], "primary clusterIP can not be unset");
    } else if !old.is_empty() && ips[0] != old[0] {
        errors.invalid(at.index(0), &spec["clusterIPs"], SET_ONCE);
    }
    if old.len() > ips.len() && ips.len() == 1 && spec["ipFamilyPolicy"] != "SingleStack" {
        let why = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.invalid(path.child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], why);
    }
}

fn kept_families(spec: &Value, before: &Value, errors: &mut FieldErrors) {
    if is_headless(spec) || is_headless(before) {
        return;
    }
    let (families, old) = (list(&spec["ipFamilies"]), list(&before["ipFamilies"]));
    let path = Path::root("spec");
    let at = path.child("ipFamilies");
    let first = at.index(0);
    if families.len() == old.len() {
        for _ in families.iter().zip(old).filter(|(new, old)| new != old) {
            errors.invalid(first, &spec["ipFamilies"], SET_ONCE);
        }
        return;
    }
    if old.len() > families.len() && is_empty(&spec["clusterIPs"]) {
        errors.invalid(first, &spec["ipFamilies"], "primary ipFamily can not be unset");
    }
    if !families.is_empty() && !old.is_empty() && families[0] != old[0] {
        // Upstream shows the addresses here.
        errors.invalid(first, &spec["clusterIPs"], SET_ONCE);
    }
    if old.len() > families.len() && families.len() == 1 && spec["ipFamilyPolicy"] != "SingleStack" {
        let why = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.invalid(path.child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], why);
    }
}

/// Errors of a status that names what balances the load.
pub(super) fn status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::root("status");
    let balancer = path.child("loadBalancer");
    let at = balancer.child("ingress");
    let all = list(&new["status"]["loadBalancer"]["ingress"]);
    if old["spec"]["type"] != "LoadBalancer" && !all.is_empty() {
        errors.forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    for (i, ingress) in all.iter().enumerate() {
        let item = at.index(i);
        let has_ip = some_text(&ingress["ip"]).is_some();
        if has_ip {
            checks::ip(&ingress["ip"], item.child("ip"), errors);
        }
        match (has_ip, ingress["ipMode"].is_null()) {
            (true, true) => errors.required(item.child("ipMode"), "must be specified when `ip` is set"),
            (false, false) => errors.forbidden(item.child("ipMode"), "may not be specified when `ip` is not set"),
            _ => one_of(&ingress["ipMode"], item.child("ipMode"), &["Proxy", "VIP"], errors),
        }
        if let Some(name) = some_text(&ingress["hostname"]) {
            complain(names::dns_subdomain(name), name, item.child("hostname"), errors);
            if address::parse(name).is_some() {
                errors.invalid(item.child("hostname"), name, "must be a DNS name, not an IP address");
            }
        }
    }
}

/// Advice about what is right, but ignored, deprecated or not spelled in the canonical way.
pub(super) fn warnings(service: &Value) -> Vec<String> {
    let (spec, path) = (&service["spec"], Path::root("spec"));
    let headless = is_headless(spec) && spec["type"] == "ClusterIP";
    let external_name = spec["type"] == "ExternalName";
    let external_ips = list(&spec["externalIPs"]);
    let mut all = Vec::new();
    if service["metadata"]["annotations"][TOPOLOGY_HINTS].is_string() {
        all.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    let at = path.child("clusterIPs");
    for (i, ip) in list(&spec["clusterIPs"]).iter().enumerate().filter(|_| !headless) {
        all.extend(address::warning(text(ip), at.index(i)));
    }
    if headless {
        let ignored = [
            ("loadBalancerIP", !is_empty(&spec["loadBalancerIP"])),
            ("externalIPs", !external_ips.is_empty()),
            ("SessionAffinity", spec["sessionAffinity"] != "None"),
        ];
        for (field, _) in ignored.iter().filter(|(_, given)| *given) {
            all.push(format!("spec.{field} is ignored for headless services"));
        }
    }
    let at = path.child("externalIPs");
    for (i, ip) in external_ips.iter().enumerate() {
        all.extend(address::warning(text(ip), at.index(i)));
    }
    if !external_ips.is_empty() && !headless && !external_name {
        all.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if let Some(ip) = some_text(&spec["loadBalancerIP"]) {
        all.extend(address::warning(ip, path.child("loadBalancerIP")));
    }
    let at = path.child("loadBalancerSourceRanges");
    for (i, range) in list(&spec["loadBalancerSourceRanges"]).iter().enumerate() {
        all.extend(address::cidr_warning(text(range), at.index(i)));
    }
    if external_name && !external_ips.is_empty() {
        all.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external_name && !is_empty(&spec["externalName"]) {
        all.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec["trafficDistribution"] == "PreferClose" {
        all.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    all
}
