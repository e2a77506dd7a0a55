//! CNI 1.1: configuration, invocation, results cache, and the built-in plugins.

mod cache;
mod error;
mod external;
mod ipam;
mod netlink;
mod network;
mod plugin;
mod sysctl;
mod types;

pub use error::CniError;
pub use external::{External, ExternalConfig};
pub use network::{Attachment, HOST_INTERFACE_PREFIX, Network, NetworkConfig};
pub use plugin::{PLUGINS, plugin_main};
pub use types::{CniResult, Interface, IpConfig, Route};

/// Replaces a small file; readers and crashes see the old or the new one.
fn write_atomically(path: &std::path::Path, contents: &[u8]) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    std::fs::write(&new, contents)?;
    std::fs::rename(&new, path)
}
