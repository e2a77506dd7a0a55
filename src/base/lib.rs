//! Ground floor: named tasks, shutdown, back-off, watched files, metrics as text. Knows nothing of Kubernetes.

mod backoff;
mod directory_watch;
mod file_watch;
pub mod metrics;
mod process;
mod task;

pub use backoff::Backoff;
pub use directory_watch::DirectoryWatch;
pub use file_watch::FileWatch;
pub use process::Process;
pub use task::{Shutdown, spawn};
