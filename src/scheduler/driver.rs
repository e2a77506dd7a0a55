//! Ties queue, cache and cycle to the API: informers in, bindings, conditions and events out.

use crate::cache::Cache;
use crate::cycle::{self, Unschedulable};
use crate::hints::{Event, helps};
use crate::metrics::{Metrics, Outcome, Sizes};
use crate::pod_info::PodInfo;
use crate::preemption::{self, Budget, Nomination};
use crate::queue::Queue;
use naru_api::meta::time;
use naru_api::registry;
use naru_base::{Shutdown, spawn};
use naru_client::projections::{NamespaceView, NodeView, PodView, ServiceView, condition};
use naru_client::{
    Change, Client, DeleteOptions, Error, EventRecorder, Informer, Informers, ListParams, ObjectReference, PatchKind,
    is_conflict, is_not_found,
};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::collections::HashSet;
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
    /// Pods that somebody keeps from being scheduled.
    gated: HashSet<String>,
}

#[derive(Debug)]
struct Scheduler {
    client: Client,
    recorder: EventRecorder,
    state: Mutex<State>,
    wake: Notify,
    bindings: Arc<Semaphore>,
    budgets: Option<Informer<Budget>>,
    metrics: Arc<Metrics>,
}

/// Why a pod was not placed, and what is done about it.
#[derive(Debug)]
struct Refusal {
    message: String,
    nomination: Option<Nomination>,
}

/// Starts to schedule pods until shutdown. `client` writes as `system:kube-scheduler`.
pub fn start(client: Client, informers: &Informers, metrics: Arc<Metrics>, shutdown: &Shutdown) {
    let recorder = EventRecorder::start(client.clone(), &registry::EVENTS, NAME, None, shutdown);
    let budgets = registry::by_kind("policy", "v1", "PodDisruptionBudget");
    let budgets = budgets.map(|resource| informers.start(resource, ListParams::all()));
    let scheduler = Arc::new(Scheduler {
        client,
        recorder,
        state: Mutex::default(),
        wake: Notify::new(),
        bindings: Arc::new(Semaphore::new(BINDINGS)),
        budgets,
        metrics,
    });
    let weak = Arc::downgrade(&scheduler);
    scheduler.metrics.watch(move || weak.upgrade().map(|scheduler| scheduler.sizes()));
    let (informers, shutdown) = (informers.clone(), shutdown.clone());
    spawn("scheduler", async move {
        let (pods, nodes, namespaces) = (informers.pods(), informers.nodes(), informers.namespaces());
        let services = informers.services();
        let synced = async {
            namespaces.synced().await;
            services.synced().await;
            pods.synced().await;
            nodes.synced().await;
        };
        if shutdown.guard(synced).await.is_none() {
            return;
        }
        let taker = scheduler.clone();
        namespaces.subscribe(move |change| taker.namespace_changed(change));
        let taker = scheduler.clone();
        services.subscribe(move |change| taker.service_changed(change));
        let taker = scheduler.clone();
        nodes.subscribe(move |change| taker.node_changed(change));
        let taker = scheduler.clone();
        pods.subscribe(move |change| taker.pod_changed(change));
        shutdown.guard(scheduler.run()).await;
    });
}

impl Scheduler {
    /// How much waits, for the metrics.
    fn sizes(&self) -> Sizes {
        let state = self.state();
        let (active, backoff, unschedulable) = state.queue.sizes();
        let (pods, nodes, assumed) = state.cache.sizes();
        let (incoming, mut by_plugin) = (state.queue.incoming().clone(), state.queue.refused_by_plugin());
        let gated = state.gated.len();
        if gated > 0 {
            by_plugin.insert("SchedulingGates", gated);
        }
        Sizes { active, backoff, unschedulable, gated, pods, nodes, assumed, incoming, by_plugin }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn namespace_changed(&self, change: &Change<NamespaceView>) {
        let mut state = self.state();
        let labels = change.new.as_ref().map(|namespace| namespace.metadata.labels.clone());
        let before = match labels.clone() {
            Some(labels) => state.cache.namespaces.insert(change.key.name.clone(), labels),
            None => state.cache.namespaces.remove(&change.key.name),
        };
        if before != labels {
            state.wake(Event::Namespace);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Services say which pods are spread unasked, which keeps no pod from being placed.
    fn service_changed(&self, change: &Change<ServiceView>) {
        let selector = change.new.as_ref().and_then(|service| service.spec.selector.clone());
        self.state().cache.set_service(&change.key.namespace, &change.key.name, selector);
    }

    fn node_changed(&self, change: &Change<NodeView>) {
        let mut state = self.state();
        match &change.new {
            Some(node) => {
                state.cache.set_node(node.clone());
                if change.old.as_ref().is_none_or(|old| matters(old, node)) {
                    state.wake(Event::Node { old: change.old.as_deref(), new: node });
                }
            }
            None => {
                state.cache.remove_node(&change.key.name);
                if let Some(old) = &change.old {
                    state.wake(Event::NodeGone(old));
                }
            }
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
                state.gated.remove(uid);
                if !state.cache.is_assumed(uid) {
                    let info = Arc::new(PodInfo::new(pod.clone()));
                    state.cache.nominate(info.clone(), &pod.status.nominated_node_name);
                    state.queue.put(info);
                }
            }
            Some(pod) => {
                state.queue.remove(uid);
                let is_gated = !pod.spec.scheduling_gates.is_empty() && !pod.metadata.is_deleting();
                if is_gated && state.gated.insert(uid.clone()) {
                    state.queue.note_gated();
                }
            }
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
                Err(refusal) => self.report(&info, &refusal).await,
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

    /// Chooses a node and assumes the pod to be there, or chooses what makes room for it.
    fn decide(&self, info: &Arc<PodInfo>) -> Result<String, Refusal> {
        let mut state = self.state();
        let begun = Instant::now();
        let State { cache, queue, start, .. } = &mut *state;
        let history = queue.history(info.uid());
        let mut times = Vec::new();
        let chosen = cycle::choose(info, cache, start, |equals| rand::random_range(0..equals), &mut times);
        if self.metrics.decided(begun.elapsed(), &times) {
            self.metrics.plugins(&cycle::time_plugins(info, cache));
        }
        match chosen {
            Ok(node) => {
                cache.end_nomination(info.uid());
                let reserving = Instant::now();
                cache.assume(info.clone(), &node);
                self.metrics.step("Reserve", true, reserving.elapsed());
                queue.remove(info.uid());
                if let Some((attempts, came)) = history {
                    self.metrics.placed(attempts, came.elapsed());
                }
                self.metrics.attempt(Outcome::Scheduled, begun.elapsed());
                Ok(node)
            }
            Err(refused) => {
                let budgets = self.budgets.as_ref().map(Informer::list).unwrap_or_default();
                queue.unschedulable(info.uid(), refused.by, &refused.plugins, Instant::now());
                let preempting = Instant::now();
                let refusal = preempt(info, cache, refused, &budgets);
                self.metrics.step("PostFilter", refusal.nomination.is_some(), preempting.elapsed());
                if let Some(nomination) = &refusal.nomination {
                    self.metrics.preempted(nomination.victims.len());
                }
                self.metrics.attempt(Outcome::Unschedulable, begun.elapsed());
                Err(refusal)
            }
        }
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
        let begun = Instant::now();
        let bound = self
            .client
            .create_sub::<IgnoredAny>(&registry::PODS, meta.namespace(), &meta.name, "binding", &binding)
            .await;
        let Err(error) = bound else {
            self.metrics.step("Bind", true, begun.elapsed());
            let message = format!("Successfully assigned {} to {node}", meta.key());
            return self.recorder.normal(&about, "Scheduled", message);
        };
        self.metrics.attempt(Outcome::Error, std::time::Duration::ZERO);
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

    /// Tells the user why a pod fits nowhere, and makes room for it if that was decided.
    async fn report(&self, info: &PodInfo, refusal: &Refusal) {
        let meta = &info.pod.metadata;
        let about = ObjectReference::of(&registry::PODS, meta);
        self.recorder.warning(&about, "FailedScheduling", refusal.message.as_str());
        if let Some(nomination) = &refusal.nomination {
            self.make_room(info, nomination).await;
        }
        if let Err(error) = self.write_status(&info.pod, refusal).await {
            tracing::debug!(pod = %meta.key(), %error, "condition not written");
        }
    }

    /// Deletes the pods that have to go.
    async fn make_room(&self, info: &PodInfo, nomination: &Nomination) {
        for lesser in self.take_nominations(info, &nomination.node) {
            if let Err(error) = self.patch_status(&lesser.pod, &json!({ "nominatedNodeName": null })).await {
                tracing::debug!(pod = %lesser.pod.metadata.key(), %error, "nomination not cleared");
            }
        }
        for victim in &nomination.victims {
            let meta = &victim.pod.metadata;
            let removed = async {
                let condition = json!({
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "PreemptionByScheduler",
                    "message": format!("{NAME}: preempting to accommodate a higher priority pod"),
                    "lastTransitionTime": now(),
                });
                self.patch_status(&victim.pod, &json!({ "conditions": [condition] })).await?;
                let options = DeleteOptions::default().uid(&meta.uid);
                self.client.delete(&registry::PODS, meta.namespace(), &meta.name, &options).await
            };
            match removed.await {
                Ok(()) => {
                    let message = format!("Preempted by pod {} on node {}", info.uid(), nomination.node);
                    self.recorder.normal(&ObjectReference::of(&registry::PODS, meta), "Preempted", message);
                }
                Err(error) if is_not_found(&error) => {}
                Err(error) => tracing::warn!(pod = %meta.key(), %error, "a pod could not be preempted"),
            }
        }
    }

    /// Less important pods for which room was made on the node have to look for another.
    fn take_nominations(&self, info: &PodInfo, node: &str) -> Vec<Arc<PodInfo>> {
        let mut state = self.state();
        let lesser = state.cache.lesser_nominees(info, node);
        lesser.iter().for_each(|pod| state.cache.end_nomination(pod.uid()));
        lesser
    }

    async fn write_status(&self, pod: &PodView, refusal: &Refusal) -> Result<(), Error> {
        let message = refusal.message.as_str();
        let known = condition(&pod.status.conditions, "PodScheduled");
        let nominated = match &refusal.nomination {
            Some(nomination) => nomination.node.clone(),
            None => self.state().cache.nomination(&pod.metadata.uid).unwrap_or_default().to_owned(),
        };
        let same = known.is_some_and(|known| known.status == "False" && known.message == message);
        if same && pod.status.nominated_node_name == nominated {
            return Ok(());
        }
        let same_status = known.filter(|known| known.status == "False");
        let since = match same_status.map(|known| known.last_transition_time.as_str()) {
            Some(since) if !since.is_empty() => since.to_owned(),
            _ => now(),
        };
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": since,
            "observedGeneration": pod.metadata.generation,
        });
        let nominated = if nominated.is_empty() { Value::Null } else { nominated.into() };
        self.patch_status(pod, &json!({ "conditions": [condition], "nominatedNodeName": nominated })).await
    }

    async fn patch_status(&self, pod: &PodView, status: &Value) -> Result<(), Error> {
        let meta = &pod.metadata;
        let patch = json!({ "metadata": { "uid": meta.uid }, "status": status });
        let (namespace, kind) = (meta.namespace(), PatchKind::Strategic);
        self.client
            .patch::<IgnoredAny>(&registry::PODS, namespace, &meta.name, Some("status"), kind, &patch)
            .await
            .map(drop)
    }
}

fn now() -> String {
    time::format_seconds(jiff::Timestamp::now().as_second())
}

/// What is said and done about a pod that fits nowhere.
fn preempt(info: &Arc<PodInfo>, cache: &mut Cache, refused: Unschedulable, budgets: &[Arc<Budget>]) -> Refusal {
    if refused.nodes == 0 {
        return Refusal { message: refused.message, nomination: None };
    }
    match preemption::find(info, cache, &refused, budgets) {
        Ok(nomination) => {
            cache.nominate(info.clone(), &nomination.node);
            Refusal { message: refused.message, nomination: Some(nomination) }
        }
        Err(why) => Refusal { message: format!("{} {why}", refused.message), nomination: None },
    }
}

impl State {
    /// Tries the pods again that the event could help.
    fn wake(&mut self, event: Event<'_>) {
        if self.queue.has_unschedulable() {
            let cache = &self.cache;
            self.queue.wake(event.name(), |pod, by| helps(event, pod, by, cache));
        }
    }

    /// A pod is on a node.
    fn placed(&mut self, old: Option<&Arc<PodView>>, pod: &Arc<PodView>) {
        let uid = &pod.metadata.uid;
        self.queue.remove(uid);
        self.gated.remove(uid);
        // Status updates of bound pods are the bulk of all events, and change nothing here.
        if old.is_some_and(|old| counts_alike(old, pod)) {
            return;
        }
        self.cache.end_nomination(uid);
        let before = self.cache.placed(uid).map(|(info, _)| info.clone());
        let info = Arc::new(PodInfo::new(pod.clone()));
        self.cache.set_pod(info.clone());
        // What a pod has become may help others as its leaving would: other labels, less that it asks for.
        if let Some(before) = before.filter(|before| !before.is_like(&info) || before.request != info.request) {
            self.wake(Event::Gone { pod: &before, node: &pod.spec.node_name });
        }
        self.wake(Event::Placed(&info));
    }

    /// A pod takes no room any more.
    fn gone(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.gated.remove(uid);
        self.cache.end_nomination(uid);
        let Some((info, _)) = self.cache.placed(uid) else { return };
        let info = info.clone();
        if let Some(node) = self.cache.remove_pod(uid) {
            self.wake(Event::Gone { pod: &info, node: &node });
        }
    }
}

/// Whether two states of a pod that is on a node are one to the scheduler.
fn counts_alike(old: &PodView, new: &PodView) -> bool {
    let resources = |pod: &PodView| {
        let of = |status: &naru_client::projections::ContainerStatusView| {
            (status.name.clone(), status.allocated_resources.clone(), status.resources.clone())
        };
        pod.status.container_statuses.iter().map(of).collect::<Vec<_>>()
    };
    old.spec == new.spec
        && old.metadata.labels == new.metadata.labels
        && old.metadata.is_deleting() == new.metadata.is_deleting()
        && resources(old) == resources(new)
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
