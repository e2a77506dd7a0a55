//! Gives each node its own part of the cluster's pod addresses.

use crate::Context;
use naru_api::registry;
use naru_client::projections::NodeView;
use naru_client::{Client, Error, Informer, Next, ObjectReference, PatchKind, WorkQueue, is_not_found};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
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
    let Some(range) = Range::parse(&ctx.config.cluster_cidr, ctx.config.node_cidr_mask) else {
        tracing::error!("cluster CIDR {} cannot be divided among nodes", ctx.config.cluster_cidr);
        return;
    };
    let synced = {
        let nodes = nodes.clone();
        async move { nodes.synced().await }
    };
    let client = ctx.client.clone();
    // Given out and not yet seen in the cache, by node.
    let pending: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    ctx.run(&queue, 1, synced, move |name: String| {
        let (client, nodes, recorder, pending) = (client.clone(), nodes.clone(), recorder.clone(), pending.clone());
        async move {
            let node = nodes.get("", &name).filter(|node| node.spec.pod_cidr.is_empty());
            let cidr = {
                let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
                pending.retain(|name, _| nodes.get("", name).is_some_and(|node| node.spec.pod_cidr.is_empty()));
                let Some(_) = &node else { return Ok(Next::Done) };
                choose(range, &nodes, &mut pending, &name)
            };
            let Some(node) = node else { return Ok(Next::Done) };
            match cidr {
                Some(cidr) => assign(&client, &node, &cidr).await,
                None => {
                    let about = ObjectReference::of(&registry::NODES, &node.metadata);
                    recorder.warning(
                        &about,
                        "CIDRNotAvailable",
                        format!("Node {name} status is now: CIDRNotAvailable"),
                    );
                    Ok(Next::After(Duration::from_secs(60)))
                }
            }
        }
    });
}

fn choose(
    range: Range,
    nodes: &Informer<NodeView>,
    pending: &mut BTreeMap<String, String>,
    name: &str,
) -> Option<String> {
    if let Some(cidr) = pending.get(name) {
        return Some(cidr.clone());
    }
    let used: HashSet<String> =
        nodes.list().iter().map(|node| node.spec.pod_cidr.clone()).chain(pending.values().cloned()).collect();
    let cidr = range.parts().find(|cidr| !used.contains(cidr))?;
    pending.insert(name.to_owned(), cidr.clone());
    Some(cidr)
}

async fn assign(client: &Client, node: &NodeView, cidr: &str) -> Result<Next, Error> {
    let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
    let patched: Result<Value, Error> =
        client.patch(&registry::NODES, None, &node.metadata.name, None, PatchKind::Strategic, &patch).await;
    match patched {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(Next::Done),
    }
}

/// An IPv4 range divided into equal parts.
#[derive(Debug, Clone, Copy)]
struct Range {
    base: u32,
    bits: u8,
    part_bits: u8,
}

impl Range {
    fn parse(cidr: &str, part_bits: u8) -> Option<Self> {
        let (base, bits) = cidr.split_once('/')?;
        let (base, bits): (Ipv4Addr, u8) = (base.parse().ok()?, bits.parse().ok()?);
        (bits <= part_bits && part_bits <= 30 && part_bits - bits <= 16).then_some(Self {
            base: u32::from(base) & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0),
            bits,
            part_bits,
        })
    }

    fn parts(self) -> impl Iterator<Item = String> {
        let step = 1_u32 << (32 - self.part_bits);
        (0..1_u32 << (self.part_bits - self.bits))
            .map(move |index| format!("{}/{}", Ipv4Addr::from(self.base + index * step), self.part_bits))
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
    }

    #[test]
    fn a_part_is_given_once_also_before_the_cache_has_seen_it() {
        let nodes = Informer::<NodeView>::detached();
        let mut node = NodeView::default();
        node.spec.pod_cidr = "10.42.0.0/24".into();
        nodes.apply(naru_client::ObjectKey::new("", "a"), "1".into(), Some(node));
        let range = Range::parse("10.42.0.0/16", 24).expect("a usable range");
        let mut pending = BTreeMap::new();
        assert_eq!(choose(range, &nodes, &mut pending, "b").as_deref(), Some("10.42.1.0/24"));
        assert_eq!(choose(range, &nodes, &mut pending, "c").as_deref(), Some("10.42.2.0/24"));
        assert_eq!(choose(range, &nodes, &mut pending, "b").as_deref(), Some("10.42.1.0/24"));
    }
}
