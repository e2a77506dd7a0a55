//! host-local: addresses from the node's own ranges, leased by files named after them.

use crate::{CniError, write_atomically};
use rustix::fs::{FlockOperation, flock};
use std::collections::HashSet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// A subnet from which addresses are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    first: IpAddr,
    last: IpAddr,
    subnet: IpAddr,
    prefix: u8,
}

/// No node has more pods; larger IPv6 ranges are used up to here.
const MAX_RANGE: u128 = 1 << 24;

impl Range {
    pub(crate) fn parse(cidr: &str) -> Result<Self, CniError> {
        let invalid = || CniError::Config(format!("invalid CIDR {cidr:?}"));
        let (address, prefix) = cidr.split_once('/').ok_or_else(invalid)?;
        let (address, prefix) =
            (address.parse::<IpAddr>().map_err(|_| invalid())?, prefix.parse::<u8>().map_err(|_| invalid())?);
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix > bits {
            return Err(invalid());
        }
        let size = 1_u128.checked_shl(u32::from(bits - prefix)).unwrap_or(u128::MAX);
        // Network, gateway and broadcast addresses are not for pods.
        if size < 4 {
            return Err(CniError::Config(format!("{cidr} is too small to give addresses to pods")));
        }
        let subnet = number(address) & !(size - 1);
        let last = (subnet + size - 2).min(subnet.saturating_add(MAX_RANGE));
        let make = |number| from_number(number, address.is_ipv4());
        Ok(Self { first: make(subnet + 2), last: make(last), subnet: make(subnet), prefix })
    }

    pub(crate) fn is_ipv6(&self) -> bool {
        self.first.is_ipv6()
    }

    /// Length of the subnet's prefix.
    pub(crate) fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The address after the network's, which is kept free for a gateway.
    pub(crate) fn gateway(&self) -> IpAddr {
        from_number(number(self.subnet) + 1, self.subnet.is_ipv4())
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (number(self.first)..=number(self.last)).contains(&number(address))
    }

    /// All addresses, starting after `last` and wrapping around, so that one is not given again at once.
    fn after(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, end, v4) = (number(self.first), number(self.last), self.first.is_ipv4());
        let count = end - first + 1;
        let start = last.filter(|last| self.contains(*last)).map_or(0, |last| number(last) - first + 1);
        (0..count).map(move |i| from_number(first + (start + i) % count, v4))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn from_number(number: u128, v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if v4 => IpAddr::V4(Ipv4Addr::from(number)),
        _ => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

#[derive(Debug)]
pub(crate) struct HostLocal {
    dir: PathBuf,
    ranges: Vec<Range>,
}

impl HostLocal {
    pub(crate) fn open(dir: &Path, ranges: Vec<Range>) -> Result<Self, CniError> {
        std::fs::create_dir_all(dir).map_err(CniError::io("create", dir))?;
        Ok(Self { dir: dir.to_owned(), ranges })
    }

    /// One address of each range; those that this owner already has, if any.
    pub(crate) fn allocate(&self, container_id: &str, ifname: &str) -> Result<Vec<IpAddr>, CniError> {
        let _lock = self.lock()?;
        let leases = self.leases()?;
        let owner = owner(container_id, ifname);
        let mut given = Vec::new();
        for (i, range) in self.ranges.iter().enumerate() {
            let mine = leases.iter().find(|(address, holder)| *holder == owner && range.contains(*address));
            if let Some((address, _)) = mine {
                given.push(*address);
                continue;
            }
            let taken: HashSet<IpAddr> = leases.iter().map(|(address, _)| *address).collect();
            let last_path = self.dir.join(format!("last_reserved_ip.{i}"));
            let last = std::fs::read_to_string(&last_path).ok().and_then(|text| text.trim().parse().ok());
            let free = range.after(last).find(|address| !taken.contains(address));
            let address = free.ok_or_else(|| CniError::NoAddress(format!("{}/{}", range.subnet, range.prefix)))?;
            let path = self.dir.join(address.to_string());
            write_atomically(&path, owner.as_bytes()).map_err(CniError::io("write", path))?;
            write_atomically(&last_path, address.to_string().as_bytes()).map_err(CniError::io("write", last_path))?;
            given.push(address);
        }
        Ok(given)
    }

    /// Frees what this owner has. Idempotent.
    pub(crate) fn release(&self, container_id: &str, ifname: &str) -> Result<(), CniError> {
        let owner = owner(container_id, ifname);
        self.release_where(|holder| holder == owner)
    }

    /// Frees what belongs to none of these containers.
    pub(crate) fn retain(&self, keep: &HashSet<String>) -> Result<(), CniError> {
        self.release_where(|holder| !keep.contains(holder.lines().next().unwrap_or_default()))
    }

    fn release_where(&self, condition: impl Fn(&str) -> bool) -> Result<(), CniError> {
        let _lock = self.lock()?;
        for (address, holder) in self.leases()? {
            if condition(&holder) {
                let path = self.dir.join(address.to_string());
                std::fs::remove_file(&path).map_err(CniError::io("remove", path))?;
            }
        }
        Ok(())
    }

    fn leases(&self) -> Result<Vec<(IpAddr, String)>, CniError> {
        let entries = std::fs::read_dir(&self.dir).map_err(CniError::io("read", &self.dir))?;
        let lease = |entry: std::fs::DirEntry| {
            let address = entry.file_name().to_str()?.parse().ok()?;
            Some((address, std::fs::read_to_string(entry.path()).ok()?))
        };
        Ok(entries.flatten().filter_map(lease).collect())
    }

    /// Also against other processes.
    fn lock(&self) -> Result<File, CniError> {
        let path = self.dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(CniError::io("open", &path))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|errno| CniError::io("lock", path)(errno.into()))?;
        Ok(file)
    }
}

fn owner(container_id: &str, ifname: &str) -> String {
    format!("{container_id}\n{ifname}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn ranges_leave_out_network_gateway_and_broadcast() {
        let range = Range::parse("10.42.3.7/29").unwrap();
        let all: Vec<String> = range.after(None).map(|address| address.to_string()).collect();
        assert_eq!(all, ["10.42.3.2", "10.42.3.3", "10.42.3.4", "10.42.3.5", "10.42.3.6"]);
        let wrapped: Vec<IpAddr> = range.after(Some("10.42.3.5".parse().unwrap())).take(2).collect();
        assert_eq!(wrapped, ["10.42.3.6".parse::<IpAddr>().unwrap(), "10.42.3.2".parse().unwrap()]);
        assert_eq!(Range::parse("fd00::/64").unwrap().after(None).next(), Some("fd00::2".parse().unwrap()));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/31"] {
            assert!(Range::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_unique_kept_and_freed() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            HostLocal::open(dir.path(), vec![Range::parse("10.1.0.0/29").unwrap(), Range::parse("fd00::/112").unwrap()])
                .unwrap()
        };
        let ipam = open();
        let first = ipam.allocate("a", "eth0").unwrap();
        assert_eq!(first.len(), 2);
        assert_eq!(open().allocate("a", "eth0").unwrap(), first);
        let mut seen: HashSet<IpAddr> = first.iter().copied().collect();
        for id in ["b", "c", "d", "e"] {
            assert!(ipam.allocate(id, "eth0").unwrap().into_iter().all(|address| seen.insert(address)));
        }
        let error = ipam.allocate("f", "eth0").unwrap_err().to_string();
        assert_eq!(error, "no IP addresses available in range set: 10.1.0.0/29");
        ipam.release("c", "eth0").unwrap();
        ipam.release("c", "eth0").unwrap();
        ipam.allocate("f", "eth0").unwrap();
        ipam.retain(&HashSet::from(["a".to_owned()])).unwrap();
        assert_eq!(ipam.leases().unwrap().len(), 2);
    }

    #[test]
    fn a_freed_address_is_not_given_again_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = HostLocal::open(dir.path(), vec![Range::parse("10.1.0.0/24").unwrap()]).unwrap();
        let first = ipam.allocate("a", "eth0").unwrap();
        ipam.release("a", "eth0").unwrap();
        assert_ne!(ipam.allocate("b", "eth0").unwrap(), first);
    }
}
