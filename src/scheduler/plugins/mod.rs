//! The plugins, one file each, one line each in `PLUGINS`.

mod balanced_allocation;
mod image_locality;
mod inter_pod_affinity;
mod least_allocated;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
mod taint_toleration;

use crate::cache::{Cache, NodeInfo};
use crate::pod_info::PodInfo;
use naru_client::projections::NodeView;

/// The largest score of a node.
pub(crate) const MAX_SCORE: i64 = 100;

/// What the plugins read beside one node: the pod, and where the other pods are, counted once a decision.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) pod: &'a PodInfo,
    affinity: inter_pod_affinity::State<'a>,
    spread: pod_topology_spread::State<'a>,
}

impl<'a> Context<'a> {
    /// For the filters.
    pub(crate) fn new(pod: &'a PodInfo, cache: &'a Cache) -> Self {
        let affinity = inter_pod_affinity::State::new(pod, cache);
        let spread = pod_topology_spread::State::new(pod, cache);
        Self { pod, affinity, spread }
    }

    /// For the scores of the nodes that passed.
    pub(crate) fn prepare_scores(&mut self, cache: &'a Cache, feasible: &[(&'a str, &'a NodeInfo)]) {
        self.affinity.prepare_score(self.pod, cache);
        self.spread.prepare_score(self.pod, cache, feasible);
    }
}

/// Why a node does not do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// Each counts for the message.
    pub(crate) reasons: Vec<String>,
    /// Whether removing pods from the node could not help.
    pub(crate) for_good: bool,
    /// Whether pods on other nodes have a part in it.
    pub(crate) by_pods: bool,
}

impl Unfit {
    /// Removing pods from the node would not help.
    fn for_good(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], for_good: true, by_pods: false }
    }

    /// Other pods are in the way, wherever they are.
    fn by_pods(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], for_good: false, by_pods: true }
    }
}

/// How raw scores become 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// They are already.
    None,
    /// The highest becomes 100.
    HighestBest,
    /// The highest becomes 0.
    LowestBest,
    /// The lowest becomes 0, the highest 100.
    Range,
    /// The lowest becomes 100; what is negative is 0.
    Spread,
}

impl Scale {
    /// The scores of raw figures.
    pub(crate) fn apply(self, raw: Vec<i64>) -> Vec<i64> {
        let highest = raw.iter().max().copied().unwrap_or_default();
        let lowest = raw.iter().min().copied().unwrap_or_default();
        let scaled = |raw: i64| match self {
            Scale::None | Scale::Spread => raw,
            Scale::HighestBest if highest == 0 => 0,
            Scale::LowestBest if highest == 0 => MAX_SCORE,
            Scale::HighestBest => raw * MAX_SCORE / highest,
            Scale::LowestBest => MAX_SCORE - raw * MAX_SCORE / highest,
            Scale::Range if highest == lowest => 0,
            Scale::Range => (raw - lowest) * MAX_SCORE / (highest - lowest),
        };
        match self {
            Scale::Spread => pod_topology_spread::scale(&raw),
            _ => raw.into_iter().map(scaled).collect(),
        }
    }
}

/// How a plugin rates a node that does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Score {
    pub(crate) weight: i64,
    pub(crate) scale: Scale,
    pub(crate) rate: fn(&Context<'_>, &NodeInfo, &NodeView) -> i64,
}

type Filter = fn(&Context<'_>, &NodeInfo, &NodeView) -> Result<(), Unfit>;

/// One plugin. What it reads belongs to one node or to the context: an event about a node can help a pod only
/// if the pod now passes all filters on that node, unless other pods had a part in the refusal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plugin {
    pub(crate) name: &'static str,
    pub(crate) filter: Option<Filter>,
    pub(crate) score: Option<Score>,
}

/// All plugins; the first filter that refuses a node gives the reason.
pub(crate) static PLUGINS: &[Plugin] = &[
    node_unschedulable::PLUGIN,
    node_name::PLUGIN,
    taint_toleration::PLUGIN,
    node_affinity::PLUGIN,
    node_ports::PLUGIN,
    node_resources_fit::PLUGIN,
    pod_topology_spread::PLUGIN,
    inter_pod_affinity::PLUGIN,
    image_locality::PLUGIN,
    least_allocated::PLUGIN,
    balanced_allocation::PLUGIN,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_in_the_slice() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins");
        let files = std::fs::read_dir(directory).expect("the sources are there");
        assert_eq!(files.count(), PLUGINS.len() + 1, "one file for each plugin, and mod.rs");
        let mut names: Vec<_> = PLUGINS.iter().map(|plugin| plugin.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PLUGINS.len(), "names are unique");
    }
}
