//! One integration binary: the structure of the tree, the command line, and clusters driven by
//! clients that nobody here wrote.

#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

mod agents;
mod asked;
mod bad_input;
mod clients;
mod cluster;
mod conformance;
mod databases;
mod edges;
mod exiting;
mod history;
mod isolation;
mod joining;
mod killing;
mod kinds;
mod network;
mod node;
mod played;
mod programs;
mod resizing;
mod schemathesis;
mod serving;
mod static_pods;
mod streams;
mod structure;
mod units;
#[cfg(target_arch = "x86_64")]
mod vm;
mod volumes;
mod walking;
mod workloads;
