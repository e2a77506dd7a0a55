//! The plugins, one file each, one line each in `PLUGINS`.

mod balanced_allocation;
mod least_allocated;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod taint_toleration;

use crate::cache::NodeInfo;
use crate::pod_info::PodInfo;
use naru_client::projections::NodeView;

/// The largest score of a node.
pub(crate) const MAX_SCORE: i64 = 100;

/// Why a node does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// Each counts for the message.
    pub(crate) reasons: Vec<String>,
    /// Whether removing pods from the node could not help.
    pub(crate) for_good: bool,
}

impl Unfit {
    /// Removing pods from the node would not help.
    fn for_good(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], for_good: true }
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
}

/// How a plugin rates a node that does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Score {
    pub(crate) weight: i64,
    pub(crate) scale: Scale,
    pub(crate) rate: fn(&PodInfo, &NodeInfo, &NodeView) -> i64,
}

type Filter = fn(&PodInfo, &NodeInfo, &NodeView) -> Result<(), Unfit>;

/// One plugin. Whatever it reads belongs to one node, so an event about a node can help a pod only
/// if the pod now passes all filters on that node.
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
