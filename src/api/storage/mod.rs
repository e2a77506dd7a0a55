//! storage.k8s.io/v1.

pub mod csi_driver;
pub mod csi_node;
pub mod csi_storage_capacity;
pub mod storage_class;
mod validate;
pub mod volume_attachment;
pub mod volume_attributes_class;

pub(crate) use validate::driver_name;
