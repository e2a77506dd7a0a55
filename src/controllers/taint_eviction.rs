//! Deletes pods from nodes whose `NoExecute` taints they do not tolerate, or no longer.

use crate::Context;
use crate::metrics::{Metrics, TAINT_DELETION_DELAYS, TAINT_DELETIONS};
use crate::objects::{now, now_text, seconds};
use naru_api::meta::time;
use naru_api::registry;
use naru_client::projections::{NodeView, PodView, Taint, Toleration, condition};
use naru_client::{
    Client, DeleteOptions, Error, EventRecorder, Informer, Next, ObjectKey, ObjectReference, PatchKind, WorkQueue,
    is_not_found,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

struct Eviction {
    client: Client,
    metrics: Arc<Metrics>,
    nodes: Informer<NodeView>,
    pods: Informer<PodView>,
    recorder: EventRecorder,
    /// Pods that will have to go, and when that was found out. A leaf lock, never held across an await.
    condemned: Mutex<HashMap<ObjectKey, i64>>,
}

pub(crate) fn start(ctx: &Context) {
    let nodes = ctx.informers.nodes();
    let (pods, by_node) = ctx.informers.pods_by_node();
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let (wake, of_node) = (queue.clone(), pods.clone());
    nodes.subscribe(move |change| {
        let taints = |side: &Option<Arc<NodeView>>| side.as_ref().map(|node| node.spec.taints.clone());
        if taints(&change.old).unwrap_or_default() != taints(&change.new).unwrap_or_default() {
            for pod in of_node.indexed(by_node, &change.key.name) {
                wake.add(pod.metadata.key());
            }
        }
    });
    let (wake, all) = (queue.clone(), nodes.clone());
    pods.subscribe(move |change| {
        let pod = change.latest();
        if all.get("", &pod.spec.node_name).is_some_and(|node| node.spec.taints.iter().any(is_no_execute)) {
            wake.add(change.key.clone());
        }
    });
    let eviction = Arc::new(Eviction {
        client: ctx.client.clone(),
        metrics: ctx.config.metrics.clone(),
        nodes: nodes.clone(),
        pods: pods.clone(),
        recorder: ctx.recorder("taint-eviction-controller"),
        condemned: Mutex::default(),
    });
    let synced = async move {
        nodes.synced().await;
        pods.synced().await;
    };
    ctx.run(&queue, 4, synced, move |key: ObjectKey| {
        let eviction = eviction.clone();
        async move { eviction.reconcile(&key).await }
    });
}

impl Eviction {
    fn condemned(&self) -> MutexGuard<'_, HashMap<ObjectKey, i64>> {
        self.condemned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let pod = self.pods.get_key(key).filter(|pod| pod.is_active());
        let node = pod.as_ref().and_then(|pod| self.nodes.get("", &pod.spec.node_name));
        let left = pod.as_ref().zip(node).and_then(|(pod, node)| {
            let now = now();
            let known = self.condemned().get(key).copied();
            time_left(&node.spec.taints, &pod.spec.tolerations, known.unwrap_or(now).max(scheduled(pod)), now)
        });
        let about = ObjectReference {
            kind: registry::PODS.kind.to_owned(),
            api_version: registry::PODS.version.to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: pod.as_ref().map_or_else(String::new, |pod| pod.metadata.uid.clone()),
            ..ObjectReference::default()
        };
        let (Some(pod), Some(left)) = (pod, left) else {
            if self.condemned().remove(key).is_some() {
                self.recorder.normal(&about, "TaintManagerEviction", format!("Cancelling deletion of Pod {key}"));
            }
            return Ok(Next::Done);
        };
        if left > Duration::ZERO {
            self.condemned().entry(key.clone()).or_insert_with(now);
            return Ok(Next::After(left));
        }
        self.recorder.normal(&about, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        let begun = Instant::now();
        let outcome = self.evict(&pod).await;
        if outcome.is_ok() {
            self.metrics.observe(&TAINT_DELETION_DELAYS, &[], begun.elapsed());
            self.condemned().remove(key);
        }
        outcome
    }

    /// Says why, and then deletes the pod.
    async fn evict(&self, pod: &PodView) -> Result<Next, Error> {
        let (meta, resource) = (&pod.metadata, &registry::PODS);
        let told = condition(&pod.status.conditions, "DisruptionTarget");
        if told.is_none_or(|told| told.status != "True" || told.reason != "DeletionByTaintManager") {
            let target = json!({
                "type": "DisruptionTarget", "status": "True", "lastTransitionTime": now_text(),
                "reason": "DeletionByTaintManager", "message": "Taint manager: deleting due to NoExecute taint",
            });
            let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [target]}});
            let kind = PatchKind::Strategic;
            settle(
                self.client.patch::<Value>(resource, meta.namespace(), &meta.name, Some("status"), kind, &patch).await,
            )?;
        }
        let options = DeleteOptions::default().uid(&meta.uid);
        settle(self.client.delete(resource, meta.namespace(), &meta.name, &options).await)?;
        self.metrics.count(&TAINT_DELETIONS, &[], 1);
        Ok(Next::Done)
    }
}

/// The pod is gone: nothing is left to do. Whether a conflict means another pod of that name, the cache will show.
fn settle<T>(outcome: Result<T, Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

/// When a pod was given to its node.
fn scheduled(pod: &PodView) -> i64 {
    let scheduled = condition(&pod.status.conditions, "PodScheduled").map(|told| told.last_transition_time.as_str());
    seconds(scheduled.filter(|time| !time.is_empty()).unwrap_or(&pod.metadata.creation_timestamp))
}

fn is_no_execute(taint: &Taint) -> bool {
    taint.effect == "NoExecute"
}

/// How long a pod may stay: `None` for ever, zero not at all. Of several tolerations of one taint the first
/// counts. Time runs from when the taint was added, but not before `since`, which also stands for a taint that
/// does not say; all in seconds since the epoch.
fn time_left(taints: &[Taint], tolerations: &[Toleration], since: i64, now: i64) -> Option<Duration> {
    let mut left: Option<Duration> = None;
    for taint in taints.iter().filter(|taint| is_no_execute(taint)) {
        let Some(toleration) = tolerations.iter().find(|toleration| toleration.tolerates(taint)) else {
            return Some(Duration::ZERO);
        };
        let Some(seconds) = toleration.toleration_seconds else { continue };
        let added = taint.time_added.as_deref().and_then(time::parse_seconds).unwrap_or(since).max(since);
        let rest = u64::try_from(added.saturating_add(seconds.max(0)) - now).unwrap_or(0);
        let rest = Duration::from_secs(rest);
        left = Some(left.map_or(rest, |left| left.min(rest)));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, added: i64) -> Taint {
        Taint {
            key: key.into(),
            effect: "NoExecute".into(),
            time_added: Some(time::format_seconds(added)),
            ..Taint::default()
        }
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration { key: key.into(), operator: "Exists".into(), toleration_seconds: seconds, ..Toleration::default() }
    }

    #[test]
    fn the_shortest_toleration_counts_from_when_the_taint_was_added() {
        let taints = [taint("a", 1000), taint("b", 1000)];
        let left = |tolerations: &[Toleration], since: i64, now: i64| {
            time_left(&taints, tolerations, since, now).map(|left| left.as_secs())
        };
        assert_eq!(left(&[], 0, 1000), Some(0));
        let tolerations = [toleration("a", Some(300)), toleration("b", None)];
        assert_eq!(left(&tolerations, 0, 1100), Some(200));
        assert_eq!(left(&tolerations, 0, 2000), Some(0));
        assert_eq!(left(&tolerations, 1050, 1100), Some(250), "a pod that came later has its time from then");
        assert_eq!(left(&[toleration("", None)], 0, 2000), None);
        assert_eq!(left(&[toleration("", None), toleration("a", Some(5))], 0, 2000), None, "the first counts");
        assert_eq!(time_left(&[], &[], 0, 0), None);
        let unsaid = Taint { time_added: None, ..taint("a", 0) };
        assert_eq!(time_left(&[unsaid], &tolerations, 1000, 1200), Some(Duration::from_secs(100)));
    }
}
