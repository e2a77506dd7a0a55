//! Kernel parameters of the current network namespace.

use crate::CniError;
use std::path::{Path, PathBuf};

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

/// Sets a parameter unless it has the value already, so that a read-only /proc/sys does not matter then.
pub(crate) fn set(key: &str, value: &str) -> Result<(), CniError> {
    let path = path(key);
    if std::fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(CniError::io("set", path))
}

/// Sets a parameter without which pods have a network, too: where none can be set, the node's condition says so.
pub(crate) fn prefer(key: &str, value: &str) {
    if let Err(error) = set(key, value) {
        tracing::debug!(%error, "a kernel parameter stays as it is");
    }
}

/// Whether the kernel has a parameter or a group of them.
pub(crate) fn exists(key: &str) -> bool {
    path(key).exists()
}
