//! What all pod workers of a node share.

use crate::config::KubeletConfig;
use crate::objects::Objects;
use crate::pod::dns::ClusterDns;
use crate::pod::env::ServiceLink;
use crate::pod::fields::NodeFacts;
use crate::pod::resources;
use crate::status_sync::StatusSync;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use naru_client::projections::ServiceView;
use naru_client::{EventKind, EventRecorder, Informer, ObjectReference};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{Notify, RwLock, Semaphore};

/// Reasons of events, as users and tools know them.
pub(crate) mod events {
    pub(crate) const PULLING: &str = "Pulling";
    pub(crate) const PULLED: &str = "Pulled";
    pub(crate) const CREATED: &str = "Created";
    pub(crate) const STARTED: &str = "Started";
    pub(crate) const KILLING: &str = "Killing";
    pub(crate) const FAILED: &str = "Failed";
    pub(crate) const BACK_OFF: &str = "BackOff";
    pub(crate) const UNHEALTHY: &str = "Unhealthy";
    pub(crate) const PROBE_WARNING: &str = "ProbeWarning";
    pub(crate) const FAILED_MOUNT: &str = "FailedMount";
    pub(crate) const FAILED_SANDBOX: &str = "FailedCreatePodSandBox";
    /// Ours: upstream says nothing where its runtimes do the same.
    pub(crate) const ONE_WAY_MOUNTS: &str = "MountPropagationLimited";
    pub(crate) const SANDBOX_CHANGED: &str = "SandboxChanged";
    pub(crate) const FAILED_POST_START: &str = "FailedPostStartHook";
    pub(crate) const FAILED_PRE_STOP: &str = "FailedPreStopHook";
}

/// Shared by all pod workers.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: KubeletConfig,
    pub(crate) recorder: EventRecorder,
    pub(crate) services: Informer<ServiceView>,
    /// Ports of the node that lead to its pods.
    pub(crate) host_ports: crate::host_ports::HostPorts,
    /// What everything uses.
    pub(crate) usage: crate::usage::UsageTable,
    /// How often probes succeeded and failed.
    pub(crate) probe_counts: crate::api::stats::ProbeCounts,
    /// What is counted of the kubelet's own work.
    pub(crate) metrics: Arc<crate::metrics::Metrics>,
    /// The pods of this node.
    pub(crate) pods: Informer<Pod>,
    pub(crate) objects: Objects,
    pub(crate) statuses: StatusSync,
    pub(crate) dns: ClusterDns,
    pub(crate) node_memory: u64,
    pub(crate) allocatable: BTreeMap<String, Quantity>,
    /// Who may use which image.
    pub(crate) pull_records: crate::credentials::records::PullRecords,
    /// Whose ids pods with users of their own have.
    pub(crate) users: crate::users::UserRanges,
    /// Bounds concurrent pulls.
    pub(crate) pulls: Semaphore,
    /// Bounds sandboxes being made at once.
    pub(crate) sandboxes: Semaphore,
    /// Held while something is made, and exclusively while what nobody owns is removed.
    pub(crate) tidying: RwLock<()>,
    /// The node's list of images has to be published again.
    pub(crate) images_changed: Notify,
}

impl Shared {
    /// Records an event about a pod or one of its containers.
    pub(crate) fn pod_event(
        &self,
        pod: &Pod,
        field: Option<&str>,
        warning: bool,
        reason: &str,
        message: impl Into<String>,
    ) {
        let meta = &pod.metadata;
        let about = ObjectReference {
            kind: "Pod".into(),
            api_version: "v1".into(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            field_path: field.unwrap_or_default().into(),
        };
        let kind = if warning { EventKind::Warning } else { EventKind::Normal };
        self.recorder.event(&about, kind, reason, message);
    }

    /// Gives the pods with requests together as much of the processors as they ask for, and those without as
    /// little as there is.
    pub(crate) async fn share_processors(&self) {
        let over = |p: &Pod| matches!(p.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        let pods = self.pods.list();
        let burstable = pods.iter().filter(|p| !over(p) && resources::qos(p) == resources::Qos::Burstable);
        let asked: i128 = burstable.map(|p| resources::cpu_request(p)).sum();
        for (path, milli) in [("kubepods/burstable", asked), ("kubepods/besteffort", 0)] {
            if let Err(error) = self.config.runtime.apply_cgroup(path, &resources::shares_of(milli)).await {
                tracing::debug!(path, %error, "processors not shared out");
            }
        }
    }

    /// What fields of a pod with these addresses refer to.
    pub(crate) fn field_facts(&self, pod_ips: &[IpAddr]) -> NodeFacts {
        NodeFacts {
            host_ips: self.config.host_ips(),
            pod_ips: pod_ips.iter().map(ToString::to_string).collect(),
            allocatable: self.allocatable.clone(),
        }
    }

    /// The Services that a pod's environment tells of: the API server's, and those of its namespace unless unwanted.
    pub(crate) async fn service_links(&self, pod: &Pod) -> Vec<ServiceLink> {
        if !crate::static_pods::is_static(pod) {
            self.services.synced().await;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let wanted = pod.spec.as_ref().is_none_or(|s| s.enable_service_links != Some(false));
        let mut out: Vec<ServiceLink> = Vec::new();
        if wanted {
            out.extend(self.services.by_namespace(namespace).iter().filter_map(|s| link(s)));
        }
        let api = self.services.get("default", "kubernetes").and_then(|s| link(&s));
        out.extend(api.filter(|api| !out.iter().any(|l| l.name == api.name)));
        out
    }
}

fn link(service: &ServiceView) -> Option<ServiceLink> {
    if service.is_headless() || service.spec.cluster_ip.is_empty() {
        return None;
    }
    let ports = service.spec.ports.iter().map(|p| (Some(p.name.clone()), p.port.into(), p.protocol.clone())).collect();
    Some(ServiceLink { name: service.metadata.name.clone(), cluster_ip: service.spec.cluster_ip.clone(), ports })
}
