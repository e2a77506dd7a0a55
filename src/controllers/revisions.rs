//! ControllerRevisions: the templates that StatefulSets and DaemonSets have had, to go back to.

use crate::ownership::{Claimant, controller_reference};
use naru_api::registry::{self, Resource};
use naru_client::projections::{Meta, RevisionView, Selector, TemplateDigest, TemplateView};
use naru_client::{
    Client, DeleteOptions, Error, IndexId, Informer, Informers, ObjectKey, PatchKind, WorkQueue, is_already_exists,
    is_not_found,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Revisions kept, if unsaid.
const HISTORY_LIMIT: i32 = 10;
/// Names tried before a collision is left to the next run.
const ATTEMPTS: i32 = 8;
/// A revision's name is the owner's with a hash, within the longest name.
const LONGEST_OWNER: usize = 223;

/// The history of all owners of one kind.
#[derive(Debug, Clone)]
pub(crate) struct History {
    client: Client,
    cache: Informer<RevisionView>,
    by_controller: IndexId,
    kind: &'static Resource,
    /// The label that holds a revision's hash.
    hash_label: &'static str,
}

/// What an owner's new revision is made of.
#[derive(Debug, Clone, Copy)]
struct Snapshot<'a> {
    owner: &'a Meta,
    labels: &'a BTreeMap<String, String>,
    template: &'a Value,
    revision: i64,
}

impl History {
    pub(crate) fn new(
        client: &Client,
        informers: &Informers,
        kind: &'static Resource,
        hash_label: &'static str,
    ) -> Self {
        let (cache, by_controller) = informers.revisions_by_controller();
        Self { client: client.clone(), cache, by_controller, kind, hash_label }
    }

    pub(crate) async fn synced(&self) {
        self.cache.synced().await;
    }

    /// Queues the owner of each revision that changes: what was decided without having seen it may be wrong.
    pub(crate) fn wake(&self, queue: &WorkQueue<ObjectKey>) {
        let (queue, kind) = (queue.clone(), self.kind);
        self.cache.subscribe(move |change| {
            let meta = &change.latest().metadata;
            if let Some(owner) = meta.controller().filter(|owner| owner.kind == kind.kind) {
                queue.add(ObjectKey::new(&meta.namespace, &owner.name));
            }
        });
    }

    /// An owner's revisions, oldest first. Orphans that its selector matches are adopted.
    pub(crate) async fn of(&self, owner: &Meta, selector: &Selector) -> Result<Vec<Arc<RevisionView>>, Error> {
        let claimant = Claimant {
            client: &self.client,
            resource: &registry::CONTROLLER_REVISIONS,
            cache: &self.cache,
            by_controller: self.by_controller,
            meta: |revision| &revision.metadata,
            kind: self.kind,
            owner,
        };
        let matches = |revision: &RevisionView| selector.matches(&revision.metadata.labels);
        let mut mine = claimant.claim(matches, |_| true).await?;
        mine.sort_by_key(|one| (one.revision, one.metadata.creation_timestamp.clone(), one.metadata.name.clone()));
        Ok(mine)
    }

    /// The revision of an owner's present template, and the newest one. A template that is new is kept;
    /// one that comes back becomes the newest again. Nothing if it would have to be written for an owner
    /// that goes.
    pub(crate) async fn newest(
        &self,
        owner: &Meta,
        template: &TemplateView,
        history: &[Arc<RevisionView>],
        collisions: &mut i32,
    ) -> Result<Option<Arc<RevisionView>>, Error> {
        let next = history.last().map_or(1, |last| last.revision + 1);
        match history.iter().rposition(|known| known.data.digest == template.digest) {
            Some(index) if index + 1 == history.len() => Ok(Some(history[index].clone())),
            _ if owner.is_deleting() => Ok(None),
            Some(index) => self.renumber(&history[index], next).await.map(Some),
            None => {
                let full: Value = self.client.get(self.kind, owner.namespace(), &owner.name).await?;
                let what =
                    Snapshot { owner, labels: &template.labels, template: &full["spec"]["template"], revision: next };
                self.keep(what, collisions).await.map(Some)
            }
        }
    }

    /// Keeps a template under a name that is made from it. A name that something else has taken counts
    /// as a collision, and leads to another name.
    async fn keep(&self, what: Snapshot<'_>, collisions: &mut i32) -> Result<Arc<RevisionView>, Error> {
        let digest = TemplateDigest::of(what.template);
        let resource = &registry::CONTROLLER_REVISIONS;
        for attempt in 0.. {
            let object = self.object(what, &digest.name(*collisions));
            let created = self.client.create(resource, what.owner.namespace(), &object).await;
            match created {
                Ok(revision) => return Ok(Arc::new(revision)),
                Err(error) if is_already_exists(&error) => {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    let taken: RevisionView = self.client.get(resource, what.owner.namespace(), name).await?;
                    let mine = taken.metadata.controller().is_some_and(|owner| owner.uid == what.owner.uid);
                    if mine && taken.data.digest == digest {
                        return Ok(Arc::new(taken));
                    }
                    if attempt == ATTEMPTS {
                        return Err(error);
                    }
                    *collisions += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Connection("no free name for a revision".to_owned()))
    }

    fn object(&self, what: Snapshot<'_>, hash: &str) -> Value {
        let mut labels = what.labels.clone();
        labels.insert(self.hash_label.to_owned(), hash.to_owned());
        let mut template = what.template.clone();
        template["$patch"] = "replace".into();
        let mut name = what.owner.name.clone();
        name.truncate(LONGEST_OWNER);
        json!({
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": format!("{name}-{hash}"),
                "namespace": what.owner.namespace,
                "labels": labels,
                "annotations": what.owner.annotations,
                "ownerReferences": [controller_reference(self.kind, what.owner)],
            },
            "data": {"spec": {"template": template}},
            "revision": what.revision,
        })
    }

    /// Gives a revision that came back a new number.
    async fn renumber(&self, revision: &RevisionView, number: i64) -> Result<Arc<RevisionView>, Error> {
        let meta = &revision.metadata;
        let patch = json!({"metadata": {"resourceVersion": meta.resource_version}, "revision": number});
        let resource = &registry::CONTROLLER_REVISIONS;
        let kind = PatchKind::Merge;
        self.client.patch(resource, meta.namespace(), &meta.name, None, kind, &patch).await.map(Arc::new)
    }

    /// The template that a revision keeps.
    pub(crate) async fn template(&self, revision: &Meta) -> Result<Value, Error> {
        let resource = &registry::CONTROLLER_REVISIONS;
        let mut full: Value = self.client.get(resource, revision.namespace(), &revision.name).await?;
        let mut template = full.pointer_mut("/data/spec/template").map(Value::take).unwrap_or_default();
        if let Some(template) = template.as_object_mut() {
            template.remove("$patch");
        }
        Ok(template)
    }

    /// Deletes the oldest revisions that are not in use, at most `surplus`.
    pub(crate) async fn trim(
        &self,
        oldest_first: &[Arc<RevisionView>],
        surplus: usize,
        in_use: impl Fn(&RevisionView) -> bool,
    ) -> Result<(), Error> {
        for revision in oldest_first.iter().filter(|revision| !in_use(revision)).take(surplus) {
            let meta = &revision.metadata;
            let options = DeleteOptions::default().uid(&meta.uid);
            let resource = &registry::CONTROLLER_REVISIONS;
            match self.client.delete(resource, meta.namespace(), &meta.name, &options).await {
                Err(error) if !is_not_found(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// How many of `count` revisions are beyond the limit.
pub(crate) fn surplus(count: usize, limit: Option<i32>) -> usize {
    // A negative limit keeps all.
    usize::try_from(limit.unwrap_or(HISTORY_LIMIT)).map_or(0, |limit| count.saturating_sub(limit))
}
