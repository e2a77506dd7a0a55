//! A Deployment's status and conditions, in upstream's words. Pure.

use super::plan::{self, Sets};
use crate::objects::seconds;
use naru_api::meta::time;
use naru_client::projections::{Condition, DeploymentStatusView, DeploymentView, condition};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const DONE: &str = "NewReplicaSetAvailable";
pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// Something that a run has done or found, to be told by the Progressing condition.
#[derive(Debug, Clone)]
pub(super) struct Note {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Note {
    pub(super) fn created(set: &str) -> Self {
        let message = format!("Created new replica set \"{set}\"");
        Self { status: "True", reason: "NewReplicaSetCreated", message }
    }

    /// Worth telling only if nothing has been told yet.
    pub(super) fn found(deployment: &DeploymentView, set: &str) -> Option<Self> {
        if let Some(note) = paused_note(deployment) {
            return Some(note);
        }
        let told = condition(&deployment.status.conditions, PROGRESSING).is_some();
        let message = format!("Found new replica set \"{set}\"");
        (!told).then_some(Self { status: "True", reason: "FoundNewReplicaSet", message })
    }
}

/// Tells that a rollout was paused or goes on.
pub(super) fn paused_note(deployment: &DeploymentView) -> Option<Note> {
    let known = condition(&deployment.status.conditions, PROGRESSING).map(|known| known.reason.as_str());
    let told = known == Some(PAUSED);
    if known == Some(TIMED_OUT) || told == deployment.spec.paused {
        return None;
    }
    let (reason, message) = if deployment.spec.paused {
        (PAUSED, "Deployment is paused")
    } else {
        ("DeploymentResumed", "Deployment is resumed")
    };
    Some(Note { status: "Unknown", reason, message: message.to_owned() })
}

/// Whether the rollout is over.
pub(super) fn is_complete(deployment: &DeploymentView, status: &DeploymentStatusView) -> bool {
    let wanted = plan::wanted(deployment);
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// The status, and the seconds after which lack of progress would be due to be told.
pub(super) fn observe(
    deployment: &DeploymentView,
    sets: &Sets,
    note: Option<Note>,
    rollout: bool,
    now: i64,
) -> (DeploymentStatusView, Option<u64>) {
    let mut status = count(deployment, sets);
    let enough = plan::wanted(deployment) - plan::max_unavailable(deployment);
    let conditions = &mut status.conditions;
    if status.available_replicas >= enough {
        let message = "Deployment has minimum availability.";
        set(conditions, AVAILABLE, "True", "MinimumReplicasAvailable", message, now);
    } else {
        let message = "Deployment does not have minimum availability.";
        set(conditions, AVAILABLE, "False", "MinimumReplicasUnavailable", message, now);
    }
    // The largest number stands for no deadline.
    let deadline = deployment.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX);
    let Some(deadline) = deadline else {
        conditions.retain(|condition| condition.kind != PROGRESSING);
        note_failure(&mut status.conditions, sets, now);
        return (status, None);
    };
    if let Some(note) = note {
        set(conditions, PROGRESSING, note.status, note.reason, &note.message, now);
    }
    let mut wait = None;
    if rollout {
        wait = progress(deployment, sets, &mut status, deadline, now);
    }
    note_failure(&mut status.conditions, sets, now);
    (status, wait)
}

fn count(deployment: &DeploymentView, sets: &Sets) -> DeploymentStatusView {
    let sum = |of: fn(&naru_client::projections::ReplicaSetView) -> i32| sets.all().map(|set| of(set)).sum::<i32>();
    let available = sum(|set| set.status.available_replicas);
    DeploymentStatusView {
        observed_generation: deployment.metadata.generation,
        replicas: sum(|set| set.status.replicas),
        updated_replicas: sets.new.as_ref().map_or(0, |new| new.status.replicas),
        ready_replicas: sum(|set| set.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (sum(|set| set.spec.replicas()) - available).max(0),
        terminating_replicas: Some(sum(|set| set.status.terminating_replicas.unwrap_or_default())),
        collision_count: deployment.status.collision_count,
        conditions: deployment.status.conditions.clone(),
    }
}

fn progress(
    deployment: &DeploymentView,
    sets: &Sets,
    status: &mut DeploymentStatusView,
    deadline: i32,
    now: i64,
) -> Option<u64> {
    let known = condition(&status.conditions, PROGRESSING).cloned();
    let reason = known.as_ref().map(|known| known.reason.as_str());
    let what = match &sets.new {
        Some(new) => format!("ReplicaSet \"{}\"", new.metadata.name),
        None => format!("Deployment \"{}\"", deployment.metadata.name),
    };
    let done = format!("{what} has successfully progressed.");
    // What told of the new set's beginning may have got lost, as when the controller was killed in between.
    let is_news = known.as_ref().is_some_and(|known| known.reason == DONE && known.message != done);
    if status.replicas == status.updated_replicas && reason == Some(DONE) && !is_news {
        return None;
    }
    let since = known.as_ref().map(|known| seconds(&known.last_update_time));
    if is_complete(deployment, status) {
        put(&mut status.conditions, PROGRESSING, "True", DONE, &done, now);
        return None;
    }
    if is_news || has_progressed(&deployment.status, status) {
        let message = format!("{what} is progressing.");
        // Progress of the same kind is told again, since it moves the deadline.
        put(&mut status.conditions, PROGRESSING, "True", "ReplicaSetUpdated", &message, now);
        return u64::try_from(deadline).ok();
    }
    match (reason, since) {
        (None | Some(DONE | TIMED_OUT), _) | (_, None) => None,
        (Some(_), Some(since)) if since + i64::from(deadline) < now => {
            let message = format!("{what} has timed out progressing.");
            set(&mut status.conditions, PROGRESSING, "False", TIMED_OUT, &message, now);
            None
        }
        (Some(_), Some(since)) => u64::try_from(since + i64::from(deadline) - now + 1).ok(),
    }
}

fn has_progressed(before: &DeploymentStatusView, now: &DeploymentStatusView) -> bool {
    now.updated_replicas > before.updated_replicas
        || now.replicas - now.updated_replicas < before.replicas - before.updated_replicas
        || now.ready_replicas > before.ready_replicas
        || now.available_replicas > before.available_replicas
}

/// The newest set's failure, or any other's, is shown as the Deployment's.
fn note_failure(conditions: &mut Vec<Condition>, sets: &Sets, now: i64) {
    let of =
        |set: &naru_client::projections::ReplicaSetView| condition(&set.status.conditions, REPLICA_FAILURE).cloned();
    let failure = sets.new.iter().chain(&sets.old).find_map(|set| of(set));
    match failure.filter(|failure| failure.status == "True") {
        Some(failure) => set(conditions, REPLICA_FAILURE, "True", &failure.reason, &failure.message, now),
        None => conditions.retain(|condition| condition.kind != REPLICA_FAILURE),
    }
}

/// Sets a condition. The same status and reason again change nothing.
pub(super) fn set(conditions: &mut Vec<Condition>, kind: &str, status: &str, reason: &str, message: &str, now: i64) {
    let known = condition(conditions, kind);
    if known.is_some_and(|known| known.status == status && known.reason == reason) {
        return;
    }
    put(conditions, kind, status, reason, message, now);
}

fn put(conditions: &mut Vec<Condition>, kind: &str, status: &str, reason: &str, message: &str, now: i64) {
    let known = condition(conditions, kind).filter(|known| known.status == status);
    let now = time::format_seconds(now);
    let since = known.map_or_else(|| now.clone(), |known| known.last_transition_time.clone());
    conditions.retain(|condition| condition.kind != kind);
    conditions.push(Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since,
        last_update_time: now,
        ..Condition::default()
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use naru_client::projections::ReplicaSetView;
    use serde_json::json;
    use std::sync::Arc;

    fn deployment() -> DeploymentView {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "generation": 2},
            "spec": {"replicas": 2, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}},
        }))
        .unwrap()
    }

    fn sets(replicas: i32, available: i32) -> Sets {
        let set: ReplicaSetView = serde_json::from_value(json!({
            "metadata": {"name": "web-x"},
            "spec": {"replicas": 2},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available},
        }))
        .unwrap();
        Sets { new: Some(Arc::new(set)), old: Vec::new() }
    }

    fn told(status: &DeploymentStatusView, kind: &str) -> String {
        let condition = condition(&status.conditions, kind).unwrap();
        format!("{} {} {}", condition.status, condition.reason, condition.message)
    }

    #[test]
    fn a_rollout_is_told_from_creation_to_success() {
        let mut deployment = deployment();
        let (status, wait) = observe(&deployment, &sets(0, 0), Some(Note::created("web-x")), true, 100);
        assert_eq!(told(&status, PROGRESSING), "True NewReplicaSetCreated Created new replica set \"web-x\"");
        assert_eq!(
            told(&status, AVAILABLE),
            "False MinimumReplicasUnavailable Deployment does not have minimum availability."
        );
        assert_eq!(wait, Some(601));
        deployment.status = status;
        let (status, _) = observe(&deployment, &sets(2, 1), None, true, 110);
        assert_eq!(told(&status, PROGRESSING), "True ReplicaSetUpdated ReplicaSet \"web-x\" is progressing.");
        deployment.status = status;
        let (status, wait) = observe(&deployment, &sets(2, 2), None, true, 120);
        assert_eq!(
            told(&status, PROGRESSING),
            "True NewReplicaSetAvailable ReplicaSet \"web-x\" has successfully progressed."
        );
        assert_eq!(told(&status, AVAILABLE), "True MinimumReplicasAvailable Deployment has minimum availability.");
        assert_eq!(wait, None);
        let progressing = condition(&status.conditions, PROGRESSING).unwrap();
        assert_eq!(progressing.last_transition_time, time::format_seconds(100));
        assert_eq!(progressing.last_update_time, time::format_seconds(120));
        deployment.status = status.clone();
        let (again, _) = observe(&deployment, &sets(2, 2), None, true, 999);
        assert_eq!(again, status, "a converged deployment has nothing to write");
    }

    #[test]
    fn a_rollout_whose_beginning_was_not_told_times_out_too() {
        let mut deployment = deployment();
        let message = "ReplicaSet \"web-old\" has successfully progressed.";
        set(&mut deployment.status.conditions, PROGRESSING, "True", DONE, message, 100);
        (deployment.status.replicas, deployment.status.updated_replicas) = (2, 2);
        let (status, wait) = observe(&deployment, &sets(1, 0), None, true, 5000);
        assert_eq!(told(&status, PROGRESSING), "True ReplicaSetUpdated ReplicaSet \"web-x\" is progressing.");
        assert_eq!(wait, Some(600));
        deployment.status = status;
        let (status, _) = observe(&deployment, &sets(1, 0), None, true, 5601);
        assert_eq!(condition(&status.conditions, PROGRESSING).unwrap().reason, TIMED_OUT);
    }

    #[test]
    fn a_rollout_without_progress_times_out_once() {
        let mut deployment = deployment();
        let (status, _) = observe(&deployment, &sets(2, 0), Some(Note::created("web-x")), true, 100);
        deployment.status = status;
        let (status, wait) = observe(&deployment, &sets(2, 0), None, true, 650);
        assert_eq!((&status, wait), (&deployment.status, Some(51)));
        let (status, wait) = observe(&deployment, &sets(2, 0), None, true, 701);
        assert_eq!(
            told(&status, PROGRESSING),
            "False ProgressDeadlineExceeded ReplicaSet \"web-x\" has timed out progressing."
        );
        assert_eq!(wait, None);
        deployment.status = status.clone();
        assert_eq!(observe(&deployment, &sets(2, 0), None, true, 800).0, status);
    }

    #[test]
    fn pausing_and_resuming_are_told() {
        let mut deployment = deployment();
        deployment.spec.paused = true;
        let note = paused_note(&deployment);
        deployment.status = observe(&deployment, &sets(2, 2), note, false, 100).0;
        assert_eq!(told(&deployment.status, PROGRESSING), "Unknown DeploymentPaused Deployment is paused");
        assert!(paused_note(&deployment).is_none());
        deployment.spec.paused = false;
        let note = paused_note(&deployment);
        let status = observe(&deployment, &sets(2, 1), note, false, 110).0;
        assert_eq!(told(&status, PROGRESSING), "Unknown DeploymentResumed Deployment is resumed");
    }
}
