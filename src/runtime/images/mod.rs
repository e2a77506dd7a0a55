//! Images: a content-addressed store of unpacked layers, filled by pulls from registries and by archives.

mod config;
mod error;
mod reference;
mod store;
mod users;

pub use config::ImageConfig;
pub use error::{ImageError, PullError, PullErrorKind};
pub use reference::{InvalidReference, Reference};
pub use store::{Image, ImageStore, PullOptions, PullProgress, RegistryCredentials};
pub use users::{User, UserError, lookup_user};

/// The image that is the running binary itself: always there, never pulled, any tag.
pub const SELF_IMAGE: &str = "naru.local/self";
