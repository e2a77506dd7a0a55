//! What is known in memory: where each key's newest row is, and the rows that are not on disk yet.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// A key's newest row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The revision of the row.
    pub(crate) modified: i64,
    /// The revision that created the key; 0 when the row says that the key was deleted.
    pub(crate) created: i64,
}

impl Slot {
    pub(crate) fn is_live(self) -> bool {
        self.created != 0
    }
}

/// One row of the log.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) revision: i64,
    pub(crate) key: Arc<str>,
    pub(crate) created: i64,
    /// The key's row before this one, 0 when there was none.
    pub(crate) previous: i64,
    /// `None` in the row of a deletion.
    pub(crate) value: Option<Bytes>,
}

impl Row {
    pub(crate) fn slot(&self) -> Slot {
        Slot { modified: self.revision, created: if self.value.is_some() { self.created } else { 0 } }
    }
}

/// The state shared by the writer (the only one to change it) and the readers.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Tombstones stay until compacted, so that a listing at an older revision finds the keys it needs.
    slots: BTreeMap<Arc<str>, Slot>,
    /// Rows acknowledged but not on disk, by revision.
    pub(crate) lazy: BTreeMap<i64, Row>,
    /// Bytes of values and keys in `lazy`.
    pub(crate) lazy_bytes: usize,
    /// The newest revision.
    pub(crate) revision: i64,
    /// Listings below this revision are refused.
    pub(crate) compacted: i64,
    /// Watches below this revision are refused: rows may have been lost in a crash there.
    pub(crate) watch_floor: i64,
}

impl Index {
    pub(crate) fn slot(&self, key: &str) -> Option<Slot> {
        self.slots.get(key).copied()
    }

    /// Records a key's newest row, keeping the one allocation of its name.
    pub(crate) fn set(&mut self, key: &Arc<str>, slot: Slot) {
        match self.slots.get_mut(&**key) {
            Some(old) => *old = slot,
            None => {
                self.slots.insert(Arc::clone(key), slot);
            }
        }
    }

    /// The index's own allocation of a key's name, so that copies of it elsewhere share it.
    pub(crate) fn intern(&self, key: &Arc<str>) -> Arc<str> {
        self.slots.get_key_value(&**key).map_or_else(|| Arc::clone(key), |(k, _)| Arc::clone(k))
    }

    /// Keys with `prefix`, after `start_after`, in order.
    pub(crate) fn range<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, Slot)> {
        let start = match start_after {
            Some(key) if key >= prefix => Bound::Excluded(key),
            _ => Bound::Included(prefix),
        };
        self.slots
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, slot)| (key, *slot))
    }

    pub(crate) fn push_lazy(&mut self, row: Row) {
        self.lazy_bytes += row_bytes(&row);
        self.lazy.insert(row.revision, row);
    }

    pub(crate) fn take_lazy(&mut self, revision: i64) {
        if let Some(row) = self.lazy.remove(&revision) {
            self.lazy_bytes -= row_bytes(&row);
        }
    }

    /// Forgets tombstones up to `revision`, whose rows are gone.
    pub(crate) fn drop_tombstones(&mut self, keys: &[Arc<str>], revision: i64) {
        for key in keys {
            if self.slot(key).is_some_and(|slot| !slot.is_live() && slot.modified <= revision) {
                self.slots.remove(&**key);
            }
        }
    }
}

fn row_bytes(row: &Row) -> usize {
    row.key.len() + row.value.as_ref().map_or(0, Bytes::len)
}
