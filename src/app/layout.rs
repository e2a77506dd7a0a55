//! Where things are under the data directory.

use crate::files::private_dir;
use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The directories and files of one server or agent.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`; nothing is made yet.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).with_context(|| format!("--data-dir {}", root.display()))?;
        Ok(Self { root })
    }

    /// Makes the server's directories.
    pub(crate) fn create(&self) -> Result<()> {
        for dir in [self.tls(), self.manifests(), self.database_dir(), self.agent(), self.run()] {
            private_dir(&dir)?;
        }
        Ok(())
    }

    /// Makes the agent's directories.
    pub(crate) fn create_agent(&self) -> Result<()> {
        [self.agent(), self.run()].iter().try_for_each(|dir| private_dir(dir))
    }

    /// The data directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What the control plane keeps.
    pub(crate) fn server(&self) -> PathBuf {
        self.root.join("server")
    }

    /// Objects that are applied by themselves.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.root.join("server/manifests")
    }

    /// Certificates and keys.
    pub(crate) fn tls(&self) -> PathBuf {
        self.root.join("server/tls")
    }

    fn database_dir(&self) -> PathBuf {
        self.root.join("server/db")
    }

    /// The SQLite database.
    pub(crate) fn database(&self) -> PathBuf {
        self.database_dir().join("state.db")
    }

    /// The join token.
    pub(crate) fn token(&self) -> PathBuf {
        self.root.join("server/token")
    }

    /// What an agent is given to join: the join token, or that of agents alone.
    pub(crate) fn node_token(&self) -> PathBuf {
        self.root.join("server/node-token")
    }

    /// Keys that naru keeps for itself.
    pub(crate) fn credentials(&self) -> PathBuf {
        self.root.join("server/cred")
    }

    /// The EncryptionConfiguration of `--secrets-encryption`.
    pub(crate) fn encryption_config(&self) -> PathBuf {
        self.credentials().join("encryption-config.json")
    }

    /// What the node agent keeps.
    pub(crate) fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// Images and snapshots.
    pub(crate) fn images(&self) -> PathBuf {
        self.agent().join("images.d")
    }

    /// Archives whose images are there from the start.
    pub(crate) fn airgap(&self) -> PathBuf {
        self.agent().join("images")
    }

    /// Sockets, process ids and mounts: worth nothing after a reboot.
    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Takes the data directory for this process; held until the file is dropped, also by `kill -9`.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.run().join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let take = || flock(&file, FlockOperation::NonBlockingLockExclusive);
        // A child of one that was killed holds it too, until it has become another program.
        for _ in 0..40 {
            if take().is_ok() {
                return Ok(file);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        take().with_context(|| {
            format!(
                "another naru uses the data directory {}: stop it first, or give this one its own --data-dir",
                self.root.display()
            )
        })?;
        Ok(file)
    }
}
