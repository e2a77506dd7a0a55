//! What happens around a write of a Service: allocated values are kept, values that a type does not
//! have are dropped.

use crate::tree::{self, int, is_empty, list, text};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

type Object = Map<String, Value>;

/// The type; what an update leaves out will be the default.
fn kind(spec: &Value) -> &str {
    crate::tree::some_text(&spec["type"]).unwrap_or("ClusterIP")
}

fn needs_cluster_ip(spec: &Value) -> bool {
    matches!(kind(spec), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_port(spec: &Value) -> bool {
    match kind(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

fn needs_health_port(spec: &Value) -> bool {
    kind(spec) == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

pub(super) fn prepare_create(service: &mut Value) {
    let service = tree::object(service);
    service.insert("status".to_owned(), json!({"loadBalancer": {}}));
    let spec = tree::ensure(service, "spec");
    cluster_ips(spec, None);
    families(spec);
}

pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    let service = tree::object(new);
    tree::keep_status(service, old);
    let spec = tree::ensure(service, "spec");
    let before = &old["spec"];
    keep_allocated(spec, before);
    drop_foreign(spec, before);
    cluster_ips(spec, Some(before));
    families(spec);
}

/// `clusterIP` is the first of `clusterIPs`; either may be given.
fn cluster_ips(spec: &mut Object, before: Option<&Value>) {
    let one = spec.get("clusterIP").map_or("", text).to_owned();
    let many = spec.get("clusterIPs").cloned().unwrap_or_default();
    let Some(before) = before else {
        if !one.is_empty() && is_empty(&many) {
            spec.insert("clusterIPs".to_owned(), json!([one]));
        }
        return;
    };
    let old_one = text(&before["clusterIP"]);
    let unchanged = many == before["clusterIPs"];
    if one != old_one && unchanged {
        if one.is_empty() {
            spec.remove("clusterIPs");
        } else {
            spec.insert("clusterIPs".to_owned(), json!([one]));
        }
    } else if !one.is_empty() && is_empty(&many) {
        spec.insert("clusterIPs".to_owned(), json!([one]));
    }
}

/// One family, IPv4, unless said otherwise. Headless Services without a selector span both, since
/// their endpoints are written by somebody else.
fn families(spec: &mut Object) {
    let view = Value::Object(std::mem::take(spec));
    let wanted = needs_cluster_ip(&view);
    let headless = view["clusterIP"] == "None" && is_empty(&view["selector"]);
    if let Value::Object(object) = view {
        *spec = object;
    }
    if !wanted {
        return;
    }
    let policy = if headless { "RequireDualStack" } else { "SingleStack" };
    tree::default(spec, "ipFamilyPolicy", policy);
    if !spec.get("ipFamilies").is_none_or(is_empty) {
        return;
    }
    let ips = spec.get("clusterIPs").cloned().unwrap_or_default();
    let given: Vec<&str> = list(&ips)
        .iter()
        .map(text)
        .filter(|ip| *ip != "None" && !ip.is_empty())
        .map(|ip| if ip.contains(':') { "IPv6" } else { "IPv4" })
        .collect();
    let dual = headless && spec.get("ipFamilyPolicy").is_some_and(|p| p != "SingleStack");
    let families = if !given.is_empty() {
        json!(given)
    } else if dual {
        json!(["IPv4", "IPv6"])
    } else {
        json!(["IPv4"])
    };
    spec.insert("ipFamilies".to_owned(), families);
}

/// What the server allocated stays when the update leaves it out.
fn keep_allocated(spec: &mut Object, before: &Value) {
    let view = Value::Object(spec.clone());
    let keep = |spec: &mut Object, key: &str| {
        if spec.get(key).is_none_or(is_empty) && !is_empty(&before[key]) {
            spec.insert(key.to_owned(), before[key].clone());
        }
    };
    if needs_cluster_ip(&view) && needs_cluster_ip(before) {
        keep(spec, "clusterIP");
        if spec.get("clusterIP") == before.get("clusterIP") {
            keep(spec, "clusterIPs");
        }
        keep(spec, "ipFamilyPolicy");
        keep(spec, "ipFamilies");
    }
    if needs_node_port(&view) && needs_node_port(before) {
        keep_node_ports(spec, before);
    }
    if needs_health_port(&view)
        && needs_health_port(before)
        && spec.get("healthCheckNodePort").is_none_or(|p| int(p) == 0)
    {
        spec.insert("healthCheckNodePort".to_owned(), before["healthCheckNodePort"].clone());
    }
}

fn keep_node_ports(spec: &mut Object, before: &Value) {
    let number = |port: &Value| Some(int(&port["nodePort"])).filter(|n| *n != 0);
    let ports = spec.get("ports").cloned().unwrap_or_default();
    let mut used: BTreeSet<i64> = list(&ports).iter().filter_map(number).collect();
    let key = |port: &Value| (text(&port["protocol"]).to_owned(), int(&port["port"]));
    let old: BTreeMap<_, _> = list(&before["ports"]).iter().filter_map(|p| Some((key(p), number(p)?))).collect();
    for (port, view) in tree::items(spec, "ports").zip(list(&ports)) {
        let kept = old.get(&key(view)).copied().filter(|_| number(view).is_none());
        if let Some(kept) = kept.filter(|k| used.insert(*k)) {
            port.insert("nodePort".to_owned(), kept.into());
        }
    }
}

/// A value that only the old type has goes with it, unless the user changed it in the same update
/// (then validation says what is wrong).
fn drop_foreign(spec: &mut Object, before: &Value) {
    let view = Value::Object(spec.clone());
    let drop_same = |spec: &mut Object, key: &str| {
        if spec.get(key) == before.get(key) {
            spec.remove(key);
        }
    };
    if needs_cluster_ip(before) && !needs_cluster_ip(&view) {
        let same = view["clusterIP"] == before["clusterIP"] && view["clusterIPs"] == before["clusterIPs"];
        if same {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        for key in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            drop_same(spec, key);
        }
    }
    if needs_node_port(before) && !needs_node_port(&view) {
        drop_node_ports(spec, before);
    }
    if needs_health_port(before) && !needs_health_port(&view) {
        drop_same(spec, "healthCheckNodePort");
    }
    let external = |s: &Value| {
        matches!(kind(s), "NodePort" | "LoadBalancer") || (kind(s) == "ClusterIP" && !is_empty(&s["externalIPs"]))
    };
    if external(before) && !external(&view) {
        drop_same(spec, "externalTrafficPolicy");
    }
    if kind(before) == "LoadBalancer" && kind(&view) != "LoadBalancer" {
        drop_same(spec, "allocateLoadBalancerNodePorts");
        drop_same(spec, "loadBalancerClass");
    }
    if kind(before) == "ExternalName" && kind(&view) != "ExternalName" {
        drop_same(spec, "externalName");
    }
}

fn drop_node_ports(spec: &mut Object, before: &Value) {
    let old: BTreeSet<i64> = list(&before["ports"]).iter().map(|p| int(&p["nodePort"])).collect();
    for port in tree::items(spec, "ports") {
        if port.get("nodePort").is_some_and(|p| old.contains(&int(p))) {
            port.remove("nodePort");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_service_gets_a_family() {
        let mut service = json!({"spec": {"type": "ClusterIP", "selector": {"a": "b"}}});
        prepare_create(&mut service);
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4"]));
        assert_eq!(service["spec"]["ipFamilyPolicy"], "SingleStack");
        assert_eq!(service["status"], json!({"loadBalancer": {}}));
        let mut headless = json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}});
        prepare_create(&mut headless);
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
        assert_eq!(headless["spec"]["ipFamilyPolicy"], "RequireDualStack");
        let mut name = json!({"spec": {"type": "ExternalName"}});
        prepare_create(&mut name);
        assert_eq!(name["spec"], json!({"type": "ExternalName"}));
    }

    #[test]
    fn updates_keep_what_was_allocated() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        prepare_update(&mut new, &old);
        assert_eq!(new["spec"], old["spec"]);
        let mut plain = old.clone();
        plain["spec"]["type"] = "ClusterIP".into();
        prepare_update(&mut plain, &old);
        assert_eq!(plain["spec"]["ports"], json!([{"port": 80, "protocol": "TCP"}]));
        assert_eq!(plain["spec"]["clusterIP"], "10.0.0.5");
        let mut name = old.clone();
        name["spec"]["type"] = "ExternalName".into();
        prepare_update(&mut name, &old);
        assert!(name["spec"]["clusterIP"].is_null() && name["spec"]["ipFamilies"].is_null());
    }
}
