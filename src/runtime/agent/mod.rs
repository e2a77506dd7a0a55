//! The agent's side: spawns shims, talks to them, adopts them after a restart.

mod exec;

use crate::error::{Result, RuntimeError};
use crate::spec::{
    ContainerInfo, ContainerSpec, Event, ExecSpec, Resources, SandboxInfo, SandboxSpec, Stats,
};
pub use exec::{ExecInput, ExecOutput, ExecSession, ProbeResult};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// Where the runtime keeps its things.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Survives a reboot: images and snapshots.
    pub data_dir: PathBuf,
    /// Does not: sockets, state, mounts.
    pub run_dir: PathBuf,
    /// A cgroup path that everything is placed below.
    pub cgroup_root: Option<String>,
    /// Program run as `shim_exe shim ...`.
    pub shim_exe: PathBuf,
    /// The program that the self image consists of.
    pub self_exe: PathBuf,
}

/// The container runtime of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    #[allow(dead_code, reason = "filled in by the next change")]
    config: RuntimeConfig,
    events: broadcast::Sender<Event>,
}

impl Runtime {
    /// Adopts every live shim found under `run_dir` and cleans up after the dead ones.
    pub async fn open(config: RuntimeConfig) -> Result<Runtime> {
        let (events, _) = broadcast::channel(1024);
        Ok(Runtime {
            inner: Arc::new(Inner { config, events }),
        })
    }

    /// Things that happen by themselves. A receiver that lags misses events and must look at
    /// [`Runtime::sandboxes`] again; exits stay visible there until the container is removed.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// All sandboxes, those adopted after a restart included.
    pub fn sandboxes(&self) -> Vec<SandboxInfo> {
        Vec::new()
    }

    /// One sandbox.
    pub fn sandbox(&self, id: &str) -> Option<SandboxInfo> {
        self.sandboxes().into_iter().find(|s| s.id == id)
    }

    /// One container.
    pub fn container(&self, id: &str) -> Option<ContainerInfo> {
        self.sandboxes()
            .into_iter()
            .flat_map(|s| s.containers)
            .find(|c| c.id == id)
    }

    /// Makes namespaces and cgroup of a sandbox and the shim that holds them.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<SandboxInfo> {
        Err(RuntimeError::NoSandbox(spec.id))
    }

    /// Kills what runs in a sandbox and removes every trace of it. Also right for a lost one;
    /// an unknown id is no error.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        Err(RuntimeError::NoSandbox(id.into()))
    }

    /// Makes a container whose process waits for [`Runtime::start_container`].
    pub async fn create_container(
        &self,
        sandbox: &str,
        spec: ContainerSpec,
    ) -> Result<ContainerInfo> {
        let _ = spec;
        Err(RuntimeError::NoSandbox(sandbox.into()))
    }

    /// Lets a created container run its command.
    pub async fn start_container(&self, id: &str) -> Result<ContainerInfo> {
        Err(RuntimeError::NoContainer(id.into()))
    }

    /// Sends a signal to a container's first process. One that has ended is no error.
    pub async fn signal_container(&self, id: &str, signal: i32) -> Result<()> {
        let _ = signal;
        Err(RuntimeError::NoContainer(id.into()))
    }

    /// Kills a container if it runs and removes every trace but its log and root file system.
    /// An unknown id is no error.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        Err(RuntimeError::NoContainer(id.into()))
    }

    /// Runs a command in a running container.
    pub async fn exec(&self, spec: ExecSpec) -> Result<ExecSession> {
        Err(RuntimeError::NoContainer(spec.container))
    }

    /// Runs a command in a running container, gathers its output and kills it after `timeout`
    /// (then [`RuntimeError::Timeout`]).
    pub async fn exec_probe(
        &self,
        container: &str,
        args: &[String],
        timeout: Duration,
    ) -> Result<ProbeResult> {
        let _ = (args, timeout);
        Err(RuntimeError::NoContainer(container.into()))
    }

    /// What a container uses.
    pub async fn stats(&self, container: &str) -> Result<Stats> {
        Err(RuntimeError::NoContainer(container.into()))
    }

    /// Changes a running container's limits; `None` leaves one as it is.
    pub async fn update_resources(&self, container: &str, resources: Resources) -> Result<()> {
        let _ = resources;
        Err(RuntimeError::NoContainer(container.into()))
    }

    /// Opens the log file by its path again, after somebody renamed it.
    pub async fn reopen_log(&self, container: &str) -> Result<()> {
        Err(RuntimeError::NoContainer(container.into()))
    }

    /// Makes a cgroup (relative to the configured root), or changes its limits; for the tree above pods.
    pub async fn apply_cgroup(&self, path: &str, resources: &Resources) -> Result<()> {
        let _ = (path, resources);
        Ok(())
    }
}
