//! Ground floor: named tasks, shutdown, back-off, watched files. Knows nothing of Kubernetes.

mod backoff;
mod directory_watch;
mod file_watch;
mod task;

pub use backoff::Backoff;
pub use directory_watch::DirectoryWatch;
pub use file_watch::FileWatch;
pub use task::{Shutdown, spawn};
