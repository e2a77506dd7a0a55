//! What the Node object says: pure, from configuration and facts.

use super::facts::Facts;
use crate::config::KubeletConfig;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use naru_runtime::images::Image;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Images that are listed.
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What this kubelet can do that older ones cannot.
const FEATURES: [&str; 5] = [
    "ExtendWebSocketsToKubelet",
    "GuaranteedQoSPodCPUResize",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

/// The condition of a node whose pods run without some of their limits.
const LIMITS: &str = "LimitsProblem";

/// Labels that the node has.
pub(crate) fn labels(config: &KubeletConfig) -> BTreeMap<String, String> {
    let mut out = config.node_labels.clone();
    for prefix in ["", "beta."] {
        out.insert(format!("{prefix}kubernetes.io/os"), "linux".into());
        out.insert(format!("{prefix}kubernetes.io/arch"), architecture().into());
    }
    out.insert("kubernetes.io/hostname".into(), config.node_name.clone());
    out
}

/// Annotations of our Node.
pub(crate) fn annotations(config: &KubeletConfig) -> BTreeMap<String, String> {
    let mut out = config.node_annotations.clone();
    out.insert("volumes.kubernetes.io/controller-managed-attach-detach".into(), "true".into());
    out
}

/// The Node object of a node that registers.
pub(crate) fn new_node(config: &KubeletConfig, facts: &Facts) -> Value {
    let mut spec = json!({});
    if !config.node_taints.is_empty() {
        spec["taints"] = json!(config.node_taints);
    }
    if let Some(first) = config.pod_cidrs.first() {
        spec["podCIDR"] = json!(first);
        spec["podCIDRs"] = json!(config.pod_cidrs);
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": config.node_name, "labels": labels(config), "annotations": annotations(config)},
        "spec": spec,
        "status": {"capacity": facts.capacity(), "allocatable": facts.allocatable()},
    })
}

/// The status, with transition times kept where nothing changed. With a problem the node is not Ready.
pub(crate) fn compute(
    config: &KubeletConfig,
    facts: &Facts,
    images: &[Arc<Image>],
    old: &NodeStatus,
    problem: Option<&str>,
    now: Timestamp,
) -> Value {
    let mut addresses: Vec<Value> =
        config.node_ips.borrow().iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    addresses.push(json!({"type": "Hostname", "address": config.node_name}));
    let port = config.node_api.as_ref().and_then(|api| api.listener.local_addr().ok()).map_or(0, |a| a.port());
    json!({
        "capacity": facts.capacity(),
        "allocatable": facts.allocatable(),
        "conditions": conditions(old, now, problem, facts.cgroup_problem.as_deref()),
        "addresses": addresses,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {
            "machineID": facts.machine_id, "systemUUID": facts.system_uuid, "bootID": facts.boot_id,
            "kernelVersion": facts.kernel, "osImage": facts.os_image,
            "containerRuntimeVersion": format!("naru://{}", config.version.trim_start_matches('v')),
            "kubeletVersion": config.version, "kubeProxyVersion": "",
            "operatingSystem": "linux", "architecture": architecture(),
        },
        "images": list_images(images),
        "declaredFeatures": FEATURES,
        "features": {"supplementalGroupsPolicy": true},
        "runtimeHandlers": handlers(config, &facts.kernel),
    })
}

/// Ours, which has no name, and the others.
fn handlers(config: &KubeletConfig, kernel: &str) -> Vec<Value> {
    let recursive = recursive_read_only(kernel);
    let users = naru_runtime::idmap::translates_layers() && naru_runtime::idmap::translates_memory();
    let ours = json!({"name": "", "features": {"recursiveReadOnlyMounts": recursive, "userNamespaces": users}});
    let of =
        |name: &String| json!({"name": name, "features": {"recursiveReadOnlyMounts": false, "userNamespaces": false}});
    std::iter::once(ours).chain(config.handlers.keys().map(of)).collect()
}

/// Whether the kernel can make mounts below a mount read-only with it: since 5.12.
fn recursive_read_only(kernel: &str) -> bool {
    let mut numbers = kernel.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 12)
}

/// Upstream's, and one of ours on a machine whose cgroups do not do all that pods ask for, or did not once.
fn conditions(old: &NodeStatus, now: Timestamp, problem: Option<&str>, cgroups: Option<&str>) -> Vec<Value> {
    let before = old.conditions.as_deref().unwrap_or_default();
    let limits = match cgroups {
        Some(problem) => Some((LIMITS, "True", "CgroupControllersMissing", problem)),
        None if before.iter().any(|c| c.type_ == LIMITS) => {
            Some((LIMITS, "False", "CgroupControllersPresent", "this machine's cgroups offer all limits"))
        }
        None => None,
    };
    let ready = match problem {
        None => ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        Some(problem) => ("Ready", "False", "KubeletNotReady", problem),
    };
    let wanted = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ready,
    ];
    wanted
        .into_iter()
        .chain(limits)
        .map(|(name, status, reason, message)| {
            let same = before.iter().find(|c| c.type_ == name && c.status == status);
            let since = same.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now));
            json!({"type": name, "status": status, "reason": reason, "message": message,
                   "lastHeartbeatTime": Time(now), "lastTransitionTime": since})
        })
        .collect()
}

/// The largest images, with a few names each.
fn list_images(images: &[Arc<Image>]) -> Vec<Value> {
    let mut sorted: Vec<&Arc<Image>> = images.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let names =
        |image: &Image| -> Vec<String> { image.digests.iter().chain(&image.names).take(MAX_NAMES).cloned().collect() };
    sorted.iter().take(MAX_IMAGES).map(|image| json!({"names": names(image), "sizeBytes": image.size})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_keep_their_transition_time() {
        let at = |secs| Timestamp::from_second(secs).unwrap_or_default();
        let first: NodeStatus =
            serde_json::from_value(json!({"conditions": conditions(&NodeStatus::default(), at(100), None, None)}))
                .unwrap_or_default();
        let second = conditions(&first, at(400), None, None);
        assert_eq!(second.len(), 4);
        assert_eq!(second[3]["reason"], "KubeletReady");
        assert_eq!(second[3]["lastTransitionTime"], "1970-01-01T00:01:40Z");
        assert_eq!(second[3]["lastHeartbeatTime"], "1970-01-01T00:06:40Z");
        let third = conditions(&first, at(500), Some("no network"), None);
        assert_eq!((&third[3]["status"], &third[3]["reason"]), (&json!("False"), &json!("KubeletNotReady")));
        assert_eq!(
            (&third[3]["message"], &third[3]["lastTransitionTime"]),
            (&json!("no network"), &json!("1970-01-01T00:08:20Z"))
        );

        let limited = conditions(&first, at(500), None, Some("add this to that"));
        assert_eq!((&limited[4]["status"], &limited[4]["message"]), (&json!("True"), &json!("add this to that")));
        let limited: NodeStatus = serde_json::from_value(json!({"conditions": limited})).unwrap_or_default();
        assert_eq!(conditions(&limited, at(600), None, None)[4]["status"], "False");
    }
}
