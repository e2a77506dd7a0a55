//! What a controller is given.

use crate::certificates::Signer;
use crate::metrics::Metrics;
use naru_api::registry;
use naru_base::{Shutdown, spawn};
use naru_client::{Client, EventRecorder, Informers, Next, QueueMetrics, WorkQueue, run_workers};
use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

/// Makes a client that acts as `system:serviceaccount:kube-system:NAME`.
pub type ClientFor = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// Whose token goes into which Secret.
#[derive(Debug, Clone, Copy)]
pub struct LegacyToken<'a> {
    /// Of both.
    pub namespace: &'a str,
    /// The Secret.
    pub secret: &'a str,
    /// The service account.
    pub account: &'a str,
    /// Its uid.
    pub account_uid: &'a str,
}

/// Signs such a token; `None` when that cannot be done.
pub type SignToken = Arc<dyn Fn(&LegacyToken<'_>) -> Option<String> + Send + Sync>;

/// What the composition root gives the controllers.
#[derive(Clone)]
pub struct Config {
    /// Clients by controller.
    pub client_for: ClientFor,
    /// Shared caches.
    pub informers: Informers,
    /// The cluster's certificate authority, published to all namespaces.
    pub ca_pem: String,
    /// Signs the tokens that live in Secrets.
    pub legacy_token: SignToken,
    /// Addresses of pods, such as `10.42.0.0/16`; each node gets a part of it.
    pub cluster_cidr: String,
    /// Prefix length of a node's part.
    pub node_cidr_mask: u8,
    /// Signs certificates; without it none is signed.
    pub signer: Option<Arc<dyn Signer>>,
    /// Where work queues are counted.
    pub queues: QueueMetrics,
    /// What else is counted.
    pub metrics: Arc<Metrics>,
}

impl Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("cluster_cidr", &self.cluster_cidr).finish_non_exhaustive()
    }
}

/// What one controller is given.
#[derive(Debug, Clone)]
pub struct Context {
    /// The controller's name.
    pub name: &'static str,
    /// Acts as the controller's own user.
    pub client: Client,
    /// Shared caches.
    pub informers: Informers,
    /// Ends everything.
    pub shutdown: Shutdown,
    /// See `Config`.
    pub config: Config,
}

impl Context {
    pub(crate) fn new(config: &Config, name: &'static str, shutdown: &Shutdown) -> Self {
        Self {
            name,
            client: (config.client_for)(name),
            informers: config.informers.clone(),
            shutdown: shutdown.clone(),
            config: config.clone(),
        }
    }

    /// Records events as `component`.
    pub fn recorder(&self, component: &str) -> EventRecorder {
        let client = self.client.clone();
        EventRecorder::start(client, &registry::EVENTS, component, None, &self.shutdown)
    }

    /// Runs `workers` reconcilers once `synced` completes.
    pub fn run<K, F, Fut, E>(
        &self,
        queue: &WorkQueue<K>,
        workers: usize,
        synced: impl Future<Output = ()> + Send + 'static,
        reconcile: F,
    ) where
        K: Clone + Eq + Hash + Debug + Send + Sync + 'static,
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Next, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let (name, queue, shutdown) = (self.name, queue.clone(), self.shutdown.clone());
        queue.measure(self.config.queues.queue(queue_name(name)));
        spawn(name, async move {
            if shutdown.guard(synced).await.is_some() {
                run_workers(name, &queue, workers, &shutdown, reconcile);
            }
        });
    }
}

/// The name under which upstream counts a controller's queue, where dashboards know it by that.
fn queue_name(controller: &'static str) -> &'static str {
    match controller {
        "clusterrole-aggregation-controller" => "ClusterRoleAggregator",
        "bootstrap-signer" => "bootstrap_signer_queue",
        "certificate-controller" => "certificate",
        "cronjob-controller" => "cronjob",
        "daemon-set-controller" => "daemonset",
        "deployment-controller" => "deployment",
        "disruption-controller" => "disruption",
        "endpoint-controller" => "endpoint",
        "endpointslice-controller" => "endpoint_slice",
        "endpointslicemirroring-controller" => "endpoint_slice_mirroring",
        "generic-garbage-collector" => "garbage_collector_attempt_to_delete",
        "job-controller" => "job",
        "namespace-controller" => "namespace",
        "node-controller" => "node_lifecycle_controller",
        "pod-garbage-collector" => "orphaned_pods_nodes",
        "pv-protection-controller" => "pvprotection",
        "pvc-protection-controller" => "pvcprotection",
        "replicaset-controller" => "replicaset",
        "replication-controller" => "replicationmanager",
        "resourcequota-controller" => "resourcequota_primary",
        "root-ca-cert-publisher" => "root_ca_cert_publisher",
        "service-account-controller" => "serviceaccount",
        "service-cidrs-controller" => "servicecidrs",
        "service-controller" => "service",
        "statefulset-controller" => "statefulset",
        "taint-eviction-controller" => "noexec_taint_node",
        "token-cleaner" => "token_cleaner",
        "tokens-controller" => "serviceaccount_tokens_service",
        "ttl-after-finished-controller" => "ttl_jobs_to_delete",
        "ttl-controller" => "ttlcontroller",
        other => other,
    }
}
