//! Gives each node its own part of the cluster's pod addresses.

use crate::Context;
use naru_api::address::{Cidr, parse_cidr};
use naru_api::registry;
use naru_client::projections::NodeView;
use naru_client::{
    Client, Error, EventRecorder, Informer, Next, ObjectReference, PatchKind, WorkQueue, is_conflict, is_not_found,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub(crate) fn start(ctx: &Context) {
    let nodes = ctx.informers.nodes();
    let queue = WorkQueue::new();
    let wake = queue.clone();
    nodes.subscribe(move |change| {
        if change.new.as_ref().is_none_or(|node| node.spec.pod_cidr.is_empty()) {
            wake.add(change.key.name.clone());
        }
    });
    let recorder = ctx.recorder("cidrAllocator");
    let Some(ranges) = Range::list(&ctx.config.cluster_cidr, ctx.config.node_cidr_mask) else {
        tracing::error!("cluster CIDR {} cannot be divided among nodes", ctx.config.cluster_cidr);
        return;
    };
    let synced = {
        let nodes = nodes.clone();
        async move { nodes.synced().await }
    };
    let client = ctx.client.clone();
    // Given out and not yet seen in the cache, by node.
    let pending: Arc<Mutex<BTreeMap<String, Vec<String>>>> = Arc::default();
    let ranges: Arc<[Range]> = ranges.into();
    ctx.run(&queue, 1, synced, move |name: String| {
        let (client, nodes, recorder, pending) = (client.clone(), nodes.clone(), recorder.clone(), pending.clone());
        let ranges = ranges.clone();
        async move {
            let node = nodes.get("", &name).filter(|node| node.spec.pod_cidr.is_empty());
            let parts = {
                let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
                pending.retain(|name, _| nodes.get("", name).is_some_and(|node| node.spec.pod_cidr.is_empty()));
                let Some(_) = &node else { return Ok(Next::Done) };
                choose(&ranges, &nodes, &mut pending, &name)
            };
            let Some(node) = node else { return Ok(Next::Done) };
            match parts {
                Some(parts) => assign(&client, &node, &parts).await.inspect_err(|error| {
                    // A conflict is nobody's fault: the node has changed meanwhile.
                    if !is_conflict(error) {
                        tell(&recorder, &node, "CIDRAssignmentFailed");
                    }
                }),
                None => {
                    tell(&recorder, &node, "CIDRNotAvailable");
                    Ok(Next::After(Duration::from_secs(60)))
                }
            }
        }
    });
}

/// Upstream tells troubles with ranges as changes of the node's status, which are normal events.
fn tell(recorder: &EventRecorder, node: &NodeView, what: &str) {
    let about = ObjectReference::of(&registry::NODES, &node.metadata);
    recorder.normal(&about, what, format!("Node {} status is now: {what}", node.metadata.name));
}

/// A part of each range.
fn choose(
    ranges: &[Range],
    nodes: &Informer<NodeView>,
    pending: &mut BTreeMap<String, Vec<String>>,
    name: &str,
) -> Option<Vec<String>> {
    if let Some(parts) = pending.get(name) {
        return Some(parts.clone());
    }
    let nodes = nodes.list();
    let given = nodes.iter().flat_map(|node| node.spec.pod_cidrs.iter().chain([&node.spec.pod_cidr]));
    let used: HashSet<&String> = given.chain(pending.values().flatten()).collect();
    let parts: Option<Vec<String>> =
        ranges.iter().map(|range| range.parts().find(|part| !used.contains(part))).collect();
    let parts = parts?;
    pending.insert(name.to_owned(), parts.clone());
    Some(parts)
}

async fn assign(client: &Client, node: &NodeView, parts: &[String]) -> Result<Next, Error> {
    let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": parts.first(), "podCIDRs": parts}});
    let patched: Result<Value, Error> =
        client.patch(&registry::NODES, None, &node.metadata.name, None, PatchKind::Strategic, &patch).await;
    match patched {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(Next::Done),
    }
}

/// The longest prefix of IPv6 that a node gets by default: what an Ethernet segment has.
const NODE_BITS_V6: u8 = 64;
/// Parts of a range that are used, as a power of two.
const MAX_PART_BITS: u8 = 16;
/// Parts of a range of IPv6 that is too small for the default, as a power of two.
const SMALL_PART_BITS: u8 = 8;

/// A range divided into equal parts.
#[derive(Debug, Clone, Copy)]
struct Range {
    cidr: Cidr,
    part_bits: u8,
}

impl Range {
    fn list(ranges: &str, part_bits: u8) -> Option<Vec<Self>> {
        ranges.split(',').map(|range| Self::parse(range.trim(), part_bits)).collect()
    }

    fn parse(text: &str, part_bits_v4: u8) -> Option<Self> {
        let cidr = parse_cidr(text)?;
        let (part_bits, most) = match cidr.network {
            IpAddr::V4(_) => (part_bits_v4, 30),
            IpAddr::V6(_) if cidr.bits < NODE_BITS_V6 => (NODE_BITS_V6, 126),
            IpAddr::V6(_) => (cidr.bits.saturating_add(SMALL_PART_BITS), 126),
        };
        let too_many = cidr.network.is_ipv4() && part_bits.saturating_sub(cidr.bits) > MAX_PART_BITS;
        (cidr.bits <= part_bits && part_bits <= most && !too_many).then_some(Self { cidr, part_bits })
    }

    fn parts(self) -> impl Iterator<Item = String> {
        let bits = self.part_bits;
        (0..1_u32 << (bits - self.cidr.bits).min(MAX_PART_BITS)).map(move |index| match self.cidr.network {
            IpAddr::V4(first) => {
                let part = first.to_bits() + u32::checked_shl(index, 32 - u32::from(bits)).unwrap_or(0);
                format!("{}/{bits}", Ipv4Addr::from_bits(part))
            }
            IpAddr::V6(first) => {
                let part = first.to_bits() + u128::from(index).checked_shl(128 - u32::from(bits)).unwrap_or(0);
                format!("{}/{bits}", Ipv6Addr::from_bits(part))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_inside_the_range() {
        let range = Range::parse("10.42.0.0/16", 24).expect("a usable range");
        let parts: Vec<_> = range.parts().collect();
        assert_eq!(parts.len(), 256);
        assert_eq!((parts[0].as_str(), parts[255].as_str()), ("10.42.0.0/24", "10.42.255.0/24"));
        assert!(Range::parse("10.42.0.0/25", 24).is_none());
        assert!(Range::parse("nonsense", 24).is_none());
        let small = Range::parse("fd00:42::/112", 24).expect("a usable range");
        assert_eq!(small.parts().last().as_deref(), Some("fd00:42::ff00/120"));
        let large = Range::parse("fd00::/16", 24).expect("a usable range");
        assert_eq!(large.parts().count(), 65_536);
    }

    #[test]
    fn a_part_is_given_once_also_before_the_cache_has_seen_it() {
        let nodes = Informer::<NodeView>::detached();
        let mut node = NodeView::default();
        node.spec.pod_cidr = "10.42.0.0/24".into();
        nodes.apply(naru_client::ObjectKey::new("", "a"), "1".into(), Some(node));
        let ranges = Range::list("10.42.0.0/16,fd00:42::/56", 24).expect("usable ranges");
        let mut pending = BTreeMap::new();
        let mut given = |name| choose(&ranges, &nodes, &mut pending, name).expect("there are parts left");
        assert_eq!(given("b"), ["10.42.1.0/24", "fd00:42::/64"]);
        assert_eq!(given("c"), ["10.42.2.0/24", "fd00:42:0:1::/64"]);
        assert_eq!(given("b"), ["10.42.1.0/24", "fd00:42::/64"]);
    }
}
