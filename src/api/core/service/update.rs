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

pub(super) fn needs_cluster_ip(spec: &Value) -> bool {
    matches!(kind(spec), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Whether each of its ports is to get a port on the nodes.
pub fn needs_node_port(spec: &Value) -> bool {
    match kind(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

/// Whether it is to get a port on which nodes say if they have endpoints of it.
pub fn needs_health_port(spec: &Value) -> bool {
    kind(spec) == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// Whether somebody outside the cluster may reach it.
pub(super) fn is_external(spec: &Value) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer") || (kind(spec) == "ClusterIP" && !is_empty(&spec["externalIPs"]))
}

pub(super) fn prepare_create(service: &mut Value) {
    let service = tree::object(service);
    service.insert("status".to_owned(), json!({"loadBalancer": {}}));
    let spec = tree::ensure(service, "spec");
    if !spec.get("clusterIP").is_none_or(is_empty) && spec.get("clusterIPs").is_none_or(is_empty) {
        spec.insert("clusterIPs".to_owned(), json!([spec["clusterIP"]]));
    }
}

pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    let service = tree::object(new);
    tree::keep_status(service, old);
    let spec = tree::ensure(service, "spec");
    let before = &old["spec"];
    keep_allocated(spec, before);
    cluster_ips(spec, before);
    drop_foreign(spec, before);
    if spec.get("type").is_some_and(|kind| kind != "LoadBalancer")
        && let Some(status) = tree::sub(service, "status")
    {
        status.insert("loadBalancer".to_owned(), json!({}));
    }
}

/// `clusterIP` is the first of `clusterIPs`; whichever the user has changed counts.
fn cluster_ips(spec: &mut Object, before: &Value) {
    let one = spec.get("clusterIP").map_or("", text).to_owned();
    let many = spec.get("clusterIPs").cloned().unwrap_or_default();
    let unchanged = list(&many) == list(&before["clusterIPs"]);
    if one == text(&before["clusterIP"]) || !unchanged {
        return;
    }
    if one.is_empty() {
        spec.remove("clusterIPs");
    } else {
        spec.insert("clusterIPs".to_owned(), json!([one]));
    }
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
        keep(spec, "clusterIPs");
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

/// Ports are known again by their names.
fn keep_node_ports(spec: &mut Object, before: &Value) {
    let number = |port: &Value| Some(int(&port["nodePort"])).filter(|n| *n != 0);
    let ports = spec.get("ports").cloned().unwrap_or_default();
    let mut used: BTreeSet<i64> = list(&ports).iter().filter_map(number).collect();
    let name = |port: &Value| text(&port["name"]).to_owned();
    let old: BTreeMap<_, _> = list(&before["ports"]).iter().filter_map(|p| Some((name(p), number(p)?))).collect();
    for (port, view) in tree::items(spec, "ports").zip(list(&ports)) {
        let kept = old.get(&name(view)).copied().filter(|_| number(view).is_none());
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
        if spec.get(key).unwrap_or(&Value::Null) == &before[key] {
            spec.remove(key);
        }
    };
    if needs_cluster_ip(before) && !needs_cluster_ip(&view) {
        if view["clusterIP"] == before["clusterIP"] && view["clusterIPs"] == before["clusterIPs"] {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        drop_same(spec, "ipFamilies");
        drop_same(spec, "ipFamilyPolicy");
    }
    if needs_node_port(before) && !needs_node_port(&view) {
        drop_node_ports(spec, before);
    }
    if needs_health_port(before) && !needs_health_port(&view) {
        drop_same(spec, "healthCheckNodePort");
    }
    if is_external(before) && !is_external(&view) {
        drop_same(spec, "externalTrafficPolicy");
    }
    if kind(before) == "LoadBalancer" && kind(&view) != "LoadBalancer" {
        drop_same(spec, "allocateLoadBalancerNodePorts");
        drop_same(spec, "loadBalancerClass");
    }
}

/// Unless one of them is new: then the user means them.
fn drop_node_ports(spec: &mut Object, before: &Value) {
    let old: BTreeSet<i64> = list(&before["ports"]).iter().map(|p| int(&p["nodePort"])).collect();
    let is_new = |port: &Object| port.get("nodePort").is_some_and(|p| int(p) != 0 && !old.contains(&int(p)));
    if tree::items(spec, "ports").any(|port| is_new(port)) {
        return;
    }
    for port in tree::items(spec, "ports") {
        port.remove("nodePort");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_service_has_both_forms_of_its_address() {
        let mut service = json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}});
        prepare_create(&mut service);
        assert_eq!(service["spec"]["clusterIPs"], json!(["None"]));
        assert_eq!(service["status"], json!({"loadBalancer": {}}));
        let mut name = json!({"spec": {"type": "ExternalName"}});
        prepare_create(&mut name);
        assert_eq!(name["spec"], json!({"type": "ExternalName"}));
    }

    #[test]
    fn updates_keep_what_was_allocated() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 81, "protocol": "TCP"}]}});
        prepare_update(&mut new, &old);
        assert_eq!(
            new["spec"],
            json!({"type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"],
                "ports": [{"port": 81, "protocol": "TCP", "nodePort": 30080}]})
        );
        let mut plain = old.clone();
        plain["spec"]["type"] = "ClusterIP".into();
        prepare_update(&mut plain, &old);
        assert_eq!(plain["spec"]["ports"], json!([{"port": 80, "protocol": "TCP"}]));
        assert_eq!(plain["spec"]["clusterIP"], "10.0.0.5");
        let mut name = old.clone();
        name["spec"]["type"] = "ExternalName".into();
        prepare_update(&mut name, &old);
        assert!(name["spec"]["clusterIP"].is_null() && name["spec"]["ipFamilies"].is_null());
        let mut meant = old.clone();
        meant["spec"]["type"] = "ClusterIP".into();
        meant["spec"]["ports"][0]["nodePort"] = 30081.into();
        prepare_update(&mut meant, &old);
        assert_eq!(meant["spec"]["ports"][0]["nodePort"], 30081);
    }

    #[test]
    fn a_balancer_that_is_none_any_more_forgets_its_addresses() {
        let old = json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
                "allocateLoadBalancerNodePorts": true, "loadBalancerClass": "a/b"},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        prepare_update(&mut new, &old);
        assert_eq!(new, json!({"spec": {"type": "ClusterIP"}, "status": {"loadBalancer": {}}}));
        let mut same = old.clone();
        same["spec"]["healthCheckNodePort"] = 0.into();
        prepare_update(&mut same, &old);
        assert_eq!(same, old);
    }

    #[test]
    fn either_form_of_the_address_may_be_cleared() {
        let old = json!({"spec": {"type": "ExternalName", "externalName": "x"}});
        let mut new = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.7"}});
        prepare_update(&mut new, &old);
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.7"]));
    }
}
