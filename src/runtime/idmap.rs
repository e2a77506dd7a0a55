//! User namespaces and mounts whose owners they translate.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Ids that a user namespace has, and what the first of each on the host is a multiple of.
pub const IDS: u32 = 65_536;

/// `NS_GET_USERNS`: the user namespace that owns another one.
const GET_OWNER: libc::c_ulong = 0xb701;

/// The kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    users: u64,
}

/// The user namespace that owns the one whose file is at `path`.
pub(crate) fn owner(path: &Path) -> io::Result<OwnedFd> {
    let file = File::open(path)?;
    // SAFETY: takes no argument and returns a new descriptor.
    let fd = unsafe { libc::ioctl(file.as_raw_fd(), GET_OWNER as _) };
    owned(fd.into())
}

/// A mount of what is at `path` that nobody sees yet, with what is mounted below it if `recursive`.
pub(crate) fn detached(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let deep = if recursive { libc::AT_RECURSIVE as libc::c_uint } else { 0 };
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | deep;
    // SAFETY: a NUL-terminated path; returns a new descriptor.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// Has the owners of files seen through a detached mount translated by a user namespace.
pub(crate) fn translate(mount: &OwnedFd, users: BorrowedFd<'_>) -> io::Result<()> {
    let attributes =
        MountAttributes { set: libc::MOUNT_ATTR_IDMAP, users: users.as_raw_fd() as u64, ..Default::default() };
    // SAFETY: an empty path, attributes of the stated size, and descriptors that are open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Shows a detached mount at `target`.
pub(crate) fn attach(mount: &OwnedFd, target: &Path) -> io::Result<()> {
    let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", rustix::fs::CWD, target, flags)?)
}

/// Whether this kernel translates the owners of files in memory, as volumes of ConfigMaps, Secrets and
/// tokens are: with an answer of no, pods with user namespaces have no such volumes.
pub fn translates_memory() -> bool {
    // Linux 6.3 is the first. Asked by its number, since trying takes a user namespace.
    kernel_at_least(&std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default(), (6, 3))
}

/// Whether this kernel mounts root file systems whose layers' owners are translated.
pub fn translates_layers() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let namespaces = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    kernel_at_least(&release, (5, 19)) && namespaces.trim().parse::<u64>().is_ok_and(|count| count > 0)
}

fn kernel_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(fd) {
        // SAFETY: new and ours alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A mount at `place` of `directory` whose owners are translated, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Translated<'a>(&'a Path);

impl<'a> Translated<'a> {
    pub(crate) fn new(directory: &Path, place: &'a Path, users: &OwnedFd) -> io::Result<Self> {
        let mount = detached(directory, false)?;
        translate(&mount, users.as_fd())?;
        std::fs::create_dir_all(place)?;
        attach(&mount, place)?;
        Ok(Self(place))
    }
}

impl Drop for Translated<'_> {
    fn drop(&mut self) {
        use rustix::mount::{UnmountFlags, unmount};
        if let Err(error) = unmount(self.0, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            tracing::warn!(mount = %self.0.display(), %error, "not unmounted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, expect) in [
            ("6.18.44-x", true),
            ("6.3.0", true),
            ("6.1.0-13-amd64", false),
            ("5.19.1", false),
            ("7.0-rc1", true),
            ("", false),
        ] {
            assert_eq!(kernel_at_least(release, (6, 3)), expect, "{release}");
        }
    }

    #[test]
    fn every_namespace_has_an_owner() {
        assert!(owner(Path::new("/proc/self/ns/net")).is_ok());
        assert!(owner(Path::new("/proc/self/stat")).is_err());
    }
}
