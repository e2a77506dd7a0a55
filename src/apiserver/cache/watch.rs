//! Watches. A watcher has no queue of its own: it reads the shared history from where it stands, and is
//! woken only by changes that concern it. One that falls behind the history is dropped, and with it all
//! that was held for it. A watch from a revision before the history begins reads the store's.

use super::object::CachedObject;
use super::resource::{Change, ChangeKind, State};
use super::{Cache, CacheError, Selection, prefix};
use bytes::Bytes;
use naru_api::registry::Resource;
use naru_client::transport::EventType;
use naru_store::WatchError;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often a watcher that asked for bookmarks is told how far the revision has come.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Changes taken from the history at a time.
const BATCH: usize = 128;

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchFrom {
    /// With the present objects as ADDED events, which must include this revision.
    Present(i64),
    /// Just after this revision.
    After(i64),
}

/// A watch to be started.
#[derive(Debug)]
pub(crate) struct WatchRequest {
    /// Which objects.
    pub(crate) selection: Selection,
    /// From where.
    pub(crate) from: WatchFrom,
    /// Whether bookmarks are wanted (`allowWatchBookmarks`).
    pub(crate) bookmarks: bool,
    /// Whether the end of the present objects is to be marked by a bookmark (`sendInitialEvents`).
    pub(crate) mark_initial_end: bool,
}

/// One watch event.
#[derive(Debug, Clone)]
pub(crate) struct WatchItem {
    /// Its type.
    pub(crate) kind: EventType,
    /// Its object's JSON, shared with the cache and other watchers.
    pub(crate) object: Bytes,
}

/// Why a watch ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WatchEnd {
    /// The client is too slow; it may watch again from what it has seen.
    #[error("the watcher fell behind")]
    Lagged,
    /// The changes to go on from are no longer kept.
    #[error("too old resource version: {requested} ({oldest})")]
    Expired {
        /// The revision that the watch had come to.
        requested: i64,
        /// The oldest that would do.
        oldest: i64,
    },
    /// The server is going down.
    #[error("the server is shutting down")]
    Closed,
}

/// What the cache knows of a watcher.
#[derive(Debug)]
pub(super) struct Waiter {
    selection: Selection,
    /// The revision of the first change that concerns the watcher and that it has not taken, or 0.
    pending: AtomicI64,
    /// Changes up to this revision are none of its business.
    after: i64,
    /// It reads the store, and is not to be told of changes yet.
    replaying: AtomicBool,
    /// The present objects that are still to be sent. Here, so that they go when the watcher is dropped.
    initial: Mutex<std::vec::IntoIter<Arc<CachedObject>>>,
    lagged: AtomicBool,
    ended: AtomicBool,
    wake: Notify,
}

impl Waiter {
    /// Called with the resource's state locked for writing.
    pub(super) fn offer(&self, change: &Change) {
        if !self.replaying.load(Ordering::Acquire) && self.concerns(change) {
            // The first one stays; the watcher takes all that follow it.
            let _ = self.pending.compare_exchange(0, change.revision, Ordering::AcqRel, Ordering::Acquire);
            self.wake.notify_one();
        }
    }

    /// Drops a watcher that has not taken a change at or before `floor`. Called as `offer` is.
    pub(super) fn drop_if_behind(&self, floor: i64) -> bool {
        let pending = self.pending.load(Ordering::Acquire);
        if pending == 0 || pending > floor {
            return false;
        }
        self.lagged.store(true, Ordering::Release);
        *self.initial() = Vec::new().into_iter();
        self.wake.notify_one();
        true
    }

    fn initial(&self) -> MutexGuard<'_, std::vec::IntoIter<Arc<CachedObject>>> {
        self.initial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn concerns(&self, change: &Change) -> bool {
        if change.revision <= self.after {
            return false;
        }
        self.selection.matches(&change.object)
            || change.previous.as_ref().is_some_and(|previous| self.selection.matches(previous))
    }

    /// From now on is told of changes, those after `revision` that are in the history already included.
    fn follow(&self, state: &State, revision: i64) {
        if let Some(first) = state.changes_after(revision).find(|change| self.concerns(change)) {
            self.pending.store(first.revision, Ordering::Release);
            self.wake.notify_one();
        }
        self.replaying.store(false, Ordering::Release);
    }

    /// The change as this watcher sees it: objects come and go as they begin and cease to match.
    fn translate(&self, change: &Change) -> Option<WatchItem> {
        let before = change.previous.as_ref().is_some_and(|previous| self.selection.matches(previous));
        let after = change.kind != ChangeKind::Deleted && self.selection.matches(&change.object);
        let (kind, object) = match (before, after) {
            (false, false) => return None,
            (false, true) => (EventType::Added, change.json().clone()),
            (true, true) => (EventType::Modified, change.json().clone()),
            (true, false) => (EventType::Deleted, change.farewell()),
        };
        Some(WatchItem { kind, object })
    }
}

/// A running watch.
#[derive(Debug)]
pub(crate) struct Watch {
    cache: Cache,
    resource: &'static Resource,
    waiter: Arc<Waiter>,
    /// Where the store's history has been read up to, while that goes on.
    replay: Option<i64>,
    mark_initial_end: bool,
    /// The revision of the present objects.
    started: i64,
    ready: VecDeque<WatchItem>,
    /// When the next bookmark is due.
    bookmark_at: Option<Instant>,
    bookmarked: i64,
}

pub(super) async fn start(
    cache: &Cache,
    resource: &'static Resource,
    request: WatchRequest,
) -> Result<Watch, CacheError> {
    if let WatchFrom::Present(revision) = request.from {
        cache.wait_until_fresh(revision).await?;
    }
    let newest = cache.revision();
    let oldest = cache.store.raw().oldest_watchable();
    let mut state = cache.of(resource).write();
    let started = newest.max(state.last_change);
    let (mut initial, mut replay, mut after) = (Vec::new(), None, 0);
    match request.from {
        WatchFrom::Present(_) => {
            let prefix = request.selection.prefix(resource);
            initial.extend(state.range(&prefix, None).filter(|object| request.selection.matches(object)).cloned());
        }
        WatchFrom::After(revision) if revision < state.floor => {
            if revision < oldest {
                return Err(CacheError::Expired { requested: revision, oldest });
            }
            replay = Some(revision);
        }
        WatchFrom::After(revision) => after = revision,
    }
    let waiter = Arc::new(Waiter {
        selection: request.selection,
        pending: AtomicI64::new(0),
        after,
        replaying: AtomicBool::new(replay.is_some()),
        initial: Mutex::new(initial.into_iter()),
        lagged: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        wake: Notify::new(),
    });
    if matches!(request.from, WatchFrom::After(_)) && replay.is_none() {
        waiter.follow(&state, after);
    }
    state.waiters.push(Arc::clone(&waiter));
    drop(state);
    Ok(Watch {
        cache: cache.clone(),
        resource,
        waiter,
        replay,
        mark_initial_end: request.mark_initial_end,
        started,
        ready: VecDeque::new(),
        bookmark_at: request.bookmarks.then(|| Instant::now() + BOOKMARK_INTERVAL),
        bookmarked: started,
    })
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.cache.of(self.resource).write().waiters.retain(|waiter| !Arc::ptr_eq(waiter, &self.waiter));
    }
}

impl Watch {
    /// An event that can be sent without waiting.
    pub(crate) fn try_next(&mut self) -> Result<Option<WatchItem>, WatchEnd> {
        if self.waiter.lagged.load(Ordering::Acquire) {
            return Err(WatchEnd::Lagged);
        }
        let initial = self.waiter.initial().next();
        if let Some(object) = initial {
            return Ok(Some(WatchItem { kind: EventType::Added, object: object.json() }));
        }
        if std::mem::take(&mut self.mark_initial_end) {
            return Ok(Some(self.bookmark_item(self.started, true)));
        }
        if self.ready.is_empty() && self.replay.is_none() {
            self.take()?;
        }
        Ok(self.ready.pop_front())
    }

    /// The next event. Cancel safe. After an error the watch is over.
    pub(crate) async fn next(&mut self) -> Result<WatchItem, WatchEnd> {
        loop {
            if let Some(item) = self.try_next()? {
                return Ok(item);
            }
            if let Some(at) = self.replay {
                self.read_history(at).await?;
                continue;
            }
            let due = async {
                match self.bookmark_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.waiter.wake.notified() => {}
                () = due => {
                    self.bookmark_at = Some(Instant::now() + BOOKMARK_INTERVAL);
                    let moved = self.cache.revision() > self.bookmarked;
                    if moved && let Some(item) = self.bookmark() {
                        return Ok(item);
                    }
                }
            }
        }
    }

    /// A bookmark for a watch that is about to end in good order, so that the client can go on from there.
    /// `None` when events are waiting, or bookmarks were not asked for.
    pub(crate) fn bookmark(&mut self) -> Option<WatchItem> {
        self.bookmark_at?;
        let idle = self.waiter.initial().len() == 0 && self.ready.is_empty() && self.replay.is_none();
        // Read before `pending`: what the revision includes has been offered by then.
        let revision = self.cache.revision();
        if !idle || self.waiter.pending.load(Ordering::Acquire) != 0 {
            return None;
        }
        self.bookmarked = revision;
        Some(self.bookmark_item(revision, false))
    }

    fn bookmark_item(&self, revision: i64, initial_end: bool) -> WatchItem {
        let annotations = if initial_end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
        let object = format!(
            r#"{{"kind":"{}","apiVersion":"{}","metadata":{{"resourceVersion":"{revision}"{annotations}}}}}"#,
            self.resource.kind,
            self.resource.api_version(),
        );
        WatchItem { kind: EventType::Bookmark, object: object.into() }
    }

    /// Reads the store's history from `at`, until the one in memory reaches back far enough. Cancel safe.
    async fn read_history(&mut self, at: i64) -> Result<(), WatchEnd> {
        let through = {
            let state = self.cache.of(self.resource).read();
            if at >= state.floor {
                self.waiter.follow(&state, at);
                self.replay = None;
                return Ok(());
            }
            state.floor
        };
        let changes = self.cache.store.raw().changes(&prefix(self.resource, None), at, through).await;
        let (events, reached) = changes.map_err(|error| match error {
            WatchError::Compacted { requested, oldest } => WatchEnd::Expired { requested, oldest },
            WatchError::Closed | WatchError::Lagged | WatchError::Io(_) => WatchEnd::Closed,
        })?;
        let cache = self.cache.of(self.resource);
        self.ready.extend(events.into_iter().filter_map(|event| self.waiter.translate(&cache.past_change(event)?)));
        self.replay = Some(reached);
        Ok(())
    }

    /// Takes what is pending from the history.
    fn take(&mut self) -> Result<(), WatchEnd> {
        let state = self.cache.of(self.resource).read();
        if self.waiter.ended.load(Ordering::Acquire) {
            return Err(WatchEnd::Closed);
        }
        let pending = self.waiter.pending.load(Ordering::Acquire);
        if pending == 0 {
            return Ok(());
        }
        if pending <= state.floor {
            return Err(WatchEnd::Lagged);
        }
        let mut changes = state.changes_after(pending - 1);
        self.ready.extend(changes.by_ref().filter_map(|change| self.waiter.translate(change)).take(BATCH));
        let rest = changes.find(|change| self.waiter.concerns(change));
        // No change can come in between: the state is locked.
        self.waiter.pending.store(rest.map_or(0, |change| change.revision), Ordering::Release);
        Ok(())
    }
}
