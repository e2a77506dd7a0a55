//! Plugins that run only where `enable-admission-plugins` asks for them, each a few lines.

use super::{Attributes, Operation, Plugin};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::registry;
use serde_json::{Value, json};

pub(super) static ALWAYS_DENY: Plugin = Plugin::new("AlwaysDeny")
    .off()
    .admit(|_, attributes, _| Err(attributes.forbidden("admission control is denying all modifications")));

pub(super) static ALWAYS_PULL_IMAGES: Plugin = Plugin::new("AlwaysPullImages").off().admit(always_pull);

pub(super) static DENY_EXTERNAL_IPS: Plugin = Plugin::new("DenyServiceExternalIPs").off().validate(deny_external_ips);

pub(super) static EXTENDED_RESOURCE_TOLERATION: Plugin =
    Plugin::new("ExtendedResourceToleration").off().admit(tolerate_extended_resources);

pub(super) static NAMESPACE_EXISTS: Plugin = Plugin::new("NamespaceExists").off().validate(namespace_exists);

pub(super) static LIMIT_ANTI_AFFINITY: Plugin =
    Plugin::new("LimitPodHardAntiAffinityTopology").off().validate(limit_anti_affinity);

fn is_pod_write(attributes: &Attributes<'_>) -> bool {
    attributes.is_of(&registry::PODS)
        && matches!(attributes.subresource, "" | "ephemeralcontainers")
        && matches!(attributes.operation, Operation::Create | Operation::Update)
}

/// Nobody runs an image that somebody else has pulled with credentials of theirs.
fn always_pull(_: &State, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Failure> {
    if !is_pod_write(attributes) {
        return Ok(());
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            container["imagePullPolicy"] = "Always".into();
        }
    }
    Ok(())
}

/// External addresses may be kept, but not added.
fn deny_external_ips(_: &State, attributes: &Attributes<'_>, service: &Value) -> Result<(), Failure> {
    if !attributes.is_of(&registry::SERVICES) || !attributes.subresource.is_empty() {
        return Ok(());
    }
    let addresses = |service: &Value| service["spec"]["externalIPs"].as_array().cloned().unwrap_or_default();
    let before = attributes.old.map(addresses).unwrap_or_default();
    if addresses(service).iter().all(|address| before.contains(address)) {
        return Ok(());
    }
    Err(attributes.forbidden("Use of external IPs is denied by admission control."))
}

/// Nodes with scarce devices are tainted by the device's name; pods that ask for it come anyway.
fn tolerate_extended_resources(_: &State, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Failure> {
    if !is_pod_write(attributes) || !attributes.subresource.is_empty() {
        return Ok(());
    }
    let mut names = std::collections::BTreeSet::new();
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array().into_iter().flatten() {
            let requests = container["resources"]["requests"].as_object().into_iter().flatten();
            names.extend(requests.map(|(name, _)| name.clone()).filter(|name| is_extended(name)));
        }
    }
    for name in names {
        let tolerations = &mut pod["spec"]["tolerations"];
        if !tolerations.is_array() {
            *tolerations = json!([]);
        }
        let wanted = json!({ "key": name, "operator": "Exists" });
        if let Some(list) = tolerations.as_array_mut()
            && !list.contains(&wanted)
        {
            list.push(wanted);
        }
    }
    Ok(())
}

/// A resource of a domain that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    let Some((domain, _)) = name.split_once('/') else { return false };
    domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io") && !name.starts_with("requests.")
}

fn namespace_exists(state: &State, attributes: &Attributes<'_>, _: &Value) -> Result<(), Failure> {
    let Some(namespace) = attributes.namespace.filter(|namespace| !namespace.is_empty()) else { return Ok(()) };
    if state.cache.get(&registry::NAMESPACES, None, namespace).is_some() {
        return Ok(());
    }
    Err(Box::new(naru_api::status::Status::not_found("", "namespaces", namespace)))
}

/// Required anti-affinity to anything but a node is a way to keep others off a whole zone.
fn limit_anti_affinity(_: &State, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Failure> {
    const HOST: &str = "kubernetes.io/hostname";
    if !is_pod_write(attributes) || !attributes.subresource.is_empty() {
        return Ok(());
    }
    let required = &pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let Some(term) = required.as_array().into_iter().flatten().find(|term| term["topologyKey"] != HOST) else {
        return Ok(());
    };
    let key = term["topologyKey"].as_str().unwrap_or_default();
    Err(attributes.forbidden(&format!(
        "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOST} is allowed"
    )))
}
