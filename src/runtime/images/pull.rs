//! Pulls from registries: resolve, choose the platform, stream all missing layers at once.

use super::config::ConfigFile;
use super::error::{ImageError, PullError, PullErrorKind};
use super::failure::Failure;
use super::ingest::Ingest;
use super::layer::{chain_ids, settle, sha256};
use super::manifest::{Descriptor, Manifest, Parsed, parse_manifest};
use super::reference::Reference;
use super::registry::Registry;
use super::store::{
    Image, ImageRecord, ImageStore, NewLayer, PullOptions, PullProgress, Pulled, blocking, full_name, is_self,
};
use super::unpack::Notes;
use futures::future::{BoxFuture, FutureExt, Shared, try_join_all};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::task::TaskTracker;

type SharedPull = Shared<BoxFuture<'static, Result<Pulled, PullError>>>;

/// The pulls that are under way, so that many containers of one image cause one pull.
#[derive(Default)]
pub(super) struct Pulls(Mutex<HashMap<String, SharedPull>>);

/// Overlayfs takes no more, and neither does anybody need more.
const MAX_LAYERS: usize = 500;
const MAX_CONFIG: u64 = 8 << 20;
/// Layers may vanish by a removal between looking and committing; rarely, and hardly ever twice.
const ATTEMPTS: usize = 3;

impl ImageStore {
    /// Pulls an image unless exactly this one is present already. Concurrent pulls of one reference are one.
    pub async fn pull(&self, reference: &str, options: PullOptions) -> Result<Arc<Image>, PullError> {
        Ok(self.pull_as(reference, options).await?.image)
    }

    /// Pulls an image and tells with which of the credentials.
    pub async fn pull_as(&self, reference: &str, options: PullOptions) -> Result<Pulled, PullError> {
        if is_self(reference) {
            return Ok(Pulled { image: self.inner.self_image.clone(), credentials: None });
        }
        let parsed = Reference::parse(reference)
            .map_err(|error| PullError { kind: PullErrorKind::InvalidArgument, message: error.to_string() })?;
        let mut key = parsed.to_string();
        for credentials in &options.credentials {
            key.push(' ');
            key.push_str(&credentials.fingerprint());
        }
        let pull = {
            let mut pulls = self.inner.pulls.0.lock().unwrap_or_else(PoisonError::into_inner);
            pulls.entry(key.clone()).or_insert_with(|| self.start_pull(key, parsed, options)).clone()
        };
        pull.await
    }

    /// In a task of its own: the pull goes on when the one who asked first goes away.
    fn start_pull(&self, key: String, reference: Reference, options: PullOptions) -> SharedPull {
        let store = self.clone();
        let task = naru_base::spawn("image-pull", async move {
            let result = store.pull_now(&reference, &options).await;
            store.inner.pulls.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            result.map_err(|failure| failure.for_image(&reference))
        });
        let ended =
            |error: tokio::task::JoinError| PullError { kind: PullErrorKind::Unknown, message: error.to_string() };
        task.map(move |result| result.unwrap_or_else(|error| Err(ended(error)))).boxed().shared()
    }

    /// Asks each place in turn; of several failures the first that says more than "not here" is told.
    async fn pull_now(&self, reference: &Reference, options: &PullOptions) -> Result<Pulled, Failure> {
        let mut told: Option<Failure> = None;
        for endpoint in self.registries().endpoints(reference) {
            let configured = endpoint.auth.clone().map(|credentials| (Some(credentials), None));
            let given = options.credentials.iter();
            let given = given.map(|credentials| (Some(credentials.clone()), Some(credentials.fingerprint())));
            // The pod's credentials are for the registry that its image names, before those of the machine.
            let mut candidates: Vec<_> = match endpoint.namespace {
                Some(_) => configured.into_iter().collect(),
                None => given.chain(configured).collect(),
            };
            if candidates.is_empty() {
                candidates.push((None, None));
            }
            for (shown, credentials) in candidates {
                let registry = Registry::new(endpoint.clone(), shown)?;
                let failure = match self.pull_from(&registry, reference, options).await {
                    Ok(image) => return Ok(Pulled { image, credentials }),
                    Err(failure) => failure,
                };
                // Other credentials may do better, but only against a refusal.
                let refused = failure.kind == PullErrorKind::PermissionDenied;
                tracing::debug!(endpoint = endpoint.url, reason = failure.text, "not pulled from here");
                if told.as_ref().is_none_or(|told| told.kind == PullErrorKind::NotFound) {
                    told = Some(failure);
                }
                if !refused {
                    break;
                }
            }
        }
        Err(told.unwrap_or_else(|| Failure::new(PullErrorKind::Unknown, "no place to pull from")))
    }

    async fn pull_from(
        &self,
        registry: &Registry,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Arc<Image>, Failure> {
        let (body, top_digest) =
            registry.manifest(reference.target()).await.map_err(|failure| failure.resolving(reference))?;
        let manifest = match parse_manifest(&body)? {
            Parsed::Image(manifest) => manifest,
            Parsed::Index(index) => {
                let chosen = index.choose().ok_or_else(|| {
                    Failure::new(
                        PullErrorKind::NotFound,
                        format!("no match for platform in manifest {top_digest}: not found"),
                    )
                })?;
                let (body, _) = registry.manifest(&chosen).await.map_err(|failure| failure.resolving(reference))?;
                match parse_manifest(&body)? {
                    Parsed::Image(manifest) => manifest,
                    Parsed::Index(_) => return Err(Failure::new(PullErrorKind::Unknown, "index within an index")),
                }
            }
        };
        let mut names = vec![format!("{}@{top_digest}", reference.name())];
        if reference.digest.is_none() {
            names.push(full_name(reference));
        }
        for _ in 0..ATTEMPTS {
            if self.fetch(registry, &manifest, names.clone(), options).await? {
                let found = self.resolve(&manifest.config.digest);
                return found.ok_or_else(|| Failure::new(PullErrorKind::Unknown, "removed while it was being pulled"));
            }
        }
        Err(Failure::new(PullErrorKind::Unknown, "layers were removed while it was being pulled"))
    }

    /// Fetches what is missing of an image and records it. False if a removal came in between.
    async fn fetch(
        &self,
        registry: &Registry,
        manifest: &Manifest,
        names: Vec<String>,
        options: &PullOptions,
    ) -> Result<bool, Failure> {
        let id = manifest.config.digest.clone();
        let size = manifest.layers.iter().map(|layer| layer.size).sum();
        let present = self.read_image(&id).filter(|record| record.layers.iter().all(|layer| self.has_layer(layer)));
        if let Some(record) = present {
            return Ok(self.commit_off_thread(record, names, Vec::new(), None).await?);
        }
        let config = registry.small_blob(&manifest.config, MAX_CONFIG).await?;
        let config = checked_config(&config, manifest)?;
        let chain = chain_ids(&config.rootfs.diff_ids);
        let ingest = {
            let store = self.clone();
            Arc::new(blocking(move || Ingest::create(&store.inner.dir)).await?)
        };
        let progress = Progress { received: AtomicU64::new(0), total: size, options };
        let unpackers = TaskTracker::new();
        let mut wanted = HashSet::new();
        let missing = (0..chain.len()).filter(|&i| !self.has_layer(&chain[i]) && wanted.insert(&chain[i]));
        let fetches = missing.map(|i| {
            let (ingest, progress, unpackers) = (ingest.clone(), &progress, &unpackers);
            let (layer, diff_id) = (&manifest.layers[i], &config.rootfs.diff_ids[i]);
            async move {
                let permit = self.inner.downloads.acquire().await;
                let _permit = permit.map_err(|_| Failure::new(PullErrorKind::Unknown, "the store is closed"))?;
                let dir = ingest.path().join(i.to_string());
                let notes = fetch_layer(registry, layer, diff_id, dir.clone(), unpackers, progress).await?;
                Ok::<_, Failure>((i, dir, notes))
            }
        });
        let unpacked = try_join_all(fetches).await;
        // After a failure the other layers' threads notice soon, and nothing is left when this returns.
        unpackers.close();
        unpackers.wait().await;
        let unpacked = unpacked?;
        let new = self.settle_layers(unpacked, &chain, ingest.clone()).await?;
        let record = ImageRecord { id, config: config.config, size, layers: chain };
        Ok(self.commit_off_thread(record, names, new, Some(ingest)).await?)
    }

    /// Bottom up, since a layer may be settled on one that is new itself.
    pub(super) async fn settle_layers(
        &self,
        unpacked: Vec<(usize, PathBuf, Notes)>,
        chain: &[String],
        ingest: Arc<Ingest>,
    ) -> Result<Vec<NewLayer>, ImageError> {
        let fresh: HashMap<usize, PathBuf> = unpacked.iter().map(|(i, dir, _)| (*i, dir.join("fs"))).collect();
        let place = |i: usize| fresh.get(&i).cloned().unwrap_or_else(|| self.layer_fs(&chain[i]));
        let places: Vec<PathBuf> = (0..chain.len()).map(place).collect();
        let chain = chain.to_vec();
        blocking(move || {
            let _ingest = ingest;
            let mut new = Vec::new();
            for (i, dir, notes) in unpacked {
                let below: Vec<PathBuf> = places[..i].iter().rev().cloned().collect();
                settle(&places[i], &notes, &below)
                    .map_err(|error| ImageError::Content(format!("failed to extract layer {}: {error}", chain[i])))?;
                new.push(NewLayer { chain_id: chain[i].clone(), dir });
            }
            super::crash::point("layers settled");
            Ok(new)
        })
        .await
    }

    pub(super) async fn commit_off_thread(
        &self,
        record: ImageRecord,
        names: Vec<String>,
        new: Vec<NewLayer>,
        ingest: Option<Arc<Ingest>>,
    ) -> Result<bool, ImageError> {
        let store = self.clone();
        blocking(move || {
            let committed = store.commit(&record, &names, new);
            drop(ingest);
            committed
        })
        .await
    }
}

/// The configuration, if it fits the manifest.
pub(super) fn checked_config(raw: &[u8], manifest: &Manifest) -> Result<ConfigFile, Failure> {
    let bad = |text: String| Failure::new(PullErrorKind::Unknown, text);
    if sha256(raw) != manifest.config.digest {
        return Err(bad(format!(
            "wrong digest of the configuration: expected {}, got {}",
            manifest.config.digest,
            sha256(raw)
        )));
    }
    let config: ConfigFile =
        serde_json::from_slice(raw).map_err(|error| bad(format!("invalid image configuration: {error}")))?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        let (diff_ids, layers) = (config.rootfs.diff_ids.len(), manifest.layers.len());
        return Err(bad(format!("mismatched image rootfs and manifest layers: {diff_ids} diff ids, {layers} layers")));
    }
    if manifest.layers.is_empty() {
        return Err(bad("the image has no layers".to_owned()));
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(bad(format!("{} layers, more than {MAX_LAYERS}", manifest.layers.len())));
    }
    if !(config.os.is_empty() || config.os == "linux") {
        return Err(bad(format!("image for {}/{}", config.os, config.architecture)));
    }
    Ok(config)
}

pub(super) struct Progress<'a> {
    received: AtomicU64,
    total: u64,
    options: &'a PullOptions,
}

impl Progress<'_> {
    pub(super) fn add(&self, bytes: u64) {
        let received = self.received.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(report) = &self.options.progress {
            report(PullProgress { received, total: self.total });
        }
    }
}

/// Streams a layer into its unpacker.
async fn fetch_layer(
    registry: &Registry,
    layer: &Descriptor,
    diff_id: &str,
    dir: PathBuf,
    unpackers: &TaskTracker,
    progress: &Progress<'_>,
) -> Result<Notes, Failure> {
    let (sender, reader) = super::pipe::pipe();
    let (blob, diff) = (layer.digest.clone(), diff_id.to_owned());
    let unpacking = unpackers.spawn_blocking(move || {
        let fs = dir.join("fs");
        std::fs::create_dir_all(&fs)?;
        rustix::fs::chmod(&fs, rustix::fs::Mode::from_raw_mode(0o755))?;
        super::layer::unpack_layer(reader, Some(&blob), &diff, &fs)
    });
    let fed = registry.feed(layer, sender, progress).await;
    let unpacked = unpacking.await.map_err(|error| Failure::new(PullErrorKind::Unknown, error.to_string()))?;
    // A failing download fails the unpacking too, but knows why.
    fed?;
    unpacked.map_err(|error| {
        Failure::new(PullErrorKind::Unknown, format!("failed to extract layer {}: {error}", layer.digest))
    })
}
