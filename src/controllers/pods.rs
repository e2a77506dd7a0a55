//! What the controllers of pods share: pods made from templates, and when pods count.

use crate::objects::seconds;
use crate::ownership;
use naru_api::registry::Resource;
use naru_client::projections::{Meta, PodView, condition};
use serde_json::{Map, Value, json};

/// A pod from an owner's template, but for its name.
pub(crate) fn from_template(kind: &Resource, owner: &Meta, template: &Value) -> Value {
    let mut meta = Map::new();
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{field}")).filter(|value| !value.is_null()) {
            meta.insert(field.to_owned(), value.clone());
        }
    }
    meta.insert("generateName".to_owned(), format!("{}-", owner.name).into());
    meta.insert("namespace".to_owned(), owner.namespace.as_str().into());
    let owner = ownership::controller_reference(kind, owner);
    meta.insert("ownerReferences".to_owned(), json!([owner]));
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})
}

/// Seconds until a ready pod counts as available; none are left at 0.
pub(crate) fn until_available(pod: &PodView, min_ready_seconds: i32, now: i64) -> i64 {
    if min_ready_seconds == 0 {
        return 0;
    }
    let ready = condition(&pod.status.conditions, "Ready");
    ready.map_or(0, |ready| seconds(&ready.last_transition_time)) + i64::from(min_ready_seconds) - now
}

/// Whether a pod has been ready for long enough.
pub(crate) fn is_available(pod: &PodView, min_ready_seconds: i32, now: i64) -> bool {
    pod.is_ready() && until_available(pod, min_ready_seconds, now) <= 0
}
