//! What Kubernetes has not built in: a Deployment that asks for it goes back to its last good template by
//! itself when a rollout makes no progress in time.

use super::plan::Sets;
use super::status::{self, TIMED_OUT};
use super::{Deployments, HASH, revision};
use naru_api::registry;
use naru_client::projections::{Condition, DeploymentStatusView, DeploymentView, ReplicaSetView, condition};
use naru_client::{Error, is_not_found};
use serde_json::Value;
use std::sync::Arc;

/// `true` asks for it.
const WANTED: &str = "naru.io/rollback-on-failure";
/// The ReplicaSet of the last rollout that was completed.
pub(super) const LAST_GOOD: &str = "naru.io/last-good-replica-set";
/// Tells why the template is not the one that was asked for.
pub(super) const ROLLED_BACK: &str = "RolledBack";

pub(super) fn is_wanted(deployment: &DeploymentView) -> bool {
    deployment.metadata.annotations.get(WANTED).is_some_and(|wanted| wanted == "true")
}

fn last_good(deployment: &DeploymentView) -> Option<&str> {
    deployment.metadata.annotations.get(LAST_GOOD).map(String::as_str)
}

/// The set to be noted as the last good one, if that is news.
pub(super) fn news(deployment: &DeploymentView, sets: &Sets, status: &DeploymentStatusView) -> Option<String> {
    let new = sets.new.as_ref().filter(|_| is_wanted(deployment) && status::is_complete(deployment, status))?;
    (last_good(deployment) != Some(&new.metadata.name)).then(|| new.metadata.name.clone())
}

/// The set to go back to, when the present one has not made it.
fn target<'s>(
    deployment: &DeploymentView,
    sets: &'s Sets,
    status: &DeploymentStatusView,
) -> Option<&'s Arc<ReplicaSetView>> {
    let failed = condition(&status.conditions, "Progressing").is_some_and(|told| told.reason == TIMED_OUT);
    let good = last_good(deployment).filter(|_| failed && is_wanted(deployment) && !deployment.spec.paused)?;
    sets.old.iter().find(|set| set.metadata.name == good)
}

/// Adds the condition when the Deployment goes back, and takes it away once something else is wanted.
pub(super) fn note(deployment: &DeploymentView, sets: &Sets, status: &mut DeploymentStatusView, now: i64) {
    if let (Some(good), Some(bad)) = (target(deployment, sets, status), &sets.new) {
        let message = message(deployment, good, bad);
        status::set(&mut status.conditions, ROLLED_BACK, "True", TIMED_OUT, &message, now);
        return;
    }
    let new = sets.new.as_ref().map(|new| new.metadata.name.as_str());
    if new != last_good(deployment) {
        status.conditions.retain(|told: &Condition| told.kind != ROLLED_BACK);
    }
}

fn message(deployment: &DeploymentView, good: &ReplicaSetView, bad: &ReplicaSetView) -> String {
    format!(
        "Rolled back to replica set \"{}\" (revision {}): replica set \"{}\" (revision {}) has made no progress for {} seconds",
        good.metadata.name,
        revision(good),
        bad.metadata.name,
        revision(bad),
        deployment.spec.progress_deadline_seconds.unwrap_or_default(),
    )
}

impl Deployments {
    /// Goes back, if that is due. The condition has been written before, so that nothing is done that is
    /// not told.
    pub(super) async fn roll_back(
        &self,
        deployment: &DeploymentView,
        sets: &Sets,
        status: &DeploymentStatusView,
    ) -> Result<(), Error> {
        let (Some(good), Some(bad)) = (target(deployment, sets, status), &sets.new) else { return Ok(()) };
        let (client, meta) = (&self.context.client, &deployment.metadata);
        let set: Value = client.get(&registry::REPLICA_SETS, meta.namespace(), &good.metadata.name).await?;
        let mut template = set["spec"]["template"].clone();
        if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove(HASH);
        }
        let mut full: Value = client.get(&registry::DEPLOYMENTS, meta.namespace(), &meta.name).await?;
        if full["metadata"]["generation"] != meta.generation {
            // Something newer is wanted already.
            return Ok(());
        }
        full["spec"]["template"] = template;
        match client.update::<Value>(&registry::DEPLOYMENTS, meta.namespace(), &meta.name, &full).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            other => drop(other?),
        }
        self.recorder.warning(&self.about(deployment), ROLLED_BACK, message(deployment, good, bad));
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_rollout_that_timed_out_goes_back_and_the_condition_goes_with_the_next_template() {
        let set = |name: &str| -> Arc<ReplicaSetView> {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}})).unwrap())
        };
        let mut deployment: DeploymentView = serde_json::from_value(json!({
            "metadata": {"name": "web", "annotations": {WANTED: "true", LAST_GOOD: "web-1"}},
            "spec": {"progressDeadlineSeconds": 5},
        }))
        .unwrap();
        let told = |reason: &str| -> DeploymentStatusView {
            serde_json::from_value(json!({"conditions": [{"type": "Progressing", "reason": reason}]})).unwrap()
        };
        let sets = Sets { new: Some(set("web-2")), old: vec![set("web-1")] };
        assert!(target(&deployment, &sets, &told("ReplicaSetUpdated")).is_none());
        let mut status = told(TIMED_OUT);
        assert_eq!(target(&deployment, &sets, &status).unwrap().metadata.name, "web-1");
        note(&deployment, &sets, &mut status, 100);
        let condition = condition(&status.conditions, ROLLED_BACK).unwrap().clone();
        assert_eq!(
            condition.message,
            "Rolled back to replica set \"web-1\" (revision 0): replica set \"web-2\" (revision 0) has made no progress for 5 seconds"
        );
        let back = Sets { new: Some(set("web-1")), old: vec![set("web-2")] };
        let count = |sets: &Sets, mut status: DeploymentStatusView| {
            note(&deployment, sets, &mut status, 100);
            status.conditions.len()
        };
        status.conditions.retain(|told| told.kind == ROLLED_BACK);
        assert_eq!(count(&back, status.clone()), 1, "it says why while the good template is there");
        assert_eq!(count(&Sets { new: Some(set("web-3")), old: Vec::new() }, status), 0);
        deployment.spec.paused = true;
        assert!(target(&deployment, &sets, &told(TIMED_OUT)).is_none());
    }
}
