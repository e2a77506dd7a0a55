//! A StatefulSet's status. Pure.

use super::REVISION;
use super::plan::Revisions;
use crate::pods::until_available;
use naru_client::projections::{PodView, StatefulSetStatusView, StatefulSetView};
use std::sync::Arc;

/// The status, and the seconds until a pod that is ready will be available.
pub(super) fn observe(
    set: &StatefulSetView,
    revisions: &Revisions,
    pods: &[Arc<PodView>],
    now: i64,
) -> (StatefulSetStatusView, Option<u64>) {
    let (current, update) = (&revisions.current.metadata.name, &revisions.update.metadata.name);
    let mut status = StatefulSetStatusView {
        observed_generation: set.metadata.generation,
        current_revision: current.clone(),
        update_revision: update.clone(),
        collision_count: Some(revisions.collisions),
        conditions: set.status.conditions.clone(),
        ..StatefulSetStatusView::default()
    };
    let mut soonest: Option<i64> = None;
    for pod in pods.iter().filter(|pod| !pod.status.phase.is_empty()) {
        status.replicas += 1;
        if pod.status.phase == "Running" && pod.is_ready() {
            status.ready_replicas += 1;
            let wait = until_available(pod, set.spec.min_ready_seconds, now);
            if wait <= 0 {
                status.available_replicas += 1;
            } else {
                soonest = Some(soonest.map_or(wait, |other| other.min(wait)));
            }
        }
        if !pod.metadata.is_deleting() {
            let revision = pod.metadata.labels.get(REVISION);
            status.current_replicas += i32::from(revision == Some(current));
            status.updated_replicas += i32::from(revision == Some(update));
        }
    }
    let wanted = set.spec.replicas();
    let complete = [status.updated_replicas, status.ready_replicas, status.replicas];
    if set.spec.update_strategy.kind == "RollingUpdate" && complete.iter().all(|count| *count == wanted) {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(update);
    }
    (status, soonest.and_then(|wait| u64::try_from(wait).ok()))
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::{pods, revisions, set};
    use super::*;

    /// Replicas, ready, available, current, updated; and the current revision.
    fn check(present: &[&str], expected: [i32; 5], current: &str) {
        let (status, wait) = observe(&set(3, |_| {}), &revisions("old", "new"), &pods(present), i64::MAX / 2);
        let counted = [
            status.replicas,
            status.ready_replicas,
            status.available_replicas,
            status.current_replicas,
            status.updated_replicas,
        ];
        assert_eq!((counted, status.current_revision.as_str()), (expected, current), "{present:?}");
        assert_eq!((status.update_revision.as_str(), status.collision_count, wait), ("new", Some(0), None));
    }

    #[test]
    fn pods_are_counted_by_state_and_revision() {
        check(&[], [0, 0, 0, 0, 0], "old");
        check(&["0:old", "1:old!", "2:newp"], [3, 1, 1, 2, 1], "old");
        check(&["0:old", "1:oldx", "2:new"], [3, 3, 3, 1, 1], "old");
        check(&["0:new", "1:new", "2:new!"], [3, 2, 2, 0, 3], "old");
        check(&["0:new", "1:new", "2:new"], [3, 3, 3, 3, 3], "new");
        check(&["0:new", "1:new", "2:new", "3:old"], [4, 4, 4, 1, 3], "old");
    }
}
