//! OwnerReferencesPermissionEnforcement: who may not delete an object may not let its owner do it, and who may not
//! change an owner's finalizers may not block its deletion.

use super::{Attributes, Operation, Pending, Plugin};
use crate::authz;
use crate::pipeline::State;
use naru_api::registry::{self, Resource};
use serde_json::Value;

pub(super) static PLUGIN: Plugin = Plugin::new("OwnerReferencesPermissionEnforcement").validate_async(validate);

fn owners(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"].as_array().map_or(&[], Vec::as_slice)
}

fn validate<'a>(state: &'a State, attributes: &'a Attributes<'a>, object: &'a Value) -> Pending<'a> {
    Box::pin(async move {
        let written = matches!(attributes.operation, Operation::Create | Operation::Update);
        // The status of a pod cannot change its owners.
        let ignored = attributes.is_of(&registry::PODS) && attributes.subresource == "status";
        let before = attributes.old.map(owners).unwrap_or_default();
        if !written || ignored || owners(object) == before {
            return Ok(());
        }
        let subresource = attributes.subresource;
        if !may(state, attributes, "delete", attributes.resource, subresource, attributes.name).await {
            return Err(attributes.forbidden("cannot set an ownerRef on a resource you can't delete: , <nil>"));
        }
        let blocks = |owner: &Value| owner["blockOwnerDeletion"] == true;
        let blocked = |owner: &Value| before.iter().any(|old| old["uid"] == owner["uid"] && blocks(old));
        for owner in owners(object).iter().filter(|owner| blocks(owner) && !blocked(owner)) {
            let (group, version) = naru_api::meta::split_api_version(text(owner, "apiVersion"));
            let kind = text(owner, "kind");
            let Some(resource) = registry::by_kind(group, version, kind) else {
                let why = format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {} Kind {kind}",
                    text(owner, "apiVersion")
                );
                return Err(attributes.forbidden(&why));
            };
            if !may(state, attributes, "update", resource, "finalizers", text(owner, "name")).await {
                let why = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>";
                return Err(attributes.forbidden(why));
            }
        }
        Ok(())
    })
}

fn text<'a>(owner: &'a Value, field: &str) -> &'a str {
    owner[field].as_str().unwrap_or_default()
}

async fn may(
    state: &State,
    attributes: &Attributes<'_>,
    verb: &str,
    resource: &Resource,
    subresource: &str,
    name: &str,
) -> bool {
    let namespace = attributes.namespace.filter(|_| resource.is_namespaced()).unwrap_or_default();
    let asked = authz::Attributes {
        verb,
        is_resource: true,
        group: resource.group,
        resource: resource.plural,
        subresource,
        namespace,
        name,
        ..authz::Attributes::default()
    };
    state.authz.authorize(&state.cache, attributes.user, &asked).await.is_allowed()
}
