//! A set's status.

use super::Replicas;
use crate::objects::{self, now, now_text};
use crate::pods::until_available;
use naru_client::projections::{Condition, PodView, ReplicaSetStatusView, ReplicaSetView, Replicated, condition};
use naru_client::{Error, Next, is_not_found};
use std::sync::Arc;
use std::time::Duration;

const FAILURE: &str = "ReplicaFailure";

impl<S: Replicated> Replicas<S> {
    /// Writes the status if it has changed. Says when to look again: a ready pod turns available by
    /// time alone.
    pub(super) async fn write_status(
        &self,
        set: &ReplicaSetView,
        pods: &[Arc<PodView>],
        failure: Option<String>,
    ) -> Result<Next, Error> {
        let (mut status, next) = observe(set, pods, now());
        if self.kind.group.is_empty() {
            status.terminating_replicas = None;
        }
        status.conditions.clone_from(&set.status.conditions);
        note_failure(&mut status.conditions, set.spec.replicas() > status.replicas, failure);
        if status != set.status {
            let (client, meta) = (&self.context.client, &set.metadata);
            match objects::write_status(client, self.kind, meta, &status).await {
                Err(error) if is_not_found(&error) => {}
                other => other?,
            }
        }
        Ok(next)
    }
}

fn observe(set: &ReplicaSetView, pods: &[Arc<PodView>], now: i64) -> (ReplicaSetStatusView, Next) {
    let mut status = ReplicaSetStatusView {
        observed_generation: set.metadata.generation,
        terminating_replicas: Some(0),
        ..ReplicaSetStatusView::default()
    };
    let mut soonest: Option<i64> = None;
    for pod in pods {
        if pod.metadata.is_deleting() && !pod.is_finished() {
            *status.terminating_replicas.get_or_insert(0) += 1;
        }
        if !pod.is_active() {
            continue;
        }
        status.replicas += 1;
        let labels = &pod.metadata.labels;
        if set.spec.template.labels.iter().all(|(key, value)| labels.get(key) == Some(value)) {
            status.fully_labeled_replicas += 1;
        }
        if !pod.is_ready() {
            continue;
        }
        status.ready_replicas += 1;
        let wait = until_available(pod, set.spec.min_ready_seconds, now);
        if wait <= 0 {
            status.available_replicas += 1;
        } else {
            soonest = Some(soonest.map_or(wait, |other| other.min(wait)));
        }
    }
    let wait = soonest.and_then(|wait| u64::try_from(wait).ok());
    (status, wait.map_or(Next::Done, |wait| Next::After(Duration::from_secs(wait))))
}

/// The failure condition comes with the first failure and goes with the next success.
fn note_failure(conditions: &mut Vec<Condition>, creating: bool, failure: Option<String>) {
    match failure {
        None => conditions.retain(|condition| condition.kind != FAILURE),
        Some(_) if condition(conditions, FAILURE).is_some() => {}
        Some(message) => conditions.push(Condition {
            kind: FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: if creating { "FailedCreate" } else { "FailedDelete" }.to_owned(),
            message,
            last_transition_time: now_text(),
            ..Condition::default()
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::objects::seconds;
    use serde_json::json;

    #[test]
    fn pods_are_counted_by_what_they_are() {
        let set: ReplicaSetView = serde_json::from_value(json!({
            "metadata": {"generation": 3},
            "spec": {"minReadySeconds": 10, "template": {"metadata": {"labels": {"app": "web"}}}},
        }))
        .unwrap();
        let pod = |ready_since: Option<&str>, phase: &str, deleting: bool| {
            let mut value = json!({
                "metadata": {"labels": {"app": "web"}},
                "status": {"phase": phase, "conditions": []},
            });
            if let Some(since) = ready_since {
                value["status"]["conditions"] =
                    json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
            }
            if deleting {
                value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            Arc::new(serde_json::from_value::<PodView>(value).unwrap())
        };
        let pods = [
            pod(Some("2026-01-01T00:00:00Z"), "Running", false),
            pod(Some("2026-01-01T00:00:12Z"), "Running", false),
            pod(None, "Pending", false),
            pod(None, "Failed", false),
            pod(None, "Running", true),
        ];
        let (status, next) = observe(&set, &pods, seconds("2026-01-01T00:00:15Z"));
        let expected = ReplicaSetStatusView {
            replicas: 3,
            fully_labeled_replicas: 3,
            ready_replicas: 2,
            available_replicas: 1,
            terminating_replicas: Some(1),
            observed_generation: 3,
            conditions: Vec::new(),
        };
        assert_eq!(status, expected);
        assert_eq!(next, Next::After(Duration::from_secs(7)));
    }
}
