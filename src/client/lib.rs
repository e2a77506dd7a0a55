//! Typed client over the `Transport` trait, with informers, work queues and an event recorder.

mod calls;
mod client;
mod events;
pub mod https;
mod informer;
pub mod kubeconfig;
mod memory;
mod path;
pub mod projections;
mod queue_metrics;
mod reflector;
mod shared;
pub mod transport;
mod work_queue;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod fake;

pub use calls::Calls;
pub use client::{
    Client, DeleteOptions, List, ListMeta, ListParams, PatchKind, Preconditions, Propagation, is_already_exists,
    is_conflict, is_gone, is_invalid, is_not_found,
};
pub use events::{EventKind, EventRecorder, ObjectReference};
pub use informer::{Change, IndexId, Informer, ObjectKey};
pub use memory::Memory;
pub use path::{Query, resource_path};
pub use queue_metrics::{Durations, QUEUE_DURATIONS, QueueMetrics, QueueStats};
pub use shared::Informers;
pub use transport::{Error, EventType, Request, Transport, WatchEvent, WatchStream};
pub use work_queue::{Next, WorkQueue, run_workers};
