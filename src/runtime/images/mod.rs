//! Images: a content-addressed store of unpacked layers, filled by pulls from registries and by archives.

mod airgap;
mod archive;
mod challenge;
mod config;
pub(crate) mod crash;
mod error;
mod export;
mod failure;
mod ingest;
mod layer;
mod manifest;
mod pipe;
mod pull;
mod reference;
mod registries;
mod registry;
mod selfimage;
mod store;
mod tarstream;
mod unpack;
mod users;

pub use airgap::AirGap;
pub use config::ImageConfig;
pub use error::{ImageError, PullError, PullErrorKind};
pub use reference::{InvalidReference, Reference};
pub use registries::{InvalidRegistries, Registries};
pub use store::{Image, ImageStore, PullOptions, PullProgress, Pulled, RegistryCredentials};
pub(crate) use store::{blocking, lock, read_dir};
pub use users::{User, UserError, lookup_user};

/// The image that is the running binary itself: always there, never pulled, any tag.
pub const SELF_IMAGE: &str = "naru.local/self";

#[cfg(test)]
mod tests;
