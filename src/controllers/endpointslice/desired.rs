//! The endpoints that a Service should have, worked out from its pods. Pure.

use super::topology;
use naru_client::projections::{
    ContainerPort, Endpoint, EndpointConditions, EndpointHints, EndpointPort, HintFor, PodView, PortRef, ServicePort,
    ServiceView, TargetRef,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Endpoints that are reached by the same ports.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// An address family as EndpointSlices name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn is_of(self, ip: &str) -> bool {
        match ip.parse() {
            Ok(IpAddr::V4(_)) => self == Self::V4,
            Ok(IpAddr::V6(_)) => self == Self::V6,
            Err(_) => false,
        }
    }
}

/// The families that a Service is served in.
pub(crate) fn families(service: &ServiceView) -> Vec<Family> {
    let family = |name: &String| if name == "IPv6" { Family::V6 } else { Family::V4 };
    match service.spec.ip_families.as_slice() {
        [] => vec![Family::V4],
        names => names.iter().map(family).collect(),
    }
}

/// Whether this controller makes the Service's endpoints.
pub(crate) fn is_ours(service: &ServiceView) -> bool {
    let selector = service.spec.selector.as_ref();
    service.spec.kind != "ExternalName" && selector.is_some_and(|selector| !selector.is_empty())
}

/// Whether the Service selects a pod with these labels.
pub(crate) fn selects(service: &ServiceView, labels: &BTreeMap<String, String>) -> bool {
    is_ours(service) && service.spec.selector.iter().flatten().all(|(name, value)| labels.get(name) == Some(value))
}

/// Whether two states of a pod lead to the same endpoint.
pub(crate) fn is_same(old: &PodView, new: &PodView) -> bool {
    let read = |pod: &PodView| (pod.is_ready(), pod.is_finished(), pod.metadata.is_deleting());
    let (a, b) = (&old.spec, &new.spec);
    read(old) == read(new)
        && old.metadata.uid == new.metadata.uid
        && old.metadata.labels == new.metadata.labels
        && old.status.pod_ips == new.status.pod_ips
        && old.status.pod_ip == new.status.pod_ip
        && (&a.node_name, &a.hostname, &a.subdomain) == (&b.node_name, &b.hostname, &b.subdomain)
}

/// The Service's endpoints of one family, grouped by the ports that they resolve to. `zone` knows the
/// nodes.
pub(crate) fn groups(
    service: &ServiceView,
    pods: &[Arc<PodView>],
    family: Family,
    zone: impl Fn(&str) -> Option<String>,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for pod in pods {
        let Some(ip) = address(pod, family).filter(|_| !pod.is_finished()) else { continue };
        let ports = ports(service, pod);
        let endpoint = endpoint(service, pod, ip, zone(&pod.spec.node_name));
        match groups.iter_mut().find(|group| group.ports == ports) {
            Some(group) => group.endpoints.push(endpoint),
            None => groups.push(Group { ports, endpoints: vec![endpoint] }),
        }
    }
    groups
}

fn address(pod: &PodView, family: Family) -> Option<&str> {
    let all = pod.status.pod_ips.iter().map(|ip| ip.ip.as_str());
    all.chain([pod.status.pod_ip.as_str()]).find(|ip| family.is_of(ip))
}

fn endpoint(service: &ServiceView, pod: &PodView, ip: &str, zone: Option<String>) -> Endpoint {
    let (serving, terminating) = (pod.is_ready(), pod.metadata.is_deleting());
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let named = !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name;
    let hints = hints(service, &pod.spec.node_name, zone.as_deref()).filter(|_| ready);
    Endpoint {
        addresses: vec![ip.to_owned()],
        conditions: EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) },
        hostname: named.then(|| pod.spec.hostname.clone()),
        node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone()),
        zone,
        hints,
        target_ref: Some(TargetRef {
            kind: "Pod".to_owned(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        }),
    }
}

/// How a Service wants its traffic distributed, where that is known; the annotation goes before.
pub(super) fn wish(service: &ServiceView) -> &str {
    let wish = service.spec.traffic_distribution.as_str();
    let known = ["PreferClose", "PreferSameZone", "PreferSameNode"].contains(&wish);
    if known && !topology::is_wanted(service) { wish } else { "" }
}

/// Where an endpoint is best used from, as the Service wants its traffic distributed.
fn hints(service: &ServiceView, node: &str, zone: Option<&str>) -> Option<EndpointHints> {
    let named = |name: Option<&str>| -> Vec<HintFor> {
        name.filter(|name| !name.is_empty()).map(|name| HintFor { name: name.to_owned() }).into_iter().collect()
    };
    let hints = match wish(service) {
        "PreferClose" | "PreferSameZone" => EndpointHints { for_zones: named(zone), for_nodes: Vec::new() },
        "PreferSameNode" => EndpointHints { for_zones: named(zone), for_nodes: named(Some(node)) },
        _ => return None,
    };
    (hints != EndpointHints::default()).then_some(hints)
}

fn ports(service: &ServiceView, pod: &PodView) -> Vec<EndpointPort> {
    let ports = service.spec.ports.iter();
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: port.name.clone(),
                protocol: protocol(&port.protocol).to_owned(),
                port: Some(target(port, pod)?),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

/// A port's number in the pod; none if the pod has no port of that name.
fn target(port: &ServicePort, pod: &PodView) -> Option<u16> {
    match &port.target_port {
        None | Some(PortRef::Number(0)) => Some(port.port),
        Some(PortRef::Number(number)) => u16::try_from(*number).ok(),
        Some(PortRef::Name(name)) if name.is_empty() => Some(port.port),
        Some(PortRef::Name(name)) => {
            let wanted =
                |own: &&ContainerPort| own.name == *name && protocol(&own.protocol) == protocol(&port.protocol);
            let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy == "Always");
            let mut own = pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
            own.find(wanted).map(|own| own.container_port)
        }
    }
}

fn protocol(text: &str) -> &str {
    if text.is_empty() { "TCP" } else { text }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn service(spec: Value) -> ServiceView {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default", "uid": "s"}, "spec": spec}))
            .unwrap()
    }

    pub(crate) fn pod(name: &str, ip: &str, ready: bool) -> PodView {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap()
    }

    fn run(service: &ServiceView, pods: Vec<PodView>) -> Vec<Group> {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        groups(service, &pods, Family::V4, |node| (node == "n1").then(|| "z1".to_owned()))
    }

    #[test]
    fn conditions_tell_ready_serving_and_terminating_apart() {
        let plain = service(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
        let all =
            service(json!({"selector": {"app": "web"}, "ports": [{"port": 80}], "publishNotReadyAddresses": true}));
        let check = |service: &ServiceView, ready: bool, deleting: bool, expected: (bool, bool, bool)| {
            let mut pod = pod("a", "10.0.0.1", ready);
            pod.metadata.deletion_timestamp = deleting.then(String::new);
            let groups = run(service, vec![pod]);
            let conditions = &groups[0].endpoints[0].conditions;
            let got = (conditions.is_ready(), conditions.is_serving(), conditions.is_terminating());
            assert_eq!(got, expected);
        };
        check(&plain, true, false, (true, true, false));
        check(&plain, false, false, (false, false, false));
        check(&plain, true, true, (false, true, true));
        check(&all, false, false, (true, false, false));
    }

    #[test]
    fn hints_follow_the_services_wish_and_are_of_the_ready() {
        let hints = |wish: &str, node: &str, ready: bool| {
            let mut spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
            if !wish.is_empty() {
                spec["trafficDistribution"] = wish.into();
            }
            let mut pod = pod("a", "10.0.0.1", ready);
            pod.spec.node_name = node.to_owned();
            json!(run(&service(spec), vec![pod])[0].endpoints[0].hints)
        };
        let (zone, node) = (json!([{"name": "z1"}]), json!([{"name": "n1"}]));
        assert_eq!(hints("", "n1", true), Value::Null);
        assert_eq!(hints("PreferClose", "n1", true), json!({ "forZones": zone }));
        assert_eq!(hints("PreferSameZone", "n1", true), json!({ "forZones": zone }));
        assert_eq!(hints("PreferSameNode", "n1", true), json!({ "forZones": zone, "forNodes": node }));
        assert_eq!(hints("PreferClose", "elsewhere", true), Value::Null, "the zone is not known");
        assert_eq!(hints("PreferClose", "n1", false), Value::Null);
    }

    #[test]
    fn named_ports_are_resolved_in_each_pod() {
        let service =
            service(json!({"selector": {"app": "web"}, "ports": [{"name": "w", "port": 80, "targetPort": "http"}]}));
        let mut other = pod("b", "10.0.0.2", true);
        other.spec.containers[0].ports[0].container_port = 9090;
        let mut without = pod("c", "10.0.0.3", true);
        without.spec.containers[0].ports.clear();
        let groups = run(&service, vec![pod("a", "10.0.0.1", true), other, without]);
        let ports: Vec<_> = groups.iter().map(|group| group.ports.first().and_then(|port| port.port)).collect();
        assert_eq!(ports, [Some(8080), Some(9090), None]);
    }

    #[test]
    fn pods_without_address_or_ended_have_no_endpoint() {
        let service = service(json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 81}]}));
        let mut ended = pod("a", "10.0.0.1", false);
        ended.status.phase = "Succeeded".into();
        let groups = run(&service, vec![ended, pod("b", "", false), pod("c", "fd00::1", true)]);
        assert!(groups.is_empty());
        let groups = run(&service, vec![pod("a", "10.0.0.1", true)]);
        assert_eq!(groups[0].ports[0].port, Some(81));
        assert_eq!(groups[0].endpoints[0].zone.as_deref(), Some("z1"));
    }

    #[test]
    fn services_without_selector_are_left_alone() {
        assert!(!is_ours(&service(json!({"ports": [{"port": 80}]}))));
        assert!(!is_ours(&service(json!({"type": "ExternalName", "selector": {"a": "b"}}))));
        assert!(selects(&service(json!({"selector": {"app": "web"}})), &pod("a", "", true).metadata.labels));
    }
}
