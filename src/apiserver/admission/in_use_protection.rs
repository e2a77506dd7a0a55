//! StorageObjectInUseProtection: claims and volumes are kept by a finalizer while somebody uses them.

use super::{Attributes, Operation, Plugin};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::meta;
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("StorageObjectInUseProtection").admit(admit);

fn admit(_: &State, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Failure> {
    if attributes.operation != Operation::Create || !attributes.subresource.is_empty() {
        return Ok(());
    }
    let finalizer = if attributes.is_core("persistentvolumeclaims") {
        "kubernetes.io/pvc-protection"
    } else if attributes.is_core("persistentvolumes") {
        "kubernetes.io/pv-protection"
    } else {
        return Ok(());
    };
    let mut finalizers: Vec<String> = meta::finalizers(object).map(str::to_owned).collect();
    if !finalizers.iter().any(|present| present == finalizer) {
        finalizers.push(finalizer.to_owned());
        meta::set_finalizers(object, &finalizers);
    }
    Ok(())
}
