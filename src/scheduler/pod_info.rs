//! What the plugins read of a pod, worked out once.

use crate::resources::Resources;
use naru_client::projections::{PodView, SelectorTerm, Toleration};
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

/// `spec.affinity.nodeAffinity`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub(crate) required: Option<NodeSelector>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    pub(crate) preferred: Vec<Preference>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSelector {
    pub(crate) node_selector_terms: Vec<NodeTerm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeTerm {
    pub(crate) match_expressions: Vec<SelectorTerm>,
    pub(crate) match_fields: Vec<SelectorTerm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Preference {
    pub(crate) weight: i64,
    pub(crate) preference: NodeTerm,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
}

impl PodInfo {
    pub(crate) fn new(pod: Arc<PodView>) -> Self {
        let affinity = pod.spec.affinity.as_deref().map(Affinity::deserialize);
        let node_affinity = affinity.and_then(Result::ok).and_then(|affinity| affinity.node_affinity);
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
            node_affinity: node_affinity.unwrap_or_default(),
            pod,
        }
    }

    pub(crate) fn uid(&self) -> &str {
        &self.pod.metadata.uid
    }

    pub(crate) fn priority(&self) -> i32 {
        self.pod.spec.priority.unwrap_or_default()
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        &self.pod.spec.tolerations
    }
}
