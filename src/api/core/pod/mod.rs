//! Pod: its place in the registry, what happens around a write, its quality of service.

pub mod app_armor;
pub(crate) mod defaults;
mod print;
pub mod references;
mod selectors;
pub(crate) mod validate;
pub(crate) mod warnings;

use crate::quantity::Quantity;
use crate::tree::{ensure, list, object, text};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use crate::registry::{Action, Churn, Column, Piece, Resource, Rules, Scope, Subresource, verbs};

/// Pods.
pub static PODS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["po"],
    categories: &["all"],
    type_name: "io.k8s.api.core.v1.Pod",
    churn: Churn::Durable,
    subresources: &[
        Subresource {
            name: "attach",
            gvk: ("", "v1", "PodAttachOptions"),
            verbs: verbs::CREATE_GET,
            action: Action::Attach,
        },
        Subresource { name: "binding", gvk: ("", "v1", "Binding"), verbs: verbs::CREATE, action: Action::Binding },
        Subresource {
            name: "ephemeralcontainers",
            gvk: ("", "v1", "Pod"),
            verbs: verbs::GET_PATCH_UPDATE,
            action: Action::Piece(&EPHEMERAL_CONTAINERS),
        },
        Subresource {
            name: "eviction",
            gvk: ("policy", "v1", "Eviction"),
            verbs: verbs::CREATE,
            action: Action::Eviction,
        },
        Subresource { name: "exec", gvk: ("", "v1", "PodExecOptions"), verbs: verbs::CREATE_GET, action: Action::Exec },
        Subresource { name: "log", gvk: ("", "v1", "Pod"), verbs: verbs::GET, action: Action::Log },
        Subresource {
            name: "portforward",
            gvk: ("", "v1", "PodPortForwardOptions"),
            verbs: verbs::CREATE_GET,
            action: Action::PortForward,
        },
        Subresource { name: "proxy", gvk: ("", "v1", "PodProxyOptions"), verbs: verbs::PROXY, action: Action::Proxy },
        Subresource {
            name: "resize",
            gvk: ("", "v1", "Pod"),
            verbs: verbs::GET_PATCH_UPDATE,
            action: Action::Piece(&RESIZE),
        },
        Subresource { name: "status", gvk: ("", "v1", "Pod"), verbs: verbs::GET_PATCH_UPDATE, action: Action::Status },
    ],
    columns: &[
        Column::NAME,
        Column::new("Ready", "string"),
        Column::new("Status", "string"),
        Column::new("Restarts", "string"),
        Column::new("Age", "string"),
        Column::wide("IP", "string"),
        Column::wide("Node", "string"),
        Column::wide("Nominated Node", "string"),
        Column::wide("Readiness Gates", "string"),
    ],
    rules: Rules {
        default: defaults::pod,
        prepare_create,
        prepare_update,
        prepare_status,
        validate: validate::pod,
        validate_create: validate::pod_create,
        validate_update: validate::pod_update,
        validate_status: validate::pod_status,
        warnings: warnings::of_pod,
        fields,
        row: print::row,
        ..Rules::NONE
    },
};

/// Containers for debugging, which only ever come.
pub static EPHEMERAL_CONTAINERS: Piece =
    Piece { prepare: validate::prepare_ephemeral_containers, validate: validate::ephemeral_containers };
/// What running containers may use.
pub static RESIZE: Piece = Piece { prepare: validate::prepare_resize, validate: validate::resize };

fn prepare_create(pod: &mut Value) {
    let qos = qos_class(pod);
    let gated = !list(&pod["spec"]["schedulingGates"]).is_empty();
    let pod = object(pod);
    let mut status = json!({"phase": "Pending", "qosClass": qos});
    if gated {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    pod.insert("status".to_owned(), status);
    defaults::service_account(ensure(pod, "spec"));
    let metadata = ensure(pod, "metadata");
    metadata.insert("generation".to_owned(), 1.into());
    let labels = metadata.get("labels").cloned().unwrap_or_default();
    selectors::complete(ensure(pod, "spec"), &labels);
}

/// A status without a class of quality or without generations keeps those that it had.
fn prepare_status(new: &mut Value, old: &Value) {
    let before = &old["status"];
    let status = ensure(object(new), "status");
    crate::tree::keep_zero(status, before, "qosClass");
    crate::tree::keep_zero(status, before, "observedGeneration");
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for condition in crate::tree::items(status, "conditions") {
        let kind = condition.get("type").map_or("", text).to_owned();
        let nth = seen.entry(kind.clone()).or_default();
        if let Some(same) = list(&before["conditions"]).iter().filter(|c| c["type"] == *kind).nth(*nth) {
            crate::tree::keep_zero(condition, same, "observedGeneration");
        }
        *nth += 1;
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    let pod = object(new);
    defaults::service_account(ensure(pod, "spec"));
    crate::tree::keep_status(pod, old);
    crate::tree::bump_generation(pod, old, |new, old| new.get("spec") != Some(&old["spec"]));
}

fn fields(pod: &Value) -> Vec<(&'static str, String)> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let owned = |v: &Value| text(v).to_owned();
    vec![
        ("spec.nodeName", owned(&spec["nodeName"])),
        ("spec.restartPolicy", owned(&spec["restartPolicy"])),
        ("spec.schedulerName", owned(&spec["schedulerName"])),
        ("spec.serviceAccountName", owned(&spec["serviceAccountName"])),
        ("spec.hostNetwork", spec["hostNetwork"].as_bool().unwrap_or(false).to_string()),
        ("status.phase", owned(&status["phase"])),
        ("status.podIP", owned(&status["podIPs"][0]["ip"])),
        ("status.nominatedNodeName", owned(&status["nominatedNodeName"])),
    ]
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits for CPU and memory.
pub fn qos_class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let all = list(&spec["initContainers"]).iter().chain(list(&spec["containers"]));
    let whole_pod = [&spec["resources"]];
    let pod_level = ["requests", "limits"].iter().any(|k| spec["resources"][k].is_object());
    let parts: Vec<&Value> = if pod_level { whole_pod.to_vec() } else { all.map(|c| &c["resources"]).collect() };
    let amount = |part: &Value, kind: &str, name: &str| {
        Quantity::parse(text(&part[kind][name])).ok().filter(|q| !q.is_zero() && !q.is_negative())
    };
    let mut any = false;
    let mut guaranteed = true;
    for part in parts {
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount(part, "requests", name), amount(part, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_service() {
        let pod = |r: Value| json!({"spec": {"containers": [{"resources": r}]}});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let full = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"requests": full, "limits": full}))), "Guaranteed");
        assert_eq!(qos_class(&pod(json!({"requests": {"ephemeral-storage": "1Gi"}}))), "BestEffort");
    }

    #[test]
    fn a_new_pod_is_pending_and_an_update_keeps_status() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": {"phase": "Running"}});
        prepare_create(&mut pod);
        assert_eq!(pod["status"]["phase"], "Pending");
        let old = pod.clone();
        let mut new = json!({"metadata": {"name": "p"}, "spec": {"containers": [1]}});
        prepare_update(&mut new, &old);
        assert_eq!(new["status"], old["status"]);
        assert_eq!(new["metadata"]["generation"], 2);
        let mut same = old.clone();
        prepare_update(&mut same, &old);
        assert_eq!(same, old);
    }
}
