//! What the composition root decides for the kubelet.

use crate::engine::{ContainerRuntime, EndpointGate, Images, PodNetwork};
use k8s_openapi::api::core::v1::Taint;
use naru_client::Client;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Everything that the kubelet needs.
#[derive(Debug, Clone)]
pub struct KubeletConfig {
    /// Reaches the API server as `system:node:NAME`.
    pub client: Client,
    /// Name of the Node object.
    pub node_name: String,
    /// Addresses of the node as they are now, first the one that others should use.
    pub node_ips: watch::Receiver<Vec<IpAddr>>,
    /// Labels beside those that every node has.
    pub node_labels: BTreeMap<String, String>,
    /// Annotations that the Node object has.
    pub node_annotations: BTreeMap<String, String>,
    /// Taints that a new Node object gets.
    pub node_taints: Vec<Taint>,
    /// Address ranges of the node's pods, when they are known beforehand.
    pub pod_cidrs: Vec<String>,
    /// Survives a reboot; `pods` below it holds volumes.
    pub data_dir: PathBuf,
    /// Logs of containers, as `NAMESPACE_NAME_UID/CONTAINER/N.log` below it.
    pub pod_log_dir: PathBuf,
    /// `vX.Y.Z+naruN`.
    pub version: String,
    /// Address of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster, `cluster.local`.
    pub cluster_domain: String,
    /// The node's own name servers.
    pub resolv_conf: PathBuf,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// The directory, or the file, with pods to run without being asked by the API server.
    pub static_pods: Option<PathBuf>,
    /// Processes and threads of one pod.
    pub pod_pids_limit: Option<i64>,
    /// Kernel parameters of their own namespaces that pods may set beside the safe ones.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// How large logs grow.
    pub log_limits: crate::LogLimits,
    /// Other OCI runtimes, by the handlers' names that RuntimeClasses have.
    pub handlers: BTreeMap<String, PathBuf>,
    /// Sandboxes and containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Programs that know passwords of registries.
    pub credential_providers: Arc<crate::credentials::plugin::CredentialProviders>,
    /// The pod network.
    pub network: Arc<dyn PodNetwork>,
    /// The service proxy, as far as stopping pods cares.
    pub gate: Arc<dyn EndpointGate>,
    /// The node API, unless it is not served.
    pub node_api: Option<NodeApiConfig>,
    /// What other parts of the agent count, told with the kubelet's own.
    pub metrics: Vec<Arc<dyn naru_base::metrics::Source>>,
}

/// How the node API is served.
#[derive(Clone)]
pub struct NodeApiConfig {
    /// Where to listen.
    pub listener: Arc<std::net::TcpListener>,
    /// TLS with client certificates verified against the client CA when presented.
    pub tls: Arc<rustls::ServerConfig>,
    /// Common names of client certificates that may do everything, beside the group `system:masters`.
    pub allowed_names: Vec<String>,
}

impl std::fmt::Debug for NodeApiConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeApiConfig")
            .field("listener", &self.listener)
            .field("allowed_names", &self.allowed_names)
            .finish_non_exhaustive()
    }
}

impl KubeletConfig {
    /// Where a pod's volumes and files are.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    /// Where a pod's logs are.
    pub fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_log_dir.join(format!("{namespace}_{name}_{uid}"))
    }

    /// The node's addresses as text.
    pub fn host_ips(&self) -> Vec<String> {
        self.node_ips.borrow().iter().map(ToString::to_string).collect()
    }
}
