//! The image that consists of the running binary: present on every node, in the node's own version and architecture.

use super::config::ImageConfig;
use super::error::ImageError;
use super::ingest::Ingest;
use super::layer::sha256;
use super::store::Image;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, flock, linkat};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Makes the image's one layer below `store` unless it is there. The file is the claim on it: another process
/// with another binary (an import beside an older server) must not take it for garbage.
pub(super) fn prepare(store: &Path, exe: &Path) -> Result<(Image, File), ImageError> {
    let meta = exe.metadata().map_err(ImageError::io("read", exe))?;
    // A binary that was replaced is another file, and containers of the old one go on using it.
    let identity = format!("{} {} {} {} {}", meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
    let id = sha256(format!("naru self image {identity}").as_bytes());
    let dir = store.join("self").join(id.trim_start_matches("sha256:"));
    let fs = dir.join("fs");
    if !fs.is_dir() {
        let ingest = Ingest::create(store)?;
        let new = ingest.path().join("self");
        build(&new.join("fs"), exe, meta.mode())?;
        if let Err(error) = std::fs::rename(&new, &dir)
            && !fs.is_dir()
        {
            return Err(ImageError::io("create", dir)(error));
        }
    }
    let claim_path = dir.join("claim");
    let claim = File::options().create(true).truncate(false).write(true).open(&claim_path);
    let claim = claim.map_err(ImageError::io("create", &claim_path))?;
    flock(&claim, FlockOperation::LockShared).map_err(|errno| ImageError::io("lock", &claim_path)(errno.into()))?;
    let config = ImageConfig {
        entrypoint: vec!["/naru".to_owned()],
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/".to_owned()],
        working_dir: "/".to_owned(),
        ..ImageConfig::default()
    };
    let names = vec![format!("{}:latest", super::SELF_IMAGE)];
    let image = Image { id, names, digests: Vec::new(), config, size: meta.size(), layers: vec![fs] };
    Ok((image, claim))
}

/// Whether a process that lives uses the layer in `dir`.
pub(super) fn is_claimed(dir: &Path) -> bool {
    File::open(dir.join("claim")).is_ok_and(|claim| flock(&claim, FlockOperation::NonBlockingLockExclusive).is_err())
}

fn build(fs: &Path, exe: &Path, mode: u32) -> Result<(), ImageError> {
    let make_dir = |path: &Path, mode: u32| {
        std::fs::create_dir_all(path).map_err(ImageError::io("create", path))?;
        rustix::fs::chmod(path, Mode::from_raw_mode(mode)).map_err(|errno| ImageError::io("create", path)(errno.into()))
    };
    make_dir(fs, 0o755)?;
    for (name, mode) in [
        ("dev", 0o755),
        ("etc", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("var", 0o755),
        ("var/run", 0o755),
    ] {
        make_dir(&fs.join(name), mode)?;
    }
    for (name, text) in [
        ("etc/passwd", "root:x:0:0:root:/:/naru\nnobody:x:65534:65534:nobody:/:/naru\n"),
        ("etc/group", "root:x:0:\nnobody:x:65534:\n"),
    ] {
        let path = fs.join(name);
        std::fs::write(&path, text).map_err(ImageError::io("write", &path))?;
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o644))
            .map_err(|errno| ImageError::io("write", &path)(errno.into()))?;
    }
    let naru = fs.join("naru");
    // A link costs nothing, but only a file that everybody may run will do.
    if mode & 0o555 == 0o555 && linkat(CWD, exe, CWD, &naru, AtFlags::SYMLINK_FOLLOW).is_ok() {
        return Ok(());
    }
    std::fs::copy(exe, &naru).map_err(ImageError::io("copy", exe))?;
    rustix::fs::chmod(&naru, Mode::from_raw_mode(0o755)).map_err(|errno| ImageError::io("copy", &naru)(errno.into()))
}
