//! Notices nodes that have stopped reporting: their conditions, taints, and what their pods show.

mod taints;
mod zones;

use crate::Context;
use crate::metrics::{
    ALL_NODES_HEALTH_TIMES, Metrics, NODE_EVICTIONS, NODE_HEALTH_TIMES, ZONE_HEALTH, ZONE_SIZE, ZONE_UNHEALTHY,
};
use crate::objects::{now, now_text, seconds};
use naru_api::registry;
use naru_client::projections::{Condition, LeaseView, NodeView, PodView, Taint, condition};
use naru_client::{
    Change, Client, Error, EventRecorder, IndexId, Informer, ListParams, Next, ObjectReference, PatchKind, WorkQueue,
    is_not_found,
};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use zones::{Zones, readiness};

/// How long a node may be silent (`--node-monitor-grace-period`).
const GRACE: Duration = Duration::from_secs(50);
/// How long a new node may take to report for the first time (`--node-startup-grace-period`).
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Conditions that a silent node cannot vouch for any more.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Labels that older clients know by other names.
const LABELS: [(&str, &str); 2] =
    [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];

/// What was last heard of a node, by our own clock: the clocks of nodes may differ.
#[derive(Debug)]
struct Sign {
    uid: String,
    renewal: String,
    at: Instant,
}

struct Lifecycle {
    client: Client,
    metrics: Arc<Metrics>,
    nodes: Informer<NodeView>,
    leases: Informer<LeaseView>,
    pods: Informer<PodView>,
    pods_by_node: IndexId,
    recorder: EventRecorder,
    /// Leaf locks, never held across an await.
    signs: Mutex<HashMap<String, Sign>>,
    zones: Mutex<Zones>,
    /// Names of nodes.
    queue: WorkQueue<String>,
    /// One look at all zones.
    evictions: WorkQueue<()>,
}

pub(crate) fn start(ctx: &Context) {
    let nodes = ctx.informers.nodes();
    let (pods, pods_by_node) = ctx.informers.pods_by_node();
    let leases: Informer<LeaseView> = ctx.informers.start(&registry::LEASES, ListParams::namespace("kube-node-lease"));
    let lifecycle = Arc::new(Lifecycle {
        client: ctx.client.clone(),
        metrics: ctx.config.metrics.clone(),
        nodes: nodes.clone(),
        leases: leases.clone(),
        pods: pods.clone(),
        pods_by_node,
        recorder: ctx.recorder("node-controller"),
        signs: Mutex::default(),
        zones: Mutex::default(),
        queue: WorkQueue::new(),
        evictions: WorkQueue::new(),
    });
    let taker = lifecycle.clone();
    nodes.subscribe(move |change| taker.node_changed(change));
    let wake = lifecycle.queue.clone();
    leases.subscribe(move |change| wake.add(change.key.name.clone()));
    let taker = lifecycle.clone();
    pods.subscribe(move |change| taker.pod_changed(change));
    let synced = || {
        let (nodes, leases, pods) = (nodes.clone(), leases.clone(), pods.clone());
        async move {
            nodes.synced().await;
            leases.synced().await;
            pods.synced().await;
        }
    };
    let runner = lifecycle.clone();
    ctx.run(&lifecycle.queue, 2, synced(), move |name: String| {
        let lifecycle = runner.clone();
        async move {
            let begun = Instant::now();
            let outcome = lifecycle.reconcile(&name).await;
            lifecycle.metrics.observe(&NODE_HEALTH_TIMES, &[], begun.elapsed());
            outcome
        }
    });
    let runner = lifecycle.clone();
    ctx.run(&lifecycle.evictions, 1, synced(), move |()| {
        let lifecycle = runner.clone();
        async move { lifecycle.evict().await }
    });
}

impl Lifecycle {
    fn signs(&self) -> MutexGuard<'_, HashMap<String, Sign>> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node_changed(&self, change: &Change<NodeView>) {
        self.queue.add(change.key.name.clone());
        let read = |node: &Option<Arc<NodeView>>| {
            node.as_ref().map(|node| {
                (readiness(node).to_owned(), taints::evicts(node), zones::of(node), zones::is_excluded(node))
            })
        };
        if read(&change.old) != read(&change.new) {
            self.evictions.add(());
        }
    }

    /// A pod that turns up on a node that nobody hears of is looked at.
    fn pod_changed(&self, change: &Change<PodView>) {
        let node = |pod: &Option<Arc<PodView>>| pod.as_ref().map_or_else(String::new, |pod| pod.spec.node_name.clone());
        let new = node(&change.new);
        if !new.is_empty() && new != node(&change.old) && self.nodes.get("", &new).is_some_and(|node| is_unknown(&node))
        {
            self.queue.add(new);
        }
    }

    async fn reconcile(&self, name: &str) -> Result<Next, Error> {
        let Some(node) = self.nodes.get("", name) else {
            if let Some(sign) = self.signs().remove(name) {
                self.tell(name, &sign.uid, "RemovingNode", &format!("Removing Node {name} from Controller"));
            }
            return Ok(Next::Done);
        };
        let left = self.time_left(name, &node);
        if left.is_zero() {
            self.mark_unknown(&node).await?;
        }
        if let Some(taints) = taints::no_schedule(&node, &now_text()) {
            harmless(self.put_taints(&node, &taints).await)?;
        }
        self.put_labels(&node).await?;
        if is_unknown(&node) {
            self.mark_pods(&node).await?;
        }
        Ok(if left.is_zero() { Next::Done } else { Next::After(left) })
    }

    /// How long a node may still be silent.
    fn time_left(&self, name: &str, node: &NodeView) -> Duration {
        let lease = self.leases.get("kube-node-lease", name).map(|lease| lease.spec.renew_time.clone());
        let ready = condition(&node.status.conditions, "Ready");
        let renewal = format!(
            "{}/{}",
            lease.as_deref().unwrap_or_default(),
            ready.map_or("", |ready| ready.last_heartbeat_time.as_str())
        );
        let mut signs = self.signs();
        let known = signs.get(name).is_some_and(|sign| sign.uid == node.metadata.uid);
        if !known {
            self.tell(name, &node.metadata.uid, "RegisteredNode", &format!("Registered Node {name} in Controller"));
        }
        if !known || signs.get(name).is_some_and(|sign| sign.renewal != renewal) {
            let sign = Sign { uid: node.metadata.uid.clone(), renewal, at: Instant::now() };
            signs.insert(name.to_owned(), sign);
        }
        let silent = signs.get(name).map_or(Duration::ZERO, |sign| sign.at.elapsed());
        if ready.is_some() || lease.is_some() {
            let grace = if ready.is_some() { GRACE } else { STARTUP_GRACE };
            return grace.saturating_sub(silent);
        }
        // Nothing was ever heard of it: its age counts, which we know ourselves.
        let age = u64::try_from(now() - seconds(&node.metadata.creation_timestamp)).unwrap_or_default();
        STARTUP_GRACE.saturating_sub(silent.max(Duration::from_secs(age)))
    }

    fn tell(&self, name: &str, uid: &str, reason: &str, what: &str) {
        let about = ObjectReference {
            kind: registry::NODES.kind.to_owned(),
            api_version: registry::NODES.version.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..ObjectReference::default()
        };
        self.recorder.normal(&about, reason, format!("Node {name} event: {what}"));
    }

    async fn mark_unknown(&self, node: &NodeView) -> Result<(), Error> {
        let unknown: Vec<Condition> = REPORTED.iter().filter_map(|kind| unknown(node, kind)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let meta = &node.metadata;
        let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": {"conditions": unknown}});
        let (nodes, kind) = (&registry::NODES, PatchKind::Strategic);
        let patched = self.client.patch::<Value>(nodes, None, &meta.name, Some("status"), kind, &patch).await;
        if patched.is_ok() && readiness(node) == "True" {
            let about = ObjectReference::of(nodes, meta);
            self.recorder.normal(&about, "NodeNotReady", format!("Node {} status is now: NodeNotReady", meta.name));
        }
        harmless(patched.map(drop))
    }

    /// Taints are a list that is replaced whole: only as long as nobody else has changed the node.
    async fn put_taints(&self, node: &NodeView, taints: &[Taint]) -> Result<(), Error> {
        let meta = &node.metadata;
        let patch = json!({
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "spec": {"taints": taints},
        });
        self.client.patch::<Value>(&registry::NODES, None, &meta.name, None, PatchKind::Merge, &patch).await.map(drop)
    }

    /// The older names of labels follow the newer ones.
    async fn put_labels(&self, node: &NodeView) -> Result<(), Error> {
        let labels = &node.metadata.labels;
        let stale = LABELS.iter().filter_map(|(name, older)| {
            let value = labels.get(*name).filter(|value| labels.get(*older) != Some(value))?;
            Some(((*older).to_owned(), value.as_str().into()))
        });
        let stale: Map<String, Value> = stale.collect();
        if stale.is_empty() {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": node.metadata.uid, "labels": stale}});
        let kind = PatchKind::Merge;
        let patched = self.client.patch::<Value>(&registry::NODES, None, &node.metadata.name, None, kind, &patch);
        harmless(patched.await.map(drop))
    }

    /// Gives nodes up that are not ready, as fast as their zones allow: their pods are evicted then.
    async fn evict(&self) -> Result<Next, Error> {
        let begun = Instant::now();
        let plan = {
            let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
            zones.plan(&self.nodes.list(), begun)
        };
        for (zone, health) in &plan.zones {
            let (zone, size) = (&[zone.as_str()], health.ready + health.not_ready);
            self.metrics.set(&ZONE_HEALTH, zone, health.percent());
            self.metrics.set(&ZONE_SIZE, zone, size as f64);
            self.metrics.set(&ZONE_UNHEALTHY, zone, health.not_ready as f64);
        }
        if plan.revived {
            for sign in self.signs().values_mut() {
                sign.at = Instant::now();
            }
        }
        let mut failure = None;
        for (node, taint) in plan.taints {
            let Some(taints) = taints::no_execute(&node, taint, &now_text()) else { continue };
            match self.put_taints(&node, &taints).await {
                Err(error) if is_not_found(&error) => {}
                Err(error) => failure = Some(error),
                Ok(()) if taint.is_some() => self.metrics.count(&NODE_EVICTIONS, &[&zones::of(&node)], 1),
                Ok(()) => {}
            }
        }
        self.metrics.observe(&ALL_NODES_HEALTH_TIMES, &[], begun.elapsed());
        match (failure, plan.wait) {
            (Some(error), _) => Err(error),
            (None, Some(wait)) => Ok(Next::After(wait)),
            (None, None) => Ok(Next::Done),
        }
    }

    /// Pods of a node that nobody hears of serve nobody.
    async fn mark_pods(&self, node: &NodeView) -> Result<(), Error> {
        for pod in self.pods.indexed(self.pods_by_node, &node.metadata.name) {
            if !pod.is_ready() {
                continue;
            }
            let meta = &pod.metadata;
            let not_ready = json!({"type": "Ready", "status": "False", "lastTransitionTime": now_text()});
            let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [not_ready]}});
            let (pods, kind) = (&registry::PODS, PatchKind::Strategic);
            let patched = self.client.patch::<Value>(pods, meta.namespace(), &meta.name, Some("status"), kind, &patch);
            let patched = patched.await;
            if patched.is_ok() {
                self.recorder.warning(&ObjectReference::of(pods, meta), "NodeNotReady", "Node is not ready");
            }
            harmless(patched.map(drop))?;
        }
        Ok(())
    }
}

fn is_unknown(node: &NodeView) -> bool {
    readiness(node) == "Unknown"
}

/// What becomes of a condition that the node does not vouch for any more; nothing if that is known.
fn unknown(node: &NodeView, kind: &str) -> Option<Condition> {
    let old = condition(&node.status.conditions, kind);
    let (reason, message) = match old {
        Some(old) if old.status == "Unknown" => return None,
        Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
        None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
    };
    let heartbeat = old.map_or(&node.metadata.creation_timestamp, |old| &old.last_heartbeat_time);
    Some(Condition {
        kind: kind.into(),
        status: "Unknown".into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: now_text(),
        last_heartbeat_time: heartbeat.clone(),
        ..Condition::default()
    })
}

/// A node that is gone needs nothing. Where somebody else was quicker another run looks again.
fn harmless(outcome: Result<(), Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
