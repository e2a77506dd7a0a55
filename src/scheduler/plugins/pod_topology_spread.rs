//! PodTopologySpread: pods of a kind spread evenly over zones, nodes or whatever label is named.

use super::node_affinity::admits;
use super::taint_toleration::tolerates_all;
use super::{MAX_SCORE, Plugin, Scale, Score, Unfit};
use crate::cache::{Cache, HOST, NodeInfo, ZONE};
use crate::kinds::Marks;
use crate::pod_info::PodInfo;
use crate::terms::Spread;
use naru_client::projections::{NodeView, PodView};
use std::collections::HashMap;
use std::sync::LazyLock;

/// The wishes of a pod that states none, but is one of a controller's or of a Service's.
static USUAL: LazyLock<[Spread; 2]> = LazyLock::new(|| [Spread::wish(HOST, 3), Spread::wish(ZONE, 5)]);

pub(super) const PLUGIN: Plugin = Plugin {
    name: "PodTopologySpread",
    filter: Some(|context, info, _| context.spread.admits(info)),
    score: Some(Score { weight: 2, scale: Scale::Spread, rate: |context, info, _| context.spread.rate(info) }),
};

/// One demand, counted over the nodes.
#[derive(Debug)]
struct Demand<'a> {
    spread: &'a Spread,
    /// Pods that count, by the label's value.
    domains: HashMap<&'a str, i64>,
    fewest: i64,
    /// 1 if the pod itself counts.
    itself: i64,
}

/// One wish, counted over the nodes.
#[derive(Debug)]
struct Wish<'a> {
    spread: &'a Spread,
    domains: HashMap<&'a str, i64>,
    /// Evens out labels of few and of many values.
    weight: f64,
    /// The kinds of pods that count.
    marks: Option<Marks>,
}

/// Demands and wishes of the pod to be placed.
#[derive(Debug, Default)]
pub(crate) struct State<'a> {
    demands: Vec<Demand<'a>>,
    wishes: Vec<Wish<'a>>,
    /// Whether nodes without one of the labels are the least liked: so for the pod's own wishes.
    needs_labels: bool,
}

impl<'a> State<'a> {
    pub(crate) fn new(pod: &'a PodInfo, cache: &'a Cache) -> Self {
        let hard: Vec<&Spread> = pod.spread.iter().filter(|spread| spread.is_hard()).collect();
        let labelled = |info: &NodeInfo| hard.iter().all(|spread| info.label(&spread.topology_key).is_some());
        let demand = |spread: &&'a Spread| {
            let mut domains: HashMap<&str, i64> = HashMap::new();
            let marks = marks(spread, pod, cache);
            for (info, _) in cache.known_nodes().filter(|(info, node)| labelled(info) && includes(spread, pod, node)) {
                if let Some(value) = info.label(&spread.topology_key) {
                    *domains.entry(value).or_default() += count(marks.as_ref(), info);
                }
            }
            let enough = domains.len() >= spread.min_domains.unwrap_or(1);
            let fewest = if enough { domains.values().min().copied().unwrap_or_default() } else { 0 };
            Demand { spread, domains, fewest, itself: spread.selects(&pod.pod).into() }
        };
        let demands = hard.iter().map(demand).collect();
        Self { demands, ..Self::default() }
    }

    fn admits(&self, info: &NodeInfo) -> Result<(), Unfit> {
        for demand in &self.demands {
            let Some(value) = info.label(&demand.spread.topology_key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Unfit::for_good(reason));
            };
            let here = demand.domains.get(value).copied().unwrap_or_default();
            if here + demand.itself - demand.fewest > demand.spread.max_skew {
                return Err(Unfit::by_spread("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }

    /// Counts for the wishes: the pod's own, or else those that every controller's pod has.
    pub(crate) fn prepare_score(&mut self, pod: &'a PodInfo, cache: &'a Cache, feasible: &[(&'a str, &'a NodeInfo)]) {
        let own: Vec<&Spread> = pod.spread.iter().filter(|spread| !spread.is_hard()).collect();
        self.needs_labels = !own.is_empty();
        let wishes = match own.is_empty() {
            false => own,
            true if pod.spread.is_empty() && has_usual_wishes(pod, cache) => USUAL.iter().collect(),
            true => return,
        };
        let labelled = |info: &NodeInfo| {
            !self.needs_labels || wishes.iter().all(|spread| info.label(&spread.topology_key).is_some())
        };
        let mut counted = Vec::with_capacity(wishes.len());
        for spread in wishes.iter().copied() {
            let marks = marks(spread, pod, cache);
            let feasible = feasible.iter().map(|(_, info)| *info).filter(|info| labelled(info));
            // Of host names there is one a node: those are counted when a node is rated.
            if spread.topology_key == HOST {
                let weight = (feasible.count() as f64 + 2.0).ln();
                counted.push(Wish { spread, domains: HashMap::new(), weight, marks });
                continue;
            }
            let values = feasible.filter_map(|info| info.label(&spread.topology_key));
            let mut domains: HashMap<&str, i64> = values.map(|value| (value, 0)).collect();
            let weight = (domains.len() as f64 + 2.0).ln();
            for (info, _) in cache.known_nodes().filter(|(info, node)| labelled(info) && includes(spread, pod, node)) {
                if let Some(total) = info.label(&spread.topology_key).and_then(|value| domains.get_mut(value)) {
                    *total += count(marks.as_ref(), info);
                }
            }
            counted.push(Wish { spread, domains, weight, marks });
        }
        self.wishes = counted;
    }

    /// How crowded a node's places are; -1 for a node without them.
    fn rate(&self, info: &NodeInfo) -> i64 {
        let mut crowd = 0.0;
        for wish in &self.wishes {
            let Some(value) = info.label(&wish.spread.topology_key) else {
                if self.needs_labels {
                    return -1;
                }
                continue;
            };
            let here = match wish.spread.topology_key == HOST {
                true => count(wish.marks.as_ref(), info),
                false => wish.domains.get(value).copied().unwrap_or_default(),
            };
            crowd += here as f64 * wish.weight + (wish.spread.max_skew - 1) as f64;
        }
        crowd.round() as i64
    }
}

/// Raw figures as scores: the least crowded is liked best, a node without the labels not at all.
pub(crate) fn scale(raw: &[i64]) -> Vec<i64> {
    let rated = || raw.iter().copied().filter(|rate| *rate >= 0);
    let (low, high) = (rated().min().unwrap_or_default(), rated().max().unwrap_or_default());
    let scaled = |rate: &i64| match *rate {
        ..0 => 0,
        _ if high == 0 => MAX_SCORE,
        rate => MAX_SCORE * (high + low - rate) / high,
    };
    raw.iter().map(scaled).collect()
}

/// Whether a node's pods count at all.
fn includes(spread: &Spread, pod: &PodInfo, node: &NodeView) -> bool {
    (spread.ignores_affinity() || admits(pod, node))
        && (!spread.honours_taints() || tolerates_all(pod.tolerations(), &node.spec.taints))
}

/// The kinds of pods that count: by the selector, or, in a wish that was not stated, those that the pod's Services
/// select and that have the same controller.
fn marks(spread: &Spread, pod: &PodInfo, cache: &Cache) -> Option<Marks> {
    let own = &pod.pod.metadata.namespace;
    if !spread.is_usual() {
        return cache.kinds.mark(|other| other.pod.metadata.namespace == *own && spread.selects(&other.pod));
    }
    let (labels, controller) = (cache.selected_by_services(pod), set_of(&pod.pod));
    let selected = |other: &PodView| {
        labels.iter().all(|(key, value)| other.metadata.labels.get(*key).is_some_and(|have| have == value))
    };
    cache.kinds.mark(|other| {
        let other = &other.pod;
        other.metadata.namespace == *own
            && selected(other)
            && (controller.is_none() || other.metadata.controller().map(|owner| owner.uid.as_str()) == controller)
    })
}

/// The pods of a node that count. Pods that are being deleted are on their way out.
fn count(marks: Option<&Marks>, info: &NodeInfo) -> i64 {
    let Some(marks) = marks else { return 0 };
    let marked = info.kinds.iter().filter(|count| marks[count.kind as usize]);
    marked.map(|count| i64::from(count.pods - count.leaving)).sum()
}

/// Whether a pod that states no wishes has the usual ones.
fn has_usual_wishes(pod: &PodInfo, cache: &Cache) -> bool {
    set_of(&pod.pod).is_some() || !cache.selected_by_services(pod).is_empty()
}

/// The uid of the set that a pod is one of. Other controllers' pods belong together by their Services alone.
fn set_of(pod: &PodView) -> Option<&str> {
    let sets = ["ReplicaSet", "ReplicationController", "StatefulSet"];
    let owner = pod.metadata.controller().filter(|owner| sets.contains(&owner.kind.as_str()))?;
    Some(&owner.uid)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::testing::{labelled_node, labelled_pod, placed};
    use serde_json::{Value, json};

    fn constraint(key: &str, more: Value) -> Value {
        let mut constraint = json!({
            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}},
        });
        constraint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "topologySpreadConstraints": [constraint] })
    }

    /// Two pods in zone a, one in zone b, and a node without a zone.
    fn cluster() -> Cache {
        let mut cache = Cache::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
            cache.set_node(labelled_node(name, &[("zone", zone), (HOST, name)]));
        }
        cache.set_node(labelled_node("bare", &[]));
        cache.set_pod(placed("1", "web", json!({}), "a1"));
        cache.set_pod(placed("2", "web", json!({}), "a2"));
        cache.set_pod(placed("3", "web", json!({}), "b1"));
        cache.set_pod(placed("4", "other", json!({}), "b1"));
        cache
    }

    fn check(cache: &Cache, spec: Value, expected: &[&str]) {
        let pod = labelled_pod("p", "web", spec.clone());
        let state = State::new(&pod, cache);
        let admitted: Vec<&str> =
            cache.nodes().filter(|(_, info)| state.admits(info).is_ok()).map(|(n, _)| n).collect();
        assert_eq!(admitted, expected, "{spec}");
    }

    #[test]
    fn the_skew_is_kept() {
        let mut cache = cluster();
        check(&cache, constraint("zone", json!({})), &["b1"]);
        check(&cache, constraint("zone", json!({"maxSkew": 2})), &["a1", "a2", "b1"]);
        check(&cache, constraint(HOST, json!({})), &["a1", "a2", "b1"]);
        // Fewer places than wanted: the emptiest counts as empty.
        check(&cache, constraint("zone", json!({"minDomains": 3})), &[]);
        cache.set_node(labelled_node("c1", &[("zone", "c"), (HOST, "c1")]));
        check(&cache, constraint("zone", json!({})), &["c1"]);
        check(&cache, constraint("zone", json!({"minDomains": 3})), &["c1"]);
    }

    #[test]
    fn pods_on_their_way_out_do_not_count() {
        let mut cache = cluster();
        let mut leaving = (*placed("1", "web", json!({}), "a1").pod).clone();
        leaving.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
        cache.set_pod(std::sync::Arc::new(PodInfo::new(std::sync::Arc::new(leaving))));
        check(&cache, constraint("zone", json!({})), &["a1", "a2", "b1"]);
    }

    #[test]
    fn nodes_that_the_pod_cannot_use_count_by_policy() {
        let mut cache = cluster();
        cache.set_node(labelled_node("c1", &[("zone", "c"), ("old", "yes"), (HOST, "c1")]));
        let mut spec = constraint("zone", json!({}));
        let modern = json!({"matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]});
        let selector = json!({"nodeSelectorTerms": [modern]});
        spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}});
        check(&cache, spec.clone(), &["b1", "c1"]);
        spec["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = "Ignore".into();
        check(&cache, spec, &["c1"]);
    }

    #[test]
    fn pods_of_a_service_or_of_a_set_are_spread_unasked() {
        let mut cache = Cache::default();
        for (name, zone) in [("a1", "a"), ("b1", "b")] {
            cache.set_node(labelled_node(name, &[(ZONE, zone), (HOST, name)]));
        }
        cache.set_pod(placed("1", "web", json!({}), "a1"));
        let rated = |pod: &PodInfo, cache: &Cache| -> Vec<i64> {
            let feasible: Vec<_> = cache.nodes().collect();
            let mut state = State::new(pod, cache);
            state.prepare_score(pod, cache, &feasible);
            feasible.iter().map(|(_, info)| state.rate(info)).collect()
        };
        let pod = labelled_pod("p", "web", json!({}));
        assert_eq!(rated(&pod, &cache), [0, 0], "a pod of its own");
        let selector = |app: &str| Some([("app".to_owned(), app.to_owned())].into());
        cache.set_service("default", "other", selector("other"));
        cache.set_service("elsewhere", "web", selector("web"));
        assert_eq!(rated(&pod, &cache), [0, 0]);
        cache.set_service("default", "web", selector("web"));
        let crowded = rated(&pod, &cache);
        assert!(crowded[0] > crowded[1], "{crowded:?}");
        // One of a set is spread among those of the set alone.
        let of_set = |uid: &str| {
            let mut pod = (*labelled_pod("q", "web", json!({})).pod).clone();
            let owner =
                json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}]);
            pod.metadata.owner_references = serde_json::from_value(owner).unwrap();
            PodInfo::new(std::sync::Arc::new(pod))
        };
        let even = rated(&of_set("s"), &cache);
        assert_eq!(even[0], even[1], "{even:?}");
        let mut first = (*of_set("s").pod).clone();
        first.spec.node_name = "b1".to_owned();
        cache.set_pod(std::sync::Arc::new(PodInfo::new(std::sync::Arc::new(first))));
        cache.set_service("default", "web", None);
        let of_its_set = rated(&of_set("s"), &cache);
        assert!(of_its_set[1] > of_its_set[0], "{of_its_set:?}");
        let of_another = rated(&of_set("t"), &cache);
        assert_eq!(of_another[0], of_another[1]);
    }

    #[test]
    fn scores_fall_with_the_crowd() {
        assert_eq!(scale(&[0, 0]), [100, 100]);
        assert_eq!(scale(&[1, 2, 4]), [100, 75, 25]);
        assert_eq!(scale(&[-1, 3]), [0, 100]);
    }

    #[test]
    fn wishes_count_the_places_of_the_feasible() {
        let cache = cluster();
        let pod = labelled_pod("p", "web", constraint("zone", json!({"whenUnsatisfiable": "ScheduleAnyway"})));
        let feasible: Vec<_> = cache.nodes().collect();
        let mut state = State::new(&pod, &cache);
        state.prepare_score(&pod, &cache, &feasible);
        let raw: Vec<i64> = feasible.iter().map(|(_, info)| state.rate(info)).collect();
        assert!(raw[0] == raw[1] && raw[0] > raw[2] && raw[3] == -1, "{raw:?}");
    }
}
