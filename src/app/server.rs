//! `naru server`: parse, build, bind, spawn, drain.

use crate::cli::ServerArgs;
use crate::join::{self, Cluster, JoinConfig, Joining};
use crate::layout::Layout;
use crate::pki::{Authority, Identity, LeafSpec, load_or_create_key};
use crate::signing::Authorities;
use crate::tunnel::Tunnels;
use crate::{agent, dns, encryption, host, kubeconfig, manifests, metrics_reader, node, own_objects, token};
use anyhow::{Context, Result, bail};
use naru_apiserver::{ApiServer, ClientIdentity, FrontProxy, LegacyToken, StaticToken, api_tls_config, tls_config};
use naru_base::Shutdown;
use naru_client::{Client, Informers};
use naru_store::Store;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Each node gets a /24 of the pods' addresses.
const NODE_CIDR_MASK: u8 = 24;
/// The API server's user towards kubelets.
const API_SERVER_NAME: &str = "kube-apiserver-kubelet-client";
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
    let tls = api_tls_config(&secrets.serving.cert_pem, &secrets.serving.key_pem, &client_authorities)?;
    let tunnels = Tunnels::default();
    let joining = Arc::new(Joining::new(join_config(&args, &settings, &secrets), tunnels.clone()));
    let mut config = api_config(&args, &settings, &secrets, &layout, store.clone())?;
    config.dialer = Arc::new(tunnels);
    config.extension = Some(joining.clone());
    let of_scheduler = Arc::new(naru_scheduler::Metrics::default());
    config.metric_sources = vec![of_scheduler.clone()];
    let api = ApiServer::new(config, shutdown.child()).await?;
    let admin = as_user(&api, "system:admin", &["system:masters"]);
    joining.open(admin.clone());
    let serving = naru_base::spawn("api-server", {
        let api = api.clone();
        async move { api.serve(listener, Arc::new(tls)).await }
    });
    let url = format!("https://{}", SocketAddr::new(reachable(args.bind_address), args.https_listen_port));
    kubeconfig::write(
        &args.write_kubeconfig,
        args.write_kubeconfig_mode.0,
        &url,
        &secrets.server_ca.cert_pem,
        &secrets.admin,
    )?;
    tracing::info!("API at {url} after {:.2} s, kubeconfig {}", seconds(started), args.write_kubeconfig.display());
    if !args.compaction_interval.is_zero() {
        naru_base::spawn("compaction", compact(store.clone(), args.compaction_interval, shutdown.child()));
    }

    let informers = Informers::new(admin.clone(), &shutdown);
    start_control_plane(&args, &api, &informers, &secrets, of_scheduler, &shutdown);
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
    of_scheduler: Arc<naru_scheduler::Metrics>,
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
    let serving = &secrets.kubelet_serving;
    let config = node::NodeConfig {
        client: as_user(api, &format!("system:node:{name}"), &["system:nodes"]),
        informers: informers.clone(),
        name: name.clone(),
        ips: settings.node_ips.clone(),
        cluster_cidr: args.cluster_cidr.clone(),
        service_cidr: args.service_cidr.clone(),
        cluster_dns: settings.cluster_dns.clone(),
        cluster_domain: args.cluster_domain.clone(),
        flannel_ipv6_masq: args.flannel_ipv6_masq,
        overlay: args.flannel_backend,
        machine: agent::machine(layout)?,
        tls: Arc::new(tls_config(&serving.cert_pem, &serving.key_pem, &secrets.client_ca.cert_pem)?),
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
    node_name: String,
    /// At least one.
    pub(crate) node_ips: Vec<IpAddr>,
    advertise: IpAddr,
    node_ports: RangeInclusive<u16>,
    cluster_dns: Vec<IpAddr>,
    /// The `kubernetes` Service.
    api_service: IpAddr,
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

/// Authorities, certificates, keys and the token.
#[derive(Debug)]
struct Secrets {
    server_ca: Arc<Authority>,
    client_ca: Arc<Authority>,
    front_proxy_ca: Authority,
    serving: Identity,
    admin: Identity,
    kubelet_client: Identity,
    kubelet_serving: Identity,
    service_account_key: String,
    token: String,
    /// Of agents alone.
    agent_token: Option<String>,
}

impl Secrets {
    fn load(args: &ServerArgs, layout: &Layout, settings: &Settings) -> Result<Self> {
        let dir = layout.tls();
        let server_ca = Arc::new(Authority::load_or_create(&dir, "server-ca", "naru-server-ca")?);
        let client_ca = Arc::new(Authority::load_or_create(&dir, "client-ca", "naru-client-ca")?);
        let front_proxy_ca = Authority::load_or_create(&dir, "request-header-ca", "naru-request-header-ca")?;
        let mut names: Vec<String> = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            &format!("kubernetes.default.svc.{}", args.cluster_domain),
            "localhost",
            "127.0.0.1",
            "::1",
            &settings.node_name,
            &settings.advertise.to_string(),
            &settings.api_service.to_string(),
        ]
        .map(String::from)
        .to_vec();
        names.extend(settings.node_ips.iter().map(ToString::to_string));
        names.extend(args.tls_san.iter().cloned());
        names.sort();
        names.dedup();
        let serving = LeafSpec { common_name: "kube-apiserver".into(), organization: None, alt_names: names };
        let client = |name: &str, group: &str| LeafSpec {
            common_name: name.into(),
            organization: Some(group.into()),
            alt_names: Vec::new(),
        };
        let kubelet = LeafSpec {
            common_name: format!("system:node:{}", settings.node_name),
            organization: Some("system:nodes".into()),
            alt_names: [settings.node_name.clone(), "127.0.0.1".into()]
                .into_iter()
                .chain(settings.node_ips.iter().map(ToString::to_string))
                .collect(),
        };
        let given = given_token("--token-file", args.token_file.as_deref(), args.token.as_deref())?;
        let agents = given_token("--agent-token-file", args.agent_token_file.as_deref(), args.agent_token.as_deref())?;
        let token = token::load_or_create(&layout.token(), given.as_deref(), &server_ca.cert_pem)?;
        Ok(Self {
            serving: server_ca.load_or_sign(&dir, "serving-kube-apiserver", &serving)?,
            admin: client_ca.load_or_sign(&dir, "client-admin", &client("system:admin", "system:masters"))?,
            kubelet_client: client_ca.load_or_sign(
                &dir,
                "client-kube-apiserver",
                &client(API_SERVER_NAME, "system:masters"),
            )?,
            kubelet_serving: server_ca.load_or_sign(&dir, "serving-kubelet", &kubelet)?,
            service_account_key: load_or_create_key(&dir.join("service.key"))?,
            agent_token: token::for_agents(&layout.node_token(), agents.as_deref(), &token, &server_ca.cert_pem)?,
            token,
            server_ca,
            client_ca,
            front_proxy_ca,
        })
    }
}

/// A token given by flag or in a file.
pub(crate) fn given_token(flag: &str, file: Option<&Path>, given: Option<&str>) -> Result<Option<String>> {
    match file {
        Some(path) => std::fs::read_to_string(path).map(Some).with_context(|| format!("{flag} {}", path.display())),
        None => Ok(given.map(str::to_owned)),
    }
}

fn join_config(args: &ServerArgs, settings: &Settings, secrets: &Secrets) -> JoinConfig {
    JoinConfig {
        server_ca: secrets.server_ca.clone(),
        client_ca: secrets.client_ca.clone(),
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
    config.kubelet_client = Some(ClientIdentity {
        cert_pem: secrets.kubelet_client.cert_pem.clone(),
        key_pem: secrets.kubelet_client.key_pem.clone(),
    });
    config.issuer = format!("https://kubernetes.default.svc.{}", args.cluster_domain);
    config.static_tokens = join_tokens(secrets)?;
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

/// What agents may show to join: a token whole, or without the hash, which is all that they send.
fn join_tokens(secrets: &Secrets) -> Result<Vec<StaticToken>> {
    let mut tokens = Vec::new();
    for (user, token) in [("server", Some(&secrets.token)), ("node", secrets.agent_token.as_ref())] {
        let Some(token) = token else { continue };
        let (_, password) = token::parts(token)?;
        tokens.extend([token, password].map(|token| StaticToken {
            token: token.to_owned(),
            user: format!("system:bootstrap:{user}"),
            uid: String::new(),
            groups: vec!["system:bootstrappers".into()],
        }));
    }
    Ok(tokens)
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
