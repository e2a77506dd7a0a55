//! The heartbeat: renews the node's Lease, in a task of its own that waits for nothing else.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use naru_api::registry::LEASES;
use naru_base::{Shutdown, spawn};
use naru_client::{Client, Error, is_already_exists, is_not_found};
use serde_json::json;
use std::time::Duration;
use tokio::sync::watch;

const NAMESPACE: &str = "kube-node-lease";
const DURATION_SECONDS: i32 = 40;
const PERIOD: Duration = Duration::from_secs(10);
/// A renewal that takes longer is given up and tried again.
const PATIENCE: Duration = Duration::from_secs(8);

/// Starts the heartbeat once the node is registered, which `uid` tells.
pub(crate) fn start(client: Client, node: String, mut uid: watch::Receiver<Option<String>>, shutdown: &Shutdown) {
    let shutdown = shutdown.clone();
    spawn("heartbeat", async move {
        let beat = async {
            if uid.wait_for(Option::is_some).await.is_err() {
                return;
            }
            let mut held = None;
            let mut ticks = tokio::time::interval(PERIOD);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let owner = uid.borrow().clone().unwrap_or_default();
                let renewal = renew(&client, &node, &owner, held.take());
                match tokio::time::timeout(PATIENCE, renewal).await {
                    Ok(Ok(lease)) => held = Some(lease),
                    Ok(Err(error)) => tracing::warn!(%error, "heartbeat failed"),
                    Err(_) => tracing::warn!("heartbeat timed out"),
                }
            }
        };
        shutdown.guard(beat).await;
    });
}

/// Renews the lease as it was seen last, or as it is now, or makes it.
async fn renew(client: &Client, node: &str, owner: &str, held: Option<Lease>) -> Result<Lease, Error> {
    let now = MicroTime(Timestamp::now());
    let lease = match held {
        Some(lease) => Ok(lease),
        None => client.get::<Lease>(&LEASES, Some(NAMESPACE), node).await,
    };
    match lease {
        Ok(mut lease) => {
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(node.into());
            spec.lease_duration_seconds = Some(DURATION_SECONDS);
            spec.renew_time = Some(now);
            client.update(&LEASES, Some(NAMESPACE), node, &lease).await
        }
        Err(error) if is_not_found(&error) => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": node, "namespace": NAMESPACE, "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": node, "uid": owner}]},
                "spec": {"holderIdentity": node, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now},
            });
            match client.create(&LEASES, Some(NAMESPACE), &lease).await {
                Err(error) if is_already_exists(&error) => client.get(&LEASES, Some(NAMESPACE), node).await,
                answer => answer,
            }
        }
        Err(error) => Err(error),
    }
}
