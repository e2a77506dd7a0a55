//! The Node object: registration, status, heartbeat.

pub(crate) mod facts;
mod lease;
mod status;

use crate::shared::Shared;
use facts::Facts;
use k8s_openapi::api::core::v1::Node;
use naru_api::core::is_extended;
use naru_api::registry::NODES;
use naru_base::{Backoff, Shutdown, spawn};
use naru_client::projections::{NodeView, condition};
use naru_client::{
    Error, EventKind, Informer, ListParams, ObjectReference, PatchKind, is_already_exists, is_not_found,
};
use serde::de::IgnoredAny;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// So long others have before the Node is put right, so that two who disagree do not keep a processor busy.
const AMISS_PAUSE: Duration = Duration::from_secs(1);
/// A status that has not changed is published again after this time.
const STATUS_PERIOD: Duration = Duration::from_secs(300);

/// Registers the node and keeps its status; the answer becomes true once the Node is Ready.
pub(crate) fn start(shared: &Arc<Shared>, facts: Facts, shutdown: &Shutdown) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    let (uid_sender, uid) = watch::channel(None);
    lease::start(shared.config.client.clone(), shared.config.node_name.clone(), uid, shutdown);
    let amiss = Arc::new(Notify::new());
    watch_own_node(shared, &amiss, shutdown);
    let (shared, shutdown) = (shared.clone(), shutdown.clone());
    spawn("node status", async move {
        let node = NodeSync { shared, facts, amiss };
        shutdown.guard(node.run(&sender, &uid_sender)).await;
    });
    receiver
}

/// Wakes the status when others have left the Node in a state that it must not stay in.
fn watch_own_node(shared: &Arc<Shared>, amiss: &Arc<Notify>, shutdown: &Shutdown) {
    let config = &shared.config;
    let own = ListParams::all().fields(format!("metadata.name={}", config.node_name));
    let nodes: Informer<NodeView> = Informer::start(&config.client, &NODES, own, shutdown);
    let amiss = amiss.clone();
    nodes.subscribe(move |change| {
        if change.new.as_ref().is_some_and(|node| is_amiss(node)) {
            amiss.notify_one();
        }
    });
}

/// Whether the node was thought to be gone, or has been given something that pods cannot have yet.
fn is_amiss(node: &NodeView) -> bool {
    let unknown = condition(&node.status.conditions, "Ready").is_some_and(|ready| ready.status == "Unknown");
    unknown || !node.status.withheld().is_empty()
}

struct NodeSync {
    shared: Arc<Shared>,
    facts: Facts,
    amiss: Arc<Notify>,
}

impl NodeSync {
    async fn run(&self, ready: &watch::Sender<bool>, uid: &watch::Sender<Option<String>>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut network = self.shared.config.network.problem();
        let mut addresses = Some(self.shared.config.node_ips.clone());
        loop {
            let problem = network.as_mut().and_then(|problem| problem.borrow_and_update().clone());
            if let Some(addresses) = &mut addresses {
                addresses.mark_unchanged();
            }
            match self.round(ready, uid, problem.as_deref()).await {
                Ok(()) => {
                    backoff.reset();
                    tokio::select! {
                        () = tokio::time::sleep(STATUS_PERIOD) => {}
                        () = self.shared.images_changed.notified() => {}
                        () = self.amiss.notified() => tokio::time::sleep(AMISS_PAUSE).await,
                        () = changed(&mut network) => {}
                        () = changed(&mut addresses) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "node status not published");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Registers the node if need be and publishes its status.
    async fn round(
        &self,
        ready: &watch::Sender<bool>,
        uid: &watch::Sender<Option<String>>,
        problem: Option<&str>,
    ) -> Result<(), Error> {
        let node = self.register().await?;
        uid.send_if_modified(|known| {
            let changed = *known != node.metadata.uid;
            known.clone_from(&node.metadata.uid);
            changed
        });
        let config = &self.shared.config;
        let old = node.status.unwrap_or_default();
        let now = jiff::Timestamp::now();
        let mut status = status::compute(config, &self.facts, &config.images.list(), &old, problem, now);
        // Addresses of one type (a node has one of each family) are one to a merge: the list is replaced as a whole.
        if let Some(addresses) = status["addresses"].as_array_mut() {
            addresses.push(json!({"$patch": "replace"}));
        }
        let capacity = old.capacity.iter().flatten().filter(|(name, _)| is_extended(name));
        for (name, amount) in capacity {
            // Said by somebody who has put it there, such as a test.
            status["allocatable"][name] = json!(amount);
        }
        let patch = json!({"status": status});
        let _: IgnoredAny =
            config.client.patch(&NODES, None, &config.node_name, Some("status"), PatchKind::Strategic, &patch).await?;
        let was_ready = ready.send_replace(problem.is_none());
        if !was_ready && problem.is_none() {
            self.event("NodeReady", format!("Node {} status is now: NodeReady", config.node_name));
        }
        Ok(())
    }

    /// The Node object with our labels, made if it is not there.
    async fn register(&self) -> Result<Node, Error> {
        let config = &self.shared.config;
        match config.client.get::<Node>(&NODES, None, &config.node_name).await {
            Ok(node) => self.label(node).await,
            Err(error) if is_not_found(&error) => {
                self.event("Starting", "Starting kubelet.");
                let new = status::new_node(config, &self.facts);
                match config.client.create(&NODES, None, &new).await {
                    Err(error) if is_already_exists(&error) => config.client.get(&NODES, None, &config.node_name).await,
                    answer => answer,
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn label(&self, node: Node) -> Result<Node, Error> {
        let config = &self.shared.config;
        let metadata = &node.metadata;
        let labels = missing(status::labels(config), metadata.labels.as_ref());
        let annotations = missing(status::annotations(config), metadata.annotations.as_ref());
        if labels.is_empty() && annotations.is_empty() {
            return Ok(node);
        }
        let patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
        config.client.patch(&NODES, None, &config.node_name, None, PatchKind::Merge, &patch).await
    }

    fn event(&self, reason: &str, message: impl Into<String>) {
        let name = self.shared.config.node_name.clone();
        // Events about nodes name the node as its uid; tools look them up so.
        let about = ObjectReference {
            kind: "Node".into(),
            api_version: "v1".into(),
            uid: name.clone(),
            name,
            ..Default::default()
        };
        self.shared.recorder.event(&about, EventKind::Normal, reason, message);
    }
}

/// Completes when there is another value.
async fn changed<T>(watched: &mut Option<watch::Receiver<T>>) {
    let told = match watched {
        Some(watched) => watched.changed().await.is_ok(),
        None => false,
    };
    if !told {
        // Whoever says no more of it has nothing more to say, or has been shut down, as we will be.
        std::future::pending().await
    }
}

/// Those of `wanted` that are not so.
fn missing(wanted: BTreeMap<String, String>, have: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    wanted.into_iter().filter(|(name, value)| have.and_then(|have| have.get(name)) != Some(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_do_to_the_node_is_noticed() {
        let check = |status: serde_json::Value, expected: bool| {
            let node =
                NodeView { status: serde_json::from_value(status.clone()).unwrap_or_default(), ..Default::default() };
            assert_eq!(is_amiss(&node), expected, "{status}");
        };
        check(json!({"capacity": {"cpu": "4"}, "allocatable": {"cpu": "3"}}), false);
        check(json!({"capacity": {"example.com/foo": "5"}, "allocatable": {"cpu": "3"}}), true);
        check(json!({"capacity": {"example.com/foo": "5"}, "allocatable": {"example.com/foo": "5"}}), false);
        check(json!({"conditions": [{"type": "Ready", "status": "Unknown"}]}), true);
        check(json!({"conditions": [{"type": "Ready", "status": "True"}]}), false);
    }
}
