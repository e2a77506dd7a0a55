//! The OCI side: shim, images, snapshots, sandboxes, cgroups. Sees OCI specs, never Pods.

#![allow(unsafe_code, reason = "namespaces, ptys and pidfds need the kernel directly")]

mod agent;
pub mod allocator;
mod cgroup;
mod error;
pub mod idmap;
pub mod images;
mod proc;
mod protocol;
mod seccomp;
pub mod shim;
pub mod snapshots;
mod spec;
mod sys;
mod trees;

pub use agent::{ExecInput, ExecOutput, ExecSession, ProbeResult, Runtime, RuntimeConfig, cgroup_problem};
pub use error::{Result, RuntimeError};
pub use proc::mount_points;
pub use spec::{
    ContainerInfo, ContainerSpec, ContainerState, Device, DiskStats, Event, ExecSpec, Exit, ExitStatus, Mount,
    Propagation, Resources, SandboxInfo, SandboxSpec, SeccompProfile, Stats, default_capabilities,
    default_masked_paths, default_readonly_paths,
};
pub use trees::remove_tree;
