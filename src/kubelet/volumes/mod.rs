//! Volumes of a pod: where they are on the node, how they are made and removed.

pub mod atomic;
mod crash;
#[cfg(test)]
mod deaths;
pub(crate) mod host_path;
pub mod payload;
pub mod subpath;

use k8s_openapi::api::core::v1::{Pod, Volume};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, unmount,
};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
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
    /// The path on the host is not what it should be, or something is asked for that cannot be had.
    #[error("{0}")]
    HostPath(String),
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

/// Under which name volumes of a kind are counted.
pub fn plugin_name(volume: &Volume) -> &'static str {
    match plugin(volume) {
        Some(("kubernetes.io~empty-dir", _)) => "kubernetes.io/empty-dir",
        Some(("kubernetes.io~configmap", _)) => "kubernetes.io/configmap",
        Some(("kubernetes.io~secret", _)) => "kubernetes.io/secret",
        Some(("kubernetes.io~projected", _)) => "kubernetes.io/projected",
        Some(("kubernetes.io~downward-api", _)) => "kubernetes.io/downward-api",
        _ if volume.host_path.is_some() => "kubernetes.io/host-path",
        _ if volume.image.is_some() => "kubernetes.io/image",
        _ => "unknown",
    }
}

/// Where a volume is on the node.
pub fn path(pod_dir: &Path, volume: &Volume) -> Option<PathBuf> {
    if let Some(host) = &volume.host_path {
        return Some(PathBuf::from(&host.path));
    }
    plugin(volume).map(|(plugin, _)| pod_dir.join("volumes").join(plugin).join(&volume.name))
}

/// Makes the place of a volume: its directory, its memory file system, or the check of a host path. Idempotent.
pub fn set_up(pod: &Pod, pod_dir: &Path, volume: &Volume, node_memory: u64) -> Result<(), VolumeError> {
    if let Some(host) = &volume.host_path {
        return host_path::set_up(Path::new(&host.path), host.type_.as_deref().unwrap_or_default());
    }
    if volume.image.is_some() {
        // Mounted with the first container that uses it, when the image is there.
        return Ok(());
    }
    let (_, memory) = plugin(volume).ok_or(VolumeError::Unsupported)?;
    let dir = path(pod_dir, volume).ok_or(VolumeError::Unsupported)?;
    let medium = volume.empty_dir.as_ref().and_then(|e| e.medium.as_deref()).unwrap_or_default();
    let group = fs_group(pod);
    // What is filled by the node is in a fresh memory file system, with the bit that those have.
    let base = if memory && volume.empty_dir.is_none() { 0o1777 } else { 0o777 };
    let access = Access { group, mode: if group.is_some() { base | 0o2000 } else { base } };
    let made = if medium.starts_with("HugePages") {
        mount_memory(&dir, "hugetlbfs", Some(("pagesize", page_size(pod, medium)?)), access)
    } else if memory {
        let bound = volume.empty_dir.as_ref().map(|_| ("size", memory_size(pod, volume, node_memory)));
        mount_memory(&dir, "tmpfs", bound, access)
    } else {
        make_directory(&dir, access)
    };
    made.map_err(io_error(&dir))
}

/// Who may do what in a volume when it is made. Later that is the pod's own business.
#[derive(Debug, Clone, Copy)]
struct Access {
    group: Option<u32>,
    mode: u32,
}

impl Access {
    fn set(self, dir: &Path) -> io::Result<()> {
        if let Some(group) = self.group {
            std::os::unix::fs::chown(dir, None, Some(group))?;
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(self.mode))
    }
}

/// Makes a directory that has its permissions from the start: an agent that dies meanwhile leaves it whole or not at
/// all. One that is there stays as it is.
fn make_directory(dir: &Path, access: Access) -> io::Result<()> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if dir.exists() {
        return Ok(());
    }
    fs::create_dir_all(parent)?;
    // No volume's name begins like this.
    let new = parent.join(format!(".{}.new", name.to_string_lossy()));
    match fs::create_dir(&new) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    crash::point("directory made");
    access.set(&new)?;
    crash::point("directory set");
    fs::rename(&new, dir)
}

/// Mounts a file system in memory that has its permissions from the start, unless there is one.
fn mount_memory(dir: &Path, kind: &str, bound: Option<(&str, u64)>, access: Access) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if is_mount_point(dir) {
        return Ok(());
    }
    let system = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&system, "source", kind)?;
    if let Some((name, bytes)) = bound {
        fsconfig_set_string(&system, name, bytes.to_string())?;
    }
    fsconfig_create(&system)?;
    let made = fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    // Nobody sees it yet.
    access.set(&PathBuf::from(format!("/proc/self/fd/{}", made.as_raw_fd())))?;
    crash::point("memory made");
    move_mount(&made, "", CWD, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    crash::point("memory mounted");
    Ok(())
}

/// How large a volume in memory may grow: as its own limit, the pod's and the node allow.
fn memory_size(pod: &Pod, volume: &Volume, node_memory: u64) -> u64 {
    let own = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()).map(crate::pod::resources::units);
    let own = own.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0);
    let of_pod = crate::pod::resources::memory_limit(pod);
    [own, of_pod].into_iter().flatten().fold(node_memory, u64::min)
}

/// The size of huge pages that a medium means, which the pod must ask for.
fn page_size(pod: &Pod, medium: &str) -> Result<u64, VolumeError> {
    let fail = |text: String| Err(VolumeError::HostPath(text));
    let resources = pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let limits = resources.filter_map(|c| c.resources.as_ref()).flat_map(|r| [&r.limits, &r.requests]).flatten();
    let mut asked: Vec<String> =
        limits.flat_map(|map| map.keys()).filter_map(|k| k.strip_prefix("hugepages-")).map(str::to_owned).collect();
    asked.sort();
    asked.dedup();
    let size = match medium.strip_prefix("HugePages-") {
        Some(size) if asked.iter().any(|asked| asked == size) => size.to_owned(),
        Some(size) => return fail(format!("medium {medium:?} is used, but the pod requests no hugepages of {size}")),
        None => match asked.as_slice() {
            [one] => one.clone(),
            [] => return fail("hugePages storage requested, but there is no resource request for huge pages.".into()),
            _ => {
                return fail(
                    "medium \"HugePages\" can't be used if container requests multiple huge page sizes".into(),
                );
            }
        },
    };
    let bytes = crate::pod::resources::units(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(size.clone()));
    u64::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes > 0)
        .map_or_else(|| fail(format!("{size:?} is no size of huge pages")), Ok)
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

/// Where a part of a volume is mounted for a container.
pub fn sub_path_mount(pod_dir: &Path, container: &str, index: usize) -> PathBuf {
    pod_dir.join("volume-subpaths").join(container).join(index.to_string())
}

/// The id of the view of an image that a pod has as a volume.
pub fn view_id(uid: &str, volume: &str) -> String {
    format!("{VIEW}{uid}.{volume}")
}

/// The uid of the pod that a view belongs to.
pub fn view_owner(id: &str) -> Option<&str> {
    id.strip_prefix(VIEW)?.split('.').next()
}

const VIEW: &str = "view-";

/// Whether something is mounted at `dir`.
pub fn is_mount_point(dir: &Path) -> bool {
    naru_runtime::snapshots::is_mounted(dir).unwrap_or(false)
}

/// Removes a pod's directory with all its volumes. What is mounted below is unmounted first and never deleted.
pub fn tear_down(pod_dir: &Path) -> io::Result<()> {
    let real = match fs::canonicalize(pod_dir) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // Innermost first: mounts that containers made in the pod's volumes are among them.
    let mut mounts = mounts_below(&fs::read_to_string("/proc/self/mountinfo")?, &real);
    mounts.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for mount in mounts {
        unmount_all(&mount)?;
        crash::point("mount gone");
    }
    crash::point("mounts gone");
    naru_runtime::remove_tree(&real)
}

/// Paths below `dir` that something is mounted at.
fn mounts_below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    naru_runtime::mount_points(mountinfo).filter(|path| path != dir && path.starts_with(dir)).collect()
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
        set_up(&Pod::default(), dir.path(), &volume, 1 << 30).unwrap();
        let made = path(dir.path(), &volume).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o777);
        fs::set_permissions(&made, fs::Permissions::from_mode(0o700)).unwrap();
        set_up(&Pod::default(), dir.path(), &volume, 1 << 30).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o700);
        tear_down(dir.path()).unwrap();
        assert!(!made.exists());
    }

    #[test]
    fn mounts_are_found_by_their_paths() {
        let info = "1 2 0:3 / /p/u/volumes/a rw - tmpfs t rw\n4 2 0:3 / /p/u2/x rw - tmpfs t rw\n\
                    5 2 0:3 / /p/u/volumes/b\\040c\\134 rw - tmpfs t rw\n6 2 0:3 / /p/u rw - tmpfs t rw\n";
        let found = mounts_below(info, Path::new("/p/u"));
        assert_eq!(found, [PathBuf::from("/p/u/volumes/a"), PathBuf::from("/p/u/volumes/b c\\")]);
    }

    #[test]
    fn views_know_their_pods() {
        let id = view_id("0a-1b", "models");
        assert_eq!((id.as_str(), view_owner(&id)), ("view-0a-1b.models", Some("0a-1b")));
        assert_eq!(view_owner("0a1b"), None);
    }

    #[test]
    fn memory_has_the_smallest_of_its_bounds() {
        let pod = |limit: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": {"limits": limit}}]}}))
                .unwrap()
        };
        let volume = |limit: serde_json::Value| -> Volume {
            serde_json::from_value(json!({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": limit}})).unwrap()
        };
        for (limits, size, expect) in [
            (json!({}), json!(null), 1000),
            (json!({"memory": "500"}), json!(null), 500),
            (json!({"memory": "500"}), json!("200"), 200),
            (json!({"memory": "500"}), json!("700"), 500),
            (json!({}), json!("700"), 700),
        ] {
            assert_eq!(memory_size(&pod(limits), &volume(size), 1000), expect);
        }
    }

    #[test]
    fn huge_pages_are_of_the_size_that_is_asked_for() {
        let pod = |limits: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]}}))
                .unwrap()
        };
        let of = |medium: &str, limits| page_size(&pod(limits), medium).map_err(|error| error.to_string());
        assert_eq!(of("HugePages-2Mi", json!({"hugepages-2Mi": "4Mi"})), Ok(2 << 20));
        assert_eq!(of("HugePages", json!({"hugepages-1Gi": "1Gi"})), Ok(1 << 30));
        assert!(of("HugePages", json!({})).is_err());
        assert!(of("HugePages", json!({"hugepages-1Gi": "1Gi", "hugepages-2Mi": "2Mi"})).is_err());
        assert!(of("HugePages-1Gi", json!({"hugepages-2Mi": "2Mi"})).is_err());
    }

    #[test]
    fn unknown_kinds_are_refused() {
        let volume: Volume = serde_json::from_value(json!({"name": "v", "nfs": {"server": "s", "path": "/"}})).unwrap();
        assert!(matches!(
            set_up(&Pod::default(), Path::new("/nonexistent"), &volume, 0),
            Err(VolumeError::Unsupported)
        ));
    }
}
