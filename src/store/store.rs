//! The handle: what the rest of the program sees of the engine.

use crate::error::{OpenError, ReadError, WatchError, WriteError};
use crate::history;
use crate::index::Index;
use crate::open::{self, Options};
use crate::watch::{Hub, Watch};
use crate::writer::{Command, Queue, Writer};
use crate::{Event, Page, Record, Write};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// What handle, watches, writer and checkpointer share.
/// Lock order: `reading` before `hub` before `index`; the last two are not held across a read of the disk.
pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) index: RwLock<Index>,
    hub: Mutex<Hub>,
    /// Held by who reads the disk. The writer takes it for itself when the write-ahead log has grown too long:
    /// a log starts over only in a moment in which nobody reads from it.
    reading: RwLock<()>,
    /// Idle connections for reading, at most two.
    readers: Mutex<Vec<Connection>>,
    pub(crate) used_bytes: AtomicU64,
}

impl Shared {
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        history::read(&self.index)
    }

    pub(crate) fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody reads, and keeps it so.
    pub(crate) fn quiet(&self) -> RwLockWriteGuard<'_, ()> {
        self.reading.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a reading function where blocking is allowed.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        function: impl FnOnce(&Self, &Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let shared = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let idle = shared.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => open::connect(&shared.path).map_err(|e| ReadError::Io(e.to_string()))?,
            };
            let reading = shared.reading.read().unwrap_or_else(PoisonError::into_inner);
            let result = function(&shared, &connection);
            drop(reading);
            let mut readers = shared.readers.lock().unwrap_or_else(PoisonError::into_inner);
            if readers.len() < 2 {
                readers.push(connection);
            }
            result
        });
        task.await.map_err(|e| ReadError::Io(e.to_string()))?
    }

    pub(crate) async fn changes(
        self: &Arc<Self>,
        prefix: &str,
        after: i64,
        through: i64,
    ) -> Result<(Vec<Event>, i64), WatchError> {
        let prefix = prefix.to_owned();
        let result =
            self.read(move |shared, connection| history::changes(&shared.index, connection, &prefix, after, through));
        let changes = result.await.map_err(|e| WatchError::Io(e.to_string()))?;
        // Checked after reading: what was compacted before or meanwhile may be missing from it.
        let oldest = self.index().compacted;
        if after < oldest {
            return Err(WatchError::Compacted { requested: after, oldest });
        }
        Ok(changes)
    }
}

/// An open database. Cloning is cheap and shares it.
///
/// Dropping the last clone without [`Store::close`] is like a crash: durable writes are kept, lazy ones
/// that have not been flushed are lost.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    writer: Arc<Running>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

/// The writer's thread; ends it when the last handle goes.
struct Running {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.queue.abandon();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer panicked");
        }
    }
}

impl Store {
    /// Opens the database at `path`, creating it and its directory if they are missing.
    ///
    /// Blocks: checks the whole database and reads its keys.
    ///
    /// # Errors
    /// See [`OpenError`]; the files are left as they are.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let opened = open::open(&path, &options)?;
        let shared = Arc::new(Shared {
            path: path.clone(),
            hub: Mutex::new(Hub::new(opened.index.revision)),
            index: RwLock::new(opened.index),
            reading: RwLock::default(),
            readers: Mutex::new(Vec::new()),
            used_bytes: AtomicU64::new(0),
        });
        let queue = Arc::new(Queue::new());
        let checkpoints = open::connect(&path)?;
        let writer = Writer::new(
            Arc::clone(&shared),
            Arc::clone(&queue),
            opened.connection,
            opened.reserved,
            opened.lock,
            options,
        );
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(checkpoints))
            .map_err(|e| OpenError::Other { path, detail: e.to_string() })?;
        Ok(Self { shared, writer: Arc::new(Running { queue, thread: Mutex::new(Some(thread)) }) })
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.shared.index().revision
    }

    /// The oldest revision that can be listed or watched from.
    pub fn oldest_revision(&self) -> i64 {
        self.shared.index().compacted
    }

    /// The newest record of `key`.
    ///
    /// # Errors
    /// [`ReadError::Io`].
    pub async fn get(&self, key: &str) -> Result<Option<Record>, ReadError> {
        let key: Arc<str> = Arc::from(key);
        self.shared.read(move |shared, connection| history::get(&shared.index, connection, &key)).await
    }

    /// At most `limit` records whose keys start with `prefix` and come after `start_after`, in key order,
    /// as of `at_revision` or now.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] and [`ReadError::Future`] for revisions that cannot be read.
    pub async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at_revision: Option<i64>,
    ) -> Result<Page, ReadError> {
        let (prefix, after) = (prefix.to_owned(), start_after.map(str::to_owned));
        self.shared
            .read(move |shared, connection| {
                history::list(&shared.index, connection, &prefix, after.as_deref(), limit, at_revision)
            })
            .await
    }

    /// How many records there were under `prefix` after `start_after` at a revision.
    ///
    /// # Errors
    /// As those of [`Store::list`].
    pub async fn count(&self, prefix: &str, start_after: Option<&str>, at_revision: i64) -> Result<usize, ReadError> {
        let (prefix, after) = (prefix.to_owned(), start_after.map(str::to_owned));
        self.shared
            .read(move |shared, connection| {
                history::count(&shared.index, connection, &prefix, after.as_deref(), at_revision)
            })
            .await
    }

    /// Bytes of the database that hold something, as the writer saw it last.
    pub fn used_bytes(&self) -> u64 {
        self.shared.used_bytes.load(Ordering::Relaxed)
    }

    /// Whether writes work, as far as is known: the writer answers, and its last write did not fail. Only when
    /// it did is another one tried, so that asking costs a healthy disk nothing.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn health(&self) -> Result<(), WriteError> {
        let (reply, answer) = oneshot::channel();
        self.writer.queue.send(|permit| Command::Probe { reply, permit }).await?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    /// Writes if the key is as expected, and returns the write's revision once it is as durable as asked.
    /// Watchers have been handed the event by then.
    ///
    /// A caller that goes away while waiting does not undo the write.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] with the present record, or a failure of the disk.
    pub async fn write(&self, write: Write) -> Result<i64, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.writer.queue.send(|permit| Command::Write { write, reply, permit }).await?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    /// Watches keys starting with `prefix` from just after `after_revision`. At most `capacity` events wait
    /// for the watcher; when there are more it is dropped, and told so. A replay may leave out lazy
    /// writes that were superseded before they reached the disk.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] when events after `after_revision` may be missing.
    pub fn watch(&self, prefix: &str, after_revision: i64, capacity: usize) -> Result<Watch, WatchError> {
        Watch::start(Arc::clone(&self.shared), prefix, after_revision, capacity)
    }

    /// The oldest revision that can be watched from: a crash may have lost lazy writes since the oldest kept.
    pub fn oldest_watchable(&self) -> i64 {
        let index = self.shared.index();
        index.compacted.max(index.watch_floor)
    }

    /// Some of the changes under `prefix` after `after` up to `through`, and the revision up to which these
    /// are all.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] when changes after `after` may be missing.
    pub async fn changes(&self, prefix: &str, after: i64, through: i64) -> Result<(Vec<Event>, i64), WatchError> {
        let changes = self.shared.changes(prefix, after, through).await?;
        let oldest = self.oldest_watchable();
        if after < oldest {
            return Err(WatchError::Compacted { requested: after, oldest });
        }
        Ok(changes)
    }

    /// Forgets what was superseded at or before `revision`.
    ///
    /// # Errors
    /// A failure of the disk; compaction may then be done in part.
    pub async fn compact(&self, revision: i64) -> Result<(), WriteError> {
        let (reply, answer) = oneshot::channel();
        self.writer.queue.send(|permit| Command::Compact { revision, reply, permit }).await?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    /// Writes the whole database anew, so that nothing is left in its files of what was overwritten or removed.
    /// Writes wait meanwhile; a database that is too large for that is left as it is (`false`).
    ///
    /// # Errors
    /// A failure of the disk; the database is as it was then.
    pub async fn rewrite(&self) -> Result<bool, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.writer.queue.send(|permit| Command::Rewrite { reply, permit }).await?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    /// Writes everything to disk and ends the writer. Later writes fail with [`WriteError::Closed`].
    ///
    /// # Errors
    /// A failure of the disk: lazy writes may be lost then.
    pub async fn close(&self) -> Result<(), WriteError> {
        let (reply, answer) = oneshot::channel();
        self.writer.queue.send(|permit| Command::Close { reply, permit }).await?;
        answer.await.map_err(|_| WriteError::Closed)?
    }
}
