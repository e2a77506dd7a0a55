//! Which pods of a set go first.

use crate::objects::seconds;
use naru_client::projections::{PodView, condition};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` of `pods` that are missed least. `related` pods crowd nodes.
pub(super) fn victims(mut pods: Vec<Arc<PodView>>, related: &[Arc<PodView>], count: usize) -> Vec<Arc<PodView>> {
    if count < pods.len() {
        let mut crowds: HashMap<&str, usize> = HashMap::new();
        for pod in related {
            *crowds.entry(pod.spec.node_name.as_str()).or_default() += 1;
        }
        let crowd = |pod: &PodView| crowds.get(pod.spec.node_name.as_str()).copied().unwrap_or_default();
        pods.sort_by_cached_key(|pod| key(pod, crowd(pod)));
        pods.truncate(count);
    }
    pods
}

/// Smaller goes first: unassigned before assigned, pending before running, unready before ready,
/// cheap before dear, crowded before lone, ready for a short time before a long one, restarted often
/// before seldom, new before old.
fn key(pod: &PodView, crowd: usize) -> impl Ord + use<> {
    let phase = match pod.status.phase.as_str() {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost: i32 = pod.metadata.annotations.get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or_default();
    let ready_since = if pod.is_ready() {
        condition(&pod.status.conditions, "Ready").map_or(0, |ready| seconds(&ready.last_transition_time))
    } else {
        0
    };
    let restarts = pod.status.container_statuses.iter().map(|status| status.restart_count).max();
    (
        !pod.spec.node_name.is_empty(),
        phase,
        pod.is_ready(),
        cost,
        Reverse(crowd),
        Reverse(ready_since),
        Reverse(restarts.unwrap_or_default()),
        Reverse(seconds(&pod.metadata.creation_timestamp)),
        pod.metadata.uid.clone(),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, change: impl Fn(&mut Value)) -> Arc<PodView> {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1"},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"}],
            },
        });
        change(&mut value);
        Arc::new(serde_json::from_value(value).unwrap())
    }

    /// `first` must go before `second`, whatever their order in the list.
    fn check(first: impl Fn(&mut Value), second: impl Fn(&mut Value)) {
        let (first, second) = (pod("b", first), pod("a", second));
        let related: Vec<_> = ["n2", "n2", "n1"]
            .iter()
            .map(|node| pod("r", |value| value["spec"]["nodeName"] = (*node).into()))
            .collect();
        for pods in [vec![first.clone(), second.clone()], vec![second, first]] {
            assert_eq!(victims(pods, &related, 1)[0].metadata.name, "b");
        }
    }

    #[test]
    fn the_least_missed_pods_go_first() {
        let same = |_: &mut Value| {};
        check(|pod| pod["spec"]["nodeName"] = "".into(), same);
        check(|pod| pod["status"]["phase"] = "Pending".into(), same);
        check(|pod| pod["status"]["conditions"][0]["status"] = "False".into(), same);
        check(|pod| pod["metadata"]["annotations"] = json!({DELETION_COST: "-5"}), same);
        check(|pod| pod["spec"]["nodeName"] = "n2".into(), same);
        check(|pod| pod["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:02:00Z".into(), same);
        check(|pod| pod["status"]["containerStatuses"] = json!([{"restartCount": 3}]), same);
        check(|pod| pod["metadata"]["creationTimestamp"] = "2026-01-01T00:00:30Z".into(), same);
    }
}
