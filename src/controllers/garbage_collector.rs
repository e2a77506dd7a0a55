//! Deletes what its owners have left behind, and carries out foreground and orphaning deletions.
//!
//! The graph is one small informer for each resource. Before anything is deleted the live objects are
//! asked again, since a cache may be behind.

use crate::Context;
use crate::metrics::GARBAGE_ERRORS;
use naru_api::meta::Verb;
use naru_api::registry::{self, RESOURCES, Resource, Scope};
use naru_client::projections::OwnerRef;
use naru_client::{
    Change, Client, DeleteOptions, Error, EventRecorder, IndexId, Informer, ListParams, Next, ObjectKey,
    ObjectReference, PatchKind, Propagation, WorkQueue, is_not_found,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
const WORKERS: usize = 4;

/// The part of an object that ownership is about.
#[derive(Debug, Clone, Default, Deserialize)]
struct Owned {
    metadata: OwnedMeta,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OwnedMeta {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    owner_references: Vec<OwnerRef>,
    finalizers: Vec<String>,
    deletion_timestamp: Option<String>,
}

impl OwnedMeta {
    fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.namespace, &self.name)
    }

    fn holds(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|held| held == finalizer)
    }

    fn waits_for_dependents(&self) -> bool {
        self.deletion_timestamp.is_some() && self.holds(FOREGROUND)
    }
}

/// One object: its resource's place in the graph, and its key.
type Id = (usize, ObjectKey);

struct Kind {
    resource: &'static Resource,
    objects: Informer<Owned>,
    by_uid: IndexId,
    by_owner: IndexId,
}

struct Graph {
    client: Client,
    recorder: EventRecorder,
    kinds: Vec<Kind>,
    queue: WorkQueue<Id>,
}

pub(crate) fn start(ctx: &Context) {
    let kinds: Vec<Kind> = RESOURCES
        .iter()
        .filter(|resource| {
            resource.is_storage() && resource.verbs.contains(&Verb::Watch) && resource.verbs.contains(&Verb::Delete)
        })
        // Nobody owns events, and there are many.
        .filter(|resource| resource.kind != registry::EVENTS.kind)
        .map(|resource| {
            let objects: Informer<Owned> = ctx.informers.start(resource, ListParams::all());
            let by_uid = objects.index(|object: &Owned| vec![object.metadata.uid.clone()]);
            let by_owner = objects.index(|object: &Owned| {
                object.metadata.owner_references.iter().map(|owner| owner.uid.clone()).collect()
            });
            Kind { resource, objects, by_uid, by_owner }
        })
        .collect();
    let queue = WorkQueue::new();
    let recorder = ctx.recorder("garbage-collector-controller");
    let graph = Arc::new(Graph { client: ctx.client.clone(), recorder, kinds, queue: queue.clone() });
    let synced = {
        let graph = graph.clone();
        async move {
            for kind in &graph.kinds {
                kind.objects.synced().await;
            }
        }
    };
    for (index, kind) in graph.kinds.iter().enumerate() {
        // The queue's keys are enough: holding the graph here would keep it alive by itself.
        let weak = Arc::downgrade(&graph);
        kind.objects.subscribe(move |change| {
            if let Some(graph) = weak.upgrade() {
                graph.changed(index, change);
            }
        });
    }
    let metrics = ctx.config.metrics.clone();
    ctx.run(&queue, WORKERS, synced, move |id: Id| {
        let (graph, metrics) = (graph.clone(), metrics.clone());
        async move { graph.reconcile(id).await.inspect_err(|_| metrics.count(&GARBAGE_ERRORS, &[], 1)) }
    });
}

impl Graph {
    fn kind(&self, index: usize) -> &Kind {
        self.kinds.get(index).expect("ids are made from places in the list")
    }

    /// Everything that names `owner` as one, and may.
    fn dependents(&self, owner: &OwnedMeta) -> Vec<(Id, Arc<Owned>)> {
        let of = |(index, kind): (usize, &Kind)| {
            let found = kind.objects.indexed(kind.by_owner, &owner.uid);
            let near = found.into_iter().filter(|object| is_near(owner, &object.metadata));
            near.map(move |object| ((index, object.metadata.key()), object)).collect::<Vec<_>>()
        };
        self.kinds.iter().enumerate().flat_map(of).collect()
    }

    fn changed(&self, index: usize, change: &Change<Owned>) {
        let Some(new) = change.new.as_ref().map(|new| &new.metadata) else {
            // Its dependents may be garbage, and its owners may have waited for it.
            let gone = &change.latest().metadata;
            for (id, _) in self.dependents(gone) {
                self.queue.add(id);
            }
            return self.wake_owners(gone);
        };
        if new.deletion_timestamp.is_some() || !new.owner_references.is_empty() {
            self.queue.add((index, change.key.clone()));
        }
        let old = change.old.as_ref().map(|old| &old.metadata);
        if let Some(old) = old.filter(|old| old.owner_references != new.owner_references) {
            self.wake_owners(old);
        }
    }

    /// Owners that an object has blocked so far.
    fn wake_owners(&self, object: &OwnedMeta) {
        for owner in object.owner_references.iter().filter(|owner| owner.block_owner_deletion) {
            for (index, kind) in self.kinds.iter().enumerate() {
                for found in kind.objects.indexed(kind.by_uid, &owner.uid) {
                    self.queue.add((index, found.metadata.key()));
                }
            }
        }
    }

    async fn reconcile(&self, (index, key): Id) -> Result<Next, Error> {
        let kind = self.kind(index);
        let Some(object) = kind.objects.get_key(&key) else { return Ok(Next::Done) };
        let meta = &object.metadata;
        if meta.deletion_timestamp.is_some() {
            if meta.holds(ORPHAN) {
                return self.orphan(kind, &key, meta).await;
            }
            if meta.holds(FOREGROUND) {
                return self.finish_foreground(kind, &key, meta).await;
            }
            return Ok(Next::Done);
        }
        if meta.owner_references.is_empty() || self.all_owners_live(meta) {
            return Ok(Next::Done);
        }
        self.attempt(kind, &key).await
    }

    /// Whether the caches say that all owners are there and none of them waits. Nothing needs to be
    /// asked then, which is the usual case.
    fn all_owners_live(&self, meta: &OwnedMeta) -> bool {
        meta.owner_references.iter().all(|owner| {
            self.kinds
                .iter()
                .filter(|kind| kind.resource.kind == owner.kind)
                .flat_map(|kind| kind.objects.indexed(kind.by_uid, &owner.uid))
                .any(|found| is_near(&found.metadata, meta) && !found.metadata.waits_for_dependents())
        })
    }

    /// Asks for the live object and its live owners, and deletes it if none of them is left.
    async fn attempt(&self, kind: &Kind, key: &ObjectKey) -> Result<Next, Error> {
        let Some(live) = self.live(kind.resource, key).await? else { return Ok(Next::Done) };
        let meta = &live.metadata;
        if meta.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let (mut solid, mut dangling, mut waiting) = (false, Vec::new(), Vec::new());
        for owner in &meta.owner_references {
            match self.owner(kind.resource, meta, owner).await? {
                Owner::Solid => solid = true,
                Owner::Absent => dangling.push(owner.uid.as_str()),
                Owner::Waiting => waiting.push(owner.uid.as_str()),
            }
        }
        if solid {
            let drop: Vec<_> = dangling.into_iter().chain(waiting).collect();
            return self.release(kind.resource, key, meta, &drop).await;
        }
        if dangling.is_empty() && waiting.is_empty() {
            return Ok(Next::Done);
        }
        let dependents = self.dependents(meta);
        let waits = !waiting.is_empty() && !dependents.is_empty();
        let in_circle = waits && dependents.iter().any(|(_, dependent)| dependent.metadata.waits_for_dependents());
        if in_circle && meta.owner_references.iter().any(|owner| owner.block_owner_deletion) {
            // Owners that wait for each other would wait for ever: this one lets go. What follows is a new run's.
            let owners = meta.owner_references.iter().cloned();
            let owners: Vec<_> = owners.map(|owner| OwnerRef { block_owner_deletion: false, ..owner }).collect();
            return self.patch(kind.resource, key, meta, json!({"ownerReferences": owners})).await;
        }
        let propagation = if waits || meta.holds(FOREGROUND) {
            Propagation::Foreground
        } else if meta.holds(ORPHAN) {
            Propagation::Orphan
        } else {
            Propagation::Background
        };
        // As it was looked at: somebody may have given it an owner in the meantime.
        let options = DeleteOptions::default().uid(&meta.uid).resource_version(&meta.resource_version);
        let options = options.propagation(propagation);
        settle(self.client.delete(kind.resource, key.namespace(), &key.name, &options).await)
    }

    async fn live(&self, resource: &Resource, key: &ObjectKey) -> Result<Option<Owned>, Error> {
        match self.client.get::<Owned>(resource, key.namespace(), &key.name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What has become of an owner. An owner of a kind that is not known here counts as there:
    /// deleting on a guess cannot be taken back.
    async fn owner(&self, resource: &Resource, meta: &OwnedMeta, owner: &OwnerRef) -> Result<Owner, Error> {
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let Some(of) = registry::by_kind(group, version, &owner.kind) else { return Ok(Owner::Solid) };
        if of.scope == Scope::Namespaced && resource.scope == Scope::Cluster {
            // Such a reference can never be right; upstream leaves the object alone, too.
            self.tell_invalid(resource, meta, owner);
            return Ok(Owner::Solid);
        }
        let namespace = if of.scope == Scope::Namespaced { meta.namespace.as_str() } else { "" };
        Ok(match self.live(of, &ObjectKey::new(namespace, &owner.name)).await? {
            Some(live) if live.metadata.uid == owner.uid => {
                if live.metadata.waits_for_dependents() && owner.block_owner_deletion {
                    Owner::Waiting
                } else {
                    Owner::Solid
                }
            }
            _ => {
                let mut known = self.kinds.iter().flat_map(|kind| kind.objects.indexed(kind.by_uid, &owner.uid));
                if known.any(|found| !is_near(&found.metadata, meta)) {
                    self.tell_invalid(resource, meta, owner);
                }
                Owner::Absent
            }
        })
    }

    /// An owner must be in the object's own namespace, or in none.
    fn tell_invalid(&self, resource: &Resource, meta: &OwnedMeta, owner: &OwnerRef) {
        let about = ObjectReference {
            kind: resource.kind.to_owned(),
            api_version: resource.api_version(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            ..ObjectReference::default()
        };
        let OwnerRef { api_version, kind, name, uid, .. } = owner;
        let namespace = &meta.namespace;
        let message = format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in namespace {namespace:?}"
        );
        self.recorder.warning(&about, "OwnerRefInvalidNamespace", message);
    }

    /// Takes owners off an object that has others.
    async fn release(
        &self,
        resource: &Resource,
        key: &ObjectKey,
        meta: &OwnedMeta,
        owners: &[&str],
    ) -> Result<Next, Error> {
        if owners.is_empty() {
            return Ok(Next::Done);
        }
        let left: Vec<_> = meta.owner_references.iter().filter(|owner| !owners.contains(&owner.uid.as_str())).collect();
        self.patch(resource, key, meta, json!({"ownerReferences": left})).await
    }

    /// Frees the dependents of an object that is deleted without them, then the object.
    async fn orphan(&self, kind: &Kind, key: &ObjectKey, meta: &OwnedMeta) -> Result<Next, Error> {
        for ((index, dependent), object) in self.dependents(meta) {
            let resource = self.kind(index).resource;
            self.release(resource, &dependent, &object.metadata, &[&meta.uid]).await?;
        }
        self.remove_finalizer(kind.resource, key, meta, ORPHAN).await
    }

    /// Deletes the dependents of an object that waits for them, and lets it go once none blocks it.
    async fn finish_foreground(&self, kind: &Kind, key: &ObjectKey, meta: &OwnedMeta) -> Result<Next, Error> {
        let mut blocked = false;
        for (id, object) in self.dependents(meta) {
            blocked |= object
                .metadata
                .owner_references
                .iter()
                .any(|owner| owner.uid == meta.uid && owner.block_owner_deletion);
            if object.metadata.deletion_timestamp.is_none() {
                self.queue.add(id);
            }
        }
        if blocked {
            // The end of each dependent wakes this object again.
            return Ok(Next::Done);
        }
        self.remove_finalizer(kind.resource, key, meta, FOREGROUND).await
    }

    async fn remove_finalizer(
        &self,
        resource: &Resource,
        key: &ObjectKey,
        meta: &OwnedMeta,
        finalizer: &str,
    ) -> Result<Next, Error> {
        let left: Vec<_> = meta.finalizers.iter().filter(|held| *held != finalizer).collect();
        self.patch(resource, key, meta, json!({"finalizers": left})).await
    }

    /// A merge patch of metadata that holds only for the state it was made from.
    async fn patch(
        &self,
        resource: &Resource,
        key: &ObjectKey,
        of: &OwnedMeta,
        mut meta: Value,
    ) -> Result<Next, Error> {
        if let Value::Object(fields) = &mut meta {
            fields.insert("uid".into(), json!(of.uid));
            fields.insert("resourceVersion".into(), json!(of.resource_version));
        }
        let patch = json!({"metadata": meta});
        let done: Result<Value, Error> =
            self.client.patch(resource, key.namespace(), &key.name, None, PatchKind::Merge, &patch).await;
        settle(done.map(drop))
    }
}

/// Whether an object is where one in the namespace of `meta` may have its owner.
fn is_near(owner: &OwnedMeta, meta: &OwnedMeta) -> bool {
    owner.namespace.is_empty() || owner.namespace == meta.namespace
}

/// What is gone needs nothing. A conflict does: whatever it was about has to be looked at again.
fn settle(outcome: Result<(), Error>) -> Result<Next, Error> {
    match outcome {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(Next::Done),
    }
}

/// What has become of an owner.
enum Owner {
    Solid,
    Absent,
    /// It is being deleted and waits for this dependent.
    Waiting,
}
