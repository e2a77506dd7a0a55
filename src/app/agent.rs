//! `naru agent`: the node alone, joined to a server.

use crate::cli::AgentArgs;
use crate::files::{private_dir, read_optional, write_atomic};
use crate::join::{self, Asking};
use crate::layout::Layout;
use crate::node::{self, NodeConfig};
use crate::pki::Identity;
use crate::{host, server, tunnel};
use anyhow::Result;
use naru_apiserver::tls_config;
use naru_base::Shutdown;
use naru_client::https::{Credentials, HttpConfig, HttpTransport};
use naru_client::{Client, Informers};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

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
    let token = server::given_token("--token-file", args.token_file.as_deref(), args.token.as_deref())?;
    let asking = Asking {
        server: &args.server,
        token: token.as_deref(),
        node_name: &name,
        node_ip: ips[0],
        more_ips: &ips[1..],
        machine: &machine,
        dir: &layout.agent().join("tls"),
    };
    let joined = tokio::select! {
        joined = join::join(&asking) => joined?,
        stopped = server::wait_for_signal() => return stopped,
    };
    tracing::info!("joined {} as node {name} after {:.2} s", args.server, server::seconds(started));

    let shutdown = Shutdown::new();
    let transport = |identity: &Identity| -> Result<Arc<HttpTransport>> {
        let config = HttpConfig {
            server: args.server.clone(),
            ca_pem: joined.server_ca.clone().into_bytes(),
            tls_server_name: None,
            credentials: Credentials::Certificate {
                cert_pem: identity.cert_pem.clone().into_bytes(),
                key_pem: identity.key_pem.clone().into_bytes(),
            },
        };
        Ok(Arc::new(HttpTransport::new(&config)?))
    };
    let of_node = transport(&joined.client)?;
    let cluster = &joined.cluster;
    let ips = host::of_families(&ips, &cluster.cluster_cidr)?;
    let reachable =
        tunnel::Reachable { node: ips[0], ranges: vec![cluster.cluster_cidr.clone(), cluster.service_cidr.clone()] };
    tunnel::keep(of_node.clone(), reachable, &shutdown);
    let config = NodeConfig {
        client: Client::new(of_node),
        informers: Informers::new(Client::new(transport(&joined.agent)?), &shutdown),
        name: name.clone(),
        ips,
        cluster_cidr: cluster.cluster_cidr.clone(),
        service_cidr: cluster.service_cidr.clone(),
        cluster_dns: cluster.cluster_dns.clone(),
        flannel_ipv6_masq: cluster.flannel_ipv6_masq,
        cluster_domain: cluster.cluster_domain.clone(),
        overlay: cluster.flannel_backend.parse().map_err(anyhow::Error::msg)?,
        machine,
        tls: Arc::new(tls_config(&joined.serving.cert_pem, &joined.serving.key_pem, &cluster.client_ca)?),
        api_server_name: cluster.api_server_name.clone(),
    };
    let kubelet = node::start(config, &args.node, &layout, &shutdown).await?;
    let stop = shutdown.clone();
    naru_base::spawn("node-ready", async move {
        if stop.guard(kubelet.ready()).await.is_some() {
            tracing::info!("node {name} is Ready after {:.2} s", server::seconds(started));
        }
    });
    server::wait_for_signal().await?;
    tracing::info!("stopping; pods keep running");
    shutdown.trigger();
    Ok(())
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
