//! The watch cache: every stored object as its bytes and a small index, following the store.
//!
//! Architecture invariant: no object is kept as a tree. GET, LIST and WATCH splice bytes; all watchers of
//! an object share one encoding.

mod follow;
mod list;
mod object;
mod pruned;
mod resource;
#[cfg(test)]
mod tests;
mod token;
mod watch;

pub(crate) use list::{ListAt, Listing};
pub(crate) use object::{CachedObject, splice, stored, stored_of};
pub(crate) use token::Continue;
pub(crate) use watch::{Watch, WatchEnd, WatchFrom, WatchRequest};

use crate::storage::Storage;
use naru_api::registry::{self, Resource};
use naru_api::selector::{FieldSelector, LabelSelector};
use naru_base::Shutdown;
use naru_store::{ReadError, WatchError};
use resource::ResourceCache;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch as progress};

/// Where all objects are stored.
const ROOT: &str = "/registry/";
/// How long a request for a revision that has not been reached may wait for it.
const FRESHNESS_WAIT: Duration = Duration::from_secs(3);

/// The key of an object in the store.
pub(crate) fn storage_key(resource: &Resource, namespace: Option<&str>, name: &str) -> String {
    let mut key = prefix(resource, namespace);
    key.push_str(name);
    key
}

/// What the keys of a resource, or of its objects in one namespace, start with.
fn prefix(resource: &Resource, namespace: Option<&str>) -> String {
    let resource = resource.storage();
    let group = if resource.group.is_empty() { "core" } else { resource.group };
    match namespace {
        Some(namespace) => format!("{ROOT}{group}/{}/{namespace}/", resource.plural),
        None => format!("{ROOT}{group}/{}/", resource.plural),
    }
}

/// Why the cache could not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    /// The requested revision is no longer kept (410).
    #[error("too old resource version: {requested} ({oldest})")]
    Expired {
        /// What was asked for.
        requested: i64,
        /// The oldest that would do.
        oldest: i64,
    },
    /// The list's revision is no longer kept (410).
    #[error("The resourceVersion for the provided list is too old.")]
    ListExpired,
    /// The list that is being continued is no longer kept (410); `inconsistent` continues it in the present.
    #[error(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )]
    ContinueExpired {
        /// The token to go on with.
        inconsistent: String,
    },
    /// The requested revision has not been reached (504 with the cause `ResourceVersionTooLarge`).
    #[error("Too large resource version: {requested}, current: {current}")]
    TooLarge {
        /// What was asked for.
        requested: i64,
        /// The newest.
        current: i64,
        /// When to ask again; 0 says nothing of it.
        retry_seconds: i32,
    },
    /// The store has been closed: the server is going down.
    #[error("the server is shutting down")]
    Closed,
    /// Something in the list cannot be read.
    #[error("unable to transform key {key:?}: {why}")]
    Unreadable {
        /// Its storage key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The store failed.
    #[error("{0}")]
    Store(String),
}

impl From<ReadError> for CacheError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted { requested, oldest } => CacheError::Expired { requested, oldest },
            ReadError::Future { requested, newest } => {
                CacheError::TooLarge { requested, current: newest, retry_seconds: 0 }
            }
            ReadError::Io(text) => CacheError::Store(text),
        }
    }
}

impl From<WatchError> for CacheError {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Compacted { requested, oldest } => CacheError::Expired { requested, oldest },
            WatchError::Closed => CacheError::Closed,
            WatchError::Lagged | WatchError::Io(_) => CacheError::Store(error.to_string()),
        }
    }
}

/// A key, and the object that is there now; `None`: none is.
pub(crate) type Changed = (Arc<str>, Option<Arc<CachedObject>>);

/// Which objects of a resource a list or a watch is about.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// All namespaces when `None`.
    namespace: Option<Box<str>>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Everything, or everything in a namespace.
    #[cfg(test)]
    pub(crate) fn of(namespace: Option<&str>) -> Self {
        Self::new(namespace, LabelSelector::everything(), FieldSelector::everything())
    }

    /// What the selectors match, in all namespaces or one.
    pub(crate) fn new(namespace: Option<&str>, labels: LabelSelector, fields: FieldSelector) -> Self {
        Self { namespace: namespace.map(Into::into), labels, fields }
    }

    /// Whether labels or fields matter.
    fn is_filtered(&self) -> bool {
        !self.labels.is_everything() || !self.fields.is_everything()
    }

    /// What the keys of all that could match start with.
    fn prefix(&self, resource: &Resource) -> String {
        let mut prefix = prefix(resource, self.namespace.as_deref());
        if self.namespace.is_some() || !resource.is_namespaced() {
            prefix.push_str(self.fields.exact("metadata.name").unwrap_or_default());
        }
        prefix
    }

    fn matches(&self, object: &CachedObject) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| object.namespace() == Some(namespace))
            && (self.fields.is_everything() || self.fields.matches(|field| object.field(field)))
            && (self.labels.is_everything() || self.labels.matches(|label| object.label(label)))
    }
}

/// The cache of all resources. Cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    store: Storage,
    resources: Arc<HashMap<(&'static str, &'static str), ResourceCache>>,
    /// Asks for everything to be read again.
    reread: Arc<Notify>,
    /// The revision up to which every event has been applied.
    progress: progress::Receiver<i64>,
}

impl Cache {
    /// Reads everything from the store and follows it until the shutdown.
    pub(crate) async fn start(store: Storage, shutdown: &Shutdown) -> Result<Self, CacheError> {
        let stored = registry::RESOURCES.iter().filter(|resource| resource.is_storage());
        let resources: HashMap<_, _> = stored
            .map(|resource| ((resource.group, resource.plural), ResourceCache::new(resource, store.clone())))
            .collect();
        let resources = Arc::new(resources);
        let (sender, progress) = progress::channel(0);
        let reread = Arc::new(Notify::new());
        let follower =
            follow::Follower::load(store.raw().clone(), Arc::clone(&resources), sender, reread.clone()).await?;
        let shutdown = shutdown.clone();
        naru_base::spawn("watch-cache", async move {
            if let Some(error) = shutdown.guard(follower.run()).await {
                tracing::debug!(%error, "the watch cache has stopped following the store");
            }
        });
        Ok(Self { store, resources, reread, progress })
    }

    /// The resource's part. Every stored resource has one; versions of a resource share it.
    fn of(&self, resource: &Resource) -> &ResourceCache {
        let resource = resource.storage();
        self.resources.get(&(resource.group, resource.plural)).expect("only stored resources are asked for")
    }

    /// The revision up to which the cache has everything.
    pub(crate) fn revision(&self) -> i64 {
        *self.progress.borrow()
    }

    /// Completes once the cache shows everything up to `revision`. A writer waits for its own write.
    pub(crate) async fn wait_for(&self, revision: i64) -> Result<(), CacheError> {
        let mut progress = self.progress.clone();
        progress.wait_for(|now| *now >= revision).await.map(drop).map_err(|_| CacheError::Closed)
    }

    /// As `wait_for`, for revisions that come from clients and may never be reached.
    pub(crate) async fn wait_until_fresh(&self, revision: i64) -> Result<(), CacheError> {
        match tokio::time::timeout(FRESHNESS_WAIT, self.wait_for(revision)).await {
            Ok(result) => result,
            Err(_) => Err(CacheError::TooLarge { requested: revision, current: self.revision(), retry_seconds: 1 }),
        }
    }

    /// As `wait_until_fresh`, for a revision that must be there already: only this cache may be behind.
    async fn wait_until_reached(&self, revision: i64) -> Result<(), CacheError> {
        let current = self.store.revision();
        if revision > current {
            return Err(CacheError::TooLarge { requested: revision, current, retry_seconds: 0 });
        }
        self.wait_for(revision).await
    }

    /// Whether the resource's objects can be selected by this field.
    pub(crate) fn can_select_by(&self, resource: &Resource, field: &str) -> bool {
        match field {
            "metadata.name" => true,
            "metadata.namespace" => resource.is_namespaced() || !self.has_own_fields(resource),
            _ => self.of(resource).fields.contains(&field),
        }
    }

    /// Whether the kind has fields of its own that it can be selected by.
    pub(crate) fn has_own_fields(&self, resource: &Resource) -> bool {
        !self.of(resource).fields.is_empty()
    }

    /// The store's revision: what a read that has to be consistent must include.
    pub(crate) fn newest_revision(&self) -> i64 {
        self.store.revision()
    }

    /// One object.
    pub(crate) fn get(&self, resource: &Resource, namespace: Option<&str>, name: &str) -> Option<Arc<CachedObject>> {
        self.of(resource).get(&storage_key(resource, namespace, name))
    }

    /// How many objects a resource has.
    pub(crate) fn count(&self, resource: &Resource) -> usize {
        self.of(resource).read().objects.len()
    }

    /// Why an object that is stored cannot be read, if that is so.
    pub(crate) fn unreadable(&self, resource: &Resource, namespace: Option<&str>, name: &str) -> Option<String> {
        let state = self.of(resource).read();
        state.unreadable.get(storage_key(resource, namespace, name).as_str()).cloned()
    }

    /// Reads everything again if anything could not be read: there are other keys now.
    pub(crate) fn reread(&self) {
        if self.resources.values().any(|resource| !resource.read().unreadable.is_empty()) {
            self.reread.notify_one();
        }
    }

    /// All objects of a resource, in key order.
    pub(crate) fn objects(&self, resource: &Resource) -> Vec<Arc<CachedObject>> {
        self.of(resource).all()
    }

    /// The revision of the newest change to any object of the resource.
    pub(crate) fn last_change(&self, resource: &Resource) -> i64 {
        self.of(resource).read().last_change
    }

    /// The objects that have changed after `revision`, in order (`None`: it is gone), and the revision to go on from;
    /// `None` when the history does not reach back so far.
    pub(crate) fn changes_after(&self, resource: &Resource, revision: i64) -> Option<(i64, Vec<Changed>)> {
        let state = self.of(resource).read();
        if revision < state.floor {
            return None;
        }
        let present = |change: &Arc<resource::Change>| {
            let gone = change.kind == resource::ChangeKind::Deleted;
            (change.object.key().clone(), (!gone).then(|| change.object.clone()))
        };
        Some((state.last_change.max(revision), state.changes_after(revision).map(present).collect()))
    }

    /// A page of objects; `limit` 0 means all.
    pub(crate) async fn list(
        &self,
        resource: &'static Resource,
        selection: &Selection,
        limit: usize,
        at: ListAt,
    ) -> Result<Listing, CacheError> {
        list::list(self, resource, selection, limit, at).await
    }

    /// Starts a watch.
    pub(crate) async fn watch(&self, resource: &'static Resource, request: WatchRequest) -> Result<Watch, CacheError> {
        watch::start(self, resource, request).await
    }
}
