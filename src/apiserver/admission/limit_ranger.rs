//! LimitRanger: defaults and bounds for what pods and claims of a namespace ask for.

use super::{Attributes, Operation, Plugin, in_namespace};
use crate::authz::aggregate;
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::core::limits;
use naru_api::meta;
use naru_api::registry;
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("LimitRanger").admit(admit).validate(validate);

/// New pods, resized ones, and claims; not what is on its way out.
fn is_bounded(attributes: &Attributes<'_>) -> bool {
    let pods = attributes.is_of(&registry::PODS);
    let claims = attributes.is_core("persistentvolumeclaims");
    let asked = match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => pods || claims,
        (Operation::Update, "") => claims,
        (Operation::Update, "resize") => pods,
        _ => false,
    };
    asked && attributes.old.is_none_or(|old| meta::deletion_timestamp(old).is_none())
}

fn admit(state: &State, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Failure> {
    if is_bounded(attributes) && attributes.is_of(&registry::PODS) {
        for range in in_namespace(state, &registry::LIMIT_RANGES, attributes.namespace)? {
            limits::set_defaults(&range, object);
        }
    }
    Ok(())
}

fn validate(state: &State, attributes: &Attributes<'_>, object: &Value) -> Result<(), Failure> {
    if !is_bounded(attributes) {
        return Ok(());
    }
    for range in in_namespace(state, &registry::LIMIT_RANGES, attributes.namespace)? {
        let wrong = match attributes.is_of(&registry::PODS) {
            true => limits::pod_violations(&range, object, attributes.old),
            false => limits::claim_violations(&range, object, attributes.old),
        };
        if let Some(why) = aggregate(&wrong) {
            return Err(attributes.forbidden(&why));
        }
    }
    Ok(())
}
