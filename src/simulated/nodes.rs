//! The nodes' own objects: registration, status, leases.

use crate::Simulation;
use crate::rules::is_silent;
use futures::StreamExt;
use naru_api::meta::time::Timestamp;
use naru_api::registry::{LEASES, NODES};
use naru_client::projections::{NodeView, condition};
use naru_client::{Client, Error, Next, PatchKind, is_already_exists, is_not_found};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
/// The nodes renew in so many groups, one after the other, so that the server is not hit by all at once.
const GROUPS: usize = 20;
/// Renewals at once.
const RENEWALS: usize = 8;
/// A range that belongs to nobody (RFC 2544).
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const ZONES: usize = 3;

/// One node.
pub(crate) struct Node {
    number: usize,
    pub(crate) client: Client,
    /// A node that was deleted stays away, as a machine that was taken out.
    registered: AtomicBool,
}

impl Node {
    pub(crate) fn new(number: usize, client: Client) -> Self {
        Self { number, client, registered: AtomicBool::new(false) }
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(FIRST_ADDRESS) + u32::try_from(self.number).unwrap_or(u32::MAX) % 131_000)
    }
}

impl Simulation {
    /// Registers a node if need be, and puts right what others have made of its status.
    pub(crate) async fn reconcile_node(&self, name: &str) -> Result<Next, Error> {
        let Some(node) = self.nodes.get(name) else { return Ok(Next::Done) };
        match self.cached_nodes.get("", name) {
            Some(cached) => {
                node.registered.store(true, Ordering::Relaxed);
                if let Some(status) = amends(&cached).filter(|_| !is_silent(&cached)) {
                    let patch = json!({ "status": status });
                    let kind = PatchKind::Strategic;
                    let _: IgnoredAny = node.client.patch(&NODES, None, name, Some("status"), kind, &patch).await?;
                }
            }
            None if node.registered.load(Ordering::Relaxed) => {}
            None => {
                let new = object(name, node, &self.version);
                match node.client.create::<IgnoredAny>(&NODES, None, &new).await {
                    Err(error) if !is_already_exists(&error) => return Err(error),
                    _ => node.registered.store(true, Ordering::Relaxed),
                }
            }
        }
        Ok(Next::Done)
    }

    /// Renews the leases of all nodes that speak, for ever.
    pub(crate) async fn beat(&self, every: Duration) {
        let mut names: Vec<String> = self.nodes.keys().cloned().collect();
        names.sort_unstable();
        if names.is_empty() {
            return;
        }
        let groups: Vec<Vec<String>> = names.chunks(names.len().div_ceil(GROUPS)).map(<[String]>::to_vec).collect();
        let pause = every / u32::try_from(groups.len()).unwrap_or(1);
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for group in groups.iter().cycle() {
            ticks.tick().await;
            let names = futures::stream::iter(group.clone());
            names.for_each_concurrent(RENEWALS, |name| async move { self.renew(&name).await }).await;
        }
    }

    async fn renew(&self, name: &str) {
        let (Some(node), Some(cached)) = (self.nodes.get(name), self.cached_nodes.get("", name)) else { return };
        if is_silent(&cached) {
            return;
        }
        if let Err(error) = renew(&node.client, &cached).await {
            tracing::debug!(node = name, %error, "the lease was not renewed");
        }
    }
}

/// Renews a lease without reading it first, or makes it.
async fn renew(client: &Client, node: &NodeView) -> Result<(), Error> {
    let name = node.metadata.name.as_str();
    let now = Timestamp::from_system(SystemTime::now()).to_micros();
    let patch = json!({ "spec": { "renewTime": now } });
    let space = Some(LEASE_NAMESPACE);
    match client.patch::<IgnoredAny>(&LEASES, space, name, None, PatchKind::Merge, &patch).await {
        Err(error) if is_not_found(&error) => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.metadata.uid}]},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
            });
            client.create::<IgnoredAny>(&LEASES, space, &lease).await.map(drop)
        }
        answer => answer.map(drop),
    }
}

/// What puts a node's status right, if others have made something of it.
fn amends(node: &NodeView) -> Option<Value> {
    let is_ready = condition(&node.status.conditions, "Ready").is_some_and(|ready| ready.status == "True");
    let withheld = node.status.withheld();
    match (is_ready, withheld.is_empty()) {
        (true, true) => None,
        (true, false) => Some(json!({ "allocatable": withheld })),
        (false, _) => Some(json!({ "allocatable": withheld, "conditions": conditions() })),
    }
}

fn object(name: &str, node: &Node, version: &str) -> Value {
    let zone = format!("simulated-{}", (b'a' + (node.number % ZONES) as u8) as char);
    let has = json!({"cpu": "32", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "110"});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/region": "simulated", "topology.kubernetes.io/zone": zone,
            "naru.io/simulated": "true",
        }},
        "status": {
            "capacity": has, "allocatable": has,
            "conditions": conditions(),
            "addresses": [
                {"type": "InternalIP", "address": node.address().to_string()},
                {"type": "Hostname", "address": name},
            ],
            "nodeInfo": {
                "machineID": name, "systemUUID": name, "bootID": name, "kernelVersion": "simulated",
                "osImage": "simulated", "containerRuntimeVersion": "simulated://0", "kubeletVersion": version,
                "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64",
            },
        },
    })
}

fn conditions() -> Value {
    let now = Timestamp::from_system(SystemTime::now()).to_seconds();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
               "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    json!([
        condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ])
}
