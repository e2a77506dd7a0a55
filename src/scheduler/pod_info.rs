//! What the plugins read of a pod, worked out once.

use crate::resources::Resources;
use crate::terms::{PodAffinities, Spread};
use naru_client::projections::{NodeAffinity, NodeSelector, NodeTerm, PodView, Toleration};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
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
    /// The only nodes that its affinity allows by their names, if it names any.
    pub(crate) only_nodes: Option<BTreeSet<String>>,
    /// The same for pods that affinity and spread cannot tell apart.
    pub(crate) digest: u64,
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
        let only_nodes = node_affinity.required.as_ref().and_then(named_nodes);
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
            only_nodes,
            digest: digest(&pod),
            pod,
        }
    }

    /// Whether affinity and spread cannot tell the two apart.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let (own, theirs) = (&self.pod.metadata, &other.pod.metadata);
        own.namespace == theirs.namespace
            && own.labels == theirs.labels
            && own.controller().map(|owner| &owner.uid) == theirs.controller().map(|owner| &owner.uid)
            && self.pod.spec.affinity == other.pod.spec.affinity
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

fn digest(pod: &PodView) -> u64 {
    let mut hasher = DefaultHasher::new();
    let meta = &pod.metadata;
    meta.namespace.hash(&mut hasher);
    meta.labels.hash(&mut hasher);
    meta.controller().map(|owner| &owner.uid).hash(&mut hasher);
    pod.spec.affinity.as_deref().map(ToString::to_string).hash(&mut hasher);
    hasher.finish()
}

/// The nodes that a selector names; `None` if one of its terms leaves the name open.
fn named_nodes(selector: &NodeSelector) -> Option<BTreeSet<String>> {
    let of_term = |term: &NodeTerm| {
        let lists = term.match_fields.iter().filter(|field| field.key == "metadata.name" && field.operator == "In");
        let sets = lists.map(|field| field.values.iter().cloned().collect::<BTreeSet<String>>());
        sets.reduce(|one, other| &one & &other)
    };
    let mut all = BTreeSet::new();
    for term in &selector.node_selector_terms {
        all.extend(of_term(term)?);
    }
    Some(all)
}
