//! What can go wrong, with what the operator can do about it.

use crate::Record;
use std::path::PathBuf;

/// Why a database could not be opened. Nothing is ever deleted or repaired behind the operator's back.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or the file cannot be written.
    #[error("cannot write {}: {source}; check its owner, its mode and whether the file system is read-only", path.display())]
    Unwritable {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process has the database open.
    #[error("{} is in use by another running server; stop that one, or choose another data directory", path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The file is not a database at all, or the database of another program.
    #[error("{} is not a database of this program ({detail}); nothing was changed; move the file away, or choose another data directory", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        detail: String,
    },
    /// The file was written by a newer version.
    #[error("{} was written by a newer version (format {found}, this version reads up to {supported}); upgrade, or restore a backup made by this version", path.display())]
    NewerFormat {
        /// The database.
        path: PathBuf,
        /// The format found.
        found: i64,
        /// The newest format understood.
        supported: i64,
    },
    /// The database is damaged.
    #[error("{} is damaged ({detail}); nothing was changed; restore it from a backup, or move it and the files beside it (-wal, -shm) away to start empty", path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What the integrity check said.
        detail: String,
    },
    /// Anything else.
    #[error("cannot open {}: {detail}", path.display())]
    Other {
        /// The database.
        path: PathBuf,
        /// What the engine said.
        detail: String,
    },
}

/// Why a read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The requested revision is no longer kept.
    #[error("revision {requested} has been compacted, the oldest kept is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: i64,
        /// The oldest revision that can be read.
        oldest: i64,
    },
    /// The requested revision has not been reached.
    #[error("revision {requested} is in the future, the newest is {newest}")]
    Future {
        /// What was asked for.
        requested: i64,
        /// The newest revision.
        newest: i64,
    },
    /// The disk or the engine failed.
    #[error("read the database: {0}")]
    Io(String),
}

/// Why a write did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The key is not in the expected state; `current` is what is there.
    #[error("the key is not in the expected state")]
    Conflict {
        /// The present record, `None` when the key does not exist.
        current: Option<Record>,
    },
    /// The disk is full. Writes work again once there is room.
    #[error("the database has no space left")]
    Full,
    /// The database has reached its size limit. Deletes work, and all writes again once enough is deleted.
    #[error("the database has reached its size limit of {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// The file system became read-only.
    #[error("the database is read-only")]
    ReadOnly,
    /// The disk or the engine failed.
    #[error("write the database: {0}")]
    Io(String),
    /// The store has been closed.
    #[error("the database is closed")]
    Closed,
}

/// Why a watch could not start or go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WatchError {
    /// Events after the requested revision are no longer kept: list again.
    #[error("revision {requested} has been compacted, the oldest that can be watched from is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: i64,
        /// The oldest revision that can be watched from.
        oldest: i64,
    },
    /// The watcher did not keep up and was dropped; it may watch again from the last revision that it saw.
    #[error("the watcher fell behind")]
    Lagged,
    /// The store has been closed.
    #[error("the database is closed")]
    Closed,
    /// The disk or the engine failed.
    #[error("read the database: {0}")]
    Io(String),
}
