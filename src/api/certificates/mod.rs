//! certificates.k8s.io/v1: requests for certificates.

pub(crate) mod pair;
mod pem;
pub mod request;
mod signer;
pub mod subject;
