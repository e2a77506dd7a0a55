//! Reading: the newest state, the state at an older revision, and the changes between two revisions.

use crate::disk;
use crate::error::ReadError;
use crate::index::{Index, Row, Slot};
use crate::{Event, Page, Record};
use bytes::Bytes;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// Reads the index; a panic of the writer while it held the lock is not passed on.
pub(crate) fn read(index: &RwLock<Index>) -> RwLockReadGuard<'_, Index> {
    index.read().unwrap_or_else(PoisonError::into_inner)
}

fn io(error: rusqlite::Error) -> ReadError {
    ReadError::Io(error.to_string())
}

fn record(row: Row) -> Option<Record> {
    let value = row.value?;
    Some(Record { key: row.key, value, create_revision: row.created, mod_revision: row.revision })
}

/// The newest record of a key.
pub(crate) fn get(index: &RwLock<Index>, connection: &Connection, key: &str) -> Result<Option<Record>, ReadError> {
    loop {
        let slot = {
            let index = read(index);
            let Some(slot) = index.slot(key).filter(|slot| slot.is_live()) else { return Ok(None) };
            if let Some(row) = index.lazy.get(&slot.modified) {
                return Ok(record(row.clone()));
            }
            slot
        };
        if let Some(row) = disk::row(connection, slot.modified).map_err(io)? {
            return Ok(record(row));
        }
        // Replaced and compacted between the two steps: look again, unless the row is really gone.
        if read(index).slot(key) == Some(slot) {
            return Err(ReadError::Io(format!("row {} of {key} is missing", slot.modified)));
        }
    }
}

/// A page of the records under `prefix` after `start_after`.
pub(crate) fn list(
    index: &RwLock<Index>,
    connection: &Connection,
    prefix: &str,
    start_after: Option<&str>,
    limit: usize,
    at: Option<i64>,
) -> Result<Page, ReadError> {
    loop {
        let newest = read(index).revision;
        match list_at(index, connection, prefix, start_after, limit, at.unwrap_or(newest)) {
            // Compaction overtook a listing of the newest state: start over with what is newest now.
            Err(ReadError::Compacted { .. }) if at.is_none() => {}
            result => return result,
        }
    }
}

fn list_at(
    index: &RwLock<Index>,
    connection: &Connection,
    prefix: &str,
    start_after: Option<&str>,
    limit: usize,
    revision: i64,
) -> Result<Page, ReadError> {
    check_kept(&read(index), revision)?;
    let mut page = Page { records: Vec::new(), revision, more: false };
    let mut cursor: Option<Arc<str>> = start_after.map(Arc::from);
    loop {
        // A bounded part of the index at a time, so that the writer never waits long for the lock.
        let candidates: Vec<(Arc<str>, i64)> = {
            let index = read(index);
            index
                .range(prefix, cursor.as_deref())
                .take(512)
                .map(|(key, slot)| (Arc::clone(key), slot.modified))
                .collect()
        };
        let Some((last, _)) = candidates.last() else { return Ok(page) };
        cursor = Some(Arc::clone(last));
        for (key, newest) in candidates {
            let Some(row) = resolve(index, connection, newest, revision)? else { continue };
            let Some(mut found) = record(row) else { continue };
            if page.records.len() == limit {
                page.more = true;
                return Ok(page);
            }
            found.key = key;
            page.records.push(found);
        }
    }
}

fn check_kept(index: &Index, revision: i64) -> Result<(), ReadError> {
    if revision < index.compacted {
        return Err(ReadError::Compacted { requested: revision, oldest: index.compacted });
    }
    if revision > index.revision {
        return Err(ReadError::Future { requested: revision, newest: index.revision });
    }
    Ok(())
}

/// Follows a key's rows back from `newest` to the one that was valid at `revision`.
fn resolve(
    index: &RwLock<Index>,
    connection: &Connection,
    newest: i64,
    revision: i64,
) -> Result<Option<Row>, ReadError> {
    let mut at = newest;
    while at > 0 {
        let lazy = read(index).lazy.get(&at).cloned();
        if at <= revision {
            let row = match lazy {
                Some(row) => Some(row),
                None => disk::row(connection, at).map_err(io)?,
            };
            if row.is_none() {
                // Either a deletion that was compacted, or this revision was compacted just now.
                check_kept(&read(index), revision)?;
            }
            return Ok(row);
        }
        let previous = match lazy {
            Some(row) => Some(row.previous),
            None => disk::previous(connection, at).map_err(io)?,
        };
        let Some(previous) = previous else {
            check_kept(&read(index), revision)?;
            return Ok(None);
        };
        at = previous;
    }
    Ok(None)
}

/// How many records there were under `prefix` after `start_after` at a revision.
pub(crate) fn count(
    index: &RwLock<Index>,
    connection: &Connection,
    prefix: &str,
    start_after: Option<&str>,
    revision: i64,
) -> Result<usize, ReadError> {
    check_kept(&read(index), revision)?;
    let (mut count, mut cursor) = (0, start_after.map(Arc::<str>::from));
    loop {
        let candidates: Vec<(Arc<str>, Slot)> = {
            let index = read(index);
            index.range(prefix, cursor.as_deref()).take(512).map(|(key, slot)| (Arc::clone(key), slot)).collect()
        };
        let Some((last, _)) = candidates.last() else { break };
        cursor = Some(Arc::clone(last));
        for (_, slot) in candidates {
            let there = match slot.modified <= revision {
                true => slot.is_live(),
                false => existed(index, connection, slot.modified, revision)?,
            };
            count += usize::from(there);
        }
    }
    check_kept(&read(index), revision)?;
    Ok(count)
}

/// Whether a key had a value at `revision`, following its rows back from `newest` without reading values.
fn existed(index: &RwLock<Index>, connection: &Connection, newest: i64, revision: i64) -> Result<bool, ReadError> {
    let mut at = newest;
    while at > 0 {
        let lazy = read(index).lazy.get(&at).map(|row| (row.value.is_some(), row.previous));
        let outline = match lazy {
            Some(outline) => Some(outline),
            None => disk::outline(connection, at).map_err(io)?,
        };
        let Some((value, previous)) = outline else { return Ok(false) };
        if at <= revision {
            return Ok(value);
        }
        at = previous;
    }
    Ok(false)
}

/// Some of the changes under `prefix` after `after` up to `through`, and the revision to go on from.
pub(crate) fn changes(
    index: &RwLock<Index>,
    connection: &Connection,
    prefix: &str,
    after: i64,
    through: i64,
) -> Result<(Vec<Event>, i64), ReadError> {
    const ROWS: usize = 256;
    // Memory first: a row that moves to disk meanwhile is then seen twice, never missed.
    let lazy = read(index).lazy.range(after + 1..=through).map(|(_, row)| row.clone()).collect::<Vec<Row>>();
    let lazy = lazy.into_iter().filter(|row| row.key.starts_with(prefix));
    let stored = disk::rows(connection, prefix, after, through, ROWS).map_err(io)?;
    let upto = if stored.len() == ROWS { stored.last().map_or(through, |(row, _)| row.revision) } else { through };
    let mut merged: BTreeMap<i64, Event> = BTreeMap::new();
    for row in lazy.filter(|row| row.revision <= upto) {
        let previous = match resolve(index, connection, row.previous, i64::MAX) {
            Ok(previous) => previous.and_then(|row| row.value),
            Err(ReadError::Future { .. }) => None,
            Err(error) => return Err(error),
        };
        merged.insert(row.revision, event(row, previous));
    }
    for (row, previous) in stored {
        merged.insert(row.revision, event(row, previous));
    }
    Ok((merged.into_values().collect(), upto))
}

/// The event of a row that replaced `previous`.
pub(crate) fn event(row: Row, previous: Option<Bytes>) -> Event {
    Event { revision: row.revision, key: row.key, value: row.value, previous, create_revision: row.created }
}
