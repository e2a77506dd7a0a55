//! What directories take on the disk.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files that are looked at in one directory; what is beyond is not counted.
const MAX_FILES: u64 = 1_000_000;
/// The unit in which the kernel counts a file's space.
const BLOCK: u64 = 512;

/// What a directory takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl std::ops::Add for Taken {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

/// Adds up a directory with all that is below it on the same file system; links are not followed, and what has
/// several names counts once.
pub(crate) fn taken(root: &Path) -> Taken {
    let mut out = Taken::default();
    let Ok(first) = fs::symlink_metadata(root) else { return out };
    let device = first.dev();
    let mut seen = HashSet::new();
    let mut left: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        // Gone since it was found, or of another file system.
        let Some(meta) = fs::symlink_metadata(&path).ok().filter(|meta| meta.dev() == device) else { continue };
        if out.inodes == MAX_FILES || (meta.nlink() > 1 && !meta.is_dir() && !seen.insert(meta.ino())) {
            continue;
        }
        out = out + Taken { bytes: meta.blocks() * BLOCK, inodes: 1 };
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_file_count_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(dir.path().join("outside"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside"), root.join("link")).unwrap();
        fs::write(root.join("sub/file"), vec![1; 64 << 10]).unwrap();
        fs::hard_link(root.join("sub/file"), root.join("again")).unwrap();
        let taken = taken(&root);
        assert_eq!(taken.inodes, 4);
        assert!((64 << 10..256 << 10).contains(&taken.bytes), "{taken:?}");
        assert_eq!(super::taken(&dir.path().join("absent")), Taken::default());
    }
}
