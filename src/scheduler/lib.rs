//! The scheduler: queue, cache, cycle, plugins.
//!
//! `driver` feeds `cache` and `queue` from informers, takes one pod at a time, lets `cycle` run the
//! plugins over the cached nodes, and binds in the background while the cache assumes the outcome.
//! `hints` says which events let a pod be tried again that fitted nowhere.

mod cache;
mod cycle;
mod driver;
mod hints;
mod kinds;
mod metrics;
mod plugins;
mod pod_info;
mod preemption;
mod queue;
mod resources;
mod terms;

pub use driver::start;
pub use metrics::Metrics;

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tables;
