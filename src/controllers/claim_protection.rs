//! Keeps a deleted PersistentVolumeClaim until no pod uses it, and a deleted PersistentVolume until it is
//! not bound: takes the finalizers away that admission has put on them.

use crate::Context;
use naru_api::registry::{self, Resource};
use naru_client::projections::{Meta, PodView};
use naru_client::{Client, Error, Informer, ListParams, Next, ObjectKey, WorkQueue, is_not_found};
use serde::Deserialize;
use serde_json::Value;

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// What protection looks at in a claim or a volume.
#[derive(Debug, Default, Deserialize)]
struct Protected {
    metadata: Meta,
    #[serde(default)]
    status: Phase,
}

#[derive(Debug, Default, Deserialize)]
struct Phase {
    #[serde(default)]
    phase: String,
}

impl Protected {
    fn waits_for(&self, finalizer: &str) -> bool {
        self.metadata.is_deleting() && self.metadata.finalizers.iter().any(|held| held == finalizer)
    }
}

/// Claims: keys are theirs.
pub(crate) fn start_claims(ctx: &Context) {
    let claims: Informer<Protected> = ctx.informers.start(&registry::PERSISTENT_VOLUME_CLAIMS, ListParams::all());
    let pods = ctx.informers.pods();
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let wake = queue.clone();
    claims.subscribe(move |change| wake.add(change.key.clone()));
    let (wake, waiting) = (queue.clone(), claims.clone());
    pods.subscribe(move |change| {
        if change.new.as_ref().is_none_or(|pod| pod.is_finished()) {
            for claim in waiting.by_namespace(&change.key.namespace) {
                wake.add(claim.metadata.key());
            }
        }
    });
    let (client, cached, seen) = (ctx.client.clone(), claims.clone(), pods.clone());
    let synced = async move {
        claims.synced().await;
        pods.synced().await;
    };
    ctx.run(&queue, 1, synced, move |key: ObjectKey| {
        let (client, cached, pods) = (client.clone(), cached.clone(), seen.clone());
        async move {
            if cached.get_key(&key).is_some_and(|claim| claim.waits_for(CLAIM_FINALIZER))
                && !is_used(&client, &pods, &key).await?
            {
                release(&client, &registry::PERSISTENT_VOLUME_CLAIMS, &key, CLAIM_FINALIZER).await?;
            }
            Ok::<_, Error>(Next::Done)
        }
    });
}

/// Volumes: keys are theirs.
pub(crate) fn start_volumes(ctx: &Context) {
    let volumes: Informer<Protected> = ctx.informers.start(&registry::PERSISTENT_VOLUMES, ListParams::all());
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let wake = queue.clone();
    volumes.subscribe(move |change| wake.add(change.key.clone()));
    let (client, cached) = (ctx.client.clone(), volumes.clone());
    ctx.run(&queue, 1, async move { volumes.synced().await }, move |key: ObjectKey| {
        let (client, cached) = (client.clone(), cached.clone());
        async move {
            let free = |volume: &Protected| volume.waits_for(VOLUME_FINALIZER) && volume.status.phase != "Bound";
            if cached.get_key(&key).is_some_and(|volume| free(&volume)) {
                release(&client, &registry::PERSISTENT_VOLUMES, &key, VOLUME_FINALIZER).await?;
            }
            Ok::<_, Error>(Next::Done)
        }
    });
}

/// Whether a pod that has not finished uses the claim. Asked of the server, since the cache may not know the
/// newest pods; only when the cache knows of pods there at all.
async fn is_used(client: &Client, pods: &Informer<PodView>, claim: &ObjectKey) -> Result<bool, Error> {
    if pods.by_namespace(&claim.namespace).iter().all(|pod| pod.is_finished()) {
        return Ok(false);
    }
    let all = client.list::<Value>(&registry::PODS, &ListParams::namespace(&claim.namespace)).await?;
    Ok(all.items.iter().any(|pod| uses(pod, &claim.name)))
}

/// By name, or as the claim of an ephemeral volume, which is named after the pod and the volume.
fn uses(pod: &Value, claim: &str) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return false;
    }
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    pod["spec"]["volumes"].as_array().into_iter().flatten().any(|volume| {
        let ephemeral = || format!("{name}-{}", volume["name"].as_str().unwrap_or_default()) == claim;
        volume["persistentVolumeClaim"]["claimName"] == claim || (volume["ephemeral"].is_object() && ephemeral())
    })
}

async fn release(client: &Client, resource: &'static Resource, key: &ObjectKey, finalizer: &str) -> Result<(), Error> {
    let mut object = match client.get::<Value>(resource, key.namespace(), &key.name).await {
        Err(error) if is_not_found(&error) => return Ok(()),
        other => other?,
    };
    if let Some(finalizers) = object["metadata"]["finalizers"].as_array_mut() {
        finalizers.retain(|held| held != finalizer);
    }
    match client.update::<Value>(resource, key.namespace(), &key.name, &object).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_is_used_by_name_or_by_an_ephemeral_volume_until_the_pod_is_finished() {
        let pod = |phase: &str| {
            json!({"metadata": {"name": "p"}, "status": {"phase": phase}, "spec": {"volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "b", "ephemeral": {}}]}})
        };
        assert!(uses(&pod("Running"), "data") && uses(&pod("Pending"), "p-b"));
        assert!(!uses(&pod("Running"), "p-a") && !uses(&pod("Running"), "other"));
        assert!(!uses(&pod("Succeeded"), "data"));
    }
}
