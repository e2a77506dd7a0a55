//! ServiceCIDRs: told to be ready, and kept while Services have addresses in them that no other has.

use crate::Context;
use crate::objects::{now, now_text, seconds};
use naru_api::registry;
use naru_client::projections::{Condition, Meta, ObjectView, condition};
use naru_client::{Client, Error, Informer, ListParams, Next, ObjectKey, PatchKind, WorkQueue, is_not_found};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// How long a range that nobody needs any more stays: whoever gives addresses out has to have noticed that it goes.
const GRACE_SECONDS: i64 = 10;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Range {
    metadata: Meta,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    cidrs: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

pub(crate) fn start(context: &Context) {
    let ranges: Informer<Range> = context.informers.start(&registry::SERVICE_CIDRS, ListParams::all());
    // Addresses that users keep for themselves hold nobody back.
    let ours = ListParams::all().labels("ipaddress.kubernetes.io/managed-by=ipallocator.k8s.io");
    let addresses: Informer<ObjectView> = context.informers.start(&registry::IP_ADDRESSES, ours);
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let (wake, all) = (queue.clone(), ranges.clone());
    // Another range may take over what holds one that goes.
    ranges.subscribe(move |change| {
        wake.add(change.key.clone());
        wake_leaving(&wake, &all);
    });
    let (wake, all) = (queue.clone(), ranges.clone());
    addresses.subscribe(move |change| {
        if change.new.is_none() {
            wake_leaving(&wake, &all);
        }
    });
    let (client, all, used) = (context.client.clone(), ranges.clone(), addresses.clone());
    let synced = async move {
        ranges.synced().await;
        addresses.synced().await;
    };
    context.run(&queue, 1, synced, move |key: ObjectKey| {
        let (client, all, used) = (client.clone(), all.clone(), used.clone());
        async move { reconcile(&client, &all, &used, &key).await }
    });
}

fn wake_leaving(queue: &WorkQueue<ObjectKey>, ranges: &Informer<Range>) {
    for range in ranges.list().iter().filter(|range| range.metadata.is_deleting()) {
        queue.add(range.metadata.key());
    }
}

async fn reconcile(
    client: &Client,
    ranges: &Informer<Range>,
    addresses: &Informer<ObjectView>,
    key: &ObjectKey,
) -> Result<Next, Error> {
    let Some(range) = ranges.get_key(key) else { return Ok(Next::Done) };
    let held = range.metadata.finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    if !range.metadata.is_deleting() {
        if !held {
            let mut finalizers = range.metadata.finalizers.clone();
            finalizers.push(FINALIZER.to_owned());
            write_finalizers(client, &range, &finalizers).await?;
        }
        return tell(client, &range, "True", "", "Kubernetes Service CIDR is ready").await;
    }
    if !held {
        return Ok(Next::Done);
    }
    if is_needed(&range, &ranges.list(), &addresses.keys()) {
        let message =
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        return tell(client, &range, "False", "Terminating", message).await;
    }
    let left = range.metadata.deletion_timestamp.as_deref().map_or(0, seconds) + GRACE_SECONDS - now();
    if left > 0 {
        return Ok(Next::After(Duration::from_secs(left.unsigned_abs())));
    }
    let mut finalizers = range.metadata.finalizers.clone();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    write_finalizers(client, &range, &finalizers).await?;
    Ok(Next::Done)
}

/// Whether an address lies in the range, and in no other one that stays.
fn is_needed(range: &Range, all: &[Arc<Range>], addresses: &[ObjectKey]) -> bool {
    let holds = |range: &Range, address: IpAddr| {
        let mut cidrs = range.spec.cidrs.iter();
        cidrs.any(|cidr| naru_api::address::parse_cidr(cidr).is_some_and(|cidr| cidr.contains(address)))
    };
    addresses.iter().filter_map(|key| key.name.parse().ok()).any(|address: IpAddr| {
        let others = || all.iter().filter(|other| !other.metadata.is_deleting());
        holds(range, address) && !others().any(|other| holds(other, address))
    })
}

async fn write_finalizers(client: &Client, range: &Range, finalizers: &[String]) -> Result<(), Error> {
    let meta = &range.metadata;
    let patch = json!({"metadata": {"resourceVersion": meta.resource_version, "finalizers": finalizers}});
    match client.patch::<Value>(&registry::SERVICE_CIDRS, None, &meta.name, None, PatchKind::Merge, &patch).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

async fn tell(client: &Client, range: &Range, status: &str, reason: &str, message: &str) -> Result<Next, Error> {
    let known = condition(&range.status.conditions, "Ready");
    if known.is_some_and(|known| known.status == status && known.reason == reason && known.message == message) {
        return Ok(Next::Done);
    }
    let patch = json!({"status": {"conditions": [{
        "type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": now_text()}]}});
    let (resource, kind) = (&registry::SERVICE_CIDRS, PatchKind::Strategic);
    match client.patch::<Value>(resource, None, &range.metadata.name, Some("status"), kind, &patch).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(Next::Done),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_needed_while_it_alone_holds_an_address() {
        let range = |name: &str, cidr: &str, going: bool| {
            let mut value = json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
            if going {
                value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            Arc::new(serde_json::from_value::<Range>(value).unwrap())
        };
        let (going, wide) = (range("a", "10.1.0.0/24", true), range("b", "10.1.0.0/16", false));
        let (inside, outside) = ([ObjectKey::new("", "10.1.0.9")], [ObjectKey::new("", "10.1.1.9")]);
        assert!(is_needed(&going, std::slice::from_ref(&going), &inside));
        assert!(!is_needed(&going, std::slice::from_ref(&going), &outside));
        assert!(!is_needed(&going, &[going.clone(), wide], &inside));
    }
}
