//! What an earlier process has seen of the cluster, for a start while the server is away.

use std::fmt;

/// Where it is kept.
pub trait Memory: Send + Sync + fmt::Debug {
    /// The objects of a resource as they were seen last, each as JSON that its projection reads; `None` if nothing is
    /// kept of it.
    fn recall(&self, resource: &str) -> Option<Vec<Vec<u8>>>;
}
