//! The Node object: registration, status, heartbeat.

pub(crate) mod facts;
mod lease;
mod status;

use crate::shared::Shared;
use facts::Facts;
use k8s_openapi::api::core::v1::Node;
use naru_api::registry::NODES;
use naru_base::{Backoff, Shutdown, spawn};
use naru_client::{Error, EventKind, ObjectReference, PatchKind, is_already_exists, is_not_found};
use serde::de::IgnoredAny;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A status that has not changed is published again after this time.
const STATUS_PERIOD: Duration = Duration::from_secs(300);

/// Registers the node and keeps its status; the answer becomes true once the Node is Ready.
pub(crate) fn start(shared: &Arc<Shared>, facts: Facts, shutdown: &Shutdown) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    let (uid_sender, uid) = watch::channel(None);
    lease::start(shared.config.client.clone(), shared.config.node_name.clone(), uid, shutdown);
    let (shared, shutdown) = (shared.clone(), shutdown.clone());
    spawn("node status", async move {
        let node = NodeSync { shared, facts };
        shutdown.guard(node.run(&sender, &uid_sender)).await;
    });
    receiver
}

struct NodeSync {
    shared: Arc<Shared>,
    facts: Facts,
}

impl NodeSync {
    async fn run(&self, ready: &watch::Sender<bool>, uid: &watch::Sender<Option<String>>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            match self.round(ready, uid).await {
                Ok(()) => {
                    backoff.reset();
                    tokio::select! {
                        () = tokio::time::sleep(STATUS_PERIOD) => {}
                        () = self.shared.images_changed.notified() => {}
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
    async fn round(&self, ready: &watch::Sender<bool>, uid: &watch::Sender<Option<String>>) -> Result<(), Error> {
        let node = self.register().await?;
        uid.send_if_modified(|known| {
            let changed = *known != node.metadata.uid;
            known.clone_from(&node.metadata.uid);
            changed
        });
        let config = &self.shared.config;
        let old = node.status.unwrap_or_default();
        let status = status::compute(config, &self.facts, &config.images.list(), &old, jiff::Timestamp::now());
        let patch = json!({"status": status});
        let _: IgnoredAny =
            config.client.patch(&NODES, None, &config.node_name, Some("status"), PatchKind::Strategic, &patch).await?;
        if !ready.send_replace(true) {
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

/// Those of `wanted` that are not so.
fn missing(wanted: BTreeMap<String, String>, have: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    wanted.into_iter().filter(|(name, value)| have.and_then(|have| have.get(name)) != Some(value)).collect()
}
