//! A DaemonSet's status. Pure.

use super::nodes::Fit;
use super::plan::Daemons;
use crate::pods::until_available;
use naru_client::projections::DaemonSetStatusView;

/// The status, and the seconds until a pod that is ready will be available. `processed`: the present
/// generation has been looked at.
pub(super) fn observe(daemons: &Daemons<'_>, processed: bool) -> (DaemonSetStatusView, Option<u64>) {
    let before = &daemons.set.status;
    let mut status = DaemonSetStatusView {
        observed_generation: if processed { daemons.set.metadata.generation } else { before.observed_generation },
        conditions: before.conditions.clone(),
        ..DaemonSetStatusView::default()
    };
    let mut soonest: Option<i64> = None;
    for (node, fit) in &daemons.nodes {
        let first = daemons.pods_on(node).first();
        if *fit != Fit::Wanted {
            status.number_misscheduled += i32::from(first.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = first else { continue };
        status.current_number_scheduled += 1;
        status.updated_number_scheduled += i32::from(daemons.is_updated(pod));
        if !pod.is_ready() {
            continue;
        }
        status.number_ready += 1;
        let wait = until_available(pod, daemons.set.spec.min_ready_seconds, daemons.now);
        if wait <= 0 {
            status.number_available += 1;
        } else {
            soonest = Some(soonest.map_or(wait, |other| other.min(wait)));
        }
    }
    status.number_unavailable = status.desired_number_scheduled - status.number_available;
    (status, soonest.and_then(|wait| u64::try_from(wait).ok()))
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::{nodes, pods, set};
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_are_counted_by_their_oldest_pod() {
        let set = set(json!(1), json!(0));
        let present = pods(&["n1:new", "n2:old", "n2:new", "n3:new!", "kept:new"]);
        let daemons = Daemons::new(&set, "new", nodes(), &present, i64::MAX / 2);
        let (status, wait) = observe(&daemons, true);
        let expected = DaemonSetStatusView {
            desired_number_scheduled: 4,
            current_number_scheduled: 3,
            number_misscheduled: 1,
            number_ready: 2,
            updated_number_scheduled: 2,
            number_available: 2,
            number_unavailable: 2,
            observed_generation: 2,
            ..DaemonSetStatusView::default()
        };
        assert_eq!((status, wait), (expected, None));
        assert_eq!(observe(&daemons, false).0.observed_generation, 0);
    }
}
