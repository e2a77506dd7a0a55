//! PersistentVolumeClaimResize: only bound claims of a class that allows it may grow.

use super::{Attributes, Operation, Plugin};
use crate::objects;
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::meta;
use naru_api::quota;
use naru_api::registry;
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("PersistentVolumeClaimResize").validate(validate);

fn validate(state: &State, attributes: &Attributes<'_>, claim: &Value) -> Result<(), Failure> {
    let updated = attributes.operation == Operation::Update && attributes.subresource.is_empty();
    let Some(old) = attributes.old.filter(|_| updated && attributes.is_core("persistentvolumeclaims")) else {
        return Ok(());
    };
    let size = |claim: &Value| quota::parse(&claim["spec"]["resources"]["requests"]).get("storage").copied();
    if size(claim) <= size(old) {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(attributes.forbidden("Only bound persistent volume claims can be expanded"));
    }
    if !may_grow(state, claim, old)? {
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        return Err(attributes.forbidden(why));
    }
    Ok(())
}

fn class(claim: &Value) -> &str {
    let annotated = meta::annotation(claim, "volume.beta.kubernetes.io/storage-class");
    annotated.or_else(|| claim["spec"]["storageClassName"].as_str()).unwrap_or_default()
}

fn may_grow(state: &State, claim: &Value, old: &Value) -> Result<bool, Failure> {
    let name = class(claim);
    if name.is_empty() || name != class(old) {
        return Ok(false);
    }
    let classes = registry::find("storage.k8s.io", "v1", "storageclasses");
    let Some(found) = classes.and_then(|classes| state.cache.get(classes, None, name)) else { return Ok(false) };
    Ok(objects::tree(&found)?["allowVolumeExpansion"] == true)
}
