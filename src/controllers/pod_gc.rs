//! Deletes pods whose node is gone: no kubelet is left to end them.

use crate::Context;
use naru_api::registry;
use naru_client::projections::{NodeView, PodView};
use naru_client::{Client, DeleteOptions, Error, IndexId, Informer, Next, WorkQueue, is_not_found};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// A node may come back, or its object may be made anew, within this time.
const QUARANTINE: Duration = Duration::from_secs(40);

struct PodGc {
    client: Client,
    nodes: Informer<NodeView>,
    pods: Informer<PodView>,
    pods_by_node: IndexId,
}

/// Keys are names of nodes.
pub(crate) fn start(context: &Context) {
    let nodes = context.informers.nodes();
    let (pods, pods_by_node) = context.informers.pods_by_node();
    let queue = WorkQueue::new();
    let controller =
        Arc::new(PodGc { client: context.client.clone(), nodes: nodes.clone(), pods: pods.clone(), pods_by_node });
    let adder = queue.clone();
    nodes.subscribe(move |change| {
        if change.new.is_none() {
            adder.add(change.key.name.clone());
        }
    });
    // Pods of nodes that were gone before this process began.
    let adder = queue.clone();
    pods.subscribe(move |change| {
        if let (None, Some(pod)) = (&change.old, &change.new)
            && !pod.spec.node_name.is_empty()
        {
            adder.add(pod.spec.node_name.clone());
        }
    });
    let synced = async move {
        nodes.synced().await;
        pods.synced().await;
    };
    let looked_again = WorkQueue::new();
    let (first, second) = (controller.clone(), controller);
    let later = looked_again.clone();
    let both = {
        let (nodes, pods) = (first.nodes.clone(), first.pods.clone());
        async move {
            nodes.synced().await;
            pods.synced().await;
        }
    };
    context.run(&queue, 1, synced, move |node: String| {
        let (controller, later) = (first.clone(), later.clone());
        async move {
            if controller.is_missing(&node) {
                later.add_after(node, QUARANTINE);
            }
            Ok::<_, Error>(Next::Done)
        }
    });
    context.run(&looked_again, 1, both, move |node: String| {
        let controller = second.clone();
        async move { controller.clean(&node).await }
    });
}

impl PodGc {
    fn is_missing(&self, node: &str) -> bool {
        self.nodes.get("", node).is_none() && !self.pods.indexed(self.pods_by_node, node).is_empty()
    }

    /// Asks for the node itself, as the cache may be behind.
    async fn clean(&self, node: &str) -> Result<Next, Error> {
        if !self.is_missing(node) {
            return Ok(Next::Done);
        }
        match self.client.get::<Value>(&registry::NODES, None, node).await {
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(Next::Done),
        }
        for pod in self.pods.indexed(self.pods_by_node, node) {
            let meta = &pod.metadata;
            tracing::info!(pod = %meta.key(), node, "deleting a pod whose node is gone");
            let options = DeleteOptions::default().uid(&meta.uid).grace(0);
            match self.client.delete(&registry::PODS, meta.namespace(), &meta.name, &options).await {
                Err(error) if is_not_found(&error) => {}
                other => other?,
            }
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naru_client::ObjectKey;

    #[test]
    fn only_nodes_that_are_gone_and_have_left_pods_are_missing() {
        let pods: Informer<PodView> = Informer::detached();
        let pods_by_node = pods.index(|pod: &PodView| vec![pod.spec.node_name.clone()]);
        let nodes = Informer::detached();
        for (name, node) in [("a", "here"), ("b", "gone")] {
            let mut pod = PodView::default();
            node.clone_into(&mut pod.spec.node_name);
            pods.apply(ObjectKey::new("default", name), String::new(), Some(pod));
        }
        nodes.apply(ObjectKey::new("", "here"), String::new(), Some(NodeView::default()));
        let client = Client::new(Arc::new(Nowhere));
        let controller = PodGc { client, nodes, pods, pods_by_node };
        assert!(!controller.is_missing("here"));
        assert!(controller.is_missing("gone"));
        assert!(!controller.is_missing("never there"));
    }

    struct Nowhere;

    #[async_trait::async_trait]
    impl naru_client::Transport for Nowhere {
        async fn send(&self, _: naru_client::Request) -> Result<bytes::Bytes, Error> {
            Err(Error::Connection("nowhere".to_owned()))
        }

        async fn watch(&self, _: naru_client::Request) -> Result<naru_client::WatchStream, Error> {
            Err(Error::Connection("nowhere".to_owned()))
        }
    }
}
