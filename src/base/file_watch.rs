//! Tells when a file has been written or replaced.

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Watches one file by its directory, so that it may be replaced by another of the same name. Links that lead to
/// it are seen when they themselves change, as in mounted ConfigMaps, whose `..data` is replaced.
#[derive(Debug)]
pub struct FileWatch {
    inotify: AsyncFd<OwnedFd>,
    name: OsString,
}

impl FileWatch {
    /// Starts to watch. The file need not exist, its directory must.
    #[allow(deprecated, reason = "an owned descriptor keeps its number; the replacement is unsafe")]
    pub fn new(path: &Path) -> io::Result<Self> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file");
        let name = path.file_name().ok_or_else(missing)?.to_owned();
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, dir, WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::CREATE)?;
        Ok(Self { inotify: AsyncFd::new(fd)?, name })
    }

    /// Completes when the file may have changed. Several changes may be told as one. Cancel safe.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.inotify.readable().await?;
            let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
            let mut reader = inotify::Reader::new(guard.get_inner(), &mut buffer);
            let mut concerns = false;
            loop {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(std::ffi::CStr::to_bytes);
                        // An overflow of the kernel's queue has no name.
                        concerns |= name.is_none_or(|name| name == self.name.as_bytes() || name == b"..data");
                    }
                    Err(rustix::io::Errno::WOULDBLOCK) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            guard.clear_ready();
            if concerns {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_of_writes_and_replacements_and_of_nothing_else() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("config");
        let mut watch = FileWatch::new(&path)?;
        std::fs::write(dir.path().join("other"), "x")?;
        std::fs::write(&path, "one")?;
        watch.changed().await?;
        std::fs::write(dir.path().join("new"), "two")?;
        std::fs::rename(dir.path().join("new"), &path)?;
        watch.changed().await
    }
}
