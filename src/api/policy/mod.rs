//! How much disruption an application stands.

pub mod pod_disruption_budget;
