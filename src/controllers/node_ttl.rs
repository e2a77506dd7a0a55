//! Tells nodes how long they may keep Secrets and ConfigMaps before looking again: longer in larger
//! clusters.

use crate::Context;
use naru_api::registry;
use naru_client::{Error, Next, ObjectKey, PatchKind, WorkQueue, is_not_found};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Fewest and most nodes of a step, and its seconds. Steps overlap, so that a cluster at their edge does
/// not go to and fro.
const STEPS: &[(usize, usize, u32)] =
    &[(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The step that follows `step` for so many nodes.
fn next(mut step: usize, nodes: usize) -> usize {
    while nodes > STEPS[step].1 {
        step += 1;
    }
    while nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

pub(crate) fn start(context: &Context) {
    let nodes = context.informers.nodes();
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let step = Arc::new(AtomicUsize::new(0));
    let (wake, all, current) = (queue.clone(), nodes.clone(), step.clone());
    nodes.subscribe(move |change| {
        if change.old.is_some() && change.new.is_some() {
            wake.add(change.key.clone());
            return;
        }
        let before = current.load(Ordering::Relaxed);
        let after = next(before, all.len());
        current.store(after, Ordering::Relaxed);
        if before == after {
            wake.add(change.key.clone());
        } else {
            all.keys().into_iter().for_each(|key| wake.add(key));
        }
    });
    let (client, all) = (context.client.clone(), nodes.clone());
    context.run(&queue, 1, async move { nodes.synced().await }, move |key: ObjectKey| {
        let (client, node, step) = (client.clone(), all.get_key(&key), step.load(Ordering::Relaxed));
        async move {
            let wanted = STEPS[step].2.to_string();
            let stale =
                |annotations: &std::collections::BTreeMap<String, String>| annotations.get(ANNOTATION) != Some(&wanted);
            if node.is_some_and(|node| !node.metadata.is_deleting() && stale(&node.metadata.annotations)) {
                let patch = json!({"metadata": {"annotations": {ANNOTATION: wanted}}});
                let kind = PatchKind::Strategic;
                match client.patch::<Value>(&registry::NODES, None, &key.name, None, kind, &patch).await {
                    Err(error) if !is_not_found(&error) => return Err::<_, Error>(error),
                    _ => {}
                }
            }
            Ok(Next::Done)
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_overlap() {
        assert_eq!([next(0, 100), next(0, 101), next(1, 95), next(1, 89)], [0, 1, 1, 0]);
        assert_eq!([next(0, 5000), next(4, 1), next(4, 1799), next(3, 2001)], [4, 0, 3, 4]);
    }
}
