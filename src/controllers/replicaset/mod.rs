//! ReplicaSets: keeps as many pods as wanted.

mod rank;
mod status;

use crate::expectations::Expectations;
use crate::ownership::Claimant;
use crate::{Context, pods};
use naru_api::meta::generated_name;
use naru_api::registry;
use naru_client::projections::{Meta, PodView, ReplicaSetView};
use naru_client::{
    Change, DeleteOptions, Error, EventRecorder, IndexId, Informer, Next, ObjectKey, ObjectReference, WorkQueue,
    is_already_exists, is_not_found,
};
use serde_json::Value;
use std::sync::Arc;

const WORKERS: usize = 4;
/// Pods created or deleted in one run.
const BURST: usize = 500;

struct ReplicaSets {
    context: Context,
    recorder: EventRecorder,
    sets: Informer<ReplicaSetView>,
    sets_by_controller: IndexId,
    pods: Informer<PodView>,
    pods_by_controller: IndexId,
    expectations: Expectations,
    queue: WorkQueue<ObjectKey>,
}

pub(crate) fn start(context: &Context) {
    let (sets, sets_by_controller) = context.informers.replica_sets_by_controller();
    let (pods, pods_by_controller) = context.informers.pods_by_controller();
    let controller = Arc::new(ReplicaSets {
        context: context.clone(),
        recorder: context.recorder("replicaset-controller"),
        sets: sets.clone(),
        sets_by_controller,
        pods: pods.clone(),
        pods_by_controller,
        expectations: Expectations::default(),
        queue: WorkQueue::new(),
    });
    let queue = controller.queue.clone();
    sets.subscribe(move |change| queue.add(change.key.clone()));
    let taker = controller.clone();
    pods.subscribe(move |change| taker.pod_changed(change));
    let synced = async move {
        sets.synced().await;
        pods.synced().await;
    };
    let queue = controller.queue.clone();
    context.run(&queue, WORKERS, synced, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl ReplicaSets {
    fn pod_changed(&self, change: &Change<PodView>) {
        let owner = |pod: &Arc<PodView>| owner_key(&pod.metadata);
        let before = change.old.as_ref().and_then(owner);
        let after = change.new.as_ref().and_then(owner);
        if let Some(owner) = &before {
            let pod = &change.old.as_ref().expect("it has an owner").metadata;
            let replaced = change.new.as_ref().is_none_or(|new| new.metadata.uid != pod.uid);
            if replaced || change.latest().metadata.is_deleting() {
                self.expectations.saw_deleted(owner, &pod.uid);
            }
            self.queue.add(owner.clone());
        }
        if let Some(owner) = &after {
            self.expectations.saw_created(owner, &change.key.name);
            self.queue.add(owner.clone());
        }
        if let Some(orphan) = change.new.as_ref().filter(|pod| pod.metadata.controller().is_none()) {
            for set in self.sets.by_namespace(&orphan.metadata.namespace) {
                if selects(&set, orphan) {
                    self.queue.add(set.metadata.key());
                }
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(set) = self.sets.get_key(key) else {
            self.expectations.forget(key);
            return Ok(Next::Done);
        };
        let pods = self.claim(&set).await?;
        let managed = if self.expectations.are_met(key) && !set.metadata.is_deleting() {
            self.manage(&set, &pods).await
        } else {
            Ok(())
        };
        let failure = managed.as_ref().err().map(ToString::to_string);
        let next = self.write_status(&set, &pods, failure).await?;
        managed.map(|()| next)
    }

    /// The set's pods: owned ones, and orphans that it adopts. Owned ones that do not match any more
    /// are released.
    async fn claim(&self, set: &ReplicaSetView) -> Result<Vec<Arc<PodView>>, Error> {
        let claimant = Claimant {
            client: &self.context.client,
            resource: &registry::PODS,
            cache: &self.pods,
            by_controller: self.pods_by_controller,
            meta: |pod| &pod.metadata,
            kind: &registry::REPLICA_SETS,
            owner: &set.metadata,
        };
        claimant.claim(|pod| selects(set, pod), PodView::is_active).await
    }

    async fn manage(&self, set: &ReplicaSetView, pods: &[Arc<PodView>]) -> Result<(), Error> {
        let active: Vec<_> = pods.iter().filter(|pod| pod.is_active()).cloned().collect();
        let wanted = usize::try_from(set.spec.replicas()).unwrap_or_default();
        if active.len() < wanted {
            return self.create(set, (wanted - active.len()).min(BURST)).await;
        }
        let surplus = (active.len() - wanted).min(BURST);
        if surplus == 0 {
            return Ok(());
        }
        let victims = rank::victims(active, &self.related(set), surplus);
        self.delete(set, &victims).await
    }

    /// Active pods of all sets with the same owner: where they crowd, one of them goes first.
    fn related(&self, set: &ReplicaSetView) -> Vec<Arc<PodView>> {
        let owner = set.metadata.controller().map(|owner| owner.uid.as_str());
        let sets = match owner {
            Some(owner) => self.sets.indexed(self.sets_by_controller, owner),
            None => return self.pods.indexed(self.pods_by_controller, &set.metadata.uid),
        };
        let pods = sets.iter().flat_map(|set| self.pods.indexed(self.pods_by_controller, &set.metadata.uid));
        pods.filter(|pod| pod.is_active()).collect()
    }

    /// Creates pods in growing batches, so that an error that hits all of them is not made 500 times.
    async fn create(&self, set: &ReplicaSetView, count: usize) -> Result<(), Error> {
        let meta = &set.metadata;
        let full: Value = self.context.client.get(&registry::REPLICA_SETS, meta.namespace(), &meta.name).await?;
        let pod = pods::from_template(&registry::REPLICA_SETS, meta, &full["spec"]["template"]);
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let now = batch.min(left);
            let made = futures::future::join_all((0..now).map(|_| self.create_one(set, pod.clone()))).await;
            made.into_iter().collect::<Result<Vec<()>, _>>()?;
            left -= now;
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(&self, set: &ReplicaSetView, mut pod: Value) -> Result<(), Error> {
        let key = set.metadata.key();
        let name = generated_name(&format!("{}-", key.name), rand::random());
        pod["metadata"]["name"] = name.as_str().into();
        self.expectations.expect_created(&key, &name);
        let created = self.context.client.create::<Value>(&registry::PODS, key.namespace(), &pod).await;
        let about = ObjectReference::of(&registry::REPLICA_SETS, &set.metadata);
        match created {
            Ok(_) => {
                self.recorder.normal(&about, "SuccessfulCreate", format!("Created pod: {name}"));
                Ok(())
            }
            Err(error) => {
                self.expectations.saw_created(&key, &name);
                if !is_already_exists(&error) {
                    self.recorder.warning(&about, "FailedCreate", format!("Error creating: {error}"));
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, set: &ReplicaSetView, victims: &[Arc<PodView>]) -> Result<(), Error> {
        let deleted = victims.iter().map(|pod| self.delete_one(set, &pod.metadata));
        futures::future::join_all(deleted).await.into_iter().collect()
    }

    async fn delete_one(&self, set: &ReplicaSetView, pod: &Meta) -> Result<(), Error> {
        let key = set.metadata.key();
        self.expectations.expect_deleted(&key, &pod.uid);
        let options = DeleteOptions::default().uid(&pod.uid);
        let deleted = self.context.client.delete(&registry::PODS, pod.namespace(), &pod.name, &options).await;
        let about = ObjectReference::of(&registry::REPLICA_SETS, &set.metadata);
        match deleted {
            Ok(()) => {
                self.recorder.normal(&about, "SuccessfulDelete", format!("Deleted pod: {}", pod.name));
                Ok(())
            }
            Err(error) => {
                self.expectations.saw_deleted(&key, &pod.uid);
                if is_not_found(&error) {
                    return Ok(());
                }
                self.recorder.warning(&about, "FailedDelete", format!("Error deleting: {error}"));
                Err(error)
            }
        }
    }
}

fn owner_key(pod: &Meta) -> Option<ObjectKey> {
    let owner = pod.controller().filter(|owner| owner.kind == "ReplicaSet")?;
    Some(ObjectKey::new(&pod.namespace, &owner.name))
}

fn selects(set: &ReplicaSetView, pod: &PodView) -> bool {
    !set.spec.selector.is_empty() && set.spec.selector.matches(&pod.metadata.labels)
}
