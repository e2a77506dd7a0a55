//! Bytes in, revisions out. The store knows keys, values and revisions, and no kinds.

mod disk;
mod error;
mod failure;
mod history;
mod index;
#[cfg(test)]
mod model;
mod open;
mod store;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

pub use error::{OpenError, ReadError, WatchError, WriteError};
pub use open::Options;
pub use store::Store;
pub use watch::Watch;

use bytes::Bytes;
use std::sync::Arc;

/// How soon a write must be on disk before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged only when a crash or power loss cannot lose it.
    Sync,
    /// Acknowledged from memory and flushed later: for data that churns for ever (Events, Lease renewals).
    Lazy,
}

/// One stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The full key, such as `/registry/pods/default/web`.
    pub key: Arc<str>,
    /// The value as it was written.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: i64,
    /// The revision that last wrote it.
    pub mod_revision: i64,
}

/// What a write requires of the key's present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key must not exist.
    Absent,
    /// The key must exist with this `mod_revision`.
    Revision(i64),
}

/// One compare-and-set.
#[derive(Debug, Clone)]
pub struct Write {
    /// The key to write.
    pub key: Arc<str>,
    /// What must hold for the write to happen.
    pub expect: Expect,
    /// The new value, or `None` to delete the key.
    pub value: Option<Bytes>,
    /// When to acknowledge.
    pub durability: Durability,
}

/// One change, delivered to watchers in order of revision, without gaps.
#[derive(Debug, Clone)]
pub struct Event {
    /// The change's revision; each change has its own.
    pub revision: i64,
    /// The key.
    pub key: Arc<str>,
    /// The new value; `None` when the key was deleted.
    pub value: Option<Bytes>,
    /// The value before; `None` when the key was created.
    pub previous: Option<Bytes>,
    /// The revision that created the key.
    pub create_revision: i64,
}

/// One page of a listing, all of it as of `revision`.
#[derive(Debug, Clone)]
pub struct Page {
    /// Records in key order.
    pub records: Vec<Record>,
    /// The revision of the snapshot.
    pub revision: i64,
    /// Whether more keys follow the last one.
    pub more: bool,
}
