//! What can go wrong, with the operands.

use std::path::PathBuf;

/// An error of the runtime. The texts of [`RuntimeError::Start`] are the ones users of
/// Kubernetes know from other runtimes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// No such sandbox.
    #[error("sandbox {0:?} not found")]
    NoSandbox(String),
    /// No such container.
    #[error("container {0:?} not found")]
    NoContainer(String),
    /// The id is in use.
    #[error("{0:?} exists already")]
    Exists(String),
    /// The request makes no sense, or not in the present state.
    #[error("{0}")]
    Invalid(String),
    /// The container's process could not be run; the text is meant for the user.
    #[error("{0}")]
    Start(String),
    /// The container is not running.
    #[error("container {0:?} is not running")]
    NotRunning(String),
    /// The sandbox's shim has died or does not answer.
    #[error("shim of sandbox {sandbox:?}: {reason}")]
    Shim {
        /// Which sandbox.
        sandbox: String,
        /// What happened.
        reason: String,
    },
    /// It took too long.
    #[error("timed out after {0:?}")]
    Timeout(std::time::Duration),
    /// A file or directory of the runtime's own.
    #[error("{path}: {reason}")]
    Io {
        /// Which path.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Anything else that the kernel or a library refused.
    #[error("{0}")]
    Failed(String),
}

impl RuntimeError {
    pub(crate) fn io(path: impl Into<PathBuf>, error: impl std::fmt::Display) -> Self {
        Self::Io { path: path.into(), reason: error.to_string() }
    }
}

/// Shorthand.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;
