//! What a Deployment does to its ReplicaSets: create, size, tidy up.

use super::plan::{self, Sets, Step};
use super::status::Note;
use super::{DESIRED, Deployments, HASH, MAX, REVISION, REVISION_HISTORY, revision};
use crate::objects::seconds;
use crate::{ownership, pods};
use naru_api::registry;
use naru_client::projections::{DeploymentView, ReplicaSetView, TemplateDigest};
use naru_client::{DeleteOptions, Error, PatchKind, is_already_exists, is_not_found};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// ReplicaSets kept for going back to, if unsaid.
const HISTORY: i32 = 10;
/// Annotations of a Deployment that its ReplicaSets do not take over.
const OWN_ANNOTATIONS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
    super::rollback::LAST_GOOD,
];

impl Deployments {
    pub(super) async fn scale_all(&self, deployment: &DeploymentView, steps: &[Step]) -> Result<(), Error> {
        for (set, replicas) in steps {
            self.scale(deployment, set, *replicas).await?;
        }
        Ok(())
    }

    /// Sizes a set, and notes what Deployment size that was for.
    pub(super) async fn scale(
        &self,
        deployment: &DeploymentView,
        set: &ReplicaSetView,
        replicas: i32,
    ) -> Result<(), Error> {
        let before = set.spec.replicas();
        let sizes = sizes(deployment);
        let meta = &set.metadata;
        let noted = sizes.iter().all(|(name, value)| meta.annotations.get(*name) == Some(value));
        if before == replicas && noted {
            return Ok(());
        }
        let annotations: Map<String, Value> =
            sizes.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        // The resourceVersion makes a decision that was based on an old state fail.
        let patch = json!({
            "metadata": {"resourceVersion": meta.resource_version, "annotations": annotations},
            "spec": {"replicas": replicas},
        });
        self.patch_set(set, &patch).await?;
        if before != replicas {
            let direction = if replicas > before { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {} from {before} to {replicas}", meta.name);
            self.recorder.normal(&self.about(deployment), "ScalingReplicaSet", message);
        }
        Ok(())
    }

    async fn patch_set(&self, set: &ReplicaSetView, patch: &Value) -> Result<ReplicaSetView, Error> {
        let (client, meta, kind) = (&self.context.client, &set.metadata, PatchKind::Merge);
        client.patch(&registry::REPLICA_SETS, meta.namespace(), &meta.name, None, kind, patch).await
    }

    /// Makes sure that a set of the present template exists, at the highest revision.
    pub(super) async fn ensure_new(&self, deployment: &DeploymentView, sets: &mut Sets) -> Result<Option<Note>, Error> {
        let next = sets.old.iter().map(|set| revision(set)).max().unwrap_or_default() + 1;
        let Some(mut new) = sets.new.clone() else {
            let new = self.create(deployment, sets, next).await?;
            let note = Note::created(&new.metadata.name);
            sets.new = Some(Arc::new(new));
            self.show_revision(deployment, &next.to_string()).await?;
            return Ok(Some(note));
        };
        let patch = renewal(deployment, &new, next);
        if !patch.is_null() {
            new = Arc::new(self.patch_set(&new, &patch).await?);
            sets.new = Some(new.clone());
        }
        self.show_revision(deployment, &revision(&new).to_string()).await?;
        Ok(Note::found(deployment, &new.metadata.name))
    }

    async fn create(&self, deployment: &DeploymentView, sets: &Sets, revision: i64) -> Result<ReplicaSetView, Error> {
        let (client, meta) = (&self.context.client, &deployment.metadata);
        let full: Value = client.get(&registry::DEPLOYMENTS, meta.namespace(), &meta.name).await?;
        let replicas = plan::first_size(deployment, sets);
        let collisions = deployment.status.collision_count.unwrap_or_default();
        let object = new_set(deployment, &full, revision, replicas, collisions);
        match client.create::<ReplicaSetView>(&registry::REPLICA_SETS, meta.namespace(), &object).await {
            Ok(set) => {
                let name = &set.metadata.name;
                if replicas > 0 {
                    let message = format!("Scaled up replica set {name} from 0 to {replicas}");
                    self.recorder.normal(&self.about(deployment), "ScalingReplicaSet", message);
                }
                Ok(set)
            }
            Err(error) if is_already_exists(&error) => {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let taken: ReplicaSetView = client.get(&registry::REPLICA_SETS, meta.namespace(), name).await?;
                let ours = taken.metadata.controller().is_some_and(|owner| owner.uid == meta.uid);
                if ours && taken.spec.template.digest == TemplateDigest::of(&full["spec"]["template"]) {
                    return Ok(taken);
                }
                // The next run makes another name of it.
                let mut full = full;
                full["status"]["collisionCount"] = (collisions + 1).into();
                client.update_status::<Value>(&registry::DEPLOYMENTS, meta.namespace(), &meta.name, &full).await?;
                Err(error)
            }
            // Nobody wants a set in a namespace that goes.
            Err(error) if pods::is_namespace_terminating(&error) => Err(error),
            Err(error) => {
                let message = format!(
                    "Failed to create new replica set {:?}: {error}",
                    object["metadata"]["name"].as_str().unwrap_or_default()
                );
                self.recorder.warning(&self.about(deployment), "ReplicaSetCreateError", message);
                Err(error)
            }
        }
    }

    /// Deletes the oldest empty sets beyond the history limit.
    pub(super) async fn tidy(&self, deployment: &DeploymentView, sets: &Sets) -> Result<(), Error> {
        let limit = deployment.spec.revision_history_limit.unwrap_or(HISTORY);
        let surplus = sets.old.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        if surplus == 0 {
            return Ok(());
        }
        let mut old = sets.old.clone();
        old.sort_by_key(|set| (revision(set), seconds(&set.metadata.creation_timestamp)));
        for set in old.into_iter().take(surplus) {
            let busy = set.status.replicas != 0
                || set.spec.replicas() != 0
                || set.metadata.generation > set.status.observed_generation
                || set.metadata.is_deleting();
            if busy {
                continue;
            }
            let options = DeleteOptions::default().uid(&set.metadata.uid);
            let (client, meta) = (&self.context.client, &set.metadata);
            match client.delete(&registry::REPLICA_SETS, meta.namespace(), &meta.name, &options).await {
                Err(error) if is_not_found(&error) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn sizes(deployment: &DeploymentView) -> [(&'static str, String); 2] {
    let wanted = plan::wanted(deployment);
    [(DESIRED, wanted.to_string()), (MAX, (wanted + plan::surge(deployment)).to_string())]
}

fn own_annotations(deployment: &DeploymentView) -> Map<String, Value> {
    let annotations = deployment.metadata.annotations.iter();
    annotations
        .filter(|(name, _)| !OWN_ANNOTATIONS.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect()
}

/// The patch that brings an existing set's annotations and settings up to date; null if they are.
/// `next` is the revision after all others: a set that comes back takes it.
fn renewal(deployment: &DeploymentView, new: &ReplicaSetView, next: i64) -> Value {
    let mut annotations = own_annotations(deployment);
    let shown = revision(new);
    if shown < next {
        if shown > 0 {
            let history = new.metadata.annotations.get(REVISION_HISTORY);
            let history = history.map_or_else(|| shown.to_string(), |history| format!("{history},{shown}"));
            annotations.insert(REVISION_HISTORY.to_owned(), history.into());
        }
        annotations.insert(REVISION.to_owned(), next.to_string().into());
    }
    annotations.retain(|name, value| new.metadata.annotations.get(name).map(String::as_str) != value.as_str());
    let waits = deployment.spec.min_ready_seconds;
    if annotations.is_empty() && new.spec.min_ready_seconds == waits {
        return Value::Null;
    }
    json!({
        "metadata": {"resourceVersion": new.metadata.resource_version, "annotations": annotations},
        "spec": {"minReadySeconds": waits},
    })
}

/// The object of a new set.
fn new_set(deployment: &DeploymentView, full: &Value, revision: i64, replicas: i32, collisions: i32) -> Value {
    let meta = &deployment.metadata;
    let mut template = full["spec"]["template"].clone();
    let hash = TemplateDigest::of(&template).name(collisions);
    template["metadata"]["labels"][HASH] = hash.as_str().into();
    let mut selector = full["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = hash.as_str().into();
    let mut annotations = own_annotations(deployment);
    annotations.insert(REVISION.to_owned(), revision.to_string().into());
    for (name, value) in sizes(deployment) {
        annotations.insert(name.to_owned(), value.into());
    }
    let mut name = meta.name.clone();
    name.truncate(253 - 1 - hash.len());
    json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{name}-{hash}"),
            "namespace": meta.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": [ownership::controller_reference(&registry::DEPLOYMENTS, meta)],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": deployment.spec.min_ready_seconds,
            "selector": selector,
            "template": template,
        },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_new_set_carries_hash_revision_sizes_and_owner() {
        let full = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u",
                "annotations": {"note": "x", "deployment.kubernetes.io/revision": "4"}},
            "spec": {
                "replicas": 4,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            },
        });
        let deployment: DeploymentView = serde_json::from_value(full.clone()).unwrap();
        let set = new_set(&deployment, &full, 5, 4, 0);
        let hash = set["metadata"]["labels"][HASH].as_str().unwrap().to_owned();
        assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
        assert_eq!(set["spec"]["selector"]["matchLabels"], json!({"app": "web", HASH: hash}));
        assert_eq!(set["spec"]["template"]["metadata"]["labels"], json!({"app": "web", HASH: hash}));
        assert_eq!(set["metadata"]["annotations"], json!({"note": "x", REVISION: "5", DESIRED: "4", MAX: "5"}));
        assert_eq!(set["metadata"]["ownerReferences"][0]["kind"], "Deployment");
        let view: ReplicaSetView = serde_json::from_value(set).unwrap();
        assert_eq!(view.spec.template.digest, deployment.spec.template.digest, "the set is found again");
        let other = new_set(&deployment, &full, 5, 4, 1);
        assert_ne!(other["metadata"]["labels"][HASH], hash.as_str());
    }
}
