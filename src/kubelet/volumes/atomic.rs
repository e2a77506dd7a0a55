//! Replaces the files of a volume all at once: a time-stamped directory behind a `..data` symlink.

use super::crash;
use super::payload::Payload;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes `dir` show exactly `payload`. Returns whether anything had to change. `group` owns the files if given.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    if payload.keys().any(|path| !is_safe(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "invalid path: must be relative and without '..'"));
    }
    let old = fs::read_link(dir.join(DATA)).ok().map(|target| dir.join(target));
    if old.as_deref().is_some_and(|old| shows(old, payload, group)) {
        // An agent that died may have put the data there and not their names.
        sync_names(dir, payload)?;
        return Ok(false);
    }
    let fresh = new_dir(dir)?;
    for (path, file) in payload {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.data)?;
        if let Some(owner) = file.owner {
            std::os::unix::fs::lchown(&target, Some(owner), None)?;
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(mode_of(file.mode, group)))?;
    }
    if let Some(group) = group {
        own(&fresh, group)?;
    }
    crash::point("files written");
    let name = fresh.file_name().map(PathBuf::from).unwrap_or_default();
    let link = dir.join(NEW_DATA);
    let _ = fs::remove_file(&link);
    symlink(&name, &link)?;
    crash::point("link written");
    fs::rename(&link, dir.join(DATA))?;
    crash::point("data replaced");
    sync_names(dir, payload)?;
    Ok(true)
}

/// Read access for the group, as volumes with fsGroup have it.
fn mode_of(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | 0o440 } else { mode }
}

fn own(dir: &Path, group: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(dir, None, Some(group))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o2755))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            own(&entry.path(), group)?;
        } else {
            std::os::unix::fs::lchown(entry.path(), None, Some(group))?;
        }
    }
    Ok(())
}

fn is_safe(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    !path.is_empty() && !path.starts_with("..") && parts.iter().all(|p| !matches!(*p, "" | "." | ".."))
}

fn new_dir(dir: &Path) -> io::Result<PathBuf> {
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    loop {
        let fresh = dir.join(format!("{stamp}.{}", rand::random::<u32>()));
        match fs::create_dir(&fresh) {
            Ok(()) => {
                fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
                return Ok(fresh);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether `dir` holds exactly `payload`.
fn shows(dir: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let mut found = BTreeSet::new();
    if collect(dir, dir, &mut found).is_err() || found.len() != payload.len() {
        return false;
    }
    payload.iter().all(|(path, file)| {
        let target = dir.join(path);
        let Ok(meta) = fs::metadata(&target) else { return false };
        let owned = std::os::unix::fs::MetadataExt::uid(&meta) == file.owner.unwrap_or(0);
        owned
            && meta.permissions().mode() & 0o7777 == mode_of(file.mode, group)
            && fs::read(&target).is_ok_and(|data| data == file.data)
    })
}

fn collect(root: &Path, dir: &Path, out: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(root, &entry.path(), out)?;
        } else {
            out.insert(entry.path().strip_prefix(root).map(Path::to_owned).unwrap_or_default());
        }
    }
    Ok(())
}

/// Makes the names at the top that users see, and removes those that went away, and data that are shown no more.
fn sync_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    crash::point("links set");
    let shown = fs::read_link(dir.join(DATA))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("..") {
            if entry.file_type()?.is_dir() && Path::new(name.as_ref()) != shown {
                let _ = fs::remove_dir_all(entry.path());
            }
        } else if !wanted.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::volumes::payload::File;

    fn files(list: &[(&str, &str, u32)]) -> Payload {
        list.iter()
            .map(|(p, d, mode)| (p.to_string(), File { data: d.as_bytes().to_vec(), mode: *mode, owner: None }))
            .collect()
    }

    #[test]
    fn files_are_replaced_all_at_once_and_stale_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(write(dir, &files(&[("a", "1", 0o600), ("sub/b", "2", 0o644)]), None).unwrap());
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o600);
        let first = fs::read_link(dir.join(DATA)).unwrap();

        assert!(!write(dir, &files(&[("a", "1", 0o600), ("sub/b", "2", 0o644)]), None).unwrap());
        assert_eq!(fs::read_link(dir.join(DATA)).unwrap(), first);

        assert!(write(dir, &files(&[("a", "3", 0o600), ("c", "4", 0o644)]), None).unwrap());
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert_eq!(fs::read_to_string(dir.join("c")).unwrap(), "4");
        assert!(fs::symlink_metadata(dir.join("sub")).is_err());
        assert!(!dir.join(first).exists());
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "..x", ""] {
            assert!(write(dir.path(), &files(&[(path, "1", 0o600)]), None).is_err(), "{path}");
        }
    }
}
