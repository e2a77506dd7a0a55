//! What the machine says of itself: name, addresses, limits.

use anyhow::{Context, Result, bail};
use naru_api::address::{Cidr, parse_cidr};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The host name in the form a node's name must have (RFC 1123 subdomain).
pub(crate) fn node_name() -> Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host name")?;
    let name = name.trim().to_ascii_lowercase();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(fits) {
        bail!("the host name {name:?} cannot be a node's name (letters, digits, - and .): give one with --node-name");
    }
    Ok(name)
}

/// The address that this machine uses towards its default route.
pub(crate) fn node_ip() -> Result<IpAddr> {
    // Connecting a UDP socket sends nothing; it makes the kernel choose route and source address.
    let towards = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 1), 9));
    let chosen = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect(towards).and_then(|()| socket.local_addr()))
        .map(|address| address.ip());
    if let Ok(ip) = chosen {
        return Ok(ip);
    }
    let first = nix::ifaddrs::getifaddrs().context("cannot list the network interfaces")?.find_map(|interface| {
        let ip = interface.address?.as_sockaddr_in()?.ip();
        (!ip.is_loopback() && !ip.is_link_local()).then_some(IpAddr::V4(ip))
    });
    first.context("this machine has no network address yet: connect it to a network, or give one with --node-ip")
}

/// The `index`-th address of a range such as `10.43.0.0/16`.
pub(crate) fn nth_address(cidr: &str, index: u32) -> Result<IpAddr> {
    let range = read(cidr)?;
    Ok(match range.network {
        IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits().wrapping_add(index)).into(),
        IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits().wrapping_add(u128::from(index))).into(),
    })
}

fn read(cidr: &str) -> Result<Cidr> {
    let range = parse_cidr(cidr).with_context(|| format!("{cidr:?} is no range of the form ADDRESS/BITS"))?;
    let most = if range.network.is_ipv4() { 30 } else { 126 };
    if range.bits > most {
        bail!("{cidr:?} is too small: /{most} is the smallest range that can be used");
    }
    Ok(range)
}

/// Whether an address is of a range.
pub(crate) fn in_range(cidr: &str, address: IpAddr) -> bool {
    read(cidr).is_ok_and(|range| range.contains(address))
}

/// Whether two ranges share an address.
pub(crate) fn overlap(a: &str, b: &str) -> Result<bool> {
    let (a, b) = (read(a)?, read(b)?);
    Ok(a.contains(b.network) || b.contains(a.network))
}

/// Connections, watches and pods all need descriptors; the soft limit of 1,024 is for programs
/// that use select().
pub(crate) fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!("cannot raise the limit of open files: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_range_are_counted_from_its_base() -> Result<()> {
        assert_eq!(nth_address("10.43.0.0/16", 10)?, IpAddr::from([10, 43, 0, 10]));
        assert_eq!(nth_address("10.43.7.9/16", 1)?, IpAddr::from([10, 43, 0, 1]));
        assert!(overlap("10.42.0.0/16", "10.42.7.0/24")?);
        assert!(!overlap("10.42.0.0/16", "10.43.0.0/16")?);
        assert_eq!(nth_address("fd00:43::/112", 10)?.to_string(), "fd00:43::a");
        assert!(!overlap("10.42.0.0/16", "fd00::/112")?);
        assert!(nth_address("10.43.0.0", 1).is_err());
        assert!(nth_address("10.43.0.0/99", 1).is_err());
        Ok(())
    }
}
