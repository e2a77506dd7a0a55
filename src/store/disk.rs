//! Every SQL statement on the log. The key index is in memory, so that the log needs none: rows are only
//! ever appended, found by revision, and deleted by compaction.

use crate::index::{Index, Row};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use std::sync::Arc;

/// A row whose bytes are not those that were written.
#[derive(Debug)]
pub(crate) struct Damaged {
    pub(crate) key: String,
    pub(crate) revision: i64,
}

/// What a row's contents add up to. Stored with the row: never to be changed without a new format.
fn checksum(revision: i64, key: &str, value: Option<&[u8]>) -> i64 {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |sum: u64, word: u64| (sum.rotate_left(23) ^ word).wrapping_mul(PRIME);
    let mut sum = mix(PRIME, revision.cast_unsigned());
    for part in [key.as_bytes(), value.unwrap_or_default()] {
        let (words, rest) = part.as_chunks::<8>();
        for word in words {
            sum = mix(sum, u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // The length tells what was padded from what was there, an empty value from none.
        sum = mix(mix(sum, u64::from_le_bytes(last)), part.len() as u64);
    }
    mix(sum, u64::from(value.is_some())).cast_signed()
}

/// Reads the whole log, checks its rows, and returns the index and the reserved revision.
pub(crate) fn load(connection: &Connection) -> rusqlite::Result<Result<(Index, i64), Damaged>> {
    let number = |name: &str| {
        connection.query_row("SELECT number FROM state WHERE name = ?", [name], |row| row.get::<_, i64>(0))
    };
    let (reserved, compacted) = (number("reserved")?, number("compacted")?);
    let mut index = Index::default();
    index.revision = number("revision")?;
    index.compacted = compacted;
    let mut statement =
        connection.prepare("SELECT revision, key, created, previous, value, checksum FROM log ORDER BY revision")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let revision: i64 = row.get(0)?;
        let key = row.get_ref(1)?.as_str()?;
        let value = row.get_ref(4)?.as_blob_or_null()?;
        if let Some(expected) = row.get::<_, Option<i64>>(5)?
            && checksum(revision, key, value) != expected
        {
            return Ok(Err(Damaged { key: key.to_owned(), revision }));
        }
        let created = if value.is_none() { 0 } else { row.get(2)? };
        index.set(&Arc::from(key), crate::index::Slot { modified: revision, created });
        index.revision = index.revision.max(revision);
    }
    if reserved > index.revision {
        // Not closed properly: lazy writes with revisions up to `reserved` may have been seen and lost.
        index.revision = reserved;
        index.watch_floor = reserved;
    }
    Ok(Ok((index, reserved)))
}

/// The row of a revision.
pub(crate) fn row(connection: &Connection, revision: i64) -> rusqlite::Result<Option<Row>> {
    connection
        .prepare_cached("SELECT revision, key, created, previous, value FROM log WHERE revision = ?")?
        .query_row([revision], read_row)
        .optional()
}

/// The previous row's revision, without reading the value.
pub(crate) fn previous(connection: &Connection, revision: i64) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT previous FROM log WHERE revision = ?")?
        .query_row([revision], |row| row.get(0))
        .optional()
}

/// Rows of keys with `prefix` after `after` up to `through`, in order, with the values that they replaced.
pub(crate) fn rows(
    connection: &Connection,
    prefix: &str,
    after: i64,
    through: i64,
    limit: usize,
) -> rusqlite::Result<Vec<(Row, Option<Bytes>)>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "SELECT l.revision, l.key, l.created, l.previous, l.value, p.value
             FROM log l LEFT JOIN log p ON p.revision = l.previous
             WHERE l.revision > ?1 AND l.revision <= ?2 AND substr(l.key, 1, length(?3)) = ?3
             ORDER BY l.revision LIMIT ?4",
        )?
        .query_map(params![after, through, prefix, limit], |row| Ok((read_row(row)?, blob(row, 5)?)))?
        .collect()
}

fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        revision: row.get(0)?,
        key: Arc::from(row.get_ref(1)?.as_str()?),
        created: row.get(2)?,
        previous: row.get(3)?,
        value: blob(row, 4)?,
    })
}

fn blob(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<Bytes>> {
    Ok(row.get_ref(column)?.as_blob_or_null()?.map(Bytes::copy_from_slice))
}

/// Appends rows and, if given, the reservation, in one durable transaction.
pub(crate) fn append<'a>(
    connection: &mut Connection,
    rows: impl Iterator<Item = &'a Row>,
    reserved: Option<i64>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO log (revision, key, created, previous, value, checksum) VALUES (?, ?, ?, ?, ?, ?)",
        )?;
        for row in rows {
            let value = row.value.as_deref();
            let sum = checksum(row.revision, &row.key, value);
            insert.execute(params![row.revision, &*row.key, row.created, row.previous, value, sum])?;
        }
        if let Some(reserved) = reserved {
            set(&transaction, "reserved", reserved)?;
        }
    }
    transaction.commit()
}

fn set(connection: &Connection, name: &str, number: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE state SET number = ? WHERE name = ?")?.execute(params![number, name])?;
    Ok(())
}

/// Deletes what rows after `from` up to `to` superseded, and deletions among them. Returns the keys deleted.
pub(crate) fn compact(connection: &mut Connection, from: i64, to: i64, newest: i64) -> rusqlite::Result<Vec<Arc<str>>> {
    let transaction = connection.transaction()?;
    transaction
        .prepare_cached(
            "DELETE FROM log WHERE revision IN
             (SELECT previous FROM log WHERE revision > ? AND revision <= ? AND previous > 0)",
        )?
        .execute([from, to])?;
    let keys = transaction
        .prepare_cached("DELETE FROM log WHERE revision > ? AND revision <= ? AND value IS NULL RETURNING key")?
        .query_map([from, to], |row| Ok(Arc::from(row.get_ref(0)?.as_str()?)))?
        .collect::<rusqlite::Result<Vec<Arc<str>>>>()?;
    set(&transaction, "compacted", to)?;
    // The newest row may be among the deleted: revisions must not go back.
    set(&transaction, "revision", newest)?;
    transaction.commit()?;
    Ok(keys)
}

/// How large the database is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) pages: i64,
    /// Pages that hold nothing.
    pub(crate) free: i64,
    pub(crate) page_bytes: i64,
}

impl Size {
    /// Bytes that hold something.
    pub(crate) fn used_bytes(self) -> u64 {
        u64::try_from((self.pages - self.free).saturating_mul(self.page_bytes)).unwrap_or(0)
    }
}

/// Looks at the database's header.
pub(crate) fn size(connection: &Connection) -> rusqlite::Result<Size> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok(Size { pages: number("page_count")?, free: number("freelist_count")?, page_bytes: number("page_size")? })
}

/// Gives up to so many free pages back to the file system.
pub(crate) fn vacuum(connection: &Connection, pages: i64) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// Writes something, durably. The same value again would not reach the disk.
pub(crate) fn touch(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction
        .execute("INSERT INTO state VALUES ('touched', 1) ON CONFLICT (name) DO UPDATE SET number = number + 1", [])?;
    transaction.commit()
}

/// Whether the row of a revision holds a value, and the row before it.
pub(crate) fn outline(connection: &Connection, revision: i64) -> rusqlite::Result<Option<(bool, i64)>> {
    connection
        .prepare_cached("SELECT value IS NOT NULL, previous FROM log WHERE revision = ?")?
        .query_row([revision], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Records an orderly end: no revision beyond `revision` was ever handed out.
pub(crate) fn close(connection: &mut Connection, revision: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    set(&transaction, "revision", revision)?;
    set(&transaction, "reserved", 0)?;
    transaction.commit()?;
    restart_log(connection)
}

/// The size of the database.
pub(crate) fn bytes(connection: &Connection) -> rusqlite::Result<i64> {
    size(connection).map(|size| size.pages * size.page_bytes)
}

/// Writes the database anew and empties the write-ahead log.
pub(crate) fn rewrite(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("VACUUM")?;
    restart_log(connection)
}

/// Copies what it can from the write-ahead log into the database without waiting for anybody.
/// Returns the frames in the log and how many of them have been copied.
pub(crate) fn checkpoint(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))
}

/// Copies all of the write-ahead log into the database and empties it.
pub(crate) fn restart_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}
