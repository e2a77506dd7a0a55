//! Parts of volumes: found without leaving the volume, whatever its users do meanwhile, and held by a mount.

use rustix::fs::{Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, open, openat, openat2};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path};

use super::crash;

/// How often a lookup is repeated that a rename came in between of.
const RETRIES: usize = 64;

/// Mounts the part of a volume at `target`, outside of the volume, so that a container started from there gets
/// what was found and nothing that took its place. `make`: directories that are missing are made.
pub fn bind(volume: &Path, sub_path: &str, target: &Path, make: bool) -> io::Result<()> {
    let found = open_part(volume, Path::new(sub_path), make)?;
    let is_dir = rustix::fs::FileType::from_raw_mode(fstat(&found)?.st_mode) == rustix::fs::FileType::Directory;
    crash::point("part found");
    clear(target)?;
    if is_dir {
        fs::create_dir_all(target)?;
    } else {
        fs::create_dir_all(target.parent().unwrap_or(target))?;
        fs::File::create(target)?;
    }
    crash::point("part's place made");
    // By the descriptor: a path could lead elsewhere by now.
    rustix::mount::mount_bind(format!("/proc/self/fd/{}", found.as_raw_fd()), target)?;
    crash::point("part mounted");
    Ok(())
}

/// Takes away what an earlier container had there.
fn clear(target: &Path) -> io::Result<()> {
    super::unmount_all(target)?;
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(target),
        Ok(_) => fs::remove_file(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Marks the place of a part of a volume. Links that lead out of the volume are errors.
fn open_part(volume: &Path, part: &Path, make: bool) -> io::Result<OwnedFd> {
    if part.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a relative path below the volume"));
    }
    let root = open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match confined(&root, part, OFlags::empty()) {
        Err(Errno::NOENT) if make => {}
        found => return found.map_err(explain),
    }
    // New directories are as open as the volume is.
    let mode = Mode::from_raw_mode(fstat(&root)?.st_mode & 0o7777);
    let mut at = std::path::PathBuf::new();
    for name in part.components().filter(|part| matches!(part, Component::Normal(_))) {
        let parent = if at.as_os_str().is_empty() { Path::new(".") } else { &at };
        let parent = confined(&root, parent, OFlags::DIRECTORY).map_err(explain)?;
        match mkdirat(&parent, name.as_os_str(), mode) {
            Ok(()) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                fchmod(openat(&parent, name.as_os_str(), flags, Mode::empty())?, mode)?;
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        at.push(name);
    }
    confined(&root, part, OFlags::empty()).map_err(explain)
}

fn confined(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match openat2(root, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) if tries < RETRIES => tries += 1,
            result => return result,
        }
    }
}

fn explain(errno: Errno) -> io::Error {
    match errno {
        Errno::XDEV => io::Error::new(io::ErrorKind::PermissionDenied, "leads outside of the volume"),
        other => other.into(),
    }
}

/// Reads a small file of a volume, whose links lead at most to the volume's top.
pub fn read_file(volume: &Path, path: &str, limit: u64) -> io::Result<String> {
    use io::Read;
    let root = open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Not waiting: the file may turn out to be a pipe.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = fs::File::from(openat2(&root, path, flags, Mode::empty(), how)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn volume() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir(&volume).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).unwrap();
        (dir, volume)
    }

    fn inode(fd: &OwnedFd) -> u64 {
        fstat(fd).unwrap().st_ino
    }

    #[test]
    fn what_is_missing_is_made_as_open_as_the_volume() {
        let (_dir, volume) = volume();
        assert_eq!(open_part(&volume, Path::new("a/b"), false).unwrap_err().kind(), io::ErrorKind::NotFound);
        let made = open_part(&volume, Path::new("a/./b"), true).unwrap();
        let meta = fs::metadata(volume.join("a/b")).unwrap();
        assert_eq!((meta.ino(), meta.permissions().mode() & 0o7777), (inode(&made), 0o2777));
    }

    #[test]
    fn links_are_followed_within_the_volume_and_not_out_of_it() {
        let (dir, volume) = volume();
        fs::create_dir_all(dir.path().join("out/x")).unwrap();
        fs::create_dir_all(volume.join("data")).unwrap();
        fs::write(volume.join("data/f"), "f").unwrap();
        symlink("data/f", volume.join("inside")).unwrap();
        symlink("..", volume.join("up")).unwrap();
        symlink(dir.path().join("out"), volume.join("out")).unwrap();
        symlink("/proc/self/root", volume.join("magic")).unwrap();
        assert!(open_part(&volume, Path::new("inside"), false).is_ok());
        for out in ["up/out", "out", "out/x", "out/new", "magic/etc", "../out", "/etc", "data/../../out"] {
            assert!(open_part(&volume, Path::new(out), true).is_err(), "{out}");
        }
        assert!(!dir.path().join("out/new").exists());
        let error = open_part(&volume, Path::new("out/x"), false).unwrap_err();
        assert_eq!(error.to_string(), "leads outside of the volume");
    }

    #[test]
    fn nobody_is_quick_enough_to_lead_a_lookup_astray() {
        let (dir, volume) = volume();
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("x")).unwrap();
        fs::create_dir_all(volume.join("real/x")).unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        fs::rename(volume.join("real"), volume.join("at")).unwrap();
        let wrong = fs::metadata(outside.join("x")).unwrap().ino();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs::rename(volume.join("at"), volume.join("real")).unwrap();
                    fs::rename(volume.join("link"), volume.join("at")).unwrap();
                    fs::rename(volume.join("at"), volume.join("link")).unwrap();
                    fs::rename(volume.join("real"), volume.join("at")).unwrap();
                }
            });
            for _ in 0..3000 {
                if let Ok(found) = open_part(&volume, Path::new("at/x"), false) {
                    assert_ne!(inode(&found), wrong);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn files_are_read_within_bounds() {
        let (dir, volume) = volume();
        fs::write(dir.path().join("secret"), "no").unwrap();
        fs::write(volume.join("f"), "hello").unwrap();
        symlink("/f", volume.join("absolute")).unwrap();
        symlink("../secret", volume.join("out")).unwrap();
        assert_eq!(read_file(&volume, "f", 5).unwrap(), "hello");
        assert_eq!(read_file(&volume, "absolute", 5).unwrap(), "hello");
        assert_eq!(read_file(&volume, "f", 4).unwrap_err().to_string(), "larger than 4 bytes");
        for wrong in ["out", "../secret", ".", "missing"] {
            assert!(read_file(&volume, wrong, 9).is_err(), "{wrong}");
        }
        rustix::fs::mknodat(rustix::fs::CWD, volume.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(read_file(&volume, "pipe", 9).is_err());
    }
}
