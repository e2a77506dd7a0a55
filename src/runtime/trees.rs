//! Removal of directories that others have filled.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Removes a directory with everything in it; fine if there is none. However deep it is, this takes a bounded
/// stack and two descriptors: what lies deep is moved to the top first. Links are not followed, and what is
/// mounted below makes it fail.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(path),
        Err(errno) => return Err(errno.into()),
    };
    let mut number = 0_u64;
    loop {
        let below = clear(&top, None, &mut number)?;
        if below.is_empty() {
            return std::fs::remove_dir(path);
        }
        for name in below {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = openat(&top, &name, flags, Mode::empty())?;
            clear(&dir, Some(&top), &mut number)?;
            unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
        }
    }
}

/// Removes what is not a directory from `dir`. Directories are moved to `top`, or without one their names returned.
fn clear(dir: &OwnedFd, top: Option<&OwnedFd>, number: &mut u64) -> io::Result<Vec<CString>> {
    let mut below = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
            kind => kind,
        };
        match top {
            _ if kind != FileType::Directory => unlinkat(dir, name, AtFlags::empty())?,
            None => below.push(name.to_owned()),
            Some(top) => loop {
                *number += 1;
                // A directory gives way to another only if it is empty; then nothing is lost.
                match renameat(dir, name, top, format!(".removed-{number}")) {
                    Ok(()) => break,
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            },
        }
    }
    Ok(below)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rustix::fs::mkdirat;

    #[test]
    fn a_tree_deeper_than_any_stack_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("f"), "").unwrap();
        std::os::unix::fs::symlink(dir.path(), root.join("link")).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = open(&root, flags, Mode::empty()).unwrap();
        for _ in 0..5000 {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            mkdirat(&at, ".removed-1", Mode::RWXU).unwrap();
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        drop(at);
        remove_tree(&root).unwrap();
        assert!(dir.path().exists() && !root.exists());
        remove_tree(&root).unwrap();
    }
}
