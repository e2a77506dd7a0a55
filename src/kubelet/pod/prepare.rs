//! What a pod needs before its containers: directories, sandbox, network, files, volumes. And its removal.

use super::dns;
use super::mounts::PodFiles;
use super::resources;
use super::slot::labels;
use super::start::{identity, new_id};
use super::worker::{Life, Sandbox, Worker};
use crate::engine::PodName;
use crate::shared::{Shared, events};
use crate::volumes::{self, payload};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Volume};
use k8s_openapi::api::node::v1::RuntimeClass;
use naru_api::registry::{PODS, RUNTIME_CLASSES};
use naru_base::Shutdown;
use naru_client::{DeleteOptions, Preconditions, is_conflict, is_not_found};
use naru_runtime::SandboxSpec;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between attempts to delete the API object of a pod that has ended.
const DELETE_RETRY: Duration = Duration::from_secs(2);

/// A volume that could not be given its contents.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {error}")]
struct NotFilled {
    volume: String,
    error: String,
}

impl Worker {
    /// Makes sandbox, network, files and volumes; false if something failed and was reported.
    pub(super) async fn prepare(&mut self) -> bool {
        if !self.volumes_ready && !self.set_up_volumes().await {
            return false;
        }
        if self.sandbox.is_none() {
            // Volumes may tell of the pod's address, so they are looked at again with it.
            if !self.make_sandbox().await {
                return false;
            }
            self.refresh_volumes().await;
        }
        if let Err(error) = self.write_files() {
            self.fail(events::FAILED, format!("Error: {error}"));
            return false;
        }
        true
    }

    fn fail(&self, reason: &str, message: String) {
        tracing::debug!(pod = self.name(), message, "pod not prepared");
        self.shared.pod_event(&self.pod, None, true, reason, message);
    }

    async fn make_sandbox(&mut self) -> bool {
        let shared = self.shared.clone();
        let _permit = shared.sandboxes.acquire().await;
        let _tidying = shared.tidying.read().await;
        let mut spec = self.sandbox_spec();
        match self.handler().await {
            Ok(handler) => spec.handler = handler,
            Err(error) => {
                self.fail(events::FAILED_SANDBOX, format!("Failed to create pod sandbox: {error}"));
                return false;
            }
        }
        if own_users(&self.pod) {
            match shared.users.of(&identity(&self.pod).2) {
                Ok(first) => spec.first_host_id = Some(first),
                Err(error) => {
                    self.fail(events::FAILED_SANDBOX, format!("Failed to create pod sandbox: user namespace: {error}"));
                    return false;
                }
            }
        }
        let id = spec.id.clone();
        self.pod_limits = Some(resources::pod_limits(&self.pod, shared.config.pod_pids_limit));
        shared.share_processors().await;
        let made = match shared.config.runtime.create_sandbox(spec).await {
            Ok(made) => made,
            Err(error) => {
                self.fail(events::FAILED_SANDBOX, format!("Failed to create pod sandbox: {error}"));
                remove_sandbox(&shared, &id, Path::new("")).await;
                return false;
            }
        };
        match self.attach(&id, &made.netns_path).await {
            Ok(ips) => {
                self.shared.host_ports.set(&identity(&self.pod).2, &self.pod, &ips);
                self.sandbox = Some(Sandbox { id, netns: made.netns_path, ips });
                self.publish();
                true
            }
            Err(error) => {
                let text = format!("Failed to create pod sandbox: failed to set up sandbox network: {error}");
                self.fail(events::FAILED_SANDBOX, text);
                remove_sandbox(&shared, &id, &made.netns_path).await;
                false
            }
        }
    }

    /// The runtime that the pod's class means, if it is not ours.
    async fn handler(&self) -> Result<Option<PathBuf>, String> {
        let class = self.pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).unwrap_or_default();
        if class.is_empty() {
            return Ok(None);
        }
        let config = &self.shared.config;
        let class: RuntimeClass =
            config.client.get(&RUNTIME_CLASSES, None, class).await.map_err(|error| error.to_string())?;
        let handler = config.handlers.get(&class.handler).ok_or_else(|| {
            // In the words of the runtime that most clusters have, since people search for them.
            format!(
                "rpc error: code = Unknown desc = failed to get sandbox runtime: no runtime for {:?} is configured",
                class.handler
            )
        })?;
        match own_users(&self.pod) {
            true => Err(format!("user namespaces (hostUsers: false) are not offered with handler {:?}", class.handler)),
            false => Ok(Some(handler.clone())),
        }
    }

    /// The pod's addresses: the node's in its network, else its own.
    pub(super) async fn attach(&self, id: &str, netns: &Path) -> Result<Vec<IpAddr>, String> {
        if self.host_network() {
            return Ok(self.shared.config.node_ips.borrow().clone());
        }
        let (namespace, name, uid) = identity(&self.pod);
        self.shared.config.network.attach(id, netns, &PodName { namespace, name, uid }).await
    }

    pub(super) fn host_network(&self) -> bool {
        self.pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true))
    }

    fn sandbox_spec(&self) -> SandboxSpec {
        let (namespace, name, uid) = identity(&self.pod);
        let fallback = PodSpec::default();
        let spec = self.pod.spec.as_ref().unwrap_or(&fallback);
        let sysctls = spec.security_context.as_ref().and_then(|c| c.sysctls.clone()).unwrap_or_default();
        SandboxSpec {
            id: new_id(),
            hostname: dns::hostname(&self.pod, &self.shared.config.cluster_domain).0,
            labels: BTreeMap::from([
                (labels::POD_UID.to_owned(), uid),
                (labels::POD_NAME.to_owned(), name),
                (labels::POD_NAMESPACE.to_owned(), namespace),
            ]),
            cgroup_parent: resources::cgroup_parent(&self.pod),
            resources: naru_runtime::Resources {
                huge_pages: resources::huge_pages(&self.pod, None, &self.shared.allocatable),
                ..resources::pod_limits(&self.pod, self.shared.config.pod_pids_limit)
            },
            host_network: spec.host_network == Some(true),
            host_pid: spec.host_pid == Some(true),
            host_ipc: spec.host_ipc == Some(true),
            share_pid: spec.share_process_namespace == Some(true),
            sysctls: sysctls.into_iter().map(|s| (s.name, s.value)).collect(),
            first_host_id: None,
            handler: None,
        }
    }

    /// hosts, resolv.conf and hostname.
    fn write_files(&self) -> std::io::Result<()> {
        let (_, _, uid) = identity(&self.pod);
        let dir = self.shared.config.pod_dir(&uid);
        std::fs::create_dir_all(&dir)?;
        let files = PodFiles::of(&dir);
        let ips: Vec<String> = self.sandbox.iter().flat_map(|s| &s.ips).map(ToString::to_string).collect();
        let domain = &self.shared.config.cluster_domain;
        let hosts = if self.host_network() {
            dns::host_network_hosts(&self.pod, &std::fs::read_to_string("/etc/hosts").unwrap_or_default())
        } else {
            dns::hosts(&self.pod, &ips, domain)
        };
        write_if_changed(&files.hosts, &hosts)?;
        write_if_changed(&files.resolv_conf, &dns::resolv(&self.pod, &self.shared.dns).render())?;
        let hostname = dns::hostname(&self.pod, domain).0;
        write_if_changed(&files.hostname, &format!("{hostname}\n"))
    }

    fn volumes(&self) -> Vec<Volume> {
        self.pod.spec.as_ref().and_then(|s| s.volumes.clone()).unwrap_or_default()
    }

    pub(super) async fn set_up_volumes(&mut self) -> bool {
        let (_, _, uid) = identity(&self.pod);
        let dir = self.shared.config.pod_dir(&uid);
        for volume in self.volumes() {
            let begun = Instant::now();
            let (name, plugin, filled) =
                (volume.name.clone(), volumes::plugin_name(&volume), payload::is_payload(&volume));
            let (pod, dir, memory) = (self.pod.clone(), dir.clone(), self.shared.node_memory);
            let made = tokio::task::spawn_blocking(move || volumes::set_up(&pod, &dir, &volume, memory)).await;
            let made = made.map_err(|error| error.to_string()).and_then(|made| made.map_err(|error| error.to_string()));
            // What is filled is not set up before it has its contents.
            if !filled || made.is_err() {
                self.shared.metrics.volume("volume_mount", made.is_ok(), plugin, begun.elapsed());
            }
            if let Err(error) = made {
                self.fail(events::FAILED_MOUNT, format!("MountVolume.SetUp failed for volume {name:?} : {error}"));
                return false;
            }
        }
        let begun = Instant::now();
        let filled = self.fill_volumes().await;
        for volume in self.volumes().iter().filter(|v| payload::is_payload(v)) {
            // They are filled together, so each takes as long as all; one that fails stops them.
            let failed = filled.as_ref().err().map(|error| error.volume == volume.name);
            if failed != Some(false) {
                let plugin = volumes::plugin_name(volume);
                self.shared.metrics.volume("volume_mount", failed.is_none(), plugin, begun.elapsed());
            }
        }
        match filled {
            Ok(()) => {
                self.volumes_ready = true;
                true
            }
            Err(error) => {
                self.fail(events::FAILED_MOUNT, error.to_string());
                false
            }
        }
    }

    /// Brings volumes up to date; what fails keeps its old contents.
    pub(super) async fn refresh_volumes(&mut self) {
        if let Err(error) = self.fill_volumes().await {
            tracing::debug!(pod = self.name(), %error, "volume not updated");
        }
    }

    async fn fill_volumes(&mut self) -> Result<(), NotFilled> {
        let volumes: Vec<Volume> = self.volumes().into_iter().filter(payload::is_payload).collect();
        if volumes.is_empty() {
            return Ok(());
        }
        let (namespace, _, uid) = identity(&self.pod);
        let (mut maps, mut secrets) = (Vec::new(), Vec::new());
        for volume in &volumes {
            let (m, s) = payload::references(volume);
            maps.extend(m);
            secrets.extend(s);
        }
        let wanted: Vec<_> = volumes.iter().flat_map(payload::tokens).collect();
        let tokens = self.tokens.get(&self.shared, &self.pod, &wanted, Timestamp::now()).await;
        let first = volumes[0].name.clone();
        let failed = |error: String| NotFilled { volume: first.clone(), error };
        let ips: Vec<IpAddr> = self.sandbox.iter().flat_map(|s| s.ips.clone()).collect();
        let sources = payload::Sources {
            config_maps: self.shared.objects.config_maps(&namespace, &maps, &uid, &self.inbox).await.map_err(failed)?,
            secrets: self.shared.objects.secrets(&namespace, &secrets, &uid, &self.inbox).await.map_err(failed)?,
            tokens: tokens.map_err(failed)?,
            facts: self.shared.field_facts(&ips),
        };
        let (pod, dir) = (self.pod.clone(), self.shared.config.pod_dir(&uid));
        let fill = move || {
            for volume in &volumes {
                volumes::fill(&pod, &dir, volume, &sources)
                    .map_err(|error| NotFilled { volume: volume.name.clone(), error: error.to_string() })?;
            }
            Ok(())
        };
        tokio::task::spawn_blocking(fill).await.map_err(|error| failed(error.to_string()))?
    }

    pub(super) async fn remove_sandbox(&self, id: &str, netns: &Path) {
        remove_sandbox(&self.shared, id, netns).await;
    }

    /// Frees everything but the logs; containers have ended.
    pub(super) async fn clean_up(&mut self) {
        self.cancel.trigger();
        let (_, _, uid) = identity(&self.pod);
        self.shared.statuses.flushed_briefly(&uid).await;
        if let Some(sandbox) = self.sandbox.take() {
            // The addresses stay in the status.
            self.remove_sandbox(&sandbox.id, &sandbox.netns).await;
        }
        for run in self.slots.iter().filter_map(|s| s.run.as_ref()) {
            if let Err(error) = self.shared.config.images.remove(&run.id).await {
                tracing::warn!(container = run.id, error, "root file system not removed");
            }
        }
        for volume in self.volumes().iter().filter(|v| v.image.is_some()) {
            if let Err(error) = self.shared.config.images.remove(&volumes::view_id(&uid, &volume.name)).await {
                tracing::warn!(volume = volume.name, error, "mounted image not removed");
            }
        }
        self.shared.objects.release(&uid);
        self.shared.probe_counts.forget(&uid);
        self.shared.host_ports.set(&uid, &self.pod, &[]);
        let (dir, begun) = (self.shared.config.pod_dir(&uid), Instant::now());
        let removed = tokio::task::spawn_blocking(move || volumes::tear_down(&dir)).await;
        for volume in self.volumes().iter().filter(|_| self.volumes_ready) {
            let done = matches!(removed, Ok(Ok(())));
            // They go together, so each takes as long as all.
            self.shared.metrics.volume("volume_unmount", done, volumes::plugin_name(volume), begun.elapsed());
        }
        self.volumes_ready = false;
        if let Ok(Err(error)) = removed {
            tracing::warn!(pod = self.name(), %error, "volumes not removed");
        }
        self.shared.users.release_gone();
        self.life = Life::Cleaned;
    }

    /// Deletes the API object for good; true once it is gone.
    pub(super) async fn finish(&mut self, shutdown: &Shutdown) -> bool {
        let (namespace, name, uid) = identity(&self.pod);
        // A static pod's mirror goes after its pod.
        if !self.gone && !crate::static_pods::is_static(&self.pod) {
            if shutdown.guard(self.shared.statuses.flushed(&uid)).await.is_none() {
                return true;
            }
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: Some(uid.clone()), ..Default::default() }),
                ..Default::default()
            };
            loop {
                let answer = self.shared.config.client.delete(&PODS, Some(&namespace), &name, &options).await;
                match answer {
                    Ok(()) => break,
                    Err(error) if is_not_found(&error) || is_conflict(&error) => break,
                    Err(error) => tracing::warn!(pod = name, %error, "ended pod not deleted"),
                }
                if shutdown.guard(tokio::time::sleep(DELETE_RETRY)).await.is_none() {
                    return true;
                }
            }
        }
        self.shared.statuses.forget(&uid);
        let logs = self.shared.config.pod_logs(&namespace, &name, &uid);
        if let Err(error) = tokio::fs::remove_dir_all(&logs).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(pod = name, %error, "logs not removed");
        }
        true
    }
}

/// Whether the pod's users are not the host's.
pub(crate) fn own_users(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.host_users == Some(false))
}

/// Removes a sandbox with its network; nothing of it needs to exist.
pub(crate) async fn remove_sandbox(shared: &Arc<Shared>, id: &str, netns: &Path) {
    if let Err(error) = shared.config.network.detach(id, netns).await {
        tracing::warn!(sandbox = id, error, "network not removed");
    }
    if let Err(error) = shared.config.runtime.remove_sandbox(id).await {
        tracing::warn!(sandbox = id, %error, "sandbox not removed");
    }
}

fn write_if_changed(path: &Path, text: &str) -> std::io::Result<()> {
    // Written in place: containers have the file itself mounted.
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) { Ok(()) } else { std::fs::write(path, text) }
}
