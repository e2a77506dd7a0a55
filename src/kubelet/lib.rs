//! The node agent: pod workers, probes, volumes, status, node API.

pub mod config;
pub mod engine;
pub mod pod;
pub mod probe;
pub mod volumes;
