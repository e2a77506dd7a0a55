//! Addresses of Services. An address is taken while an IPAddress object has its name; the ranges are those of
//! the ServiceCIDR objects that are ready.

use crate::cache::Cache;
use crate::objects::{self, Put};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::address::{Cidr, parse_cidr};
use naru_api::meta;
use naru_api::registry::{IP_ADDRESSES, SERVICE_CIDRS};
use naru_store::{Durability, Expect};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

/// Who hands the addresses out, as the objects' label says.
pub(super) const MANAGED_BY: &str = "ipallocator.k8s.io";
pub(super) const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";

/// Why there is no such address to be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Why {
    #[error("range is full")]
    Full,
    #[error("provided IP is already allocated")]
    Allocated,
    #[error("the provided network does not match the current range")]
    Elsewhere,
}

/// Addresses that writes under way have, which have no object yet.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Leaf lock, never held across an await.
    pending: Mutex<HashSet<IpAddr>>,
}

impl Addresses {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<IpAddr>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget(&self, addresses: &[IpAddr]) {
        let mut pending = self.lock();
        for address in addresses {
            pending.remove(address);
        }
    }

    /// Takes this address.
    pub(super) fn take(&self, cache: &Cache, address: IpAddr, dry_run: bool) -> Result<(), Why> {
        let inside = |range: &Cidr| {
            let (first, last) = bounds(*range);
            address.is_ipv4() == first.is_ipv4() && first <= address && address <= last
        };
        if !ready_ranges(cache).iter().any(inside) {
            return Err(Why::Elsewhere);
        }
        if dry_run {
            return Ok(());
        }
        let mut pending = self.lock();
        if has_object(cache, address) || !pending.insert(address) {
            return Err(Why::Allocated);
        }
        Ok(())
    }

    /// Takes any address of a family.
    pub(super) fn next(&self, cache: &Cache, family: &str, dry_run: bool) -> Result<IpAddr, Why> {
        let ranges = ready_ranges(cache);
        let mut ranges = ranges.into_iter().filter(|range| super::family(range.network) == family);
        if dry_run {
            // No use to look for one that is free: it would not stay so.
            return ranges.next().map(|range| range.network).ok_or(Why::Full);
        }
        let mut pending = self.lock();
        let found =
            ranges.find_map(|range| draw(range, |address| pending.contains(&address) || has_object(cache, address)));
        let address = found.ok_or(Why::Full)?;
        pending.insert(address);
        Ok(address)
    }
}

fn has_object(cache: &Cache, address: IpAddr) -> bool {
    cache.get(&IP_ADDRESSES, None, &address.to_string()).is_some()
}

/// The ranges that addresses may come from: of objects that stay and are not said to be unready.
fn ready_ranges(cache: &Cache) -> Vec<Cidr> {
    let objects = cache.objects(&SERVICE_CIDRS);
    let trees = objects.iter().filter_map(|object| serde_json::from_slice::<Value>(&object.json()).ok());
    let mut ranges: Vec<Cidr> = trees
        .filter(|range| meta::deletion_timestamp(range).is_none() && is_ready(range))
        .flat_map(|range| {
            let cidrs = range["spec"]["cidrs"].as_array().cloned().unwrap_or_default();
            cidrs.into_iter().filter_map(|cidr| parse_cidr(cidr.as_str()?))
        })
        .filter(|range| range.network.is_ipv4() || range.bits >= 64)
        .collect();
    ranges.dedup();
    ranges
}

fn is_ready(range: &Value) -> bool {
    let mut conditions = range["status"]["conditions"].as_array().into_iter().flatten();
    conditions.find(|condition| condition["type"] == "Ready").is_none_or(|condition| condition["status"] == "True")
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The first and the last address that Services may have: neither the network's own, nor IPv4's broadcast.
pub(super) fn bounds(range: Cidr) -> (IpAddr, IpAddr) {
    let four = range.network.is_ipv4();
    let host_bits = u32::from(if four { 32 } else { 128 } - range.bits);
    let network = number(range.network);
    let last = network + (1_u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1));
    let address = |number| address_like(range.network, number);
    (address(network + 1), address(if four { last.saturating_sub(1) } else { last }))
}

fn address_like(family: IpAddr, number: u128) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

/// How many of the first addresses are left to those who ask for one, as long as there are others.
fn band(size: u128) -> u128 {
    if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
}

/// A free address, from the upper band while it has any.
fn draw(range: Cidr, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let (first, last) = bounds(range);
    let (first, last) = (number(first), number(last));
    let middle = first + band(last - first + 2);
    [(middle, last), (first, middle - 1)].into_iter().filter(|(from, to)| from <= to).find_map(|(from, to)| {
        let count = to - from + 1;
        let start = rand::random_range(0..count);
        let mut candidates = (0..count).map(|step| address_like(range.network, from + (start + step) % count));
        candidates.find(|address| !taken(*address))
    })
}

/// The object of a Service's address.
pub(super) fn object(address: IpAddr, service: &Value) -> Value {
    json!({
        "kind": IP_ADDRESSES.kind,
        "apiVersion": IP_ADDRESSES.api_version(),
        "metadata": {
            "name": address.to_string(),
            "labels": { FAMILY_LABEL: super::family(address), MANAGED_BY_LABEL: MANAGED_BY },
        },
        "spec": { "parentRef": parent(service) },
    })
}

fn parent(service: &Value) -> Value {
    json!({ "resource": "services", "namespace": meta::namespace(service), "name": meta::name(service) })
}

/// Whether an object's parent is this Service.
pub(super) fn is_of(address: &Value, service: &Value) -> bool {
    let found = &address["spec"]["parentRef"];
    found["resource"] == "services"
        && found["namespace"] == meta::namespace(service)
        && found["name"] == meta::name(service)
}

/// Writes the object of an address; false when it is there already.
pub(super) async fn create(state: &State, address: IpAddr, service: &Value) -> Result<bool, Failure> {
    let mut object = object(address, service);
    objects::stamp_new(&mut object);
    let (bytes, name) = (objects::encode(object), address.to_string());
    let put = objects::put(state, &IP_ADDRESSES, None, &name, Expect::Absent, bytes, Durability::Sync).await?;
    Ok(matches!(put, Put::Done(_)))
}

/// Deletes the object of an address, if it is this Service's. What fails is made good at the next start.
pub(super) async fn delete(state: &State, address: IpAddr, service: Option<&Value>) {
    let name = address.to_string();
    let Some(current) = state.cache.get(&IP_ADDRESSES, None, &name) else { return };
    let Ok(found) = objects::tree(&current) else { return };
    if service.is_some_and(|service| !is_of(&found, service)) {
        return;
    }
    if let Err(status) = objects::remove(state, &IP_ADDRESSES, None, &name, current.revision()).await {
        tracing::warn!(address = name, error = status.message, "the address of a Service could not be given back yet");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_before_the_broadcast_address() {
        let check = |cidr: &str, first: &str, last: &str| {
            let range = parse_cidr(cidr).expect("a range");
            let (from, to) = bounds(range);
            assert_eq!((from.to_string().as_str(), to.to_string().as_str()), (first, last), "{cidr}");
        };
        check("10.43.0.0/16", "10.43.0.1", "10.43.255.254");
        check("10.43.0.0/30", "10.43.0.1", "10.43.0.2");
        check("fd00::/112", "fd00::1", "fd00::ffff");
        check("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff");
    }

    #[test]
    fn the_lower_band_is_taken_last() {
        let range = parse_cidr("10.0.0.0/24").expect("a range");
        let mut taken = HashSet::new();
        for _ in 0..254 {
            taken.insert(draw(range, |address| taken.contains(&address)).expect("a free address"));
            let lower = taken.iter().filter(|address| number(**address) & 0xff <= 16).count();
            assert!(lower == 0 || taken.len() > 254 - 16);
        }
        assert_eq!(draw(range, |address| taken.contains(&address)), None);
        assert_eq!((band(16), band(254), band(65_536)), (0, 16, 256));
    }
}
