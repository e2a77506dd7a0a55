//! InterPodAffinity: pods that want to be near others, or apart from them.

use super::{Plugin, Scale, Score, Unfit};
use crate::cache::{Cache, NodeInfo};
use crate::kinds::Marks;
use crate::pod_info::PodInfo;
use crate::terms::Term;
use std::collections::HashMap;

/// What an existing pod's demand to be near counts when a pod that meets it is placed.
const DEMAND_WEIGHT: i64 = 1;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "InterPodAffinity",
    filter: Some(|context, info, _| context.affinity.admits(context.pod, info)),
    score: Some(Score { weight: 2, scale: Scale::Range, rate: |context, info, _| context.affinity.liked.at(info) }),
};

/// Figures for places, which are all nodes with one value of a label: by label, then by value.
#[derive(Debug, Default)]
struct Counts<'a>(HashMap<&'a str, HashMap<&'a str, i64>>);

impl<'a> Counts<'a> {
    fn add(&mut self, key: &'a str, info: &'a NodeInfo, weight: i64) {
        if let Some(value) = info.label(key) {
            *self.0.entry(key).or_default().entry(value).or_default() += weight;
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is a figure for the node's place by a label.
    fn has(&self, key: &str, info: &NodeInfo) -> bool {
        info.label(key).zip(self.0.get(key)).is_some_and(|(value, places)| places.contains_key(value))
    }

    /// Whether there is a figure for any place of the node.
    fn touches(&self, info: &NodeInfo) -> bool {
        self.0.keys().any(|key| self.has(key, info))
    }

    /// The sum over all places of the node.
    fn at(&self, info: &NodeInfo) -> i64 {
        let figure = |(key, places): (&&str, &HashMap<&str, i64>)| places.get(info.label(key)?).copied();
        self.0.iter().filter_map(figure).sum()
    }
}

/// What the pods of some kinds count for the places of one label.
struct Weighing<'a> {
    kinds: Marks,
    key: &'a str,
    weight: i64,
}

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
        let mut shunning = Vec::new();
        for (kind, other) in cache.kinds.samples() {
            let Some(theirs) = &other.pod_affinities else { continue };
            for term in theirs.apart.required.iter().filter(|term| matches(other, term, pod, cache)) {
                shunning.push((kind, term.topology_key.as_str(), 1));
            }
        }
        weigh_each(&shunning, cache, &mut state.shunned);
        let Some(own) = &pod.pod_affinities else { return state };
        let (near, apart) = (&own.near.required, &own.apart.required);
        state.meets_own = near.iter().all(|term| matches(pod, term, pod, cache));
        if !near.is_empty() {
            // A pod is wanted near only if it meets all demands.
            let wanted = cache.kinds.mark(|other| near.iter().all(|term| matches(pod, term, other, cache)));
            let weighing = |term: &'a Term| {
                wanted.clone().map(|kinds| Weighing { kinds, key: term.topology_key.as_str(), weight: 1 })
            };
            weigh(&near.iter().filter_map(weighing).collect::<Vec<_>>(), cache, &mut state.near);
        }
        let weighing = |term: &'a Term| {
            let kinds = cache.kinds.mark(|other| matches(pod, term, other, cache))?;
            Some(Weighing { kinds, key: &term.topology_key, weight: 1 })
        };
        weigh(&apart.iter().filter_map(weighing).collect::<Vec<_>>(), cache, &mut state.apart);
        state
    }

    fn admits(&self, pod: &PodInfo, info: &NodeInfo) -> Result<(), Unfit> {
        if let Some(own) = &pod.pod_affinities {
            let first = self.near.is_empty() && self.meets_own;
            let met = |term: &Term| match first {
                true => info.label(&term.topology_key).is_some(),
                false => self.near.has(&term.topology_key, info),
            };
            if !own.near.required.iter().all(met) {
                return Err(Unfit { for_good: true, ..Unfit::by_affinity("node(s) didn't match pod affinity rules") });
            }
            if own.apart.required.iter().any(|term| self.apart.has(&term.topology_key, info)) {
                return Err(Unfit::by_affinity("node(s) didn't match pod anti-affinity rules"));
            }
        }
        if self.shunned.touches(info) {
            return Err(Unfit::by_affinity("node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }

    /// Weighs all wishes, of the pod and of those that are there.
    pub(crate) fn prepare_score(&mut self, pod: &'a PodInfo, cache: &'a Cache) {
        if let Some(own) = &pod.pod_affinities {
            let signed = [(&own.near.preferred, 1), (&own.apart.preferred, -1)];
            let wishes = signed.into_iter().flat_map(|(wishes, sign)| wishes.iter().map(move |wish| (wish, sign)));
            let weighings = wishes.filter_map(|(wish, sign)| {
                let term = &wish.pod_affinity_term;
                let kinds = cache.kinds.mark(|other| matches(pod, term, other, cache))?;
                Some(Weighing { kinds, key: &term.topology_key, weight: sign * wish.weight })
            });
            weigh(&weighings.collect::<Vec<_>>(), cache, &mut self.liked);
        }
        let mut of_others = Vec::new();
        for (kind, other) in cache.kinds.samples() {
            let Some(theirs) = &other.pod_affinities else { continue };
            for term in theirs.near.required.iter().filter(|term| matches(other, term, pod, cache)) {
                of_others.push((kind, term.topology_key.as_str(), DEMAND_WEIGHT));
            }
            for (terms, sign) in [(&theirs.near.preferred, 1), (&theirs.apart.preferred, -1)] {
                for wish in terms.iter().filter(|wish| matches(other, &wish.pod_affinity_term, pod, cache)) {
                    of_others.push((kind, wish.pod_affinity_term.topology_key.as_str(), sign * wish.weight));
                }
            }
        }
        weigh_each(&of_others, cache, &mut self.liked);
    }
}

/// Adds up what the pods of marked kinds count, over all nodes.
fn weigh<'a>(weighings: &[Weighing<'a>], cache: &'a Cache, counts: &mut Counts<'a>) {
    if weighings.is_empty() {
        return;
    }
    for (info, _) in cache.known_nodes() {
        for weighing in weighings {
            let marked = info.kinds.iter().filter(|count| weighing.kinds[count.kind as usize]);
            let pods: i64 = marked.map(|count| i64::from(count.pods)).sum();
            if pods > 0 {
                counts.add(weighing.key, info, pods * weighing.weight);
            }
        }
    }
}

/// The same where each kind says for itself what its pods count, and for which label.
fn weigh_each<'a>(weights: &[(u32, &'a str, i64)], cache: &'a Cache, counts: &mut Counts<'a>) {
    if weights.is_empty() {
        return;
    }
    // The kinds are in order, as they come from a list by number.
    for (info, _) in cache.known_nodes() {
        for count in &info.kinds {
            let first = weights.partition_point(|(kind, ..)| *kind < count.kind);
            for (_, key, weight) in weights[first..].iter().take_while(|(kind, ..)| *kind == count.kind) {
                counts.add(key, info, i64::from(count.pods) * weight);
            }
        }
    }
}

/// Whether `other` is meant by a term of `owner`.
fn matches(owner: &PodInfo, term: &Term, other: &PodInfo, cache: &Cache) -> bool {
    term.matches(&owner.pod.metadata.namespace, &other.pod, &cache.namespaces)
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
            match context.affinity.admits(pod, info) {
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
        let places = state.liked.0.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
        let mut liked: Vec<_> = places.map(|(key, (value, weight))| format!("{key}={value} {weight}")).collect();
        liked.sort();
        assert_eq!(liked, ["host=b1 10", "zone=a -7"]);
    }
}
