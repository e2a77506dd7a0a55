//! Tells when something in one of several directories has changed.

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Watched directories.
#[derive(Debug)]
pub struct DirectoryWatch {
    fd: AsyncFd<OwnedFd>,
}

impl DirectoryWatch {
    /// Watches nothing yet.
    #[allow(deprecated, reason = "registering is unsafe for descriptors that may be closed; this one is owned")]
    pub fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| advise(error, "inotify: raise fs.inotify.max_user_instances".to_owned()))?;
        Ok(Self { fd: AsyncFd::new(fd)? })
    }

    /// Watches a directory; watching it again changes nothing.
    pub fn add(&self, dir: &Path) -> io::Result<()> {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(self.fd.get_ref(), dir, flags) {
            // It went after it was found.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(()),
            Err(error) => Err(advise(error, format!("watching {}: raise fs.inotify.max_user_watches", dir.display()))),
            Ok(_) => Ok(()),
        }
    }

    /// Waits for a change. What has changed is found out by looking.
    pub async fn changed(&self) -> io::Result<()> {
        let mut buffer = [0_u8; 4096];
        loop {
            let mut guard = self.fd.readable().await?;
            let mut read = 0;
            loop {
                match rustix::io::read(self.fd.get_ref(), &mut buffer) {
                    Ok(0) => break,
                    Ok(bytes) => read += bytes,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => {
                        guard.clear_ready();
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if read > 0 {
                return Ok(());
            }
        }
    }
}

fn advise(error: rustix::io::Errno, advice: String) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{advice}: {error}"))
}
