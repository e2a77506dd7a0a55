//! Opening a database: who may, is it ours, is it whole.

use crate::disk;
use crate::error::OpenError;
use crate::index::Index;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// "naru" in the header's application id: tells our databases from others'.
const APPLICATION_ID: i64 = 0x6e61_7275;
/// The format written by this version, kept in the header's user version.
const FORMAT: i64 = 2;
/// What `auto_vacuum` is when free pages are given back on demand.
const INCREMENTAL: i64 = 2;

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many superseded revisions to keep for watches and listings at a revision, at least.
    pub history: i64,
    /// How long lazy writes may stay in memory.
    pub flush_interval: Duration,
    /// How large the database may become; writes beyond fail with [`crate::WriteError::TooLarge`], deletes go on.
    pub max_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { history: 10_000, flush_interval: Duration::from_secs(300), max_bytes: 16 << 30 }
    }
}

/// An opened database, before its threads start.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) index: Index,
    /// The end of the block of revisions reserved for lazy writes.
    pub(crate) reserved: i64,
    /// Held for as long as the store is open.
    pub(crate) lock: File,
}

pub(crate) fn open(path: &Path, options: &Options) -> Result<Opened, OpenError> {
    let lock = lock(path)?;
    check_header(path)?;
    let connection = connect(path)?;
    prepare(&connection, path, options)?;
    let loaded = disk::load(&connection).map_err(|e| classify(path, &e))?;
    let (index, reserved) = loaded.map_err(|disk::Damaged { key, revision }| OpenError::Corrupt {
        path: path.to_owned(),
        detail: format!("the value of {key} at revision {revision} is not what was written"),
    })?;
    Ok(Opened { connection, index, reserved, lock })
}

/// Takes the lock beside the database, and thereby proves that its directory can be written.
fn lock(path: &Path) -> Result<File, OpenError> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|source| OpenError::Unwritable { path: dir.to_owned(), source })?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push("-lock");
    let name = PathBuf::from(name);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(|source| OpenError::Unwritable { path: name.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(OpenError::Unwritable { path: name, source }),
    }
}

/// Looks at the first bytes before the engine does, which would take a short file for an empty database.
fn check_header(path: &Path) -> Result<(), OpenError> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(OpenError::Unwritable { path: path.to_owned(), source }),
    };
    let mut head = Vec::with_capacity(100);
    file.by_ref()
        .take(100)
        .read_to_end(&mut head)
        .map_err(|source| OpenError::Unwritable { path: path.to_owned(), source })?;
    let not_ours = |detail: &str| Err(OpenError::NotADatabase { path: path.to_owned(), detail: detail.to_owned() });
    match head.len() {
        0 => Ok(()),
        _ if !head.starts_with(b"SQLite format 3\0") => not_ours("it does not start like one"),
        n if n < 100 => not_ours("its header is cut off"),
        _ => Ok(()),
    }
}

/// Opens one more connection with the settings that all of them share.
pub(crate) fn connect(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| classify(path, &e))?;
    connection
        .execute_batch(
            "PRAGMA cache_size=-1024; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY; PRAGMA synchronous=FULL;",
        )
        .and_then(|()| connection.busy_timeout(Duration::from_secs(10)))
        .map_err(|e| classify(path, &e))?;
    Ok(connection)
}

fn prepare(connection: &Connection, path: &Path, options: &Options) -> Result<(), OpenError> {
    let fail = |e: rusqlite::Error| classify(path, &e);
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(fail);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(fail)?;
    let (application, format) = (number("application_id")?, number("user_version")?);
    if tables == 0 && application == 0 {
        create(connection).map_err(fail)?;
    } else if application != APPLICATION_ID {
        let detail = format!("its application id is {application:#x}");
        return Err(OpenError::NotADatabase { path: path.to_owned(), detail });
    } else if format > FORMAT {
        return Err(OpenError::NewerFormat { path: path.to_owned(), found: format, supported: FORMAT });
    } else {
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(fail)?;
        if verdict != "ok" {
            return Err(OpenError::Corrupt { path: path.to_owned(), detail: verdict });
        }
        if format < FORMAT {
            migrate(connection).map_err(fail)?;
        }
    }
    connection
        .execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit=16777216;")
        .map_err(fail)?;
    if number("auto_vacuum")? != INCREMENTAL {
        // Made before free pages could be given back. It works without, in a file that never shrinks.
        if let Err(error) = connection.execute_batch("PRAGMA auto_vacuum=INCREMENTAL; VACUUM;") {
            tracing::warn!(%error, "the database could not be rewritten, its file will not become smaller");
        }
    }
    // Deletes need room too, and so does what is being compacted.
    let most = options.max_bytes.saturating_add((options.max_bytes / 8).max(4 << 20));
    let pages = most / u64::try_from(number("page_size")?.max(512)).unwrap_or(4096);
    connection.pragma_update(None, "max_page_count", i64::try_from(pages).unwrap_or(i64::MAX)).map_err(fail)
}

/// From format 1: rows written before have no checksum, and are taken as they are.
fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN;
         ALTER TABLE log ADD COLUMN checksum INTEGER;
         PRAGMA user_version={FORMAT};
         COMMIT;"
    ))
}

fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL;")?;
    connection.execute_batch(&format!(
        "BEGIN;
         CREATE TABLE log (
             revision INTEGER PRIMARY KEY,
             key TEXT NOT NULL,
             created INTEGER NOT NULL,
             previous INTEGER NOT NULL,
             value BLOB,
             checksum INTEGER
         );
         CREATE TABLE state (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
         INSERT INTO state VALUES ('compacted', 0), ('reserved', 0), ('revision', 0);
         PRAGMA application_id={APPLICATION_ID};
         PRAGMA user_version={FORMAT};
         COMMIT;"
    ))
}

/// Words the engine's error for the operator.
fn classify(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    let detail = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => OpenError::Corrupt { path, detail },
        Some(ErrorCode::NotADatabase) => OpenError::NotADatabase { path, detail },
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            OpenError::Unwritable { path, source: io::Error::other(detail) }
        }
        // A table or column that should be there is not.
        Some(ErrorCode::Unknown) => OpenError::Corrupt { path, detail },
        _ => OpenError::Other { path, detail },
    }
}
