//! Small files written so that a crash leaves the old content or the new, never a part.

use anyhow::{Context, Result};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Creates a directory and its parents, private to root.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot create the directory {}", path.display()))
}

/// Replaces `path` by `content` with the given mode: written beside, flushed to disk, renamed over.
pub(crate) fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let parent = path.parent().context("a file path has a parent")?;
    let mut name = path.file_name().context("a file path has a name")?.to_os_string();
    name.push(".new");
    let beside = parent.join(name);
    let write = || -> std::io::Result<()> {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        fs::File::open(parent)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The file's content, or `None` when it does not exist.
pub(crate) fn read_optional(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_private() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("token");
        write_atomic(&path, b"one", 0o600)?;
        // What a crash in the middle of an earlier write leaves behind is no obstacle.
        fs::write(dir.path().join("token.new"), "half")?;
        write_atomic(&path, b"two", 0o600)?;
        assert_eq!(read_optional(&path)?.as_deref(), Some("two"));
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path())?.count(), 1);
        assert_eq!(read_optional(&dir.path().join("absent"))?, None);
        Ok(())
    }
}
