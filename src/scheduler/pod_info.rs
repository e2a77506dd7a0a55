//! What the plugins read of a pod, worked out once.

use crate::resources::Resources;
use crate::terms::{PodAffinities, Spread};
use naru_client::projections::{NodeAffinity, PodView, Toleration};
use serde::Deserialize;
use std::sync::Arc;

/// A pod with its derived figures.
#[derive(Debug)]
pub(crate) struct PodInfo {
    pub(crate) pod: Arc<PodView>,
    pub(crate) request: Resources,
    /// The request with defaults for containers that ask for nothing; used in scores only.
    pub(crate) nonzero: Resources,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) node_affinity: NodeAffinity,
    /// Likes and dislikes of other pods; most pods have none.
    pub(crate) pod_affinities: Option<Box<PodAffinities>>,
    pub(crate) spread: Vec<Spread>,
}

/// A port that a pod takes on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// Empty means all addresses.
    pub(crate) ip: String,
    pub(crate) protocol: String,
    pub(crate) port: u16,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        let all = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || all(&self.ip) || all(&other.ip))
    }
}

impl PodInfo {
    pub(crate) fn new(pod: Arc<PodView>) -> Self {
        let node_affinity = NodeAffinity::of(pod.spec.affinity.as_deref());
        // The API has validated both: what cannot be read here is not there.
        let affinities = pod.spec.affinity.as_deref().map(PodAffinities::deserialize).and_then(Result::ok);
        let spread = pod.spec.topology_spread_constraints.as_deref().map(Vec::deserialize).and_then(Result::ok);
        let containers = pod.spec.containers.iter();
        let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy == "Always");
        let ports = containers
            .chain(sidecars)
            .flat_map(|container| &container.ports)
            .filter(|port| port.host_port != 0)
            .map(|port| HostPort {
                ip: port.host_ip.clone(),
                protocol: match port.protocol.as_str() {
                    "" => "TCP".to_owned(),
                    protocol => protocol.to_owned(),
                },
                port: port.host_port,
            })
            .collect();
        Self {
            request: Resources::of_pod(&pod),
            nonzero: Resources::of_pod_nonzero(&pod),
            ports,
            node_affinity,
            pod_affinities: affinities.filter(|affinities| !affinities.is_empty()).map(Box::new),
            spread: spread.unwrap_or_default(),
            pod,
        }
    }

    pub(crate) fn uid(&self) -> &str {
        &self.pod.metadata.uid
    }

    pub(crate) fn priority(&self) -> i32 {
        self.pod.spec.priority.unwrap_or_default()
    }

    /// Whether it demands anything of where other pods are.
    pub(crate) fn minds_other_pods(&self) -> bool {
        let demands = |own: &PodAffinities| !(own.near.required.is_empty() && own.apart.required.is_empty());
        self.pod_affinities.as_deref().is_some_and(demands) || self.spread.iter().any(Spread::is_hard)
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        &self.pod.spec.tolerations
    }
}
