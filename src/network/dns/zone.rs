//! The cluster's own names, answered from the informers: Kubernetes DNS-Based Service Discovery 1.1.

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use naru_client::projections::{Endpoint, EndpointSliceView, NamespaceView, NodeView, ServicePort, ServiceView};
use naru_client::{IndexId, Informer};
use rand::seq::SliceRandom;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Seconds that a client may keep a cluster's name: short, since pods come and go.
const TTL: u32 = 5;
/// The version of the specification.
const SCHEMA_VERSION: &str = "1.1.0";
/// Marks the slices of headless Services.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// What the informers know of a question.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Lookup {
    /// These records.
    Found {
        /// The answer.
        answers: Vec<Record>,
        /// Addresses of the names in it.
        additionals: Vec<Record>,
    },
    /// Another name, to be looked up in turn.
    Alias(Box<Record>, Name),
    /// The name exists, without records of this type.
    NoData,
    /// There is no such name.
    NoName,
    /// Somebody else's name.
    NotOurs,
}

/// Where the answers come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// All Services.
    pub services: Informer<ServiceView>,
    /// All EndpointSlices.
    pub slices: Informer<EndpointSliceView>,
    /// All Namespaces.
    pub namespaces: Informer<NamespaceView>,
    /// All Nodes.
    pub nodes: Informer<NodeView>,
}

/// The cluster's zone and the addresses of its Services.
#[derive(Debug)]
pub(super) struct Zone {
    sources: Sources,
    apex: Name,
    /// Labels of the apex, from the left.
    domain: Vec<String>,
    /// Our own addresses, the name server's.
    servers: Vec<IpAddr>,
    slices_by_service: IndexId,
    services_by_address: IndexId,
    slices_by_address: IndexId,
}

impl Zone {
    pub(super) fn new(sources: Sources, apex: Name, servers: Vec<IpAddr>) -> Self {
        let slices_by_service = sources.slices.index(|slice| {
            let service = slice.service_name().map(|name| service_key(&slice.metadata.namespace, name));
            service.into_iter().collect()
        });
        let services_by_address = sources.services.index(|service| addresses_of(service).to_vec());
        let slices_by_address = sources.slices.index(|slice| {
            if !slice.metadata.labels.contains_key(HEADLESS) {
                return Vec::new();
            }
            slice.endpoints.iter().filter_map(|endpoint| endpoint.addresses.first().cloned()).collect()
        });
        let domain = labels(&apex).unwrap_or_default();
        Self { sources, apex, domain, servers, slices_by_service, services_by_address, slices_by_address }
    }

    /// The cluster's domain.
    pub(super) fn apex(&self) -> &Name {
        &self.apex
    }

    /// Whether all caches have been filled, by the server or with what an earlier process saw: before that nothing can be
    /// said not to exist.
    pub(super) fn is_known(&self) -> bool {
        let Sources { services, slices, namespaces, nodes } = &self.sources;
        services.is_known() && slices.is_known() && namespaces.is_known() && nodes.is_known()
    }

    /// Whether a name is one that the cluster might know: its own, an address, or a node's.
    pub(super) fn may_know(&self, name: &Name) -> bool {
        self.apex.zone_of(name) || name.num_labels() < 2 || reversed(name).is_some()
    }

    /// The record that says how long an absence may be remembered.
    pub(super) fn authority(&self) -> Record {
        let name = |host: &str| below(host, &self.apex).unwrap_or_else(|| self.apex.clone());
        let serial = 1;
        let soa = SOA::new(name("ns.dns"), name("hostmaster"), serial, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.apex.clone(), TTL, RData::SOA(soa))
    }

    /// Looks a name up. `name` is the question's, whose spelling the answers keep.
    pub(super) fn lookup(&self, name: &Name, kind: RecordType) -> Lookup {
        let Some(labels) = labels(name) else {
            return if self.apex.zone_of(name) { Lookup::NoName } else { Lookup::NotOurs };
        };
        let Some(rest) = labels.strip_suffix(self.domain.as_slice()) else {
            return self.foreign(name, &labels, kind);
        };
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        match rest.as_slice() {
            [] => self.apex_records(name, kind),
            ["dns-version"] if kind == RecordType::TXT => {
                found(vec![record(name, RData::TXT(TXT::new(vec![SCHEMA_VERSION.into()])))])
            }
            ["ns", "dns"] => addresses(name, kind, &self.servers),
            ["dns-version"] | ["dns"] | ["svc"] | ["pod"] => Lookup::NoData,
            [namespace, "svc" | "pod"] => match self.has_namespace(namespace) {
                true => Lookup::NoData,
                false => Lookup::NoName,
            },
            [address, namespace, "pod"] => self.pod(name, kind, address, namespace),
            [before @ .., service, namespace, "svc"] => match self.sources.services.get(namespace, service) {
                Some(service) => self.service(name, kind, &service, before),
                None => Lookup::NoName,
            },
            _ => Lookup::NoName,
        }
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        self.sources.namespaces.get("", namespace).is_some()
    }

    fn apex_records(&self, name: &Name, kind: RecordType) -> Lookup {
        match kind {
            RecordType::SOA => found(vec![self.authority()]),
            RecordType::NS => match below("ns.dns", &self.apex) {
                Some(server) => found(vec![record(name, RData::NS(NS(server)))]),
                None => Lookup::NoData,
            },
            _ => Lookup::NoData,
        }
    }

    /// `10-42-0-3.NAMESPACE.pod`: the name says the address; no pod need be there.
    fn pod(&self, name: &Name, kind: RecordType, address: &str, namespace: &str) -> Lookup {
        match undashed(address) {
            Some(address) if self.has_namespace(namespace) => addresses(name, kind, &[address]),
            _ => Lookup::NoName,
        }
    }

    /// A Service (`before` is empty), one of its ports, or one of its endpoints.
    fn service(&self, name: &Name, kind: RecordType, service: &ServiceView, before: &[&str]) -> Lookup {
        if service.spec.kind == "ExternalName" {
            return if before.is_empty() { external(name, kind, service) } else { Lookup::NoName };
        }
        let clusters: Vec<IpAddr> = addresses_of(service).iter().filter_map(|text| text.parse().ok()).collect();
        if clusters.is_empty() && !service.is_headless() {
            return Lookup::NoName;
        }
        match before {
            [] if kind == RecordType::SRV => self.ports(name, service, &clusters, None),
            [] if service.is_headless() => self.endpoints(name, kind, service, None),
            [] => addresses(name, kind, &clusters),
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                let wanted = Some((&port[1..], &protocol[1..]));
                match self.ports(name, service, &clusters, wanted) {
                    Lookup::Found { .. } if kind != RecordType::SRV => Lookup::NoData,
                    lookup => lookup,
                }
            }
            [protocol] if protocol.starts_with('_') => {
                let has = |port: &ServicePort| port.protocol.eq_ignore_ascii_case(&protocol[1..]);
                if service.spec.ports.iter().any(has) { Lookup::NoData } else { Lookup::NoName }
            }
            [host] => self.endpoints(name, kind, service, Some(host)),
            _ => Lookup::NoName,
        }
    }

    /// The addresses of a headless Service, or of the endpoints with one host name.
    fn endpoints(&self, name: &Name, kind: RecordType, service: &ServiceView, host: Option<&str>) -> Lookup {
        let mut found = BTreeSet::new();
        for slice in self.slices(service) {
            for (endpoint, address) in ready(&slice) {
                if host.is_none_or(|host| host_name(endpoint, address).eq_ignore_ascii_case(host)) {
                    found.insert(address);
                }
            }
        }
        // The specification wants NXDOMAIN, not an empty answer, for no ready endpoints.
        if found.is_empty() {
            return Lookup::NoName;
        }
        let mut found: Vec<IpAddr> = found.into_iter().collect();
        found.shuffle(&mut rand::rng());
        addresses(name, kind, &found)
    }

    /// SRV records of all ports, or of the one with this name and protocol.
    fn ports(&self, name: &Name, service: &ServiceView, clusters: &[IpAddr], wanted: Option<(&str, &str)>) -> Lookup {
        let meta = &service.metadata;
        let Some(parent) = below(&format!("{}.{}.svc", meta.name, meta.namespace), &self.apex) else {
            return Lookup::NoName;
        };
        let mut targets: BTreeSet<(Name, u16)> = BTreeSet::new();
        let mut hosts: BTreeSet<(Name, IpAddr)> = BTreeSet::new();
        if service.is_headless() {
            for slice in self.slices(service) {
                for port in slice.ports.iter().filter(|port| is_wanted(&port.name, &port.protocol, wanted)) {
                    let Some(number) = port.port else { continue };
                    for (endpoint, address) in ready(&slice) {
                        let Some(host) = below(&host_name(endpoint, address), &parent) else { continue };
                        hosts.insert((host.clone(), address));
                        targets.insert((host, number));
                    }
                }
            }
        } else {
            for port in service.spec.ports.iter().filter(|port| is_wanted(&port.name, &port.protocol, wanted)) {
                targets.insert((parent.clone(), port.port));
                hosts.extend(clusters.iter().map(|address| (parent.clone(), *address)));
            }
        }
        if targets.is_empty() {
            return Lookup::NoName;
        }
        let weight = u16::try_from(100 / targets.len()).unwrap_or_default().max(1);
        let answers = targets
            .into_iter()
            .map(|(target, port)| record(name, RData::SRV(SRV::new(0, weight, port, target))))
            .collect();
        let additionals = hosts.into_iter().map(|(host, address)| record(&host, address_data(address))).collect();
        Lookup::Found { answers, additionals }
    }

    fn slices(&self, service: &ServiceView) -> Vec<Arc<EndpointSliceView>> {
        let meta = &service.metadata;
        self.sources.slices.indexed(self.slices_by_service, &service_key(&meta.namespace, &meta.name))
    }

    /// Names outside the cluster's domain that the cluster knows: addresses, and nodes.
    fn foreign(&self, name: &Name, labels: &[String], kind: RecordType) -> Lookup {
        match labels {
            [.., zone, arpa] if arpa == "arpa" && (zone == "in-addr" || zone == "ip6") => self.reverse(name, kind),
            [node] => match self.sources.nodes.get("", node) {
                Some(node) => {
                    let internal = node.status.addresses.iter().filter(|address| address.kind == "InternalIP");
                    let found: Vec<IpAddr> = internal.filter_map(|address| address.address.parse().ok()).collect();
                    addresses(name, kind, &found)
                }
                None => Lookup::NotOurs,
            },
            _ => Lookup::NotOurs,
        }
    }

    fn reverse(&self, name: &Name, kind: RecordType) -> Lookup {
        let Some(address) = reversed(name) else { return Lookup::NotOurs };
        let text = address.to_string();
        let mut names = BTreeSet::new();
        for service in self.sources.services.indexed(self.services_by_address, &text) {
            names.insert(format!("{}.{}.svc", service.metadata.name, service.metadata.namespace));
        }
        if names.is_empty() {
            for slice in self.sources.slices.indexed(self.slices_by_address, &text) {
                let Some(service) = slice.service_name() else { continue };
                for (endpoint, _) in ready(&slice).filter(|(_, found)| *found == address) {
                    let host = host_name(endpoint, address);
                    names.insert(format!("{host}.{service}.{}.svc", slice.metadata.namespace));
                }
            }
        }
        let names: Vec<Name> = names.iter().filter_map(|text| below(text, &self.apex)).collect();
        match kind {
            // Another resolver may know the address.
            _ if names.is_empty() => Lookup::NotOurs,
            RecordType::PTR => found(names.into_iter().map(|to| record(name, RData::PTR(PTR(to)))).collect()),
            _ => Lookup::NoData,
        }
    }
}

/// A name's labels in lower case, from the left. `None` for those that are no text: no object has such a name.
fn labels(name: &Name) -> Option<Vec<String>> {
    name.iter().map(|label| std::str::from_utf8(label).map(str::to_ascii_lowercase).ok()).collect()
}

fn service_key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn addresses_of(service: &ServiceView) -> &[String] {
    match service.spec.cluster_ips.as_slice() {
        _ if service.is_headless() => &[],
        [] if !service.spec.cluster_ip.is_empty() => std::slice::from_ref(&service.spec.cluster_ip),
        all => all,
    }
}

fn external(name: &Name, kind: RecordType, service: &ServiceView) -> Lookup {
    let text = service.spec.external_name.trim_end_matches('.');
    if let Ok(address) = text.parse::<IpAddr>() {
        return addresses(name, kind, &[address]);
    }
    match absolute(text) {
        Some(target) => Lookup::Alias(Box::new(alias(name, &target)), target),
        None => Lookup::NoName,
    }
}

/// The endpoints of a slice that may be named, with their addresses.
fn ready(slice: &EndpointSliceView) -> impl Iterator<Item = (&Endpoint, IpAddr)> {
    let endpoints = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.is_ready());
    endpoints.filter_map(|endpoint| Some((endpoint, endpoint.addresses.first()?.parse().ok()?)))
}

/// The label below the Service under which an endpoint is found.
fn host_name(endpoint: &Endpoint, address: IpAddr) -> String {
    match endpoint.hostname.as_deref().filter(|host| !host.is_empty()) {
        Some(host) => host.to_owned(),
        None => address.to_string().replace(['.', ':'], "-"),
    }
}

/// Reads an address whose separators are dashes.
fn undashed(label: &str) -> Option<IpAddr> {
    label.replace('-', ".").parse().or_else(|_| label.replace('-', ":").parse()).ok()
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for, if it is a whole one.
fn reversed(name: &Name) -> Option<IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

fn is_wanted(name: &str, protocol: &str, wanted: Option<(&str, &str)>) -> bool {
    let protocol = if protocol.is_empty() { "TCP" } else { protocol };
    wanted.is_none_or(|(port, transport)| name == port && protocol.eq_ignore_ascii_case(transport))
}

/// Parses a name as absolute.
pub(super) fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn below(text: &str, parent: &Name) -> Option<Name> {
    Name::from_ascii(text).ok()?.append_domain(parent).ok()
}

/// One name stands for another.
pub(super) fn alias(name: &Name, target: &Name) -> Record {
    record(name, RData::CNAME(CNAME(target.clone())))
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn found(answers: Vec<Record>) -> Lookup {
    Lookup::Found { answers, additionals: Vec::new() }
}

/// The addresses of the family that was asked for. The name exists either way.
pub(super) fn addresses(name: &Name, kind: RecordType, all: &[IpAddr]) -> Lookup {
    let of_kind = |address: &&IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        _ => false,
    };
    let answers: Vec<Record> = all.iter().filter(of_kind).map(|address| record(name, address_data(*address))).collect();
    if answers.is_empty() { Lookup::NoData } else { found(answers) }
}
