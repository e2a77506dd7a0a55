//! Resources of a running pod that were changed: judged against the node, then given to the containers.

use super::plan::Kind;
use super::resources::{self, milli};
use super::slot::{Run, Slot};
use super::worker::Worker;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How long a wish that could not be met waits.
const RETRY: SignedDuration = SignedDuration::from_secs(30);
/// What can be changed.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// What became of the last wish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Resize {
    /// There is none, or it is met.
    #[default]
    None,
    /// It does not fit: at present, or ever.
    Pending { reason: &'static str, message: String, retry_at: Timestamp },
    /// It is being met.
    InProgress,
    /// It could not be met.
    Failed { message: String, retry_at: Timestamp },
}

impl Resize {
    /// The condition that tells of it: type, reason, message.
    pub(super) fn condition(&self) -> Option<(&'static str, Option<&'static str>, Option<String>)> {
        match self {
            Self::None => None,
            Self::Pending { reason, message, .. } => Some(("PodResizePending", Some(reason), Some(message.clone()))),
            Self::InProgress => Some(("PodResizeInProgress", None, None)),
            Self::Failed { message, .. } => Some(("PodResizeInProgress", Some("Error"), Some(message.clone()))),
        }
    }

    pub(super) fn retry_at(&self) -> Option<Timestamp> {
        match self {
            Self::Pending { retry_at, .. } | Self::Failed { retry_at, .. } => Some(*retry_at),
            Self::None | Self::InProgress => None,
        }
    }
}

fn quantity(resources: Option<&ResourceRequirements>, kind: &str, name: &str) -> Option<i128> {
    let resources = resources?;
    let map = if kind == "limits" { &resources.limits } else { &resources.requests };
    map.as_ref()?.get(name).map(milli)
}

/// Which of cpu and memory differ.
fn differing(run: &Run, container: &Container) -> Vec<&'static str> {
    // What an older agent started without a note of its resources is left as it is.
    let Some(given) = &run.resources else { return Vec::new() };
    let differs = |name: &&str| {
        ["requests", "limits"]
            .iter()
            .any(|kind| quantity(Some(given), kind, name) != quantity(container.resources.as_ref(), kind, name))
    };
    RESOURCES.iter().copied().filter(|name| differs(name)).collect()
}

fn wants_restart(container: &Container, changed: &[&str]) -> bool {
    container
        .resize_policy
        .iter()
        .flatten()
        .any(|p| p.restart_policy == "RestartContainer" && changed.contains(&p.resource_name.as_str()))
}

/// The requests of a pod's long-running containers, in thousandths.
fn requested(pod: &Pod, name: &str) -> i128 {
    let of = |c: &Container| quantity(c.resources.as_ref(), "requests", name).unwrap_or(0);
    super::plan::containers(pod).filter(|(_, kind)| *kind != Kind::Init).map(|(c, _)| of(c)).sum()
}

/// Why the pod's new requests do not fit: ever, or at present.
fn obstacle(
    pod: &Pod,
    others: &[impl AsRef<Pod>],
    node: &BTreeMap<String, Quantity>,
) -> Option<(&'static str, String)> {
    let whole = |name: &str, value: i128| if name == "cpu" { value } else { value / 1000 };
    for name in RESOURCES {
        let capacity = node.get(name).map(milli)?;
        let wanted = requested(pod, name);
        if wanted > capacity {
            let (wanted, capacity) = (whole(name, wanted), whole(name, capacity));
            let text = format!("Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}");
            return Some(("Infeasible", text));
        }
    }
    for name in RESOURCES {
        let capacity = node.get(name).map(milli)?;
        let over = |p: &Pod| matches!(p.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        let others = others.iter().map(AsRef::as_ref).filter(|p| p.metadata.uid != pod.metadata.uid && !over(p));
        let used: i128 = others.map(|p| requested(p, name)).sum();
        let wanted = requested(pod, name);
        if used + wanted > capacity {
            let (wanted, used, capacity) = (whole(name, wanted), whole(name, used), whole(name, capacity));
            let text = format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            );
            return Some(("Deferred", text));
        }
    }
    None
}

/// The wish in the form in which events tell of it.
fn wish(pod: &Pod, error: Option<&String>) -> Value {
    let containers: Vec<Value> = super::plan::containers(pod)
        .filter(|(container, kind)| *kind == Kind::Main || container.resources.is_some())
        .map(|(container, _)| json!({"name": container.name, "resources": container.resources}))
        .collect();
    let mut wish = json!({"containers": containers, "generation": pod.metadata.generation});
    if let Some(resources) = pod.spec.as_ref().and_then(|s| s.resources.as_ref()) {
        wish["resources"] = json!(resources);
    }
    if let Some(error) = error {
        wish["error"] = error.as_str().into();
    }
    wish
}

impl Worker {
    /// Gives running containers what their specification now says.
    pub(super) async fn resize(&mut self) {
        let now = Timestamp::now();
        let changes: Vec<(usize, Vec<&'static str>)> = (0..self.slots.len())
            .filter(|index| self.slots[*index].kind != Kind::Ephemeral)
            .filter_map(|index| {
                let slot: &Slot = &self.slots[index];
                let run = slot.run.as_ref().filter(|r| r.is_running())?;
                Some((index, differing(run, &slot.container))).filter(|(_, changed)| !changed.is_empty())
            })
            .collect();
        let wanted = resources::pod_limits(&self.pod, self.shared.config.pod_pids_limit);
        // What an earlier agent set is taken for what the pod says.
        let given = self.pod_limits.get_or_insert_with(|| wanted.clone()).clone();
        if self.sandbox.is_none() || (changes.is_empty() && given == wanted) {
            self.settle(Resize::None);
            return;
        }
        let others = self.shared.pods.list();
        if let Some((reason, message)) = obstacle(&self.pod, &others, &self.shared.allocatable) {
            let again = self.resize.retry_at().filter(|at| *at > now).unwrap_or(now + RETRY);
            self.settle(Resize::Pending { reason, message, retry_at: again });
            return;
        }
        if matches!(&self.resize, Resize::Failed { retry_at, .. } if *retry_at > now) {
            return;
        }
        self.settle(Resize::InProgress);
        if let Err(message) = self.bound_pod(&resources::wider(&given, &wanted)).await {
            self.settle(Resize::Failed { message, retry_at: now + RETRY });
            return;
        }
        for (index, changed) in changes {
            if self.slots[index].busy.is_some() {
                continue;
            }
            if wants_restart(&self.slots[index].container, &changed) {
                let text = format!("Container {} resize requires restart", self.slots[index].container.name);
                self.stop_container(index, &text, None);
            } else if let Err(message) = self.give(index).await {
                self.settle(Resize::Failed { message, retry_at: now + RETRY });
                return;
            }
        }
        let waits = self.slots.iter().any(|s| s.run.as_ref().is_some_and(|r| !differing(r, &s.container).is_empty()));
        if waits {
            return;
        }
        match self.bound_pod(&wanted).await {
            Ok(()) => {
                self.pod_limits = Some(wanted);
                self.settle(Resize::None);
            }
            Err(message) => self.settle(Resize::Failed { message, retry_at: now + RETRY }),
        }
    }

    /// Takes note of what has become of a wish, and tells of it.
    fn settle(&mut self, resize: Resize) {
        let told = match (&self.resize, &resize) {
            (old, new) if std::mem::discriminant(old) == std::mem::discriminant(new) => None,
            (_, Resize::Pending { reason: "Infeasible", message, .. }) => {
                Some(("ResizeInfeasible", "Infeasible", Some(message)))
            }
            (_, Resize::Pending { message, .. }) => Some(("ResizeDeferred", "Deferred", Some(message))),
            (Resize::Failed { .. }, Resize::InProgress) => None,
            (_, Resize::InProgress) => Some(("ResizeStarted", "started", None)),
            (_, Resize::Failed { message, .. }) => Some(("ResizeError", "error", Some(message))),
            (_, Resize::None) => Some(("ResizeCompleted", "completed", None)),
        };
        if let Some((reason, word, error)) = told {
            let text = format!("Pod resize {word}: {}", wish(&self.pod, error));
            self.shared.pod_event(&self.pod, None, error.is_some(), reason, text);
        }
        self.resize = resize;
    }

    /// Changes the limits of the pod's cgroup.
    async fn bound_pod(&self, limits: &naru_runtime::Resources) -> Result<(), String> {
        let mut limits = limits.clone();
        limits.cpu_quota.get_or_insert(-1);
        limits.memory_limit.get_or_insert(-1);
        let path = resources::cgroup_parent(&self.pod);
        let applied = self.shared.config.runtime.apply_cgroup(&path, &limits).await;
        applied.map_err(|error| format!("resize of the pod's cgroup failed: {error}"))
    }

    /// Changes a running container's cgroup.
    async fn give(&mut self, index: usize) -> Result<(), String> {
        let container = self.slots[index].container.clone();
        let Some(id) = self.slots[index].run.as_ref().map(|r| r.id.clone()) else { return Ok(()) };
        let values = resources::cgroup_values(&self.pod, &container, self.shared.node_memory);
        self.shared
            .config
            .runtime
            .update_resources(&id, values.update())
            .await
            .map_err(|error| format!("resize of container {} failed: {error}", container.name))?;
        if let Some(run) = self.slots[index].run.as_mut() {
            run.resources = container.resources.clone();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::sync::Arc;

    fn pod(uid: &str, cpu: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"uid": uid}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn what_never_fits_is_infeasible_and_what_does_not_fit_now_is_deferred() {
        let node = BTreeMap::from([("cpu".into(), Quantity("2".into())), ("memory".into(), Quantity("1Gi".into()))]);
        let check = |cpu: &str| obstacle(&pod("a", cpu), &[pod("a", "1"), pod("b", "1")], &node).map(|(r, _)| r);
        assert_eq!(check("1"), None);
        assert_eq!(check("1500m"), Some("Deferred"));
        assert_eq!(check("3"), Some("Infeasible"));
    }

    #[test]
    fn a_restart_is_for_the_resources_that_ask_for_it() {
        let container: Container = serde_json::from_value(json!({"name": "c", "resizePolicy": [
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
            {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}))
        .unwrap();
        assert!(!wants_restart(&container, &["cpu"]));
        assert!(wants_restart(&container, &["cpu", "memory"]));
    }
}
