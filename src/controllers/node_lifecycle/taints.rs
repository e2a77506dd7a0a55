//! The taints that follow from a node's conditions, beside those that others have put on it. Pure.

use naru_client::projections::{NodeView, Taint, condition};

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

/// Condition, its status, and the taint that says so to the scheduler.
const BY_CONDITION: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// The node's taints with those that keep pods from being scheduled there; nothing if it has them.
pub(super) fn no_schedule(node: &NodeView, now: &str) -> Option<Vec<Taint>> {
    let holds = |kind: &str, status: &str| {
        condition(&node.status.conditions, kind).is_some_and(|condition| condition.status == status)
    };
    let wanted = BY_CONDITION.iter().filter(|(kind, status, _)| holds(kind, status)).map(|(_, _, key)| *key);
    let wanted: Vec<&str> = wanted.chain(node.spec.unschedulable.then_some(UNSCHEDULABLE)).collect();
    let ours = |key: &str| key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, ours)| *ours == key);
    replaced(&node.spec.taints, NO_SCHEDULE, ours, &wanted, now)
}

/// The node's taints with the one by which pods are evicted, or without; nothing if they are so.
pub(super) fn no_execute(node: &NodeView, wanted: Option<&str>, now: &str) -> Option<Vec<Taint>> {
    replaced(&node.spec.taints, NO_EXECUTE, |key| key == NOT_READY || key == UNREACHABLE, wanted.as_slice(), now)
}

/// Whether pods are being evicted from a node because it is not ready.
pub(super) fn evicts(node: &NodeView) -> bool {
    let ours = |taint: &Taint| taint.effect == NO_EXECUTE && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str());
    node.spec.taints.iter().any(ours)
}

fn replaced(
    present: &[Taint],
    effect: &str,
    ours: impl Fn(&str) -> bool,
    wanted: &[&str],
    now: &str,
) -> Option<Vec<Taint>> {
    let is_superfluous =
        |taint: &Taint| taint.effect == effect && ours(&taint.key) && !wanted.contains(&taint.key.as_str());
    let mut taints: Vec<Taint> = present.iter().filter(|taint| !is_superfluous(taint)).cloned().collect();
    for key in wanted {
        if !present.iter().any(|taint| taint.key == *key && taint.effect == effect) {
            let time_added = Some(now.to_owned());
            taints.push(Taint { key: (*key).into(), effect: effect.into(), time_added, ..Taint::default() });
        }
    }
    (taints != present).then_some(taints)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn conditions_become_taints_and_those_of_others_stay() {
        let check = |conditions: Value, spec: Value, expected: Option<&[&str]>| {
            let node: NodeView =
                serde_json::from_value(json!({"spec": spec, "status": {"conditions": conditions}})).unwrap();
            let taints = no_schedule(&node, "now");
            let told = taints
                .map(|taints| taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect::<Vec<_>>());
            let expected = expected.map(|taints| taints.iter().map(|taint| (*taint).to_owned()).collect::<Vec<_>>());
            assert_eq!(told, expected, "{conditions} {spec}");
        };
        let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
        check(ready("True"), json!({}), None);
        check(ready("False"), json!({}), Some(&["node.kubernetes.io/not-ready:NoSchedule"]));
        check(ready("Unknown"), json!({}), Some(&["node.kubernetes.io/unreachable:NoSchedule"]));
        let own = json!({"key": "mine", "effect": "NoSchedule"});
        let old = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
        check(ready("True"), json!({"taints": [own, old]}), Some(&["mine:NoSchedule"]));
        let evicting = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"});
        check(ready("True"), json!({"taints": [own, evicting]}), None);
        let all = json!([
            {"type": "MemoryPressure", "status": "True"}, {"type": "DiskPressure", "status": "True"},
            {"type": "PIDPressure", "status": "True"}, {"type": "NetworkUnavailable", "status": "True"},
            {"type": "Ready", "status": "True"}]);
        let expected = [
            "node.kubernetes.io/memory-pressure:NoSchedule",
            "node.kubernetes.io/disk-pressure:NoSchedule",
            "node.kubernetes.io/network-unavailable:NoSchedule",
            "node.kubernetes.io/pid-pressure:NoSchedule",
            "node.kubernetes.io/unschedulable:NoSchedule",
        ];
        check(all, json!({"unschedulable": true}), Some(&expected));
        check(json!([{"type": "MemoryPressure", "status": "Unknown"}]), json!({}), None);
    }

    #[test]
    fn the_taint_that_evicts_is_swapped_and_taken_away() {
        let node: NodeView = serde_json::from_value(json!({"spec": {"taints": [
            {"key": NOT_READY, "effect": "NoSchedule"}, {"key": NOT_READY, "effect": "NoExecute", "timeAdded": "then"}]}}))
        .unwrap();
        assert!(evicts(&node));
        assert_eq!(no_execute(&node, Some(NOT_READY), "now"), None);
        let swapped = no_execute(&node, Some(UNREACHABLE), "now").unwrap();
        assert_eq!(
            (swapped.len(), swapped[1].key.as_str(), swapped[1].time_added.as_deref()),
            (2, UNREACHABLE, Some("now"))
        );
        assert_eq!(no_execute(&node, None, "now").unwrap().len(), 1);
    }
}
