//! Host names: literal addresses and /etc/hosts, then the name servers of /etc/resolv.conf, without libc.

use hickory_resolver::TokioResolver;
use std::net::IpAddr;

/// The addresses of a host.
pub(super) async fn addresses(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(found) = naru_client::https::resolve(host).await {
        return Ok(found);
    }
    // Read anew each time: the machine's name servers change with its network, and connections are kept.
    let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    let resolver = resolver.map_err(|error| format!("name servers: {error}"))?;
    let found = resolver.lookup_ip(host).await.map_err(|error| format!("lookup {host}: {error}"))?;
    Ok(found.iter().collect())
}
