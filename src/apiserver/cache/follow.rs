//! Keeps the cache in step with the store.

use super::object::CachedObject;
use super::resource::{Filled, Interner, ResourceCache};
use super::{CacheError, ROOT, progress};
use naru_store::{Event, Record, Store, Watch, WatchError};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Events that may wait between the store's writer and this task. Writers wait for the cache, which
/// bounds them by far less; one that lags watches again from where it stood.
const CAPACITY: usize = 4096;
/// Records read at a time.
const PAGE: usize = 1000;
/// Pages indexed at a time: reading is the smaller part of the work, so that two keep a second core busy.
const INDEXED_AT_ONCE: usize = 2;

type Resources = Arc<HashMap<(&'static str, &'static str), ResourceCache>>;

/// The one task that changes the cache.
pub(super) struct Follower {
    store: Store,
    resources: Resources,
    progress: progress::Sender<i64>,
    watch: Watch,
    reread: Arc<Notify>,
}

impl Follower {
    /// Fills the cache and starts to watch from there.
    pub(super) async fn load(
        store: Store,
        resources: Resources,
        progress: progress::Sender<i64>,
        reread: Arc<Notify>,
    ) -> Result<Self, CacheError> {
        let revision = fill(&store, &resources).await?;
        let watch = store.watch("", revision, CAPACITY)?;
        progress.send_replace(revision);
        Ok(Self { store, resources, progress, watch, reread })
    }

    /// Applies events until the store is closed.
    pub(super) async fn run(mut self) -> CacheError {
        loop {
            let next = tokio::select! {
                next = self.watch.next() => next,
                () = self.reread.notified() => {
                    if let Err(error) = self.refill().await {
                        return error;
                    }
                    continue;
                }
            };
            match next {
                Ok(event) => {
                    let mut revision = event.revision;
                    self.apply(event);
                    // What was committed together is announced together.
                    while let Some(event) = self.watch.try_next() {
                        revision = event.revision;
                        self.apply(event);
                    }
                    self.progress.send_replace(revision);
                }
                Err(WatchError::Closed) => return CacheError::Closed,
                Err(error) => {
                    tracing::warn!(%error, "the watch cache lost its place in the store, and looks for it");
                    if let Err(error) = self.recover().await {
                        return error;
                    }
                }
            }
        }
    }

    async fn recover(&mut self) -> Result<(), CacheError> {
        let revision = *self.progress.borrow();
        match self.store.watch("", revision, CAPACITY) {
            Ok(watch) => self.watch = watch,
            Err(_) => self.refill().await?,
        }
        Ok(())
    }

    async fn refill(&mut self) -> Result<(), CacheError> {
        let revision = fill(&self.store, &self.resources).await?;
        self.watch = self.store.watch("", revision, CAPACITY)?;
        self.progress.send_replace(revision);
        Ok(())
    }

    fn apply(&self, event: Event) {
        if let Some(resource) = resource_of(&self.resources, &event.key) {
            resource.apply(event);
        }
    }
}

/// The resource that a key belongs to: `/registry/GROUP/PLURAL/...`.
fn resource_of<'a>(
    resources: &'a HashMap<(&'static str, &'static str), ResourceCache>,
    key: &str,
) -> Option<&'a ResourceCache> {
    let mut parts = key.strip_prefix(ROOT)?.split('/');
    let (group, plural) = (parts.next()?, parts.next()?);
    let group = if group == "core" { "" } else { group };
    // A lookup in the map would tie the key's lifetime to the map's.
    resources.iter().find(|((g, p), _)| *g == group && *p == plural).map(|(_, resource)| resource)
}

/// Reads everything, as of one revision, which is returned. Pages are indexed while the next is read.
async fn fill(store: &Store, resources: &Resources) -> Result<i64, CacheError> {
    let mut filled: HashMap<Name, Filled> = HashMap::new();
    let mut after: Option<Arc<str>> = None;
    let mut revision = None;
    let mut indexing: VecDeque<JoinHandle<Indexed>> = VecDeque::new();
    loop {
        let page = store.list(ROOT, after.as_deref(), PAGE, revision).await?;
        revision = Some(page.revision);
        after = page.records.last().map(|record| Arc::clone(&record.key));
        let (resources, records) = (Arc::clone(resources), page.records);
        let next = tokio::task::spawn_blocking(move || index(&resources, records));
        indexing.push_back(next);
        if indexing.len() > INDEXED_AT_ONCE
            && let Some(done) = indexing.pop_front()
        {
            collect(done, &mut filled).await?;
        }
        if !page.more {
            break;
        }
    }
    for done in indexing {
        collect(done, &mut filled).await?;
    }
    let revision = revision.unwrap_or_default();
    for (name, resource) in resources.iter() {
        resource.fill(filled.remove(name).unwrap_or_default(), revision);
    }
    Ok(revision)
}

type Name = (&'static str, &'static str);
/// Objects, and why some could not be read.
type Indexed = Vec<(Name, Arc<str>, Result<Arc<CachedObject>, String>)>;

fn index(resources: &Resources, records: Vec<Record>) -> Indexed {
    // Strings are shared within a page; across pages they may be there twice.
    let mut interner = Interner::default();
    let indexed = records.into_iter().filter_map(|record| {
        let cache = resource_of(resources, &record.key)?;
        let key = Arc::clone(&record.key);
        let object = cache.indexed_with(&mut interner, record.key, &record.value, record.mod_revision);
        Some(((cache.resource.group, cache.resource.plural), key, object.map(|(object, _)| object)))
    });
    indexed.collect()
}

async fn collect(done: JoinHandle<Indexed>, filled: &mut HashMap<Name, Filled>) -> Result<(), CacheError> {
    for (name, key, object) in done.await.map_err(|error| CacheError::Store(error.to_string()))? {
        let filled = filled.entry(name).or_default();
        match object {
            Ok(object) => drop(filled.objects.insert(key, object)),
            Err(why) => drop(filled.unreadable.insert(key, why)),
        }
    }
    Ok(())
}
