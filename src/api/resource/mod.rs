//! resource.k8s.io/v1: devices, what offers them and who has claimed them.

mod claim;
pub mod device_class;
mod qualified;
pub mod resource_claim;
pub mod resource_claim_template;
pub mod resource_slice;
mod slice;
mod validate;
