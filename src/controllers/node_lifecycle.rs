//! Notices nodes that have stopped reporting: their conditions, taints, and what their pods show.

use crate::Context;
use naru_api::meta::time::Timestamp;
use naru_api::registry;
use naru_client::projections::{Condition, LeaseView, NodeView, PodView, Taint, condition};
use naru_client::{
    Client, Error, EventRecorder, IndexId, Informer, ListParams, Next, ObjectReference, PatchKind, WorkQueue,
    is_conflict, is_not_found,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long a node may be silent (`--node-monitor-grace-period`).
const GRACE: Duration = Duration::from_secs(50);
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that a silent node cannot vouch for any more.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The last renewal seen of each node, by our own clock: the clocks of nodes may differ.
type Seen = Arc<Mutex<HashMap<String, (String, Instant)>>>;

struct Lifecycle {
    client: Client,
    nodes: Informer<NodeView>,
    leases: Informer<LeaseView>,
    pods: Informer<PodView>,
    pods_by_node: IndexId,
    recorder: EventRecorder,
    seen: Seen,
}

pub(crate) fn start(ctx: &Context) {
    let nodes = ctx.informers.nodes();
    let (pods, pods_by_node) = ctx.informers.pods_by_node();
    let leases: Informer<LeaseView> = ctx.informers.start(&registry::LEASES, ListParams::namespace("kube-node-lease"));
    let queue: WorkQueue<String> = WorkQueue::new();
    let wake = queue.clone();
    nodes.subscribe(move |change| wake.add(change.key.name.clone()));
    let wake = queue.clone();
    leases.subscribe(move |change| wake.add(change.key.name.clone()));
    let lifecycle = Arc::new(Lifecycle {
        client: ctx.client.clone(),
        nodes: nodes.clone(),
        leases: leases.clone(),
        pods: pods.clone(),
        pods_by_node,
        recorder: ctx.recorder("node-controller"),
        seen: Seen::default(),
    });
    let synced = async move {
        nodes.synced().await;
        leases.synced().await;
        pods.synced().await;
    };
    ctx.run(&queue, 2, synced, move |name: String| {
        let lifecycle = lifecycle.clone();
        async move { lifecycle.reconcile(&name).await }
    });
}

impl Lifecycle {
    async fn reconcile(&self, name: &str) -> Result<Next, Error> {
        let Some(node) = self.nodes.get("", name) else {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
            return Ok(Next::Done);
        };
        let silent = self.silence(name, &node);
        if silent >= GRACE {
            self.mark_unknown(&node).await?;
        }
        let ready = condition(&node.status.conditions, "Ready");
        let status = if silent >= GRACE { "Unknown" } else { ready.map_or("Unknown", |ready| ready.status.as_str()) };
        self.put_taints(&node, status).await?;
        if ready.is_some_and(|ready| ready.status != "True") {
            self.mark_pods(&node).await?;
        }
        Ok(if silent < GRACE { Next::After(GRACE - silent) } else { Next::Done })
    }

    /// How long ago the node's lease, or its status, was last seen to change.
    fn silence(&self, name: &str, node: &NodeView) -> Duration {
        let renewal = self.leases.get("kube-node-lease", name).map(|lease| lease.spec.renew_time.clone());
        let heartbeat = condition(&node.status.conditions, "Ready").map(|ready| ready.last_heartbeat_time.clone());
        let now = format!("{}/{}", renewal.unwrap_or_default(), heartbeat.unwrap_or_default());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = seen.entry(name.to_owned()).or_insert_with(|| (now.clone(), Instant::now()));
        if entry.0 != now {
            *entry = (now, Instant::now());
        }
        entry.1.elapsed()
    }

    async fn mark_unknown(&self, node: &NodeView) -> Result<(), Error> {
        let now = Timestamp::from_system(SystemTime::now()).to_seconds();
        let unknown: Vec<Condition> = REPORTED
            .iter()
            .filter_map(|kind| {
                let old = condition(&node.status.conditions, kind);
                let (reason, message) = match old {
                    Some(old) if old.status == "Unknown" => return None,
                    Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                    None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
                };
                Some(Condition {
                    kind: (*kind).into(),
                    status: "Unknown".into(),
                    reason: reason.into(),
                    message: message.into(),
                    last_transition_time: now.clone(),
                    last_heartbeat_time: old.map_or_else(|| now.clone(), |old| old.last_heartbeat_time.clone()),
                    ..Condition::default()
                })
            })
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let about = ObjectReference::of(&registry::NODES, &node.metadata);
        let name = &node.metadata.name;
        self.recorder.normal(&about, "NodeNotReady", format!("Node {name} status is now: NodeNotReady"));
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": unknown}});
        self.patch_node(node, Some("status"), &patch).await
    }

    /// The taints that follow from the node's state, beside those that others have put on it.
    async fn put_taints(&self, node: &NodeView, ready: &str) -> Result<(), Error> {
        let key = match ready {
            "True" => None,
            "False" => Some(NOT_READY),
            _ => Some(UNREACHABLE),
        };
        let wanted: Vec<(&str, &str)> = key
            .into_iter()
            .flat_map(|key| [(key, "NoSchedule"), (key, "NoExecute")])
            .chain(node.spec.unschedulable.then_some((UNSCHEDULABLE, "NoSchedule")))
            .collect();
        let ours = |taint: &Taint| [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str());
        let has = |key: &str, effect: &str| node.spec.taints.iter().any(|t| t.key == key && t.effect == effect);
        let kept = |taint: &&Taint| {
            !ours(taint) || wanted.iter().any(|(key, effect)| taint.key == *key && taint.effect == *effect)
        };
        let now = Timestamp::from_system(SystemTime::now()).to_seconds();
        let mut taints: Vec<Taint> = node.spec.taints.iter().filter(kept).cloned().collect();
        for (key, effect) in wanted.iter().filter(|(key, effect)| !has(key, effect)) {
            taints.push(Taint {
                key: (*key).into(),
                effect: (*effect).into(),
                time_added: Some(now.clone()),
                ..Taint::default()
            });
        }
        if taints == node.spec.taints {
            return Ok(());
        }
        // A list that is replaced whole: only as long as nobody else has changed it.
        let patch = json!({
            "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        self.patch_node(node, None, &patch).await
    }

    /// Pods of a node that is not ready serve nobody.
    async fn mark_pods(&self, node: &NodeView) -> Result<(), Error> {
        for pod in self.pods.indexed(self.pods_by_node, &node.metadata.name) {
            if !pod.is_ready() || pod.is_finished() {
                continue;
            }
            let now = Timestamp::from_system(SystemTime::now()).to_seconds();
            let not_ready = json!({"type": "Ready", "status": "False", "lastTransitionTime": now});
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [not_ready]}});
            let done: Result<Value, Error> = self
                .client
                .patch(
                    &registry::PODS,
                    pod.metadata.namespace(),
                    &pod.metadata.name,
                    Some("status"),
                    PatchKind::Strategic,
                    &patch,
                )
                .await;
            harmless(done)?;
        }
        Ok(())
    }

    async fn patch_node(&self, node: &NodeView, subresource: Option<&str>, patch: &Value) -> Result<(), Error> {
        let kind = if subresource.is_some() { PatchKind::Strategic } else { PatchKind::Merge };
        harmless(self.client.patch(&registry::NODES, None, &node.metadata.name, subresource, kind, patch).await)
    }
}

/// The watch event of whoever was quicker starts another run.
fn harmless(outcome: Result<Value, Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if !is_not_found(&error) && !is_conflict(&error) => Err(error),
        _ => Ok(()),
    }
}
