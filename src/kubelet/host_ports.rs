//! Ports of the node that lead to its pods, told to the service proxy as pods come and go.

use crate::engine::EndpointGate;
use k8s_openapi::api::core::v1::Pod;
use naru_network::proxy::{Backend, Frontend, Protocol};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The ports of all pods, by uid.
#[derive(Debug)]
pub(crate) struct HostPorts {
    gate: Arc<dyn EndpointGate>,
    pods: Mutex<BTreeMap<String, Vec<(Frontend, Backend)>>>,
}

impl HostPorts {
    pub(crate) fn new(gate: Arc<dyn EndpointGate>) -> Self {
        Self { gate, pods: Mutex::default() }
    }

    /// A pod has these addresses now; none once it has ended.
    pub(crate) fn set(&self, uid: &str, pod: &Pod, ips: &[IpAddr]) {
        let ports = of(pod, ips);
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let before = if ports.is_empty() { pods.remove(uid) } else { pods.insert(uid.to_owned(), ports.clone()) };
        if before.unwrap_or_default() != ports {
            // The first pod to claim a port keeps it; the scheduler sends no second one.
            let mut all = BTreeMap::new();
            for (frontend, backend) in pods.values().flatten() {
                all.entry(*frontend).or_insert(*backend);
            }
            self.gate.set_host_ports(all);
        }
    }
}

/// What a pod asks for. One in the host's network has its ports already.
fn of(pod: &Pod, ips: &[IpAddr]) -> Vec<(Frontend, Backend)> {
    let Some(spec) = pod.spec.as_ref().filter(|s| s.host_network != Some(true)) else { return Vec::new() };
    let Some(IpAddr::V4(address)) = ips.iter().find(|ip| ip.is_ipv4()).copied() else { return Vec::new() };
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ports = containers.flat_map(|c| c.ports.iter().flatten()).filter_map(|port| {
        let host_ip = match port.host_ip.as_deref().unwrap_or_default() {
            "" | "0.0.0.0" => None,
            text => Some(text.parse::<Ipv4Addr>().ok()?),
        };
        let number = |port: i32| u16::try_from(port).ok().filter(|port| *port != 0);
        let frontend = Frontend {
            address: host_ip,
            protocol: Protocol::parse(port.protocol.as_deref().unwrap_or_default())?,
            port: number(port.host_port?)?,
        };
        Some((frontend, Backend { address, port: number(port.container_port)? }))
    });
    ports.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_taken_with_address_and_protocol() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"},
            {"containerPort": 9}]}]}}))
        .unwrap();
        let address = Ipv4Addr::new(10, 42, 0, 7);
        let frontend = |address, protocol, port| Frontend { address, protocol, port };
        assert_eq!(
            of(&pod, &[address.into()]),
            [
                (frontend(None, Protocol::Tcp, 8080), Backend { address, port: 80 }),
                (frontend(Some(Ipv4Addr::new(192, 0, 2, 1)), Protocol::Udp, 53), Backend { address, port: 53 }),
            ]
        );
        assert!(of(&pod, &[]).is_empty());
    }
}
