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
use super::error::ImageError;
use super::ingest::{Ingest, write_atomically};
use super::layer::sha256;
use super::reference::Reference;
use super::registries::Registries;
use super::{SELF_IMAGE, crash, selfimage};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

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

impl Image {
    /// What Kubernetes shows as the image id of a container that asked for `reference`: the repository
    /// with the digest, or the id for an image that never was in a registry.
    pub fn repo_digest(&self, reference: &str) -> String {
        let repository = Reference::parse(reference).map(|parsed| parsed.name()).unwrap_or_default();
        let same = |digest: &&String| digest.split('@').next() == Some(repository.as_str());
        self.digests.iter().find(same).or(self.digests.first()).unwrap_or(&self.id).clone()
    }
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
    /// A token with which others are got.
    Identity(String),
}

impl RegistryCredentials {
    /// Tells credentials apart without showing them.
    pub fn fingerprint(&self) -> String {
        match self {
            Self::Basic { username, password } => sha256(format!("basic {username}:{password}").as_bytes()),
            Self::Bearer(token) => sha256(format!("bearer {token}").as_bytes()),
            Self::Identity(token) => sha256(format!("identity {token}").as_bytes()),
        }
    }
}

impl std::fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryCredentials(..)")
    }
}

/// An image that was pulled, and by whose leave.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: Arc<Image>,
    /// The fingerprint of those credentials in the options that the registry accepted. `None`: it took nothing
    /// but what the machine has.
    pub credentials: Option<String>,
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

pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) self_image: Arc<Image>,
    /// Locked for as long as the self image may be used.
    _self_claim: File,
    /// Layers being downloaded at once, over all pulls.
    pub(super) downloads: tokio::sync::Semaphore,
    pub(super) pulls: super::pull::Pulls,
    registries: OnceLock<Registries>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// An image as it is recorded on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub(super) id: String,
    pub(super) config: ImageConfig,
    pub(super) size: u64,
    /// Chain ids, lowest first.
    pub(super) layers: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct NameRecord {
    name: String,
    image: String,
}

/// A layer unpacked in an ingest directory, ready to be moved to its place.
#[derive(Debug)]
pub(super) struct NewLayer {
    pub(super) chain_id: String,
    /// The directory that holds `fs`.
    pub(super) dir: PathBuf,
}

const MAX_DOWNLOADS: usize = 4;

impl ImageStore {
    /// Opens or creates the store below `dir` and removes what a crash left half done.
    /// `self_exe` is the file that the self image consists of.
    pub fn open(dir: &Path, self_exe: &Path) -> Result<Self, ImageError> {
        for sub in ["layers", "images", "names", "ingest", "self", "snapshots"] {
            let path = dir.join(sub);
            std::fs::create_dir_all(&path).map_err(ImageError::io("create", &path))?;
        }
        // Lower directories keep their owners and modes; nobody else may reach set-id files in them.
        rustix::fs::chmod(dir, rustix::fs::Mode::RWXU).map_err(|errno| ImageError::io("protect", dir)(errno.into()))?;
        let lock_guard = lock(dir, true)?;
        Ingest::clean(dir)?;
        drop(lock_guard);
        // Until it is claimed, the self image could be taken for garbage.
        let lock_guard = lock(dir, false)?;
        let (self_image, self_claim) = selfimage::prepare(dir, self_exe)?;
        drop(lock_guard);
        let store = Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                self_image: Arc::new(self_image),
                _self_claim: self_claim,
                downloads: tokio::sync::Semaphore::new(MAX_DOWNLOADS),
                pulls: super::pull::Pulls::default(),
                registries: OnceLock::new(),
            }),
        };
        store.collect_garbage()?;
        Ok(store)
    }

    /// Says where images are pulled from, once; before that each comes from the registry in its name.
    pub fn configure(&self, registries: Registries) {
        if self.inner.registries.set(registries).is_err() {
            tracing::warn!("the registries of an image store were configured already");
        }
    }

    pub(super) fn registries(&self) -> Registries {
        self.inner.registries.get().cloned().unwrap_or_default()
    }

    /// The image of this name (any form), tag, digest or image id, if it is present.
    pub fn resolve(&self, reference: &str) -> Option<Arc<Image>> {
        if is_self(reference) || reference == self.inner.self_image.id {
            return Some(self.inner.self_image.clone());
        }
        let id = match image_id(reference) {
            Some(id) => id,
            None => self.read_name(&full_name(&Reference::parse(reference).ok()?))?.image,
        };
        let record = self.read_image(&id)?;
        let names = self.names().ok()?;
        Some(Arc::new(self.image(record, &names)))
    }

    /// All images, the self image included.
    pub fn list(&self) -> Result<Vec<Arc<Image>>, ImageError> {
        let names = self.names()?;
        let mut images = vec![self.inner.self_image.clone()];
        for record in self.records()? {
            images.push(Arc::new(self.image(record, &names)));
        }
        Ok(images)
    }

    /// Removes a name, or with an id the image with all its names. An image goes with its last tag, and
    /// layers go when neither an image nor a container needs them.
    pub async fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let (store, reference) = (self.clone(), reference.to_owned());
        blocking(move || store.remove_now(&reference)).await
    }

    fn remove_now(&self, reference: &str) -> Result<(), ImageError> {
        let missing = || ImageError::NotFound(reference.to_owned());
        let guard = lock(&self.inner.dir, true)?;
        let names = self.names()?;
        let (id, only) = match image_id(reference) {
            Some(id) => (id, None),
            None => {
                let name = full_name(&Reference::parse(reference)?);
                (names.get(&name).cloned().ok_or_else(missing)?, Some(name))
            }
        };
        let record_path = self.image_path(&id);
        if !record_path.exists() && only.is_none() {
            return Err(missing());
        }
        let of_image = |name: &&String| names.get(*name) == Some(&id);
        let other_tags = names.keys().filter(of_image).any(|name| !name.contains('@') && Some(name) != only.as_ref());
        let keep_image = other_tags && only.is_some();
        if !keep_image {
            remove_file(&record_path)?;
            crash::point("image forgotten");
        }
        for name in names.keys().filter(of_image).filter(|name| !keep_image || Some(*name) == only.as_ref()) {
            remove_file(&self.name_path(name))?;
        }
        drop(guard);
        self.collect_garbage()
    }

    /// Moves new layers to their places and records an image with its names. False if a layer that was
    /// taken for present has been removed meanwhile.
    pub(super) fn commit(
        &self,
        record: &ImageRecord,
        names: &[String],
        new: Vec<NewLayer>,
    ) -> Result<bool, ImageError> {
        let dir = &self.inner.dir;
        if !new.is_empty() {
            // Once for all layers: after this, a name that exists means contents that exist.
            let opened = File::open(dir).map_err(ImageError::io("open", dir))?;
            rustix::fs::syncfs(&opened).map_err(|errno| ImageError::io("sync", dir)(errno.into()))?;
            crash::point("layers synced");
        }
        let _guard = lock(dir, false)?;
        for layer in new {
            let place = self.layer_dir(&layer.chain_id);
            if let Err(error) = std::fs::rename(&layer.dir, &place)
                && !place.exists()
            {
                return Err(ImageError::io("create", place)(error));
            }
            crash::point("layer placed");
        }
        if !record.layers.iter().all(|chain_id| self.has_layer(chain_id)) {
            return Ok(false);
        }
        sync_dir(&dir.join("layers"))?;
        // The image last: a name that means nothing is found and removed, an image without a name is not.
        for name in names {
            write_json(&self.name_path(name), &NameRecord { name: name.clone(), image: record.id.clone() })?;
            crash::point("name recorded");
        }
        write_json(&self.image_path(&record.id), record)?;
        crash::point("image recorded");
        Ok(true)
    }

    pub(super) fn has_layer(&self, chain_id: &str) -> bool {
        self.layer_dir(chain_id).join("fs").is_dir()
    }

    /// The directory of a layer's files.
    pub(super) fn layer_fs(&self, chain_id: &str) -> PathBuf {
        self.layer_dir(chain_id).join("fs")
    }

    pub(super) fn read_image(&self, id: &str) -> Option<ImageRecord> {
        read_json(&self.image_path(id))
    }

    fn image(&self, record: ImageRecord, names: &BTreeMap<String, String>) -> Image {
        let mine = names.iter().filter(|(_, image)| **image == record.id).map(|(name, _)| name.clone());
        let (digests, names) = mine.partition(|name| name.contains('@'));
        let layers = record.layers.iter().map(|chain_id| self.layer_fs(chain_id)).collect();
        Image { id: record.id, names, digests, config: record.config, size: record.size, layers }
    }

    fn layer_dir(&self, chain_id: &str) -> PathBuf {
        self.inner.dir.join("layers").join(file_name(chain_id))
    }

    fn image_path(&self, id: &str) -> PathBuf {
        self.inner.dir.join("images").join(format!("{}.json", file_name(id)))
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.inner.dir.join("names").join(format!("{}.json", file_name(&sha256(name.as_bytes()))))
    }

    fn read_name(&self, name: &str) -> Option<NameRecord> {
        read_json(&self.name_path(name))
    }

    /// Names and the ids of their images.
    fn names(&self) -> Result<BTreeMap<String, String>, ImageError> {
        let records: Vec<NameRecord> = read_all(&self.inner.dir.join("names"))?;
        Ok(records.into_iter().map(|record| (record.name, record.image)).collect())
    }

    fn records(&self) -> Result<Vec<ImageRecord>, ImageError> {
        read_all(&self.inner.dir.join("images"))
    }

    /// Deletes layers that neither an image nor a container's root file system is made of.
    pub(super) fn collect_garbage(&self) -> Result<(), ImageError> {
        let dir = &self.inner.dir;
        let trash = Ingest::create(dir)?;
        let guard = lock(dir, true)?;
        let mut needed: HashSet<PathBuf> = self.inner.self_image.layers.iter().cloned().collect();
        let records = self.records()?;
        for (name, image) in self.names()? {
            if !records.iter().any(|record| record.id == image) {
                remove_file(&self.name_path(&name))?;
            }
        }
        for record in records {
            needed.extend(record.layers.iter().map(|chain_id| self.layer_fs(chain_id)));
        }
        needed.extend(crate::snapshots::layers_in_use(dir)?);
        for kind in ["layers", "self"] {
            for path in read_dir(&dir.join(kind))? {
                let claimed = kind == "self" && selfimage::is_claimed(&path);
                if !claimed && !needed.contains(&path.join("fs")) {
                    let place = trash.path().join(path.file_name().unwrap_or_default());
                    std::fs::rename(&path, &place).map_err(ImageError::io("remove", &path))?;
                    crash::point("layer taken away");
                }
            }
        }
        drop(guard);
        // Deleting takes time, and no longer needs the lock.
        drop(trash);
        Ok(())
    }
}

/// Whether a reference means the self image: any tag or none.
pub(super) fn is_self(reference: &str) -> bool {
    reference.strip_prefix(SELF_IMAGE).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
}

/// The name under which an image is found: a digest says more than a tag.
pub(super) fn full_name(reference: &Reference) -> String {
    match &reference.digest {
        Some(digest) => format!("{}@{digest}", reference.name()),
        None => reference.to_string(),
    }
}

/// An image id, with or without its algorithm.
fn image_id(text: &str) -> Option<String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    (hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then(|| format!("sha256:{hex}"))
}

/// `sha256:abc` as a file name.
fn file_name(digest: &str) -> String {
    digest.strip_prefix("sha256:").map_or_else(|| digest.replace([':', '/'], "-"), str::to_owned)
}

/// Shared while something is added, exclusive while something is removed, also between processes.
pub(crate) fn lock(dir: &Path, exclusive: bool) -> Result<File, ImageError> {
    let path = dir.join("lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(ImageError::io("open", &path))?;
    let operation = if exclusive { FlockOperation::LockExclusive } else { FlockOperation::LockShared };
    loop {
        match flock(&file, operation) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(ImageError::io("lock", path)(errno.into())),
        }
    }
}

/// Runs file system work where it does not hold up others.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::Content(format!("image work ended early: {error}"))),
    }
}

fn sync_dir(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(ImageError::io("sync", path))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ImageError> {
    let text = serde_json::to_vec(value).map_err(|error| ImageError::Content(error.to_string()))?;
    write_atomically(path, &text).map_err(ImageError::io("write", path))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let text = std::fs::read(path).ok()?;
    match serde_json::from_slice(&text) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "ignoring a damaged image record");
            None
        }
    }
}

fn read_all<T: for<'de> Deserialize<'de>>(dir: &Path) -> Result<Vec<T>, ImageError> {
    let files = read_dir(dir)?;
    Ok(files
        .iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .filter_map(|path| read_json(path))
        .collect())
}

pub(crate) fn read_dir(dir: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let entries = std::fs::read_dir(dir).map_err(ImageError::io("read", dir))?;
    let paths: Result<Vec<PathBuf>, std::io::Error> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(ImageError::io("read", dir))?;
    paths.sort();
    Ok(paths)
}

fn remove_file(path: &Path) -> Result<(), ImageError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ImageError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
