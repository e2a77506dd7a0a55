//! Priority: a pod's priority is the number of its class.

use super::{Attributes, Operation, Plugin, is_pod_create, is_pod_update};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::registry;
use naru_api::status::Status;
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("Priority").admit(admit).validate(validate);

fn admit(state: &State, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Failure> {
    if let Some(old) = attributes.old.filter(|_| is_pod_update(attributes)) {
        // What was computed stays, though a manifest that is written again does not have it.
        for field in ["priority", "preemptionPolicy"] {
            if pod["spec"][field].is_null() && !old["spec"][field].is_null() && pod["spec"].is_object() {
                pod["spec"][field] = old["spec"][field].clone();
            }
        }
        return Ok(());
    }
    if !is_pod_create(attributes) || !pod["spec"].is_object() {
        return Ok(());
    }
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let (class, priority, policy) = if class.is_empty() {
        default_class(state)
    } else {
        let found = state.cache.get(&registry::PRIORITY_CLASSES, None, &class).ok_or_else(|| {
            let why = format!("no PriorityClass with name {class} was found");
            Box::new(Status::forbidden("", "pods", attributes.name, &why))
        })?;
        let found = crate::objects::tree(&found)?;
        (class, found["value"].as_i64().unwrap_or(0), policy_of(&found))
    };
    if let Some(given) = pod["spec"]["priority"].as_i64()
        && given != priority
    {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        );
        return Err(Box::new(Status::forbidden("", "pods", attributes.name, &why)));
    }
    if let Some(given) = pod["spec"]["preemptionPolicy"].as_str().filter(|given| *given != policy) {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(Box::new(Status::forbidden("", "pods", attributes.name, &why)));
    }
    let spec = &mut pod["spec"];
    if !class.is_empty() {
        spec["priorityClassName"] = class.into();
    }
    spec["priority"] = priority.into();
    spec["preemptionPolicy"] = policy.into();
    Ok(())
}

/// No second class may be the default of all pods.
fn validate(state: &State, attributes: &Attributes<'_>, class: &Value) -> Result<(), Failure> {
    let written = matches!(attributes.operation, Operation::Create | Operation::Update);
    let about = attributes.is_of(&registry::PRIORITY_CLASSES) && attributes.subresource.is_empty();
    if !written || !about || class["globalDefault"] != true {
        return Ok(());
    }
    let (present, _, _) = default_class(state);
    if present.is_empty() || (attributes.operation == Operation::Update && present == attributes.name) {
        return Ok(());
    }
    let why = format!("PriorityClass {present} is already marked as default. Only one default can exist");
    Err(attributes.forbidden(&why))
}

fn policy_of(class: &Value) -> String {
    class["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority").to_owned()
}

/// The class marked as the default of all pods, if there is one.
fn default_class(state: &State) -> (String, i64, String) {
    state
        .cache
        .objects(&registry::PRIORITY_CLASSES)
        .iter()
        .filter_map(|class| serde_json::from_slice::<Value>(&class.json()).ok())
        .filter(|class| class["globalDefault"] == true)
        .map(|class| {
            let name = class["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            (name, class["value"].as_i64().unwrap_or(0), policy_of(&class))
        })
        .min_by_key(|(_, value, _)| *value)
        .unwrap_or_else(|| (String::new(), 0, "PreemptLowerPriority".to_owned()))
}
