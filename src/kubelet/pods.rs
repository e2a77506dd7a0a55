//! The pods of this node: a worker for each, news brought to them, and what nobody owns removed.

use crate::pod::inbox::{Eviction, Inbox};
use crate::pod::prepare::remove_sandbox;
use crate::pod::slot::labels;
use crate::pod::start::identity;
use crate::pod::worker::{Visible, Worker};
use crate::shared::Shared;
use crate::static_pods;
use k8s_openapi::api::core::v1::Pod;
use naru_base::{Shutdown, spawn};
use naru_client::{Change, Informer};
use naru_runtime::Event;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;

#[derive(Debug)]
struct Handle {
    inbox: Arc<Inbox>,
    visible: Arc<Mutex<Visible>>,
    /// A pod that is not the API server's.
    static_pod: Option<Arc<Pod>>,
}

/// The workers by uid.
#[derive(Debug, Clone)]
pub(crate) struct Pods {
    shared: Arc<Shared>,
    informer: Informer<Pod>,
    workers: Arc<Mutex<HashMap<String, Handle>>>,
    /// Mirrors of static pods have changed, or static pods have ended.
    mirrors: Arc<Notify>,
    shutdown: Shutdown,
}

impl Pods {
    pub(crate) fn new(shared: Arc<Shared>, informer: Informer<Pod>, shutdown: &Shutdown) -> Self {
        Self { shared, informer, workers: Arc::default(), mirrors: Arc::default(), shutdown: shutdown.clone() }
    }

    fn workers(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what no pod owns, then starts the workers and keeps them informed.
    pub(crate) async fn run(self) {
        let mut events = self.shared.config.runtime.events();
        if self.shutdown.guard(self.informer.synced()).await.is_none() {
            return;
        }
        self.remove_orphans().await;
        let this = self.clone();
        self.informer.subscribe(move |change| this.changed(change));
        self.mirrors.notify_one();
        loop {
            match self.shutdown.guard(events.recv()).await {
                None | Some(Err(RecvError::Closed)) => return,
                Some(Ok(event)) => self.dispatch(event),
                Some(Err(RecvError::Lagged(_))) => {
                    self.workers().values().for_each(|h| h.inbox.put(|news| news.resync = true))
                }
            }
        }
    }

    fn changed(&self, change: &Change<Pod>) {
        if static_pods::mirrored(change.latest()).is_some() {
            self.mirrors.notify_one();
            return;
        }
        let uid = |pod: &Option<Arc<Pod>>| pod.as_ref().and_then(|p| p.metadata.uid.clone());
        let (old, new) = (uid(&change.old), uid(&change.new));
        if let Some(old) = old.filter(|old| Some(old) != new.as_ref())
            && let Some(handle) = self.workers().get(&old)
        {
            handle.inbox.put(|news| news.gone = true);
        }
        let (Some(uid), Some(pod)) = (new, change.new.clone()) else { return };
        self.shared.statuses.seen(&pod);
        if let Some(handle) = self.workers().get(&uid) {
            handle.inbox.put(|news| news.pod = Some(pod));
            return;
        }
        self.start(uid, pod, None);
    }

    fn start(&self, uid: String, pod: Arc<Pod>, static_pod: Option<Arc<Pod>>) {
        let (inbox, visible): (Arc<Inbox>, Arc<Mutex<Visible>>) = Default::default();
        let cancel = self.shutdown.child();
        let worker = Worker::new(self.shared.clone(), pod, inbox.clone(), visible.clone(), cancel);
        self.workers().insert(uid.clone(), Handle { inbox, visible, static_pod });
        let this = self.clone();
        spawn("pod", async move {
            worker.run(this.shutdown.clone()).await;
            let ended = this.workers().remove(&uid);
            if ended.is_some_and(|handle| handle.static_pod.is_some()) {
                this.mirrors.notify_one();
            }
        });
    }

    /// Runs a static pod.
    pub(crate) fn start_static(&self, pod: Arc<Pod>) {
        self.start(identity(&pod).2, pod.clone(), Some(pod));
    }

    /// Ends a static pod, which takes its grace period.
    pub(crate) fn end_static(&self, uid: &str) {
        if let Some(handle) = self.workers().get_mut(uid)
            && let Some(pod) = handle.static_pod.as_mut().filter(|pod| pod.metadata.deletion_timestamp.is_none())
        {
            let ending = Arc::new(static_pods::ending(pod));
            *pod = ending.clone();
            handle.inbox.put(|news| news.pod = Some(ending));
        }
    }

    /// The static pods that run or are ending.
    pub(crate) fn statics(&self) -> Vec<Arc<Pod>> {
        self.workers().values().filter_map(|handle| handle.static_pod.clone()).collect()
    }

    /// Waits until mirrors have to be looked at.
    pub(crate) async fn mirrors_changed(&self) {
        self.mirrors.notified().await;
    }

    /// Brings a runtime event to the pod that it is about; if that cannot be told, to all.
    fn dispatch(&self, event: Event) {
        let runtime = &self.shared.config.runtime;
        match event {
            Event::Exit(exit) => {
                let uid = runtime.container(&exit.container).and_then(|c| c.labels.get(labels::POD_UID).cloned());
                let workers = self.workers();
                match uid.and_then(|uid| workers.get(&uid)) {
                    Some(handle) => handle.inbox.put(|news| news.exits.push(exit)),
                    None => workers.values().for_each(|h| h.inbox.put(|news| news.exits.push(exit.clone()))),
                }
            }
            Event::SandboxLost { sandbox } => {
                for handle in self.workers().values() {
                    handle.inbox.put(|news| news.sandbox_lost = Some(sandbox.clone()));
                }
            }
        }
    }

    /// What a crash, a reboot or a forced deletion left: sandboxes, networks, root file systems, volumes.
    async fn remove_orphans(&self) {
        // Static pods may be starting already: nothing of theirs is in the making while this looks around.
        let _quiet = self.shared.tidying.write().await;
        let mut pods: HashSet<String> = self.informer.list().iter().filter_map(|p| p.metadata.uid.clone()).collect();
        pods.extend(self.workers().keys().cloned());
        let config = &self.shared.config;
        let (mut sandboxes, mut containers) = (HashSet::new(), HashSet::new());
        for sandbox in config.runtime.sandboxes() {
            if sandbox.labels.get(labels::POD_UID).is_some_and(|uid| pods.contains(uid)) {
                containers.extend(sandbox.containers.iter().map(|c| c.id.clone()));
                sandboxes.insert(sandbox.id);
            } else {
                tracing::info!(sandbox = sandbox.id, "removing a sandbox whose pod is gone");
                remove_sandbox(&self.shared, &sandbox.id, &sandbox.netns_path).await;
            }
        }
        if let Err(error) = config.network.retain(&sandboxes).await {
            tracing::warn!(error, "left-over networks not removed");
        }
        containers.extend(self.views(&pods));
        if let Err(error) = config.images.retain(&containers).await {
            tracing::warn!(error, "left-over root file systems not removed");
        }
        let (dir, workers) = (config.data_dir.join("pods"), self.workers.clone());
        let sweep = move || {
            let works = |uid: &str| workers.lock().unwrap_or_else(PoisonError::into_inner).contains_key(uid);
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.file_name().to_str().is_some_and(|uid| !pods.contains(uid) && !works(uid))
                    && let Err(error) = crate::volumes::tear_down(&entry.path())
                {
                    tracing::warn!(path = %entry.path().display(), %error, "left-over volumes not removed");
                }
            }
        };
        let _ = tokio::task::spawn_blocking(sweep).await;
        self.shared.users.release_gone();
    }

    /// Ids of the images that these pods have as volumes.
    fn views(&self, pods: &HashSet<String>) -> Vec<String> {
        let mut known = self.informer.list();
        known.extend(self.statics());
        let mut out = Vec::new();
        for pod in known {
            let uid = identity(&pod).2;
            let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(|v| v.image.is_some());
            if pods.contains(&uid) {
                out.extend(volumes.map(|volume| crate::volumes::view_id(&uid, &volume.name)));
            }
        }
        out
    }

    /// A pod as the API has it, with what is known of its containers.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<(Arc<Pod>, Visible)> {
        let is_it = |pod: &&Arc<Pod>| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        let workers = self.workers();
        // A static pod hides its mirror: its files go by its own uid.
        let pod = workers.values().filter_map(|handle| handle.static_pod.as_ref()).find(is_it).cloned();
        let pod = pod.or_else(|| self.informer.get(namespace, name))?;
        let visible = workers
            .get(pod.metadata.uid.as_deref()?)
            .map(|h| h.visible.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .unwrap_or_default();
        Some((pod, visible))
    }

    /// All pods of the node; static ones themselves, not their mirrors.
    pub(crate) fn list(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.informer.list();
        pods.retain(|pod| static_pods::mirrored(pod).is_none());
        pods.extend(self.statics());
        pods
    }

    /// Ends a pod that has taken too much, and says so.
    pub(crate) fn evict(&self, uid: &str, eviction: Eviction) {
        if let Some(handle) = self.workers().get(uid) {
            handle.inbox.put(|news| news.evict = Some(eviction));
        }
    }

    /// Given when the agent ends.
    pub(crate) fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}
