//! What pods may take of the node's disk: the sizes of their volumes, and what containers may write. Who takes more
//! is evicted, as upstream's eviction does it.

use crate::disk::{self, Taken};
use crate::pod::inbox::Eviction;
use crate::pod::plan;
use crate::pod::resources::units;
use crate::pod::slot::labels;
use crate::pod::start::identity;
use crate::pods::Pods;
use crate::shared::Shared;
use crate::volumes;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use naru_api::quantity;
use naru_base::{Shutdown, spawn};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks, as upstream; only pods with such limits are looked at.
const INTERVAL: Duration = Duration::from_secs(10);
const STORAGE: &str = "ephemeral-storage";

/// Something with a limit: its name, the limit as it is written, and in bytes.
type Limit = (String, String, u64);

/// A pod's limits.
#[derive(Debug, Default, PartialEq, Eq)]
struct Limits {
    volumes: Vec<Limit>,
    containers: Vec<Limit>,
}

/// What it takes, by names.
#[derive(Debug, Default)]
struct Used {
    volumes: BTreeMap<String, u64>,
    containers: BTreeMap<String, u64>,
    /// All that is on the disk.
    together: u64,
}

impl Limits {
    fn of(pod: &Pod) -> Self {
        let limit = |name: &str, quantity: &Quantity| -> Option<Limit> {
            let bytes = u64::try_from(units(quantity)).ok().filter(|bytes| *bytes > 0)?;
            Some((name.to_owned(), quantity.0.clone(), bytes))
        };
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let volumes = volumes.filter_map(|v| limit(&v.name, v.empty_dir.as_ref()?.size_limit.as_ref()?)).collect();
        let containers = plan::containers(pod)
            .filter_map(|(c, _)| limit(&c.name, c.resources.as_ref()?.limits.as_ref()?.get(STORAGE)?));
        Self { volumes, containers: containers.collect() }
    }

    /// What is said about the first of them that is exceeded.
    fn exceeded(&self, used: &Used) -> Option<Eviction> {
        let evict = |signal, message| Some(Eviction { signal, message });
        let of = |map: &BTreeMap<String, u64>, name: &str| map.get(name).copied().unwrap_or(0);
        if let Some((name, text, _)) = self.volumes.iter().find(|(name, _, bytes)| of(&used.volumes, name) > *bytes) {
            let message = format!("Usage of EmptyDir volume {name:?} exceeds the limit {text:?}. ");
            return evict("emptydirfs.limit", message);
        }
        let total: u64 = self.containers.iter().map(|(_, _, bytes)| bytes).sum();
        if total > 0 && used.together > total {
            let text = quantity::Quantity::from_bytes(i64::try_from(total).unwrap_or(i64::MAX));
            let message = format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. ");
            return evict("ephemeralpodfs.limit", message);
        }
        let over = self.containers.iter().find(|(name, _, bytes)| of(&used.containers, name) > *bytes);
        let (name, text, _) = over?;
        let message = format!("Container {name} exceeded its local ephemeral storage limit {text:?}. ");
        evict("ephemeralcontainerfs.limit", message)
    }
}

/// Looks until shutdown.
pub(crate) fn start(shared: Arc<Shared>, pods: Pods, shutdown: &Shutdown) {
    let shutdown = shutdown.clone();
    spawn("storage limits", async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.guard(ticks.tick()).await.is_some() {
            for pod in pods.list() {
                look(&shared, &pods, &pod).await;
            }
        }
    });
}

async fn look(shared: &Arc<Shared>, pods: &Pods, pod: &Arc<Pod>) {
    let limits = Limits::of(pod);
    let over =
        pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|p| matches!(p, "Succeeded" | "Failed"));
    if over || limits == Limits::default() {
        return;
    }
    let (shared, looked_at) = (shared.clone(), pod.clone());
    let used = tokio::task::spawn_blocking(move || measure(&shared, &looked_at)).await.unwrap_or_default();
    if let Some(eviction) = limits.exceeded(&used) {
        pods.evict(&identity(pod).2, eviction);
    }
}

fn measure(shared: &Shared, pod: &Pod) -> Used {
    let (namespace, name, uid) = identity(pod);
    let config = &shared.config;
    let (pod_dir, logs) = (config.pod_dir(&uid), config.pod_logs(&namespace, &name, &uid));
    let mut used = Used::default();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter(|v| v.host_path.is_none()) {
        let Some(path) = volumes::path(&pod_dir, volume) else { continue };
        let taken = disk::taken(&path);
        if !volumes::is_mount_point(&path) {
            used.together += taken.bytes;
        }
        used.volumes.insert(volume.name.clone(), taken.bytes);
    }
    let sandboxes = config.runtime.sandboxes();
    let own = sandboxes.iter().filter(|s| s.labels.get(labels::POD_UID) == Some(&uid)).flat_map(|s| &s.containers);
    for container in own {
        let written: Option<PathBuf> = config.images.written(&container.id);
        let taken =
            written.map_or_else(Taken::default, |path| disk::taken(&path)) + disk::taken(&logs.join(&container.name));
        used.together += taken.bytes;
        *used.containers.entry(container.name.clone()).or_default() += taken.bytes;
    }
    used
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn who_takes_more_is_named_with_the_limit() {
        let with = |limit: &str| json!({"limits": {"ephemeral-storage": limit}});
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "free", "emptyDir": {}}],
            "containers": [{"name": "a", "resources": with("2Mi")}, {"name": "b", "resources": with("1Mi")},
                {"name": "c"}]}}))
        .unwrap();
        let limits = Limits::of(&pod);
        let check = |volume: u64, a: u64, b: u64, c: u64, expect: Option<&str>| {
            let containers = [("a", a), ("b", b), ("c", c)].map(|(name, kib)| (name.to_owned(), kib << 10));
            let used = Used {
                volumes: [("v".to_owned(), volume << 10), ("free".to_owned(), 1 << 40)].into(),
                together: (volume + a + b + c) << 10,
                containers: containers.into(),
            };
            assert_eq!(limits.exceeded(&used).map(|over| over.message).as_deref(), expect);
        };
        check(1024, 100, 1000, 0, None);
        check(1025, 100, 0, 0, Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "));
        check(0, 100, 1025, 0, Some("Container b exceeded its local ephemeral storage limit \"1Mi\". "));
        check(0, 0, 0, 3073, Some("Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. "));
        assert_eq!(Limits::of(&Pod::default()), Limits::default());
    }
}
