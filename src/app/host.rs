//! What the machine says of itself: name, addresses, limits.

use anyhow::{Context, Result, bail};
use naru_api::address::{Cidr, parse_cidr};
use naru_base::Shutdown;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use tokio::sync::watch;

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

/// This machine's addresses, one of a family: those given, or those towards the default routes.
pub(crate) fn node_ips(given: &[IpAddr]) -> Result<Vec<IpAddr>> {
    if let [a, b, rest @ ..] = given
        && (a.is_ipv4() == b.is_ipv4() || !rest.is_empty())
    {
        bail!("--node-ip: one address, or one of each family");
    }
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let found: Vec<IpAddr> = [true, false].into_iter().filter_map(own_address).collect();
    if found.is_empty() {
        bail!("this machine has no network address yet: connect it to a network, or give one with --node-ip");
    }
    Ok(found)
}

/// Those addresses as they are now, until the shutdown: what was given does not change.
pub(crate) fn follow_node_ips(
    given: &[IpAddr],
    ranges: &str,
    shutdown: &Shutdown,
) -> Result<watch::Receiver<Vec<IpAddr>>> {
    let first = of_families(&node_ips(given)?, ranges)?;
    let (sender, receiver) = watch::channel(first);
    if !given.is_empty() {
        return Ok(receiver);
    }
    let changes = naru_network::addresses::changes(shutdown).context("changes of addresses are not told")?;
    let (ranges, shutdown) = (ranges.to_owned(), shutdown.clone());
    naru_base::spawn("node-addresses", async move {
        let follow = async {
            loop {
                changes.notified().await;
                // A machine without a network keeps what it had.
                let Ok(now) = node_ips(&[]).and_then(|ips| of_families(&ips, &ranges)) else { continue };
                sender.send_if_modified(|known| {
                    let changed = *known != now;
                    if changed {
                        let text: Vec<String> = now.iter().map(ToString::to_string).collect();
                        tracing::info!("this machine has another address: {}", text.join(", "));
                        known.clone_from(&now);
                    }
                    changed
                });
            }
        };
        shutdown.guard(follow).await;
    });
    Ok(receiver)
}

/// The address that this machine uses towards its default route, or else any that others may reach.
fn own_address(v4: bool) -> Option<IpAddr> {
    // Connecting a UDP socket sends nothing; it makes the kernel choose route and source address.
    let (any, towards) = match v4 {
        true => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1))),
        false => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
    };
    let chosen = UdpSocket::bind((any, 0))
        .and_then(|socket| socket.connect(SocketAddr::new(towards, 9)).and_then(|()| socket.local_addr()));
    if let Ok(chosen) = chosen {
        return Some(chosen.ip());
    }
    nix::ifaddrs::getifaddrs().ok()?.find_map(|interface| {
        let address = interface.address?;
        let ip = match v4 {
            true => IpAddr::V4(address.as_sockaddr_in()?.ip()),
            false => IpAddr::V6(address.as_sockaddr_in6()?.ip()),
        };
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        (!ip.is_loopback() && !link_local).then_some(ip)
    })
}

/// Of a node's addresses those that the cluster has a use for, in the order of its ranges.
pub(crate) fn of_families(ips: &[IpAddr], ranges: &str) -> Result<Vec<IpAddr>> {
    let mut chosen = Vec::new();
    for range in list(ranges)? {
        chosen.extend(ips.iter().filter(|ip| ip.is_ipv4() == range.network.is_ipv4()));
    }
    if chosen.is_empty() {
        let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
        bail!(
            "the node's address {} is not of the family of the pods' addresses {ranges}: give another with --node-ip, \
             or another --cluster-cidr",
            ips.join(",")
        );
    }
    Ok(chosen)
}

/// One range, or one of each family, with a comma between them.
pub(crate) fn list(ranges: &str) -> Result<Vec<Cidr>> {
    let read: Vec<Cidr> = ranges.split(',').map(|range| read(range.trim())).collect::<Result<_>>()?;
    match read.as_slice() {
        [_] => Ok(read),
        [a, b] if a.network.is_ipv4() != b.network.is_ipv4() => Ok(read),
        _ => bail!("{ranges:?}: one range, or one of IPv4 and one of IPv6"),
    }
}

/// The address on which all of a family are listened to. Where that is IPv6, IPv4 is served as well.
pub(crate) fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
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

/// Whether an address is of one of the ranges.
pub(crate) fn in_range(ranges: &str, address: IpAddr) -> bool {
    ranges.split(',').any(|range| read(range.trim()).is_ok_and(|range| range.contains(address)))
}

/// Whether two ranges share an address.
pub(crate) fn overlap(a: Cidr, b: Cidr) -> bool {
    a.contains(b.network) || b.contains(a.network)
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
        assert!(overlap(read("10.42.0.0/16")?, read("10.42.7.0/24")?));
        assert!(!overlap(read("10.42.0.0/16")?, read("10.43.0.0/16")?));
        assert_eq!(nth_address("fd00:43::/112", 10)?.to_string(), "fd00:43::a");
        assert!(!overlap(read("10.42.0.0/16")?, read("fd00::/112")?));
        assert!(nth_address("10.43.0.0", 1).is_err());
        assert!(nth_address("10.43.0.0/99", 1).is_err());
        Ok(())
    }

    #[test]
    fn addresses_follow_the_families_of_the_ranges() -> Result<()> {
        let (four, six): (IpAddr, IpAddr) = ("192.0.2.1".parse()?, "2001:db8::1".parse()?);
        let given = node_ips(&[four, six])?;
        assert_eq!(of_families(&given, "fd00:42::/56,10.42.0.0/16")?, [six, four]);
        assert_eq!(of_families(&given, "10.42.0.0/16")?, [four]);
        assert!(of_families(&[four], "fd00:42::/56").is_err());
        assert!(node_ips(&[four, four]).is_err());
        assert!(list("10.42.0.0/16,10.43.0.0/16").is_err());
        assert!(in_range("10.42.0.0/16,fd00:42::/56", "fd00:42::7".parse()?));
        Ok(())
    }
}
