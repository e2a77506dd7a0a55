//! ReplicaSets and ReplicationControllers: keep as many pods as wanted.

mod rank;
mod status;

use crate::objects::now;
use crate::ownership::Claimant;
use crate::pods::{BURST, PodControl};
use crate::{Context, pods};
use naru_api::registry::{self, Resource};
use naru_client::projections::{PodView, ReplicaSetView, Replicated, ReplicationControllerView};
use naru_client::{Change, Error, IndexId, Informer, ListParams, Next, ObjectKey, WorkQueue};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 4;
/// A set with more pods rests between two looks, so that it does not keep a processor busy.
const LOOKED_AT_IN_A_MILLISECOND: usize = 200;
const LONGEST_REST: Duration = Duration::from_millis(50);

struct Replicas<S> {
    context: Context,
    kind: &'static Resource,
    control: PodControl,
    sets: Informer<S>,
    sets_by_controller: IndexId,
    pods: Informer<PodView>,
    pods_by_controller: IndexId,
    queue: WorkQueue<ObjectKey>,
}

/// ReplicaSets.
pub(crate) fn start(context: &Context) {
    start_kind(context, &registry::REPLICA_SETS, context.informers.replica_sets_by_controller());
}

/// ReplicationControllers: the same but for their selector and a field of the status.
pub(crate) fn start_replication(context: &Context) {
    let resource = &registry::REPLICATION_CONTROLLERS;
    let sets: Informer<ReplicationControllerView> = context.informers.start(resource, ListParams::all());
    // None has an owner whose other sets would have to be looked at.
    let index = sets.index(|_| Vec::new());
    start_kind(context, resource, (sets, index));
}

fn start_kind<S: Replicated>(context: &Context, kind: &'static Resource, sets: (Informer<S>, IndexId)) {
    let (sets, sets_by_controller) = sets;
    let (pods, pods_by_controller) = context.informers.pods_by_controller();
    let component = if kind.group.is_empty() { "replication-controller" } else { "replicaset-controller" };
    let controller = Arc::new(Replicas {
        context: context.clone(),
        kind,
        control: PodControl::new(context, kind, component),
        sets: sets.clone(),
        sets_by_controller,
        pods: pods.clone(),
        pods_by_controller,
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

impl<S: Replicated> Replicas<S> {
    fn pod_changed(&self, change: &Change<PodView>) {
        if let Some(orphan) = self.control.observe(change, &self.queue) {
            for set in self.sets.by_namespace(&orphan.metadata.namespace) {
                let set = set.set();
                if selects(set, orphan) {
                    self.queue.add(set.metadata.key());
                }
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(set) = self.sets.get_key(key) else {
            self.control.expectations.forget(key);
            return Ok(Next::Done);
        };
        let set = set.set();
        // Before the pods are looked at: those that turn up in between would be missing from `pods`.
        let caught_up = self.control.expectations.are_met(key);
        let pods = self.claim(set).await?;
        let managed = if caught_up && !set.metadata.is_deleting() { self.manage(set, &pods).await } else { Ok(()) };
        let failure = managed.as_ref().err().map(ToString::to_string);
        let next = self.write_status(set, &pods, failure).await?;
        managed?;
        // While many pods come or go each of them is an event, and each look is at all of them.
        let rest = (pods.len() / LOOKED_AT_IN_A_MILLISECOND) as u64;
        tokio::time::sleep(Duration::from_millis(rest).min(LONGEST_REST)).await;
        Ok(next)
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
            kind: self.kind,
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
        let victims = rank::victims(active, &self.related(set), surplus, now());
        self.control.delete(&set.metadata, &victims).await
    }

    /// Active pods of all sets with the same owner: where they crowd, one of them goes first.
    fn related(&self, set: &ReplicaSetView) -> Vec<Arc<PodView>> {
        let owner = set.metadata.controller().map(|owner| owner.uid.as_str());
        let sets = match owner {
            Some(owner) => self.sets.indexed(self.sets_by_controller, owner),
            None => return self.pods.indexed(self.pods_by_controller, &set.metadata.uid),
        };
        let pods = sets.iter().flat_map(|set| self.pods.indexed(self.pods_by_controller, &set.set().metadata.uid));
        pods.filter(|pod| pod.is_active()).collect()
    }

    async fn create(&self, set: &ReplicaSetView, count: usize) -> Result<(), Error> {
        let meta = &set.metadata;
        let full: Value = self.context.client.get(self.kind, meta.namespace(), &meta.name).await?;
        let pod = pods::from_template(self.kind, meta, &full["spec"]["template"]);
        self.control.create(meta, vec![pod; count]).await
    }
}

fn selects(set: &ReplicaSetView, pod: &PodView) -> bool {
    !set.spec.selector.is_empty() && set.spec.selector.matches(&pod.metadata.labels)
}
