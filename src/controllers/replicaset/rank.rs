//! Which pods of a set go first.

use crate::objects::seconds;
use naru_client::projections::{PodView, condition};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What a pod is judged by.
struct Candidate {
    pod: Arc<PodView>,
    /// Smaller goes first: unassigned before assigned, pending before running, unready before ready, cheap
    /// before dear.
    state: (bool, u8, bool, i32),
    crowd: usize,
    ready_since: i64,
    restarts: i32,
    born: i64,
}

/// The `count` of `pods` that are missed least. `related` pods crowd nodes.
pub(super) fn victims(
    mut pods: Vec<Arc<PodView>>,
    related: &[Arc<PodView>],
    count: usize,
    now: i64,
) -> Vec<Arc<PodView>> {
    if count >= pods.len() {
        return pods;
    }
    let mut crowds: HashMap<&str, usize> = HashMap::new();
    for pod in related {
        *crowds.entry(pod.spec.node_name.as_str()).or_default() += 1;
    }
    let crowd = |pod: &PodView| crowds.get(pod.spec.node_name.as_str()).copied().unwrap_or_default();
    let mut candidates: Vec<_> = pods.drain(..).map(|pod| candidate(crowd(&pod), pod)).collect();
    candidates.sort_by(|one, other| compare(one, other, now));
    candidates.into_iter().take(count).map(|candidate| candidate.pod).collect()
}

fn candidate(crowd: usize, pod: Arc<PodView>) -> Candidate {
    let phase = match pod.status.phase.as_str() {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = pod.metadata.annotations.get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or_default();
    let ready = condition(&pod.status.conditions, "Ready").filter(|_| pod.is_ready());
    Candidate {
        state: (!pod.spec.node_name.is_empty(), phase, ready.is_some(), cost),
        crowd,
        ready_since: ready.map_or(0, |ready| seconds(&ready.last_transition_time)),
        restarts: pod.status.container_statuses.iter().map(|status| status.restart_count).max().unwrap_or_default(),
        born: seconds(&pod.metadata.creation_timestamp),
        pod,
    }
}

/// After the state: crowded before lone, ready for a short time before a long one, restarted often before seldom,
/// new before old.
fn compare(one: &Candidate, other: &Candidate, now: i64) -> Ordering {
    let uids = || one.pod.metadata.uid.cmp(&other.pod.metadata.uid);
    let younger = |since: i64, other: i64| age(since, now).cmp(&age(other, now)).then_with(uids);
    let order = one.state.cmp(&other.state).then(other.crowd.cmp(&one.crowd));
    if order.is_ne() {
        return order;
    }
    if one.ready_since != other.ready_since {
        return younger(one.ready_since, other.ready_since);
    }
    let order = other.restarts.cmp(&one.restarts);
    if order.is_ne() { order } else { younger(one.born, other.born) }
}

/// The order of magnitude of an age: pods of about the same age are as good as each other, so that it is
/// not always the same one that goes. Ages are measured in nanoseconds, as upstream does.
fn age(since: i64, now: i64) -> u32 {
    let age = u128::try_from(now - since).unwrap_or_default() * 1_000_000_000;
    age.checked_ilog2().map_or(0, |log| log + 1)
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
            let now = seconds("2026-01-01T00:03:00Z");
            assert_eq!(victims(pods, &related, 1, now)[0].metadata.name, "b");
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
        check(|pod| pod["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:02:30Z".into(), same);
        check(|pod| pod["status"]["containerStatuses"] = json!([{"restartCount": 3}]), same);
        check(|pod| pod["metadata"]["creationTimestamp"] = "2026-01-01T00:02:30Z".into(), same);
    }

    #[test]
    fn pods_of_about_the_same_age_go_by_their_uid() {
        let born = |time: &'static str| {
            move |pod: &mut Value| {
                pod["metadata"]["creationTimestamp"] = time.into();
                pod["status"]["conditions"] = json!([]);
            }
        };
        let (first, second) = (pod("a", born("2026-01-01T00:00:00Z")), pod("b", born("2026-01-01T00:00:20Z")));
        let gone =
            |now: &str| victims(vec![second.clone(), first.clone()], &[], 1, seconds(now))[0].metadata.name.clone();
        assert_eq!(gone("2026-01-01T00:00:30Z"), "b", "ten seconds are far less than thirty");
        assert_eq!(gone("2026-01-01T00:02:00Z"), "a", "a hundred are not far less than two minutes");
    }
}
