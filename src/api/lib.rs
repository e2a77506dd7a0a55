//! The Kubernetes API's types and rules, pure: no tokio, no I/O.
//!
//! Objects are `serde_json::Value` trees for the length of one write; nothing here keeps them.

pub mod meta;
pub mod registry;
pub mod status;
