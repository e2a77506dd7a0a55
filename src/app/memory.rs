//! What an agent has seen of Services, endpoints, nodes and the like, on disk: a machine that comes up while the server
//! is away resolves names and leads to Services as before.
//!
//! Each resource is a compressed file of lines, written a while after a change, by far not at each one, and only when
//! its content is another: an SD card shall live long.

use crate::files::write_atomic;
use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use naru_base::{Shutdown, spawn};
use naru_client::{Informer, Memory, ObjectKey};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Changes come in groups: how long after one all that came is written.
const GATHER: Duration = Duration::from_secs(5);
/// The least time from one write to the next.
const PAUSE: Duration = Duration::from_secs(60);
/// What is written in the long run, at most.
const BYTES_PER_SECOND: u64 = 10 << 10;
/// A larger file is not written.
const LARGEST_FILE: usize = 16 << 20;
/// What is read of a file when it is unpacked.
const LARGEST_CONTENT: u64 = 256 << 20;

/// Keeps what informers show. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Held while files are written, so that an older content never follows a newer one.
    resources: Mutex<Vec<Followed>>,
    changed: Notify,
}

type Show = dyn Fn(&mut dyn FnMut(&ObjectKey, Value)) -> Result<()> + Send + Sync;

struct Followed {
    resource: &'static str,
    changed: Arc<AtomicBool>,
    /// Gives all objects, or none before the server has said which there are.
    show: Box<Show>,
    /// Of what lies on the disk, if this process wrote it.
    digest: Option<[u8; 32]>,
}

impl std::fmt::Debug for Followed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Followed").field("resource", &self.resource).finish_non_exhaustive()
    }
}

impl Kept {
    /// What is, or will be, kept in a directory.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { inner: Arc::new(Inner { dir, resources: Mutex::default(), changed: Notify::new() }) }
    }

    fn resources(&self) -> MutexGuard<'_, Vec<Followed>> {
        self.inner.resources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what an informer shows under the name of its resource.
    pub(crate) fn follow<P: Serialize + Send + Sync + 'static>(&self, resource: &'static str, informer: &Informer<P>) {
        let changed = Arc::new(AtomicBool::new(false));
        let (mark, inner, shown) = (changed.clone(), self.inner.clone(), informer.clone());
        let show = move |take: &mut dyn FnMut(&ObjectKey, Value)| -> Result<()> {
            ensure!(shown.is_synced(), "the server has not said yet what there is");
            for key in shown.keys() {
                if let Some(object) = shown.get_key(&key) {
                    take(&key, serde_json::to_value(&*object)?);
                }
            }
            Ok(())
        };
        self.resources().push(Followed { resource, changed, show: Box::new(show), digest: None });
        informer.subscribe(move |_| {
            mark.store(true, Ordering::Relaxed);
            inner.changed.notify_one();
        });
    }

    /// Writes what changes until the shutdown.
    pub(crate) fn start(&self, shutdown: &Shutdown) {
        let (this, shutdown) = (self.clone(), shutdown.clone());
        spawn("memory", async move { shutdown.guard(this.write_for_ever()).await });
    }

    async fn write_for_ever(self) {
        loop {
            self.inner.changed.notified().await;
            tokio::time::sleep(GATHER).await;
            let written = self.write().await;
            tokio::time::sleep(PAUSE.max(Duration::from_secs(written / BYTES_PER_SECOND))).await;
        }
    }

    /// Writes what has changed now, and says how much that was.
    pub(crate) async fn write(&self) -> u64 {
        let this = self.clone();
        let written = tokio::task::spawn_blocking(move || this.write_changed()).await;
        written.unwrap_or_default()
    }

    fn write_changed(&self) -> u64 {
        let mut written = 0;
        for followed in self.resources().iter_mut() {
            if !followed.changed.swap(false, Ordering::Relaxed) {
                continue;
            }
            match followed.write(&self.inner.dir) {
                Ok(bytes) => written += bytes,
                Err(error) => {
                    followed.changed.store(true, Ordering::Relaxed);
                    tracing::debug!("{} are not kept for a start without the server: {error:#}", followed.resource);
                }
            }
        }
        written
    }
}

impl Followed {
    fn write(&mut self, dir: &Path) -> Result<u64> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        let mut digest = Sha256::new();
        let mut result = Ok(());
        (self.show)(&mut |key, object| {
            let line = format!("{}\n", brief(key, object));
            digest.update(&line);
            if result.is_ok() {
                result = packed.write_all(line.as_bytes());
            }
        })?;
        result?;
        let (packed, digest) = (packed.finish()?, <[u8; 32]>::from(digest.finalize()));
        if self.digest == Some(digest) {
            return Ok(0);
        }
        ensure!(packed.len() <= LARGEST_FILE, "they are {} bytes", packed.len());
        crate::files::private_dir(dir)?;
        write_atomic(&file(dir, self.resource), &packed, 0o600)?;
        self.digest = Some(digest);
        Ok(packed.len() as u64)
    }
}

fn file(dir: &Path, resource: &str) -> PathBuf {
    dir.join(format!("{resource}.gz"))
}

/// An object without what changes all the time and without what is absent anyway.
fn brief(key: &ObjectKey, mut object: Value) -> Value {
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.retain(|field, _| ["addresses", "loadBalancer"].contains(&field.as_str()));
    }
    object["metadata"]["name"] = key.name.as_str().into();
    object["metadata"]["namespace"] = key.namespace.as_str().into();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        let wanted = ["name", "namespace", "uid", "labels", "annotations"];
        metadata.retain(|field, _| wanted.contains(&field.as_str()));
    }
    drop_empty(&mut object);
    object
}

/// Whether nothing is left.
fn drop_empty(value: &mut Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => {
            for item in items.iter_mut() {
                drop_empty(item);
            }
            items.is_empty()
        }
        Value::Object(fields) => {
            fields.retain(|_, field| !drop_empty(field));
            fields.is_empty()
        }
        Value::Bool(_) | Value::Number(_) => false,
    }
}

impl Memory for Kept {
    fn recall(&self, resource: &str) -> Option<Vec<Vec<u8>>> {
        let path = file(&self.inner.dir, resource);
        match read(&path) {
            Ok(lines) => {
                let (count, path) = (lines.len(), path.display());
                tracing::warn!("the server is away: going on with the {count} {resource} of {path}");
                Some(lines)
            }
            Err(_) if !path.exists() => None,
            Err(error) => {
                tracing::warn!("{} is of no use: {error:#}", path.display());
                None
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let file = File::open(path)?;
    let lines = BufReader::new(GzDecoder::new(file).take(LARGEST_CONTENT)).split(b'\n');
    lines.collect::<std::io::Result<_>>().context("it is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;
    use naru_client::projections::{NodeView, ServiceView};
    use serde_json::json;

    fn put<P: serde::de::DeserializeOwned + Send + Sync + 'static>(
        informer: &Informer<P>,
        name: &str,
        object: Value,
    ) -> Result<()> {
        informer.apply(ObjectKey::new("", name), "1".into(), Some(serde_json::from_value(object)?));
        Ok(())
    }

    #[tokio::test]
    async fn what_is_seen_is_kept_and_recalled() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let kept = Kept::new(dir.path().join("seen"));
        let services = Informer::<ServiceView>::detached();
        kept.follow("services", &services);
        assert_eq!(kept.recall("services"), None, "nothing has been kept yet");
        let service = json!({
            "metadata": { "name": "web", "namespace": "shop", "resourceVersion": "7", "labels": { "a": "b" } },
            "spec": {
                "type": "NodePort", "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "selector": { "app": "web" },
                "ports": [{ "port": 80, "targetPort": "http", "nodePort": 30080, "protocol": "TCP" }],
                "publishNotReadyAddresses": false,
            },
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } },
        });
        let view: ServiceView = serde_json::from_value(service.clone())?;
        services.apply(ObjectKey::new("shop", "web"), "7".into(), Some(view.clone()));
        assert_eq!(kept.write().await, 0, "the server may know of more");
        services.mark_synced();
        assert!(kept.write().await > 0);
        let lines = kept.recall("services").context("they are kept")?;
        let mut recalled: ServiceView = serde_json::from_slice(&lines[0])?;
        recalled.metadata.resource_version = "7".into();
        assert_eq!((lines.len(), recalled), (1, view));
        std::fs::write(dir.path().join("seen/services.gz"), "not packed")?;
        assert_eq!(kept.recall("services"), None, "a damaged file is none");
        Ok(())
    }

    #[tokio::test]
    async fn what_changes_all_the_time_is_not_written_all_the_time() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let kept = Kept::new(dir.path().to_owned());
        let nodes = Informer::<NodeView>::detached();
        kept.follow("nodes", &nodes);
        nodes.mark_synced();
        let node = |version: &str, beat: &str, range: &str| {
            json!({
                "metadata": { "name": "a", "resourceVersion": version }, "spec": { "podCIDRs": [range] },
                "status": { "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": beat }] },
            })
        };
        put(&nodes, "a", node("1", "2026-01-01T00:00:00Z", "10.42.0.0/24"))?;
        assert!(kept.write().await > 0);
        put(&nodes, "a", node("2", "2026-01-01T00:05:00Z", "10.42.0.0/24"))?;
        assert_eq!(kept.write().await, 0, "a heartbeat");
        put(&nodes, "a", node("3", "2026-01-01T00:05:00Z", "10.42.1.0/24"))?;
        assert!(kept.write().await > 0);
        put(&nodes, "a", node("4", "2026-01-01T00:05:00Z", "10.42.0.0/24"))?;
        assert!(kept.write().await > 0, "and back");
        Ok(())
    }
}
