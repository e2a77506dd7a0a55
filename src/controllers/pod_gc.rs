//! Deletes pods that nobody else ends: of nodes that are gone or out of service, terminating ones that never got
//! a node, and the oldest ended ones where there are very many.

use crate::Context;
use crate::metrics::{FORCED_DELETION_ERRORS, FORCED_DELETIONS, Metrics};
use crate::objects::now_text;
use naru_api::registry;
use naru_client::projections::{NodeView, PodView, condition};
use naru_client::{
    Change, Client, DeleteOptions, Error, IndexId, Informer, Next, ObjectKey, PatchKind, WorkQueue, is_not_found,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A node may come back, or its object may be made anew, within this time.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Ended pods are kept for their logs, up to so many (`--terminated-pod-gc-threshold`); they are counted this
/// often while pods end.
const MOST_ENDED: usize = 12_500;
const COUNT_EVERY: Duration = Duration::from_secs(20);
/// An administrator says so of a node that is shut down for good.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How metrics name terminating pods that never got a node, and those of a node that is out of service.
const UNSCHEDULED: &str = "unscheduled";
const LEFT_BEHIND: &str = "out-of-service";

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    /// A node that may be gone: pods are left if it still is after the quarantine.
    Node(String),
    /// A pod that is terminating.
    Pod(ObjectKey),
    /// All pods that have ended.
    Ended,
}

struct PodGc {
    client: Client,
    metrics: Arc<Metrics>,
    nodes: Informer<NodeView>,
    pods: Informer<PodView>,
    pods_by_node: IndexId,
    queue: WorkQueue<Work>,
}

pub(crate) fn start(context: &Context) {
    let nodes = context.informers.nodes();
    let (pods, pods_by_node) = context.informers.pods_by_node();
    let controller = Arc::new(PodGc {
        client: context.client.clone(),
        metrics: context.config.metrics.clone(),
        nodes: nodes.clone(),
        pods: pods.clone(),
        pods_by_node,
        queue: WorkQueue::new(),
    });
    let taker = controller.clone();
    nodes.subscribe(move |change| taker.node_changed(change));
    let taker = controller.clone();
    pods.subscribe(move |change| taker.pod_changed(change));
    let synced = async move {
        nodes.synced().await;
        pods.synced().await;
    };
    let runner = controller.clone();
    context.run(&controller.queue, 2, synced, move |work| {
        let controller = runner.clone();
        async move { controller.reconcile(work).await }
    });
}

fn is_ready(node: &NodeView) -> bool {
    condition(&node.status.conditions, "Ready").is_some_and(|ready| ready.status == "True")
}

fn is_out_of_service(node: &NodeView) -> bool {
    !is_ready(node) && node.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

impl PodGc {
    fn node_changed(&self, change: &Change<NodeView>) {
        let name = &change.key.name;
        match &change.new {
            None => self.queue.add_after(Work::Node(name.clone()), QUARANTINE),
            Some(node) if is_out_of_service(node) => {
                for pod in self.pods.indexed(self.pods_by_node, name) {
                    self.queue.add(Work::Pod(pod.metadata.key()));
                }
            }
            Some(_) => {}
        }
    }

    fn pod_changed(&self, change: &Change<PodView>) {
        let Some(pod) = &change.new else { return };
        let node = &pod.spec.node_name;
        // Nodes that were gone before this process began are noticed by their pods.
        if change.old.is_none() && !node.is_empty() {
            self.queue.add_after(Work::Node(node.clone()), QUARANTINE);
        }
        if pod.metadata.is_deleting() {
            self.queue.add(Work::Pod(change.key.clone()));
        }
        if pod.is_finished() {
            self.queue.add_after(Work::Ended, COUNT_EVERY);
        }
    }

    async fn reconcile(&self, work: Work) -> Result<Next, Error> {
        match work {
            Work::Node(node) => self.clean(&node).await?,
            Work::Pod(key) => {
                let pod = self.pods.get_key(&key).filter(|pod| pod.metadata.is_deleting());
                if let Some(pod) = pod.filter(|pod| self.is_stuck(pod)) {
                    let reason = if pod.spec.node_name.is_empty() { UNSCHEDULED } else { LEFT_BEHIND };
                    self.end(&pod, reason, None).await?;
                }
            }
            Work::Ended => {
                for pod in surplus(self.pods.list(), MOST_ENDED) {
                    self.end(&pod, "terminated", None).await?;
                }
            }
        }
        Ok(Next::Done)
    }

    /// Whether nobody is there to end a terminating pod.
    fn is_stuck(&self, pod: &PodView) -> bool {
        let node = &pod.spec.node_name;
        node.is_empty() || self.nodes.get("", node).is_some_and(|node| is_out_of_service(&node))
    }

    fn is_missing(&self, node: &str) -> bool {
        self.nodes.get("", node).is_none() && !self.pods.indexed(self.pods_by_node, node).is_empty()
    }

    /// Ends the pods of a node that is gone. Asks for the node itself, as the cache may be behind.
    async fn clean(&self, node: &str) -> Result<(), Error> {
        if !self.is_missing(node) {
            return Ok(());
        }
        match self.client.get::<Value>(&registry::NODES, None, node).await {
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
        for pod in self.pods.indexed(self.pods_by_node, node) {
            tracing::info!(pod = %pod.metadata.key(), node, "deleting a pod whose node is gone");
            self.end(&pod, "orphaned", Some("PodGC: node no longer exists")).await?;
        }
        Ok(())
    }

    /// Ends a pod and counts how that went.
    async fn end(&self, pod: &PodView, reason: &str, why: Option<&str>) -> Result<(), Error> {
        let outcome = self.fail_and_delete(pod, why).await;
        let family = if outcome.is_ok() { &FORCED_DELETIONS } else { &FORCED_DELETION_ERRORS };
        self.metrics.count(family, &[&pod.metadata.namespace, reason], 1);
        outcome
    }

    /// Says that a pod has failed, since nobody else will, and deletes it. `why` becomes a condition.
    async fn fail_and_delete(&self, pod: &PodView, why: Option<&str>) -> Result<(), Error> {
        let (meta, resource) = (&pod.metadata, &registry::PODS);
        if !pod.is_finished() {
            let mut status = json!({"phase": "Failed"});
            if let Some(why) = why {
                status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True",
                    "reason": "DeletionByPodGC", "message": why, "lastTransitionTime": now_text()}]);
            }
            let patch = json!({"metadata": {"uid": meta.uid}, "status": status});
            let kind = PatchKind::Strategic;
            let patched =
                self.client.patch::<Value>(resource, meta.namespace(), &meta.name, Some("status"), kind, &patch);
            match patched.await {
                Err(error) if is_not_found(&error) => return Ok(()),
                other => drop(other?),
            }
        }
        let options = DeleteOptions::default().uid(&meta.uid).grace(0);
        match self.client.delete(resource, meta.namespace(), &meta.name, &options).await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other,
        }
    }
}

/// Ended pods beyond the most that are kept: evicted ones first, then the oldest.
fn surplus(mut pods: Vec<Arc<PodView>>, most: usize) -> Vec<Arc<PodView>> {
    pods.retain(|pod| pod.is_finished());
    let count = pods.len().saturating_sub(most);
    if count == 0 {
        return Vec::new();
    }
    let is_evicted = |pod: &PodView| pod.status.phase == "Failed" && pod.status.reason == "Evicted";
    pods.sort_by_cached_key(|pod| {
        (!is_evicted(pod), pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone())
    });
    pods.truncate(count);
    pods
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::suite::Scripted;

    fn controller(script: &Arc<Scripted>) -> PodGc {
        let pods: Informer<PodView> = Informer::detached();
        let pods_by_node = pods.index(|pod: &PodView| vec![pod.spec.node_name.clone()]);
        let (client, nodes) = (Client::new(script.clone()), Informer::detached());
        PodGc { client, metrics: Arc::default(), nodes, pods, pods_by_node, queue: WorkQueue::new() }
    }

    fn put_pod(controller: &PodGc, name: &str, node: &str, deleting: bool) {
        let mut pod = json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"nodeName": node},
            "status": {"phase": "Running"}});
        if deleting {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        controller.pods.apply(ObjectKey::new("d", name), String::new(), Some(serde_json::from_value(pod).unwrap()));
    }

    fn put_node(controller: &PodGc, name: &str, ready: &str, taint: &str) {
        let node = json!({"metadata": {"name": name}, "spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        controller.nodes.apply(ObjectKey::new("", name), String::new(), Some(serde_json::from_value(node).unwrap()));
    }

    #[test]
    fn only_nodes_that_are_gone_and_have_left_pods_are_missing() {
        let controller = controller(&Scripted::new());
        put_pod(&controller, "a", "here", false);
        put_pod(&controller, "b", "gone", false);
        put_node(&controller, "here", "True", "x");
        assert!(!controller.is_missing("here"));
        assert!(controller.is_missing("gone"));
        assert!(!controller.is_missing("never there"));
    }

    #[tokio::test]
    async fn terminating_pods_that_nobody_ends_are_failed_and_deleted() {
        let script = Scripted::new();
        let controller = controller(&script);
        put_node(&controller, "down", "Unknown", OUT_OF_SERVICE);
        put_node(&controller, "back", "True", OUT_OF_SERVICE);
        put_node(&controller, "silent", "Unknown", "x");
        for (name, node, deleting) in [
            ("unplaced", "", true),
            ("waiting", "", false),
            ("lost", "down", true),
            ("stays", "down", false),
            ("served", "back", true),
            ("unsure", "silent", true),
        ] {
            put_pod(&controller, name, node, deleting);
            controller.reconcile(Work::Pod(ObjectKey::new("d", name))).await.unwrap();
        }
        let ended = ["unplaced", "waiting", "lost", "stays", "served", "unsure"].map(|name| {
            (script.bodies(&format!("/pods/{name}/status")).len(), script.bodies(&format!("/pods/{name}")).len())
        });
        assert_eq!(ended, [(1, 1), (0, 0), (1, 1), (0, 0), (0, 0), (0, 0)]);
        assert_eq!(script.bodies("/pods/lost/status")[0]["status"], json!({"phase": "Failed"}));
        assert_eq!(script.bodies("/pods/lost")[0]["gracePeriodSeconds"], 0);
    }

    #[test]
    fn evicted_pods_go_first_then_the_oldest() {
        let pod = |name: &str, phase: &str, reason: &str, day: u8| -> Arc<PodView> {
            Arc::new(
                serde_json::from_value(json!({
                "metadata": {"name": name, "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z")},
                "status": {"phase": phase, "reason": reason}}))
                .unwrap(),
            )
        };
        let pods = vec![
            pod("old", "Succeeded", "", 1),
            pod("running", "Running", "", 1),
            pod("new", "Failed", "", 9),
            pod("evicted", "Failed", "Evicted", 8),
        ];
        let names =
            |most: usize| surplus(pods.clone(), most).iter().map(|pod| pod.metadata.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(3), Vec::<String>::new());
        assert_eq!(names(1), ["evicted", "old"]);
    }
}
