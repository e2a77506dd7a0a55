//! The one thread that writes: it takes what has queued up while the last batch was synced, checks each
//! write against the index, commits them together, and only then tells readers, watchers and callers.

use crate::disk;
use crate::error::WriteError;
use crate::failure::explain;
use crate::history::event;
use crate::index::{Index, Row, Slot};
use crate::open::Options;
use crate::store::Shared;
use crate::{Durability, Event, Expect, Record, Write};
use bytes::Bytes;
use rusqlite::Connection;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Commands that may wait; further callers wait for a place.
const QUEUE: usize = 512;
/// Bytes of values in one commit.
const BATCH_BYTES: usize = 8 << 20;
/// Revisions reserved at a time for lazy writes.
const RESERVE: i64 = 1_000;
/// Lazy bytes in memory that start a flush at once; at four times as many lazy writes are refused.
const LAZY_BYTES: usize = 4 << 20;
/// Revisions compacted in one commit.
const COMPACT_STEP: i64 = 500;
/// The largest database that is written anew while it serves: it takes that much memory for a moment.
const REWRITE_BYTES: i64 = 128 << 20;
/// Pages written between checkpoints, roughly.
const CHECKPOINT_PAGES: usize = 1_000;
/// Free pages that are given back in one commit.
const VACUUM_STEP: i64 = 256;
/// Free pages that are not worth the writing.
const SPARE_PAGES: i64 = 1_024;
/// Pages written between looks at the database's size.
const SIZE_PAGES: usize = 64;
/// How often a database that is too large is compacted, outside of the usual times.
const RELIEF: Duration = Duration::from_secs(1);
/// Frames of a write-ahead log that grew because writes never paused; the writer then pauses for a checkpoint.
const LONG_LOG_FRAMES: i64 = 16_384;

type Reply<T> = oneshot::Sender<Result<T, WriteError>>;

/// What the writer is asked to do. The permit is the command's place in the queue.
pub(crate) enum Command {
    Write { write: Write, reply: Reply<i64>, permit: OwnedSemaphorePermit },
    Compact { revision: i64, reply: Reply<()>, permit: OwnedSemaphorePermit },
    Probe { reply: Reply<()>, permit: OwnedSemaphorePermit },
    Rewrite { reply: Reply<bool>, permit: OwnedSemaphorePermit },
    Close { reply: Reply<()>, permit: OwnedSemaphorePermit },
}

/// A bounded queue into a thread.
pub(crate) struct Queue {
    places: Arc<Semaphore>,
    state: Mutex<QueueState>,
    wake: Condvar,
}

#[derive(Default)]
struct QueueState {
    commands: VecDeque<Command>,
    abandoned: bool,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(QUEUE)), state: Mutex::default(), wake: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn send(&self, command: impl FnOnce(OwnedSemaphorePermit) -> Command) -> Result<(), WriteError> {
        let permit = Arc::clone(&self.places).acquire_owned().await.map_err(|_| WriteError::Closed)?;
        let mut state = self.state();
        if state.abandoned {
            return Err(WriteError::Closed);
        }
        state.commands.push_back(command(permit));
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Nobody will send any more, or be served.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = true;
        self.places.close();
        drop(state);
        self.wake.notify_one();
    }

    /// Waits for commands, at most for `timeout`; `None` when abandoned.
    fn take(&self, timeout: Option<Duration>) -> Option<VecDeque<Command>> {
        let mut state = self.state();
        if state.commands.is_empty() && !state.abandoned {
            let idle = |state: &mut QueueState| state.commands.is_empty() && !state.abandoned;
            state = match timeout {
                Some(timeout) => {
                    self.wake.wait_timeout_while(state, timeout, idle).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner),
            };
        }
        (!state.abandoned).then(|| std::mem::take(&mut state.commands))
    }
}

/// Tells the checkpointer how much there is to do, and hears how long the log has become.
#[derive(Default)]
struct Checkpoints {
    state: Mutex<CheckpointState>,
    wake: Condvar,
}

#[derive(Default)]
struct CheckpointState {
    pages: usize,
    frames: i64,
    ended: bool,
}

impl Checkpoints {
    fn state(&self) -> MutexGuard<'_, CheckpointState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, connection: &Connection) {
        loop {
            let mut state = self
                .wake
                .wait_while(self.state(), |state| state.pages < CHECKPOINT_PAGES && !state.ended)
                .unwrap_or_else(PoisonError::into_inner);
            if state.ended {
                return;
            }
            state.pages = 0;
            drop(state);
            match disk::checkpoint(connection) {
                Ok((frames, _)) => self.state().frames = frames,
                Err(error) => tracing::warn!(%error, "checkpoint of the database failed, it will be tried again"),
            }
        }
    }
}

/// A compaction under way.
struct Compaction {
    to: i64,
    replies: Vec<Reply<()>>,
}

/// The writer's own state.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    connection: Connection,
    options: Options,
    /// The newest revision handed out, also to writes that then failed: no revision is used twice.
    revision: i64,
    reserved: i64,
    flush_at: Option<Instant>,
    /// Up to where compaction has been done on disk.
    compacted: i64,
    compaction: Option<Compaction>,
    checkpoints: Arc<Checkpoints>,
    room: Room,
    /// Whether the last write failed.
    failing: bool,
    _lock: File,
}

/// How much room the database has.
#[derive(Debug, Default)]
struct Room {
    /// Pages written since it was looked at.
    unseen: usize,
    /// Whether it holds more than it may.
    over: bool,
    /// Whether free pages are being given back.
    vacuuming: bool,
    relieved: Option<Instant>,
}

/// Writes checked and given revisions, not committed yet.
#[derive(Default)]
struct Batch {
    rows: Vec<(Row, Durability)>,
    events: Vec<Event>,
    replies: Vec<(Reply<i64>, i64)>,
    conflicts: Vec<(Reply<i64>, WriteError)>,
    /// Each key's newest row within the batch.
    newest: HashMap<Arc<str>, usize>,
    /// Older lazy rows that a durable write is based on, and which become durable with it.
    settle: Vec<Row>,
    permits: Vec<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        queue: Arc<Queue>,
        connection: Connection,
        reserved: i64,
        lock: File,
        options: Options,
    ) -> Self {
        let (revision, compacted) = {
            let index = shared.index();
            (index.revision, index.compacted)
        };
        Self {
            shared,
            queue,
            connection,
            options,
            revision,
            reserved,
            compacted,
            flush_at: None,
            compaction: None,
            checkpoints: Arc::default(),
            room: Room { unseen: SIZE_PAGES, ..Room::default() },
            failing: false,
            _lock: lock,
        }
    }

    /// Serves until closed or abandoned. `other` is the checkpointer's connection.
    pub(crate) fn run(mut self, other: Connection) {
        let checkpoints = Arc::clone(&self.checkpoints);
        let checkpointer =
            std::thread::Builder::new().name("store-checkpoint".to_owned()).spawn(move || checkpoints.run(&other));
        if let Err(error) = &checkpointer {
            tracing::error!(%error, "no thread for checkpoints, the write-ahead log will grow");
        }
        let close = self.serve();
        self.checkpoints.state().ended = true;
        self.checkpoints.wake.notify_one();
        if checkpointer.is_ok_and(|thread| thread.join().is_err()) {
            tracing::error!("the checkpointer panicked");
        }
        self.queue.abandon();
        self.queue.state().commands.clear();
        self.shared.hub().close();
        if let Some(reply) = close {
            let result = self.close();
            drop(self);
            drop(reply.send(result));
        }
    }

    /// Whether writes work: tries one if the last did not.
    fn probe(&mut self) -> Result<(), WriteError> {
        if !self.failing {
            return Ok(());
        }
        let tried = disk::touch(&mut self.connection).map_err(|e| explain(&self.shared.path, &e));
        self.failing = tried.is_err();
        tried
    }

    fn serve(&mut self) -> Option<Reply<()>> {
        loop {
            let timeout = match (self.compaction.is_some() || self.room.vacuuming, self.flush_at) {
                (true, _) => Some(Duration::ZERO),
                (false, Some(at)) => Some(at.saturating_duration_since(Instant::now())),
                (false, None) => None,
            };
            let mut commands = self.queue.take(timeout)?;
            while !commands.is_empty() {
                let mut batch = Batch::default();
                while let Some(command) = commands.pop_front() {
                    match command {
                        Command::Write { write, reply, permit } => {
                            batch.permits.push(permit);
                            self.stage(&mut batch, write, reply);
                        }
                        Command::Compact { revision, reply, permit } => {
                            drop(permit);
                            self.start_compaction(revision, Some(reply));
                        }
                        Command::Probe { reply, permit } => {
                            drop(permit);
                            drop(reply.send(self.probe()));
                        }
                        Command::Rewrite { reply, permit } => {
                            drop(permit);
                            self.commit(std::mem::take(&mut batch));
                            drop(reply.send(self.rewrite()));
                        }
                        Command::Close { reply, permit } => {
                            drop(permit);
                            self.commit(batch);
                            return Some(reply);
                        }
                    }
                    if batch.bytes > BATCH_BYTES {
                        break;
                    }
                }
                self.commit(batch);
            }
            self.upkeep();
        }
    }

    /// Checks one write and gives it its revision.
    fn stage(&mut self, batch: &mut Batch, write: Write, reply: Reply<i64>) {
        let present = self.present(batch, &write.key);
        let live = present.filter(|slot| slot.is_live());
        let expected = match write.expect {
            Expect::Absent => live.is_none(),
            Expect::Revision(revision) => live.is_some_and(|slot| slot.modified == revision),
        };
        let old = match live.map(|slot| self.row(batch, slot.modified)).transpose() {
            Ok(row) => row.flatten(),
            Err(error) => return batch.conflicts.push((reply, error)),
        };
        if !expected {
            let current = old.and_then(|row| {
                let (created, modified) = (row.created, row.revision);
                row.value.map(|value| Record { key: row.key, value, create_revision: created, mod_revision: modified })
            });
            return batch.conflicts.push((reply, WriteError::Conflict { current }));
        }
        if write.durability == Durability::Lazy && self.shared.index().lazy_bytes > 4 * LAZY_BYTES {
            return batch.conflicts.push((reply, WriteError::Full));
        }
        // What is deleted makes room; renewals take each other's place.
        let grows = write.value.is_some() && (write.durability == Durability::Sync || live.is_none());
        if grows && self.room.over {
            let limit_bytes = self.options.max_bytes;
            return batch.conflicts.push((reply, WriteError::TooLarge { limit_bytes }));
        }
        if write.durability == Durability::Sync {
            self.settle(batch, present);
        }
        self.revision += 1;
        let key = self.shared.index().intern(&write.key);
        batch.bytes += key.len() + write.value.as_ref().map_or(0, Bytes::len);
        let row = Row {
            revision: self.revision,
            created: live.map_or(self.revision, |slot| slot.created),
            previous: present.map_or(0, |slot| slot.modified),
            key: Arc::clone(&key),
            value: write.value,
        };
        batch.events.push(event(row.clone(), old.and_then(|row| row.value)));
        batch.newest.insert(key, batch.rows.len());
        batch.rows.push((row, write.durability));
        batch.replies.push((reply, self.revision));
    }

    fn present(&self, batch: &Batch, key: &str) -> Option<Slot> {
        match batch.newest.get(key) {
            Some(&at) => Some(batch.rows[at].0.slot()),
            None => self.shared.index().slot(key),
        }
    }

    fn row(&self, batch: &Batch, revision: i64) -> Result<Option<Row>, WriteError> {
        if let Ok(at) = batch.rows.binary_search_by_key(&revision, |(row, _)| row.revision) {
            return Ok(Some(batch.rows[at].0.clone()));
        }
        if let Some(row) = self.shared.index().lazy.get(&revision) {
            return Ok(Some(row.clone()));
        }
        disk::row(&self.connection, revision).map_err(|e| explain(&self.shared.path, &e))
    }

    /// Makes the lazy rows of a key durable together with a durable write that builds on them.
    fn settle(&self, batch: &mut Batch, newest: Option<Slot>) {
        let index = self.shared.index();
        let mut at = newest.map_or(0, |slot| slot.modified);
        loop {
            if let Ok(found) = batch.rows.binary_search_by_key(&at, |(row, _)| row.revision) {
                batch.rows[found].1 = Durability::Sync;
                at = batch.rows[found].0.previous;
            } else if let Some(row) = index.lazy.get(&at) {
                at = row.previous;
                if batch.settle.iter().all(|settled| settled.revision != row.revision) {
                    batch.settle.push(row.clone());
                }
            } else {
                return;
            }
        }
    }

    /// Commits a batch, then tells readers, watchers and callers, in this order.
    fn commit(&mut self, batch: Batch) {
        for (reply, error) in batch.conflicts {
            drop(reply.send(Err(error)));
        }
        if batch.rows.is_empty() {
            return;
        }
        let last_lazy = batch.rows.iter().rev().find(|(_, durability)| *durability == Durability::Lazy);
        let reserve = last_lazy.map(|(row, _)| row.revision + RESERVE).filter(|end| end - RESERVE > self.reserved);
        let durable =
            || batch.rows.iter().filter(|(_, durability)| *durability == Durability::Sync).map(|(row, _)| row);
        let rows = batch.settle.iter().chain(durable()).count();
        if rows > 0 || reserve.is_some() {
            let pages = rows * 2 + batch.bytes / 4096 + 2;
            if let Err(error) = self.append(batch.settle.iter().chain(durable()), reserve, pages) {
                for (reply, _) in batch.replies {
                    drop(reply.send(Err(error.clone())));
                }
                return;
            }
        }
        self.reserved = reserve.unwrap_or(self.reserved);
        {
            let mut index = self.index_mut();
            for row in &batch.settle {
                index.take_lazy(row.revision);
            }
            for (row, durability) in batch.rows {
                index.set(&row.key, row.slot());
                index.revision = row.revision;
                if durability == Durability::Lazy {
                    index.push_lazy(row);
                }
            }
        }
        if self.flush_at.is_none() && !self.shared.index().lazy.is_empty() {
            self.flush_at = Some(Instant::now() + self.options.flush_interval);
        }
        self.shared.hub().publish(&batch.events);
        for (reply, revision) in batch.replies {
            drop(reply.send(Ok(revision)));
        }
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.shared.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn append<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a Row>,
        reserve: Option<i64>,
        pages: usize,
    ) -> Result<(), WriteError> {
        let appended = disk::append(&mut self.connection, rows, reserve);
        if let Err(error) = appended {
            let error_for_caller = explain(&self.shared.path, &error);
            // Once for each failure of the disk, not for each write that it fails.
            if !std::mem::replace(&mut self.failing, true) {
                tracing::error!(%error, cause = %error_for_caller, "a write to the database failed");
            }
            return Err(error_for_caller);
        }
        if std::mem::take(&mut self.failing) {
            tracing::info!("writes to the database work again");
        }
        self.wrote(pages);
        Ok(())
    }

    fn wrote(&mut self, pages: usize) {
        self.room.unseen += pages;
        let mut state = self.checkpoints.state();
        state.pages += pages;
        let wake = state.pages >= CHECKPOINT_PAGES;
        let long = std::mem::take(&mut state.frames) > LONG_LOG_FRAMES;
        drop(state);
        if wake {
            self.checkpoints.wake.notify_one();
        }
        // Only a log that was copied to its end starts over, when nobody reads: see to both.
        if long {
            let _quiet = self.shared.quiet();
            if let Err(error) = disk::restart_log(&self.connection) {
                tracing::warn!(%error, "checkpoint of the database failed, it will be tried again");
            }
        }
    }

    /// What is due between batches: flushing lazy rows, and a step of compaction.
    fn upkeep(&mut self) {
        let (lazy_bytes, newest) = {
            let index = self.shared.index();
            (index.lazy_bytes, index.revision)
        };
        if lazy_bytes > LAZY_BYTES || self.flush_at.is_some_and(|at| at <= Instant::now()) {
            drop(self.flush());
        }
        if self.compaction.is_none() && newest - self.compacted > 2 * self.options.history {
            self.start_compaction(newest - self.options.history, None);
        }
        self.compact_step();
        self.look_at_size(newest);
        self.vacuum_step();
    }

    /// Sees whether the database is too large. If it is, history goes before writes are refused for long.
    fn look_at_size(&mut self, newest: i64) {
        if self.room.unseen < SIZE_PAGES && !self.room.over {
            return;
        }
        self.room.unseen = 0;
        let size = match disk::size(&self.connection) {
            Ok(size) => size,
            Err(error) => return tracing::warn!(%error, "the size of the database could not be read"),
        };
        self.shared.used_bytes.store(size.used_bytes(), Ordering::Relaxed);
        let over = size.used_bytes() > self.options.max_bytes;
        if over != std::mem::replace(&mut self.room.over, over) {
            match over {
                true => tracing::error!(bytes = size.used_bytes(), "the database has reached its size limit"),
                false => tracing::info!(bytes = size.used_bytes(), "the database has room again"),
            }
        }
        let due = self.room.relieved.is_none_or(|at| at.elapsed() >= RELIEF);
        if over && due && self.compaction.is_none() && newest > self.compacted {
            self.room.relieved = Some(Instant::now());
            self.start_compaction(newest, None);
        }
    }

    /// Gives some free pages back, when there are many and nothing else is to be done.
    fn vacuum_step(&mut self) {
        if !self.room.vacuuming || self.compaction.is_some() {
            return;
        }
        let step = disk::size(&self.connection).and_then(|size| {
            let more = size.free > SPARE_PAGES && size.free > size.pages / 8;
            if more {
                disk::vacuum(&self.connection, VACUUM_STEP.min(size.free - size.pages / 8))?;
            }
            Ok(more)
        });
        match step {
            Ok(more) => {
                self.room.vacuuming = more;
                if more {
                    self.wrote(VACUUM_STEP.unsigned_abs() as usize);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "free space of the database could not be given back");
                self.room.vacuuming = false;
            }
        }
    }

    /// Writes the lazy rows: of each key only the last, since nobody was promised the others.
    fn flush(&mut self) -> Result<(), WriteError> {
        self.flush_at = None;
        let pending: Vec<Row> = self.shared.index().lazy.values().cloned().collect();
        if pending.is_empty() {
            return Ok(());
        }
        let mut last: HashMap<Arc<str>, Row> = HashMap::with_capacity(pending.len());
        for mut row in pending.iter().cloned() {
            if let Some(before) = last.get(&row.key) {
                row.previous = before.previous;
            }
            last.insert(Arc::clone(&row.key), row);
        }
        let mut rows: Vec<Row> = last.into_values().collect();
        rows.sort_unstable_by_key(|row| row.revision);
        let bytes: usize = rows.iter().map(|row| row.value.as_ref().map_or(0, Bytes::len)).sum();
        let result = self.append(rows.iter(), None, rows.len() + bytes / 4096 + 2);
        if result.is_ok() {
            let mut index = self.index_mut();
            for row in &pending {
                index.take_lazy(row.revision);
            }
        } else {
            self.flush_at = Some(Instant::now() + self.options.flush_interval);
        }
        result
    }

    /// Finishes the compaction that is under way, and writes the files anew.
    fn rewrite(&mut self) -> Result<bool, WriteError> {
        while self.compaction.is_some() {
            self.compact_step();
        }
        let small = disk::bytes(&self.connection).map_err(|e| explain(&self.shared.path, &e))? <= REWRITE_BYTES;
        if small {
            disk::rewrite(&self.connection).map_err(|e| explain(&self.shared.path, &e))?;
        }
        Ok(small)
    }

    fn start_compaction(&mut self, revision: i64, reply: Option<Reply<()>>) {
        let to = {
            let mut index = self.index_mut();
            let to = revision.min(index.revision).max(index.compacted);
            // Raised before the first row goes, so that no reader takes a hole for an absence.
            index.compacted = to;
            to
        };
        // Lazy rows that are superseded or superseding must be where compaction sees them.
        drop(self.flush());
        let compaction = self.compaction.get_or_insert_with(|| Compaction { to, replies: Vec::new() });
        compaction.to = compaction.to.max(to);
        compaction.replies.extend(reply);
    }

    fn compact_step(&mut self) {
        let Some(compaction) = &self.compaction else { return };
        let (from, to) = (self.compacted, compaction.to.min(self.compacted + COMPACT_STEP));
        let result = if from < to {
            disk::compact(&mut self.connection, from, to, self.revision).map_err(|e| explain(&self.shared.path, &e))
        } else {
            Ok(Vec::new())
        };
        match result {
            Ok(keys) => {
                self.index_mut().drop_tombstones(&keys, to);
                self.compacted = to;
                if from < to {
                    self.wrote(COMPACT_STEP.unsigned_abs() as usize);
                }
                if to < compaction_end(&self.compaction) {
                    return;
                }
                self.room.unseen += SIZE_PAGES;
                // Worth it from a quarter of the file on.
                self.room.vacuuming = disk::size(&self.connection)
                    .is_ok_and(|size| size.free > SPARE_PAGES && size.free > size.pages / 4);
                self.end_compaction(Ok(()));
            }
            Err(error) => {
                tracing::warn!(%error, "compaction of the database failed, it will be tried again");
                self.end_compaction(Err(error));
            }
        }
    }

    fn end_compaction(&mut self, result: Result<(), WriteError>) {
        for reply in self.compaction.take().into_iter().flat_map(|compaction| compaction.replies) {
            drop(reply.send(result.clone()));
        }
    }

    fn close(&mut self) -> Result<(), WriteError> {
        self.end_compaction(Err(WriteError::Closed));
        self.flush()?;
        let revision = self.shared.index().revision.max(self.revision);
        disk::close(&mut self.connection, revision).map_err(|e| explain(&self.shared.path, &e))
    }
}

fn compaction_end(compaction: &Option<Compaction>) -> i64 {
    compaction.as_ref().map_or(0, |compaction| compaction.to)
}
