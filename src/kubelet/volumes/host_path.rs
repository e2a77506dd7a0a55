//! Paths of the host: checked or made by the type that a pod states.

use super::{VolumeError, io_error};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::Path;

/// Checks a path on the host, or makes it if its type says so.
pub(super) fn set_up(path: &Path, kind: &str) -> Result<(), VolumeError> {
    let exists = fs::metadata(path).is_ok();
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if !exists => {
            fs::create_dir_all(path).map_err(io_error(path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io_error(path))
        }
        "FileOrCreate" if !exists => {
            fs::File::create(path).map_err(io_error(path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(io_error(path))
        }
        "Directory" | "DirectoryOrCreate" => check(path, "Directory", "directory"),
        "File" | "FileOrCreate" => check(path, "File", "file"),
        "Socket" => check(path, "Socket", "socket file"),
        "CharDevice" => check(path, "CharDevice", "character device"),
        "BlockDevice" => check(path, "BlockDevice", "block device"),
        other => Err(VolumeError::HostPath(format!("{other} is an invalid volume type"))),
    }
}

/// Makes a directory of a path of which nothing is said and where nothing is: container runtimes do so, and pods
/// count on it.
pub(crate) fn make_missing(path: &Path) -> std::io::Result<()> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
        }
        _ => Ok(()),
    }
}

fn check(path: &Path, wanted: &str, described: &str) -> Result<(), VolumeError> {
    let Ok(meta) = fs::metadata(path) else {
        return Err(VolumeError::HostPath(format!("hostPath {} doesn't exist", path.display())));
    };
    let kind = meta.file_type();
    let found = match () {
        () if kind.is_dir() => "Directory",
        () if kind.is_file() => "File",
        () if kind.is_socket() => "Socket",
        () if kind.is_char_device() => "CharDevice",
        () if kind.is_block_device() => "BlockDevice",
        () => "pipe",
    };
    if found == wanted {
        return Ok(());
    }
    let path = path.display();
    Err(VolumeError::HostPath(format!("hostPath type check failed: {path} is not a {described}, it's a {found}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn host_paths_are_checked_by_type() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let fail = |path: &Path, kind: &str| set_up(path, kind).unwrap_err().to_string();
        assert!(set_up(&file, "").is_ok());
        for kind in ["Directory", "File", "Socket", "CharDevice", "BlockDevice"] {
            assert_eq!(fail(&file, kind), format!("hostPath {} doesn't exist", file.display()));
        }
        set_up(&file, "FileOrCreate").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        assert!(set_up(&file, "File").is_ok());
        for (kind, described) in
            [("Directory", "directory"), ("DirectoryOrCreate", "directory"), ("Socket", "socket file")]
        {
            let expect = format!("hostPath type check failed: {} is not a {described}, it's a File", file.display());
            assert_eq!(fail(&file, kind), expect);
        }
        set_up(&dir.path().join("a/b"), "DirectoryOrCreate").unwrap();
        assert!(dir.path().join("a/b").is_dir());
        assert!(set_up(Path::new("/dev/null"), "CharDevice").is_ok());
        assert!(fail(Path::new("/dev/null"), "BlockDevice").ends_with("is not a block device, it's a CharDevice"));
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(set_up(&dir.path().join("s"), "Socket").is_ok());
        assert_eq!(fail(&file, "Odd"), "Odd is an invalid volume type");
    }
}
