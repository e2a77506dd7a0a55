//! Lists: the present from the map, the recent past by undoing the history, what is older from the store.

use super::object::{CachedObject, item_tail};
use super::resource::{ResourceCache, State};
use super::token::Continue;
use super::{Cache, CacheError, Selection, prefix};
use crate::storage::Storage;
use bytes::Bytes;
use naru_api::registry::Resource;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Which state is to be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListAt {
    /// The newest (no `resourceVersion`, or 0).
    Newest,
    /// The newest, which must include this revision.
    NotOlderThan(i64),
    /// This revision.
    Exact(i64),
    /// Where an earlier page ended.
    Continue(Continue),
}

/// A page of objects, in key order.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The objects.
    pub(crate) objects: Vec<Arc<CachedObject>>,
    /// The revision of the whole list.
    pub(crate) revision: i64,
    /// How to go on, when there is more.
    pub(crate) next: Option<String>,
    /// How many follow, when that is known.
    pub(crate) remaining: Option<usize>,
}

impl Listing {
    /// Objects that are made up for one answer.
    pub(crate) fn made_up(storage: &Storage, resource: &'static Resource, objects: &[Value]) -> Self {
        let cache = ResourceCache::new(resource, storage.clone());
        let object = |object: &Value| {
            let key = prefix(resource, None) + naru_api::meta::name(object);
            cache.detached(key.into(), &super::stored(object.clone()), 0).map(|indexed| indexed.0)
        };
        Self { objects: objects.iter().filter_map(object).collect(), revision: 0, next: None, remaining: None }
    }

    /// The list as JSON.
    pub(crate) fn encode(&self, resource: &Resource) -> Bytes {
        let size = self.objects.iter().map(|object| object.json_len() + 2).sum();
        self.encode_items(resource, size, self.objects.iter().map(|object| object.json()))
    }

    /// The list with whole objects of another version as its items; `size` is about what they take.
    pub(crate) fn encode_items(&self, resource: &Resource, size: usize, items: impl Iterator<Item = Bytes>) -> Bytes {
        let mut out = Vec::with_capacity(size + 256);
        let head = format!(
            r#"{{"kind":"{}List","apiVersion":"{}","metadata":{{"resourceVersion":"{}""#,
            resource.kind,
            resource.api_version(),
            self.revision
        );
        out.extend_from_slice(head.as_bytes());
        if let Some(next) = &self.next {
            out.extend_from_slice(format!(r#","continue":"{next}""#).as_bytes());
        }
        if let Some(remaining) = self.remaining {
            out.extend_from_slice(format!(r#","remainingItemCount":{remaining}"#).as_bytes());
        }
        out.extend_from_slice(br#"},"items":["#);
        for (i, item) in items.enumerate() {
            out.extend_from_slice(if i == 0 { b"{" } else { b",{" });
            out.extend_from_slice(item_tail(&item));
        }
        out.extend_from_slice(b"]}");
        out.into()
    }
}

/// What every way of listing needs.
struct Query<'a> {
    cache: &'a ResourceCache,
    selection: &'a Selection,
    prefix: String,
    /// The whole key to start after.
    after: Option<String>,
    limit: usize,
}

pub(super) async fn list(
    cache: &Cache,
    resource: &'static Resource,
    selection: &Selection,
    limit: usize,
    at: ListAt,
) -> Result<Listing, CacheError> {
    let root = prefix(resource, None);
    let (revision, after, continued) = match at {
        ListAt::Newest => (None, None, false),
        ListAt::NotOlderThan(revision) => {
            cache.wait_until_fresh(revision).await?;
            (None, None, false)
        }
        ListAt::Exact(revision) => {
            cache.wait_until_reached(revision).await?;
            (Some(revision), None, false)
        }
        ListAt::Continue(Continue { revision, after }) => {
            // A token of another server, or from before a restore, may be ahead of everything here.
            if let Some(revision) = revision {
                cache.wait_until_reached(revision).await?;
            }
            (revision, Some(format!("{root}{after}")), true)
        }
    };
    let query = Query {
        cache: cache.of(resource),
        selection,
        prefix: selection.prefix(resource),
        after,
        limit: if limit == 0 { usize::MAX } else { limit },
    };
    query.check_readable()?;
    let newest = cache.revision();
    let listing = match revision {
        None => query.newest(newest),
        // What is compacted is gone, although it could be worked out here for a while: clients count on the time.
        Some(revision) if revision < cache.store.raw().oldest_revision() => {
            Err(CacheError::Expired { requested: revision, oldest: cache.store.raw().oldest_revision() })
        }
        Some(revision) => match query.recent(revision, newest) {
            Some(listing) => Ok(listing),
            None => query.past(cache, revision).await,
        },
    };
    match listing {
        Err(CacheError::Expired { .. }) if continued => {
            let after = query.after.as_deref().and_then(|key| key.strip_prefix(&*root)).unwrap_or_default().to_owned();
            Err(CacheError::ContinueExpired { inconsistent: Continue { revision: None, after }.encode() })
        }
        Err(CacheError::Expired { .. }) => Err(CacheError::ListExpired),
        listing => listing,
    }
}

impl Query<'_> {
    /// A list with something in it that cannot be read is refused: a part is not the whole.
    fn check_readable(&self) -> Result<(), CacheError> {
        let state = self.cache.read();
        let mut unreadable =
            state.unreadable.range::<str, _>((Bound::Included(self.prefix.as_str()), Bound::Unbounded));
        match unreadable.next().filter(|(key, _)| key.starts_with(&self.prefix)) {
            Some((key, why)) => Err(CacheError::Unreadable { key: key.to_string(), why: why.clone() }),
            None => Ok(()),
        }
    }

    /// The present. `at_least` is a revision known to be in the map.
    fn newest(&self, at_least: i64) -> Result<Listing, CacheError> {
        let state = self.cache.read();
        // Changes are in the map before they are announced: the map may be a little ahead.
        let revision = at_least.max(state.last_change);
        Ok(self.page(state.range(&self.prefix, self.after.as_deref()), revision))
    }

    /// A past revision that the history reaches back to.
    fn recent(&self, revision: i64, newest: i64) -> Option<Listing> {
        let state = self.cache.read();
        if revision >= state.last_change && revision <= newest.max(state.last_change) {
            return Some(self.page(state.range(&self.prefix, self.after.as_deref()), revision));
        }
        if revision < state.floor {
            return None;
        }
        let undone = undo(&state, revision, &self.prefix);
        let mut objects: BTreeMap<&Arc<str>, &Arc<CachedObject>> = state
            .range(&self.prefix, self.after.as_deref())
            .filter(|object| !undone.contains_key(object.key()))
            .map(|object| (object.key(), object))
            .collect();
        let after = self.after.as_deref().unwrap_or_default();
        objects.extend(
            undone.iter().filter(|(key, _)| &***key > after).filter_map(|(key, old)| Some((key, old.as_ref()?))),
        );
        Some(self.page(objects.into_values(), revision))
    }

    /// A revision older than the history.
    async fn past(&self, cache: &Cache, revision: i64) -> Result<Listing, CacheError> {
        let mut objects: Vec<Arc<CachedObject>> = Vec::new();
        let mut after = self.after.clone();
        loop {
            let page = cache.store.raw().list(&self.prefix, after.as_deref(), 500, Some(revision)).await?;
            after = page.records.last().map(|record| record.key.to_string());
            let found = page
                .records
                .into_iter()
                .filter_map(|record| self.cache.detached(record.key, &record.value, record.mod_revision))
                .map(|(object, _)| object);
            objects.extend(found.filter(|object| self.selection.matches(object)));
            if !page.more || objects.len() > self.limit {
                break;
            }
        }
        let mut listing = self.page(objects.iter(), revision);
        // Not everything that follows was read.
        if listing.remaining.take().is_some()
            && let Some(last) = listing.objects.last()
        {
            listing.remaining = Some(cache.store.raw().count(&self.prefix, Some(last.key()), revision).await?);
        }
        Ok(listing)
    }

    /// Takes the selected objects up to the limit.
    fn page<'a>(&self, objects: impl Iterator<Item = &'a Arc<CachedObject>>, revision: i64) -> Listing {
        let mut selected = objects.filter(|object| self.selection.matches(object));
        let page: Vec<_> = selected.by_ref().take(self.limit).cloned().collect();
        if page.len() < self.limit {
            return Listing { objects: page, revision, next: None, remaining: None };
        }
        let filtered = self.selection.is_filtered();
        let remaining = if filtered { usize::from(selected.next().is_some()) } else { selected.count() };
        let root = prefix(self.cache.resource, None);
        let next = page.last().filter(|_| remaining > 0).map(|last| {
            let after = last.key().strip_prefix(&*root).unwrap_or_default().to_owned();
            Continue { revision: Some(revision), after }.encode()
        });
        // With a selector the number is not worth its price, and upstream leaves it out as well.
        let remaining = (next.is_some() && !filtered).then_some(remaining);
        Listing { objects: page, revision, next, remaining }
    }
}

/// What the keys changed after `revision` held then.
fn undo(state: &State, revision: i64, prefix: &str) -> BTreeMap<Arc<str>, Option<Arc<CachedObject>>> {
    let mut undone = BTreeMap::new();
    for change in state.changes_after(revision).rev() {
        if change.object.key().starts_with(prefix) {
            undone.insert(Arc::clone(change.object.key()), change.previous.clone());
        }
    }
    undone
}
