//! Ground floor: named tasks, shutdown, back-off. Knows nothing of Kubernetes.

mod backoff;
mod task;

pub use backoff::Backoff;
pub use task::{Shutdown, spawn};
