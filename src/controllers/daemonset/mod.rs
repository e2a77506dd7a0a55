//! DaemonSets: one pod on each node that fits.

mod nodes;
mod plan;
mod pod;
mod status;

use crate::Context;
use crate::objects::{self, now};
use crate::ownership::Claimant;
use crate::pods::{BURST, PodControl};
use crate::revisions::{self, History};
use naru_api::registry;
use naru_client::is_not_found;
use naru_client::projections::{DaemonSetView, NodeView, PodView, RevisionView};
use naru_client::{Change, Error, IndexId, Informer, ListParams, Next, ObjectKey, ObjectReference, WorkQueue};
use nodes::Backoffs;
use plan::{Daemons, Work};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 2;
/// Label of a revision and of its pods: the hash.
const HASH: &str = "controller-revision-hash";

struct DaemonSets {
    context: Context,
    control: PodControl,
    sets: Informer<DaemonSetView>,
    pods: Informer<PodView>,
    pods_by_controller: IndexId,
    nodes: Informer<NodeView>,
    history: History,
    backoffs: Backoffs,
    queue: WorkQueue<ObjectKey>,
}

pub(crate) fn start(context: &Context) {
    let informers = &context.informers;
    let (pods, pods_by_controller) = informers.pods_by_controller();
    let sets: Informer<DaemonSetView> = informers.start(&registry::DAEMON_SETS, ListParams::all());
    let nodes = informers.nodes();
    let history = History::new(&context.client, informers, &registry::DAEMON_SETS, HASH);
    let controller = Arc::new(DaemonSets {
        context: context.clone(),
        control: PodControl::new(context, &registry::DAEMON_SETS, "daemonset-controller"),
        sets: sets.clone(),
        pods: pods.clone(),
        pods_by_controller,
        nodes: nodes.clone(),
        history: history.clone(),
        backoffs: Backoffs::default(),
        queue: WorkQueue::new(),
    });
    history.wake(&controller.queue);
    let queue = controller.queue.clone();
    sets.subscribe(move |change| queue.add(change.key.clone()));
    let taker = controller.clone();
    pods.subscribe(move |change| taker.pod_changed(change));
    let taker = controller.clone();
    nodes.subscribe(move |change| taker.node_changed(change));
    let synced = async move {
        sets.synced().await;
        pods.synced().await;
        nodes.synced().await;
        history.synced().await;
    };
    let queue = controller.queue.clone();
    context.run(&queue, WORKERS, synced, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl DaemonSets {
    fn pod_changed(&self, change: &Change<PodView>) {
        if let Some(orphan) = self.control.observe(change, &self.queue) {
            for set in self.sets.by_namespace(&orphan.metadata.namespace) {
                if selects(&set, orphan) {
                    self.queue.add(set.metadata.key());
                }
            }
        }
    }

    /// A node's heartbeat says nothing here.
    fn node_changed(&self, change: &Change<NodeView>) {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && old.metadata.labels == new.metadata.labels
            && old.spec.taints == new.spec.taints
        {
            return;
        }
        for key in self.sets.keys() {
            self.queue.add(key);
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(set) = self.sets.get_key(key) else {
            self.control.expectations.forget(key);
            self.backoffs.forget(key);
            return Ok(Next::Done);
        };
        if set.metadata.is_deleting() {
            return Ok(Next::Done);
        }
        let about = ObjectReference::of(&registry::DAEMON_SETS, &set.metadata);
        if set.spec.selector.is_empty() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.control.recorder.warning(&about, "SelectingAll", message.to_owned());
            return Ok(Next::Done);
        }
        let history = self.history.of(&set.metadata, &set.spec.selector).await?;
        let mut collisions = set.status.collision_count.unwrap_or_default();
        let template = &set.spec.template.pod;
        let newest = self.history.newest(&set.metadata, template, &history, &mut collisions).await?;
        let Some(newest) = newest else { return Ok(Next::Done) };
        let hash = newest.metadata.labels.get(HASH).unwrap_or(&newest.metadata.name);
        // Before the pods are looked at: those that turn up in between would be missing from `pods`.
        let processed = self.control.expectations.are_met(key);
        let pods = self.claim(&set).await?;
        let twins = history.iter().filter(|known| known.data.digest == template.digest);
        let twins = twins.filter_map(|known| known.metadata.labels.get(HASH)).map(String::as_str).collect();
        let daemons = Daemons::new(&set, hash, self.nodes.list(), &pods, now()).with_twins(twins);
        let acted = if processed { self.act(&daemons, &newest).await } else { Ok(None) };
        let (mut status, wait) = status::observe(&daemons, processed);
        status.collision_count = (collisions > 0).then_some(collisions).or(set.status.collision_count);
        if status != set.status {
            let client = &self.context.client;
            match objects::write_status(client, &registry::DAEMON_SETS, &set.metadata, &status).await {
                Err(error) if is_not_found(&error) => {}
                other => other?,
            }
        }
        let again = acted?;
        if processed {
            self.trim(&set, &history, &newest, &pods).await?;
        }
        let wait = wait.map(Duration::from_secs);
        Ok(wait.into_iter().chain(again).min().map_or(Next::Done, Next::After))
    }

    async fn claim(&self, set: &DaemonSetView) -> Result<Vec<Arc<PodView>>, Error> {
        let claimant = Claimant {
            client: &self.context.client,
            resource: &registry::PODS,
            cache: &self.pods,
            by_controller: self.pods_by_controller,
            meta: |pod| &pod.metadata,
            kind: &registry::DAEMON_SETS,
            owner: &set.metadata,
        };
        claimant.claim(|pod| selects(set, pod), |_| true).await
    }

    /// Gives each node its pod or, where all have theirs, goes on with a rollout. Says when to look again
    /// for a pod that fails again and again.
    async fn act(&self, daemons: &Daemons<'_>, newest: &RevisionView) -> Result<Option<Duration>, Error> {
        let mut work = daemons.manage();
        let again = self.take_failed(daemons, &mut work);
        // What is done here changes what a rollout may do; its pods' events lead back here.
        let settled = work.create.is_empty() && work.delete.is_empty();
        self.work(daemons, newest, work).await?;
        if settled && daemons.set.spec.update_strategy.kind == "RollingUpdate" {
            self.work(daemons, newest, daemons.roll()).await?;
        }
        Ok(again)
    }

    /// Failed pods are deleted, so that others follow them, at a pace that slows down.
    fn take_failed(&self, daemons: &Daemons<'_>, work: &mut Work) -> Option<Duration> {
        let meta = &daemons.set.metadata;
        let about = ObjectReference::of(&registry::DAEMON_SETS, meta);
        let mut soonest = None;
        for (node, pod) in std::mem::take(&mut work.ended) {
            let name = format!("{}/{}", pod.metadata.namespace, pod.metadata.name);
            if pod.status.phase == "Succeeded" {
                let message = format!("Found succeeded daemon pod {name} on node {node}, will try to delete it");
                self.control.recorder.normal(&about, "SucceededDaemonPod", message);
            } else if let Some(wait) = self.backoffs.next(&meta.key(), &node) {
                soonest = Some(soonest.map_or(wait, |other: Duration| other.min(wait)));
                continue;
            } else {
                let message = format!("Found failed daemon pod {name} on node {node}, will try to kill it");
                self.control.recorder.warning(&about, "FailedDaemonPod", message);
            }
            work.delete.push(pod);
        }
        soonest
    }

    async fn work(&self, daemons: &Daemons<'_>, newest: &RevisionView, mut work: Work) -> Result<(), Error> {
        let meta = &daemons.set.metadata;
        work.create.truncate(BURST);
        work.delete.truncate(BURST);
        let created = if work.create.is_empty() {
            Ok(())
        } else {
            let template = self.history.template(&newest.metadata).await?;
            let pods = work.create.iter().map(|node| pod::pod(daemons.set, &template, daemons.hash, node)).collect();
            self.control.create(meta, pods).await
        };
        self.control.delete(meta, &work.delete).await?;
        created
    }

    async fn trim(
        &self,
        set: &DaemonSetView,
        history: &[Arc<RevisionView>],
        newest: &RevisionView,
        pods: &[Arc<PodView>],
    ) -> Result<(), Error> {
        let is_newest = |revision: &RevisionView| revision.metadata.name == newest.metadata.name;
        let old = history.iter().filter(|revision| !is_newest(revision)).count();
        let surplus = revisions::surplus(old, set.spec.revision_history_limit);
        let in_use = |revision: &RevisionView| {
            let hash = revision.metadata.labels.get(HASH);
            is_newest(revision) || pods.iter().any(|pod| hash.is_some() && pod.metadata.labels.get(HASH) == hash)
        };
        self.history.trim(history, surplus, in_use).await
    }
}

fn selects(set: &DaemonSetView, pod: &PodView) -> bool {
    !set.spec.selector.is_empty() && set.spec.selector.matches(&pod.metadata.labels)
}
