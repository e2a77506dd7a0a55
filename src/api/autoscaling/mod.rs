//! How many pods there should be, by what they have to do.

mod annotations;
pub mod horizontal_pod_autoscaler;
pub mod horizontal_pod_autoscaler_v1;
mod validate;
