//! DefaultIngressClass: an Ingress that names no class gets the default one.

use super::{Attributes, Operation, Plugin, newest_default};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::meta;
use naru_api::registry;
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("DefaultIngressClass").admit(admit);

fn admit(state: &State, attributes: &Attributes<'_>, ingress: &mut Value) -> Result<(), Failure> {
    let new = attributes.operation == Operation::Create && attributes.subresource.is_empty();
    if !new || !attributes.is_of(&registry::INGRESSES) {
        return Ok(());
    }
    let named = ingress["spec"]["ingressClassName"].is_string();
    if named || meta::annotation(ingress, "kubernetes.io/ingress.class").is_some() {
        return Ok(());
    }
    let is_default = ["ingressclass.kubernetes.io/is-default-class"];
    if let Some(name) = newest_default(state, &registry::INGRESS_CLASSES, &is_default) {
        ingress["spec"]["ingressClassName"] = name.into();
    }
    Ok(())
}
