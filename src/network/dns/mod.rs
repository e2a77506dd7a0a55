//! The cluster's DNS, on every node: answers come from the caches of this process, so that they go on while
//! the API server is away, and no question leaves the node but for foreign names.

mod address;
mod cache;
mod forward;
mod listen;
mod metrics;
mod overrides;
mod resolver;
mod search;
#[cfg(test)]
mod tests;
mod zone;

pub use address::{AddressError, remove_addresses};
pub use overrides::DnsConfigMap;
pub use search::Namespaces;
pub use zone::Sources;

use crate::proxy::{Backend, Frontend, Protocol, Proxy};
use listen::Sockets;
use naru_base::{Backoff, Shutdown, spawn};
use naru_client::Informer;
use resolver::Resolver;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use zone::Zone;

/// Where we listen when the usual port is somebody else's.
const OTHER_PORT: u16 = 10_053;

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

/// What the DNS is given beside its sources.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Whose search lists can be gone through.
    pub namespaces: Namespaces,
    /// Sends packets to where we listen when the usual port is somebody else's.
    pub proxy: Option<Proxy>,
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
    surroundings: Surroundings,
    shutdown: &Shutdown,
) -> Result<(), InvalidDomain> {
    let apex = zone::absolute(&config.domain).ok_or_else(|| InvalidDomain(config.domain.clone()))?;
    let zone = Zone::new(sources, apex, config.addresses.clone());
    let Surroundings { namespaces, proxy } = surroundings;
    let resolver = Arc::new(Resolver::new(zone, config.addresses.clone(), config.resolv_conf, namespaces));
    let configured = resolver.clone();
    settings.subscribe(move |change| configured.configure(change.new.as_deref()));
    let shutdown = shutdown.clone();
    spawn("dns", async move {
        for address in config.addresses {
            let served = serve(address, config.port, proxy.as_ref(), &resolver, &shutdown);
            if shutdown.guard(served).await.is_none() {
                return;
            }
        }
        shutdown.guard(resolver.watch_for_loops()).await;
    });
    Ok(())
}

/// Binds the address; where its port is taken (by a server of this host, on all addresses), binds another one and has
/// packets sent there.
async fn bind(address: IpAddr, port: u16, proxy: Option<&Proxy>) -> io::Result<Sockets> {
    let taken = match (Sockets::bind(address, port).await, proxy) {
        (Err(error), Some(proxy)) if error.kind() == io::ErrorKind::AddrInUse => proxy,
        (bound, _) => return bound,
    };
    // The same one each time if it can be had: a table that has outlived an earlier process leads there.
    let sockets = match Sockets::bind(address, OTHER_PORT).await {
        Ok(sockets) => sockets,
        Err(_) => Sockets::bind(address, 0).await?,
    };
    let here = Backend { address, port: sockets.place()?.port() };
    taken.redirect([Protocol::Udp, Protocol::Tcp].map(|protocol| (Frontend { address, protocol, port }, here)));
    tracing::warn!(
        "a DNS server of this host has port {port} of all addresses: the cluster's DNS listens on port {} of {address} \
         instead, and pods notice nothing",
        here.port
    );
    Ok(sockets)
}

async fn serve(address: IpAddr, port: u16, proxy: Option<&Proxy>, resolver: &Arc<Resolver>, shutdown: &Shutdown) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let mut said = false;
    loop {
        // Tests answer on an address that is there already, and may not be allowed to add one.
        let added = if address.is_loopback() { Ok(()) } else { address::add(address).await };
        let failure = match added {
            Err(error) => error.to_string(),
            Ok(()) => match bind(address, port, proxy).await {
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
