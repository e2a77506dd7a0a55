//! DefaultStorageClass: a claim that names no class gets the default one.

use super::{Attributes, Operation, Plugin, newest_default};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::meta;
use naru_api::registry;
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("DefaultStorageClass").admit(admit);

const IN_CLAIM: &str = "volume.beta.kubernetes.io/storage-class";
const IS_DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

fn admit(state: &State, attributes: &Attributes<'_>, claim: &mut Value) -> Result<(), Failure> {
    let new = attributes.operation == Operation::Create && attributes.subresource.is_empty();
    if !new || !attributes.is_core("persistentvolumeclaims") {
        return Ok(());
    }
    // The empty name is a choice too.
    if claim["spec"]["storageClassName"].is_string() || meta::annotation(claim, IN_CLAIM).is_some() {
        return Ok(());
    }
    let classes = registry::find("storage.k8s.io", "v1", "storageclasses");
    if let Some(name) = classes.and_then(|classes| newest_default(state, classes, &IS_DEFAULT)) {
        claim["spec"]["storageClassName"] = name.into();
    }
    Ok(())
}
