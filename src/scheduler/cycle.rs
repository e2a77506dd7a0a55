//! One decision: filter the nodes, score what is left, take the best.

use crate::cache::{Cache, NodeInfo};
use crate::plugins::{MAX_SCORE, PLUGINS, Scale, Unfit};
use crate::pod_info::PodInfo;
use std::collections::BTreeMap;

/// With more nodes than this, only a part of the feasible ones is scored.
const ALL_SCORED: usize = 100;

/// Why a pod fits nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unschedulable {
    /// As users know it from the FailedScheduling event.
    pub(crate) message: String,
}

/// Whether a pod passes all filters on one node.
pub(crate) fn fits(pod: &PodInfo, info: &NodeInfo) -> Result<(), Unfit> {
    let Some(node) = &info.node else {
        return Err(Unfit { reasons: Vec::new(), for_good: true });
    };
    PLUGINS.iter().try_for_each(|plugin| {
        let Some(filter) = plugin.filter else { return Ok(()) };
        filter(pod, info, node).inspect_err(|unfit| {
            tracing::trace!(plugin = plugin.name, node = node.metadata.name, ?unfit, "refused");
        })
    })
}

/// Chooses a node. `start` is where the look at a large number of nodes begins; it moves on, so that
/// all nodes get their turn. `tie` chooses among equals.
pub(crate) fn choose(
    pod: &PodInfo,
    cache: &Cache,
    start: &mut usize,
    tie: impl FnOnce(usize) -> usize,
) -> Result<String, Unschedulable> {
    let nodes: Vec<_> = cache.nodes().collect();
    if nodes.is_empty() {
        return Err(Unschedulable { message: "no nodes available to schedule pods".to_owned() });
    }
    let enough = enough(nodes.len());
    let (mut feasible, mut refusals, mut looked_at) = (Vec::new(), Refusals::default(), 0);
    for offset in 0..nodes.len() {
        let (name, info) = nodes[(*start + offset) % nodes.len()];
        looked_at += 1;
        match fits(pod, info) {
            Ok(()) => feasible.push((name, info)),
            Err(unfit) => refusals.add(unfit),
        }
        if feasible.len() >= enough {
            break;
        }
    }
    *start = (*start + looked_at) % nodes.len();
    if feasible.is_empty() {
        return Err(Unschedulable { message: refusals.message(nodes.len()) });
    }
    let totals = score(pod, &feasible);
    let best = totals.iter().max().copied().unwrap_or_default();
    let equals: Vec<_> = (0..totals.len()).filter(|index| totals[*index] == best).collect();
    Ok(feasible[equals[tie(equals.len()) % equals.len()]].0.to_owned())
}

/// How many feasible nodes are enough: all of few, a falling share of many.
fn enough(nodes: usize) -> usize {
    if nodes <= ALL_SCORED {
        return nodes;
    }
    let percent = (50_usize.saturating_sub(nodes / 125)).max(5);
    (nodes * percent / 100).max(ALL_SCORED)
}

fn score(pod: &PodInfo, feasible: &[(&str, &NodeInfo)]) -> Vec<i64> {
    let mut totals = vec![0; feasible.len()];
    if feasible.len() < 2 {
        return totals;
    }
    for score in PLUGINS.iter().filter_map(|plugin| plugin.score) {
        let rate = |(_, info): &(&str, &NodeInfo)| info.node.as_ref().map_or(0, |node| (score.rate)(pod, info, node));
        let raw: Vec<i64> = feasible.iter().map(rate).collect();
        let highest = raw.iter().max().copied().unwrap_or_default();
        for (total, raw) in totals.iter_mut().zip(raw) {
            let scaled = match score.scale {
                Scale::None => raw,
                Scale::HighestBest if highest == 0 => 0,
                Scale::LowestBest if highest == 0 => MAX_SCORE,
                Scale::HighestBest => raw * MAX_SCORE / highest,
                Scale::LowestBest => MAX_SCORE - raw * MAX_SCORE / highest,
            };
            *total += scaled * score.weight;
        }
    }
    totals
}

/// How often each reason was given.
#[derive(Default)]
struct Refusals {
    reasons: BTreeMap<String, usize>,
    for_good: usize,
    others: usize,
}

impl Refusals {
    fn add(&mut self, unfit: Unfit) {
        if unfit.for_good {
            self.for_good += 1;
        } else {
            self.others += 1;
        }
        for reason in unfit.reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    fn message(&self, nodes: usize) -> String {
        let mut reasons: Vec<_> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort_unstable();
        let mut helpless = Vec::new();
        if self.others > 0 {
            helpless.push(format!("{} No preemption victims found for incoming pod", self.others));
        }
        if self.for_good > 0 {
            helpless.push(format!("{} Preemption is not helpful for scheduling", self.for_good));
        }
        helpless.sort_unstable();
        format!(
            "0/{nodes} nodes are available: {}. preemption: 0/{nodes} nodes are available: {}.",
            reasons.join(", "),
            helpless.join(", ")
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::testing::{asking, bound, node, pod, tainted_node};
    use serde_json::json;
    use std::sync::Arc;

    fn run(pod: &PodInfo, cache: &Cache) -> Result<String, String> {
        choose(pod, cache, &mut 0, |_| 0).map_err(|unschedulable| unschedulable.message)
    }

    #[test]
    fn the_emptier_node_is_chosen() {
        let mut cache = Cache::default();
        cache.set_node(node("a", "4", "8Gi"));
        cache.set_node(node("b", "4", "8Gi"));
        cache.set_pod(bound(&asking("x", "1", "2Gi"), "a"));
        assert_eq!(run(&asking("p", "500m", "1Gi"), &cache).unwrap(), "b");
    }

    #[test]
    fn unloved_taints_outweigh_free_space() {
        let mut cache = Cache::default();
        cache.set_node(node("a", "4", "8Gi"));
        cache.set_pod(bound(&asking("x", "3", "6Gi"), "a"));
        cache.set_node(tainted_node("b", "PreferNoSchedule"));
        assert_eq!(run(&asking("p", "500m", "1Gi"), &cache).unwrap(), "a");
    }

    #[test]
    fn refusals_are_counted_by_reason_as_users_know_them() {
        let mut cache = Cache::default();
        let small = asking("p", "500m", "1Gi");
        assert_eq!(run(&small, &cache).unwrap_err(), "no nodes available to schedule pods");
        cache.set_node(node("a", "1", "8Gi"));
        cache.set_pod(bound(&asking("x", "1", "1Gi"), "a"));
        assert_eq!(
            run(&small, &cache).unwrap_err(),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
             1 No preemption victims found for incoming pod."
        );
        cache.set_node(tainted_node("b", "NoSchedule"));
        cache.set_node(tainted_node("c", "NoExecute"));
        assert_eq!(
            run(&small, &cache).unwrap_err(),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). \
             preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, \
             2 Preemption is not helpful for scheduling."
        );
    }

    #[test]
    fn tolerating_pods_go_to_tainted_nodes() {
        let mut cache = Cache::default();
        cache.set_node(tainted_node("b", "NoSchedule"));
        let tolerant = pod("p", json!({"tolerations": [{"operator": "Exists"}]}));
        assert_eq!(run(&PodInfo::new(Arc::new(tolerant)), &cache).unwrap(), "b");
    }

    #[test]
    fn a_part_of_many_nodes_is_enough() {
        assert_eq!(enough(1), 1);
        assert_eq!(enough(100), 100);
        assert_eq!(enough(1000), 420);
        assert_eq!(enough(10_000), 500);
    }
}
