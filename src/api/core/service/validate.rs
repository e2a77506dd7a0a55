//! Validation of Services.

use crate::checks::{self, complain, one_of, required_one_of};
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use crate::tree::{entries, int, is_empty, list, some_text, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The port of the node agent's API must not be opened to the outside.
const KUBELET_PORT: i64 = 10_250;
const MAX_AFFINITY_SECONDS: i64 = 86_400;

pub(super) fn service(service: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&service["spec"], Path::root("spec"));
    let kind = text(&spec["type"]);
    let headless = spec["clusterIP"] == "None";
    if list(&spec["ports"]).is_empty() && !headless && kind != "ExternalName" {
        errors.required(path.child("ports"), "");
    }
    by_type(spec, kind, headless, path, errors);
    ports(spec, kind, path.child("ports"), errors);
    for (key, value) in entries(&spec["selector"]) {
        complain(names::qualified_name(key), key, path.child("selector"), errors);
        complain(names::label_value(text(value)), value, path.child("selector"), errors);
    }
    affinity(spec, path, errors);
    addresses(spec, kind, path, errors);
    traffic(spec, kind, path, errors);
}

fn by_type(spec: &Value, kind: &str, headless: bool, path: Path<'_>, errors: &mut FieldErrors) {
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    required_one_of(&spec["type"], path.child("type"), &kinds, errors);
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let why = format!("may not be set to 'None' for {kind} services");
            errors.invalid(path.child("clusterIPs").index(0), "None", &why);
        }
        "ExternalName" => {
            if !is_empty(&spec["clusterIPs"]) || some_text(&spec["clusterIP"]).is_some() {
                errors.forbidden(path.child("clusterIPs"), "may not be set for ExternalName services");
            }
            match some_text(&spec["externalName"]) {
                None => errors.required(path.child("externalName"), ""),
                Some(name) => {
                    let trimmed = name.strip_suffix('.').unwrap_or(name);
                    complain(names::dns_subdomain(trimmed), name, path.child("externalName"), errors);
                }
            }
        }
        _ => {}
    }
    if kind == "LoadBalancer" {
        for (i, _) in list(&spec["ports"]).iter().enumerate().filter(|(_, p)| int(&p["port"]) == KUBELET_PORT) {
            let why = "may not expose port 10250 externally since it is used by kubelet";
            errors.invalid(path.child("ports").index(i).child("port"), KUBELET_PORT, why);
        }
    }
}

fn ports(spec: &Value, kind: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let all = list(&spec["ports"]);
    let (mut named, mut taken, mut seen): (BTreeSet<&str>, BTreeSet<_>, BTreeSet<_>) = Default::default();
    for (i, port) in all.iter().enumerate() {
        let item = path.index(i);
        match some_text(&port["name"]) {
            None if all.len() > 1 => errors.required(item.child("name"), ""),
            None => {}
            Some(name) => {
                complain(names::dns_label(name), name, item.child("name"), errors);
                if named.contains(&name) {
                    errors.duplicate(item.child("name"), name);
                }
                named.insert(name);
            }
        }
        checks::port_number(&port["port"], item.child("port"), errors);
        checks::protocol(&port["protocol"], item.child("protocol"), errors);
        checks::port(&port["targetPort"], item.child("targetPort"), errors);
        if let Some(protocol) = port["appProtocol"].as_str() {
            complain(names::qualified_name(protocol), protocol, item.child("appProtocol"), errors);
        }
        let pair = (text(&port["protocol"]), int(&port["port"]));
        if seen.contains(&pair) {
            let shown = json!({"Name": "", "Protocol": pair.0, "AppProtocol": null, "Port": pair.1, "TargetPort": 0, "NodePort": 0});
            errors.duplicate(item, &shown);
        }
        seen.insert(pair);
        node_port(port, kind, &mut taken, item, errors);
    }
}

fn node_port<'a>(
    port: &'a Value,
    kind: &str,
    taken: &mut BTreeSet<(&'a str, i64)>,
    path: Path<'_>,
    errors: &mut FieldErrors,
) {
    let number = int(&port["nodePort"]);
    if number == 0 {
        return;
    }
    if kind == "ClusterIP" {
        errors.forbidden(path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
    }
    let key = (text(&port["protocol"]), number);
    if taken.contains(&key) {
        errors.duplicate(path.child("nodePort"), number);
    }
    taken.insert(key);
}

fn affinity(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let kinds = ["ClientIP", "None"];
    required_one_of(&spec["sessionAffinity"], path.child("sessionAffinity"), &kinds, errors);
    let (config, at) = (&spec["sessionAffinityConfig"], path.child("sessionAffinityConfig"));
    match text(&spec["sessionAffinity"]) {
        "ClientIP" => {
            let seconds = &config["clientIP"]["timeoutSeconds"];
            let client = at.child("clientIP");
            if seconds.is_null() {
                let why = "when session affinity type is ClientIP";
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

fn addresses(spec: &Value, kind: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let (ips, at) = (list(&spec["clusterIPs"]), path.child("clusterIPs"));
    let one = text(&spec["clusterIP"]);
    if ips.first().is_some_and(|first| text(first) != one) {
        errors.invalid(at, &spec["clusterIPs"], "first value must match `clusterIP`");
    }
    if ips.len() > 2 {
        errors.invalid(at, &spec["clusterIPs"], "may only hold up to 2 values");
    }
    for (i, ip) in ips.iter().enumerate() {
        match text(ip) {
            "None" if i > 0 => errors.invalid(at, &spec["clusterIPs"], "'None' must be the first and only value"),
            "None" | "" => {}
            _ if kind == "ExternalName" => {}
            _ => {
                checks::ip(ip, at.index(i), errors);
            }
        }
    }
    let at = path.child("ipFamilies");
    let mut seen: Vec<&Value> = Vec::new();
    for (i, family) in list(&spec["ipFamilies"]).iter().enumerate() {
        if !matches!(text(family), "IPv4" | "IPv6") {
            errors.not_supported(at.index(i), family, &["IPv4", "IPv6"]);
        } else if seen.contains(&family) {
            errors.duplicate(at.index(i), family);
        }
        seen.push(family);
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of(&spec["ipFamilyPolicy"], path.child("ipFamilyPolicy"), &policies, errors);
    let at = path.child("externalIPs");
    for (i, ip) in list(&spec["externalIPs"]).iter().enumerate() {
        if let Some(address) = checks::ip(ip, at.index(i), errors) {
            checks::ordinary_ip(address, ip, at.index(i), errors);
        }
    }
}

fn traffic(spec: &Value, kind: &str, path: Path<'_>, errors: &mut FieldErrors) {
    let external = matches!(kind, "NodePort" | "LoadBalancer") || !is_empty(&spec["externalIPs"]);
    let policies = ["Cluster", "Local"];
    let at = path.child("externalTrafficPolicy");
    match text(&spec["externalTrafficPolicy"]) {
        "" if external && kind != "ExternalName" => errors.required(at, ""),
        "" => {}
        policy if !external => {
            errors.invalid(at, policy, "may only be set for externally-accessible services");
        }
        _ => one_of(&spec["externalTrafficPolicy"], at, &policies, errors),
    }
    one_of(&spec["internalTrafficPolicy"], path.child("internalTrafficPolicy"), &policies, errors);
    let spreads = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    one_of(&spec["trafficDistribution"], path.child("trafficDistribution"), &spreads, errors);
    if int(&spec["healthCheckNodePort"]) != 0 && !(kind == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local") {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(path.child("healthCheckNodePort"), int(&spec["healthCheckNodePort"]), why);
    }
    let at = path.child("loadBalancerSourceRanges");
    for (i, range) in list(&spec["loadBalancerSourceRanges"]).iter().enumerate() {
        checks::cidr(range, at.index(i), errors);
    }
    if kind == "LoadBalancer" {
        if let Some(class) = spec["loadBalancerClass"].as_str() {
            complain(names::qualified_name(class), class, path.child("loadBalancerClass"), errors);
        }
        return;
    }
    for field in ["loadBalancerSourceRanges", "allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if !is_empty(&spec[field]) {
            errors.forbidden(path.child(field), "may only be used when `type` is 'LoadBalancer'");
        }
    }
}

pub(super) fn update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::root("spec");
    let (new, old) = (&new["spec"], &old["spec"]);
    if old["type"] == "ExternalName" || new["type"] == "ExternalName" {
        return;
    }
    const WHY: &str = "may not change once set";
    if some_text(&old["clusterIP"]).is_some() && new["clusterIP"] != old["clusterIP"] {
        errors.invalid(path.child("clusterIPs").index(0), &new["clusterIPs"], WHY);
    }
    let first = &old["ipFamilies"][0];
    if !first.is_null() && new["ipFamilies"][0] != *first {
        errors.invalid(path.child("ipFamilies").index(0), &new["ipFamilies"], WHY);
    }
    let class = &old["loadBalancerClass"];
    if old["type"] == "LoadBalancer" && new["type"] == "LoadBalancer" && new["loadBalancerClass"] != *class {
        errors.invalid(path.child("loadBalancerClass"), &new["loadBalancerClass"], WHY);
    }
}

/// Errors of a status that names what balances the load.
pub(super) fn status(new: &Value, _old: &Value, errors: &mut FieldErrors) {
    let path = Path::root("status");
    let balancer = path.child("loadBalancer");
    let at = balancer.child("ingress");
    for (i, ingress) in list(&new["status"]["loadBalancer"]["ingress"]).iter().enumerate() {
        let item = at.index(i);
        if some_text(&ingress["ip"]).is_some() {
            checks::ip(&ingress["ip"], item.child("ip"), errors);
        }
        if let Some(name) = some_text(&ingress["hostname"]) {
            complain(names::dns_subdomain(name), name, item.child("hostname"), errors);
        }
        one_of(&ingress["ipMode"], item.child("ipMode"), &["Proxy", "VIP"], errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: Value, expect: &[&str]) {
        let mut object = json!({ "spec": spec });
        super::super::default(&mut object);
        super::super::update::prepare_create(&mut object);
        let mut errors = FieldErrors::default();
        service(&object, &mut errors);
        assert_eq!(errors.messages(), expect);
    }

    #[test]
    fn good_services() {
        check(json!({"ports": [{"port": 80}], "selector": {"app": "web"}}), &[]);
        check(json!({"clusterIP": "None"}), &[]);
        check(json!({"type": "ExternalName", "externalName": "example.com"}), &[]);
        check(
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": "http"}]}),
            &[],
        );
    }

    #[test]
    fn bad_services() {
        check(json!({}), &["spec.ports: Required value"]);
        check(
            json!({"type": "Foo", "ports": [{"port": 0}]}),
            &[
                "spec.type: Unsupported value: \"Foo\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        );
        check(
            json!({"ports": [{"port": 80}, {"port": 80, "name": "a", "nodePort": 30000}]}),
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[1]: Duplicate value: {\"AppProtocol\":null,\"Name\":\"\",\"NodePort\":0,\"Port\":80,\"Protocol\":\"TCP\",\"TargetPort\":0}",
                "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ],
        );
        check(
            json!({"clusterIP": "1.2.3", "ports": [{"port": 80, "targetPort": "a_b"}], "externalIPs": ["127.0.0.1"]}),
            &[
                "spec.ports[0].targetPort: Invalid value: \"a_b\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "spec.clusterIPs[0]: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        );
    }

    #[test]
    fn addresses_stay() {
        let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}});
        let new = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}});
        let mut errors = FieldErrors::default();
        update(&new, &old, &mut errors);
        assert_eq!(errors.messages(), ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]);
    }
}
