//! Mounts of overlayfs.

use crate::images::ImageError;
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::thread::UnshareFlags;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `mount` takes one page of options, with the terminating zero.
const MAX_OPTIONS: usize = 4095;

/// Mounts `layers` (lowest first) below `upper` at `target`.
pub(super) fn mount(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<(), ImageError> {
    let writable = format!(",upperdir={},workdir={}", escape(upper), escape(work));
    // Device nodes of images are for looks; real ones are in the container's own /dev.
    mount_layers(layers, &writable, MountFlags::NODEV, target)
}

/// Mounts `layers` (lowest first) at `target`, for reading and not for running. `empty` is an empty directory:
/// an overlay without a writable layer takes no less than two others.
pub(super) fn mount_view(layers: &[PathBuf], empty: &Path, target: &Path) -> Result<(), ImageError> {
    let mut layers = layers.to_vec();
    if layers.len() < 2 {
        layers.insert(0, empty.to_owned());
    }
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount_layers(&layers, "", flags, target)
}

fn mount_layers(layers: &[PathBuf], writable: &str, flags: MountFlags, target: &Path) -> Result<(), ImageError> {
    let lower: Vec<String> = layers.iter().rev().map(|layer| escape(layer)).collect();
    let options = options(&lower, writable);
    if options.len() <= MAX_OPTIONS {
        return mount_with(&options, flags, target);
    }
    // Too long: open the layers and name them by descriptor, from within /proc/self/fd.
    let mut fds: Vec<OwnedFd> = Vec::new();
    for layer in layers.iter().rev() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fds.push(open(layer, flags, Mode::empty()).map_err(|errno| ImageError::io("open", layer)(errno.into()))?);
    }
    let lower: Vec<String> = fds.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let options = self::options(&lower, writable);
    if options.len() > MAX_OPTIONS {
        return Err(ImageError::Content(format!("{} layers are too many to mount", layers.len())));
    }
    let target = target.to_owned();
    // A thread of its own, since the working directory changes.
    let mounted = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let fail = |errno: rustix::io::Errno| ImageError::io("mount", &target)(errno.into());
                // SAFETY: only this thread's root, working directory and umask are separated, and it ends here.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.map_err(fail)?;
                rustix::process::chdir("/proc/self/fd").map_err(fail)?;
                mount_with(&options, flags, &target)
            })
            .join()
    });
    mounted.unwrap_or_else(|_| Err(ImageError::Content("the mounting thread panicked".to_owned())))
}

fn options(lower: &[String], writable: &str) -> String {
    // No index: it ties upper directories to one mount and refuses them after a copy or a move.
    format!("lowerdir={}{writable},index=off", lower.join(":"))
}

fn mount_with(options: &str, flags: MountFlags, target: &Path) -> Result<(), ImageError> {
    let data = CString::new(options).map_err(|_| ImageError::Content("path with a zero byte".to_owned()))?;
    rustix::mount::mount("overlay", target, "overlay", flags, data.as_c_str())
        .map_err(|errno| ImageError::io("mount the root file system at", target)(errno.into()))
}

/// What separates layers and options can be part of a path.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for c in path.to_string_lossy().chars() {
        if matches!(c, ':' | ',' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Removes all mounts at `target`, also when something still uses them. Fine if there is none.
pub(super) fn unmount(target: &Path) -> Result<(), ImageError> {
    loop {
        match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(ImageError::io("unmount", target)(errno.into())),
        }
    }
}

/// Whether something is mounted at `target`.
pub fn is_mounted(target: &Path) -> Result<bool, ImageError> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let stat = statx(CWD, target, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .map_err(|errno| ImageError::io("look at", target)(errno.into()))?;
    if stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    Ok(crate::proc::mounts_below(target).iter().any(|mount| mount == target))
}
