//! Errors, with the codes of the CNI specification.

use std::path::PathBuf;

/// Why a CNI operation failed.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The configuration is wrong.
    #[error("invalid network config: {0}")]
    Config(String),
    /// All addresses of the range are taken.
    #[error("no IP addresses available in range set: {0}")]
    NoAddress(String),
    /// The pod's network namespace is gone.
    #[error("failed to open netns {path:?}: {source}")]
    Netns {
        /// The namespace's file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file could not be read or written.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The kernel refused a change of links, addresses or routes.
    #[error("{action}: {reason}")]
    Netlink {
        /// What was being done.
        action: String,
        /// Why it failed.
        reason: String,
    },
    /// The configuration is of a version that is not spoken.
    #[error("{0}")]
    Version(String),
    /// A parameter in the environment is missing or wrong.
    #[error("{0}")]
    Environment(String),
    /// A plugin of others failed.
    #[error("{0}")]
    Plugin(String),
    /// `check` found something missing.
    #[error("{0}")]
    Check(String),
}

impl CniError {
    /// The code of the specification.
    pub fn code(&self) -> u32 {
        match self {
            Self::Version(_) => 1,
            Self::Environment(_) => 4,
            Self::Config(_) => 7,
            Self::NoAddress(_) | Self::Check(_) | Self::Netlink { .. } | Self::Plugin(_) => 999,
            Self::Netns { .. } => 3,
            Self::Io { .. } => 5,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
