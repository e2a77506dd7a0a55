//! One pod on this node: what to do next, how to start and stop its containers, what to publish.

mod admit;
pub mod backoff;
pub mod dns;
pub mod env;
pub mod env_file;
pub mod expand;
pub mod fields;
mod hooks;
pub(crate) mod inbox;
mod logs;
mod message;
mod mounts;
pub mod plan;
pub(crate) mod prepare;
mod probing;
mod resize;
pub mod resources;
mod restart_all;
pub mod security;
pub(crate) mod slot;
pub(crate) mod start;
pub mod status;
mod stop;
pub mod sysctls;
mod terminate;
mod tokens;
pub(crate) mod worker;
