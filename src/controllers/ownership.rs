//! Owner references: made, adopted, released.

use naru_api::registry::Resource;
use naru_client::projections::{Meta, OwnerRef};
use naru_client::{Client, Error, PatchKind, is_not_found};
use serde_json::{Value, json};

/// The reference by which `owner` manages an object.
pub(crate) fn controller_reference(resource: &Resource, owner: &Meta) -> OwnerRef {
    OwnerRef {
        api_version: resource.api_version(),
        kind: resource.kind.to_owned(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
        controller: true,
        block_owner_deletion: true,
    }
}

/// Makes `reference` the controller of an object that has none.
pub(crate) async fn adopt(
    client: &Client,
    resource: &Resource,
    object: &Meta,
    reference: &OwnerRef,
) -> Result<(), Error> {
    let patch = json!({"metadata": {"uid": object.uid, "ownerReferences": [reference]}});
    patch_owner(client, resource, object, &patch).await
}

/// Takes the owner's reference off an object that its selector does not match any more.
pub(crate) async fn release(client: &Client, resource: &Resource, object: &Meta, uid: &str) -> Result<(), Error> {
    let patch = json!({"metadata": {
        "uid": object.uid,
        "ownerReferences": [{"$patch": "delete", "uid": uid}],
    }});
    match patch_owner(client, resource, object, &patch).await {
        // Gone, or no longer the same object: nothing is left to be released.
        Err(error) if is_not_found(&error) || naru_client::is_invalid(&error) => Ok(()),
        other => other,
    }
}

async fn patch_owner(client: &Client, resource: &Resource, object: &Meta, patch: &Value) -> Result<(), Error> {
    let (namespace, kind) = (object.namespace(), PatchKind::Strategic);
    client.patch::<Value>(resource, namespace, &object.name, None, kind, patch).await.map(drop)
}
