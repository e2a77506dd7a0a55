//! The node agent: pod workers, probes, volumes, status, node API.

pub mod api;
pub mod config;
pub mod credentials;
mod disk;
pub mod engine;
mod host_ports;
pub mod images;
mod log_rotation;
mod metrics;
mod node;
mod objects;
pub mod pod;
mod pods;
pub mod probe;
mod shared;
mod static_pods;
mod status_sync;
mod storage_limits;
mod usage;
mod users;
pub mod volumes;

#[cfg(test)]
mod fake;

pub use config::{KubeletConfig, NodeApiConfig};
pub use log_rotation::LogLimits;

use k8s_openapi::api::core::v1::Pod;
use naru_api::registry::{EVENTS, PODS, SERVICES};
use naru_base::{Shutdown, spawn};
use naru_client::{EventRecorder, Informer, ListParams};
use pod::dns::{ClusterDns, Resolv};
use shared::Shared;
use static_pods::StaticPods;
use status_sync::StatusSync;
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore, watch};

/// How many processes and threads a pod may have when nobody says: enough for every program, and not so many
/// that one pod leaves none for the others.
pub fn default_pod_pids() -> Option<i64> {
    node::facts::processes().map(|all| all / 4)
}

/// Pulls at once.
const PULLS: usize = 5;
/// Sandboxes made at once.
const SANDBOXES: usize = 8;

/// A running node agent.
#[derive(Debug, Clone)]
pub struct Kubelet {
    ready: watch::Receiver<bool>,
}

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory could not be made.
    #[error("create {}: {source}", path.display())]
    Directory {
        /// Which one.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The listener of the node API is unusable.
    #[error("node API: {0}")]
    Listener(std::io::Error),
}

impl Kubelet {
    /// Starts everything; it goes on until `shutdown`, which leaves pods running.
    pub async fn start(mut config: KubeletConfig, shutdown: &Shutdown) -> Result<Self, StartError> {
        let metrics = Arc::new(metrics::Metrics::default());
        config.runtime = Arc::new(metrics::Measured { runtime: config.runtime, metrics: metrics.clone() });
        for path in [config.data_dir.join("pods"), config.pod_log_dir.clone()] {
            std::fs::create_dir_all(&path).map_err(|source| StartError::Directory { path, source })?;
        }
        let path = config.data_dir.join("pulls");
        let pull_records =
            credentials::records::PullRecords::open(&path).map_err(|source| StartError::Directory { path, source })?;
        let present = config.images.list().iter().map(|image| image.id.clone()).collect();
        pull_records.retain(&present);
        let client = config.client.clone();
        let facts = node::facts::Facts::read(&config);
        let all_pods = facts.limits_of_all_pods();
        if let Err(error) = config.runtime.apply_cgroup("kubepods", &all_pods).await {
            tracing::warn!(%error, "pods as a whole are not limited");
        }
        let host = tokio::fs::read_to_string(&config.resolv_conf).await.unwrap_or_default();
        let fields = format!("spec.nodeName={}", config.node_name);
        let informer: Informer<Pod> = Informer::start(&client, &PODS, ListParams::all().fields(fields), shutdown);
        let shared = Arc::new(Shared {
            recorder: EventRecorder::start(client.clone(), &EVENTS, "kubelet", Some(&config.node_name), shutdown),
            services: Informer::start(&client, &SERVICES, ListParams::all(), shutdown),
            host_ports: host_ports::HostPorts::new(config.gate.clone()),
            usage: usage::UsageTable::default(),
            probe_counts: api::stats::ProbeCounts::default(),
            metrics,
            pods: informer.clone(),
            objects: objects::Objects::new(&client, shutdown),
            statuses: StatusSync::start(&client, shutdown),
            dns: ClusterDns {
                servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
                domain: config.cluster_domain.clone(),
                host: Resolv::parse(&host),
            },
            node_memory: facts.memory_bytes,
            allocatable: facts.allocatable(),
            pull_records,
            users: users::UserRanges::read(config.data_dir.join("pods"), config.max_pods),
            pulls: Semaphore::new(PULLS),
            sandboxes: Semaphore::new(SANDBOXES),
            tidying: tokio::sync::RwLock::default(),
            images_changed: Notify::new(),
            config,
        });
        log_rotation::start(shared.clone(), shutdown);
        shared.usage.start(shared.clone(), shutdown);
        let pods = pods::Pods::new(shared.clone(), informer.clone(), shutdown);
        storage_limits::start(shared.clone(), pods.clone(), shutdown);
        if let Some(path) = shared.config.static_pods.clone() {
            // Before anything that nobody owns is removed.
            let started = StaticPods::start(&shared, &pods, &informer, path.clone(), shutdown).await;
            started.map_err(|source| StartError::Directory { path, source })?;
        }
        if let Some(node_api) = shared.config.node_api.clone() {
            api::start(node_api, pods.clone(), shutdown).map_err(StartError::Listener)?;
        }
        let ready = node::start(&shared, facts, shutdown);
        spawn("pods", pods.run());
        Ok(Self { ready })
    }

    /// Waits until the Node object says Ready.
    pub async fn ready(&self) {
        // A closed channel means shutdown; nobody needs the answer then.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }
}
