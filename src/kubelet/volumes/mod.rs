//! Volumes of a pod: where they are on the node, how they are made and removed.

pub mod atomic;
pub mod payload;

use k8s_openapi::api::core::v1::{Pod, Volume};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a volume cannot be set up; the text follows `MountVolume.SetUp failed for volume "x" : `.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// With which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The path on the host is not what it should be.
    #[error("hostPath type check failed: {} is not a {kind}", path.display())]
    HostPath {
        /// Which path.
        path: PathBuf,
        /// What it should be.
        kind: &'static str,
    },
    /// Contents are missing.
    #[error(transparent)]
    Payload(#[from] payload::PayloadError),
    /// A kind of volume that this node does not have.
    #[error("no volume plugin matched")]
    Unsupported,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { path, source }
}

/// The directory below the pod's that a kind of volume has, and whether it lives in memory.
fn plugin(volume: &Volume) -> Option<(&'static str, bool)> {
    if let Some(empty) = &volume.empty_dir {
        return Some(("kubernetes.io~empty-dir", empty.medium.as_deref() == Some("Memory")));
    }
    if volume.config_map.is_some() {
        return Some(("kubernetes.io~configmap", false));
    }
    if volume.secret.is_some() {
        return Some(("kubernetes.io~secret", true));
    }
    if volume.projected.is_some() {
        return Some(("kubernetes.io~projected", true));
    }
    volume.downward_api.as_ref().map(|_| ("kubernetes.io~downward-api", true))
}

/// Where a volume is on the node.
pub fn path(pod_dir: &Path, volume: &Volume) -> Option<PathBuf> {
    if let Some(host) = &volume.host_path {
        return Some(PathBuf::from(&host.path));
    }
    plugin(volume).map(|(plugin, _)| pod_dir.join("volumes").join(plugin).join(&volume.name))
}

/// Makes the place of a volume: its directory, its memory file system, or the check of a host path. Idempotent.
pub fn set_up(pod: &Pod, pod_dir: &Path, volume: &Volume) -> Result<(), VolumeError> {
    if let Some(host) = &volume.host_path {
        return host_path(Path::new(&host.path), host.type_.as_deref().unwrap_or_default());
    }
    let (_, memory) = plugin(volume).ok_or(VolumeError::Unsupported)?;
    let dir = path(pod_dir, volume).ok_or(VolumeError::Unsupported)?;
    let mut fresh = !dir.exists();
    fs::create_dir_all(&dir).map_err(io_error(&dir))?;
    if memory && !is_mount_point(&dir) {
        fresh = true;
        let size = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()).map(crate::pod::resources::units);
        let data = size.filter(|s| *s > 0).map(|s| format!("size={s}"));
        let data = data.and_then(|d| std::ffi::CString::new(d).ok());
        mount("tmpfs", &dir, "tmpfs", MountFlags::empty(), data.as_deref()).map_err(|e| io_error(&dir)(e.into()))?;
    }
    // Once made, the permissions of a writable one are the pod's own business.
    if fresh {
        let group = fs_group(pod);
        if let Some(group) = group {
            std::os::unix::fs::lchown(&dir, None, Some(group)).map_err(io_error(&dir))?;
        }
        // What is filled by the node is in a fresh memory file system, with the bit that those have.
        let base = if memory && volume.empty_dir.is_none() { 0o1777 } else { 0o777 };
        let mode = if group.is_some() { base | 0o2000 } else { base };
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).map_err(io_error(&dir))?;
    }
    Ok(())
}

/// Fills a volume whose contents come from the API. Returns whether anything changed.
pub fn fill(pod: &Pod, pod_dir: &Path, volume: &Volume, sources: &payload::Sources) -> Result<bool, VolumeError> {
    let Some(payload) = payload::payload(pod, volume, sources)? else { return Ok(false) };
    let dir = path(pod_dir, volume).ok_or(VolumeError::Unsupported)?;
    atomic::write(&dir, &payload, fs_group(pod)).map_err(io_error(&dir))
}

fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec.as_ref()?.security_context.as_ref()?.fs_group.map(|g| g as u32)
}

/// Checks or makes a path on the host by its type.
fn host_path(path: &Path, kind: &str) -> Result<(), VolumeError> {
    let meta = fs::metadata(path);
    let fail = |kind| Err(VolumeError::HostPath { path: path.to_owned(), kind });
    let holds = |check: fn(&fs::FileType) -> bool| meta.as_ref().is_ok_and(|m| check(&m.file_type()));
    match kind {
        "DirectoryOrCreate" if meta.is_err() => {
            fs::create_dir_all(path).map_err(io_error(path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io_error(path))
        }
        "FileOrCreate" if meta.is_err() => fs::File::create(path).map(drop).map_err(io_error(path)),
        "Directory" | "DirectoryOrCreate" if !holds(fs::FileType::is_dir) => fail("directory"),
        "File" | "FileOrCreate" if !holds(fs::FileType::is_file) => fail("file"),
        "Socket" if !holds(FileTypeExt::is_socket) => fail("socket file"),
        "CharDevice" if !holds(FileTypeExt::is_char_device) => fail("character device"),
        "BlockDevice" if !holds(FileTypeExt::is_block_device) => fail("block device"),
        _ => Ok(()),
    }
}

/// Whether something is mounted at `dir`.
pub fn is_mount_point(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::symlink_metadata(path).map(|m| m.dev()).ok();
    dir.parent().is_some_and(|parent| device(dir).is_some() && device(dir) != device(parent))
}

/// Removes a pod's directory with all its volumes. What is mounted below is unmounted first and never deleted.
pub fn tear_down(pod_dir: &Path) -> io::Result<()> {
    for plugin in fs::read_dir(pod_dir.join("volumes")).into_iter().flatten() {
        for volume in fs::read_dir(plugin?.path())? {
            unmount_all(&volume?.path())?;
        }
    }
    for container in fs::read_dir(pod_dir.join("volume-subpaths")).into_iter().flatten() {
        for mount in fs::read_dir(container?.path())? {
            unmount_all(&mount?.path())?;
        }
    }
    match fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn unmount_all(dir: &Path) -> io::Result<()> {
    // A propagated mount may lie several times on one directory.
    for _ in 0..16 {
        if !is_mount_point(dir) {
            return Ok(());
        }
        unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Err(io::Error::other(format!("{} stays mounted", dir.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn empty_dirs_have_exact_modes() {
        let dir = tempfile::tempdir().unwrap();
        let volume: Volume = serde_json::from_value(json!({"name": "v", "emptyDir": {}})).unwrap();
        set_up(&Pod::default(), dir.path(), &volume).unwrap();
        let made = path(dir.path(), &volume).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o777);
        fs::set_permissions(&made, fs::Permissions::from_mode(0o700)).unwrap();
        set_up(&Pod::default(), dir.path(), &volume).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o700);
        tear_down(dir.path()).unwrap();
        assert!(!made.exists());
    }

    #[test]
    fn host_paths_are_checked_by_type() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        assert!(host_path(&file, "").is_ok());
        let text = host_path(&file, "Directory").unwrap_err().to_string();
        assert_eq!(text, format!("hostPath type check failed: {} is not a directory", file.display()));
        host_path(&file, "FileOrCreate").unwrap();
        assert!(host_path(&file, "File").is_ok());
        assert!(host_path(&file, "DirectoryOrCreate").is_err());
        host_path(&dir.path().join("a/b"), "DirectoryOrCreate").unwrap();
        assert!(dir.path().join("a/b").is_dir());
    }

    #[test]
    fn unknown_kinds_are_refused() {
        let volume: Volume = serde_json::from_value(json!({"name": "v", "nfs": {"server": "s", "path": "/"}})).unwrap();
        assert!(matches!(set_up(&Pod::default(), Path::new("/nonexistent"), &volume), Err(VolumeError::Unsupported)));
    }
}
