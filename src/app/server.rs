//! `naru server`: parse, build, bind, spawn, drain.

use crate::cli::ServerArgs;
use crate::join::{self, Cluster, JoinConfig, Joining};
use crate::layout::Layout;
use crate::secrets::{Kubeconfig, Secrets};
use crate::signing::Authorities;
use crate::tunnel::Tunnels;
use crate::{agent, dns, encryption, host, manifests, metrics_reader, node, own_objects, renewal, secrets};
use anyhow::{Context, Result, bail};
use naru_apiserver::{ApiServer, FrontProxy, LegacyToken, api_tls_config, tls_config};
use naru_base::Shutdown;
use naru_client::{Client, Informers};
use naru_store::Store;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Each node gets a /24 of the pods' addresses.
const NODE_CIDR_MASK: u8 = 24;
/// The API server's user towards kubelets.
pub(crate) const API_SERVER_NAME: &str = "kube-apiserver-kubelet-client";
/// The API server's name towards extension servers, to which it is a front proxy.
const FRONT_PROXY_NAME: &str = "system:auth-proxy";
/// How long the API server may take to end after a signal: requests that are being worked on are finished.
const DRAIN: Duration = Duration::from_secs(70);

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(args: ServerArgs) -> Result<()> {
    let started = Instant::now();
    let layout = Layout::new(&args.data.data_dir)?;
    layout.create()?;
    let _lock = layout.lock()?;
    host::raise_file_limit();
    let settings = Settings::resolve(&args)?;
    let listener = bind(settings.listen(args.bind_address), args.https_listen_port).await?;
    let store = open_store(&layout, args.quota_backend_bytes).await?;
    let secrets = Secrets::load(&args, &layout, &settings)?;
    tracing::info!("naru {} with data in {}", crate::VERSION, layout.root().display());

    let shutdown = Shutdown::new();
    let client_authorities = [secrets.client_ca.cert_pem.as_str(), &secrets.front_proxy_ca.cert_pem];
    let tls = api_tls_config(secrets.serving.current.clone(), &client_authorities)?;
    let tunnels = match args.disable_agent {
        true => Tunnels::of_no_node(&[&args.cluster_cidr, &args.service_cidr]),
        false => Tunnels::default(),
    };
    let joining = Arc::new(Joining::new(join_config(&args, &settings, &secrets), tunnels.clone()));
    let mut config = api_config(&args, &settings, &secrets, &layout, store.clone())?;
    config.dialer = Arc::new(tunnels);
    config.extension = Some(joining.clone());
    let of_scheduler = Arc::new(naru_scheduler::Metrics::default());
    let of_controllers = Arc::new(naru_controllers::Metrics::default());
    config.metric_sources = vec![of_scheduler.clone(), of_controllers.clone()];
    let api = ApiServer::new(config, shutdown.child()).await?;
    let admin = as_user(&api, "system:admin", &["system:masters"]);
    joining.open(admin.clone());
    let serving = naru_base::spawn("api-server", {
        let api = api.clone();
        async move { api.serve(listener, Arc::new(tls)).await }
    });
    let url = format!("https://{}", SocketAddr::new(reachable(args.bind_address), args.https_listen_port));
    let kubeconfig = Kubeconfig { path: args.write_kubeconfig.clone(), mode: args.write_kubeconfig_mode.0, url };
    kubeconfig.write(&secrets)?;
    tracing::info!(
        "API at {} after {:.2} s, kubeconfig {}",
        kubeconfig.url,
        seconds(started),
        args.write_kubeconfig.display()
    );
    if !args.compaction_interval.is_zero() {
        naru_base::spawn("compaction", compact(store.clone(), args.compaction_interval, shutdown.child()));
    }

    let informers = Informers::new(admin.clone(), &shutdown);
    start_control_plane(&args, &api, &informers, &secrets, (of_controllers, of_scheduler), &shutdown);
    manifests::start(layout.manifests(), as_user(&api, "system:admin", &["system:masters"]), &shutdown);
    let own =
        dns::objects(&settings.cluster_dns).into_iter().chain(join::roles()).chain(metrics_reader::objects()).collect();
    let (publishing, stop) = (own_objects::publish(admin, own), shutdown.clone());
    naru_base::spawn("own-objects", async move { stop.guard(publishing).await });
    if args.simulated_nodes > 0 {
        start_simulated_nodes(args.simulated_nodes, &api, &informers, &shutdown);
    }
    if !args.disable_agent {
        start_node(&args, &settings, &secrets, &layout, &api, &informers, &shutdown).await?;
    }
    let tokens = secrets.tokens.clone();
    let of_tokens = api.clone();
    tokens.follow(move |accepted| of_tokens.replace_static_tokens(&accepted), &shutdown);
    let ips = host::follow_node_ips(&args.node.node_ip, &args.cluster_cidr, &shutdown)?;
    secrets.keep_fresh(kubeconfig, ips, &shutdown);
    wait_for_signal().await?;
    tracing::info!("stopping; pods keep running");
    let delay = api.stop_being_ready();
    if !delay.is_zero() {
        tracing::info!("serving for another {} s, not ready any more", delay.as_secs_f64());
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            again = wait_for_signal() => again?,
        }
    }
    shutdown.trigger();
    if tokio::time::timeout(DRAIN, serving).await.is_err() {
        tracing::warn!("some connections did not end in {} s and are cut", DRAIN.as_secs());
    }
    store.close().await.context("the last writes could not be put on disk")?;
    Ok(())
}

/// A client inside the process.
fn as_user(api: &ApiServer, name: &str, groups: &[&str]) -> Client {
    Client::new(api.in_process(name, groups))
}

fn start_control_plane(
    args: &ServerArgs,
    api: &ApiServer,
    informers: &Informers,
    secrets: &Secrets,
    (metrics, of_scheduler): (Arc<naru_controllers::Metrics>, Arc<naru_scheduler::Metrics>),
    shutdown: &Shutdown,
) {
    let (of_controllers, of_tokens) = (api.clone(), api.clone());
    let client_for = move |name: &str| {
        let (user, groups) = naru_controllers::user_of(name);
        as_user(&of_controllers, &user, groups)
    };
    let config = naru_controllers::Config {
        client_for: Arc::new(client_for),
        informers: informers.clone(),
        ca_pem: secrets.server_ca.cert_pem.clone(),
        legacy_token: Arc::new(move |token| {
            let naru_controllers::LegacyToken { namespace, secret, account, account_uid } = *token;
            of_tokens.legacy_token(&LegacyToken { namespace, secret, account, account_uid })
        }),
        cluster_cidr: args.cluster_cidr.clone(),
        node_cidr_mask: NODE_CIDR_MASK,
        queues: api.queues(),
        metrics,
        signer: Some(Arc::new(Authorities { client: secrets.client_ca.clone(), server: secrets.server_ca.clone() })),
    };
    naru_controllers::start_all(config, shutdown);
    naru_scheduler::start(as_user(api, "system:kube-scheduler", &[]), informers, of_scheduler, shutdown);
}

async fn start_node(
    args: &ServerArgs,
    settings: &Settings,
    secrets: &Secrets,
    layout: &Layout,
    api: &ApiServer,
    informers: &Informers,
    shutdown: &Shutdown,
) -> Result<()> {
    let started = Instant::now();
    let name = settings.node_name.clone();
    let config = node::NodeConfig {
        client: as_user(api, &format!("system:node:{name}"), &["system:nodes"]),
        informers: informers.clone(),
        memory: None,
        name: name.clone(),
        ips: host::follow_node_ips(&args.node.node_ip, &args.cluster_cidr, shutdown)?,
        cluster_cidr: args.cluster_cidr.clone(),
        service_cidr: args.service_cidr.clone(),
        cluster_dns: settings.cluster_dns.clone(),
        cluster_domain: args.cluster_domain.clone(),
        flannel_ipv6_masq: args.flannel_ipv6_masq,
        overlay: args.flannel_backend,
        machine: agent::machine(layout)?,
        server: None,
        tls: Arc::new(tls_config(secrets.kubelet_serving.current.clone(), &secrets.client_ca.cert_pem)?),
        certificates: renewal::Expiry::new(secrets.kubelet_serving.current.clone(), None)?,
        api_server_name: API_SERVER_NAME.into(),
    };
    let kubelet = node::start(config, &args.node, layout, shutdown).await?;
    let shutdown = shutdown.clone();
    let admin = as_user(api, "system:admin", &["system:masters"]);
    naru_base::spawn("node-ready", async move {
        if shutdown.guard(kubelet.ready()).await.is_some() {
            tracing::info!("node {name} is Ready after {:.2} s", seconds(started));
            if let Err(error) = label_control_plane(&admin, &name).await {
                tracing::warn!(%error, "the node's role could not be labelled");
            }
        }
    });
    Ok(())
}

/// Nodes without containers, each of which writes as itself.
fn start_simulated_nodes(nodes: u32, api: &ApiServer, informers: &Informers, shutdown: &Shutdown) {
    let api = api.clone();
    let config = naru_simulated::Config {
        nodes: nodes as usize,
        client_for: Arc::new(move |name| as_user(&api, &format!("system:node:{name}"), &["system:nodes"])),
        informers: informers.clone(),
        version: crate::VERSION.into(),
        renew_every: naru_simulated::RENEW_EVERY,
    };
    naru_simulated::start(config, shutdown);
}

/// A node may not give itself a role.
async fn label_control_plane(admin: &Client, node: &str) -> Result<(), naru_client::Error> {
    let patch = serde_json::json!({ "metadata": { "labels": { "node-role.kubernetes.io/control-plane": "" } } });
    let _: serde_json::Value =
        admin.patch(&naru_api::registry::NODES, None, node, None, naru_client::PatchKind::Merge, &patch).await?;
    Ok(())
}

pub(crate) fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// What the flags and the machine together decide.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) node_name: String,
    /// At least one.
    pub(crate) node_ips: Vec<IpAddr>,
    pub(crate) advertise: IpAddr,
    node_ports: RangeInclusive<u16>,
    cluster_dns: Vec<IpAddr>,
    /// The `kubernetes` Service.
    pub(crate) api_service: IpAddr,
}

impl Settings {
    /// Checks the flags against each other and against this machine.
    pub(crate) fn resolve(args: &ServerArgs) -> Result<Self> {
        let node_name = args.node.node_name.clone().map_or_else(host::node_name, Ok)?;
        let (low, high) = args
            .service_node_port_range
            .split_once('-')
            .and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)))
            .filter(|(low, high)| 0 < *low && low <= high)
            .context("--service-node-port-range is of the form 30000-32767")?;
        let wrong = naru_api::meta::names::dns_subdomain(&node_name);
        if let Some(reason) = wrong.first() {
            bail!("the node's name {node_name:?} cannot be used (give another with --node-name): {reason}");
        }
        node::check(&args.node)?;
        let (api_service, tenth) = check_ranges(args)?;
        check_room_for_nodes(args)?;
        let cluster_dns = if args.cluster_dns.is_empty() { tenth } else { args.cluster_dns.clone() };
        if let Some(outside) = cluster_dns.iter().find(|address| !host::in_range(&args.service_cidr, **address)) {
            bail!(
                "--cluster-dns {outside} is not one of the services' addresses, --service-cidr {}",
                args.service_cidr
            );
        }
        if let Some(reason) = naru_api::meta::names::dns_subdomain(&args.cluster_domain).first() {
            bail!("--cluster-domain {:?} cannot be used: {reason}", args.cluster_domain);
        }
        let node_ips = host::of_families(&host::node_ips(&args.node.node_ip)?, &args.cluster_cidr)?;
        let advertise = args.advertise_address.unwrap_or(node_ips[0]);
        if advertise.is_loopback() {
            bail!("pods cannot reach {advertise}: give another address with --advertise-address or --node-ip");
        }
        Ok(Self { node_name, node_ips, advertise, node_ports: low..=high, cluster_dns, api_service })
    }

    /// Where to listen: all addresses of IPv4 are not enough for a node that is known by one of IPv6.
    pub(crate) fn listen(&self, asked: IpAddr) -> IpAddr {
        if asked.is_unspecified() && self.advertise.is_ipv6() { host::any(self.advertise) } else { asked }
    }
}

/// Checks the ranges against each other; returns the address of the `kubernetes` Service and those for the DNS.
fn check_ranges(args: &ServerArgs) -> Result<(IpAddr, Vec<IpAddr>)> {
    let pods = host::list(&args.cluster_cidr).context("--cluster-cidr")?;
    let services = host::list(&args.service_cidr).context("--service-cidr")?;
    for range in &services {
        if let Some(other) = pods.iter().find(|other| host::overlap(**other, *range)) {
            bail!(
                "--cluster-cidr {other} and --service-cidr {range} overlap: pods and services need addresses of their own"
            );
        }
        if !pods.iter().any(|other| other.network.is_ipv4() == range.network.is_ipv4()) {
            bail!("--service-cidr {range}: pods have no addresses of this family, give them a range in --cluster-cidr");
        }
    }
    let tenth = services.iter().map(|range| host::nth_address(&range.to_string(), 10)).collect::<Result<_>>()?;
    Ok((host::nth_address(&services[0].to_string(), 1)?, tenth))
}

/// Simulated nodes are many, and each gets its part of the pods' addresses.
fn check_room_for_nodes(args: &ServerArgs) -> Result<()> {
    let pods = host::list(&args.cluster_cidr).context("--cluster-cidr")?;
    let bits = pods.iter().find(|range| range.network.is_ipv4()).map_or(0, |range| range.bits);
    let room = 1_u64 << NODE_CIDR_MASK.saturating_sub(bits);
    let wanted = u64::from(args.simulated_nodes) + u64::from(!args.disable_agent);
    if args.simulated_nodes > 0 && wanted > room {
        bail!(
            "--cluster-cidr {} has addresses for {room} nodes, and {wanted} are wanted: give a wider range, such as \
             --cluster-cidr 10.64.0.0/12",
            args.cluster_cidr
        );
    }
    Ok(())
}

/// What no node may show as its own name or address, since by it the API server is known. Beside a server without a
/// node, on the same machine, there may be an agent.
fn reserved_names(args: &ServerArgs, settings: &Settings) -> Vec<String> {
    let mut names = secrets::server_names(args, settings);
    if args.disable_agent {
        let machine: Vec<String> = settings.node_ips.iter().map(ToString::to_string).collect();
        names.retain(|name| !machine.contains(name) && *name != settings.node_name);
    }
    names
}

fn join_config(args: &ServerArgs, settings: &Settings, secrets: &Secrets) -> JoinConfig {
    JoinConfig {
        server_ca: secrets.server_ca.clone(),
        client_ca: secrets.client_ca.clone(),
        reserved: reserved_names(args, settings),
        cluster: Cluster {
            client_ca: secrets.client_ca.cert_pem.clone(),
            api_server_name: API_SERVER_NAME.into(),
            cluster_cidr: args.cluster_cidr.clone(),
            service_cidr: args.service_cidr.clone(),
            cluster_dns: settings.cluster_dns.clone(),
            cluster_domain: args.cluster_domain.clone(),
            flannel_ipv6_masq: args.flannel_ipv6_masq,
            flannel_backend: args.flannel_backend.to_string(),
        },
    }
}

fn api_config(
    args: &ServerArgs,
    settings: &Settings,
    secrets: &Secrets,
    layout: &Layout,
    store: Store,
) -> Result<naru_apiserver::Config> {
    let mut config = naru_apiserver::Config::new(store, secrets.service_account_key.clone(), settings.advertise);
    config.kubelet_ca_pem = secrets.server_ca.cert_pem.clone();
    config.root_ca_pem = secrets.server_ca.cert_pem.clone();
    config.client_ca_pem = secrets.client_ca.cert_pem.clone();
    config.front_proxy = FrontProxy::usual(secrets.front_proxy_ca.cert_pem.clone(), FRONT_PROXY_NAME);
    config.kubelet_client = Some(secrets.kubelet_client.current.clone());
    config.issuer = format!("https://kubernetes.default.svc.{}", args.cluster_domain);
    config.static_tokens = secrets.tokens.accepted()?;
    config.service_cidr = args.service_cidr.clone();
    config.node_ports = settings.node_ports.clone();
    config.advertise_port = args.https_listen_port;
    config.flags = naru_apiserver::Flags::parse(&args.kube_apiserver_arg).context("--kube-apiserver-arg")?;
    let encryption = &mut config.flags.encryption;
    if encryption.config.is_none() {
        encryption.config = encryption::prepare(layout, args.secrets_encryption, args.secrets_encryption_provider)?;
        encryption.automatic_reload = Some(encryption.config.is_some());
    } else if args.secrets_encryption {
        bail!("--secrets-encryption and --kube-apiserver-arg encryption-provider-config exclude each other");
    }
    Ok(config)
}

pub(crate) async fn bind(address: IpAddr, port: u16) -> Result<TcpListener> {
    TcpListener::bind((address, port)).await.with_context(|| {
        format!("cannot listen on {address} port {port}: stop what uses it, or choose another with --https-listen-port")
    })
}

/// An address on this machine that reaches a listener on `bound`.
fn reachable(bound: IpAddr) -> IpAddr {
    match bound {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        other => other,
    }
}

async fn open_store(layout: &Layout, max_bytes: u64) -> Result<Store> {
    let path = layout.database();
    let holds_something = std::fs::metadata(&path).is_ok_and(|file| file.len() > 0);
    if !holds_something && layout.token().exists() {
        bail!(
            "the database {} is missing or empty, but this data directory has been used before: restore it from a \
             backup, or remove {} to start with an empty cluster",
            path.display(),
            layout.server().display()
        );
    }
    let options = naru_store::Options { max_bytes, ..naru_store::Options::default() };
    let opened = tokio::task::spawn_blocking(move || Store::open(path, options)).await?;
    Ok(opened?)
}

/// Forgets history older than the interval.
async fn compact(store: Store, interval: Duration, shutdown: Shutdown) {
    let mut keep_from = store.revision();
    while shutdown.guard(tokio::time::sleep(interval)).await.is_some() {
        if let Err(error) = store.compact(keep_from).await {
            tracing::warn!("old revisions could not be removed, trying again later: {error}");
        }
        keep_from = store.revision();
    }
}

pub(crate) async fn wait_for_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
