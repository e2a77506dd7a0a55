//! PodTopologyLabels: a pod that gets its node gets the node's zone and region as labels.

use super::{Attributes, Operation, Plugin};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::meta;
use naru_api::registry;
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("PodTopologyLabels").admit(admit);

const LABELS: [&str; 2] = ["topology.k8s.io/zone", "topology.k8s.io/region"];

fn admit(state: &State, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Failure> {
    let new = attributes.operation == Operation::Create && attributes.subresource.is_empty();
    if !attributes.is_of(&registry::PODS) || !(new || attributes.subresource == "binding") {
        return Ok(());
    }
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let Some(node) = state.cache.get(&registry::NODES, None, node).filter(|_| !node.is_empty()) else { return Ok(()) };
    for (label, value) in LABELS.into_iter().filter_map(|label| Some((label, node.label(label)?))) {
        if meta::label(pod, label).is_none() {
            pod["metadata"]["labels"][label] = value.into();
        }
    }
    Ok(())
}
