//! RuntimeClass: a pod's class says what the pod costs beside its containers, and where it can run.

use super::{Attributes, Plugin, is_pod_create};
use crate::objects;
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::quota;
use naru_api::registry;
use serde_json::{Value, json};

pub(super) static PLUGIN: Plugin = Plugin::new("RuntimeClass").admit(admit).validate(validate);

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

/// The pod's class, if it names one.
fn class(state: &State, attributes: &Attributes<'_>, pod: &Value) -> Result<Option<Value>, Failure> {
    let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
    let classes = registry::find("node.k8s.io", "v1", "runtimeclasses");
    match classes.and_then(|classes| state.cache.get(classes, None, name)) {
        Some(found) => objects::tree(&found).map(Some),
        None => Err(attributes.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn same(overhead: &Value, other: &Value) -> bool {
    quota::parse(overhead) == quota::parse(other)
}

fn admit(state: &State, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Failure> {
    if !is_pod_create(attributes) {
        return Ok(());
    }
    let Some(class) = class(state, attributes, pod)? else { return Ok(()) };
    let fixed = &class["overhead"]["podFixed"];
    if class["overhead"].is_object() {
        if pod["spec"]["overhead"].is_object() && !same(fixed, &pod["spec"]["overhead"]) {
            return Err(attributes.forbidden(MISMATCH));
        }
        if fixed.is_object() {
            pod["spec"]["overhead"] = fixed.clone();
        }
    }
    schedule(&class["scheduling"], attributes, pod)
}

/// The nodes that the class runs on are those the pod runs on.
fn schedule(scheduling: &Value, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Failure> {
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let own = &pod["spec"]["nodeSelector"][key];
        if own.is_string() && own != value {
            let (value, own) = (value.as_str().unwrap_or_default(), own.as_str().unwrap_or_default());
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
            );
            return Err(attributes.forbidden(&why));
        }
        pod["spec"]["nodeSelector"][key] = value.clone();
    }
    let added = scheduling["tolerations"].as_array().cloned().unwrap_or_default();
    if added.is_empty() {
        return Ok(());
    }
    let own = &mut pod["spec"]["tolerations"];
    if !own.is_array() {
        *own = json!([]);
    }
    if let Some(own) = own.as_array_mut() {
        for toleration in added {
            if !own.contains(&toleration) {
                own.push(toleration);
            }
        }
    }
    Ok(())
}

fn validate(state: &State, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Failure> {
    if !is_pod_create(attributes) {
        return Ok(());
    }
    let overhead = &pod["spec"]["overhead"];
    let class = class(state, attributes, pod)?;
    match class.filter(|class| class["overhead"].is_object()) {
        Some(class) if !same(&class["overhead"]["podFixed"], overhead) => Err(attributes.forbidden(MISMATCH)),
        None if overhead.is_object() => {
            Err(attributes
                .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
        }
        _ => Ok(()),
    }
}
