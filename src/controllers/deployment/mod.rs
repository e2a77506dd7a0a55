//! Deployments: roll from one template to the next through ReplicaSets.

mod plan;
mod rollback;
mod sets;
mod status;

use crate::Context;
use crate::objects::{self, now};
use crate::ownership::Claimant;
use naru_api::registry;
use naru_client::projections::{DeploymentStatusView, DeploymentView, Meta, PodView, ReplicaSetView};
use naru_client::{
    Change, Error, EventRecorder, IndexId, Informer, Next, ObjectKey, ObjectReference, WorkQueue, is_not_found,
};
use plan::Sets;
use serde_json::Value;
use status::Note;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 4;

/// The revision that a ReplicaSet or a Deployment is at.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions of a ReplicaSet that came back.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's replicas when the ReplicaSet was last sized.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with surge.
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Label of a ReplicaSet and its pods.
const HASH: &str = "pod-template-hash";

struct Deployments {
    context: Context,
    recorder: EventRecorder,
    deployments: Informer<DeploymentView>,
    sets: Informer<ReplicaSetView>,
    sets_by_controller: IndexId,
    pods: Informer<PodView>,
    pods_by_controller: IndexId,
    queue: WorkQueue<ObjectKey>,
}

pub(crate) fn start(context: &Context) {
    let (sets, sets_by_controller) = context.informers.replica_sets_by_controller();
    let (pods, pods_by_controller) = context.informers.pods_by_controller();
    let deployments = context.informers.deployments();
    let controller = Arc::new(Deployments {
        context: context.clone(),
        recorder: context.recorder("deployment-controller"),
        deployments: deployments.clone(),
        sets: sets.clone(),
        sets_by_controller,
        pods: pods.clone(),
        pods_by_controller,
        queue: WorkQueue::new(),
    });
    let queue = controller.queue.clone();
    deployments.subscribe(move |change| queue.add(change.key.clone()));
    let taker = controller.clone();
    sets.subscribe(move |change| taker.set_changed(change));
    let taker = controller.clone();
    pods.subscribe(move |change| taker.pod_changed(change));
    let synced = async move {
        deployments.synced().await;
        sets.synced().await;
        pods.synced().await;
    };
    let queue = controller.queue.clone();
    context.run(&queue, WORKERS, synced, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Deployments {
    fn set_changed(&self, change: &Change<ReplicaSetView>) {
        for set in [&change.old, &change.new].into_iter().flatten() {
            match owner_key(&set.metadata) {
                Some(owner) => self.queue.add(owner),
                None if set.metadata.controller().is_none() => {
                    for deployment in self.deployments.by_namespace(&set.metadata.namespace) {
                        if deployment.spec.selector.matches(&set.metadata.labels) {
                            self.queue.add(deployment.metadata.key());
                        }
                    }
                }
                None => {}
            }
        }
    }

    /// Recreate goes on when the last old pod has ended.
    fn pod_changed(&self, change: &Change<PodView>) {
        let Some(pod) = change.old.as_ref().filter(|old| !old.is_finished()) else { return };
        if change.new.as_ref().is_some_and(|new| !new.is_finished()) {
            return;
        }
        let Some(owner) = pod.metadata.controller().filter(|owner| owner.kind == "ReplicaSet") else { return };
        let set = self.sets.get(&pod.metadata.namespace, &owner.name);
        if let Some(key) = set.and_then(|set| owner_key(&set.metadata))
            && self.deployments.get_key(&key).is_some_and(|owner| owner.spec.strategy.kind == "Recreate")
        {
            self.queue.add(key);
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(deployment) = self.deployments.get_key(key) else { return Ok(Next::Done) };
        let all = self.claim(&deployment).await?;
        let sets = Sets::split(&deployment, all);
        if deployment.metadata.is_deleting() {
            return self.finish(&deployment, &sets, None, false).await;
        }
        if deployment.spec.paused || plan::is_resized(&deployment, &sets) {
            let note = status::paused_note(&deployment);
            self.scale_all(&deployment, &plan::resize(&deployment, &sets)).await?;
            if deployment.spec.paused {
                self.tidy(&deployment, &sets).await?;
            }
            return self.finish(&deployment, &sets, note, false).await;
        }
        match deployment.spec.strategy.kind.as_str() {
            "Recreate" => self.recreate(&deployment, sets).await,
            _ => self.roll(&deployment, sets).await,
        }
    }

    async fn recreate(&self, deployment: &DeploymentView, mut sets: Sets) -> Result<Next, Error> {
        let downs = plan::all_down(&sets.old);
        if !downs.is_empty() {
            self.scale_all(deployment, &downs).await?;
            return self.finish(deployment, &sets, status::paused_note(deployment), true).await;
        }
        if sets.old.iter().any(|set| self.has_running_pods(set)) {
            return self.finish(deployment, &sets, status::paused_note(deployment), true).await;
        }
        let note = self.ensure_new(deployment, &mut sets).await?;
        let new = sets.new.as_ref().filter(|new| new.spec.replicas() != plan::wanted(deployment));
        if let Some(new) = new {
            self.scale(deployment, new, plan::wanted(deployment)).await?;
        }
        self.finish(deployment, &sets, note, true).await
    }

    async fn roll(&self, deployment: &DeploymentView, mut sets: Sets) -> Result<Next, Error> {
        let note = self.ensure_new(deployment, &mut sets).await?;
        match plan::up(deployment, &sets) {
            Some(step) => self.scale_all(deployment, &[step]).await?,
            None => self.scale_all(deployment, &plan::down(deployment, &sets)).await?,
        }
        self.finish(deployment, &sets, note, true).await
    }

    fn has_running_pods(&self, set: &ReplicaSetView) -> bool {
        self.pods.indexed(self.pods_by_controller, &set.metadata.uid).iter().any(|pod| !pod.is_finished())
    }

    /// Writes the status if it has changed, and tidies up after a completed rollout.
    async fn finish(
        &self,
        deployment: &DeploymentView,
        sets: &Sets,
        note: Option<Note>,
        rollout: bool,
    ) -> Result<Next, Error> {
        let now = now();
        let (mut status, wait) = status::observe(deployment, sets, note, rollout, now);
        rollback::note(deployment, sets, &mut status, now);
        let good = rollback::news(deployment, sets, &status);
        if status != deployment.status || good.is_some() {
            self.write_status(deployment, &status, good).await?;
        }
        self.roll_back(deployment, sets, &status).await?;
        if rollout && status::is_complete(deployment, &status) {
            self.tidy(deployment, sets).await?;
        }
        Ok(wait.map_or(Next::Done, |seconds| Next::After(Duration::from_secs(seconds))))
    }

    /// Writes the status, and with it the annotation that names a good set.
    async fn write_status(
        &self,
        deployment: &DeploymentView,
        status: &DeploymentStatusView,
        good: Option<String>,
    ) -> Result<(), Error> {
        let annotate = |object: &mut Value| {
            if let Some(good) = good {
                object["metadata"]["annotations"][rollback::LAST_GOOD] = good.into();
            }
        };
        let (client, meta) = (&self.context.client, &deployment.metadata);
        match objects::write_status_with(client, &registry::DEPLOYMENTS, meta, status, annotate).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn about(&self, deployment: &DeploymentView) -> ObjectReference {
        ObjectReference::of(&registry::DEPLOYMENTS, &deployment.metadata)
    }

    /// The Deployment's own sets, with orphans that it adopts; those that do not match are released.
    async fn claim(&self, deployment: &DeploymentView) -> Result<Vec<Arc<ReplicaSetView>>, Error> {
        let claimant = Claimant {
            client: &self.context.client,
            resource: &registry::REPLICA_SETS,
            cache: &self.sets,
            by_controller: self.sets_by_controller,
            meta: |set| &set.metadata,
            kind: &registry::DEPLOYMENTS,
            owner: &deployment.metadata,
        };
        let selector = &deployment.spec.selector;
        claimant.claim(|set| !selector.is_empty() && selector.matches(&set.metadata.labels), |_| true).await
    }

    /// Shows the revision on the Deployment itself: together with its status, since an annotation that is
    /// written otherwise counts as a change of what is wanted.
    async fn show_revision(&self, deployment: &DeploymentView, revision: &str) -> Result<(), Error> {
        let meta = &deployment.metadata;
        if meta.annotations.get(REVISION).is_some_and(|shown| shown == revision) {
            return Ok(());
        }
        let (client, resource) = (&self.context.client, &registry::DEPLOYMENTS);
        let mut full: Value = client.get(resource, meta.namespace(), &meta.name).await?;
        full["metadata"]["annotations"][REVISION] = revision.into();
        client.update_status::<Value>(resource, meta.namespace(), &meta.name, &full).await.map(drop)
    }
}

fn owner_key(set: &Meta) -> Option<ObjectKey> {
    let owner = set.controller().filter(|owner| owner.kind == "Deployment")?;
    Some(ObjectKey::new(&set.namespace, &owner.name))
}

/// A set's revision; 0 if it has none.
fn revision(set: &ReplicaSetView) -> i64 {
    set.metadata.annotations.get(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or_default()
}
