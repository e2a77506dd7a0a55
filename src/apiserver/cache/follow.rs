//! Keeps the cache in step with the store.

use super::object::CachedObject;
use super::resource::{Interner, ResourceCache};
use super::{CacheError, ROOT, progress};
use naru_store::{Event, Record, Store, Watch, WatchError};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Events that may wait between the store's writer and this task. Writers wait for the cache, which
/// bounds them by far less; one that lags watches again from where it stood.
const CAPACITY: usize = 4096;
/// Records read at a time.
const PAGE: usize = 1000;

type Resources = Arc<HashMap<(&'static str, &'static str), ResourceCache>>;

type Objects = BTreeMap<Arc<str>, Arc<CachedObject>>;

/// The one task that changes the cache.
pub(super) struct Follower {
    store: Store,
    resources: Resources,
    progress: progress::Sender<i64>,
    watch: Watch,
}

impl Follower {
    /// Fills the cache and starts to watch from there.
    pub(super) async fn load(
        store: Store,
        resources: Resources,
        progress: progress::Sender<i64>,
    ) -> Result<Self, CacheError> {
        let revision = fill(&store, &resources).await?;
        let watch = store.watch("", revision, CAPACITY)?;
        progress.send_replace(revision);
        Ok(Self { store, resources, progress, watch })
    }

    /// Applies events until the store is closed.
    pub(super) async fn run(mut self) -> CacheError {
        loop {
            match self.watch.next().await {
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
            Err(_) => {
                let revision = fill(&self.store, &self.resources).await?;
                self.watch = self.store.watch("", revision, CAPACITY)?;
                self.progress.send_replace(revision);
            }
        }
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

/// Reads everything, as of one revision, which is returned. One page is indexed while the next is read.
async fn fill(store: &Store, resources: &Resources) -> Result<i64, CacheError> {
    let mut filled: HashMap<(&'static str, &'static str), Objects> = HashMap::new();
    let mut after: Option<Arc<str>> = None;
    let mut revision = None;
    let mut indexing: Option<JoinHandle<Indexed>> = None;
    loop {
        let page = store.list(ROOT, after.as_deref(), PAGE, revision).await?;
        revision = Some(page.revision);
        after = page.records.last().map(|record| Arc::clone(&record.key));
        let (resources, records) = (Arc::clone(resources), page.records);
        let next = tokio::task::spawn_blocking(move || index(&resources, records));
        if let Some(done) = indexing.replace(next) {
            collect(done, &mut filled).await?;
        }
        if !page.more {
            break;
        }
    }
    if let Some(done) = indexing {
        collect(done, &mut filled).await?;
    }
    let revision = revision.unwrap_or_default();
    for (name, resource) in resources.iter() {
        resource.fill(filled.remove(name).unwrap_or_default(), revision);
    }
    Ok(revision)
}

type Indexed = Vec<((&'static str, &'static str), Arc<CachedObject>)>;

fn index(resources: &Resources, records: Vec<Record>) -> Indexed {
    // Strings are shared within a page; across pages they may be there twice.
    let mut interner = Interner::default();
    let indexed = records.into_iter().filter_map(|record| {
        let cache = resource_of(resources, &record.key)?;
        let (object, _) = cache.indexed_with(&mut interner, record.key, &record.value, record.mod_revision)?;
        Some(((cache.resource.group, cache.resource.plural), object))
    });
    indexed.collect()
}

async fn collect(
    done: JoinHandle<Indexed>,
    filled: &mut HashMap<(&'static str, &'static str), Objects>,
) -> Result<(), CacheError> {
    for (name, object) in done.await.map_err(|error| CacheError::Store(error.to_string()))? {
        filled.entry(name).or_default().insert(Arc::clone(object.key()), object);
    }
    Ok(())
}
