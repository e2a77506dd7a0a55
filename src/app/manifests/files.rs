//! The files below the directory, and the objects in them.

use anyhow::{Context, Result, bail};
use naru_kubectl::manifests;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Directories below each other that are looked into.
const DEPTH: usize = 8;
/// Files that are looked at.
const FILES: usize = 4096;
/// Larger than any sensible set of objects.
const BYTES: u64 = 16 << 20;

/// By what a file is known to have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
    size: u64,
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            size: meta.size(),
        }
    }
}

/// A file with objects.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Its path below the directory.
    pub(super) name: String,
    path: PathBuf,
    pub(super) stamp: Stamp,
}

/// The directory and those below it.
pub(super) fn directories(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    let mut level = found.clone();
    for _ in 0..DEPTH {
        let below = level.iter().flat_map(|dir| entries(dir).unwrap_or_default());
        level = below.filter(|path| path.is_dir()).collect();
        found.extend(level.iter().cloned());
    }
    found.truncate(FILES);
    found
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    entries.sort();
    Ok(entries)
}

/// All files with objects, in the order of their names, but for those that are to be skipped.
pub(super) fn scan(root: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for dir in directories(root) {
        for path in entries(&dir).with_context(|| dir.display().to_string())? {
            let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            let ends = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
            if hidden || !matches!(ends, "yaml" | "yml" | "json") || skip(&path).exists() {
                continue;
            }
            // It may have gone since.
            let Ok(meta) = path.metadata() else { continue };
            if !meta.is_file() {
                continue;
            }
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            found.push(Found { name, stamp: Stamp::of(&meta), path });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if found.len() > FILES {
        bail!("more than {FILES} files in {}", root.display());
    }
    Ok(found)
}

fn skip(path: &Path) -> PathBuf {
    let mut skip = path.as_os_str().to_owned();
    skip.push(".skip");
    skip.into()
}

/// The objects of a file, and the checksum of its text.
pub(super) fn read(file: &Found) -> Result<(Vec<Value>, String)> {
    if file.stamp.size > BYTES {
        bail!("the file is larger than {BYTES} bytes");
    }
    let text = std::fs::read_to_string(&file.path)?;
    let objects = manifests::objects(&text, &file.name)?;
    for object in &objects {
        if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
            bail!("{} without a name", object["kind"].as_str().unwrap_or_default());
        }
    }
    let digest = Sha256::digest(text.as_bytes());
    Ok((objects, digest.iter().map(|byte| format!("{byte:02x}")).collect()))
}
