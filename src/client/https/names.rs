//! Host names without the libc resolver: literal addresses and /etc/hosts.

use crate::transport::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HOSTS: &str = "/etc/hosts";

/// The addresses of a host that is a literal address or a name in /etc/hosts.
pub async fn resolve(host: &str) -> Result<Vec<IpAddr>, Error> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let hosts = tokio::fs::read_to_string(HOSTS).await.unwrap_or_default();
    let addresses = lookup(&hosts, host);
    if addresses.is_empty() {
        return Err(Error::Connection(format!("{host}: neither an address nor a name in {HOSTS}")));
    }
    Ok(addresses)
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
