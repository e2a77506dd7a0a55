//! What proxy and DNS must know of the node's pods as they come and go: ports of the node that lead to them, and whose
//! addresses they have.

use crate::engine::EndpointGate;
use k8s_openapi::api::core::v1::Pod;
use naru_network::proxy::{Backend, Family, Frontend, Protocol};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The ports and addresses of all pods, by uid.
#[derive(Debug)]
pub(crate) struct HostPorts {
    gate: Arc<dyn EndpointGate>,
    pods: Mutex<BTreeMap<String, Known>>,
    /// Ports of the node that pods were let in with, by uid. A leaf lock.
    claims: Mutex<BTreeMap<String, Vec<Claim>>>,
}

/// A port of the node that a pod asks for; all addresses if it names none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    address: Option<String>,
    protocol: String,
    port: i32,
}

impl Claim {
    fn conflicts(&self, other: &Self) -> bool {
        let overlap = self.address.is_none() || other.address.is_none() || self.address == other.address;
        overlap && self.port == other.port && self.protocol == other.protocol
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    ports: Vec<(Frontend, Backend)>,
    /// Addresses and namespace, if its resolv.conf is the usual one.
    named: Vec<(IpAddr, String)>,
}

impl HostPorts {
    pub(crate) fn new(gate: Arc<dyn EndpointGate>) -> Self {
        Self { gate, pods: Mutex::default(), claims: Mutex::default() }
    }

    /// Lets a pod have the ports of the node that it asks for, unless another pod has one of them: somebody has
    /// passed the scheduler by.
    pub(crate) fn claim(&self, uid: &str, pod: &Pod) -> bool {
        let wanted = claims(pod);
        if wanted.is_empty() {
            return true;
        }
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let mut others = claims.iter().filter(|(other, _)| *other != uid).flat_map(|(_, held)| held);
        if others.any(|held| wanted.iter().any(|wanted| wanted.conflicts(held))) {
            return false;
        }
        claims.insert(uid.to_owned(), wanted);
        true
    }

    /// A pod is ending: whoever comes next may have its ports.
    pub(crate) fn release(&self, uid: &str) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// A pod has these addresses now; none once it has ended.
    pub(crate) fn set(&self, uid: &str, pod: &Pod, ips: &[IpAddr]) {
        if ips.is_empty() {
            self.release(uid);
        }
        let known = Known { ports: of(pod, ips), named: named(pod, ips) };
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let none = known == Known::default();
        let before = if none { pods.remove(uid) } else { pods.insert(uid.to_owned(), known.clone()) };
        let before = before.unwrap_or_default();
        if before.ports != known.ports {
            // The first pod to claim a port keeps it; the scheduler sends no second one.
            let mut all = BTreeMap::new();
            for (frontend, backend) in pods.values().flat_map(|known| &known.ports) {
                all.entry(*frontend).or_insert(*backend);
            }
            self.gate.set_host_ports(all);
        }
        if before.named != known.named {
            self.gate.set_namespaces(pods.values().flat_map(|known| known.named.iter().cloned()).collect());
        }
    }
}

fn claims(pod: &Pod) -> Vec<Claim> {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let address = port.host_ip.as_deref().filter(|ip| !matches!(*ip, "" | "0.0.0.0" | "::"));
            let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
            let number = port.host_port.filter(|port| *port != 0)?;
            Some(Claim { address: address.map(str::to_owned), protocol: protocol.to_owned(), port: number })
        })
        .collect()
}

/// The pod's addresses with its namespace, if it looks for names as most pods do.
fn named(pod: &Pod, ips: &[IpAddr]) -> Vec<(IpAddr, String)> {
    let usual = pod.spec.as_ref().is_some_and(|spec| {
        spec.host_network != Some(true)
            && matches!(spec.dns_policy.as_deref(), None | Some("ClusterFirst" | "ClusterFirstWithHostNet"))
            && spec.dns_config.is_none()
    });
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    ips.iter().filter(|_| usual).map(|ip| (*ip, namespace.to_owned())).collect()
}

/// What a pod asks for. One in the host's network has its ports already.
fn of(pod: &Pod, ips: &[IpAddr]) -> Vec<(Frontend, Backend)> {
    let Some(spec) = pod.spec.as_ref().filter(|s| s.host_network != Some(true)) else { return Vec::new() };
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ports = containers.flat_map(|c| c.ports.iter().flatten()).flat_map(|port| {
        ips.iter().filter_map(move |ip| {
            let family = Family::of(*ip);
            let asked = match port.host_ip.as_deref().unwrap_or_default() {
                "" => family.unspecified(),
                text => text.parse().ok().filter(|asked| Family::of(*asked) == family)?,
            };
            let number = |port: i32| u16::try_from(port).ok().filter(|port| *port != 0);
            let frontend = Frontend {
                address: asked,
                protocol: Protocol::parse(port.protocol.as_deref().unwrap_or_default())?,
                port: number(port.host_port?)?,
            };
            Some((frontend, Backend { address: *ip, port: number(port.container_port)? }))
        })
    });
    ports.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_port_of_the_node_is_one_pods() {
        let ports = HostPorts::new(Arc::new(crate::engine::NoGate));
        let pod = |ip: &str, protocol: &str| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080, "hostIP": ip, "protocol": protocol}]}]}}))
            .unwrap()
        };
        assert!(ports.claim("a", &pod("192.0.2.1", "TCP")) && ports.claim("a", &pod("192.0.2.1", "TCP")));
        assert!(ports.claim("b", &pod("192.0.2.2", "TCP")) && ports.claim("c", &pod("", "UDP")));
        assert!(!ports.claim("d", &pod("", "TCP")) && !ports.claim("d", &pod("192.0.2.2", "TCP")));
        ports.release("b");
        assert!(ports.claim("d", &pod("192.0.2.2", "TCP")));
        assert!(ports.claim("e", &Pod::default()));
    }

    #[test]
    fn ports_are_taken_with_address_and_protocol() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"},
            {"containerPort": 9}]}]}}))
        .unwrap();
        let ips: Vec<IpAddr> = ["10.42.0.7", "fd00:42::7"].map(|text| text.parse().unwrap()).to_vec();
        let port = |address: &str, protocol, port, to: IpAddr, number| {
            (Frontend { address: address.parse().unwrap(), protocol, port }, Backend { address: to, port: number })
        };
        assert_eq!(
            of(&pod, &ips),
            [
                port("0.0.0.0", Protocol::Tcp, 8080, ips[0], 80),
                port("::", Protocol::Tcp, 8080, ips[1], 80),
                port("192.0.2.1", Protocol::Udp, 53, ips[0], 53),
            ]
        );
        assert!(of(&pod, &[]).is_empty());
    }

    #[test]
    fn pods_with_searches_of_their_own_are_left_to_search() {
        let ip: IpAddr = "10.42.0.7".parse().unwrap();
        let count = |spec: serde_json::Value| {
            let pod = json!({"metadata": {"namespace": "ns"}, "spec": spec});
            named(&serde_json::from_value(pod).unwrap(), &[ip]).len()
        };
        assert_eq!(count(json!({"containers": []})), 1);
        assert_eq!(count(json!({"containers": [], "dnsConfig": {"searches": ["lan"]}})), 0);
        assert_eq!(count(json!({"containers": [], "dnsPolicy": "Default"})), 0);
        assert_eq!(count(json!({"containers": [], "hostNetwork": true})), 0);
    }
}
