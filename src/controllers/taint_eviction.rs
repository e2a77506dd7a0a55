//! Deletes pods from nodes whose `NoExecute` taints they do not tolerate, or no longer.

use crate::Context;
use naru_api::meta::time;
use naru_api::registry;
use naru_client::projections::{NodeView, PodView, Taint, Toleration};
use naru_client::{
    Client, DeleteOptions, Error, EventRecorder, Informer, Next, ObjectKey, ObjectReference, WorkQueue, is_conflict,
    is_not_found,
};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

struct Eviction {
    client: Client,
    nodes: Informer<NodeView>,
    pods: Informer<PodView>,
    recorder: EventRecorder,
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
        let node = change.new.as_ref().and_then(|pod| all.get("", &pod.spec.node_name));
        if node.is_some_and(|node| node.spec.taints.iter().any(is_no_execute)) {
            wake.add(change.key.clone());
        }
    });
    let eviction = Arc::new(Eviction {
        client: ctx.client.clone(),
        nodes: nodes.clone(),
        pods: pods.clone(),
        recorder: ctx.recorder("taint-eviction-controller"),
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
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(pod) = self.pods.get_key(key).filter(|pod| pod.is_active()) else { return Ok(Next::Done) };
        let Some(node) = self.nodes.get("", &pod.spec.node_name) else { return Ok(Next::Done) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        match time_left(&node.spec.taints, &pod.spec.tolerations, i64::try_from(now).unwrap_or(i64::MAX)) {
            None => Ok(Next::Done),
            Some(left) if left > Duration::ZERO => Ok(Next::After(left)),
            Some(_) => {
                let about = ObjectReference::of(&registry::PODS, &pod.metadata);
                self.recorder.normal(&about, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
                let options = DeleteOptions::default().uid(&pod.metadata.uid);
                match self.client.delete(&registry::PODS, key.namespace(), &key.name, &options).await {
                    Err(error) if !is_not_found(&error) && !is_conflict(&error) => Err(error),
                    _ => Ok(Next::Done),
                }
            }
        }
    }
}

fn is_no_execute(taint: &Taint) -> bool {
    taint.effect == "NoExecute"
}

/// How long a pod may stay: `None` for ever, zero not at all. `now` in seconds since the epoch.
fn time_left(taints: &[Taint], tolerations: &[Toleration], now: i64) -> Option<Duration> {
    let mut left: Option<Duration> = None;
    for taint in taints.iter().filter(|taint| is_no_execute(taint)) {
        let matching: Vec<_> = tolerations.iter().filter(|toleration| toleration.tolerates(taint)).collect();
        if matching.is_empty() {
            return Some(Duration::ZERO);
        }
        let Some(seconds) = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min() else {
            continue;
        };
        let since = taint.time_added.as_deref().and_then(time::parse_seconds).unwrap_or(now);
        let rest = u64::try_from(since.saturating_add(seconds.max(0)) - now).unwrap_or(0);
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
        assert_eq!(time_left(&taints, &[], 1000), Some(Duration::ZERO));
        let tolerations = [toleration("a", Some(300)), toleration("b", None)];
        assert_eq!(time_left(&taints, &tolerations, 1100), Some(Duration::from_secs(200)));
        assert_eq!(time_left(&taints, &tolerations, 2000), Some(Duration::ZERO));
        assert_eq!(time_left(&taints, &[toleration("", None)], 2000), None);
        assert_eq!(time_left(&[], &[], 0), None);
    }
}
