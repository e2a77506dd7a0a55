//! The core group: one file per kind.

mod access_modes;
pub mod binding;
pub mod component_status;
pub mod config_map;
mod data;
pub mod endpoints;
pub mod event;
pub mod limit_range;
pub mod limits;
pub mod namespace;
pub mod node;
pub mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
pub mod pod_template;
pub mod replication_controller;
pub(crate) mod resource_names;
pub mod resource_quota;
pub mod secret;
pub mod service;
pub mod service_account;

pub use resource_names::is_extended;
