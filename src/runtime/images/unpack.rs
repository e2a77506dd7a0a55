//! Unpacks one layer into a directory that serves as an overlay's lower directory.
//!
//! The layer is hostile until proved otherwise: every path is resolved by the kernel with the layer's
//! directory as its root, so that neither `..` nor links of the layer lead out of it. Only this
//! process writes below that directory, which nobody but root can enter.

use super::tarstream::{Kind, Member, Skip, TarReader};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown,
    fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, open, openat, openat2, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What one layer may contain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) members: u64,
    /// Bytes of all names, many of which are kept in memory until the end.
    pub(super) names: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 30, members: 4_000_000, names: 128 << 20 }
    }
}

/// What can only be settled once the layers below are known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// Directories that were needed but are not in the archive; the layers below know their owner and mode.
    pub(super) implied: Vec<PathBuf>,
    /// Hard links (target, name) to files of layers below.
    pub(super) foreign_links: Vec<(PathBuf, PathBuf)>,
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const MAX_PATH: usize = 4096;
/// Removing a tree takes a descriptor for each level.
const MAX_DEPTH: usize = 255;

/// Unpacks all members of `archive` below `root`.
pub(super) fn unpack<R: Skip>(archive: &mut TarReader<R>, root: &Path, limits: Limits) -> io::Result<Notes> {
    let fd = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut unpacker = Unpacker { root: fd, parent: None, notes: Notes::default(), times: Vec::new() };
    let (mut bytes, mut members, mut names) = (0_u64, 0_u64, 0_u64);
    while let Some(member) = archive.next_member()? {
        members += 1;
        bytes = bytes.saturating_add(member.size);
        names = names.saturating_add((member.path.len() + member.link.len()) as u64);
        let name = || String::from_utf8_lossy(&member.path).into_owned();
        if members > limits.members {
            return Err(io::Error::other(format!("more than {} members", limits.members)));
        }
        if names > limits.names {
            return Err(io::Error::other(format!("names of more than {} bytes", limits.names)));
        }
        if bytes > limits.bytes {
            return Err(io::Error::other(format!("{:?}: unpacks to more than {} bytes", name(), limits.bytes)));
        }
        unpacker
            .member(&member, archive)
            .map_err(|error| io::Error::new(error.kind(), format!("{:?}: {error}", name())))?;
    }
    unpacker.finish()
}

struct Unpacker {
    root: OwnedFd,
    /// The directory that the last member was in: members come sorted, so it is mostly the same.
    parent: Option<(PathBuf, OwnedFd)>,
    notes: Notes,
    /// Times of directories, which later members disturb.
    times: Vec<(PathBuf, Timestamps)>,
}

impl Unpacker {
    fn member(&mut self, member: &Member, data: &mut impl Read) -> io::Result<()> {
        let path = clean(&member.path)?;
        let Some(name) = path.file_name() else {
            // The root directory itself.
            if member.kind == Kind::Directory {
                self.times.push((PathBuf::new(), times(member)));
                return set_metadata(&reopen(&self.root)?, member);
            }
            return Err(io::Error::other("the root can only be a directory"));
        };
        let parent_path = path.parent().unwrap_or(Path::new(""));
        self.enter(parent_path)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return self.whiteout(name.as_bytes(), hidden);
        }
        let made_opaque = self.clear(&path, name, member.kind)?;
        match member.kind {
            Kind::Directory => self.directory(&path, name, member, made_opaque),
            Kind::File => self.file(name, member, data),
            Kind::Symlink => self.symlink(name, member),
            Kind::Hardlink => self.hardlink(&path, name, member),
            Kind::Char | Kind::Block | Kind::Fifo => self.node(name, member),
        }
    }

    /// Makes `self.parent` the directory at `path`, creating what is missing.
    fn enter(&mut self, path: &Path) -> io::Result<()> {
        if self.parent.as_ref().is_some_and(|(current, _)| current == path) {
            return Ok(());
        }
        let fd = match self.resolve(path, OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                let (above, name) = (path.parent().unwrap_or(Path::new("")), path.file_name());
                self.enter(above)?;
                let name = name.ok_or_else(|| io::Error::other("the layer's directory is gone"))?;
                match mkdirat(self.dir()?, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => self.notes.implied.push(path.to_owned()),
                    // A link that leads nowhere within this layer.
                    Err(Errno::EXIST) => return Err(io::Error::other("below a dangling link")),
                    Err(errno) => return Err(errno.into()),
                }
                self.resolve(path, OFlags::DIRECTORY)?
            }
            Err(errno) => return Err(errno.into()),
        };
        self.parent = Some((path.to_owned(), fd));
        Ok(())
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    fn dir(&self) -> io::Result<&OwnedFd> {
        self.parent.as_ref().map(|(_, fd)| fd).ok_or_else(|| io::Error::other("no current directory"))
    }

    /// Makes room for a member: removes what an earlier member of this layer left under the name, unless
    /// both are directories. True if that was a whiteout, so that a new directory must hide those below.
    fn clear(&mut self, path: &Path, name: &OsStr, kind: Kind) -> io::Result<bool> {
        let parent = self.dir()?;
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if kind == Kind::Directory => Ok(false),
            FileType::Directory => {
                std::fs::remove_dir_all(fd_path(parent).join(name))?;
                self.times.retain(|(below, _)| !below.starts_with(path));
                self.notes.implied.retain(|below| !below.starts_with(path));
                self.notes.foreign_links.retain(|(_, below)| !below.starts_with(path));
                Ok(false)
            }
            found => {
                unlinkat(parent, name, AtFlags::empty())?;
                self.notes.foreign_links.retain(|(_, below)| below != path);
                Ok(found == FileType::CharacterDevice && stat.st_rdev == 0)
            }
        }
    }

    fn whiteout(&self, name: &[u8], hidden: &[u8]) -> io::Result<()> {
        let parent = self.dir()?;
        if name == OPAQUE {
            return Ok(set_opaque(&reopen(parent)?)?);
        }
        if hidden.starts_with(WHITEOUT) {
            // Other bookkeeping of aufs.
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(io::Error::other("whiteout of no file"));
        }
        let hidden = OsStr::from_bytes(hidden);
        match statat(parent, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            // It hides the file of the layers below, not the one of this layer.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let dir = openat(
                    parent,
                    hidden,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                Ok(set_opaque(&dir)?)
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => Ok(mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?),
            Err(errno) => Err(errno.into()),
        }
    }

    fn directory(&mut self, path: &Path, name: &OsStr, member: &Member, opaque: bool) -> io::Result<()> {
        let parent = self.dir()?;
        match mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(parent, name, flags, Mode::empty())?;
        if opaque {
            set_opaque(&dir)?;
        }
        set_metadata(&dir, member)?;
        self.notes.implied.retain(|implied| implied != path);
        self.times.push((path.to_owned(), times(member)));
        Ok(())
    }

    fn file(&self, name: &OsStr, member: &Member, data: &mut impl Read) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(openat(self.dir()?, name, flags, Mode::RUSR | Mode::WUSR)?);
        let mut buffer = vec![0; usize::try_from(member.size).unwrap_or(usize::MAX).clamp(1, 256 << 10)];
        loop {
            let got = data.read(&mut buffer)?;
            if got == 0 {
                break;
            }
            file.write_all(&buffer[..got])?;
        }
        set_metadata(&file, member)?;
        Ok(futimens(&file, &times(member))?)
    }

    fn symlink(&self, name: &OsStr, member: &Member) -> io::Result<()> {
        let parent = self.dir()?;
        symlinkat(OsStr::from_bytes(&member.link), parent, name)?;
        self.own(name, member)?;
        Ok(utimensat(parent, name, &times(member), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn hardlink(&mut self, path: &Path, name: &OsStr, member: &Member) -> io::Result<()> {
        let target = clean(&member.link)?;
        let base = target.file_name().ok_or_else(|| io::Error::other("hard link to the root"))?;
        let linked = match self.resolve(target.parent().unwrap_or(Path::new("")), OFlags::DIRECTORY) {
            Ok(from) => linkat(&from, base, self.dir()?, name, AtFlags::empty()),
            Err(errno) => Err(errno),
        };
        match linked {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => {
                self.notes.foreign_links.push((target, path.to_owned()));
                Ok(())
            }
            Err(errno) => Err(io::Error::new(
                io::Error::from(errno).kind(),
                format!("hard link to {:?}: {errno}", String::from_utf8_lossy(&member.link)),
            )),
        }
    }

    fn node(&self, name: &OsStr, member: &Member) -> io::Result<()> {
        let parent = self.dir()?;
        let (kind, device) = match member.kind {
            Kind::Char => (FileType::CharacterDevice, makedev(member.device.0, member.device.1)),
            Kind::Block => (FileType::BlockDevice, makedev(member.device.0, member.device.1)),
            _ => (FileType::Fifo, 0),
        };
        mknodat(parent, name, kind, Mode::empty(), device)?;
        self.own(name, member)?;
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(member.mode), AtFlags::empty())?;
        Ok(utimensat(parent, name, &times(member), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn own(&self, name: &OsStr, member: &Member) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        Ok(rustix::fs::chownat(self.dir()?, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn finish(mut self) -> io::Result<Notes> {
        for (path, times) in std::mem::take(&mut self.times).into_iter().rev() {
            match self.resolve(&path, OFlags::DIRECTORY) {
                Ok(dir) => futimens(&reopen(&dir)?, &times)?,
                // Replaced by a later member.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(self.notes)
    }
}

/// The path of a member relative to the root: no leading slash, no `.`; `..` is refused, since no
/// builder writes it and it can only mean harm.
fn clean(raw: &[u8]) -> io::Result<PathBuf> {
    if raw.len() > MAX_PATH {
        return Err(io::Error::other(format!("path of {} bytes", raw.len())));
    }
    if raw.contains(&0) {
        return Err(io::Error::other("path with a zero byte"));
    }
    let mut path = PathBuf::new();
    if raw.iter().filter(|b| **b == b'/').count() > MAX_DEPTH {
        return Err(io::Error::other(format!("path of more than {MAX_DEPTH} directories")));
    }
    for component in raw.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(io::Error::other("path leads out of the image")),
            name => path.push(OsStr::from_bytes(name)),
        }
    }
    Ok(path)
}

fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A descriptor that can change metadata, from one that only marks a place.
fn reopen(dir: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn set_opaque(dir: &OwnedFd) -> Result<(), Errno> {
    fsetxattr(dir, OPAQUE_XATTR, b"y", XattrFlags::empty())
}

/// Owner first: changing it clears set-id bits and capabilities.
fn set_metadata(fd: &impl AsFd, member: &Member) -> io::Result<()> {
    fchown(fd, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))?;
    fchmod(fd, Mode::from_raw_mode(member.mode))?;
    for (name, value) in &member.xattrs {
        // The overlay's own attributes would let a layer redirect into others; labels are this host's matter.
        if name == "security.capability" || name.starts_with("user.") {
            match fsetxattr(fd, name.as_str(), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(errno) => {
                    return Err(io::Error::new(io::Error::from(errno).kind(), format!("attribute {name}: {errno}")));
                }
            }
        }
    }
    Ok(())
}

fn times(member: &Member) -> Timestamps {
    let time = Timespec { tv_sec: member.mtime.0, tv_nsec: member.mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    /// Builds an archive member by member without the checks of the `tar` crate's builder.
    #[derive(Default)]
    pub(crate) struct Evil(Vec<u8>);

    impl Evil {
        fn add(mut self, path: &str, kind: u8, link: &str, data: &[u8]) -> Self {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(tar::EntryType::new(kind));
            header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1_000_000_000);
            header.set_size(data.len() as u64);
            header.set_cksum();
            self.0.extend_from_slice(header.as_bytes());
            self.0.extend_from_slice(data);
            self.0.resize(self.0.len().next_multiple_of(512), 0);
            self
        }
        fn file(self, path: &str, data: &str) -> Self {
            self.add(path, b'0', "", data.as_bytes())
        }
        fn dir(self, path: &str) -> Self {
            self.add(path, b'5', "", b"")
        }
        fn symlink(self, path: &str, to: &str) -> Self {
            self.add(path, b'2', to, b"")
        }
        fn hardlink(self, path: &str, to: &str) -> Self {
            self.add(path, b'1', to, b"")
        }
    }

    /// A directory with a canary beside the layer's root.
    struct Ground(tempfile::TempDir);

    impl Ground {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("fs")).unwrap();
            std::fs::write(dir.path().join("canary"), "alive").unwrap();
            Self(dir)
        }
        fn unpack(&self, archive: &Evil) -> io::Result<Notes> {
            unpack(
                &mut TarReader::new(archive.0.as_slice()),
                &self.path(""),
                Limits { bytes: 1 << 20, members: 100, names: 16 << 10 },
            )
        }
        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join("fs").join(path)
        }
        fn assert_untouched(&self) {
            assert_eq!(std::fs::read_to_string(self.0.path().join("canary")).unwrap(), "alive");
            assert_eq!(std::fs::read_dir(self.0.path()).unwrap().count(), 2);
        }
    }

    #[test]
    fn files_links_and_directories_keep_their_properties() {
        let ground = Ground::new();
        let archive = Evil::default()
            .dir("./")
            .dir("bin/")
            .file("bin/a", "hello")
            .symlink("bin/b", "a")
            .hardlink("c", "bin/a")
            .add("pipe", b'6', "", b"");
        assert_eq!(ground.unpack(&archive).unwrap(), Notes::default());
        assert_eq!(std::fs::read_to_string(ground.path("bin/b")).unwrap(), "hello");
        assert_eq!(ground.path("c").metadata().unwrap().ino(), ground.path("bin/a").metadata().unwrap().ino());
        assert_eq!(ground.path("bin").metadata().unwrap().mtime(), 1_000_000_000);
        assert_eq!(ground.path("bin/a").metadata().unwrap().mode() & 0o7777, 0o644);
        assert!(ground.path("pipe").symlink_metadata().unwrap().file_type().is_fifo());
    }

    #[test]
    fn dots_are_refused() {
        for path in ["../canary", "a/../../canary", "/../canary", ".."] {
            let ground = Ground::new();
            let error = ground.unpack(&Evil::default().file(path, "dead")).unwrap_err();
            assert!(error.to_string().contains("leads out of the image"), "{path}: {error}");
            let _ = ground.unpack(&Evil::default().hardlink("x", path)).unwrap_err();
            ground.assert_untouched();
        }
    }

    #[test]
    fn absolute_paths_are_below_the_root() {
        let ground = Ground::new();
        ground.unpack(&Evil::default().file("/etc/x", "1")).unwrap();
        assert_eq!(std::fs::read_to_string(ground.path("etc/x")).unwrap(), "1");
    }

    #[test]
    fn links_do_not_lead_out() {
        let outside = Ground::new();
        let target = outside.0.path().to_str().unwrap().to_owned();
        for link in [target.as_str(), "..", "../..", "/..", "../../../../../../../../tmp"] {
            let ground = Ground::new();
            // Through a link to a directory, over a link to a file, and by a hard link to a link.
            let _ = ground.unpack(&Evil::default().symlink("l", link).file("l/canary", "dead").file("l/new", "dead"));
            let _ = ground.unpack(&Evil::default().symlink("m", &format!("{link}/canary")).file("m", "mine"));
            let _ = ground.unpack(&Evil::default().symlink("n", link).hardlink("h", "n/canary").file("h", "dead"));
            let _ =
                ground.unpack(&Evil::default().symlink("o", link).file("o/.wh.canary", "").file("o/.wh..wh..opq", ""));
            let _ = ground.unpack(&Evil::default().symlink("p", link).dir("p/newdir"));
            ground.assert_untouched();
            outside.assert_untouched();
        }
    }

    #[test]
    fn a_file_replaces_a_link_instead_of_following_it() {
        let ground = Ground::new();
        ground.unpack(&Evil::default().file("a", "old").symlink("l", "a").file("l", "new")).unwrap();
        assert_eq!(std::fs::read_to_string(ground.path("a")).unwrap(), "old");
        assert_eq!(std::fs::read_to_string(ground.path("l")).unwrap(), "new");
        ground.unpack(&Evil::default().dir("d").file("d/x", "").file("d", "now a file")).unwrap();
        assert_eq!(std::fs::read_to_string(ground.path("d")).unwrap(), "now a file");
    }

    #[test]
    fn whiteouts_become_what_overlayfs_understands() {
        let ground = Ground::new();
        ground
            .unpack(
                &Evil::default()
                    .dir("etc")
                    .file("etc/.wh.gone", "")
                    .file("etc/.wh..wh.plnk", "")
                    .file("opt/.wh..wh..opq", ""),
            )
            .unwrap();
        let gone = ground.path("etc/gone").symlink_metadata().unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        assert_eq!(std::fs::read_dir(ground.path("etc")).unwrap().count(), 1);
        let mut value = [0; 4];
        assert_eq!(rustix::fs::getxattr(ground.path("opt"), OPAQUE_XATTR, &mut value).unwrap(), 1);
        for bad in ["x/.wh.", "x/.wh..", "x/.wh..."] {
            assert!(ground.unpack(&Evil::default().file(bad, "")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_whiteout_and_a_new_directory_hide_the_one_below() {
        for archive in [Evil::default().file(".wh.d", "").dir("d"), Evil::default().dir("d").file(".wh.d", "")] {
            let ground = Ground::new();
            ground.unpack(&archive).unwrap();
            let mut value = [0; 4];
            assert_eq!(rustix::fs::getxattr(ground.path("d"), OPAQUE_XATTR, &mut value).unwrap(), 1);
        }
    }

    #[test]
    fn what_depends_on_lower_layers_is_noted() {
        let ground = Ground::new();
        let notes = ground.unpack(&Evil::default().file("usr/bin/x", "").hardlink("y", "lib/below")).unwrap();
        assert_eq!(notes.implied, [PathBuf::from("usr"), PathBuf::from("usr/bin")]);
        assert_eq!(notes.foreign_links, [(PathBuf::from("lib/below"), PathBuf::from("y"))]);
    }

    #[test]
    fn attributes_of_the_overlay_are_not_taken_from_layers() {
        let ground = Ground::new();
        let record = b"45 SCHILY.xattr.trusted.overlay.redirect=/etc\n";
        assert_eq!(record.len(), 46);
        let record = b"46 SCHILY.xattr.trusted.overlay.redirect=/etc\n";
        ground.unpack(&Evil::default().add("p", b'x', "", record).dir("d")).unwrap();
        let mut value = [0; 16];
        assert!(rustix::fs::getxattr(ground.path("d"), "trusted.overlay.redirect", &mut value).is_err());
    }

    #[test]
    fn limits_are_clear_errors() {
        let ground = Ground::new();
        let mut many = Evil::default();
        for i in 0..101 {
            many = many.dir(&format!("d{i}"));
        }
        assert!(ground.unpack(&many).unwrap_err().to_string().contains("more than 100 members"));
        let mut wordy = Evil::default();
        for i in 0..99 {
            wordy = wordy.symlink(&format!("{:090}", i), &"t".repeat(90));
        }
        assert_eq!(ground.unpack(&wordy).unwrap_err().to_string(), "names of more than 16384 bytes");
        let big = "x".repeat((1 << 20) + 1);
        let error = ground.unpack(&Evil::default().file("big", &big)).unwrap_err().to_string();
        assert_eq!(error, "\"big\": unpacks to more than 1048576 bytes");
    }
}
