//! `/binding`: a scheduler puts a pod on a node.

use super::Call;
use super::body::{self, Expected};
use super::update::{Change, Part, modify};
use crate::clock;
use crate::response::{Failure, Outcome, Reply};
use naru_api::facts;
use naru_api::meta;
use naru_api::registry;
use naru_api::status::{FieldErrors, Status};
use serde_json::{Value, json};

const BINDING_TYPE: &str = "io.k8s.api.core.v1.Binding";

/// POST of `/binding`, or of a Binding by itself, which names its pod.
pub(super) async fn bind(call: &Call) -> Outcome {
    let ty = facts::type_by_name(BINDING_TYPE).ok_or_else(|| Box::new(Status::internal("no type Binding")))?;
    let expected = Expected { group: "", version: "v1", kind: "Binding", ty };
    let binding = body::decode(call, expected)?.value;
    let name = match call.info.name.as_str() {
        "" => meta::name(&binding),
        name => name,
    };
    if name != meta::name(&binding) {
        return Err(Box::new(Status::bad_request("name in URL does not match name in Binding object")));
    }
    let target = &binding["target"];
    let node = target["name"].as_str().unwrap_or_default().to_owned();
    let mut errors = FieldErrors::default();
    if !matches!(target["kind"].as_str(), None | Some("" | "Node")) {
        errors.not_supported("target.kind", target["kind"].as_str().unwrap_or_default(), &["Node", "<empty>"]);
    }
    if node.is_empty() {
        errors.required("target.name", "");
    }
    if !errors.is_empty() {
        return Err(Box::new(Status::invalid("", "Binding", name, errors)));
    }
    let make = |pod: &Value| assign(pod, &binding, &node);
    let change = Change {
        resource: &registry::PODS,
        namespace: call.namespace(&registry::PODS),
        name,
        part: Part::Whole,
        subresource: "binding",
        dry_run: call.dry_run()?,
        make: &make,
    };
    modify(call, change).await?;
    Ok(Reply::json(201, r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","code":201}"#))
}

/// The pod on its node.
fn assign(pod: &Value, binding: &Value, node: &str) -> Result<Value, Failure> {
    let name = meta::name(pod);
    let conflict = |why: &str| Box::new(Status::conflict("", "pods/binding", name, why));
    let uid = meta::uid(binding);
    if !uid.is_empty() && uid != meta::uid(pod) {
        return Err(conflict(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(pod)
        )));
    }
    if meta::deletion_timestamp(pod).is_some() {
        return Err(conflict(&format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let present = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !present.is_empty() {
        return Err(conflict(&format!("pod {name} is already assigned to node {present:?}")));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(conflict(&format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    let mut pod = pod.clone();
    // The scheduler read an older state, and may: only the node is decided here.
    meta::set(&mut pod, "resourceVersion", "");
    pod["spec"]["nodeName"] = node.into();
    for (key, value) in meta::annotations(binding) {
        pod["metadata"]["annotations"][key] = value.into();
    }
    mark_scheduled(&mut pod);
    if let Some(status) = pod["status"].as_object_mut() {
        // Room was made for it; it is there now.
        status.remove("nominatedNodeName");
    }
    Ok(pod)
}

fn mark_scheduled(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastTransitionTime": clock::now_rfc3339(),
    });
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
        Some(present) if present["status"] == "True" => {}
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_placed_waits_for_no_node() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {}, "status": {"nominatedNodeName": "m"}});
        let placed = assign(&pod, &json!({}), "n").unwrap_or_default();
        assert_eq!((&placed["spec"]["nodeName"], &placed["status"]["nominatedNodeName"]), (&json!("n"), &Value::Null));
    }
}
