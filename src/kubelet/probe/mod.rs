//! Probes: thresholds, and the tasks that ask.

pub mod state;
