//! What the kernel is to do, worked out from Services and EndpointSlices. Pure.

use naru_client::projections::{EndpointSliceView, ServicePort, ServiceView};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

impl Protocol {
    /// Reads the API's name; empty means TCP.
    fn parse(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// Where clients knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    /// The Service's address; `None` for a node port, which is on each address of the node.
    pub address: Option<Ipv4Addr>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// Where they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// The endpoint's address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// Which clients' addresses are hidden behind the node's, so that answers come back this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Masquerade {
    /// All.
    Always,
    /// Those that are no pods.
    Outside,
    /// None: endpoints are on this node, and see who asks.
    Never,
}

/// What becomes of connections to a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The endpoints, sorted. Without any, connections are refused.
    pub backends: Vec<Backend>,
    /// Whether a client keeps its endpoint (session affinity by address).
    pub sticky: bool,
    /// Whose address is hidden.
    pub masquerade: Masquerade,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// What is served.
    pub frontends: BTreeMap<Frontend, Target>,
}

impl Ruleset {
    /// The addresses of all endpoints.
    pub fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.frontends.values().flat_map(|target| &target.backends).map(|backend| backend.address).collect()
    }

    /// The first Service to claim a frontend keeps it.
    fn serve(&mut self, address: Option<Ipv4Addr>, protocol: Protocol, port: u16, target: Target) {
        self.frontends.entry(Frontend { address, protocol, port }).or_insert(target);
    }
}

/// Endpoints of one port of a Service.
#[derive(Debug, Default)]
struct Ready {
    all: Vec<Backend>,
    here: Vec<Backend>,
}

/// Works out the ruleset. Only IPv4 for now.
pub fn ruleset(services: &[Arc<ServiceView>], slices: &[Arc<EndpointSliceView>], node_name: &str) -> Ruleset {
    let mut by_service: HashMap<(&str, &str), Vec<&EndpointSliceView>> = HashMap::new();
    for slice in slices {
        if let Some(service) = slice.service_name().filter(|_| slice.address_type == "IPv4") {
            by_service.entry((&slice.metadata.namespace, service)).or_default().push(slice);
        }
    }
    let mut ruleset = Ruleset::default();
    for service in services {
        let key = (&*service.metadata.namespace, &*service.metadata.name);
        let slices = by_service.get(&key).map_or(&[][..], Vec::as_slice);
        add_service(&mut ruleset, service, slices, node_name);
    }
    ruleset
}

fn add_service(ruleset: &mut Ruleset, service: &ServiceView, slices: &[&EndpointSliceView], node_name: &str) {
    let spec = &service.spec;
    if spec.kind == "ExternalName" || service.is_headless() {
        return;
    }
    let addresses = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect::<Vec<Ipv4Addr>>();
    let mut inside = addresses(&spec.cluster_ips);
    if inside.is_empty() {
        inside = addresses(std::slice::from_ref(&spec.cluster_ip));
    }
    let mut outside = addresses(&spec.external_ips);
    outside
        .extend(service.status.load_balancer.ingress.iter().filter_map(|ingress| ingress.ip.parse::<Ipv4Addr>().ok()));
    let sticky = spec.session_affinity == "ClientIP";
    for port in &spec.ports {
        let Some(protocol) = Protocol::parse(&port.protocol) else { continue };
        let ready = ready(slices, port, protocol, node_name);
        let target = |local: bool, masquerade| {
            let backends = if local { ready.here.clone() } else { ready.all.clone() };
            Target { backends, sticky, masquerade }
        };
        for address in &inside {
            let local = spec.internal_traffic_policy == "Local";
            ruleset.serve(Some(*address), protocol, port.port, target(local, Masquerade::Outside));
        }
        let local = spec.external_traffic_policy == "Local";
        let masquerade = if local { Masquerade::Never } else { Masquerade::Always };
        for address in &outside {
            ruleset.serve(Some(*address), protocol, port.port, target(local, masquerade));
        }
        if port.node_port != 0 {
            ruleset.serve(None, protocol, port.node_port, target(local, masquerade));
        }
    }
}

/// The endpoints that take new connections to a port.
fn ready(slices: &[&EndpointSliceView], port: &ServicePort, protocol: Protocol, node_name: &str) -> Ready {
    let mut ready = Ready::default();
    for slice in slices {
        let mut ports =
            slice.ports.iter().filter(|p| p.name == port.name && Protocol::parse(&p.protocol) == Some(protocol));
        let Some(number) = ports.find_map(|p| p.port) else { continue };
        for endpoint in &slice.endpoints {
            let conditions = &endpoint.conditions;
            let address = endpoint.addresses.first().and_then(|address| address.parse().ok());
            let Some(address) = address.filter(|_| conditions.is_ready() && !conditions.is_terminating()) else {
                continue;
            };
            let backend = Backend { address, port: number };
            ready.all.push(backend);
            if endpoint.node_name.as_deref() == Some(node_name) {
                ready.here.push(backend);
            }
        }
    }
    for backends in [&mut ready.all, &mut ready.here] {
        backends.sort_unstable();
        // An endpoint that moves from one slice to another is in both for a moment.
        backends.dedup();
    }
    ready
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Arc<ServiceView> {
        let value = json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn slice(endpoints: Value) -> Arc<EndpointSliceView> {
        let value = json!({
            "metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
            "endpoints": endpoints,
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn endpoint(ip: &str, node: &str) -> Value {
        json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}})
    }

    fn spec(more: Value) -> Value {
        let mut spec = json!({
            "type": "NodePort", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    }

    /// Each frontend as text, with the last part of its endpoints' addresses.
    fn check(services: &[Arc<ServiceView>], slices: &[Arc<EndpointSliceView>], expected: &[&str]) {
        let ruleset = ruleset(services, slices, "here");
        let lines: Vec<String> = ruleset
            .frontends
            .iter()
            .map(|(front, target)| {
                let address = front.address.map_or("node".to_owned(), |address| address.to_string());
                let backends: Vec<String> =
                    target.backends.iter().map(|b| format!("{}:{}", b.address.octets()[3], b.port)).collect();
                let sticky = if target.sticky { " sticky" } else { "" };
                format!("{address}:{} {:?}{sticky} [{}]", front.port, target.masquerade, backends.join(" "))
            })
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn serves_the_cluster_address_and_the_node_port() {
        let slices = [slice(json!([endpoint("10.42.0.3", "there"), endpoint("10.42.0.2", "here")]))];
        let expected = ["node:30080 Always [2:8080 3:8080]", "10.43.0.9:80 Outside [2:8080 3:8080]"];
        check(&[service(spec(json!({})))], &slices, &expected);
    }

    #[test]
    fn only_ready_endpoints_that_stay_count() {
        let endpoints = json!([
            {"addresses": ["10.42.0.2"], "conditions": {}},
            {"addresses": ["10.42.0.3"], "conditions": {"ready": false}},
            {"addresses": ["10.42.0.4"], "conditions": {"ready": true, "terminating": true}},
            {"addresses": ["10.42.0.2"], "conditions": {"ready": true}},
        ]);
        check(
            &[service(spec(json!({})))],
            &[slice(endpoints)],
            &["node:30080 Always [2:8080]", "10.43.0.9:80 Outside [2:8080]"],
        );
    }

    #[test]
    fn without_endpoints_a_frontend_stays_to_refuse() {
        check(&[service(spec(json!({})))], &[], &["node:30080 Always []", "10.43.0.9:80 Outside []"]);
        let other_port = json!({"ports": [{"name": "metrics", "port": 90}]});
        check(
            &[service(spec(other_port))],
            &[slice(json!([endpoint("10.42.0.2", "here")]))],
            &["10.43.0.9:90 Outside []"],
        );
    }

    #[test]
    fn local_policies_keep_to_this_node_and_show_the_client() {
        let slices = [slice(json!([endpoint("10.42.0.3", "there"), endpoint("10.42.0.2", "here")]))];
        let policies =
            json!({"externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.7"], "sessionAffinity": "ClientIP"});
        let expected = [
            "node:30080 Never sticky [2:8080]",
            "10.43.0.9:80 Outside sticky [2:8080 3:8080]",
            "192.0.2.7:80 Never sticky [2:8080]",
        ];
        check(&[service(spec(policies))], &slices, &expected);
        let internal = json!({"internalTrafficPolicy": "Local"});
        let expected = ["node:30080 Always [2:8080 3:8080]", "10.43.0.9:80 Outside [2:8080]"];
        check(&[service(spec(internal))], &slices, &expected);
    }

    #[test]
    fn services_without_an_address_are_left_out() {
        for spec in [
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "externalName": "example.org", "ports": [{"port": 80}]}),
            json!({"type": "ClusterIP", "ports": [{"port": 80}]}),
        ] {
            check(&[service(spec)], &[], &[]);
        }
    }
}
