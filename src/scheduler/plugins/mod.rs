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
use std::borrow::Cow;

/// The largest score of a node.
pub(crate) const MAX_SCORE: i64 = 100;

/// What the plugins read beside one node: the pod, and where the other pods are, counted once a decision.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) pod: &'a PodInfo,
    cache: &'a Cache,
    affinity: inter_pod_affinity::State<'a>,
    spread: pod_topology_spread::State<'a>,
}

impl<'a> Context<'a> {
    /// For the filters.
    pub(crate) fn new(pod: &'a PodInfo, cache: &'a Cache) -> Self {
        let affinity = inter_pod_affinity::State::new(pod, cache);
        let spread = pod_topology_spread::State::new(pod, cache);
        Self { pod, cache, affinity, spread }
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
    pub(crate) reasons: Vec<Cow<'static, str>>,
    /// Whether removing pods from the node could not help.
    pub(crate) for_good: bool,
    /// Who it was that refused the node, if the place of other pods had a part in it.
    pub(crate) by: Refusers,
    /// The plugin that gave the reasons; said by who asks them all.
    pub(crate) plugin: &'static str,
}

/// Which of the plugins that look at other nodes too have refused a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Refusers {
    pub(crate) affinity: bool,
    pub(crate) spread: bool,
}

impl Refusers {
    pub(crate) fn and(self, other: Self) -> Self {
        Self { affinity: self.affinity || other.affinity, spread: self.spread || other.spread }
    }
}

impl Unfit {
    /// Removing pods from the node would not help.
    fn for_good(reason: &'static str) -> Self {
        Self { reasons: vec![reason.into()], for_good: true, ..Self::default() }
    }

    /// The node is too full, or others have what the pod needs.
    fn for_now(reason: &'static str) -> Self {
        Self { reasons: vec![reason.into()], ..Self::default() }
    }

    /// Other pods are in the way, or missing, wherever they are.
    fn by_affinity(reason: &'static str) -> Self {
        Self { by: Refusers { affinity: true, spread: false }, ..Self::for_now(reason) }
    }

    /// The pods of its kind would not be spread well.
    fn by_spread(reason: &'static str) -> Self {
        Self { by: Refusers { affinity: false, spread: true }, ..Self::for_now(reason) }
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
/// if the pod now passes all filters on that node, unless other pods had a part in the refusal (`hints`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plugin {
    pub(crate) name: &'static str,
    /// Whether and why not a node does. Those that read nothing but the node come first in `PLUGINS`.
    pub(crate) filter: Option<Filter>,
    pub(crate) score: Option<Score>,
}

/// All plugins; the first filter that refuses a node gives the reason. From PodTopologySpread on they read more
/// than the one node.
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

/// Whether a pod passes those filters on a node that read nothing but the node.
pub(crate) fn fits_alone(pod: &PodInfo, info: &NodeInfo) -> bool {
    let empty = Cache::default();
    let Some(node) = &info.node else { return false };
    let context = Context { pod, cache: &empty, affinity: Default::default(), spread: Default::default() };
    let mut alone = PLUGINS.iter().take_while(|plugin| plugin.name != pod_topology_spread::PLUGIN.name);
    alone.all(|plugin| plugin.filter.is_none_or(|filter| filter(&context, info, node).is_ok()))
}

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
