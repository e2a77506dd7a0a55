//! One resource's objects, their recent history, and who waits for changes.

use super::object::CachedObject;
use super::watch::Waiter;
use crate::storage::Storage;
use bytes::Bytes;
use naru_api::registry::Resource;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The history kept for each resource: that many changes, and no more than about that many bytes.
const HISTORY_CHANGES: usize = 2048;
const HISTORY_BYTES: usize = 8 << 20;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One change. All watchers share it and the bytes in it.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) revision: i64,
    pub(super) kind: ChangeKind,
    /// The object after the change; for a deletion, before it.
    pub(super) object: Arc<CachedObject>,
    /// The object before the change.
    pub(super) previous: Option<Arc<CachedObject>>,
    /// `previous` with this change's revision, made when the first watcher needs it.
    farewell: OnceLock<Bytes>,
    /// The object's JSON as it was written; empty for a deletion. The object itself may hold it compressed.
    json: Bytes,
}

impl Change {
    /// A change to `object`, which `previous` was before.
    pub(super) fn put(revision: i64, object: (Arc<CachedObject>, Bytes), previous: Option<Arc<CachedObject>>) -> Self {
        let kind = if previous.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        let (object, json) = object;
        Self { revision, kind, object, previous, farewell: OnceLock::new(), json }
    }

    /// The end of an object.
    pub(super) fn deletion(revision: i64, last: Arc<CachedObject>) -> Self {
        let (kind, previous) = (ChangeKind::Deleted, Some(Arc::clone(&last)));
        Self { revision, kind, object: last, previous, farewell: OnceLock::new(), json: Bytes::new() }
    }

    /// The object as it is after the change.
    pub(super) fn json(&self) -> &Bytes {
        &self.json
    }

    /// The object as it was before, under this change's revision.
    pub(super) fn farewell(&self) -> Bytes {
        let last = self.previous.as_ref().unwrap_or(&self.object);
        self.farewell.get_or_init(|| last.at_revision(self.revision)).clone()
    }

    fn bytes(&self) -> usize {
        // The newest object is in the map anyway; what the history holds on to is what was before.
        let copy = if self.object.is_packed() { self.json.len() } else { 0 };
        self.previous.as_ref().map_or(0, |previous| previous.bytes()) + copy + 128
    }
}

/// Shares equal strings: label keys and values, node names, phases.
#[derive(Debug, Default)]
pub(super) struct Interner {
    strings: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Interner {
    pub(super) fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return Arc::clone(known);
        }
        if self.strings.len() >= self.sweep_at {
            self.strings.retain(|string| Arc::strong_count(string) > 1);
            self.sweep_at = (self.strings.len() * 2).max(1024);
        }
        let new: Arc<str> = Arc::from(text);
        self.strings.insert(Arc::clone(&new));
        new
    }
}

/// What changes of a resource's cache.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<Arc<str>, Arc<CachedObject>>,
    /// The newest changes, in order.
    pub(super) history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    /// Changes at and below this revision are not in the history.
    pub(super) floor: i64,
    pub(super) last_change: i64,
    pub(super) waiters: Vec<Arc<Waiter>>,
    /// What is stored and cannot be read, and why.
    pub(super) unreadable: BTreeMap<Arc<str>, String>,
    interner: Interner,
}

impl State {
    /// Changes after `revision`.
    pub(super) fn changes_after(&self, revision: i64) -> impl DoubleEndedIterator<Item = &Arc<Change>> {
        let from = self.history.partition_point(|change| change.revision <= revision);
        self.history.range(from..)
    }

    /// Objects whose keys start with `prefix`, after `after`, in order.
    pub(super) fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<CachedObject>> {
        let start = match after {
            Some(key) if key >= prefix => Bound::Excluded(key),
            _ => Bound::Included(prefix),
        };
        self.objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, object)| object)
    }

    fn remember(&mut self, change: Change) {
        let change = Arc::new(change);
        for waiter in &self.waiters {
            waiter.offer(&change);
        }
        self.last_change = change.revision;
        self.history_bytes += change.bytes();
        self.history.push_back(change);
        let floor = self.floor;
        while self.history.len() > HISTORY_CHANGES || self.history_bytes > HISTORY_BYTES {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes -= oldest.bytes();
            self.floor = oldest.revision;
        }
        if self.floor > floor {
            // Whoever has not taken what is gone now is dropped, with all that is held for it.
            let floor = self.floor;
            self.waiters.retain(|waiter| !waiter.drop_if_behind(floor));
        }
    }
}

/// An object with its JSON.
pub(super) type Indexed = (Arc<CachedObject>, Bytes);

/// What a resource's cache is filled with.
#[derive(Debug, Default)]
pub(super) struct Filled {
    pub(super) objects: BTreeMap<Arc<str>, Arc<CachedObject>>,
    pub(super) unreadable: BTreeMap<Arc<str>, String>,
}

/// One resource's cache.
#[derive(Debug)]
pub(super) struct ResourceCache {
    pub(super) resource: &'static Resource,
    /// The selectable fields beside name and namespace.
    pub(super) fields: Vec<&'static str>,
    storage: Storage,
    state: RwLock<State>,
}

impl ResourceCache {
    pub(super) fn new(resource: &'static Resource, storage: Storage) -> Self {
        // Rules that select by fields name them for any tree, also for an empty one.
        let fields = (resource.rules.fields)(&Value::Object(serde_json::Map::new()));
        Self { resource, fields: fields.into_iter().map(|(name, _)| name).collect(), storage, state: RwLock::default() }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Indexes an object, or says why it cannot be read.
    fn index(&self, key: Arc<str>, stored: &Bytes, revision: i64) -> Result<Indexed, String> {
        // Taken for the interner alone, and only by the one task that follows the store.
        let mut interner = std::mem::take(&mut self.write().interner);
        let object = self.indexed_with(&mut interner, key, stored, revision);
        self.write().interner = interner;
        object
    }

    /// An object of a past revision, outside the cache; `None` when it cannot be read any more.
    pub(super) fn detached(&self, key: Arc<str>, stored: &Bytes, revision: i64) -> Option<Indexed> {
        self.indexed_with(&mut Interner::default(), key, stored, revision).ok()
    }

    /// A change that the history in memory does not have any more.
    pub(super) fn past_change(&self, event: naru_store::Event) -> Option<Change> {
        let (key, revision) = (event.key, event.revision);
        let previous = event.previous.and_then(|value| self.detached(Arc::clone(&key), &value, revision));
        let previous = previous.map(|(object, _)| object);
        match event.value {
            Some(value) => Some(Change::put(revision, self.detached(key, &value, revision)?, previous)),
            None => Some(Change::deletion(revision, previous?)),
        }
    }

    /// Indexes an object while the cache is being filled.
    pub(super) fn indexed_with(
        &self,
        interner: &mut Interner,
        key: Arc<str>,
        stored: &Bytes,
        revision: i64,
    ) -> Result<Indexed, String> {
        let opened = self.storage.open(&key, stored).map_err(|error| error.to_string());
        let indexed = opened.and_then(|plain| {
            CachedObject::new(self.resource, !self.fields.is_empty(), Arc::clone(&key), &plain, revision, interner)
                .map_err(|error| error.to_string())
        });
        match indexed {
            Ok((object, json)) => Ok((Arc::new(object), json)),
            Err(error) => {
                tracing::error!(%key, error, "a stored object cannot be read, and is not served");
                Err(error)
            }
        }
    }

    /// Replaces everything, as of `revision`. Watchers must start over.
    pub(super) fn fill(&self, filled: Filled, revision: i64) {
        let mut state = self.write();
        (state.objects, state.unreadable) = (filled.objects, filled.unreadable);
        state.history.clear();
        state.history_bytes = 0;
        state.floor = revision;
        state.last_change = revision;
        for waiter in state.waiters.drain(..) {
            waiter.end();
        }
    }

    /// Applies one event of the store.
    pub(super) fn apply(&self, event: naru_store::Event) {
        let object = event.value.map(|value| self.index(Arc::clone(&event.key), &value, event.revision)).transpose();
        let mut state = self.write();
        match &object {
            Ok(_) => drop(state.unreadable.remove(&event.key)),
            Err(why) => drop(state.unreadable.insert(Arc::clone(&event.key), why.clone())),
        }
        let change = match object.ok().flatten() {
            Some(object) => {
                let previous = state.objects.insert(Arc::clone(&event.key), Arc::clone(&object.0));
                Change::put(event.revision, object, previous)
            }
            None => {
                let Some(previous) = state.objects.remove(&event.key) else { return };
                Change::deletion(event.revision, previous)
            }
        };
        state.remember(change);
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<CachedObject>> {
        self.read().objects.get(key).cloned()
    }

    /// All objects, in key order.
    pub(super) fn all(&self) -> Vec<Arc<CachedObject>> {
        self.read().objects.values().cloned().collect()
    }
}
