//! Watches: first the changes kept on disk, then those that the writer hands over.

use crate::Event;
use crate::error::WatchError;
use crate::store::Shared;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// Everybody who watches. The writer publishes under this lock, registration happens under it too,
/// so that a watcher misses nothing between its replay and its first live event.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    watchers: Vec<Watcher>,
    revision: i64,
    closed: bool,
}

#[derive(Debug)]
struct Watcher {
    prefix: Box<str>,
    events: mpsc::Sender<Event>,
    lagged: Arc<AtomicBool>,
}

impl Hub {
    pub(crate) fn new(revision: i64) -> Self {
        Self { revision, ..Self::default() }
    }

    /// Hands events to their watchers without ever waiting: who has no room is dropped.
    pub(crate) fn publish(&mut self, events: &[Event]) {
        self.watchers.retain(|watcher| {
            events.iter().filter(|event| event.key.starts_with(&*watcher.prefix)).all(|event| {
                watcher
                    .events
                    .try_send(event.clone())
                    .map_err(|error| {
                        watcher.lagged.store(matches!(error, mpsc::error::TrySendError::Full(_)), Ordering::Release);
                    })
                    .is_ok()
            }) && !watcher.events.is_closed()
        });
        if let Some(last) = events.last() {
            self.revision = last.revision;
        }
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.watchers.clear();
    }

    fn register(&mut self, prefix: &str, capacity: usize) -> (mpsc::Receiver<Event>, Arc<AtomicBool>, i64) {
        let (events, receiver) = mpsc::channel(capacity.max(1));
        let lagged = Arc::new(AtomicBool::new(false));
        if !self.closed {
            self.watchers.push(Watcher { prefix: prefix.into(), events, lagged: Arc::clone(&lagged) });
        }
        (receiver, lagged, self.revision)
    }
}

/// Changes in order of revision.
pub struct Watch {
    shared: Arc<Shared>,
    prefix: Box<str>,
    /// The replay goes on after this revision ...
    replayed: i64,
    /// ... and ends with this one, after which live events follow.
    through: i64,
    backlog: VecDeque<Event>,
    live: mpsc::Receiver<Event>,
    lagged: Arc<AtomicBool>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("prefix", &self.prefix).field("through", &self.through).finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn start(shared: Arc<Shared>, prefix: &str, after: i64, capacity: usize) -> Result<Self, WatchError> {
        let (live, lagged, newest) = shared.hub().register(prefix, capacity);
        let oldest = {
            let index = shared.index();
            index.compacted.max(index.watch_floor)
        };
        if after < oldest {
            return Err(WatchError::Compacted { requested: after, oldest });
        }
        let through = newest.max(after);
        Ok(Self { shared, prefix: prefix.into(), replayed: after, through, backlog: VecDeque::new(), live, lagged })
    }

    /// The next change. Cancel safe. After an error the watch is over.
    ///
    /// # Errors
    /// [`WatchError::Lagged`] when the watcher was too slow, [`WatchError::Compacted`] when compaction
    /// overtook the replay, [`WatchError::Closed`] when the store was closed.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        loop {
            if let Some(event) = self.backlog.pop_front() {
                return Ok(event);
            }
            if self.replayed >= self.through {
                break;
            }
            let (events, upto) = self.shared.changes(&self.prefix, self.replayed, self.through).await?;
            self.backlog.extend(events);
            self.replayed = upto;
        }
        loop {
            match self.live.recv().await {
                // Watched from a revision in the future.
                Some(event) if event.revision <= self.through => {}
                Some(event) => return Ok(event),
                None if self.lagged.load(Ordering::Acquire) => return Err(WatchError::Lagged),
                None => return Err(WatchError::Closed),
            }
        }
    }

    /// A change that is already there, without waiting; `None` also while the replay goes on.
    pub fn try_next(&mut self) -> Option<Event> {
        if let Some(event) = self.backlog.pop_front() {
            return Some(event);
        }
        if self.replayed < self.through {
            return None;
        }
        loop {
            match self.live.try_recv() {
                Ok(event) if event.revision <= self.through => {}
                other => return other.ok(),
            }
        }
    }
}
