//! What the kubelet needs from the container runtime, the image store, the pod network and the service proxy.

use async_trait::async_trait;
use naru_base::{Shutdown, spawn};
use naru_network::proxy::{Backend, Frontend};
use naru_runtime::images::{Image, ImageStore, PullError, PullOptions, Pulled};
use naru_runtime::snapshots::Snapshots;
use naru_runtime::{
    ContainerInfo, ContainerSpec, DiskStats, Event, ExecSession, ExecSpec, ProbeResult, Resources,
    Result as RuntimeResult, Runtime, SandboxInfo, SandboxSpec, Stats,
};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};

/// Sandboxes and containers; the methods of [`Runtime`] that pods need.
#[async_trait]
pub trait ContainerRuntime: fmt::Debug + Send + Sync + 'static {
    /// Exits and lost sandboxes from now on.
    fn events(&self) -> broadcast::Receiver<Event>;
    /// All sandboxes.
    fn sandboxes(&self) -> Vec<SandboxInfo>;
    /// One container.
    fn container(&self, id: &str) -> Option<ContainerInfo>;
    /// Makes a sandbox.
    async fn create_sandbox(&self, spec: SandboxSpec) -> RuntimeResult<SandboxInfo>;
    /// Removes a sandbox with all in it.
    async fn remove_sandbox(&self, id: &str) -> RuntimeResult<()>;
    /// Makes a container.
    async fn create_container(&self, sandbox: &str, spec: ContainerSpec) -> RuntimeResult<ContainerInfo>;
    /// Starts a container.
    async fn start_container(&self, id: &str) -> RuntimeResult<ContainerInfo>;
    /// Signals a container.
    async fn signal_container(&self, id: &str, signal: i32) -> RuntimeResult<()>;
    /// Removes a container.
    async fn remove_container(&self, id: &str) -> RuntimeResult<()>;
    /// Runs a command with its streams connected.
    async fn exec(&self, spec: ExecSpec) -> RuntimeResult<ExecSession>;
    /// Runs a command and gathers its output.
    async fn exec_probe(&self, container: &str, args: &[String], timeout: Duration) -> RuntimeResult<ProbeResult>;
    /// What a container uses.
    async fn stats(&self, container: &str) -> RuntimeResult<Stats>;
    /// What a container has read from disks and written.
    fn disk_stats(&self, _container: &str) -> Vec<DiskStats> {
        Vec::new()
    }
    /// What a cgroup uses, relative to the configured root.
    async fn cgroup_stats(&self, path: &str) -> RuntimeResult<Stats>;
    /// Changes a running container's limits.
    async fn update_resources(&self, container: &str, resources: Resources) -> RuntimeResult<()>;
    /// Makes a cgroup, relative to the configured root, or changes its limits as far as the machine offers them.
    async fn apply_cgroup(&self, path: &str, resources: &Resources) -> RuntimeResult<()>;
    /// Opens a container's log by its path again.
    async fn reopen_log(&self, container: &str) -> RuntimeResult<()>;
    /// The streams of a running container.
    async fn attach(&self, container: &str) -> RuntimeResult<ExecSession>;
    /// Ends a container's standard input.
    async fn close_stdin(&self, container: &str) -> RuntimeResult<()>;
    /// Connects to a port on a sandbox's loopback address.
    async fn dial(&self, sandbox: &str, port: u16) -> RuntimeResult<TcpStream>;
}

#[async_trait]
impl ContainerRuntime for Runtime {
    fn events(&self) -> broadcast::Receiver<Event> {
        self.events()
    }
    fn sandboxes(&self) -> Vec<SandboxInfo> {
        self.sandboxes()
    }
    fn container(&self, id: &str) -> Option<ContainerInfo> {
        self.container(id)
    }
    async fn create_sandbox(&self, spec: SandboxSpec) -> RuntimeResult<SandboxInfo> {
        self.create_sandbox(spec).await
    }
    async fn remove_sandbox(&self, id: &str) -> RuntimeResult<()> {
        self.remove_sandbox(id).await
    }
    async fn create_container(&self, sandbox: &str, spec: ContainerSpec) -> RuntimeResult<ContainerInfo> {
        self.create_container(sandbox, spec).await
    }
    async fn start_container(&self, id: &str) -> RuntimeResult<ContainerInfo> {
        self.start_container(id).await
    }
    async fn signal_container(&self, id: &str, signal: i32) -> RuntimeResult<()> {
        self.signal_container(id, signal).await
    }
    async fn remove_container(&self, id: &str) -> RuntimeResult<()> {
        self.remove_container(id).await
    }
    async fn exec(&self, spec: ExecSpec) -> RuntimeResult<ExecSession> {
        self.exec(spec).await
    }
    async fn exec_probe(&self, container: &str, args: &[String], timeout: Duration) -> RuntimeResult<ProbeResult> {
        self.exec_probe(container, args, timeout).await
    }
    async fn stats(&self, container: &str) -> RuntimeResult<Stats> {
        self.stats(container).await
    }
    fn disk_stats(&self, container: &str) -> Vec<DiskStats> {
        // One that has gone meanwhile has none.
        self.disk_stats(container).unwrap_or_default()
    }
    async fn cgroup_stats(&self, path: &str) -> RuntimeResult<Stats> {
        self.cgroup_stats(path).await
    }
    async fn update_resources(&self, container: &str, resources: Resources) -> RuntimeResult<()> {
        self.update_resources(container, resources).await
    }
    async fn apply_cgroup(&self, path: &str, resources: &Resources) -> RuntimeResult<()> {
        let missing = self.apply_cgroup(path, resources).await?;
        if !missing.is_empty() {
            tracing::debug!(path, ?missing, "limits that this machine does not offer");
        }
        Ok(())
    }
    async fn reopen_log(&self, container: &str) -> RuntimeResult<()> {
        self.reopen_log(container).await
    }
    async fn attach(&self, container: &str) -> RuntimeResult<ExecSession> {
        self.attach(container).await
    }
    async fn close_stdin(&self, container: &str) -> RuntimeResult<()> {
        self.close_stdin(container).await
    }
    async fn dial(&self, sandbox: &str, port: u16) -> RuntimeResult<TcpStream> {
        self.dial(sandbox, port).await
    }
}

/// Images and the root file systems made from them.
#[async_trait]
pub trait Images: fmt::Debug + Send + Sync + 'static {
    /// The image of this name if it is present.
    fn resolve(&self, reference: &str) -> Option<Arc<Image>>;
    /// All images.
    fn list(&self) -> Vec<Arc<Image>>;
    /// Pulls an image.
    async fn pull(&self, reference: &str, options: PullOptions) -> Result<Pulled, PullError>;
    /// Mounts an image for reading alone; removed like a container's root file system of this id.
    /// `users` is the file of a namespace that belongs to the pod's own users, if it has them.
    async fn view(&self, id: &str, image: &Image, users: Option<&Path>) -> Result<PathBuf, String>;
    /// Makes a root file system for a container; `users` as for [`Images::view`].
    async fn prepare(&self, container: &str, image: &Image, users: Option<&Path>) -> Result<PathBuf, String>;
    /// Removes a container's root file system.
    async fn remove(&self, container: &str) -> Result<(), String>;
    /// Removes the root file systems of all other containers.
    async fn retain(&self, keep: &HashSet<String>) -> Result<(), String>;
    /// The directory with what a container has written, for its usage of the disk.
    fn written(&self, _container: &str) -> Option<PathBuf> {
        None
    }
    /// The user that a name or number means in a root file system: uid, gid, supplementary groups, home.
    fn user(&self, rootfs: &Path, text: &str) -> Result<naru_runtime::images::User, String> {
        naru_runtime::images::lookup_user(rootfs, text).map_err(|error| error.to_string())
    }
}

/// The image store and the snapshots of a node.
#[derive(Debug, Clone)]
pub struct LocalImages {
    /// Images.
    pub store: ImageStore,
    /// Root file systems.
    pub snapshots: Snapshots,
}

#[async_trait]
impl Images for LocalImages {
    fn written(&self, container: &str) -> Option<PathBuf> {
        Some(self.snapshots.upper(container))
    }
    fn resolve(&self, reference: &str) -> Option<Arc<Image>> {
        self.store.resolve(reference)
    }
    fn list(&self) -> Vec<Arc<Image>> {
        self.store.list().unwrap_or_else(|error| {
            tracing::warn!(%error, "images not listed");
            Vec::new()
        })
    }
    async fn pull(&self, reference: &str, options: PullOptions) -> Result<Pulled, PullError> {
        self.store.pull_as(reference, options).await
    }
    async fn view(&self, id: &str, image: &Image, users: Option<&Path>) -> Result<PathBuf, String> {
        self.snapshots.view(id, image, users).await.map_err(|error| error.to_string())
    }
    async fn prepare(&self, container: &str, image: &Image, users: Option<&Path>) -> Result<PathBuf, String> {
        self.snapshots.prepare(container, image, users).await.map_err(|error| error.to_string())
    }
    async fn remove(&self, container: &str) -> Result<(), String> {
        self.snapshots.remove(container).await.map_err(|error| error.to_string())
    }
    async fn retain(&self, keep: &HashSet<String>) -> Result<(), String> {
        self.snapshots.retain(keep).await.map_err(|error| error.to_string())
    }
}

/// The pod network.
#[async_trait]
pub trait PodNetwork: fmt::Debug + Send + Sync + 'static {
    /// Attaches a pod's sandbox; repeating it gives the same addresses.
    async fn attach(&self, sandbox: &str, netns: &Path, pod: &PodName) -> Result<Vec<IpAddr>, String>;
    /// Detaches a sandbox, whose namespace may be gone.
    async fn detach(&self, sandbox: &str, netns: &Path) -> Result<(), String>;
    /// Detaches all sandboxes but these.
    async fn retain(&self, keep: &HashSet<String>) -> Result<(), String>;
    /// Why no pod can be attached, as it changes; nothing for a network that is always there.
    fn problem(&self) -> Option<watch::Receiver<Option<String>>> {
        None
    }
}

/// By what others know a pod.
#[derive(Debug, Clone, Default)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

#[async_trait]
impl PodNetwork for naru_libcni::Network {
    async fn attach(&self, sandbox: &str, netns: &Path, _: &PodName) -> Result<Vec<IpAddr>, String> {
        let result = self.add(&attachment(sandbox, netns)).await.map_err(|error| error.to_string())?;
        Ok(result.addresses().collect())
    }
    async fn detach(&self, sandbox: &str, netns: &Path) -> Result<(), String> {
        self.del(&attachment(sandbox, netns)).await.map_err(|error| error.to_string())
    }
    async fn retain(&self, keep: &HashSet<String>) -> Result<(), String> {
        naru_libcni::Network::retain(self, keep).await.map_err(|error| error.to_string())
    }
}

/// A network of others: of the pods' names plugins may make use.
#[derive(Debug, Clone)]
pub struct ForeignNetwork {
    external: naru_libcni::External,
    problem: watch::Receiver<Option<String>>,
}

/// As container runtimes say it.
const NO_NETWORK: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                          message:Network plugin returns error: cni plugin not initialized";

impl ForeignNetwork {
    /// Follows the network's configuration until the shutdown.
    pub fn new(external: naru_libcni::External, shutdown: &Shutdown) -> Self {
        let mut configured = external.configured();
        let said = |configured: bool| (!configured).then(|| NO_NETWORK.to_owned());
        let (sender, problem) = watch::channel(said(configured.borrow_and_update().is_some()));
        let shutdown = shutdown.clone();
        spawn("network-problem", async move {
            while let Some(Ok(())) = shutdown.guard(configured.changed()).await {
                sender.send_replace(said(configured.borrow_and_update().is_some()));
            }
        });
        Self { external, problem }
    }
}

#[async_trait]
impl PodNetwork for ForeignNetwork {
    async fn attach(&self, sandbox: &str, netns: &Path, pod: &PodName) -> Result<Vec<IpAddr>, String> {
        let PodName { namespace, name, uid } = pod;
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={sandbox};\
             K8S_POD_UID={uid}"
        );
        self.external.add(&attachment(sandbox, netns), &args).await.map_err(|error| error.to_string())
    }
    async fn detach(&self, sandbox: &str, netns: &Path) -> Result<(), String> {
        self.external.del(&attachment(sandbox, netns)).await.map_err(|error| error.to_string())
    }
    async fn retain(&self, keep: &HashSet<String>) -> Result<(), String> {
        self.external.retain(keep).await.map_err(|error| error.to_string())
    }
    fn problem(&self) -> Option<watch::Receiver<Option<String>>> {
        Some(self.problem.clone())
    }
}

fn attachment(sandbox: &str, netns: &Path) -> naru_libcni::Attachment {
    naru_libcni::Attachment { container_id: sandbox.into(), netns: netns.into(), ifname: "eth0".into() }
}

/// Tells when traffic for Services no longer reaches a pod, so that its stop signal can wait for it.
#[async_trait]
pub trait EndpointGate: fmt::Debug + Send + Sync + 'static {
    /// Completes when the node's proxy sends nothing to `ip` any more.
    async fn dropped(&self, ip: IpAddr);
    /// The ports of the node that lead to its pods, all of them.
    fn set_host_ports(&self, _ports: BTreeMap<Frontend, Backend>) {}
    /// The namespaces of the pods that look for names in the cluster's usual domains, by the pods' addresses.
    fn set_namespaces(&self, _namespaces: BTreeMap<IpAddr, String>) {}
}

/// A gate that is always open, for nodes without a proxy.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGate;

#[async_trait]
impl EndpointGate for NoGate {
    async fn dropped(&self, _ip: IpAddr) {}
}
