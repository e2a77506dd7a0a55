//! Root file systems of containers: an overlay of an image's layers below a writable directory.

mod overlay;

pub use overlay::is_mounted;

use crate::images::{Image, ImageError, blocking, crash, lock, read_dir};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Where the store is seen with translated owners while a root file system is mounted.
const TRANSLATED: &str = "translated";

/// The writable layers and their mounts.
#[derive(Debug, Clone)]
pub struct Snapshots {
    dir: PathBuf,
    mounts: PathBuf,
}

impl Snapshots {
    /// `dir` is the image store's own directory, below which the writable layers are kept, so that a layer
    /// in use is never removed. Root file systems are mounted below `mounts`, in the run directory.
    pub fn open(dir: &Path, mounts: &Path) -> Result<Self, ImageError> {
        for path in [&dir.join("snapshots"), mounts] {
            std::fs::create_dir_all(path).map_err(ImageError::io("create", path))?;
        }
        Ok(Self { dir: dir.to_owned(), mounts: mounts.to_owned() })
    }

    /// Makes and mounts a root file system for a container. Idempotent: one that was written to and lost
    /// its mount (by a reboot) is mounted again as it was.
    ///
    /// `users`: the file of a namespace that is owned by the container's user namespace, by which the owners of
    /// the files are translated.
    pub async fn prepare(
        &self,
        container_id: &str,
        image: &Image,
        users: Option<&Path>,
    ) -> Result<PathBuf, ImageError> {
        let (this, id, layers) = (self.clone(), checked(container_id)?.to_owned(), image.layers.clone());
        let users = users.map(Path::to_owned);
        blocking(move || this.prepare_now(&id, &layers, users.as_deref())).await
    }

    /// Makes the places of a snapshot and records its layers, under the lock that removals take, so that these
    /// stay. Returns where it is to be mounted.
    fn record(&self, id: &str, layers: &[PathBuf]) -> Result<PathBuf, ImageError> {
        let (snapshot, target) = (self.snapshot(id), self.rootfs(id));
        let _guard = lock(&self.dir, false)?;
        if let Some(gone) = layers.iter().find(|layer| !layer.is_dir()) {
            return Err(ImageError::Content(format!("layer {} has been removed", gone.display())));
        }
        for path in [snapshot.join("upper"), snapshot.join("work"), target.clone()] {
            std::fs::create_dir_all(&path).map_err(ImageError::io("create", &path))?;
        }
        let list: Vec<String> = layers.iter().map(|layer| layer.to_string_lossy().into_owned()).collect();
        let record = snapshot.join("layers");
        std::fs::write(&record, list.join("\n")).map_err(ImageError::io("write", &record))?;
        crash::point("snapshot recorded");
        Ok(target)
    }

    fn prepare_now(&self, id: &str, layers: &[PathBuf], users: Option<&Path>) -> Result<PathBuf, ImageError> {
        let (snapshot, target) = (self.snapshot(id), self.record(id, layers)?);
        if overlay::is_mounted(&target)? {
            return Ok(target);
        }
        let (upper, work) = (snapshot.join("upper"), snapshot.join("work"));
        let mount = |layers: &[PathBuf]| {
            // The overlay's root takes the owner and mode of the upper directory.
            if let Some(top) = layers.last() {
                copy_root_mode(top, &upper)?;
            }
            overlay::mount(layers, &upper, &work, &target)
        };
        match users {
            None => mount(layers)?,
            // The upper directory is not translated: the kernel itself makes things there, as the host's root. What
            // the container writes has its ids of the host, which are the pod's for life.
            Some(users) => self.translated(&snapshot, users, |at| {
                mount(&layers.iter().map(|layer| at(layer)).collect::<Result<Vec<_>, _>>()?)
            })?,
        }
        crash::point("root mounted");
        Ok(target)
    }

    /// Lets `mount` use the store's directories with translated owners: it is told where each of them then is.
    fn translated(
        &self,
        snapshot: &Path,
        users: &Path,
        mount: impl FnOnce(&dyn Fn(&Path) -> Result<PathBuf, ImageError>) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        if !crate::idmap::translates_layers() {
            return Err(ImageError::Content(
                "user namespaces of pods (hostUsers: false) take Linux 5.19 and a user.max_user_namespaces above 0: \
                 update the kernel, or leave hostUsers out"
                    .to_owned(),
            ));
        }
        let place = snapshot.join(TRANSLATED);
        let owner = crate::idmap::owner(users).map_err(ImageError::io("open the user namespace of", users))?;
        // One mount for all layers: they are below one directory.
        let _mount = crate::idmap::Translated::new(&self.dir, &place, &owner)
            .map_err(ImageError::io("translate the owners (MOUNT_ATTR_IDMAP) of", &self.dir))?;
        crash::point("layers translated");
        mount(&|path| {
            let below = path.strip_prefix(&self.dir).map_err(|_| {
                ImageError::Content(format!("layer {} is not in the store: no user namespace", path.display()))
            })?;
            Ok(place.join(below))
        })
    }

    /// Mounts an image for reading alone, as a volume of containers. Idempotent; removed like a root file system.
    /// `users` as in [`Snapshots::prepare`].
    pub async fn view(&self, id: &str, image: &Image, users: Option<&Path>) -> Result<PathBuf, ImageError> {
        let (this, id, layers) = (self.clone(), checked(id)?.to_owned(), image.layers.clone());
        let users = users.map(Path::to_owned);
        blocking(move || {
            let mounted = this.rootfs(&id);
            // What is mounted stays, and its layers with it, though the image's name may mean another by now.
            if mounted.exists() && overlay::is_mounted(&mounted)? {
                return Ok(mounted);
            }
            let target = this.record(&id, &layers)?;
            let snapshot = this.snapshot(&id);
            match users {
                None => overlay::mount_view(&layers, &snapshot.join("upper"), &target)?,
                Some(users) => this.translated(&snapshot, &users, |at| {
                    let layers = layers.iter().map(|layer| at(layer)).collect::<Result<Vec<_>, _>>()?;
                    overlay::mount_view(&layers, &at(&snapshot.join("upper"))?, &target)
                })?,
            }
            Ok(target)
        })
        .await
    }

    /// Where the root file system of a container is mounted while it exists.
    pub fn rootfs(&self, container_id: &str) -> PathBuf {
        self.mounts.join(container_id)
    }

    /// The directory with what a container wrote, for its usage of disk space.
    pub fn upper(&self, container_id: &str) -> PathBuf {
        self.snapshot(container_id).join("upper")
    }

    /// Unmounts a container's root file system and deletes what it wrote. Idempotent.
    pub async fn remove(&self, container_id: &str) -> Result<(), ImageError> {
        let (this, id) = (self.clone(), checked(container_id)?.to_owned());
        blocking(move || this.remove_now(&id)).await
    }

    fn remove_now(&self, id: &str) -> Result<(), ImageError> {
        let (snapshot, target) = (self.snapshot(id), self.rootfs(id));
        overlay::unmount(&target)?;
        crash::point("root unmounted");
        // Never recursive: if something is mounted there after all, it is not ours to delete.
        match std::fs::remove_dir(&target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ImageError::io("remove", target)(error));
            }
            _ => {}
        }
        crash::point("mount point removed");
        // What a death in the middle of mounting may have left.
        overlay::unmount(&snapshot.join(TRANSLATED))?;
        crate::remove_tree(&snapshot).map_err(ImageError::io("remove", snapshot))
    }

    /// Removes all root file systems, mounted or left by a crash or a reboot, except those of `keep`.
    pub async fn retain(&self, keep: &HashSet<String>) -> Result<(), ImageError> {
        let (this, keep) = (self.clone(), keep.clone());
        blocking(move || {
            let mut first_error = None;
            for path in read_dir(&this.dir.join("snapshots"))?.into_iter().chain(read_dir(&this.mounts)?) {
                let Some(id) = path.file_name().and_then(|name| name.to_str()).filter(|id| !keep.contains(*id)) else {
                    continue;
                };
                // One that resists must not keep the others.
                if let Err(error) = this.remove_now(id) {
                    tracing::warn!(id, %error, "could not remove a stale root file system");
                    first_error.get_or_insert(error);
                }
            }
            first_error.map_or(Ok(()), Err)
        })
        .await
    }

    fn snapshot(&self, id: &str) -> PathBuf {
        self.dir.join("snapshots").join(id)
    }
}

/// The layers that containers' root file systems are made of, for the collection of garbage in the store at `dir`.
pub(crate) fn layers_in_use(dir: &Path) -> Result<HashSet<PathBuf>, ImageError> {
    let mut layers = HashSet::new();
    for snapshot in read_dir(&dir.join("snapshots"))? {
        if let Ok(list) = std::fs::read_to_string(snapshot.join("layers")) {
            layers.extend(list.lines().map(PathBuf::from));
        }
    }
    Ok(layers)
}

/// Ids become names of directories.
fn checked(id: &str) -> Result<&str, ImageError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > 128 || id.starts_with('.') || !id.bytes().all(fine) {
        return Err(ImageError::Content(format!("{id:?} is not a container id")));
    }
    Ok(id)
}

fn copy_root_mode(from: &Path, to: &Path) -> Result<(), ImageError> {
    use std::os::unix::fs::MetadataExt;
    let meta = from.metadata().map_err(ImageError::io("read", from))?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(meta.uid()), rustix::fs::Gid::from_raw(meta.gid()));
    let mode = rustix::fs::Mode::from_raw_mode(meta.mode() & 0o7777);
    rustix::fs::chown(to, Some(uid), Some(gid))
        .and_then(|()| rustix::fs::chmod(to, mode))
        .map_err(|errno| ImageError::io("change", to)(errno.into()))
}

#[cfg(test)]
pub(crate) mod tests;
