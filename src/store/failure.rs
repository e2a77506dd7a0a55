//! What failed writes have in common: what is behind the engine's error, and whether it is over.

use crate::error::WriteError;
use rusqlite::ErrorCode;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What the caller is told of an engine's error on the database at `path`.
pub(crate) fn explain(path: &Path, error: &rusqlite::Error) -> WriteError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => WriteError::Full,
        Some(ErrorCode::ReadOnly) => WriteError::ReadOnly,
        // The engine keeps the system's answer to itself: ask the system again.
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => match probe(path) {
            Ok(()) => WriteError::Io(error.to_string()),
            Err(cause) => of_system(&cause, error),
        },
        _ => WriteError::Io(error.to_string()),
    }
}

fn of_system(cause: &io::Error, error: &rusqlite::Error) -> WriteError {
    match cause.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => WriteError::Full,
        ErrorKind::ReadOnlyFilesystem => WriteError::ReadOnly,
        _ => WriteError::Io(format!("{error}; the file system says: {cause}")),
    }
}

/// Writes a page's worth beside the database.
fn probe(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push("-probe");
    let name = PathBuf::from(name);
    let written = File::create(&name).and_then(|mut file| file.write_all(&[0; 4096]));
    // It is empty of meaning, and overwritten the next time.
    let _ = fs::remove_file(&name);
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    fn io_failure() -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_WRITE), None)
    }

    #[test]
    fn what_the_system_says_is_told_in_our_words() {
        let of = |kind: ErrorKind| of_system(&io::Error::from(kind), &io_failure());
        assert!(matches!(of(ErrorKind::StorageFull), WriteError::Full));
        assert!(matches!(of(ErrorKind::QuotaExceeded), WriteError::Full));
        assert!(matches!(of(ErrorKind::ReadOnlyFilesystem), WriteError::ReadOnly));
        let WriteError::Io(text) = of(ErrorKind::PermissionDenied) else { panic!("another kind of error") };
        assert!(text.ends_with("; the file system says: permission denied"), "{text}");
    }

    #[test]
    fn a_directory_that_is_gone_is_named_as_such() {
        let WriteError::Io(text) = explain(Path::new("/nowhere/at/all/db"), &io_failure()) else {
            panic!("another kind of error")
        };
        assert!(text.contains("No such file or directory"), "{text}");
    }
}
