//! Errors of the image store, worded as Kubernetes users know them.

use super::reference::InvalidReference;
use std::path::PathBuf;

/// Why a local operation on images failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file system refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done, such as `create`.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The reference cannot be parsed.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The archive or its contents are broken or hostile.
    #[error("{0}")]
    Content(String),
    /// No image has this name.
    #[error("image {0:?}: not found")]
    NotFound(String),
}

impl ImageError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// What kind of failure a pull ended with, named as the gRPC codes that upstream's messages carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullErrorKind {
    /// The reference is malformed.
    InvalidArgument,
    /// The registry has no such image.
    NotFound,
    /// The registry refuses without (other) credentials.
    PermissionDenied,
    /// The registry cannot be reached or is failing; trying again may help.
    Unavailable,
    /// Anything else: broken manifests, hostile layers, a full disk.
    Unknown,
}

impl PullErrorKind {
    /// The code's name as it appears after `rpc error: code = `.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "InvalidArgument",
            Self::NotFound => "NotFound",
            Self::PermissionDenied => "PermissionDenied",
            Self::Unavailable => "Unavailable",
            Self::Unknown => "Unknown",
        }
    }
}

/// Why a pull failed. The text says everything, with the registry's own reason last.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct PullError {
    /// What kind of failure.
    pub kind: PullErrorKind,
    /// Such as `failed to pull and unpack image "...": failed to resolve reference "...": ...: not found`.
    pub message: String,
}
