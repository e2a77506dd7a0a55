//! NodeDeclaredFeatureValidator: a change of a bound pod that only some kubelets understand is refused unless the pod's
//! node declares that its kubelet does.

use super::{Attributes, Operation, Plugin};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::registry;
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("NodeDeclaredFeatureValidator").validate(validate);

/// Whether the change from one pod to another needs a feature.
type Needs = fn(&Value, &Value) -> bool;

/// Features, each with whether a change needs it.
const FEATURES: [(&str, Needs); 2] = [
    ("InPlacePodLevelResourcesVerticalScaling", |old, new| old["spec"]["resources"] != new["spec"]["resources"]),
    ("InPlacePodVerticalScalingInitContainers", init_container_resized),
];

fn validate(state: &State, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Failure> {
    let about = attributes.is_of(&registry::PODS) && matches!(attributes.subresource, "" | "resize");
    let Some(old) = attributes.old.filter(|_| about && attributes.operation == Operation::Update) else {
        return Ok(());
    };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let needed: Vec<&str> = FEATURES.iter().filter(|(_, needs)| needs(old, pod)).map(|(feature, _)| *feature).collect();
    if node.is_empty() || needed.is_empty() {
        return Ok(());
    }
    let Some(found) = state.cache.get(&registry::NODES, None, node) else {
        return Err(attributes.forbidden(&format!("node {node:?} not found")));
    };
    let found = crate::objects::tree(&found)?;
    let declared = found["status"]["declaredFeatures"].as_array().map(Vec::as_slice).unwrap_or_default();
    let missing: Vec<&str> = needed.into_iter().filter(|feature| !declared.iter().any(|one| one == feature)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    let why = format!("pod update requires features {missing} which are not available on node {node:?}");
    Err(attributes.forbidden(&why))
}

/// Whether the resources of an init container changed that does not run beside the others.
fn init_container_resized(old: &Value, new: &Value) -> bool {
    let containers = |pod: &Value| pod["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
    let (old, new) = (containers(old), containers(new));
    old.iter().zip(&new).any(|(old, new)| old["restartPolicy"] != "Always" && old["resources"] != new["resources"])
}
