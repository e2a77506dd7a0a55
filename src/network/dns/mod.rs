//! The cluster's DNS, on every node: answers come from the caches of this process, so that they go on while
//! the API server is away, and no question leaves the node but for foreign names.

mod address;
mod cache;
mod forward;
mod listen;
mod metrics;
mod overrides;
mod resolver;
#[cfg(test)]
mod tests;
mod zone;

pub use address::{AddressError, remove_addresses};
pub use overrides::DnsConfigMap;
pub use zone::Sources;

use listen::Sockets;
use naru_base::{Backoff, Shutdown, spawn};
use naru_client::Informer;
use resolver::Resolver;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use zone::Zone;

/// How the DNS is set up.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// The addresses that it answers on. They are put on this host.
    pub addresses: Vec<IpAddr>,
    /// Port.
    pub port: u16,
    /// The cluster's domain.
    pub domain: String,
    /// The file that names the node's resolvers.
    pub resolv_conf: PathBuf,
}

/// The domain cannot be a DNS name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a DNS name")]
pub struct InvalidDomain(String);

/// Serves until the shutdown. An address or port that cannot be had is said in the log and tried again.
///
/// # Errors
/// The domain is no DNS name.
pub fn start(
    config: DnsConfig,
    sources: Sources,
    settings: &Informer<DnsConfigMap>,
    shutdown: &Shutdown,
) -> Result<(), InvalidDomain> {
    let apex = zone::absolute(&config.domain).ok_or_else(|| InvalidDomain(config.domain.clone()))?;
    let zone = Zone::new(sources, apex, config.addresses.clone());
    let resolver = Arc::new(Resolver::new(zone, config.addresses.clone(), config.resolv_conf));
    let configured = resolver.clone();
    settings.subscribe(move |change| configured.configure(change.new.as_deref()));
    let shutdown = shutdown.clone();
    spawn("dns", async move {
        for address in config.addresses {
            if shutdown.guard(serve(address, config.port, &resolver, &shutdown)).await.is_none() {
                return;
            }
        }
        shutdown.guard(resolver.find_loops()).await;
    });
    Ok(())
}

async fn serve(address: IpAddr, port: u16, resolver: &Arc<Resolver>, shutdown: &Shutdown) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let mut said = false;
    loop {
        // Tests answer on an address that is there already, and may not be allowed to add one.
        let added = if address.is_loopback() { Ok(()) } else { address::add(address).await };
        let failure = match added {
            Err(error) => error.to_string(),
            Ok(()) => match Sockets::bind(address, port).await {
                Ok(sockets) => return sockets.serve(resolver, shutdown),
                Err(error) => {
                    format!("{error} (a DNS server of this host may have taken port {port} of all addresses)")
                }
            },
        };
        if !said {
            tracing::error!("the cluster's DNS cannot answer on {address}: {failure}; trying again");
            said = true;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
