//! A daemon pod as it is made for a node.

use super::HASH;
use super::nodes::{BORNE, BORNE_BY_HOST_NETWORK};
use crate::pods::from_template;
use naru_api::registry;
use naru_client::projections::DaemonSetView;
use serde_json::{Value, json};

/// Counts the template's changes.
const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

/// The scheduler is told by affinity which node the pod is meant for.
pub(super) fn pod(set: &DaemonSetView, template: &Value, hash: &str, node: &str) -> Value {
    let mut pod = from_template(&registry::DAEMON_SETS, &set.metadata, template);
    let labels = &mut pod["metadata"]["labels"];
    labels[HASH] = hash.into();
    if let Some(generation) = set.metadata.annotations.get(GENERATION) {
        labels[GENERATION_LABEL] = generation.as_str().into();
    }
    let spec = &mut pod["spec"];
    let host_network = spec["hostNetwork"] == true;
    if !spec["tolerations"].is_array() {
        spec["tolerations"] = json!([]);
    }
    if let Some(tolerations) = spec["tolerations"].as_array_mut() {
        for (key, effect) in BORNE.iter().chain(host_network.then_some(&BORNE_BY_HOST_NETWORK)) {
            tolerate(tolerations, key, effect);
        }
    }
    let only = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]);
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    spec["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"] = only;
    pod
}

/// One of the same taint is replaced, so that it holds for ever.
fn tolerate(tolerations: &mut Vec<Value>, key: &str, effect: &str) {
    let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
    let is_same = |other: &Value| {
        ["key", "operator", "effect"].iter().all(|field| other[*field] == toleration[*field])
            && other["value"].as_str().unwrap_or_default().is_empty()
    };
    match tolerations.iter_mut().find(|other| is_same(other)) {
        Some(present) => *present = toleration,
        None => tolerations.push(toleration),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_meant_for_one_node_and_bears_its_troubles() {
        let set: DaemonSetView = serde_json::from_value(json!({
            "metadata": {"name": "log", "namespace": "default", "annotations": {GENERATION: "3"}}}))
        .unwrap();
        let template = json!({
            "metadata": {"labels": {"app": "log"}},
            "spec": {
                "containers": [], "hostNetwork": true,
                "tolerations": [
                    {"key": "mine"},
                    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
                ],
                "affinity": {"nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": []}]},
                    "preferredDuringSchedulingIgnoredDuringExecution": [1],
                }},
            },
        });
        let pod = pod(&set, &template, "abc", "n1");
        assert_eq!(
            pod["metadata"]["labels"],
            json!({"app": "log", "controller-revision-hash": "abc", "pod-template-generation": "3"})
        );
        assert_eq!(pod["metadata"]["generateName"], "log-");
        let tolerations: Vec<_> = pod["spec"]["tolerations"].as_array().unwrap().iter().collect();
        assert_eq!(tolerations.len(), 8);
        assert_eq!(
            *tolerations[1],
            json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"})
        );
        assert_eq!(tolerations[7]["key"], "node.kubernetes.io/network-unavailable");
        assert_eq!(
            pod["spec"]["affinity"]["nodeAffinity"],
            json!({
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]},
                "preferredDuringSchedulingIgnoredDuringExecution": [1],
            })
        );
    }
}
