//! What a pod says about other pods: affinity, anti-affinity, and spread over the nodes.

use naru_client::projections::{PodView, Selector};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// Labels of the namespaces, for terms that choose namespaces by them.
pub(crate) type Namespaces = HashMap<String, BTreeMap<String, String>>;

/// `spec.affinity.podAffinity` and `spec.affinity.podAntiAffinity`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodAffinities {
    #[serde(rename = "podAffinity")]
    pub(crate) near: Terms,
    #[serde(rename = "podAntiAffinity")]
    pub(crate) apart: Terms,
}

impl PodAffinities {
    pub(crate) fn is_empty(&self) -> bool {
        let empty = |terms: &Terms| terms.required.is_empty() && terms.preferred.is_empty();
        empty(&self.near) && empty(&self.apart)
    }
}

/// Demands and wishes of one kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Terms {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub(crate) required: Vec<Term>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    pub(crate) preferred: Vec<Weighted>,
}

/// A wish with its weight, 1 to 100.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Weighted {
    pub(crate) weight: i64,
    pub(crate) pod_affinity_term: Term,
}

/// Which pods, and what counts as one place.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Term {
    label_selector: Option<Selector>,
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
    pub(crate) topology_key: String,
}

impl Term {
    /// Whether `other` is meant, by a pod of the namespace `own`.
    pub(crate) fn matches(&self, own: &str, other: &PodView, namespaces: &Namespaces) -> bool {
        let namespace = other.metadata.namespace.as_str();
        let in_namespace = match &self.namespace_selector {
            None if self.namespaces.is_empty() => namespace == own,
            selector => {
                self.namespaces.iter().any(|listed| listed == namespace)
                    || selector.as_ref().is_some_and(|selector| {
                        namespaces.get(namespace).is_some_and(|labels| selector.matches(labels))
                    })
            }
        };
        in_namespace && self.label_selector.as_ref().is_some_and(|selector| selector.matches(&other.metadata.labels))
    }
}

/// One of `spec.topologySpreadConstraints`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spread {
    pub(crate) max_skew: i64,
    pub(crate) topology_key: String,
    /// `DoNotSchedule` or `ScheduleAnyway`.
    when_unsatisfiable: String,
    label_selector: Option<Selector>,
    pub(crate) min_domains: Option<usize>,
    /// `Honor` (also when absent) or `Ignore`.
    node_affinity_policy: Option<String>,
    /// `Ignore` (also when absent) or `Honor`.
    node_taints_policy: Option<String>,
}

impl Spread {
    /// A wish only, as the scheduler has one for every pod of a controller.
    pub(crate) fn wish(topology_key: &str, max_skew: i64) -> Self {
        Self { max_skew, topology_key: topology_key.to_owned(), ..Self::default() }
    }

    /// Whether it is the scheduler's own wish.
    pub(crate) fn is_usual(&self) -> bool {
        self.when_unsatisfiable.is_empty()
    }

    /// Whether the pod must not be placed against it.
    pub(crate) fn is_hard(&self) -> bool {
        self.when_unsatisfiable == "DoNotSchedule"
    }

    /// Whether a pod of the same namespace counts.
    pub(crate) fn selects(&self, other: &PodView) -> bool {
        self.label_selector.as_ref().is_some_and(|selector| selector.matches(&other.metadata.labels))
    }

    /// Whether nodes count that the pod's node affinity rules out.
    pub(crate) fn ignores_affinity(&self) -> bool {
        self.node_affinity_policy.as_deref() == Some("Ignore")
    }

    /// Whether nodes with taints that the pod does not tolerate are left out.
    pub(crate) fn honours_taints(&self) -> bool {
        self.node_taints_policy.as_deref() == Some("Honor")
    }
}
