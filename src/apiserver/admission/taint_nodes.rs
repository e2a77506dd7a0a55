//! TaintNodesByCondition: a new node takes no pods until it has been seen to be ready.

use super::{Attributes, Operation, Plugin};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::registry;
use serde_json::{Value, json};

pub(super) static PLUGIN: Plugin = Plugin::new("TaintNodesByCondition").admit(admit);

const NOT_READY: &str = "node.kubernetes.io/not-ready";

fn admit(_: &State, attributes: &Attributes<'_>, node: &mut Value) -> Result<(), Failure> {
    let new = attributes.operation == Operation::Create && attributes.subresource.is_empty();
    if !new || !attributes.is_of(&registry::NODES) {
        return Ok(());
    }
    let taints = &mut node["spec"]["taints"];
    if !taints.is_array() {
        *taints = json!([]);
    }
    let Some(taints) = taints.as_array_mut() else { return Ok(()) };
    if !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule") {
        taints.push(json!({ "key": NOT_READY, "effect": "NoSchedule" }));
    }
    Ok(())
}
