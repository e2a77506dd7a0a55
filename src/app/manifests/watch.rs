//! Tells when something below a directory has changed.

use anyhow::{Context, Result};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Watched directories.
pub(super) struct Watch {
    fd: AsyncFd<OwnedFd>,
}

impl Watch {
    #[allow(deprecated, reason = "registering is unsafe for descriptors that may be closed; this one is owned")]
    pub(super) fn new() -> Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .context("inotify: raise fs.inotify.max_user_instances")?;
        Ok(Self { fd: AsyncFd::new(fd)? })
    }

    /// Watches a directory; watching it again changes nothing.
    pub(super) fn add(&self, dir: &Path) -> Result<()> {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(self.fd.get_ref(), dir, flags) {
            // It went after it was found.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(()),
            other => other
                .map(drop)
                .with_context(|| format!("watching {}: raise fs.inotify.max_user_watches", dir.display())),
        }
    }

    /// Waits for a change. What has changed is found out by looking.
    pub(super) async fn changed(&self) -> Result<()> {
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
