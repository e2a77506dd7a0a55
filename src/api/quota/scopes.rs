//! Which objects a quota is about.

use crate::core::pod;
use crate::registry::Resource;
use crate::tree::{is_empty, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// Whether a quota counts this object: it limits something that the object uses, and all scopes fit.
pub fn matches(quota: &Value, resource: &Resource, object: &Value) -> bool {
    let hard: Vec<&str> = crate::tree::entries(&quota["status"]["hard"]).map(|(name, _)| name.as_str()).collect();
    let tracked = super::matching(resource, &hard).next().is_some();
    tracked
        && list(&quota["spec"]["scopes"]).iter().all(|scope| fits(text(scope), "Exists", &[], resource, object))
        && list(&quota["spec"]["scopeSelector"]["matchExpressions"]).iter().all(|requirement| {
            let values = list(&requirement["values"]);
            fits(text(&requirement["scopeName"]), text(&requirement["operator"]), values, resource, object)
        })
}

fn fits(scope: &str, operator: &str, values: &[Value], resource: &Resource, object: &Value) -> bool {
    match (resource.group, resource.plural) {
        ("", "pods") => pod_fits(scope, operator, values, object),
        ("", "persistentvolumeclaims") if scope == "VolumeAttributesClass" => {
            selected(operator, values, &attribute_classes(object))
        }
        _ => false,
    }
}

fn pod_fits(scope: &str, operator: &str, values: &[Value], pod: &Value) -> bool {
    let spec = &pod["spec"];
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => pod::qos_class(pod) == "BestEffort",
        "NotBestEffort" => pod::qos_class(pod) != "BestEffort",
        "PriorityClass" => selected(operator, values, &some_text(&spec["priorityClassName"]).into_iter().collect()),
        "CrossNamespacePodAffinity" => crosses_namespaces(&spec["affinity"]),
        _ => false,
    }
}

fn selected(operator: &str, values: &[Value], names: &BTreeSet<&str>) -> bool {
    let among = |name: &&&str| values.iter().any(|value| value == **name);
    match operator {
        "Exists" => !names.is_empty(),
        "DoesNotExist" => names.is_empty(),
        "In" => names.iter().any(|name| among(&name)),
        "NotIn" => names.is_empty() || names.iter().any(|name| !among(&name)),
        _ => false,
    }
}

fn attribute_classes(claim: &Value) -> BTreeSet<&str> {
    let status = &claim["status"];
    let names = [
        &claim["spec"]["volumeAttributesClassName"],
        &status["currentVolumeAttributesClassName"],
        &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
    ];
    names.into_iter().filter_map(some_text).collect()
}

fn crosses_namespaces(affinity: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let required = list(&affinity[kind]["requiredDuringSchedulingIgnoredDuringExecution"]).iter();
        let preferred = list(&affinity[kind]["preferredDuringSchedulingIgnoredDuringExecution"]).iter();
        required
            .chain(preferred.map(|term| &term["podAffinityTerm"]))
            .any(|term| !is_empty(&term["namespaces"]) || term["namespaceSelector"].is_object())
    })
}
