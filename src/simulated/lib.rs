//! Nodes without containers, for tests at scale: their pods turn Ready, end and go by rule.
//!
//! Each node writes as `system:node:NAME`, so that what a node may do is checked as for a real one; all of them
//! read from the informers of the process, since a thousand watches of one node's pods each would cost more than
//! everything else here. `rules` says which annotations there are.

mod life;
mod nodes;
mod pods;
mod rules;
mod status;

#[cfg(test)]
mod suite;

pub use rules::{EXIT_AFTER, EXIT_CODE, FAILS_AT, READY_AFTER, SILENT, STOP_AFTER};

use life::Lives;
use naru_base::Shutdown;
use naru_client::projections::{NodeView, PodView};
use naru_client::{Client, IndexId, Informer, Informers, ObjectKey, WorkQueue, run_workers};
use nodes::Node;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How often nodes renew their leases.
pub const RENEW_EVERY: Duration = Duration::from_secs(10);
/// Pods whose statuses are written at once.
const POD_WORKERS: usize = 64;
/// Nodes that register at once.
const NODE_WORKERS: usize = 16;

/// Gives the client with which a node of a name writes.
pub type ClientFor = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// How many nodes there are to be, and what they need.
#[derive(Clone)]
pub struct Config {
    /// The nodes are called `simulated-0` and so on.
    pub nodes: usize,
    /// Who they are towards the API server: `system:node:NAME`.
    pub client_for: ClientFor,
    /// What they read.
    pub informers: Informers,
    /// The version that they report.
    pub version: String,
    /// Every node renews its lease once in this time, which is `RENEW_EVERY` but in tests.
    pub renew_every: Duration,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// What all parts share.
struct Simulation {
    nodes: HashMap<String, Node>,
    version: String,
    cached_nodes: Informer<NodeView>,
    pods: Informer<PodView>,
    pods_by_node: IndexId,
    lives: Lives,
}

/// The name of a node by its number.
pub fn node_name(number: usize) -> String {
    format!("simulated-{number}")
}

/// Runs the nodes until shutdown. Their objects stay, as those of machines that were switched off.
pub fn start(config: Config, shutdown: &Shutdown) {
    let nodes = (0..config.nodes).map(node_name);
    let nodes = nodes.enumerate().map(|(number, name)| (name.clone(), Node::new(number, (config.client_for)(&name))));
    let (pods, pods_by_node) = config.informers.pods_by_node();
    let simulation = Arc::new(Simulation {
        nodes: nodes.collect(),
        version: config.version,
        cached_nodes: config.informers.nodes(),
        pods,
        pods_by_node,
        lives: Lives::default(),
    });
    let pod_queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let node_queue: WorkQueue<String> = WorkQueue::new();
    let (this, stop) = (simulation.clone(), shutdown.clone());
    naru_base::spawn("simulated nodes", async move {
        let synced = async {
            this.cached_nodes.synced().await;
            this.pods.synced().await;
        };
        if stop.guard(synced).await.is_none() {
            return;
        }
        this.subscribe(&pod_queue, &node_queue);
        for name in this.nodes.keys() {
            node_queue.add(name.clone());
        }
        let nodes = this.clone();
        run_workers("simulated node", &node_queue, NODE_WORKERS, &stop, move |name: String| {
            let nodes = nodes.clone();
            async move { nodes.reconcile_node(&name).await }
        });
        let pods = this.clone();
        run_workers("simulated pod", &pod_queue, POD_WORKERS, &stop, move |key: ObjectKey| {
            let pods = pods.clone();
            async move { pods.reconcile_pod(&key).await }
        });
        stop.guard(this.beat(config.renew_every)).await;
    });
}

impl Simulation {
    /// Puts what changes into the queues.
    fn subscribe(self: &Arc<Self>, pods: &WorkQueue<ObjectKey>, nodes: &WorkQueue<String>) {
        let (this, queue, of_nodes) = (self.clone(), pods.clone(), nodes.clone());
        self.cached_nodes.subscribe(move |change| {
            let name = &change.key.name;
            if !this.nodes.contains_key(name) {
                return;
            }
            of_nodes.add(name.clone());
            // A node that gets its addresses, or speaks again, has pods to see to.
            let matters = |node: &NodeView| (node.spec.pod_cidr.clone(), rules::is_silent(node));
            if change.old.as_deref().map(matters) != change.new.as_deref().map(matters) {
                for pod in this.pods.indexed(this.pods_by_node, name) {
                    queue.add(pod.metadata.key());
                }
            }
        });
        let (this, queue) = (self.clone(), pods.clone());
        self.pods.subscribe(move |change| {
            if let Some(old) = &change.old
                && change.new.as_ref().is_none_or(|new| new.metadata.uid != old.metadata.uid)
            {
                this.lives.end(old);
            }
            if change.new.as_ref().is_some_and(|pod| this.nodes.contains_key(&pod.spec.node_name)) {
                queue.add(change.key.clone());
            }
        });
    }
}
