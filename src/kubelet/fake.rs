//! A runtime, images and a network that only remember what was asked of them, for tests.

use crate::engine::{ContainerRuntime, Images, PodNetwork};
use async_trait::async_trait;
use naru_runtime::images::{Image, ImageConfig, PullError, PullErrorKind, PullOptions, User};
use naru_runtime::{
    ContainerInfo, ContainerSpec, ContainerState, Event, ExecSession, ExecSpec, Exit, ExitStatus, ProbeResult, Result as RuntimeResult,
    RuntimeError, SandboxInfo, SandboxSpec,
};
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;

#[derive(Debug)]
pub(crate) struct FakeRuntime {
    pub(crate) sandboxes: Mutex<BTreeMap<String, SandboxInfo>>,
    pub(crate) specs: Mutex<BTreeMap<String, ContainerSpec>>,
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) ignore_term: Mutex<bool>,
    events: broadcast::Sender<Event>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self {
            sandboxes: Mutex::default(),
            specs: Mutex::default(),
            calls: Mutex::default(),
            ignore_term: Mutex::default(),
            events: broadcast::channel(64).0,
        }
    }
}

impl FakeRuntime {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn update(&self, id: &str, change: impl FnOnce(&mut ContainerInfo)) -> Option<ContainerInfo> {
        let mut sandboxes = self.sandboxes.lock().unwrap();
        let info = sandboxes.values_mut().flat_map(|s| s.containers.iter_mut()).find(|c| c.id == id)?;
        change(info);
        Some(info.clone())
    }

    /// Ends a container as if its process had exited.
    pub(crate) fn exit(&self, id: &str, exit_code: i32) {
        let status = ExitStatus { exit_code, signal: None, oom_killed: false, finished_at_ns: 1_700_000_000_000_000_000 };
        let info = self.update(id, |c| c.state = ContainerState::Exited(status.clone()));
        if let Some(info) = info {
            let _ = self.events.send(Event::Exit(Exit { sandbox: info.sandbox, container: id.into(), status }));
        }
    }

    /// The id of the newest container of this name.
    pub(crate) fn newest(&self, name: &str) -> Option<String> {
        let sandboxes = self.sandboxes.lock().unwrap();
        sandboxes.values().flat_map(|s| &s.containers).filter(|c| c.name == name).map(|c| c.id.clone()).next_back()
    }
}

#[async_trait]
impl ContainerRuntime for FakeRuntime {
    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
    fn sandboxes(&self) -> Vec<SandboxInfo> {
        self.sandboxes.lock().unwrap().values().cloned().collect()
    }
    fn container(&self, id: &str) -> Option<ContainerInfo> {
        self.update(id, |_| {})
    }
    async fn create_sandbox(&self, spec: SandboxSpec) -> RuntimeResult<SandboxInfo> {
        self.note("create sandbox".into());
        let info = SandboxInfo {
            id: spec.id.clone(),
            labels: spec.labels,
            pid: 1,
            netns_path: PathBuf::from("/proc/1/ns/net"),
            shm_path: PathBuf::new(),
            created_at_ns: 1_700_000_000_000_000_000,
            containers: Vec::new(),
        };
        self.sandboxes.lock().unwrap().insert(spec.id, info.clone());
        Ok(info)
    }
    async fn remove_sandbox(&self, id: &str) -> RuntimeResult<()> {
        self.note("remove sandbox".into());
        self.sandboxes.lock().unwrap().remove(id);
        Ok(())
    }
    async fn create_container(&self, sandbox: &str, spec: ContainerSpec) -> RuntimeResult<ContainerInfo> {
        self.note(format!("create {}", spec.name));
        let info = ContainerInfo {
            id: spec.id.clone(),
            sandbox: sandbox.into(),
            name: spec.name.clone(),
            labels: spec.labels.clone(),
            state: ContainerState::Created,
            pid: 2,
            created_at_ns: 1_700_000_000_000_000_000,
            started_at_ns: None,
        };
        self.specs.lock().unwrap().insert(spec.id.clone(), spec);
        let mut sandboxes = self.sandboxes.lock().unwrap();
        let sandbox = sandboxes.get_mut(sandbox).ok_or_else(|| RuntimeError::NoSandbox(sandbox.into()))?;
        sandbox.containers.push(info.clone());
        Ok(info)
    }
    async fn start_container(&self, id: &str) -> RuntimeResult<ContainerInfo> {
        let info = self.update(id, |c| {
            c.state = ContainerState::Running;
            c.started_at_ns = Some(1_700_000_000_000_000_000);
        });
        let info = info.ok_or_else(|| RuntimeError::NoContainer(id.into()))?;
        self.note(format!("start {}", info.name));
        Ok(info)
    }
    async fn signal_container(&self, id: &str, signal: i32) -> RuntimeResult<()> {
        let name = self.container(id).map(|c| c.name).unwrap_or_default();
        self.note(format!("signal {name} {signal}"));
        if signal == libc_sigkill() || !*self.ignore_term.lock().unwrap() {
            self.exit(id, 128 + signal);
        }
        Ok(())
    }
    async fn remove_container(&self, id: &str) -> RuntimeResult<()> {
        let name = self.container(id).map(|c| c.name).unwrap_or_default();
        self.note(format!("remove {name}"));
        for sandbox in self.sandboxes.lock().unwrap().values_mut() {
            sandbox.containers.retain(|c| c.id != id);
        }
        Ok(())
    }
    async fn exec(&self, spec: ExecSpec) -> RuntimeResult<ExecSession> {
        Err(RuntimeError::NotRunning(spec.container))
    }
    async fn exec_probe(&self, container: &str, args: &[String], _timeout: Duration) -> RuntimeResult<ProbeResult> {
        self.note(format!("exec {}", args.join(" ")));
        let _ = container;
        Ok(ProbeResult { exit_code: 0, output: Vec::new() })
    }
}

fn libc_sigkill() -> i32 {
    nix::sys::signal::Signal::SIGKILL as i32
}

/// Images that are all present unless their name starts with `absent`.
#[derive(Debug, Default)]
pub(crate) struct FakeImages;

#[async_trait]
impl Images for FakeImages {
    fn resolve(&self, reference: &str) -> Option<Arc<Image>> {
        (!reference.starts_with("absent")).then(|| {
            Arc::new(Image {
                id: "sha256:1".into(),
                names: vec![format!("docker.io/library/{reference}:latest")],
                digests: vec![format!("docker.io/library/{reference}@sha256:2")],
                config: ImageConfig { entrypoint: vec!["/run".into()], ..Default::default() },
                size: 7,
                layers: Vec::new(),
            })
        })
    }
    fn list(&self) -> Vec<Arc<Image>> {
        Vec::new()
    }
    async fn pull(&self, reference: &str, _options: PullOptions) -> Result<Arc<Image>, PullError> {
        let message = format!("{reference}: not found");
        self.resolve(reference).ok_or(PullError { kind: PullErrorKind::NotFound, message })
    }
    async fn prepare(&self, container: &str, _image: &Image) -> Result<PathBuf, String> {
        Ok(PathBuf::from("/rootfs").join(container))
    }
    async fn remove(&self, _container: &str) -> Result<(), String> {
        Ok(())
    }
    async fn retain(&self, _keep: &HashSet<String>) -> Result<(), String> {
        Ok(())
    }
    fn user(&self, _rootfs: &Path, text: &str) -> Result<User, String> {
        Ok(User { uid: text.parse().unwrap_or(0), home: "/".into(), ..Default::default() })
    }
}

/// Gives every pod the same address.
#[derive(Debug, Default)]
pub(crate) struct FakeNetwork;

#[async_trait]
impl PodNetwork for FakeNetwork {
    async fn attach(&self, _sandbox: &str, _netns: &Path) -> Result<Vec<IpAddr>, String> {
        Ok(vec![IpAddr::from([10, 42, 0, 5])])
    }
    async fn detach(&self, _sandbox: &str, _netns: &Path) -> Result<(), String> {
        Ok(())
    }
    async fn retain(&self, _keep: &HashSet<String>) -> Result<(), String> {
        Ok(())
    }
}
