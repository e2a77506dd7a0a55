//! InterPodAffinity: pods that want to be near others, or apart from them.

use super::{Plugin, Scale, Score, Unfit};
use crate::cache::{Cache, NodeInfo};
use crate::pod_info::PodInfo;
use crate::terms::Term;
use naru_client::projections::NodeView;
use std::collections::HashMap;

/// What an existing pod's demand to be near counts when a pod that meets it is placed.
const DEMAND_WEIGHT: i64 = 1;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "InterPodAffinity",
    filter: Some(|context, _, node| context.affinity.admits(context.pod, node)),
    score: Some(Score {
        weight: 2,
        scale: Scale::Range,
        rate: |context, _, node| {
            let places = context.affinity.liked.iter();
            places.filter(|(place, _)| place.has(node)).map(|(_, weight)| weight).sum()
        },
    }),
};

/// All nodes with one value of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place<'a> {
    key: &'a str,
    value: &'a str,
}

impl<'a> Place<'a> {
    fn of(key: &'a str, node: &'a NodeView) -> Option<Self> {
        node.metadata.labels.get(key).map(|value| Self { key, value })
    }

    fn has(&self, node: &NodeView) -> bool {
        node.metadata.labels.get(self.key).is_some_and(|value| value == self.value)
    }
}

type Counts<'a> = HashMap<Place<'a>, i64>;

/// Where the pods are that matter to the pod to be placed.
#[derive(Debug, Default)]
pub(crate) struct State<'a> {
    /// Places of pods that do not want it near.
    shunned: Counts<'a>,
    /// Places of pods that it wants near.
    near: Counts<'a>,
    /// Places of pods that it wants apart.
    apart: Counts<'a>,
    /// Whether it meets its own demand: then it may be the first.
    meets_own: bool,
    /// For the score: the weights of all wishes.
    liked: Counts<'a>,
}

impl<'a> State<'a> {
    pub(crate) fn new(pod: &'a PodInfo, cache: &'a Cache) -> Self {
        let mut state = Self::default();
        if cache.with_anti_affinity() > 0 {
            count_shunned(&mut state.shunned, pod, cache);
        }
        let Some(own) = &pod.pod_affinities else { return state };
        let (near, apart) = (&own.near.required, &own.apart.required);
        if near.is_empty() && apart.is_empty() {
            return state;
        }
        let matches = |term: &Term, other: &PodInfo| matches(pod, term, other, cache);
        state.meets_own = near.iter().all(|term| matches(term, pod));
        for (info, node) in nodes(cache) {
            for other in info.pods.values() {
                // A pod is wanted near only if it meets all demands.
                if !near.is_empty() && near.iter().all(|term| matches(term, other)) {
                    near.iter().for_each(|term| add(&mut state.near, &term.topology_key, node, 1));
                }
                for term in apart.iter().filter(|term| matches(term, other)) {
                    add(&mut state.apart, &term.topology_key, node, 1);
                }
            }
        }
        state
    }

    fn admits(&self, pod: &PodInfo, node: &NodeView) -> Result<(), Unfit> {
        if let Some(own) = &pod.pod_affinities {
            let first = self.near.is_empty() && self.meets_own;
            let met = |term: &Term| {
                Place::of(&term.topology_key, node).is_some_and(|here| first || self.near.contains_key(&here))
            };
            if !own.near.required.iter().all(met) {
                return Err(Unfit::for_good("node(s) didn't match pod affinity rules"));
            }
            let broken =
                |term: &Term| Place::of(&term.topology_key, node).is_some_and(|here| self.apart.contains_key(&here));
            if own.apart.required.iter().any(broken) {
                return Err(Unfit::by_pods("node(s) didn't match pod anti-affinity rules"));
            }
        }
        if self.shunned.keys().any(|place| place.has(node)) {
            return Err(Unfit::by_pods("node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }

    /// Weighs all wishes, of the pod and of those that are there.
    pub(crate) fn prepare_score(&mut self, pod: &'a PodInfo, cache: &'a Cache) {
        let own = pod.pod_affinities.as_deref();
        let wishes = own.is_some_and(|own| !(own.near.preferred.is_empty() && own.apart.preferred.is_empty()));
        if !wishes && cache.with_affinities() == 0 {
            return;
        }
        for (info, node) in nodes(cache).filter(|(info, _)| wishes || info.with_affinities > 0) {
            for other in info.pods.values() {
                if let Some(own) = own.filter(|_| wishes) {
                    for (terms, sign) in [(&own.near.preferred, 1), (&own.apart.preferred, -1)] {
                        for wish in terms.iter().filter(|wish| matches(pod, &wish.pod_affinity_term, other, cache)) {
                            add(&mut self.liked, &wish.pod_affinity_term.topology_key, node, sign * wish.weight);
                        }
                    }
                }
                let Some(theirs) = &other.pod_affinities else { continue };
                for term in theirs.near.required.iter().filter(|term| matches(other, term, pod, cache)) {
                    add(&mut self.liked, &term.topology_key, node, DEMAND_WEIGHT);
                }
                for (terms, sign) in [(&theirs.near.preferred, 1), (&theirs.apart.preferred, -1)] {
                    for wish in terms.iter().filter(|wish| matches(other, &wish.pod_affinity_term, pod, cache)) {
                        add(&mut self.liked, &wish.pod_affinity_term.topology_key, node, sign * wish.weight);
                    }
                }
            }
        }
    }
}

fn nodes(cache: &Cache) -> impl Iterator<Item = (&NodeInfo, &NodeView)> {
    cache.nodes().filter_map(|(_, info)| info.node.as_deref().map(|node| (info, node)))
}

/// Whether `other` is meant by a term of `owner`.
fn matches(owner: &PodInfo, term: &Term, other: &PodInfo, cache: &Cache) -> bool {
    term.matches(&owner.pod.metadata.namespace, &other.pod, &cache.namespaces)
}

fn count_shunned<'a>(shunned: &mut Counts<'a>, pod: &'a PodInfo, cache: &'a Cache) {
    for (info, node) in nodes(cache).filter(|(info, _)| info.with_anti_affinity > 0) {
        for other in info.pods.values() {
            let Some(theirs) = &other.pod_affinities else { continue };
            for term in theirs.apart.required.iter().filter(|term| matches(other, term, pod, cache)) {
                add(shunned, &term.topology_key, node, 1);
            }
        }
    }
}

fn add<'a>(counts: &mut Counts<'a>, key: &'a str, node: &'a NodeView, weight: i64) {
    if let Some(place) = Place::of(key, node) {
        *counts.entry(place).or_default() += weight;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::cache::Cache;
    use crate::pod_info::PodInfo;
    use crate::testing::{labelled_node, labelled_pod, placed};
    use serde_json::{Value, json};

    fn term(label: &str, key: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": label}}, "topologyKey": key})
    }

    fn affinity(kind: &str, terms: &[Value]) -> Value {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
    }

    fn wish(kind: &str, weight: i64, term: Value) -> Value {
        let wish = json!({"weight": weight, "podAffinityTerm": term});
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}})
    }

    /// Nodes a1 and a2 of zone a, b1 of zone b, and bare without labels; a `db` on a1.
    fn cluster() -> Cache {
        let mut cache = Cache::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
            cache.set_node(labelled_node(name, &[("zone", zone), ("host", name)]));
        }
        cache.set_node(labelled_node("bare", &[]));
        cache.set_pod(placed("db", "db", json!({}), "a1"));
        cache
    }

    /// The nodes that admit a pod, and the reasons of the others.
    fn check(cache: &Cache, pod: &PodInfo, nodes: &[&str], reason: &str) {
        let context = super::super::Context::new(pod, cache);
        let mut admitted = Vec::new();
        for (name, info) in cache.nodes() {
            match context.affinity.admits(pod, info.node.as_ref().unwrap()) {
                Ok(()) => admitted.push(name),
                Err(unfit) => assert_eq!(unfit.reasons, [reason]),
            }
        }
        assert_eq!(admitted, nodes);
    }

    #[test]
    fn demands_hold_for_the_whole_place() {
        let cache = cluster();
        let near = "node(s) didn't match pod affinity rules";
        check(&cache, &labelled_pod("p", "web", affinity("podAffinity", &[term("db", "zone")])), &["a1", "a2"], near);
        check(&cache, &labelled_pod("p", "web", affinity("podAffinity", &[term("db", "host")])), &["a1"], near);
        check(&cache, &labelled_pod("p", "web", affinity("podAffinity", &[term("none", "zone")])), &[], near);
        let apart = "node(s) didn't match pod anti-affinity rules";
        let pod = labelled_pod("p", "web", affinity("podAntiAffinity", &[term("db", "zone")]));
        check(&cache, &pod, &["b1", "bare"], apart);
    }

    #[test]
    fn the_first_of_its_kind_may_go_wherever_the_label_is() {
        let pod = labelled_pod("p", "web", affinity("podAffinity", &[term("web", "zone")]));
        check(&cluster(), &pod, &["a1", "a2", "b1"], "node(s) didn't match pod affinity rules");
    }

    #[test]
    fn those_that_are_there_have_a_say() {
        let mut cache = cluster();
        cache.set_pod(placed("hermit", "hermit", affinity("podAntiAffinity", &[term("web", "zone")]), "b1"));
        let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
        check(&cache, &labelled_pod("p", "web", json!({})), &["a1", "a2", "bare"], reason);
        check(&cache, &labelled_pod("p", "other", json!({})), &["a1", "a2", "b1", "bare"], reason);
        cache.remove_pod("uid-hermit");
        check(&cache, &labelled_pod("p", "web", json!({})), &["a1", "a2", "b1", "bare"], reason);
    }

    #[test]
    fn namespaces_are_the_pods_own_the_listed_or_the_chosen() {
        let cache = |labels: Value| {
            let mut cache = cluster();
            cache.namespaces.insert("default".to_owned(), serde_json::from_value(labels).unwrap());
            cache
        };
        let mut elsewhere = term("db", "zone");
        elsewhere["namespaces"] = json!(["other"]);
        let reason = "node(s) didn't match pod affinity rules";
        check(&cache(json!({})), &labelled_pod("p", "x", affinity("podAffinity", &[elsewhere.clone()])), &[], reason);
        elsewhere["namespaceSelector"] = json!({"matchLabels": {"team": "red"}});
        let pod = labelled_pod("p", "x", affinity("podAffinity", &[elsewhere]));
        check(&cache(json!({"team": "red"})), &pod, &["a1", "a2"], reason);
        check(&cache(json!({"team": "blue"})), &pod, &[], reason);
    }

    #[test]
    fn wishes_of_both_sides_are_weighed() {
        let mut cache = cluster();
        cache.set_pod(placed("fan", "fan", wish("podAffinity", 10, term("web", "host")), "b1"));
        let pod = labelled_pod("p", "web", wish("podAntiAffinity", 7, term("db", "zone")));
        let mut state = super::State::new(&pod, &cache);
        state.prepare_score(&pod, &cache);
        let mut liked: Vec<_> =
            state.liked.iter().map(|(place, weight)| format!("{}={} {weight}", place.key, place.value)).collect();
        liked.sort();
        assert_eq!(liked, ["host=b1 10", "zone=a -7"]);
    }
}
