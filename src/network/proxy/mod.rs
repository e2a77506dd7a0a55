//! The service proxy: Services and EndpointSlices become nftables, one table for each family.
//!
//! It works on routed packets in prerouting and output only, so that it needs neither bridges nor br_netfilter; of what
//! is passed on it drops only what fits no connection.
//! The table outlives the process: connections go on while the agent restarts.

mod config;
mod conntrack;
mod guard;
mod health;
mod healthz;
mod metrics;
mod program;
mod route;
mod ruleset;
mod sysctl;
#[cfg(test)]
mod tests;

pub use crate::nft::{Error, Family};
pub use config::ProxyConfig;
pub use ruleset::{Backend, Frontend, Here, Masquerade, Protocol, Ruleset, Target, ruleset};

use conntrack::Stale;
use guard::Guard;
use health::{Health, HealthPorts};
use healthz::Healthz;
use metrics::Metrics;
use naru_base::metrics::Source;
use naru_base::{Backoff, Shutdown};
use naru_client::Informer;
use naru_client::projections::{EndpointSliceView, NodeView, ServiceView};
use program::{Addresses, Base, Program};
use ruleset::Memory;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// The label that says a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the kernel has: `None` until the first table of this process is in place.
type Applied = Option<Arc<Addresses>>;

/// A running proxy. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Proxy {
    applied: watch::Receiver<Applied>,
    host_ports: Arc<watch::Sender<BTreeMap<Frontend, Backend>>>,
    redirects: Arc<watch::Sender<BTreeMap<Frontend, Backend>>>,
    metrics: Arc<Metrics>,
}

impl Proxy {
    /// Keeps the table in step with the informers until the shutdown. The table that an earlier process
    /// left is replaced when the informers have synced, in one step; where there is none (after a reboot), what the
    /// informers recall is enough to begin with.
    pub fn start(
        services: Informer<ServiceView>,
        slices: Informer<EndpointSliceView>,
        nodes: Informer<NodeView>,
        config: ProxyConfig,
        shutdown: &Shutdown,
    ) -> Self {
        let (sender, applied) = watch::channel(None);
        let (host_ports, of_ports) = watch::channel(BTreeMap::new());
        let (redirects, of_redirects) = watch::channel(BTreeMap::new());
        let metrics = Arc::<Metrics>::default();
        let (ports, to) = (Arc::new(host_ports), Arc::new(redirects));
        let proxy = Self { applied, host_ports: ports, redirects: to, metrics: metrics.clone() };
        let (host_ports, redirects) = (of_ports, of_redirects);
        let worker = Worker { services, slices, nodes, config, applied: sender, host_ports, redirects, metrics };
        let shutdown = shutdown.clone();
        naru_base::spawn("service-proxy", async move { shutdown.guard(worker.run()).await });
        proxy
    }

    /// Completes when the table of this process is in place.
    pub async fn synced(&self) {
        let mut applied = self.applied.clone();
        if applied.wait_for(Option::is_some).await.is_err() {
            // The proxy has been shut down: nobody needs the answer.
            std::future::pending::<()>().await;
        }
    }

    /// What it counts.
    pub fn metrics(&self) -> Arc<dyn Source> {
        self.metrics.clone()
    }

    /// Serves what it counts, and these, on a page of its own, unless the address is taken.
    pub async fn serve_metrics(&self, address: SocketAddr, more: Vec<Arc<dyn Source>>, shutdown: &Shutdown) {
        let own: Arc<dyn Source> = self.metrics.clone();
        metrics::serve(address, std::iter::once(own).chain(more).collect(), shutdown).await;
    }

    /// Ports of this node that lead to its pods, all of them.
    pub fn set_host_ports(&self, ports: BTreeMap<Frontend, Backend>) {
        self.host_ports.send_replace(ports);
    }

    /// Sends what comes for an address and port that this host answers on itself to another port.
    pub fn redirect(&self, ports: impl IntoIterator<Item = (Frontend, Backend)>) {
        self.redirects.send_modify(|all| all.extend(ports));
    }

    /// Completes when no new connection is sent to `address` any more (true), or after `timeout` (false).
    pub async fn wait_dropped(&self, address: IpAddr, timeout: Duration) -> bool {
        let mut applied = self.applied.clone();
        let dropped = applied.wait_for(|applied| applied.as_ref().is_some_and(|all| !all.contains_key(&address)));
        matches!(tokio::time::timeout(timeout, dropped).await, Ok(Ok(_)))
    }
}

/// Removes a proxy's table, and the route that any proxy made, when the node is taken apart. Services
/// then no longer answer.
///
/// # Errors
/// The kernel refused.
pub fn remove_table(table: &str) -> Result<(), Error> {
    route::remove_all()?;
    program::remove(table)
}

/// A task that ends with the value.
struct Answering(tokio::task::JoinHandle<()>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Worker {
    services: Informer<ServiceView>,
    slices: Informer<EndpointSliceView>,
    nodes: Informer<NodeView>,
    config: ProxyConfig,
    applied: watch::Sender<Applied>,
    host_ports: watch::Receiver<BTreeMap<Frontend, Backend>>,
    redirects: watch::Receiver<BTreeMap<Frontend, Backend>>,
    metrics: Arc<Metrics>,
}

impl Worker {
    async fn run(self) {
        // A table that an earlier process has left is newer than what that process kept on disk.
        if crate::nft::has_table(&self.config.table).unwrap_or(true) {
            tokio::join!(self.services.synced(), self.slices.synced(), self.nodes.synced());
        } else {
            tokio::join!(self.services.known(), self.slices.known(), self.nodes.known());
        }
        self.follow().await;
    }

    /// Whether this host answers on the Service's address itself.
    fn answers(&self, service: &ServiceView) -> bool {
        let address = service.spec.cluster_ip.parse();
        address.is_ok_and(|address: IpAddr| self.config.answered_here.contains(&address))
    }

    /// This node's zone, empty if it has none.
    fn zone(&self) -> String {
        let node = self.nodes.get("", &self.config.node_name);
        node.and_then(|node| node.metadata.labels.get(ZONE).cloned()).unwrap_or_default()
    }

    /// The health checks that this node answers.
    fn health(&self, services: &[Arc<ServiceView>], slices: &[Arc<EndpointSliceView>]) -> BTreeMap<u16, Health> {
        let asked = services.iter();
        let asked = asked.filter(|service| service.spec.health_check_node_port != 0 && ruleset::is_ours(service));
        let said = |service: &Arc<ServiceView>| {
            let endpoints = ruleset::ready_here(service, slices, &self.config.node_name);
            let (namespace, name) = (service.metadata.namespace.clone(), service.metadata.name.clone());
            (service.spec.health_check_node_port, Health { namespace, name, endpoints })
        };
        asked.map(said).collect()
    }

    /// Routes and kernel settings.
    async fn prepare(&self) -> Base {
        for range in self.config.service_cidrs.clone() {
            let routed = tokio::task::spawn_blocking(move || route::ensure(range)).await;
            if let Ok(Err(error)) = routed {
                tracing::warn!(%error, "no route to {range}: processes of this host reach no cluster addresses");
            }
        }
        let pods = self.config.cluster_cidrs.clone();
        let has = |family| pods.iter().any(|range| Family::of(range.network) == family);
        let loopback = self.config.localhost_node_ports;
        sysctl::follow_connections(std::thread::available_parallelism().map_or(1, usize::from));
        let wanted = sysctl::Wanted { loopback, v4: has(Family::V4), v6: has(Family::V6) };
        Base {
            table: self.config.table.clone(),
            loopback: sysctl::prepare(wanted),
            routed_v6: self.config.routed_v6,
            pods,
        }
    }

    async fn follow(mut self) {
        let changed = Arc::new(Notify::new());
        let (wake, counted) = (Arc::clone(&changed), self.metrics.clone());
        self.services.subscribe(move |_| {
            counted.service_changed();
            wake.notify_one();
        });
        let (wake, counted) = (Arc::clone(&changed), self.metrics.clone());
        self.slices.subscribe(move |change| {
            counted.slice_changed(change.old.as_deref(), change.new.as_deref());
            wake.notify_one();
        });
        let (wake, own) = (Arc::clone(&changed), self.config.node_name.clone());
        self.nodes.subscribe(move |change| {
            let read = |node: &Option<Arc<NodeView>>| {
                node.as_ref().map(|node| (node.metadata.labels.get(ZONE).cloned(), healthz::is_eligible(node)))
            };
            if change.key.name == own && read(&change.old) != read(&change.new) {
                wake.notify_one();
            }
        });
        let base = self.prepare().await;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let mut guard = Guard::open(&self.config.table);
        let mut current: Option<Program> = None;
        let mut memory = Memory::default();
        let mut said = false;
        let mut health = HealthPorts::default();
        let (healthz, asked) = watch::channel(Healthz::default());
        let _answering = Answering(naru_base::spawn("proxy-healthz", healthz::serve(asked)));
        loop {
            let changes = self.metrics.begin();
            let node = self.nodes.get("", &self.config.node_name);
            healthz.send_modify(|health| health.eligible = node.is_none_or(|node| healthz::is_eligible(&node)));
            let mut services = self.services.list();
            services.retain(|service| !self.answers(service));
            let slices = self.slices.list();
            health.set(self.health(&services, &slices)).await;
            let zone = self.zone();
            let mut wanted = memory.ruleset(&services, &slices, Here { node: &self.config.node_name, zone: &zone });
            wanted.serve_ports(&self.redirects.borrow_and_update());
            wanted.serve_ports(&self.host_ports.borrow_and_update());
            if !said && wanted.frontends.keys().any(|frontend| frontend.protocol == Protocol::Sctp) {
                said = true;
                if !tokio::task::spawn_blocking(kernel_carries_sctp).await.unwrap_or(true) {
                    tracing::warn!(
                        "this kernel cannot follow SCTP (CONFIG_NF_CT_PROTO_SCTP): Services of that protocol do not \
                         answer on this node"
                    );
                }
            }
            let unchanged = current.as_ref().is_some_and(|program| *program.ruleset() == wanted);
            if unchanged {
                self.metrics.unchanged(changes);
            } else {
                // Of what an earlier process has had nothing is known but what is wanted now.
                let empty = Ruleset::default();
                let stale = Stale::between(current.as_ref().map_or(&empty, Program::ruleset), &wanted);
                let (whole, begin) = (current.is_none(), Instant::now());
                match apply(base.clone(), current.take(), wanted).await {
                    Ok(applied) => {
                        self.metrics.synced(whole, begin.elapsed(), changes);
                        let (ms, frontends) = (begin.elapsed().as_secs_f64() * 1e3, applied.ruleset().frontends.len());
                        tracing::debug!(whole, frontends, "the tables were brought up to date in {ms:.1} ms");
                        backoff.reset();
                        healthz.send_modify(|health| health.behind_since = None);
                        forget(stale).await;
                        self.applied.send_replace(Some(Arc::new(applied.addresses().clone())));
                        current = Some(applied);
                    }
                    Err(error) => {
                        self.metrics.failed();
                        tracing::error!(%error, table = self.config.table, "services on this node are not up to date");
                        let now = jiff::Timestamp::now();
                        healthz.send_modify(|health| health.behind_since = health.behind_since.or(Some(now)));
                        tokio::time::sleep(backoff.next_delay()).await;
                        continue;
                    }
                }
            }
            tokio::select! {
                () = changed.notified() => {}
                Ok(()) = self.host_ports.changed() => {}
                Ok(()) = self.redirects.changed() => {}
                () = guard.meddled() => {
                    tracing::warn!(
                        "somebody has removed rules of the table {}, which is put back: services on this node would \
                         not answer without it",
                        self.config.table
                    );
                    current = None;
                    // Whoever does this again and again is not raced.
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }
}

/// Whether connection tracking knows SCTP, without which its addresses cannot be rewritten.
fn kernel_carries_sctp() -> bool {
    std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established").exists()
}

/// Ends what UDP clients have with endpoints that are gone.
async fn forget(stale: Stale) {
    if stale.is_empty() {
        return;
    }
    match tokio::task::spawn_blocking(move || stale.forget()).await {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(flows)) => tracing::debug!(flows, "flows of UDP to endpoints that are gone are forgotten"),
        Ok(Err(error)) => {
            tracing::warn!(%error, "flows of UDP to endpoints that are gone go on until the kernel forgets them");
        }
    }
}

/// Brings the kernel from `current` to `wanted`, by a full replacement if the small step fails: somebody
/// else may have flushed the table.
async fn apply(base: Base, current: Option<Program>, wanted: Ruleset) -> Result<Program, Error> {
    let task = tokio::task::spawn_blocking(move || {
        if let Some(mut program) = current {
            match program.update(wanted.clone()) {
                Ok(()) => return Ok(program),
                Err(error) => {
                    tracing::warn!(%error, "the table of the service proxy is not as it was left; it is replaced")
                }
            }
        }
        Program::replace(base, wanted)
    });
    task.await.map_err(|error| Error::Unavailable(std::io::Error::other(error)))?
}
