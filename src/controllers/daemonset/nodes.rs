//! Which nodes a DaemonSet's pods go to, and how fast a pod that fails there is replaced.

use naru_client::ObjectKey;
use naru_client::projections::{NodeAffinity, NodeView, Placement, PodView, Taint};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// Taints that every daemon pod bears, whatever its template says.
pub(super) const BORNE: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// And those in the node's network this one.
pub(super) const BORNE_BY_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a node is to a DaemonSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It shall run a pod.
    Wanted,
    /// A pod that is there may stay.
    Kept,
    Unfit,
}

pub(super) fn fit(placement: &Placement, affinity: &NodeAffinity, node: &NodeView) -> Fit {
    let elsewhere = !placement.node_name.is_empty() && placement.node_name != node.metadata.name;
    if elsewhere || !affinity.admits(&placement.node_selector, node) {
        return Fit::Unfit;
    }
    let keeps_off =
        |effect: &str| node.spec.taints.iter().any(|taint| taint.effect == effect && !is_borne(placement, taint));
    if keeps_off("NoExecute") {
        Fit::Unfit
    } else if keeps_off("NoSchedule") {
        Fit::Kept
    } else {
        Fit::Wanted
    }
}

fn is_borne(placement: &Placement, taint: &Taint) -> bool {
    let is = |(key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    placement.tolerations.iter().any(|toleration| toleration.tolerates(taint))
        || BORNE.iter().any(is)
        || (placement.host_network && is(&BORNE_BY_HOST_NETWORK))
}

/// The node that a daemon pod runs on or is meant for.
pub(super) fn target(pod: &PodView) -> Option<String> {
    if !pod.spec.node_name.is_empty() {
        return Some(pod.spec.node_name.clone());
    }
    let required = NodeAffinity::of(pod.spec.affinity.as_deref()).required?;
    let mut fields = required.node_selector_terms.into_iter().flat_map(|term| term.match_fields);
    let field = fields.find(|field| field.key == "metadata.name" && field.operator == "In")?;
    field.values.into_iter().next()
}

/// How long the next failed pod on a node has to stay.
#[derive(Debug, Default)]
pub(super) struct Backoffs {
    entries: Mutex<HashMap<(ObjectKey, String), (Instant, Duration)>>,
}

impl Backoffs {
    /// The time that is left to wait, or nothing: then the next wait is twice as long.
    pub(super) fn next(&self, set: &ObjectKey, node: &str) -> Option<Duration> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let entry = entries.entry((set.clone(), node.to_owned())).or_insert((now, Duration::ZERO));
        let (since, wait) = *entry;
        let passed = now - since;
        if passed < wait {
            return Some(wait - passed);
        }
        let calm = wait.is_zero() || passed > LONGEST_WAIT * 2;
        *entry = (now, if calm { FIRST_WAIT } else { (wait * 2).min(LONGEST_WAIT) });
        None
    }

    /// The set is gone.
    pub(super) fn forget(&self, set: &ObjectKey) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).retain(|(key, _), _| key != set);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn nodes_fit_by_name_labels_and_taints() {
        let check = |spec: Value, taints: Value, expected: Fit| {
            let node: NodeView = serde_json::from_value(json!({
                "metadata": {"name": "n1", "labels": {"disk": "ssd"}}, "spec": {"taints": taints}}))
            .unwrap();
            let placement: Placement = serde_json::from_value(spec.clone()).unwrap();
            let affinity = NodeAffinity::of(placement.affinity.as_deref());
            assert_eq!(fit(&placement, &affinity, &node), expected, "{spec} {taints}");
        };
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        check(json!({}), json!([]), Fit::Wanted);
        check(json!({"nodeName": "n2"}), json!([]), Fit::Unfit);
        check(json!({"nodeSelector": {"disk": "hdd"}}), json!([]), Fit::Unfit);
        check(json!({"nodeSelector": {"disk": "ssd"}}), json!([]), Fit::Wanted);
        check(json!({}), taint("node.kubernetes.io/unschedulable", "NoSchedule"), Fit::Wanted);
        check(json!({}), taint("node.kubernetes.io/not-ready", "NoExecute"), Fit::Wanted);
        check(json!({}), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), Fit::Kept);
        check(json!({"hostNetwork": true}), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), Fit::Wanted);
        check(json!({}), taint("gpu", "NoSchedule"), Fit::Kept);
        check(json!({}), taint("gpu", "NoExecute"), Fit::Unfit);
        check(json!({}), taint("gpu", "PreferNoSchedule"), Fit::Wanted);
        check(json!({"tolerations": [{"operator": "Exists"}]}), taint("gpu", "NoExecute"), Fit::Wanted);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_double_until_it_has_been_calm() {
        let (backoffs, set) = (Backoffs::default(), ObjectKey::new("default", "d"));
        assert_eq!(backoffs.next(&set, "n1"), None);
        assert_eq!(backoffs.next(&set, "n1"), Some(Duration::from_secs(1)));
        assert_eq!(backoffs.next(&set, "n2"), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(backoffs.next(&set, "n1"), None);
        assert_eq!(backoffs.next(&set, "n1"), Some(Duration::from_secs(2)));
        tokio::time::advance(LONGEST_WAIT * 3).await;
        assert_eq!(backoffs.next(&set, "n1"), None);
        assert_eq!(backoffs.next(&set, "n1"), Some(Duration::from_secs(1)));
    }
}
