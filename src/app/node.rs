//! The node agent inside the server: runtime, images, pod network, service proxy, kubelet.

use crate::cli::NodeArgs;
use crate::host;
use crate::layout::Layout;
use crate::memory::Kept;
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Taint;
use naru_api::address::Cidr;
use naru_api::core::node::kubelet_may_set;
use naru_api::meta::names::{label_value, qualified_name};
use naru_api::registry;
use naru_base::Shutdown;
use naru_base::metrics::Source;
use naru_client::https::HttpTransport;
use naru_client::projections::NodeView;
use naru_client::{Calls, Client, EventRecorder, Informer, Informers, ListParams};
use naru_kubelet::credentials::plugin::CredentialProviders;
use naru_kubelet::engine::{EndpointGate, ForeignNetwork, LocalImages, PodName, PodNetwork};
use naru_kubelet::pod::sysctls::can_be_allowed;
use naru_kubelet::{Kubelet, KubeletConfig, LogLimits, NodeApiConfig};
use naru_libcni::{External, ExternalConfig, Network, NetworkConfig};
use naru_network::balancer::Balancer;
use naru_network::diagnose;
use naru_network::dns::{self, DnsConfig, Surroundings};
use naru_network::overlay::{self, Backend};
use naru_network::proxy::{self, Proxy, ProxyConfig};
use naru_runtime::images::{ImageStore, Registries};
use naru_runtime::snapshots::Snapshots;
use naru_runtime::{Runtime, RuntimeConfig};
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OnceCell, watch};

/// Port of the node API.
pub(crate) const NODE_API_PORT: u16 = 10250;
/// The service proxy's metrics, for those who scrape them apart: as upstream, on this machine alone.
const PROXY_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// Pods on one node, as upstream's default.
const MAX_PODS: u32 = 110;
/// How long the first pods wait for the node's range of addresses.
const RANGE_WAIT: Duration = Duration::from_secs(30);
/// The last known range, in the directory of the pod network.
const RANGE_FILE: &str = "range";
/// How long a stop signal waits for the proxy.
const GATE_WAIT: Duration = Duration::from_secs(1);
/// The nftables table of the service proxy.
pub(crate) const TABLE: &str = "naru";

/// What the server decides for its node.
#[derive(Debug)]
pub(crate) struct NodeConfig {
    /// Reaches the API as `system:node:NAME`.
    pub(crate) client: Client,
    /// The caches that the parts of this process share.
    pub(crate) informers: Informers,
    /// Where an agent keeps what it has seen of the cluster.
    pub(crate) memory: Option<Kept>,
    pub(crate) name: String,
    /// As they are now: at least one; the first is how others reach it.
    pub(crate) ips: watch::Receiver<Vec<IpAddr>>,
    pub(crate) cluster_cidr: String,
    /// The addresses of all Services.
    pub(crate) service_cidr: String,
    pub(crate) cluster_dns: Vec<IpAddr>,
    pub(crate) cluster_domain: String,
    /// Whether pods are hidden behind the node's address of IPv6 even where the network outside knows theirs.
    pub(crate) flannel_ipv6_masq: bool,
    /// How pods reach those of other nodes.
    pub(crate) overlay: Backend,
    /// Which machine this is.
    pub(crate) machine: String,
    /// The way to a server on another machine.
    pub(crate) server: Option<Arc<HttpTransport>>,
    /// TLS of the node API.
    pub(crate) tls: Arc<rustls::ServerConfig>,
    /// When the node's certificates expire.
    pub(crate) certificates: Arc<dyn Source>,
    /// The API server's name in its client certificate.
    pub(crate) api_server_name: String,
}

/// Starts the node; its pods outlive the shutdown.
pub(crate) async fn start(
    mut config: NodeConfig,
    args: &NodeArgs,
    layout: &Layout,
    shutdown: &Shutdown,
) -> Result<Kubelet> {
    let labels = pairs(&args.node_label)?;
    let calls = Arc::new(config.server.as_ref().map_or_else(Calls::default, |_| Calls::to("api-server")));
    config.client = config.client.counted(calls.clone());
    let taints = args.node_taint.iter().map(|text| taint(text)).collect::<Result<Vec<_>>>()?;
    let own = config.ips.borrow()[0];
    let address = SocketAddr::new(host::any(own), NODE_API_PORT);
    let listener = std::net::TcpListener::bind(address)
        .with_context(|| format!("cannot listen on port {NODE_API_PORT} for logs and exec: stop what uses it"))?;
    listener.set_nonblocking(true)?;

    let runtime = open_runtime(layout, args.cgroup_root.as_deref()).await?;
    let images = open_images(layout)?;
    images.store.configure(node_registries(args)?);
    import_airgap(&images.store, layout).await;
    let nodes: Informer<NodeView> = Informer::start(
        &config.client,
        &registry::NODES,
        ListParams::all().fields(format!("metadata.name={}", config.name)),
        shutdown,
    );
    overlay::start(config.informers.nodes(), config.name.clone(), config.overlay, shutdown);
    let mtu = overlay::pod_mtu(own, config.overlay).await;
    let cluster_cidrs = host::list(&config.cluster_cidr).context("--cluster-cidr")?;
    let network: Arc<dyn PodNetwork> = match config.overlay {
        Backend::None => {
            let external = External::open(foreign_network(layout), shutdown).context("the pod network of others")?;
            Arc::new(ForeignNetwork::new(external, shutdown))
        }
        _ => Arc::new(NodeNetwork { state_dir: cni_dir(layout), mtu, nodes, network: Arc::default() }),
    };
    let proxy = Proxy::start(
        config.informers.services(),
        config.informers.endpoint_slices(),
        config.informers.nodes(),
        ProxyConfig {
            table: TABLE.into(),
            node_name: config.name.clone(),
            routed_v6: !config.flannel_ipv6_masq && !cluster_cidrs.iter().any(is_private_v6),
            cluster_cidrs,
            service_cidrs: host::list(&config.service_cidr).context("--service-cidr")?,
            localhost_node_ports: false,
            answered_here: config.cluster_dns.clone(),
        },
        shutdown,
    );
    let metrics: Vec<Arc<dyn Source>> = vec![calls, Arc::new(naru_base::Process)];
    proxy.serve_metrics(PROXY_METRICS, metrics.clone(), shutdown).await;
    let setup = diagnose::Setup {
        cluster_cidrs: host::list(&config.cluster_cidr)?,
        service_cidrs: host::list(&config.service_cidr)?,
        node: config.ips.clone(),
        backend: config.overlay,
    };
    let watched = diagnose::Watched {
        client: config.client.clone(),
        nodes: config.informers.nodes(),
        node: config.name.clone(),
        server: config.server.clone(),
    };
    diagnose::watch(watched, setup, proxy.clone(), shutdown);
    let (namespaces, of_pods) = tokio::sync::watch::channel(Arc::default());
    start_dns(&config, args, Surroundings { namespaces: of_pods, proxy: Some(proxy.clone()) }, shutdown)?;
    let (node, client) = (Some(config.name.as_str()), config.client.clone());
    let balancer = Balancer {
        client: config.client.clone(),
        node: config.name.clone(),
        services: config.informers.services(),
        nodes: config.informers.nodes(),
        recorder: EventRecorder::start(client, &registry::EVENTS, "service-controller", node, shutdown),
    };
    balancer.start(shutdown);
    let set = kubelet_args(&args.kubelet_arg)?;
    let metrics = metrics.into_iter().chain([proxy.metrics(), config.certificates]).collect();
    let kubelet = KubeletConfig {
        client: config.client,
        node_name: config.name,
        node_ips: config.ips,
        node_labels: labels,
        node_taints: taints,
        node_annotations: BTreeMap::from([(crate::join::MACHINE.to_owned(), config.machine)]),
        pod_cidrs: Vec::new(),
        data_dir: layout.agent(),
        pod_log_dir: layout.agent().join("logs"),
        version: crate::VERSION.into(),
        cluster_dns: config.cluster_dns,
        cluster_domain: config.cluster_domain,
        resolv_conf: args.resolv_conf.clone(),
        max_pods: MAX_PODS,
        static_pods: Some(set.static_pods.unwrap_or_else(|| layout.agent().join("pod-manifests"))),
        pod_pids_limit: set.pod_max_pids.unwrap_or_else(naru_kubelet::default_pod_pids),
        allowed_unsafe_sysctls: set.allowed_unsafe_sysctls,
        log_limits: set.log_limits,
        handlers: crate::handlers::find(&args.runtime_handler)?,
        runtime: Arc::new(runtime),
        images: Arc::new(images),
        credential_providers: Arc::new(credential_providers(args)?),
        network,
        gate: Arc::new(Gate { proxy, namespaces }),
        node_api: Some(NodeApiConfig {
            listener: Arc::new(listener),
            tls: config.tls,
            allowed_names: vec![config.api_server_name],
        }),
        metrics,
    };
    Ok(Kubelet::start(kubelet, shutdown).await?)
}

/// What of the kubelet's own flags can be set.
#[derive(Debug, Default, PartialEq, Eq)]
struct KubeletArgs {
    log_limits: LogLimits,
    /// Where static pods are described.
    static_pods: Option<PathBuf>,
    /// Processes of one pod; `Some(None)`: as many as there are.
    pod_max_pids: Option<Option<i64>>,
    allowed_unsafe_sysctls: Vec<String>,
}

fn kubelet_args(args: &[String]) -> Result<KubeletArgs> {
    let mut set = KubeletArgs::default();
    for arg in args {
        let (name, value) = arg.split_once('=').with_context(|| format!("--kubelet-arg {arg}: not FLAG=VALUE"))?;
        match name.trim_start_matches('-') {
            "container-log-max-size" => {
                let size = naru_api::quantity::Quantity::parse(value).ok().map(|q| q.value()).filter(|size| *size > 0);
                let size = size.with_context(|| format!("--kubelet-arg {arg}: not a size such as 10Mi"))?;
                set.log_limits.max_size = size.unsigned_abs();
            }
            "container-log-max-files" => {
                let files = value.parse().ok().filter(|files| *files > 1);
                set.log_limits.max_files =
                    files.with_context(|| format!("--kubelet-arg {arg}: not a number above 1"))?;
            }
            "allowed-unsafe-sysctls" => {
                let all = value.split(',').map(str::trim).filter(|pattern| !pattern.is_empty());
                set.allowed_unsafe_sysctls = all.map(str::to_owned).collect();
                if let Some(wrong) = set.allowed_unsafe_sysctls.iter().find(|pattern| !can_be_allowed(pattern)) {
                    bail!("--kubelet-arg {arg}: {wrong} is not of a pod's own namespaces");
                }
            }
            "pod-max-pids" => {
                let limit: i64 = value.parse().ok().with_context(|| format!("--kubelet-arg {arg}: not a number"))?;
                set.pod_max_pids = Some(Some(limit).filter(|limit| *limit > 0));
            }
            "pod-manifest-path" if Path::new(value).is_absolute() => set.static_pods = Some(value.into()),
            "pod-manifest-path" => bail!("--kubelet-arg {arg}: not an absolute path"),
            _ => bail!(
                "--kubelet-arg {arg}: only allowed-unsafe-sysctls, container-log-max-size, container-log-max-files, \
                 pod-manifest-path and pod-max-pids can be set"
            ),
        }
    }
    Ok(set)
}

/// Whether no network outside knows the way to such addresses.
fn is_private_v6(range: &Cidr) -> bool {
    matches!(range.network, IpAddr::V6(address) if address.is_unique_local())
}

/// Answers for the cluster's names on the address that pods are given.
fn start_dns(config: &NodeConfig, args: &NodeArgs, surroundings: Surroundings, shutdown: &Shutdown) -> Result<()> {
    let sources = dns::Sources {
        services: config.informers.services(),
        slices: config.informers.endpoint_slices(),
        namespaces: config.informers.namespaces(),
        nodes: config.informers.nodes(),
    };
    let settings = ListParams::namespace("kube-system").fields("metadata.name=naru-dns");
    let settings = config.informers.start(&registry::CONFIG_MAPS, settings);
    if let Some(memory) = &config.memory {
        memory.follow(registry::SERVICES.plural, &sources.services);
        memory.follow(registry::ENDPOINT_SLICES.plural, &sources.slices);
        memory.follow(registry::NAMESPACES.plural, &sources.namespaces);
        memory.follow(registry::NODES.plural, &sources.nodes);
        memory.follow(registry::CONFIG_MAPS.plural, &settings);
        memory.start(shutdown);
    }
    let dns = DnsConfig {
        addresses: config.cluster_dns.clone(),
        port: 53,
        domain: config.cluster_domain.clone(),
        resolv_conf: args.resolv_conf.clone(),
    };
    dns::start(dns, sources, &settings, surroundings, shutdown).context("--cluster-domain")
}

/// The runtime of a data directory; adopts the shims that are there.
pub(crate) async fn open_runtime(layout: &Layout, cgroup_root: Option<&str>) -> Result<Runtime> {
    let exe = std::env::current_exe().context("cannot find the running program")?;
    let config = RuntimeConfig {
        data_dir: layout.agent(),
        run_dir: layout.run(),
        cgroup_root: cgroup_root.map(String::from),
        shim_exe: exe.clone(),
        self_exe: exe,
    };
    Runtime::open(config).await.context("the container runtime")
}

/// The images and root file systems of a data directory.
pub(crate) fn open_images(layout: &Layout) -> Result<LocalImages> {
    let store = open_image_store(layout)?;
    let snapshots =
        Snapshots::open(&layout.images(), &layout.run().join("rootfs")).context("the containers' file systems")?;
    Ok(LocalImages { store, snapshots })
}

/// Imports what lies in the air-gap directory, before anything is pulled.
async fn import_airgap(store: &ImageStore, layout: &Layout) {
    match store.import_directory(&layout.airgap()).await {
        Ok(report) => {
            for name in &report.imported {
                tracing::info!(image = name, "imported from the air-gap directory");
            }
            for (file, error) in &report.failed {
                tracing::warn!(file = %file.display(), %error, "an archive in the air-gap directory was not imported");
            }
        }
        Err(error) => tracing::warn!(%error, "the air-gap directory was not read"),
    }
}

/// The programs that know passwords of registries. Where they are by default, they need not be.
fn credential_providers(args: &NodeArgs) -> Result<CredentialProviders> {
    let (config, bin_dir) = (&args.image_credential_provider_config, &args.image_credential_provider_bin_dir);
    if config.as_os_str() == crate::cli::CREDENTIAL_PROVIDERS && !config.exists() {
        return Ok(CredentialProviders::default());
    }
    let read = CredentialProviders::read(config, bin_dir).map_err(anyhow::Error::msg);
    read.context("--image-credential-provider-config")
}

/// The registries that a file configures.
pub(crate) fn registries(path: &Path) -> Result<Registries> {
    Registries::read(path).with_context(|| format!("--private-registry {}", path.display()))
}

fn node_registries(args: &NodeArgs) -> Result<Registries> {
    let registries = registries(&args.private_registry)?;
    Ok(if args.disable_default_registry_endpoint { registries.mirrors_only() } else { registries })
}

/// The images of a data directory.
pub(crate) fn open_image_store(layout: &Layout) -> Result<ImageStore> {
    let exe = std::env::current_exe().context("cannot find the running program")?;
    ImageStore::open(&layout.images(), &exe).context("the image store")
}

fn cni_dir(layout: &Layout) -> PathBuf {
    layout.agent().join("cni")
}

/// Detaches every pod of a data directory from the network.
pub(crate) async fn clear_network(layout: &Layout) -> Result<()> {
    // Any range will do: detaching goes by the results that were kept.
    let network = open_network(cni_dir(layout), vec!["127.0.0.0/8".into()], None).await?;
    network.retain(&HashSet::new()).await?;
    let foreign = foreign_network(layout);
    if foreign.state_dir.exists() {
        External::open(foreign, &Shutdown::new())?.retain(&HashSet::new()).await?;
    }
    Ok(())
}

/// Where networks of others are configured and their plugins installed: where all of them look for it, where k3s
/// has it below its data directory, and where distributions put plugins.
fn foreign_network(layout: &Layout) -> ExternalConfig {
    ExternalConfig {
        conf_dirs: vec![PathBuf::from("/etc/cni/net.d"), layout.agent().join("etc/cni/net.d")],
        bin_dirs: vec![
            PathBuf::from("/opt/cni/bin"),
            layout.root().join("data/cni"),
            PathBuf::from("/usr/lib/cni"),
            PathBuf::from("/usr/libexec/cni"),
        ],
        state_dir: cni_dir(layout).join("foreign"),
    }
}

async fn open_network(
    state_dir: PathBuf,
    pod_cidrs: Vec<String>,
    mtu: Option<u32>,
) -> Result<Network, naru_libcni::CniError> {
    Network::open(NetworkConfig { name: "naru".into(), state_dir, pod_cidrs, mtu }).await
}

/// The ranges of a node's pods.
fn ranges_of(node: &NodeView) -> Vec<String> {
    match node.spec.pod_cidrs.as_slice() {
        [] if node.spec.pod_cidr.is_empty() => Vec::new(),
        [] => vec![node.spec.pod_cidr.clone()],
        all => all.to_vec(),
    }
}

/// The pod network, which can be opened only once the node has been given its range.
#[derive(Debug)]
struct NodeNetwork {
    state_dir: PathBuf,
    mtu: Option<u32>,
    nodes: Informer<NodeView>,
    network: Arc<OnceCell<Network>>,
}

impl NodeNetwork {
    fn ranges(&self) -> Option<Vec<String>> {
        self.nodes.list().first().map(|node| ranges_of(node)).filter(|ranges| !ranges.is_empty())
    }

    async fn given_ranges(&self) -> Result<Vec<String>, String> {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        self.nodes.subscribe(move |change| {
            if let Some(ranges) = change.new.as_ref().map(|node| ranges_of(node)).filter(|ranges| !ranges.is_empty()) {
                // The first ones are enough.
                let _ = sender.try_send(ranges);
            }
        });
        match tokio::time::timeout(RANGE_WAIT, receiver.recv()).await {
            Ok(Some(ranges)) => Ok(ranges),
            _ => Err("the node has no podCIDR yet".into()),
        }
    }

    /// The ranges of an earlier start, for pods that begin before the API server answers.
    async fn remembered_ranges(&self) -> Option<Vec<String>> {
        if self.nodes.is_synced() {
            return None;
        }
        let text = tokio::fs::read_to_string(self.state_dir.join(RANGE_FILE)).await.ok()?;
        Some(text.trim().split(',').map(str::to_owned).collect()).filter(|_| !text.trim().is_empty())
    }

    async fn current_ranges(&self) -> Result<Vec<String>, String> {
        if let Some(ranges) = self.ranges() {
            return Ok(ranges);
        }
        match self.remembered_ranges().await {
            Some(ranges) => Ok(ranges),
            None => self.given_ranges().await,
        }
    }

    async fn network(&self) -> Result<&Network, String> {
        let open = || async {
            let ranges = self.current_ranges().await?;
            let remember = async {
                tokio::fs::create_dir_all(&self.state_dir).await?;
                tokio::fs::write(self.state_dir.join(RANGE_FILE), ranges.join(",")).await
            };
            if let Err(error) = remember.await {
                tracing::warn!(%error, "the node's range of addresses is not remembered");
            }
            open_network(self.state_dir.clone(), ranges, self.mtu).await.map_err(|error| error.to_string())
        };
        self.network.get_or_try_init(open).await
    }
}

#[async_trait]
impl PodNetwork for NodeNetwork {
    async fn attach(&self, sandbox: &str, netns: &Path, pod: &PodName) -> Result<Vec<IpAddr>, String> {
        self.network().await?.attach(sandbox, netns, pod).await
    }

    async fn detach(&self, sandbox: &str, netns: &Path) -> Result<(), String> {
        self.network().await?.detach(sandbox, netns).await
    }

    async fn retain(&self, keep: &HashSet<String>) -> Result<(), String> {
        self.nodes.synced().await;
        if self.ranges().is_none() {
            // A node without a range has never attached a pod.
            return Ok(());
        }
        PodNetwork::retain(self.network().await?, keep).await
    }
}

/// What the kubelet asks of proxy and DNS, and tells them.
#[derive(Debug)]
struct Gate {
    proxy: Proxy,
    namespaces: tokio::sync::watch::Sender<Arc<BTreeMap<IpAddr, String>>>,
}

#[async_trait]
impl EndpointGate for Gate {
    /// Holds a stop signal until the proxy has dropped the endpoint, for a second at most.
    async fn dropped(&self, ip: IpAddr) {
        self.proxy.wait_dropped(ip, GATE_WAIT).await;
    }

    fn set_host_ports(&self, ports: BTreeMap<proxy::Frontend, proxy::Backend>) {
        self.proxy.set_host_ports(ports);
    }

    fn set_namespaces(&self, namespaces: BTreeMap<IpAddr, String>) {
        self.namespaces.send_replace(Arc::new(namespaces));
    }
}

/// Whether the flags can be used, before anything is started.
pub(crate) fn check(args: &NodeArgs) -> Result<()> {
    let labels = pairs(&args.node_label)?;
    if let Some(label) = labels.keys().find(|label| !kubelet_may_set(label)) {
        bail!("--node-label {label}: a node may not give itself this label; set it with kubectl label node");
    }
    kubelet_args(&args.kubelet_arg)?;
    registries(&args.private_registry)?;
    credential_providers(args)?;
    args.node_taint.iter().try_for_each(|text| taint(text).map(drop))
}

fn pairs(labels: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').with_context(|| format!("--node-label {text}: not KEY=VALUE"))?;
        let wrong = qualified_name(key).into_iter().chain(label_value(value)).next();
        if let Some(reason) = wrong {
            bail!("--node-label {text}: {reason}");
        }
        Ok((key.to_owned(), value.to_owned()))
    };
    labels.iter().map(pair).collect()
}

fn taint(text: &str) -> Result<Taint> {
    let (pair, effect) = text.rsplit_once(':').with_context(|| format!("--node-taint {text}: not KEY=VALUE:EFFECT"))?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        bail!("--node-taint {text}: the effect is NoSchedule, PreferNoSchedule or NoExecute");
    }
    let (key, value) = match pair.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (pair, None),
    };
    Ok(Taint { key: key.into(), value, effect: effect.into(), time_added: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_taints_are_parsed_or_named() -> Result<()> {
        assert_eq!(pairs(&["a=b".into()])?.get("a").map(String::as_str), Some("b"));
        assert!(pairs(&["a".into()]).is_err());
        assert!(pairs(&["=b".into()]).is_err());
        let parsed = taint("k=v:NoSchedule")?;
        assert_eq!((parsed.key.as_str(), parsed.value.as_deref()), ("k", Some("v")));
        assert_eq!(taint("k:NoExecute")?.value, None);
        assert!(taint("k=v:Never").is_err());
        let set = kubelet_args(&["container-log-max-size=64Ki".into(), "--container-log-max-files=3".into()])?;
        assert_eq!(set.log_limits, LogLimits { max_size: 65_536, max_files: 3 });
        let set = kubelet_args(&["pod-manifest-path=/etc/pods".into()])?;
        assert_eq!(set.static_pods, Some("/etc/pods".into()));
        assert!(kubelet_args(&["pod-manifest-path=pods".into()]).is_err());
        assert!(kubelet_args(&["allowed-unsafe-sysctls=net.*,kernel.msg*".into()]).is_ok());
        assert!(kubelet_args(&["allowed-unsafe-sysctls=kernel.core_pattern".into()]).is_err());
        assert_eq!(kubelet_args(&["pod-max-pids=-1".into()])?.pod_max_pids, Some(None));
        assert!(kubelet_args(&["container-log-max-files=1".into()]).is_err());
        assert!(kubelet_args(&["feature=1".into()]).is_err());
        Ok(())
    }
}
