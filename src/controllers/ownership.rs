//! Owner references: made, adopted, released.

use naru_api::registry::Resource;
use naru_api::status::Status;
use naru_client::projections::{Meta, OwnerRef};
use naru_client::{Client, Error, IndexId, Informer, PatchKind, is_not_found};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

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

/// An owner that looks for its objects in a cache that is indexed by controller.
#[derive(Debug)]
pub(crate) struct Claimant<'a, P> {
    pub(crate) client: &'a Client,
    /// The objects' resource, cache and index.
    pub(crate) resource: &'static Resource,
    pub(crate) cache: &'a Informer<P>,
    pub(crate) by_controller: IndexId,
    pub(crate) meta: fn(&P) -> &Meta,
    /// The owner's resource.
    pub(crate) kind: &'static Resource,
    pub(crate) owner: &'a Meta,
}

impl<P: Send + Sync + 'static> Claimant<'_, P> {
    /// The owner's objects: those it manages, and orphans that it adopts. What it manages and does not
    /// match is released. An owner that is being deleted changes nothing.
    pub(crate) async fn claim(
        &self,
        matches: impl Fn(&P) -> bool + Send + Sync,
        adopts: impl Fn(&P) -> bool + Send + Sync,
    ) -> Result<Vec<Arc<P>>, Error> {
        let (uid, meta) = (&self.owner.uid, self.meta);
        let mut mine = Vec::new();
        for object in self.cache.indexed(self.by_controller, uid) {
            if matches(&object) {
                mine.push(object);
            } else if !self.owner.is_deleting() && !meta(&object).is_deleting() {
                release(self.client, self.resource, meta(&object), uid).await?;
            }
        }
        if self.owner.is_deleting() {
            return Ok(mine);
        }
        let orphans = format!("/{}", self.owner.namespace);
        let mut asked = false;
        for object in self.cache.indexed(self.by_controller, &orphans) {
            if meta(&object).is_deleting() || !matches(&object) || !adopts(&object) {
                continue;
            }
            if !asked {
                self.check_owner().await?;
                asked = true;
            }
            let reference = controller_reference(self.kind, self.owner);
            match adopt(self.client, self.resource, meta(&object), &reference).await {
                Ok(()) => mine.push(object),
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(mine)
    }

    /// Fails unless the server, not only the cache, knows an owner that is not on its way out: whoever deletes
    /// an owner and leaves its objects behind must not see them taken back, and then collected as garbage.
    /// Nothing else may be done for such an owner either: it would be given others in their place.
    async fn check_owner(&self) -> Result<(), Error> {
        let Meta { name, uid, .. } = self.owner;
        let live: Owner = self.client.get(self.kind, self.owner.namespace(), name).await?;
        if live.metadata.uid == *uid && !live.metadata.is_deleting() {
            return Ok(());
        }
        let message = "it has been deleted, and adopts nothing";
        Err(Error::Status(Box::new(Status::conflict(self.kind.group, self.kind.plural, name, message))))
    }
}

/// What is asked of an owner before something is adopted for it.
#[derive(Deserialize)]
struct Owner {
    metadata: Meta,
}

/// Makes `reference` the controller of an object that has none.
async fn adopt(client: &Client, resource: &Resource, object: &Meta, reference: &OwnerRef) -> Result<(), Error> {
    let patch = json!({"metadata": {"uid": object.uid, "ownerReferences": [reference]}});
    patch_owner(client, resource, object, &patch).await
}

/// Takes the owner's reference off an object that its selector does not match any more.
async fn release(client: &Client, resource: &Resource, object: &Meta, uid: &str) -> Result<(), Error> {
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
