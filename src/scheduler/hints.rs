//! Which events let a pod be tried again that fitted nowhere: those that could help it, no others.

use crate::cache::Cache;
use crate::cycle::fits;
use crate::plugins::{Context, Refusers, fits_alone};
use crate::pod_info::PodInfo;
use crate::terms::Term;
use naru_client::projections::NodeView;

/// What has happened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    /// A node came, or changed in what matters here; the cache has the new state.
    Node { old: Option<&'a NodeView>, new: &'a NodeView },
    /// A node is gone.
    NodeGone(&'a NodeView),
    /// A pod is on a node; the cache has it.
    Placed(&'a PodInfo),
    /// A pod has left a node, or asks for less; the cache knows.
    Gone { pod: &'a PodInfo, node: &'a str },
    /// The labels of a namespace have changed.
    Namespace,
}

impl Event<'_> {
    /// As metrics name it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Node { old: None, .. } => "NodeAdd",
            Self::Node { old: Some(old), new } if old.spec != new.spec => "NodeUpdateNodeTaint",
            Self::Node { old: Some(old), new } if old.metadata.labels != new.metadata.labels => "NodeUpdateNodeLabel",
            Self::Node { .. } => "NodeUpdateNodeAllocatable",
            Self::NodeGone(_) => "NodeDelete",
            Self::Placed(_) => "AssignedPodAdd",
            Self::Gone { .. } => "AssignedPodDelete",
            Self::Namespace => "NamespaceUpdate",
        }
    }
}

/// Whether the event could help a pod that was refused by those plugins, or by nodes alone.
pub(crate) fn helps(event: Event<'_>, pod: &PodInfo, by: Refusers, cache: &Cache) -> bool {
    match event {
        Event::Node { old, new } => {
            (by.spread && (spreads_over(pod, new) || old.is_some_and(|old| spreads_over(pod, old))))
                || (by.affinity && moves_places(pod, old, new))
                || fits_on(pod, &new.metadata.name, cache)
        }
        // Without its emptiest place the others are not too full any more.
        Event::NodeGone(node) => by.spread && spreads_over(pod, node),
        Event::Placed(other) => {
            (by.spread && spreads_with(pod, other)) || (by.affinity && wants_near(pod, other, cache))
        }
        Event::Gone { pod: other, node } => {
            (by.spread && spreads_with(pod, other))
                || (by.affinity && shuns(pod, other, cache))
                || fits_on(pod, node, cache)
        }
        Event::Namespace => by.affinity,
    }
}

/// Whether the pod fits on the node now. What is cheap to know comes first.
fn fits_on(pod: &PodInfo, node: &str, cache: &Cache) -> bool {
    let Some(info) = cache.node(node) else { return false };
    fits_alone(pod, info) && fits(&Context::new(pod, cache), info).is_ok()
}

/// Whether a node is in the places that the pod is to be spread over.
fn spreads_over(pod: &PodInfo, node: &NodeView) -> bool {
    let mut demands = pod.spread.iter().filter(|spread| spread.is_hard());
    demands.all(|spread| node.metadata.labels.contains_key(&spread.topology_key))
}

/// Whether pods that are there have come into other places that the pod speaks of.
fn moves_places(pod: &PodInfo, old: Option<&NodeView>, new: &NodeView) -> bool {
    let changes = |term: &Term| {
        let place = |node: &NodeView| node.metadata.labels.get(&term.topology_key).cloned();
        old.is_some_and(|old| place(old) != place(new))
    };
    // Those that are there speak of places that are not looked up: any other label may be one.
    let by_others = old.is_some_and(|old| old.metadata.labels != new.metadata.labels);
    match &pod.pod_affinities {
        Some(own) => own.near.required.iter().chain(&own.apart.required).any(changes) || by_others,
        None => by_others,
    }
}

/// Whether the other counts where the pod is to be spread.
fn spreads_with(pod: &PodInfo, other: &PodInfo) -> bool {
    let same = pod.pod.metadata.namespace == other.pod.metadata.namespace;
    same && pod.spread.iter().any(|spread| spread.is_hard() && spread.selects(&other.pod))
}

fn meant(owner: &PodInfo, term: &Term, other: &PodInfo, cache: &Cache) -> bool {
    term.matches(&owner.pod.metadata.namespace, &other.pod, &cache.namespaces)
}

fn wants_near(pod: &PodInfo, other: &PodInfo, cache: &Cache) -> bool {
    let own = pod.pod_affinities.as_deref();
    own.is_some_and(|own| own.near.required.iter().any(|term| meant(pod, term, other, cache)))
}

/// Whether one of the two demanded to be apart from the other.
fn shuns(pod: &PodInfo, other: &PodInfo, cache: &Cache) -> bool {
    let apart = |one: &PodInfo, two: &PodInfo| {
        let demands = one.pod_affinities.as_deref();
        demands.is_some_and(|own| own.apart.required.iter().any(|term| meant(one, term, two, cache)))
    };
    apart(pod, other) || apart(other, pod)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::cycle::choose;
    use crate::testing::{labelled_node, labelled_pod, node, placed};
    use serde_json::{Value, json};

    fn affinity(kind: &str, app: &str) -> Value {
        let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "zone"});
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    }

    fn spread() -> Value {
        json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}}]})
    }

    fn asking(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    /// Zone a with a web pod; zone b's only node is full.
    fn cluster() -> Cache {
        let mut cache = Cache::default();
        cache.set_node(labelled_node("a", &[("zone", "a")]));
        cache.set_node(labelled_node("b", &[("zone", "b")]));
        cache.set_pod(placed("w", "web", json!({}), "a"));
        cache.set_pod(placed("full", "full", asking("4"), "b"));
        cache
    }

    fn check(cache: &mut Cache, spec: &Value, event: Event<'_>, expected: bool) {
        let mut spec = spec.clone();
        if spec.get("containers").is_none() {
            spec["containers"] = asking("1")["containers"].clone();
        }
        let pod = labelled_pod("p", "web", spec.clone());
        let before = match choose(&pod, cache, &mut 0, |_| 0, &mut Vec::new()) {
            Err(refused) => refused.by,
            // The event has been taken in already: by whom it was refused before is told by what it demands.
            Ok(_) => Refusers { affinity: pod.pod_affinities.is_some(), spread: !pod.spread.is_empty() },
        };
        assert_eq!(helps(event, &pod, before, cache), expected, "{event:?} for {spec}");
    }

    #[test]
    fn a_pod_that_is_placed_helps_those_that_want_it_near_or_are_spread_with_it() {
        let mut cache = cluster();
        let (web, db) = (placed("n", "web", json!({}), "b"), placed("n", "db", json!({}), "b"));
        check(&mut cache, &affinity("podAffinity", "db"), Event::Placed(&db), true);
        check(&mut cache, &affinity("podAffinity", "db"), Event::Placed(&web), false);
        check(&mut cache, &spread(), Event::Placed(&web), true);
        check(&mut cache, &spread(), Event::Placed(&db), false);
        check(&mut cache, &asking("9"), Event::Placed(&web), false);
    }

    #[test]
    fn a_pod_that_goes_helps_those_that_shun_it_or_get_its_room() {
        let mut cache = cluster();
        let web = placed("w", "web", json!({}), "a");
        let gone = Event::Gone { pod: &web, node: "a" };
        check(&mut cache, &affinity("podAntiAffinity", "web"), gone, true);
        check(&mut cache, &affinity("podAntiAffinity", "web"), Event::Placed(&web), false);
        check(&mut cache, &spread(), gone, true);
        check(&mut cache, &asking("9"), gone, false);
        let full = placed("full", "full", asking("4"), "b");
        cache.remove_pod(full.uid());
        check(&mut cache, &asking("4"), Event::Gone { pod: &full, node: "b" }, true);
        check(&mut cache, &spread(), Event::Gone { pod: &full, node: "b" }, true);
    }

    #[test]
    fn a_node_helps_if_the_pod_fits_there_or_if_places_change() {
        let mut cache = cluster();
        let small = node("c", "1", "1Gi");
        cache.set_node(small.clone());
        let came = Event::Node { old: None, new: &small };
        check(&mut cache, &asking("9"), came, false);
        check(&mut cache, &asking("1"), came, true);
        check(&mut cache, &spread(), came, false);
        let (old, new) = (labelled_node("b", &[("zone", "b")]), labelled_node("b", &[("zone", "a")]));
        cache.set_node(new.clone());
        check(&mut cache, &spread(), Event::Node { old: Some(&old), new: &new }, true);
        check(&mut cache, &affinity("podAffinity", "db"), Event::Node { old: Some(&old), new: &new }, true);
        check(&mut cache, &asking("9"), Event::Node { old: Some(&old), new: &new }, false);
        cache.remove_node("b");
        let mut cache = cluster();
        check(&mut cache, &spread(), Event::NodeGone(&old), true);
        check(&mut cache, &affinity("podAntiAffinity", "web"), Event::NodeGone(&old), false);
    }

    #[test]
    fn labels_of_namespaces_matter_to_affinity_alone() {
        let mut cache = cluster();
        check(&mut cache, &affinity("podAffinity", "db"), Event::Namespace, true);
        check(&mut cache, &asking("9"), Event::Namespace, false);
    }
}
