//! One decision: filter the nodes, score what is left, take the best.

use crate::cache::{Cache, NodeInfo};
use crate::plugins::{Context, PLUGINS, Refusers, Unfit};
use crate::pod_info::PodInfo;
use crate::terms::Spread;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// With more nodes than this, only a part of the feasible ones is scored.
const ALL_SCORED: usize = 100;
/// Nodes on which plugins are timed.
const TIMED: usize = 16;

/// Why a pod fits nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unschedulable {
    /// As users know it from the FailedScheduling event, without what was found about preemption.
    pub(crate) message: String,
    /// Nodes where it might help to remove pods.
    pub(crate) crowded: Vec<String>,
    /// How many nodes there are.
    pub(crate) nodes: usize,
    /// Whether the place of other pods has a part in it.
    pub(crate) by: Refusers,
    /// The plugins that gave reasons.
    pub(crate) plugins: Vec<&'static str>,
}

/// How long the steps of decisions took: the step, whether it came to something, and its time.
pub(crate) type Times = Vec<(&'static str, bool, Duration)>;

/// Whether a pod passes all filters on one node.
pub(crate) fn fits(context: &Context<'_>, info: &NodeInfo) -> Result<(), Unfit> {
    let Some(node) = &info.node else {
        return Err(Unfit { for_good: true, ..Unfit::default() });
    };
    PLUGINS.iter().try_for_each(|plugin| {
        let Some(filter) = plugin.filter else { return Ok(()) };
        filter(context, info, node).map_err(|unfit| Unfit { plugin: plugin.name, ..unfit })
    })
}

/// Chooses a node. `start` is where the look at a large number of nodes begins; it moves on, so that
/// all nodes get their turn. `tie` chooses among equals.
pub(crate) fn choose(
    pod: &PodInfo,
    cache: &mut Cache,
    start: &mut usize,
    tie: impl FnOnce(usize) -> usize,
    times: &mut Times,
) -> Result<String, Unschedulable> {
    let unfit_without = unfit_without_nominated(pod, cache);
    let kept = cache.keep_room(pod);
    let chosen = choose_among(pod, cache, &unfit_without, start, tie, times);
    cache.clear_room(&kept);
    chosen
}

/// Pods that room is kept for may never come to their nodes. So a pod that wants others near, or is spread with them,
/// must fit without them as well as beside them. Tells where it does not.
pub(crate) fn unfit_without_nominated(pod: &PodInfo, cache: &Cache) -> HashMap<String, Unfit> {
    let near = pod.pod_affinities.as_ref().is_some_and(|own| !own.near.required.is_empty());
    if !(near || pod.spread.iter().any(Spread::is_hard)) || !cache.has_room_to_keep(pod) {
        return HashMap::new();
    }
    let context = Context::new(pod, cache);
    let unfit = |(name, info): (&str, &NodeInfo)| Some((name.to_owned(), fits(&context, info).err()?));
    cache.nodes().filter_map(unfit).collect()
}

fn choose_among(
    pod: &PodInfo,
    cache: &Cache,
    unfit_without: &HashMap<String, Unfit>,
    start: &mut usize,
    tie: impl FnOnce(usize) -> usize,
    times: &mut Times,
) -> Result<String, Unschedulable> {
    let all = cache.node_count();
    if all == 0 {
        let message = "no nodes available to schedule pods".to_owned();
        let by = Refusers::default();
        return Err(Unschedulable { message, crowded: Vec::new(), nodes: 0, by, plugins: Vec::new() });
    }
    let nodes: Vec<_> = match &pod.only_nodes {
        Some(names) => names.iter().filter_map(|name| Some((name.as_str(), cache.node(name)?))).collect(),
        None => cache.nodes().collect(),
    };
    let begun = Instant::now();
    let mut context = Context::new(pod, cache);
    times.push(("PreFilter", true, begun.elapsed()));
    let fits = |context: &Context<'_>, name: &str, info: &NodeInfo| {
        fits(context, info)?;
        unfit_without.get(name).map_or(Ok(()), |unfit| Err(unfit.clone()))
    };
    // Room that was made for the pod is its own.
    let nominated = cache.nomination(pod.uid()).and_then(|node| Some((node, cache.node(node)?)));
    if let Some((name, _)) = nominated.filter(|(name, info)| fits(&context, name, info).is_ok()) {
        return Ok(name.to_owned());
    }
    let enough = enough(nodes.len());
    let (mut feasible, mut refusals, mut looked_at) = (Vec::new(), Refusals::default(), 0);
    let (mut crowded, mut by, mut plugins) = (Vec::new(), Refusers::default(), BTreeSet::new());
    let begun = Instant::now();
    for offset in 0..nodes.len() {
        let (name, info) = nodes[(*start + offset) % nodes.len()];
        looked_at += 1;
        match fits(&context, name, info) {
            Ok(()) => feasible.push((name, info)),
            Err(unfit) => {
                by = by.and(unfit.by);
                plugins.insert(unfit.plugin);
                if !unfit.for_good {
                    crowded.push(name.to_owned());
                }
                refusals.add(unfit);
            }
        }
        if feasible.len() >= enough {
            break;
        }
    }
    times.push(("Filter", !feasible.is_empty(), begun.elapsed()));
    *start = (*start + looked_at) % nodes.len().max(1);
    if feasible.is_empty() {
        refusals.add_times("node(s) didn't satisfy plugin(s) [NodeAffinity]", all - nodes.len());
        if nodes.len() < all {
            plugins.insert("NodeAffinity");
        }
        let message = format!("0/{all} nodes are available: {}.", refusals.text());
        return Err(Unschedulable { message, crowded, nodes: all, by, plugins: plugins.into_iter().collect() });
    }
    let totals = score(&mut context, cache, &feasible, times);
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

fn score<'a>(
    context: &mut Context<'a>,
    cache: &'a Cache,
    feasible: &[(&'a str, &'a NodeInfo)],
    times: &mut Times,
) -> Vec<i64> {
    let mut totals = vec![0; feasible.len()];
    if feasible.len() < 2 {
        return totals;
    }
    let begun = Instant::now();
    context.prepare_scores(cache, feasible);
    times.push(("PreScore", true, begun.elapsed()));
    let (begun, context) = (Instant::now(), &*context);
    for score in PLUGINS.iter().filter_map(|plugin| plugin.score) {
        let rate =
            |(_, info): &(&str, &NodeInfo)| info.node.as_ref().map_or(0, |node| (score.rate)(context, info, node));
        let raw: Vec<i64> = feasible.iter().map(rate).collect();
        for (total, scaled) in totals.iter_mut().zip(score.scale.apply(raw)) {
            *total += scaled * score.weight;
        }
    }
    times.push(("Score", true, begun.elapsed()));
    totals
}

/// Upstream's name of a plugin: two of ours are one there.
fn known_as(plugin: &'static str) -> &'static str {
    if plugin == "LeastAllocated" { "NodeResourcesFit" } else { plugin }
}

/// Runs the plugins on a few nodes once more, each by itself, and tells how long it took: the plugin, the step, whether
/// the node passed, and the time.
pub(crate) fn time_plugins(pod: &PodInfo, cache: &Cache) -> Vec<(&'static str, &'static str, bool, Duration)> {
    let mut told = Vec::new();
    let mut context = Context::new(pod, cache);
    let nodes: Vec<_> = cache.nodes().take(TIMED).collect();
    let mut feasible = Vec::new();
    for (name, info) in nodes {
        let Some(node) = &info.node else { continue };
        let passed = PLUGINS.iter().filter_map(|plugin| Some((plugin.name, plugin.filter?))).all(|(name, filter)| {
            let begun = Instant::now();
            let passed = filter(&context, info, node).is_ok();
            told.push((name, "Filter", passed, begun.elapsed()));
            passed
        });
        if passed {
            feasible.push((name, info));
        }
    }
    if feasible.len() > 1 {
        context.prepare_scores(cache, &feasible);
        for (name, score) in PLUGINS.iter().filter_map(|plugin| Some((plugin.name, plugin.score?))) {
            for (node, info) in feasible.iter().filter_map(|(_, info)| Some((info.node.as_ref()?, info))) {
                let begun = Instant::now();
                (score.rate)(&context, info, node);
                told.push((known_as(name), "Score", true, begun.elapsed()));
            }
        }
    }
    told
}

/// How often each reason was given.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    reasons: BTreeMap<String, usize>,
}

impl Refusals {
    /// Counts the reasons of one node.
    pub(crate) fn add(&mut self, unfit: Unfit) {
        for reason in unfit.reasons {
            self.add_times(&reason, 1);
        }
    }

    /// Counts a reason of several nodes.
    pub(crate) fn add_times(&mut self, reason: &str, times: usize) {
        if times > 0 {
            *self.reasons.entry(reason.to_owned()).or_default() += times;
        }
    }

    /// All reasons with their counts, as users know them.
    pub(crate) fn text(&self) -> String {
        let mut reasons: Vec<_> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort_unstable();
        reasons.join(", ")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::preemption::find;
    use crate::testing::{asking, bound, node, pod, tainted_node};
    use serde_json::json;
    use std::sync::Arc;

    fn run(pod: &PodInfo, cache: &mut Cache) -> Result<String, String> {
        choose(pod, cache, &mut 0, |_| 0, &mut Vec::new()).map_err(|refused| match refused.nodes {
            0 => refused.message,
            _ => format!("{} {}", refused.message, find(pod, cache, &refused, &[]).unwrap_err()),
        })
    }

    #[test]
    fn the_emptier_node_is_chosen() {
        let mut cache = Cache::default();
        cache.set_node(node("a", "4", "8Gi"));
        cache.set_node(node("b", "4", "8Gi"));
        cache.set_pod(bound(&asking("x", "1", "2Gi"), "a"));
        assert_eq!(run(&asking("p", "500m", "1Gi"), &mut cache).unwrap(), "b");
    }

    #[test]
    fn unloved_taints_outweigh_free_space() {
        let mut cache = Cache::default();
        cache.set_node(node("a", "4", "8Gi"));
        cache.set_pod(bound(&asking("x", "3", "6Gi"), "a"));
        cache.set_node(tainted_node("b", "PreferNoSchedule"));
        assert_eq!(run(&asking("p", "500m", "1Gi"), &mut cache).unwrap(), "a");
    }

    #[test]
    fn refusals_are_counted_by_reason_as_users_know_them() {
        let mut cache = Cache::default();
        let small = asking("p", "500m", "1Gi");
        assert_eq!(run(&small, &mut cache).unwrap_err(), "no nodes available to schedule pods");
        cache.set_node(node("a", "1", "8Gi"));
        cache.set_pod(bound(&asking("x", "1", "1Gi"), "a"));
        assert_eq!(
            run(&small, &mut cache).unwrap_err(),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: \
             1 No preemption victims found for incoming pod."
        );
        cache.set_node(tainted_node("b", "NoSchedule"));
        cache.set_node(tainted_node("c", "NoExecute"));
        assert_eq!(
            run(&small, &mut cache).unwrap_err(),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). \
             no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, \
             2 Preemption is not helpful for scheduling."
        );
    }

    #[test]
    fn tolerating_pods_go_to_tainted_nodes() {
        let mut cache = Cache::default();
        cache.set_node(tainted_node("b", "NoSchedule"));
        let tolerant = pod("p", json!({"tolerations": [{"operator": "Exists"}]}));
        assert_eq!(run(&PodInfo::new(Arc::new(tolerant)), &mut cache).unwrap(), "b");
    }

    #[test]
    fn nodes_that_the_affinity_does_not_name_are_counted_apart() {
        let mut cache = Cache::default();
        for name in ["a", "b", "c"] {
            cache.set_node(node(name, "1", "8Gi"));
        }
        let on = |name: &str| {
            let field = json!({"key": "metadata.name", "operator": "In", "values": [name]});
            let terms = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
            let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
            let container = json!({"name": "c", "resources": {"requests": {"cpu": "1"}}});
            PodInfo::new(Arc::new(pod("p", json!({"affinity": affinity, "containers": [container]}))))
        };
        assert_eq!(run(&on("b"), &mut cache).unwrap(), "b");
        cache.set_pod(bound(&asking("x", "1", "1Gi"), "b"));
        assert_eq!(
            run(&on("b"), &mut cache).unwrap_err(),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. \
             no new claims to deallocate, preemption: 0/3 nodes are available: \
             1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
        );
        assert!(
            run(&on("z"), &mut cache).unwrap_err().starts_with("0/3 nodes are available: 3 node(s) didn't satisfy")
        );
    }

    #[test]
    fn plugins_are_timed_under_the_names_that_dashboards_know() {
        let mut cache = Cache::default();
        cache.set_node(node("a", "4", "8Gi"));
        cache.set_node(node("b", "4", "8Gi"));
        cache.set_node(tainted_node("c", "NoSchedule"));
        let told = time_plugins(&asking("p", "500m", "1Gi"), &cache);
        let count = |plugin: &str, step: &str, passed: bool| {
            told.iter().filter(|(name, at, done, _)| (*name, *at, *done) == (plugin, step, passed)).count()
        };
        assert_eq!(count("NodeResourcesFit", "Filter", true), 2);
        assert_eq!(count("TaintToleration", "Filter", false), 1);
        assert_eq!(count("NodeResourcesFit", "Score", true), 2);
        assert_eq!(count("NodeResourcesBalancedAllocation", "Score", true), 2);
        assert_eq!(count("LeastAllocated", "Score", true), 0);
    }

    #[test]
    fn a_part_of_many_nodes_is_enough() {
        assert_eq!(enough(1), 1);
        assert_eq!(enough(100), 100);
        assert_eq!(enough(1000), 420);
        assert_eq!(enough(10_000), 500);
    }
}
