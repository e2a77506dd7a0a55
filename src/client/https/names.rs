//! Host names without the libc resolver: literal addresses and /etc/hosts, then the name servers of
//! /etc/resolv.conf.

use crate::transport::Error;
use hickory_resolver::TokioResolver;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HOSTS: &str = "/etc/hosts";

/// The addresses of a host.
pub async fn resolve(host: &str) -> Result<Vec<IpAddr>, Error> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let hosts = tokio::fs::read_to_string(HOSTS).await.unwrap_or_default();
    let addresses = lookup(&hosts, host);
    if addresses.is_empty() { ask(host).await } else { Ok(addresses) }
}

/// Asks the machine's name servers. They are read anew each time: they change with its network, and connections are
/// kept.
async fn ask(host: &str) -> Result<Vec<IpAddr>, Error> {
    let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    let resolver = resolver.map_err(|error| Error::Connection(format!("name servers: {error}")))?;
    let found = resolver.lookup_ip(host).await;
    let found = found.map_err(|error| Error::Connection(format!("lookup {host}: {error}")))?;
    Ok(found.iter().collect())
}

fn lookup(hosts: &str, host: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else { continue };
        if words.any(|name| name.eq_ignore_ascii_case(host)) && !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() && host.eq_ignore_ascii_case("localhost") {
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_all_columns_without_regard_to_case() {
        let hosts = "# x\n10.0.0.1 api api.Example # other\nbad line\n::1 api\n10.0.0.1 api\n";
        let addresses = |name| lookup(hosts, name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(addresses("api"), ["10.0.0.1", "::1"]);
        assert_eq!(addresses("API.example"), ["10.0.0.1"]);
        assert!(addresses("other").is_empty());
        assert_eq!(addresses("localhost"), ["127.0.0.1", "::1"]);
    }
}
