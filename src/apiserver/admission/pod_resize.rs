//! PodResizeValidator: a pod grows no larger than its node.

use super::{Attributes, Operation, Plugin};
use crate::objects;
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::meta;
use naru_api::quota;
use naru_api::registry;
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("PodResizeValidator").validate(validate);

fn validate(state: &State, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Failure> {
    let resized = attributes.operation == Operation::Update && attributes.subresource == "resize";
    if !resized || !attributes.is_of(&registry::PODS) {
        return Ok(());
    }
    let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let unchanged = attributes.old.is_some_and(|old| meta::generation(old) == meta::generation(pod));
    if name.is_empty() || unchanged {
        return Ok(());
    }
    let Some(node) = state.cache.get(&registry::NODES, None, name) else {
        return Err(attributes.forbidden(&format!("node {name:?} not found")));
    };
    let tree = objects::tree(&node)?;
    if let Some(why) = too_large(pod, &tree["status"]["allocatable"]) {
        return Err(attributes.forbidden(&why));
    }
    let system = node.label("kubernetes.io/os").unwrap_or_default();
    if system == "linux" {
        return Ok(());
    }
    Err(attributes.forbidden(&format!("pod resize is only supported on linux nodes, node {name:?} is {system:?}")))
}

fn too_large(pod: &Value, allocatable: &Value) -> Option<String> {
    let (wanted, have) = (quota::pod_requests(&pod["spec"]), quota::parse(allocatable));
    let amount = |amounts: &quota::Amounts, name: &str| {
        amounts.get(name).map_or(0, |amount| if name == "cpu" { amount.milli_value() } else { amount.value() })
    };
    let parts: Vec<String> = ["cpu", "memory"]
        .into_iter()
        .map(|name| (name, amount(&wanted, name), amount(&have, name)))
        .filter(|(_, wanted, have)| wanted > have)
        .map(|(name, wanted, have)| format!("{name}, requested: {wanted}, allocatable: {have}"))
        .collect();
    let found = !parts.is_empty();
    found.then(|| format!("Node didn't have enough allocatable resources: {}", parts.join("; ")))
}
