//! Pods that the node runs because files say so, without asking the API server; each has a mirror there, so
//! that it can be seen and counted.

mod source;
#[cfg(test)]
mod tests;

use crate::pod::start::identity;
use crate::pods::Pods;
use crate::shared::Shared;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use naru_api::registry::{NODES, PODS};
use naru_base::{Backoff, DirectoryWatch, Shutdown, spawn};
use naru_client::{DeleteOptions, Error, Informer, Preconditions, is_already_exists, is_conflict, is_not_found};
use serde::de::IgnoredAny;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where a pod comes from.
const SOURCE: &str = "kubernetes.io/config.source";
/// The checksum of a static pod, which is its uid on the node.
const HASH: &str = "kubernetes.io/config.hash";
/// When its file was read.
const SEEN: &str = "kubernetes.io/config.seen";
/// The checksum of the static pod that an object of the API server mirrors.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// How long pods that an earlier agent left wait for what their mirrors tell of them.
const MIRRORS_WAIT: Duration = Duration::from_secs(5);
/// Editors write files in steps.
const QUIET: Duration = Duration::from_millis(50);

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether a file on this node describes the pod.
pub(crate) fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != "api") && annotation(pod, MIRROR).is_none()
}

/// The uid of the static pod that `pod` mirrors.
pub(crate) fn mirrored(pod: &Pod) -> Option<&str> {
    annotation(pod, MIRROR)
}

/// Namespace and name.
type FullName = (String, String);

fn full_name(pod: &Pod) -> FullName {
    let (namespace, name, _) = identity(pod);
    (namespace, name)
}

/// Keeps the workers and the mirrors as the files say.
pub(crate) struct StaticPods {
    shared: Arc<Shared>,
    pods: Pods,
    informer: Informer<Pod>,
    path: PathBuf,
    watch: DirectoryWatch,
    files: BTreeMap<PathBuf, Pod>,
}

impl StaticPods {
    /// Reads the files for the first time and starts their pods; then goes on beside.
    pub(crate) async fn start(
        shared: &Arc<Shared>,
        pods: &Pods,
        informer: &Informer<Pod>,
        path: PathBuf,
        shutdown: &Shutdown,
    ) -> io::Result<()> {
        if !path.exists() {
            tokio::fs::create_dir_all(&path).await?;
        }
        let watch = DirectoryWatch::new()?;
        let directory = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(Path::new("/")) };
        watch.add(directory)?;
        let (shared, pods, informer) = (shared.clone(), pods.clone(), informer.clone());
        let mut this = Self { shared, pods, informer, path, watch, files: BTreeMap::new() };
        this.read().await;
        if !this.files.is_empty() && this.waits_for_mirrors() {
            // Without an API server they start all the same, a little later.
            let _ = tokio::time::timeout(MIRRORS_WAIT, this.informer.synced()).await;
        }
        this.update_workers();
        let shutdown = shutdown.clone();
        spawn("static pods", async move {
            shutdown.guard(this.run()).await;
        });
        Ok(())
    }

    /// Whether an earlier agent may have run some of the pods.
    fn waits_for_mirrors(&self) -> bool {
        let pods = self.shared.config.data_dir.join("pods");
        let finite = |pod: &Pod| pod.spec.as_ref().is_some_and(|s| s.restart_policy.as_deref() != Some("Always"));
        self.files.values().any(|pod| finite(pod) || pods.join(identity(pod).2).exists())
    }

    async fn read(&mut self) {
        let (path, node, before) = (self.path.clone(), self.shared.config.node_name.clone(), self.files.clone());
        let read = tokio::task::spawn_blocking(move || source::read(&path, &node, &before));
        match read.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(files) => self.files = files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.files.clear(),
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "static pods not read"),
        }
    }

    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        loop {
            self.update_workers();
            let again = match self.update_mirrors().await {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "mirrors of static pods not up to date");
                    Some(backoff.next_delay())
                }
            };
            let retry = async {
                match again {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.watch.changed() => {
                    if let Err(error) = changed {
                        tracing::error!(%error, "changes of static pods are not seen any more");
                        return;
                    }
                    tokio::time::sleep(QUIET).await;
                    self.read().await;
                }
                () = self.pods.mirrors_changed() => {}
                () = retry => {}
            }
        }
    }

    /// The pods of the files; of those with the same name the first one counts.
    fn wanted(&self) -> BTreeMap<FullName, &Pod> {
        let mut wanted = BTreeMap::new();
        for (file, pod) in &self.files {
            match wanted.entry(full_name(pod)) {
                Entry::Vacant(entry) => {
                    entry.insert(pod);
                }
                Entry::Occupied(_) => {
                    tracing::warn!(file = %file.display(), "another file has a static pod of this name");
                }
            }
        }
        wanted
    }

    /// Starts what is missing and ends what no file describes. A pod whose file has changed begins once the
    /// one before has ended.
    fn update_workers(&self) {
        let wanted = self.wanted();
        let running: HashMap<String, FullName> =
            self.pods.statics().iter().map(|pod| (identity(pod).2, full_name(pod))).collect();
        for (uid, name) in &running {
            if wanted.get(name).is_none_or(|pod| identity(pod).2 != *uid) {
                self.pods.end_static(uid);
            }
        }
        for (name, pod) in wanted {
            if running.values().all(|other| *other != name) {
                self.pods.start_static(Arc::new(self.with_status(pod)));
            }
        }
    }

    /// The pod with what its mirror tells of an earlier agent's work.
    fn with_status(&self, pod: &Pod) -> Pod {
        let (namespace, name, uid) = identity(pod);
        let mirror = self.informer.get(&namespace, &name).filter(|m| mirrored(m) == Some(&uid));
        Pod { status: mirror.and_then(|m| m.status.clone()).or_else(|| pod.status.clone()), ..pod.clone() }
    }

    /// One mirror for each static pod, and none else.
    async fn update_mirrors(&self) -> Result<(), Error> {
        if !self.informer.is_synced() {
            // Whoever waits for the API server tells when it is there.
            return Ok(());
        }
        let running: BTreeMap<FullName, Arc<Pod>> =
            self.pods.statics().into_iter().map(|pod| (full_name(&pod), pod)).collect();
        for mirror in self.informer.list().iter().filter(|pod| mirrored(pod).is_some()) {
            if !running.contains_key(&full_name(mirror)) {
                self.delete(mirror).await?;
            }
        }
        for pod in running.values() {
            self.update_mirror(pod).await?;
        }
        Ok(())
    }

    async fn update_mirror(&self, pod: &Pod) -> Result<(), Error> {
        let (namespace, name, uid) = identity(pod);
        let statuses = &self.shared.statuses;
        let Some(found) = self.informer.get(&namespace, &name) else {
            statuses.set_mirror(&uid, None);
            // What is on its way out needs none any more.
            return if pod.metadata.deletion_timestamp.is_some() { Ok(()) } else { self.create(pod).await };
        };
        match mirrored(&found) {
            Some(hash) if hash == uid && found.metadata.deletion_timestamp.is_none() => {
                let status = found.status.clone().unwrap_or_default();
                statuses.set_mirror(&uid, Some((&identity(&found).2, &status)));
                Ok(())
            }
            Some(_) => {
                statuses.set_mirror(&uid, None);
                self.delete(&found).await
            }
            None => {
                tracing::warn!(namespace, name, "a pod of this name is in the way of a static pod's mirror");
                Ok(())
            }
        }
    }

    async fn create(&self, pod: &Pod) -> Result<(), Error> {
        let config = &self.shared.config;
        let node: Node = config.client.get(&NODES, None, &config.node_name).await?;
        let mut mirror = pod.clone();
        let hash = mirror.metadata.uid.take().unwrap_or_default();
        mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.into(), hash);
        mirror.metadata.generation = None;
        mirror.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: config.node_name.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            controller: Some(true),
            ..OwnerReference::default()
        }]);
        mirror.status = Some(PodStatus::default());
        let namespace = pod.metadata.namespace.as_deref();
        let answer: Result<IgnoredAny, Error> = config.client.create(&PODS, namespace, &mirror).await;
        match answer {
            // Made already; the cache has not heard of it.
            Err(error) if is_already_exists(&error) => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn delete(&self, mirror: &Pod) -> Result<(), Error> {
        let (namespace, name, uid) = identity(mirror);
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid), ..Default::default() }),
            ..Default::default()
        };
        match self.shared.config.client.delete(&PODS, Some(&namespace), &name, &options).await {
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            answer => answer,
        }
    }
}

/// The pod as its worker sees it once it is to end.
pub(crate) fn ending(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
    pod
}
