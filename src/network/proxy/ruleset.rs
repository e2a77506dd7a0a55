//! What the kernel is to do, worked out from Services and EndpointSlices. Pure.

use crate::nft::Family;
use naru_api::address::{Cidr, parse_cidr};
use naru_client::projections::{Endpoint, EndpointSliceView, ServicePort, ServiceView};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
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
    pub fn parse(name: &str) -> Option<Self> {
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
    /// The Service's address. The unspecified one is for a node port: each address of the node, of that family.
    pub address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

impl Frontend {
    /// The family that it serves.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// Whether it is on each address of the node.
    pub fn is_node_port(&self) -> bool {
        self.address.is_unspecified()
    }
}

/// Where they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// The endpoint's address.
    pub address: IpAddr,
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
    /// For how many seconds a client keeps its endpoint after its last connection (session affinity by address).
    pub sticky: Option<u32>,
    /// Whose address is hidden.
    pub masquerade: Masquerade,
    /// Whether there are endpoints on other nodes, so that nothing is said where there are none here.
    pub elsewhere: bool,
    /// The clients that may come from outside; none means all.
    pub sources: Vec<Cidr>,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// What is served.
    pub frontends: BTreeMap<Frontend, Target>,
    /// Where pods and the host itself are sent instead: a policy of local endpoints is for those who come from
    /// outside.
    pub inside: BTreeMap<Frontend, Target>,
}

impl Ruleset {
    /// The addresses of a frontend's endpoints, each once.
    pub(super) fn addresses_of(&self, frontend: &Frontend) -> BTreeSet<IpAddr> {
        let targets = [&self.frontends, &self.inside].into_iter().filter_map(|map| map.get(frontend));
        let endpoints = targets.flat_map(|target| &target.backends).map(|backend| backend.address);
        // A port of the host's own that only leads to another one needs no detour.
        endpoints.filter(|address| *address != frontend.address).collect()
    }

    /// Ports of this node that lead to its pods, or to others of its own. What a Service has claimed stays the
    /// Service's.
    pub(super) fn serve_ports(&mut self, ports: &BTreeMap<Frontend, Backend>) {
        for (frontend, backend) in ports {
            let target = Target {
                backends: vec![*backend],
                sticky: None,
                masquerade: Masquerade::Never,
                elsewhere: false,
                sources: Vec::new(),
            };
            self.serve(*frontend, target, None);
        }
    }

    /// The first Service to claim a frontend keeps it. `inside` is for clients within the cluster, if they are
    /// treated in another way.
    fn serve(&mut self, frontend: Frontend, target: Target, inside: Option<Target>) {
        if let Entry::Vacant(place) = self.frontends.entry(frontend) {
            place.insert(target);
            self.inside.extend(inside.map(|inside| (frontend, inside)));
        }
    }
}

/// Where this is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Here<'a> {
    /// The node's name.
    pub node: &'a str,
    /// Its zone, empty if it has none.
    pub zone: &'a str,
}

/// Affinity where a Service does not say for how long.
const AFFINITY_SECONDS: u32 = 10_800;

/// Endpoints of one port of a Service.
#[derive(Debug, Default)]
struct Chosen {
    all: Vec<Backend>,
    here: Vec<Backend>,
    /// Whether any endpoint is of use, wherever it is.
    any: bool,
}

/// Works out the ruleset.
pub fn ruleset(services: &[Arc<ServiceView>], slices: &[Arc<EndpointSliceView>], here: Here<'_>) -> Ruleset {
    Memory::default().ruleset(services, slices, here)
}

/// Labels of Services that another proxy serves, or none.
const OF_OTHERS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// Whether a Service has addresses that are to be served, and by us.
pub(super) fn is_ours(service: &ServiceView) -> bool {
    let labels = &service.metadata.labels;
    service.spec.kind != "ExternalName"
        && !service.is_headless()
        && !OF_OTHERS.iter().any(|label| labels.contains_key(*label))
}

/// What one Service is: its frontends, what they lead to, and what they lead clients within the cluster to.
type Parts = Vec<(Frontend, Target, Option<Target>)>;

/// What was worked out the last time: of thousands of Services few change at once.
#[derive(Debug, Default)]
pub(super) struct Memory {
    node: String,
    zone: String,
    services: HashMap<(String, String), Remembered>,
}

#[derive(Debug)]
struct Remembered {
    service: Arc<ServiceView>,
    slices: Vec<Arc<EndpointSliceView>>,
    parts: Parts,
}

impl Memory {
    /// Works out the ruleset.
    pub(super) fn ruleset(
        &mut self,
        services: &[Arc<ServiceView>],
        slices: &[Arc<EndpointSliceView>],
        here: Here<'_>,
    ) -> Ruleset {
        if (self.node.as_str(), self.zone.as_str()) != (here.node, here.zone) {
            *self = Self { node: here.node.to_owned(), zone: here.zone.to_owned(), services: HashMap::new() };
        }
        let mut by_service: HashMap<(&str, &str), Vec<&Arc<EndpointSliceView>>> = HashMap::new();
        for slice in slices {
            if let Some(service) = slice.service_name() {
                by_service.entry((&slice.metadata.namespace, service)).or_default().push(slice);
            }
        }
        let mut known = std::mem::take(&mut self.services);
        let mut ruleset = Ruleset::default();
        for service in services.iter().filter(|service| is_ours(service)) {
            let meta = &service.metadata;
            let slices = by_service.get(&(&*meta.namespace, &*meta.name)).map_or(&[][..], Vec::as_slice);
            let key = (meta.namespace.clone(), meta.name.clone());
            let remembered = match known.remove(&key) {
                Some(remembered) if remembered.is_of(service, slices) => remembered,
                _ => Remembered {
                    service: service.clone(),
                    slices: slices.iter().map(|slice| Arc::clone(slice)).collect(),
                    parts: parts(service, slices, here),
                },
            };
            for (frontend, target, inside) in &remembered.parts {
                ruleset.serve(*frontend, target.clone(), inside.clone());
            }
            self.services.insert(key, remembered);
        }
        ruleset
    }
}

impl Remembered {
    /// Objects are never changed in place, so the same ones say the same.
    fn is_of(&self, service: &Arc<ServiceView>, slices: &[&Arc<EndpointSliceView>]) -> bool {
        Arc::ptr_eq(&self.service, service)
            && self.slices.len() == slices.len()
            && self.slices.iter().zip(slices).all(|(old, new)| Arc::ptr_eq(old, new))
    }
}

/// What a Service is in all of its families.
fn parts(service: &ServiceView, slices: &[&Arc<EndpointSliceView>], here: Here<'_>) -> Parts {
    let clusters = match service.spec.cluster_ips.as_slice() {
        [] => addresses(std::iter::once(&service.spec.cluster_ip)),
        ips => addresses(ips.iter()),
    };
    let mut parts = Parts::new();
    for cluster in clusters {
        let kind = if cluster.is_ipv4() { "IPv4" } else { "IPv6" };
        let slices: Vec<&EndpointSliceView> =
            slices.iter().filter(|slice| slice.address_type == kind).map(|slice| &***slice).collect();
        add_service(&mut parts, service, cluster, &slices, here);
    }
    parts
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// Adds a Service in the family of its address, which is what its other addresses are served in.
fn add_service(
    parts: &mut Parts,
    service: &ServiceView,
    cluster: IpAddr,
    slices: &[&EndpointSliceView],
    here: Here<'_>,
) {
    let (spec, family) = (&service.spec, Family::of(cluster));
    let of_family = |mut all: Vec<IpAddr>| {
        all.retain(|address| Family::of(*address) == family && !address.is_unspecified());
        all
    };
    let external = of_family(addresses(spec.external_ips.iter()));
    let ingress = service.status.load_balancer.ingress.iter().filter(|ingress| ingress.ip_mode != "Proxy");
    let balancers = of_family(addresses(ingress.map(|ingress| &ingress.ip)));
    let mut sources: Vec<Cidr> =
        spec.load_balancer_source_ranges.iter().filter_map(|range| parse_cidr(range.trim())).collect();
    sources.retain(|range| Family::of(range.network) == family);
    let timeout = spec.session_affinity_config.client_ip.timeout_seconds.unwrap_or(AFFINITY_SECONDS);
    let sticky = (spec.session_affinity == "ClientIP").then_some(timeout);
    for port in &spec.ports {
        let Some(protocol) = Protocol::parse(&port.protocol) else { continue };
        let chosen = choose(slices, port, protocol, here);
        let target = |local: bool, masquerade| {
            let backends = if local { chosen.here.clone() } else { chosen.all.clone() };
            Target { backends, sticky, masquerade, elsewhere: local && chosen.any, sources: Vec::new() }
        };
        let front = |address: IpAddr, port| Frontend { address, protocol, port };
        let local = spec.internal_traffic_policy == "Local";
        parts.push((front(cluster, port.port), target(local, Masquerade::Outside), None));
        let local = spec.external_traffic_policy == "Local";
        let masquerade = if local { Masquerade::Never } else { Masquerade::Always };
        let from_inside = || local.then(|| target(false, Masquerade::Outside));
        for address in &external {
            parts.push((front(*address, port.port), target(local, masquerade), from_inside()));
        }
        for address in &balancers {
            let guarded = |target| Target { sources: sources.clone(), ..target };
            let outside = guarded(target(local, masquerade));
            parts.push((front(*address, port.port), outside, from_inside().map(guarded)));
        }
        if port.node_port != 0 {
            let frontend = front(family.unspecified(), port.node_port);
            parts.push((frontend, target(local, masquerade), from_inside()));
        }
    }
}

/// The endpoints that take new connections to a port: those that are ready, or else those that still serve while
/// they end.
fn choose(slices: &[&EndpointSliceView], port: &ServicePort, protocol: Protocol, here: Here<'_>) -> Chosen {
    let mut found: Vec<(Backend, &Endpoint)> = Vec::new();
    for slice in slices {
        let mut ports =
            slice.ports.iter().filter(|p| p.name == port.name && Protocol::parse(&p.protocol) == Some(protocol));
        let Some(number) = ports.find_map(|p| p.port) else { continue };
        found.extend(slice.endpoints.iter().filter_map(|endpoint| {
            let address = endpoint.addresses.first()?.parse().ok()?;
            Some((Backend { address, port: number }, endpoint))
        }));
    }
    let ready = |(_, endpoint): &&(Backend, &Endpoint)| endpoint.conditions.is_ready();
    let ending = |(_, endpoint): &&(Backend, &Endpoint)| {
        endpoint.conditions.is_serving() && endpoint.conditions.is_terminating()
    };
    let local = |(_, endpoint): &&(Backend, &Endpoint)| endpoint.node_name.as_deref() == Some(here.node);
    let ready_ones: Vec<&(Backend, &Endpoint)> = found.iter().filter(ready).collect();
    let mut all = nearest(&ready_ones, here);
    if ready_ones.is_empty() {
        all = sorted(found.iter().filter(ending));
    }
    let mut on_this_node = sorted(found.iter().filter(local).filter(ready));
    if on_this_node.is_empty() {
        on_this_node = sorted(found.iter().filter(local).filter(ending));
    }
    Chosen { any: !all.is_empty(), all, here: on_this_node }
}

/// Of endpoints that all say where they are best used, those for this node, or for its zone; else all.
fn nearest(ready: &[&(Backend, &Endpoint)], here: Here<'_>) -> Vec<Backend> {
    type Names = fn(&Endpoint) -> Vec<&str>;
    let nodes: Names =
        |endpoint| endpoint.hints.iter().flat_map(|hints| &hints.for_nodes).map(|node| node.name.as_str()).collect();
    let zones: Names =
        |endpoint| endpoint.hints.iter().flat_map(|hints| &hints.for_zones).map(|zone| zone.name.as_str()).collect();
    for (names, own) in [(nodes, here.node), (zones, here.zone)] {
        let hinted = ready.iter().all(|(_, endpoint)| !names(endpoint).is_empty());
        let mut near = ready.iter().filter(|(_, endpoint)| names(endpoint).contains(&own)).peekable();
        if hinted && !own.is_empty() && near.peek().is_some() {
            return sorted(near.copied());
        }
    }
    sorted(ready.iter().copied())
}

fn sorted<'a>(endpoints: impl Iterator<Item = &'a (Backend, &'a Endpoint)>) -> Vec<Backend> {
    let mut backends: Vec<Backend> = endpoints.map(|(backend, _)| *backend).collect();
    backends.sort_unstable();
    // An endpoint that moves from one slice to another is in both for a moment.
    backends.dedup();
    backends
}

/// How many endpoints of a Service on this node are ready: what its health check says.
pub(super) fn ready_here(service: &ServiceView, slices: &[Arc<EndpointSliceView>], node: &str) -> usize {
    let own = slices.iter().filter(|slice| {
        slice.metadata.namespace == service.metadata.namespace && slice.service_name() == Some(&service.metadata.name)
    });
    let endpoints = own.flat_map(|slice| &slice.endpoints);
    let ready = endpoints.filter(|e| e.conditions.is_ready() && e.node_name.as_deref() == Some(node));
    ready.filter_map(|endpoint| endpoint.addresses.first()).collect::<BTreeSet<_>>().len()
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
        let ruleset = ruleset(services, slices, Here { node: "here", zone: "z1" });
        let lines: Vec<String> = ruleset
            .frontends
            .iter()
            .map(|(front, target)| {
                let address = if front.is_node_port() { "node".to_owned() } else { front.address.to_string() };
                let last = |address: IpAddr| crate::nft::octets(address).pop().unwrap();
                let backends: Vec<String> =
                    target.backends.iter().map(|b| format!("{}:{}", last(b.address), b.port)).collect();
                let sticky = target.sticky.map_or(String::new(), |seconds| format!(" sticky {seconds}"));
                let elsewhere = if target.elsewhere && backends.is_empty() { " elsewhere" } else { "" };
                format!("{address}:{} {:?}{sticky}{elsewhere} [{}]", front.port, target.masquerade, backends.join(" "))
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
            {"addresses": ["10.42.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}},
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
            "node:30080 Never sticky 10800 [2:8080]",
            "10.43.0.9:80 Outside sticky 10800 [2:8080 3:8080]",
            "192.0.2.7:80 Never sticky 10800 [2:8080]",
        ];
        check(&[service(spec(policies))], &slices, &expected);
        let internal = json!({"internalTrafficPolicy": "Local"});
        let expected = ["node:30080 Always [2:8080 3:8080]", "10.43.0.9:80 Outside [2:8080]"];
        check(&[service(spec(internal))], &slices, &expected);
    }

    #[test]
    fn endpoints_that_end_serve_when_there_are_no_others() {
        let ending = |ip: &str, node: &str| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": false, "serving": true, "terminating": true}});
        let only = [slice(json!([ending("10.42.0.2", "here"), ending("10.42.0.3", "there")]))];
        check(
            &[service(spec(json!({})))],
            &only,
            &["node:30080 Always [2:8080 3:8080]", "10.43.0.9:80 Outside [2:8080 3:8080]"],
        );
        let local = service(spec(json!({"externalTrafficPolicy": "Local"})));
        let others = [slice(json!([ending("10.42.0.2", "here"), endpoint("10.42.0.3", "there")]))];
        check(&[local], &others, &["node:30080 Never [2:8080]", "10.43.0.9:80 Outside [3:8080]"]);
        // Unready ones that are published count as ready, whatever else they are.
        let published =
            json!({"addresses": ["10.42.0.4"], "conditions": {"ready": true, "serving": false, "terminating": true}});
        check(
            &[service(spec(json!({})))],
            &[slice(json!([published]))],
            &["node:30080 Always [4:8080]", "10.43.0.9:80 Outside [4:8080]"],
        );
    }

    #[test]
    fn clients_inside_are_not_held_to_local_endpoints() {
        let slices = [slice(json!([endpoint("10.42.0.3", "there"), endpoint("10.42.0.2", "here")]))];
        let local = service(spec(json!({"externalTrafficPolicy": "Local"})));
        let ruleset = ruleset(&[local], &slices, Here { node: "here", zone: "" });
        let inside: Vec<(bool, usize, Masquerade)> =
            ruleset.inside.iter().map(|(f, t)| (f.is_node_port(), t.backends.len(), t.masquerade)).collect();
        assert_eq!(inside, [(true, 2, Masquerade::Outside)]);
    }

    #[test]
    fn without_endpoints_here_nothing_is_said() {
        let slices = [slice(json!([endpoint("10.42.0.3", "there")]))];
        let policies = json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"});
        check(
            &[service(spec(policies))],
            &slices,
            &["node:30080 Never elsewhere []", "10.43.0.9:80 Outside elsewhere []"],
        );
    }

    #[test]
    fn hints_keep_traffic_near() {
        let hinted = |ip: &str, hints: Value| json!({"addresses": [ip], "conditions": {"ready": true}, "hints": hints});
        let zone = |name: &str| json!({"forZones": [{"name": name}]});
        let served = |endpoints: Value, expect: &str| {
            let plain = json!({"type": "ClusterIP", "clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80}]});
            check(&[service(plain)], &[slice(endpoints)], &[&format!("10.43.0.9:80 Outside [{expect}]")]);
        };
        served(json!([hinted("10.42.0.2", zone("z1")), hinted("10.42.0.3", zone("z2"))]), "2:8080");
        served(json!([hinted("10.42.0.2", zone("z3")), hinted("10.42.0.3", zone("z2"))]), "2:8080 3:8080");
        served(json!([hinted("10.42.0.2", zone("z1")), hinted("10.42.0.3", json!({}))]), "2:8080 3:8080");
        let both = json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "here"}]});
        let other = json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "there"}]});
        served(json!([hinted("10.42.0.2", both), hinted("10.42.0.3", other.clone())]), "2:8080");
        served(json!([hinted("10.42.0.2", other.clone()), hinted("10.42.0.3", other)]), "2:8080 3:8080");
    }

    #[test]
    fn balancers_let_in_whom_they_may() {
        let balancer = json!({"metadata": {"namespace": "default", "name": "web"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80}],
                "loadBalancerSourceRanges": ["192.0.2.0/24 ", "fd00::/8"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1", "ipMode": "VIP"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}]}}});
        let balancer = [Arc::new(serde_json::from_value(balancer).unwrap())];
        let slices = [slice(json!([endpoint("10.42.0.2", "here")]))];
        check(&balancer, &slices, &["10.43.0.9:80 Outside [2:8080]", "198.51.100.1:80 Always [2:8080]"]);
        let ruleset = ruleset(&balancer, &slices, Here::default());
        let sources: Vec<String> =
            ruleset.frontends.values().flat_map(|target| &target.sources).map(Cidr::to_string).collect();
        assert_eq!(sources, ["192.0.2.0/24"]);
        assert_eq!(ready_here(&balancer[0], &slices, "here"), 1);
        assert_eq!(ready_here(&balancer[0], &slices, "there"), 0);
    }

    #[test]
    fn each_family_has_its_own_endpoints() {
        let six = json!({
            "metadata": {"namespace": "default", "name": "web-2", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv6", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
            "endpoints": [{"addresses": ["fd00:42::5"], "conditions": {"ready": true}}],
        });
        let slices =
            [slice(json!([endpoint("10.42.0.2", "here")])), Arc::new(serde_json::from_value(six.clone()).unwrap())];
        let both = json!({"clusterIPs": ["10.43.0.9", "fd00:43::9"], "externalIPs": ["2001:db8::7"]});
        let expected = [
            "node:30080 Always [2:8080]",
            "10.43.0.9:80 Outside [2:8080]",
            "node:30080 Always [5:8080]",
            "2001:db8::7:80 Always [5:8080]",
            "fd00:43::9:80 Outside [5:8080]",
        ];
        check(&[service(spec(both))], &slices, &expected);
        // A Service of one family is not served in the other, whatever else it names.
        let one = json!({"externalIPs": ["2001:db8::7"]});
        check(&[service(spec(one))], &slices, &expected[..2]);
    }

    #[test]
    fn what_is_remembered_is_what_would_be_worked_out_anew() {
        let mut memory = Memory::default();
        let services = [service(spec(json!({}))), service(spec(json!({"externalIPs": ["192.0.2.7"]})))];
        let slices = [
            slice(json!([endpoint("10.42.0.2", "here")])),
            slice(json!([endpoint("10.42.0.2", "here"), endpoint("10.42.0.3", "there")])),
        ];
        for (service, slice, zone) in [(0, 0, ""), (0, 0, ""), (0, 1, ""), (1, 1, ""), (1, 1, "z1"), (0, 0, "z1")] {
            let here = Here { node: "here", zone };
            let (service, slice) = (&services[service..=service], &slices[slice..=slice]);
            assert_eq!(memory.ruleset(service, slice, here), ruleset(service, slice, here));
        }
        assert_eq!(memory.ruleset(&[], &[], Here::default()), Ruleset::default());
        assert!(memory.services.is_empty());
    }

    #[test]
    fn services_of_other_proxies_are_left_alone() {
        let ready = slice(json!([endpoint("10.42.0.1", "here")]));
        let web = service(spec(json!({})));
        assert!(
            !ruleset(std::slice::from_ref(&web), std::slice::from_ref(&ready), Here::default()).frontends.is_empty()
        );
        for label in OF_OTHERS {
            let mut other = ServiceView::clone(&web);
            other.metadata.labels.insert(label.to_owned(), String::new());
            check(&[Arc::new(other)], std::slice::from_ref(&ready), &[]);
        }
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
