//! NamespaceLifecycle: nothing is written in namespaces that do not exist, nothing created in those on their way out,
//! and the first namespaces stay.

use super::{Attributes, Operation, Plugin};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::meta;
use naru_api::registry;
use naru_api::status::{Status, StatusCause, StatusDetails};
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("NamespaceLifecycle").admit(admit);

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

fn admit(state: &State, attributes: &Attributes<'_>, _: &mut Value) -> Result<(), Failure> {
    let Attributes { operation, resource, name, .. } = *attributes;
    if operation == Operation::Delete {
        if resource.plural == "namespaces" && IMMORTAL.contains(&name) {
            return Err(Box::new(Status::forbidden("", "namespaces", name, "this namespace may not be deleted")));
        }
        return Ok(());
    }
    let Some(namespace) = attributes.namespace else { return Ok(()) };
    if !matches!(operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let Some(found) = state.cache.get(&registry::NAMESPACES, None, namespace) else {
        return Err(Box::new(Status::not_found("", "namespaces", namespace)));
    };
    if operation == Operation::Update {
        return Ok(());
    }
    let found = crate::objects::tree(&found)?;
    if meta::deletion_timestamp(&found).is_none() && found["status"]["phase"] != "Terminating" {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = Status::forbidden(resource.group, resource.plural, name, &why);
    let details = status.details.get_or_insert_with(StatusDetails::default);
    details.causes.push(StatusCause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    });
    Err(Box::new(status))
}
