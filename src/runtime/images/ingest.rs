//! Places where something is being made, which no crash leaves behind for long.

use super::error::ImageError;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory of this process's own; deleted when dropped, or by the next `clean` if the process died.
#[derive(Debug)]
pub(super) struct Ingest {
    dir: PathBuf,
    /// Locked for as long as the directory is in use.
    _lock: File,
}

impl Ingest {
    /// Makes one in the store at `store`. Must not be called with the store's exclusive lock held.
    pub(super) fn create(store: &Path) -> Result<Self, ImageError> {
        // Shared, so that no other process cleans up between the directory and its lock.
        let _guard = super::store::lock(store, false)?;
        let name = loop {
            let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            if !store.join("ingest").join(&name).exists() {
                break name;
            }
        };
        let dir = store.join("ingest").join(name);
        std::fs::create_dir(&dir).map_err(ImageError::io("create", &dir))?;
        let path = dir.join("lock");
        let lock = File::create(&path).map_err(ImageError::io("create", &path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|errno| ImageError::io("lock", path)(errno.into()))?;
        super::crash::point("ingest made");
        Ok(Self { dir, _lock: lock })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// Removes what dead processes left. Needs the store's exclusive lock.
    pub(super) fn clean(store: &Path) -> Result<(), ImageError> {
        for dir in super::store::read_dir(&store.join("ingest"))? {
            let alive = match File::open(dir.join("lock")) {
                Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err(),
                Err(_) => false,
            };
            if !alive {
                tracing::info!(path = %dir.display(), "removing what an interrupted pull left");
                crate::remove_tree(&dir).map_err(ImageError::io("remove", &dir))?;
            }
        }
        for kind in ["images", "names"] {
            for file in super::store::read_dir(&store.join(kind))? {
                if file.extension().is_some_and(|ext| ext == "new") {
                    std::fs::remove_file(&file).map_err(ImageError::io("remove", &file))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Err(error) = crate::remove_tree(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "could not remove");
        }
    }
}

/// Replaces a small file; readers and crashes see the old or the new one.
pub(super) fn write_atomically(path: &Path, contents: &[u8]) -> io::Result<()> {
    let new = path.with_extension(format!("{}-{}.new", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let mut file = File::create(&new)?;
    file.write_all(contents)?;
    file.sync_data()?;
    std::fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
