//! Ties queue, cache and cycle to the API: informers in, bindings, conditions and events out.

use crate::cache::Cache;
use crate::cycle::{self, Unschedulable};
use crate::pod_info::PodInfo;
use crate::queue::Queue;
use naru_api::meta::time;
use naru_api::registry;
use naru_base::{Shutdown, spawn};
use naru_client::projections::{NodeView, PodView, condition};
use naru_client::{
    Change, Client, Error, EventRecorder, Informers, ObjectReference, PatchKind, is_conflict, is_not_found,
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// The name that pods ask for.
const NAME: &str = "default-scheduler";
/// Bindings under way at once.
const BINDINGS: usize = 64;

#[derive(Debug, Default)]
struct State {
    cache: Cache,
    queue: Queue,
    /// Where the next look at the nodes begins.
    start: usize,
}

#[derive(Debug)]
struct Scheduler {
    client: Client,
    recorder: EventRecorder,
    state: Mutex<State>,
    wake: Notify,
    bindings: Arc<Semaphore>,
}

/// Starts to schedule pods until shutdown. `client` writes as `system:kube-scheduler`.
pub fn start(client: Client, informers: &Informers, shutdown: &Shutdown) {
    let recorder = EventRecorder::start(client.clone(), &registry::EVENTS, NAME, None, shutdown);
    let scheduler = Arc::new(Scheduler {
        client,
        recorder,
        state: Mutex::default(),
        wake: Notify::new(),
        bindings: Arc::new(Semaphore::new(BINDINGS)),
    });
    let (informers, shutdown) = (informers.clone(), shutdown.clone());
    spawn("scheduler", async move {
        let (pods, nodes) = (informers.pods(), informers.nodes());
        let synced = async {
            pods.synced().await;
            nodes.synced().await;
        };
        if shutdown.guard(synced).await.is_none() {
            return;
        }
        let taker = scheduler.clone();
        nodes.subscribe(move |change| taker.node_changed(change));
        let taker = scheduler.clone();
        pods.subscribe(move |change| taker.pod_changed(change));
        shutdown.guard(scheduler.run()).await;
    });
}

impl Scheduler {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node_changed(&self, change: &Change<NodeView>) {
        let mut state = self.state();
        match &change.new {
            Some(node) => {
                state.cache.set_node(node.clone());
                if change.old.as_ref().is_none_or(|old| matters(old, node)) {
                    state.wake_for(&node.metadata.name);
                }
            }
            None => state.cache.remove_node(&change.key.name),
        }
        drop(state);
        self.wake.notify_one();
    }

    fn pod_changed(&self, change: &Change<PodView>) {
        let mut state = self.state();
        let uid = &change.latest().metadata.uid;
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && old.metadata.uid != new.metadata.uid
        {
            state.gone(&old.metadata.uid);
        }
        match &change.new {
            Some(pod) if pod.is_finished() => state.gone(uid),
            Some(pod) if !pod.spec.node_name.is_empty() => state.placed(change.old.as_ref(), pod),
            Some(pod) if waits(pod) => {
                if !state.cache.is_assumed(uid) {
                    state.queue.put(Arc::new(PodInfo::new(pod.clone())));
                }
            }
            Some(_) => state.queue.remove(uid),
            None => state.gone(uid),
        }
        drop(state);
        self.wake.notify_one();
    }

    async fn run(self: &Arc<Self>) {
        loop {
            let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
            let info = self.next().await;
            match self.decide(&info) {
                Ok(node) => {
                    let scheduler = self.clone();
                    spawn("binding", async move {
                        scheduler.bind(info, &node).await;
                        drop(permit);
                    });
                }
                Err(Unschedulable { message }) => self.report(&info, &message).await,
            }
        }
    }

    async fn next(&self) -> Arc<PodInfo> {
        loop {
            let wake = self.wake.notified();
            let timer = {
                let mut state = self.state();
                if let Some(info) = state.queue.pop(Instant::now()) {
                    return info;
                }
                state.queue.next_timer()
            };
            match timer {
                Some(at) => drop(tokio::time::timeout_at(at, wake).await),
                None => wake.await,
            }
        }
    }

    /// Chooses a node and assumes the pod to be there.
    fn decide(&self, info: &Arc<PodInfo>) -> Result<String, Unschedulable> {
        let mut state = self.state();
        let State { cache, queue, start } = &mut *state;
        let node = cycle::choose(info, cache, start, |equals| rand::random_range(0..equals));
        match &node {
            Ok(node) => {
                cache.assume(info.clone(), node);
                queue.remove(info.uid());
            }
            Err(_) => queue.unschedulable(info.uid(), Instant::now()),
        }
        node
    }

    async fn bind(&self, info: Arc<PodInfo>, node: &str) {
        let meta = &info.pod.metadata;
        let about = ObjectReference::of(&registry::PODS, meta);
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let bound =
            self.client.create_sub::<Value>(&registry::PODS, meta.namespace(), &meta.name, "binding", &binding).await;
        let Err(error) = bound else {
            let message = format!("Successfully assigned {} to {node}", meta.key());
            return self.recorder.normal(&about, "Scheduled", message);
        };
        {
            let mut state = self.state();
            state.cache.forget(info.uid());
            // Bound by somebody else, or gone: the informer will tell.
            if !is_conflict(&error) && !is_not_found(&error) {
                state.queue.failed(info.clone(), Instant::now());
            }
        }
        self.wake.notify_one();
        self.recorder.warning(&about, "FailedScheduling", format!("binding rejected: {error}"));
    }

    /// Tells the user why a pod fits nowhere.
    async fn report(&self, info: &PodInfo, message: &str) {
        let meta = &info.pod.metadata;
        let about = ObjectReference::of(&registry::PODS, meta);
        self.recorder.warning(&about, "FailedScheduling", message);
        if let Err(error) = self.write_condition(&info.pod, message).await {
            tracing::debug!(pod = %meta.key(), %error, "condition not written");
        }
    }

    async fn write_condition(&self, pod: &PodView, message: &str) -> Result<(), Error> {
        let known = condition(&pod.status.conditions, "PodScheduled");
        if known.is_some_and(|known| known.status == "False" && known.message == message) {
            return Ok(());
        }
        let same_status = known.filter(|known| known.status == "False");
        let since = match same_status.map(|known| known.last_transition_time.as_str()) {
            Some(since) if !since.is_empty() => since.to_owned(),
            _ => time::format_seconds(jiff::Timestamp::now().as_second()),
        };
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": since,
        });
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [condition]},
        });
        let meta = &pod.metadata;
        let (namespace, kind) = (meta.namespace(), PatchKind::Strategic);
        let status = Some("status");
        self.client.patch::<Value>(&registry::PODS, namespace, &meta.name, status, kind, &patch).await.map(drop)
    }
}

impl State {
    /// Tries the pods again that now fit on the node.
    fn wake_for(&mut self, node: &str) {
        if let Some(info) = self.cache.node(node) {
            self.queue.wake(|pod| cycle::fits(pod, info).is_ok());
        }
    }

    /// A pod is on a node.
    fn placed(&mut self, old: Option<&Arc<PodView>>, pod: &Arc<PodView>) {
        self.queue.remove(&pod.metadata.uid);
        // Status updates of bound pods are the bulk of all events, and change nothing here.
        if old.is_some_and(|old| old.spec == pod.spec && old.metadata.labels == pod.metadata.labels) {
            return;
        }
        self.cache.set_pod(Arc::new(PodInfo::new(pod.clone())));
    }

    /// A pod takes no room any more.
    fn gone(&mut self, uid: &str) {
        self.queue.remove(uid);
        if let Some(node) = self.cache.remove_pod(uid) {
            self.wake_for(&node);
        }
    }
}

/// Whether a pod is this scheduler's to place.
fn waits(pod: &PodView) -> bool {
    let scheduler = pod.spec.scheduler_name.as_str();
    (scheduler.is_empty() || scheduler == NAME) && !pod.metadata.is_deleting() && pod.spec.scheduling_gates.is_empty()
}

/// Whether a node's change can matter to a pod that waits; heartbeats cannot.
fn matters(old: &NodeView, new: &NodeView) -> bool {
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || old.status.allocatable != new.status.allocatable
}
