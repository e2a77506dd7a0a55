//! `naru agent`: the node alone, joined to a server.

use crate::cli::AgentArgs;
use crate::files::{private_dir, read_optional, write_atomic};
use crate::join::{self, Asking, Joined};
use crate::layout::Layout;
use crate::memory::Kept;
use crate::node::{self, NodeConfig};
use crate::pki::{self, Identity};
use crate::{host, renewal, server, token, tunnel};
use anyhow::Result;
use naru_apiserver::{CurrentCertificate, tls_config};
use naru_base::{Backoff, Shutdown};
use naru_client::https::{Credentials, HttpConfig, HttpTransport};
use naru_client::{Client, Informers};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(args: AgentArgs) -> Result<()> {
    let started = Instant::now();
    node::check(&args.node)?;
    let layout = Layout::new(&args.data.data_dir)?;
    layout.create_agent()?;
    let _lock = layout.lock()?;
    host::raise_file_limit();
    let name = args.node.node_name.clone().map_or_else(host::node_name, Ok)?;
    let ips = host::node_ips(&args.node.node_ip)?;
    let machine = machine(&layout)?;
    tracing::info!("naru {} with data in {}", crate::VERSION, layout.root().display());
    let token = token::given("--token-file", args.token_file.as_deref(), args.token.as_deref())?;
    let tls_dir = layout.agent().join("tls");
    let servers = join::servers::known(&tls_dir, &args.server)?;
    let asking = Asking {
        server: args.server.clone(),
        servers: servers.clone(),
        token,
        node_name: name.clone(),
        ips: ips.clone(),
        machine: machine.clone(),
        dir: tls_dir.clone(),
    };
    let joined = tokio::select! {
        joined = join::join(&asking) => joined?,
        stopped = server::wait_for_signal() => return stopped,
    };
    tracing::info!("joined {} as node {name} after {:.2} s", args.server, server::seconds(started));

    let shutdown = Shutdown::new();
    let identities = Identities::new(&asking, &joined)?;
    let cluster = &joined.cluster;
    let ips = host::follow_node_ips(&args.node.node_ip, &cluster.cluster_cidr, &shutdown)?;
    let reachable = tunnel::Reachable {
        node: ips.clone(),
        ranges: vec![cluster.cluster_cidr.clone(), cluster.service_cidr.clone()],
    };
    tunnel::keep(identities.of_node.clone(), &servers, reachable, &shutdown);
    let memory = Kept::new(layout.agent().join("seen"));
    let client = Client::new(identities.of_agent.clone());
    let informers = Informers::with_memory(client, Some(Arc::new(memory.clone())), &shutdown);
    join::servers::follow(servers, &informers.endpoint_slices(), tls_dir, &args.server);
    let config = NodeConfig {
        client: Client::new(identities.of_node.clone()),
        informers,
        memory: Some(memory.clone()),
        name: name.clone(),
        ips: ips.clone(),
        cluster_cidr: cluster.cluster_cidr.clone(),
        service_cidr: cluster.service_cidr.clone(),
        cluster_dns: cluster.cluster_dns.clone(),
        flannel_ipv6_masq: cluster.flannel_ipv6_masq,
        cluster_domain: cluster.cluster_domain.clone(),
        overlay: cluster.flannel_backend.parse().map_err(anyhow::Error::msg)?,
        machine,
        server: Some(identities.of_node.clone()),
        tls: Arc::new(tls_config(identities.serving.clone(), &cluster.client_ca)?),
        certificates: identities.expiry.clone(),
        api_server_name: cluster.api_server_name.clone(),
    };
    let kubelet = node::start(config, &args.node, &layout, &shutdown).await?;
    identities.keep_fresh(asking, joined, ips, &shutdown);
    let stop = shutdown.clone();
    naru_base::spawn("node-ready", async move {
        if stop.guard(kubelet.ready()).await.is_some() {
            tracing::info!("node {name} is Ready after {:.2} s", server::seconds(started));
        }
    });
    server::wait_for_signal().await?;
    tracing::info!("stopping; pods keep running");
    shutdown.trigger();
    memory.write().await;
    Ok(())
}

/// As whom this machine comes to the server, and as whom it is come to.
struct Identities {
    of_node: Arc<HttpTransport>,
    of_agent: Arc<HttpTransport>,
    serving: Arc<CurrentCertificate>,
    expiry: Arc<renewal::Expiry>,
}

impl Identities {
    fn new(asking: &Asking, joined: &Joined) -> Result<Self> {
        let transport = |identity: &Identity| -> Result<Arc<HttpTransport>> {
            Ok(Arc::new(HttpTransport::balanced(&reaching(asking, joined, identity), asking.servers.clone())?))
        };
        let serving = CurrentCertificate::new(&joined.serving.cert_pem, &joined.serving.key_pem)?;
        Ok(Self {
            of_node: transport(&joined.client)?,
            of_agent: transport(&joined.agent)?,
            expiry: renewal::Expiry::new(serving.clone(), Some(&joined.client.cert_pem))?,
            serving,
        })
    }

    /// Renews all of them when one is due, until the shutdown.
    fn keep_fresh(self, asking: Asking, joined: Joined, ips: watch::Receiver<Vec<IpAddr>>, shutdown: &Shutdown) {
        let shutdown = shutdown.clone();
        naru_base::spawn("certificates", async move { shutdown.guard(self.renew_for_ever(asking, joined, ips)).await });
    }

    async fn renew_for_ever(self, mut asking: Asking, mut joined: Joined, mut ips: watch::Receiver<Vec<IpAddr>>) {
        // What was kept may be of no use any more, and nobody else says so in words that help.
        if let Err(error) = join::check(&asking).await {
            tracing::warn!("{error:#}");
        }
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            asking.ips.clone_from(&ips.borrow_and_update());
            if pki::names_all(&joined.serving, &asking.names()).unwrap_or(false) {
                let held = [&joined.client, &joined.serving, &joined.agent].map(|held| held.cert_pem.clone());
                let moved = async {
                    if ips.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = renewal::due(&held, renewal::now) => {}
                    () = moved => {
                        self.of_node.disconnect().await;
                        self.of_agent.disconnect().await;
                        continue;
                    }
                }
            }
            match self.renew(&asking).await {
                Ok(new) => {
                    joined = new;
                    backoff.reset();
                    tracing::info!("this node's certificates are renewed");
                }
                Err(error) => {
                    self.expiry.failed();
                    tracing::warn!("this node's certificates could not be renewed, trying again: {error:#}");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    async fn renew(&self, asking: &Asking) -> Result<Joined> {
        let joined = join::renew(asking).await?;
        self.serving.replace(&joined.serving.cert_pem, &joined.serving.key_pem)?;
        self.expiry.renewed(&joined.client.cert_pem)?;
        self.of_node.reload(&reaching(asking, &joined, &joined.client)).await?;
        self.of_agent.reload(&reaching(asking, &joined, &joined.agent)).await?;
        Ok(joined)
    }
}

fn reaching(asking: &Asking, joined: &Joined, identity: &Identity) -> HttpConfig {
    HttpConfig {
        server: asking.server.clone(),
        ca_pem: joined.server_ca.clone().into_bytes(),
        tls_server_name: None,
        credentials: Credentials::Certificate {
            cert_pem: identity.cert_pem.clone().into_bytes(),
            key_pem: identity.key_pem.clone().into_bytes(),
        },
    }
}

/// By what the server knows this machine, whatever its name and address are: made on the first start.
pub(crate) fn machine(layout: &Layout) -> Result<String> {
    let path = layout.agent().join("machine-id");
    if let Some(known) = read_optional(&path)?.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()) {
        return Ok(known);
    }
    private_dir(path.parent().unwrap_or(Path::new("/")))?;
    let new = format!("{:032x}", rand::random::<u128>());
    write_atomic(&path, format!("{new}\n").as_bytes(), 0o600)?;
    Ok(new)
}
