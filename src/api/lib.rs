//! The Kubernetes API's types and rules, pure: no tokio, no I/O.
//!
//! Objects are `serde_json::Value` trees for the length of one write; nothing here keeps them.

pub mod address;
pub mod apply;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
pub mod batch;
pub mod bootstrap_token;
pub mod cel;
pub mod certificates;
mod checks;
pub mod codec;
pub mod coordination;
pub mod core;
pub mod discovery;
pub mod documents;
pub mod events;
pub mod facts;
pub mod flowcontrol;
#[cfg(test)]
mod fuzz;
mod internal;
pub mod meta;
pub mod networking;
pub mod node;
pub mod patch;
pub mod pod_security;
pub mod policy;
pub mod quantity;
pub mod quota;
pub mod rbac;
pub mod registry;
pub mod resource;
pub mod scheduling;
pub mod selector;
pub mod status;
pub mod storage;
pub mod table;
mod tree;
