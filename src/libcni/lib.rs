//! CNI 1.1: configuration, invocation, results cache, and the built-in plugins.

mod error;
mod network;
mod types;

pub use error::CniError;
pub use network::{Attachment, Network, NetworkConfig};
pub use types::{CniResult, Interface, IpConfig, Route};
