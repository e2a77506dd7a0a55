//! One pod on this node: what to do next, how to start and stop its containers, what to publish.

pub mod backoff;
pub mod dns;
pub mod env;
pub mod expand;
pub mod fields;
pub mod plan;
pub mod resources;
pub mod security;
pub mod status;
