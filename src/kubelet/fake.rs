//! A runtime, images, a network and an API server that only remember what was asked of them, for tests.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::config::KubeletConfig;
use crate::engine::NoGate;
use crate::engine::{ContainerRuntime, Images, PodName, PodNetwork};
use crate::objects::Objects;
use crate::pod::dns::ClusterDns;
use crate::shared::Shared;
use crate::status_sync::StatusSync;
use async_trait::async_trait;
use bytes::Bytes;
use naru_base::Shutdown;
use naru_client::{Client, Error, EventRecorder, Informer, Request, Transport, WatchStream};
use naru_runtime::images::{Image, ImageConfig, PullError, PullErrorKind, PullOptions, Pulled, User};
use naru_runtime::{
    ContainerInfo, ContainerSpec, ContainerState, Event, ExecSession, ExecSpec, Exit, ExitStatus, ProbeResult,
    Result as RuntimeResult, RuntimeError, SandboxInfo, SandboxSpec,
};
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, broadcast};

#[derive(Debug)]
pub(crate) struct FakeRuntime {
    pub(crate) sandboxes: Mutex<BTreeMap<String, SandboxInfo>>,
    pub(crate) specs: Mutex<BTreeMap<String, ContainerSpec>>,
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) ignore_term: Mutex<bool>,
    /// Limits of the last sandbox.
    pub(crate) sandbox_limits: Mutex<naru_runtime::Resources>,
    /// Limits given to cgroups, in order.
    pub(crate) cgroups: Mutex<Vec<(String, naru_runtime::Resources)>>,
    changed: Arc<Notify>,
    events: broadcast::Sender<Event>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self {
            sandboxes: Mutex::default(),
            specs: Mutex::default(),
            calls: Mutex::default(),
            ignore_term: Mutex::default(),
            sandbox_limits: Mutex::default(),
            cgroups: Mutex::default(),
            changed: Arc::default(),
            events: broadcast::channel(64).0,
        }
    }
}

impl FakeRuntime {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
        self.changed.notify_waiters();
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
        let status =
            ExitStatus { exit_code, signal: None, oom_killed: false, finished_at_ns: 1_700_000_000_000_000_000 };
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
        *self.sandbox_limits.lock().unwrap() = spec.resources.clone();
        self.note("create sandbox".into());
        let info = SandboxInfo {
            id: spec.id.clone(),
            labels: spec.labels,
            pid: 1,
            netns_path: PathBuf::from("/proc/1/ns/net"),
            shm_path: PathBuf::new(),
            lost: false,
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
    async fn stats(&self, _container: &str) -> RuntimeResult<naru_runtime::Stats> {
        Ok(naru_runtime::Stats::default())
    }
    async fn cgroup_stats(&self, _path: &str) -> RuntimeResult<naru_runtime::Stats> {
        Ok(naru_runtime::Stats::default())
    }
    async fn update_resources(&self, container: &str, resources: naru_runtime::Resources) -> RuntimeResult<()> {
        let name = self.container(container).map(|c| c.name).unwrap_or_default();
        self.note(format!("update {name} {:?} {:?}", resources.cpu_quota, resources.memory_limit));
        Ok(())
    }
    async fn apply_cgroup(&self, path: &str, resources: &naru_runtime::Resources) -> RuntimeResult<()> {
        self.cgroups.lock().unwrap().push((path.to_owned(), resources.clone()));
        Ok(())
    }
    async fn reopen_log(&self, container: &str) -> RuntimeResult<()> {
        self.note(format!("reopen {container}"));
        Ok(())
    }
    async fn attach(&self, container: &str) -> RuntimeResult<ExecSession> {
        Err(RuntimeError::NotRunning(container.into()))
    }
    async fn close_stdin(&self, _container: &str) -> RuntimeResult<()> {
        Ok(())
    }
    async fn dial(&self, sandbox: &str, _port: u16) -> RuntimeResult<tokio::net::TcpStream> {
        Err(RuntimeError::NoSandbox(sandbox.into()))
    }
}

fn libc_sigkill() -> i32 {
    nix::sys::signal::Signal::SIGKILL as i32
}

/// Images that are all present unless their name starts with `absent`.
#[derive(Debug, Default)]
pub(crate) struct FakeImages {
    /// Whose root file systems were removed.
    pub(crate) removed: Mutex<Vec<String>>,
}

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
    async fn pull(&self, reference: &str, _options: PullOptions) -> Result<Pulled, PullError> {
        let message = format!("{reference}: not found");
        let image = self.resolve(reference).ok_or(PullError { kind: PullErrorKind::NotFound, message })?;
        Ok(Pulled { image, credentials: None })
    }
    async fn view(&self, id: &str, _image: &Image, _users: Option<&Path>) -> Result<PathBuf, String> {
        Ok(PathBuf::from("/rootfs").join(id))
    }
    async fn prepare(&self, container: &str, _image: &Image, _users: Option<&Path>) -> Result<PathBuf, String> {
        Ok(PathBuf::from("/rootfs").join(container))
    }
    async fn remove(&self, container: &str) -> Result<(), String> {
        self.removed.lock().unwrap().push(container.to_owned());
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
    async fn attach(&self, _sandbox: &str, _netns: &Path, _pod: &PodName) -> Result<Vec<IpAddr>, String> {
        Ok(vec![IpAddr::from([10, 42, 0, 5])])
    }
    async fn detach(&self, _sandbox: &str, _netns: &Path) -> Result<(), String> {
        Ok(())
    }
    async fn retain(&self, _keep: &HashSet<String>) -> Result<(), String> {
        Ok(())
    }
}

/// Answers lists with nothing and everything else with an empty object; remembers what changes things.
#[derive(Debug, Default)]
pub(crate) struct FakeApi {
    requests: Mutex<Vec<(http::Method, String, serde_json::Value)>>,
    changed: Arc<Notify>,
}

impl FakeApi {
    /// The requests with this method, as paths with bodies.
    pub(crate) fn sent(&self, method: &str) -> Vec<(String, serde_json::Value)> {
        let requests = self.requests.lock().unwrap();
        let sent = requests.iter().filter(|(m, ..)| m.as_str() == method);
        sent.map(|(_, uri, body)| (uri.clone(), body.clone())).collect()
    }
}

#[async_trait]
impl Transport for FakeApi {
    async fn send(&self, request: Request) -> Result<Bytes, Error> {
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        let is_list = request.method == http::Method::GET;
        if !is_list {
            self.requests.lock().unwrap().push((request.method, request.uri, body));
            self.changed.notify_waiters();
        }
        Ok(Bytes::from_static(if is_list { br#"{"metadata":{"resourceVersion":"1"},"items":[]}"# } else { b"{}" }))
    }

    async fn watch(&self, _request: Request) -> Result<WatchStream, Error> {
        Ok(Box::pin(futures::stream::pending()))
    }
}

/// Everything that a worker needs, faked.
pub(crate) struct World {
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) api: Arc<FakeApi>,
    pub(crate) images: Arc<FakeImages>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) shutdown: Shutdown,
    changed: Arc<Notify>,
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let changed = Arc::new(Notify::new());
        let runtime = Arc::new(FakeRuntime { changed: changed.clone(), ..Default::default() });
        let api = Arc::new(FakeApi { changed: changed.clone(), ..Default::default() });
        let (dir, shutdown) = (tempfile::tempdir().unwrap(), Shutdown::new());
        let client = Client::new(api.clone());
        let images = Arc::<FakeImages>::default();
        let config = KubeletConfig {
            client: client.clone(),
            node_name: "n1".into(),
            node_ips: tokio::sync::watch::channel(vec![IpAddr::from([192, 0, 2, 1])]).1,
            node_labels: BTreeMap::new(),
            node_annotations: BTreeMap::new(),
            node_taints: Vec::new(),
            pod_cidrs: Vec::new(),
            data_dir: dir.path().join("data"),
            pod_log_dir: dir.path().join("logs"),
            version: "v1.36.0+naru1".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: dir.path().join("resolv.conf"),
            max_pods: 110,
            handlers: BTreeMap::new(),
            static_pods: None,
            pod_pids_limit: None,
            allowed_unsafe_sysctls: Vec::new(),
            log_limits: crate::LogLimits::default(),
            runtime: runtime.clone(),
            images: images.clone(),
            credential_providers: Arc::default(),
            network: Arc::new(FakeNetwork),
            gate: Arc::new(NoGate),
            node_api: None,
            metrics: Vec::new(),
        };
        let services =
            Informer::start(&client, &naru_api::registry::SERVICES, naru_client::ListParams::all(), &shutdown);
        let shared = Arc::new(Shared {
            recorder: EventRecorder::discard(),
            services,
            host_ports: crate::host_ports::HostPorts::new(config.gate.clone()),
            usage: crate::usage::UsageTable::default(),
            probe_counts: crate::api::stats::ProbeCounts::default(),
            metrics: Arc::default(),
            pods: Informer::start(&client, &naru_api::registry::PODS, naru_client::ListParams::all(), &shutdown),
            objects: Objects::new(&client, &shutdown),
            statuses: StatusSync::start(&client, &shutdown),
            dns: ClusterDns::default(),
            node_memory: 1 << 30,
            allocatable: BTreeMap::from([(
                "hugepages-2Mi".into(),
                k8s_openapi::apimachinery::pkg::api::resource::Quantity("0".into()),
            )]),
            pull_records: crate::credentials::records::PullRecords::open(&dir.path().join("pulls")).unwrap(),
            users: crate::users::UserRanges::read(config.data_dir.join("pods"), config.max_pods),
            pulls: tokio::sync::Semaphore::new(1),
            sandboxes: tokio::sync::Semaphore::new(1),
            tidying: tokio::sync::RwLock::default(),
            images_changed: Notify::new(),
            config,
        });
        Self { runtime, api, images, shared, shutdown, changed, _dir: dir }
    }

    /// Waits until `check` finds what it looks for.
    pub(crate) async fn until<T>(&self, what: &str, check: impl Fn(&Self) -> Option<T>) -> T {
        let found = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = check(self) {
                    return found;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), found).await {
            Ok(found) => found,
            Err(_) => panic!("never: {what}; calls {:?}", self.runtime.calls()),
        }
    }

    /// The published status: all patches one over the other.
    pub(crate) fn status(&self) -> serde_json::Value {
        let mut status = serde_json::json!({});
        for (_, uri, body) in self.api.requests.lock().unwrap().iter() {
            if uri.ends_with("/status") {
                for (key, value) in body["status"].as_object().unwrap() {
                    status[key] = value.clone();
                }
            }
        }
        status
    }

    /// Whether the object has been deleted.
    pub(crate) fn deleted(&self) -> Option<serde_json::Value> {
        let requests = self.api.requests.lock().unwrap();
        requests.iter().find(|(method, ..)| *method == http::Method::DELETE).map(|(_, _, body)| body.clone())
    }
}
