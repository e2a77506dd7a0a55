//! The agent's side: spawns shims, talks to them, adopts them after a restart.
//!
//! Architecture invariant: the agent's threaded process never forks or calls libcontainer itself.

mod cleanup;
mod connection;
mod dial;
mod exec;
mod sandbox;

use crate::cgroup::{Cgroup, Hierarchies};
use crate::error::{Result, RuntimeError};
use crate::protocol::{Answer, Call, SANDBOX_FILE, SandboxFile};
use crate::shim::{READY, SHIM_CGROUP};
use crate::spec::{
    ContainerInfo, ContainerSpec, DiskStats, Event, ExecSpec, Resources, SandboxInfo, SandboxSpec, Stats,
};
pub use exec::{ExecInput, ExecOutput, ExecSession, ProbeResult};
use sandbox::Sandbox;
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;

/// Events kept for a receiver that lags.
const EVENTS: usize = 1024;
/// How long a new shim may take.
const SHIM_START: Duration = Duration::from_secs(30);
/// How long a shim that was told to stop may take to end.
const SHIM_STOP: Duration = Duration::from_secs(5);

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

/// The container runtime of a node. Cheap to clone. Dropping it leaves all containers running.
#[derive(Debug, Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

/// What this machine's cgroups lack for limits, and what to do about it.
pub fn cgroup_problem() -> Option<String> {
    let missing = Hierarchies::detect().missing_controllers();
    (!missing.is_empty()).then(|| {
        format!(
            "this machine has no cgroup controllers for {}: containers run without these limits. On a Raspberry Pi \
             add \"cgroup_memory=1 cgroup_enable=memory\" to the line in /boot/firmware/cmdline.txt and reboot",
            missing.join(", ")
        )
    })
}

#[derive(Debug)]
struct Inner {
    config: RuntimeConfig,
    hierarchies: Hierarchies,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    events: broadcast::Sender<Event>,
    shutdown: naru_base::Shutdown,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl Runtime {
    /// Adopts every live shim found under `run_dir` and cleans up after the dead ones. What ended
    /// in the meantime shows in [`Runtime::sandboxes`].
    pub async fn open(config: RuntimeConfig) -> Result<Runtime> {
        let (events, _) = broadcast::channel(EVENTS);
        let runtime = Runtime {
            inner: Arc::new(Inner {
                config,
                hierarchies: Hierarchies::detect(),
                sandboxes: Mutex::default(),
                events,
                shutdown: naru_base::Shutdown::new(),
            }),
        };
        if let Some(problem) = cgroup_problem() {
            tracing::warn!("{problem}");
        }
        let root = runtime.sandboxes_directory();
        create_directory(&root, true)?;
        let entries = std::fs::read_dir(&root).map_err(|error| RuntimeError::io(&root, error))?;
        let adoptions = entries.flatten().map(|entry| runtime.adopt(entry.path()));
        futures::future::join_all(adoptions).await;
        Ok(runtime)
    }

    async fn adopt(&self, directory: PathBuf) {
        let path = directory.clone();
        let state = blocking(move || Ok(cleanup::await_state(&path))).await.unwrap_or_default();
        let alive = state.filter(cleanup::is_alive);
        match (alive, cleanup::read_sandbox(&directory)) {
            (Some(state), Some(file)) => {
                let sandbox = Sandbox::new(file.spec, directory, state, self.inner.events.clone());
                self.watch(&sandbox);
                sandbox.settled().await;
                self.table().insert(sandbox.spec.id.clone(), sandbox);
            }
            _ => {
                tracing::info!(directory = %directory.display(), "cleaning up after a dead sandbox");
                if let Err(error) = blocking(move || cleanup::remove(&directory)).await {
                    tracing::warn!(%error, "not cleaned up");
                }
            }
        }
    }

    /// Supervises the connection for as long as this runtime is there.
    fn watch(&self, sandbox: &Arc<Sandbox>) {
        let (shutdown, sandbox) = (self.inner.shutdown.clone(), Arc::clone(sandbox));
        naru_base::spawn("shim", async move { shutdown.guard(sandbox.supervise()).await });
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Sandbox>>> {
        self.inner.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sandboxes_directory(&self) -> PathBuf {
        self.inner.config.run_dir.join("sandboxes")
    }

    fn cgroup(&self, path: &str) -> Cgroup {
        let root = Path::new(self.inner.config.cgroup_root.as_deref().unwrap_or_default());
        self.inner.hierarchies.group(root.join(path.trim_start_matches('/')))
    }

    fn sandbox_of(&self, container: &str) -> Result<Arc<Sandbox>> {
        let table = self.table();
        let found = table.values().find(|s| s.containers().iter().any(|c| c.id == container));
        found.cloned().ok_or_else(|| RuntimeError::NoContainer(container.to_owned()))
    }

    /// The cgroup controllers (of `cpu`, `memory`, `pids`) that this machine does not offer. Containers
    /// run without the limits that need them.
    pub fn missing_controllers(&self) -> Vec<&'static str> {
        self.inner.hierarchies.missing_controllers()
    }

    /// How the runtime was configured.
    pub fn config(&self) -> &RuntimeConfig {
        &self.inner.config
    }

    /// Things that happen by themselves. A receiver that lags misses events and must look at
    /// [`Runtime::sandboxes`] again; exits stay visible there until the container is removed.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// All sandboxes, those adopted after a restart included.
    pub fn sandboxes(&self) -> Vec<SandboxInfo> {
        self.table().values().map(|sandbox| sandbox.info()).collect()
    }

    /// One sandbox.
    pub fn sandbox(&self, id: &str) -> Option<SandboxInfo> {
        self.table().get(id).map(|sandbox| sandbox.info())
    }

    /// One container.
    pub fn container(&self, id: &str) -> Option<ContainerInfo> {
        let sandbox = self.sandbox_of(id).ok()?;
        let containers = sandbox.containers();
        containers.iter().find(|c| c.id == id).cloned()
    }

    /// Makes namespaces and cgroup of a sandbox and the shim that holds them.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<SandboxInfo> {
        check_id(&spec.id)?;
        if spec.cgroup_parent.trim_matches('/').is_empty() || spec.cgroup_parent.contains("..") {
            return Err(RuntimeError::Invalid(format!("cgroup parent {:?} of sandbox", spec.cgroup_parent)));
        }
        let directory = self.sandboxes_directory().join(&spec.id);
        create_directory(&directory, false)?;
        let made = self.start_shim(spec, &directory).await;
        match made {
            Ok(sandbox) => {
                let info = sandbox.info();
                self.table().insert(info.id.clone(), sandbox);
                Ok(info)
            }
            Err(error) => {
                if let Err(error) = blocking(move || cleanup::remove(&directory)).await {
                    tracing::warn!(%error, "failed sandbox not cleaned up");
                }
                Err(error)
            }
        }
    }

    async fn start_shim(&self, spec: SandboxSpec, directory: &Path) -> Result<Arc<Sandbox>> {
        let failed = |reason: String| RuntimeError::Shim { sandbox: spec.id.clone(), reason };
        let file = SandboxFile { spec: spec.clone(), cgroup_root: self.inner.config.cgroup_root.clone() };
        let path = directory.join(SANDBOX_FILE);
        let bytes = serde_json::to_vec(&file).map_err(|error| failed(error.to_string()))?;
        std::fs::write(&path, bytes).map_err(|error| RuntimeError::io(&path, error))?;
        let program = &self.inner.config.shim_exe;
        let mut command = tokio::process::Command::new(program);
        command.arg("shim").arg(directory).env_clear().current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let output = tokio::time::timeout(SHIM_START, command.output()).await;
        let output = output.map_err(|_| failed("did not become ready".to_owned()))?;
        let output = output.map_err(|error| RuntimeError::io(program, error))?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let state = match cleanup::read_state(directory).filter(|_| said == READY) {
            Some(state) => state,
            None => return Err(failed(if said.is_empty() { output.status.to_string() } else { said })),
        };
        let sandbox = Sandbox::new(spec, directory.to_owned(), state, self.inner.events.clone());
        self.watch(&sandbox);
        Ok(sandbox)
    }

    /// Kills what runs in a sandbox and removes every trace of it. Also right for a lost one;
    /// an unknown id is no error.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let Some(sandbox) = self.table().get(id).cloned() else { return Ok(()) };
        sandbox.set_removing();
        match sandbox.call(Call::Stop {}).await {
            Ok(_) => {
                // If it hangs at its end it is killed below.
                let _ = tokio::time::timeout(SHIM_STOP, sandbox.closed()).await;
            }
            Err(error) => tracing::debug!(sandbox = id, %error, "shim not stopped; cleaning up after it"),
        }
        let directory = sandbox.directory.clone();
        blocking(move || cleanup::remove(&directory)).await?;
        self.table().remove(id);
        Ok(())
    }

    /// Makes a container whose process waits for [`Runtime::start_container`].
    pub async fn create_container(&self, sandbox: &str, spec: ContainerSpec) -> Result<ContainerInfo> {
        check_id(&spec.id)?;
        let found = self.table().get(sandbox).cloned();
        let found = found.ok_or_else(|| RuntimeError::NoSandbox(sandbox.to_owned()))?;
        if self.sandbox_of(&spec.id).is_ok() {
            return Err(RuntimeError::Exists(spec.id));
        }
        match found.call(Call::Create { spec: Box::new(spec) }).await? {
            (Answer::Container(info), _) => Ok(*info),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Lets a created container run its command. If the program cannot be run, the container is
    /// removed and the error ([`RuntimeError::Start`]) says why.
    pub async fn start_container(&self, id: &str) -> Result<ContainerInfo> {
        let sandbox = self.sandbox_of(id)?;
        match sandbox.call(Call::Start { container: id.to_owned() }).await {
            Ok((Answer::Container(info), _)) => Ok(*info),
            Ok((other, _)) => Err(unexpected(&other)),
            Err(error) => {
                if matches!(error, RuntimeError::Start(_)) {
                    sandbox.forget(id);
                }
                Err(error)
            }
        }
    }

    /// Sends a signal to a container's first process. One that has ended is no error.
    pub async fn signal_container(&self, id: &str, signal: i32) -> Result<()> {
        let call = Call::Signal { container: id.to_owned(), signal };
        self.sandbox_of(id)?.call(call).await.map(drop)
    }

    /// Kills a container if it runs and removes every trace but its log and root file system.
    /// An unknown id is no error.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox_of(id) else { return Ok(()) };
        match sandbox.call(Call::Remove { container: id.to_owned() }).await {
            // Its processes have been killed, and what else is left goes with the sandbox.
            Err(RuntimeError::Shim { .. }) if sandbox.info().lost => {}
            other => drop(other?),
        }
        sandbox.forget(id);
        Ok(())
    }

    /// Runs a command in a running container.
    pub async fn exec(&self, spec: ExecSpec) -> Result<ExecSession> {
        let sandbox = self.sandbox_of(&spec.container)?;
        match sandbox.call(Call::Exec { spec: Box::new(spec) }).await? {
            (Answer::Exec { exec }, reply) => ExecSession::new(Arc::clone(&sandbox), exec, reply.fds, reply.exit)
                .map_err(|error| sandbox.lost_error(&error.to_string())),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// The streams of a running container, from now on.
    pub async fn attach(&self, container: &str) -> Result<ExecSession> {
        let sandbox = self.sandbox_of(container)?;
        match sandbox.call(Call::Attach { container: container.to_owned() }).await? {
            (Answer::Attached { tty, stdin }, reply) => {
                ExecSession::attached(Arc::clone(&sandbox), reply.fds, tty, stdin)
                    .map_err(|error| sandbox.lost_error(&error.to_string()))
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Ends a container's standard input once everybody attached has let go of it.
    pub async fn close_stdin(&self, container: &str) -> Result<()> {
        let call = Call::CloseStdin { container: container.to_owned() };
        self.sandbox_of(container)?.call(call).await.map(drop)
    }

    /// Connects to a port on the loopback address of a sandbox.
    pub async fn dial(&self, sandbox: &str, port: u16) -> Result<tokio::net::TcpStream> {
        let found = self.sandbox(sandbox).ok_or_else(|| RuntimeError::NoSandbox(sandbox.to_owned()))?;
        dial::loopback(&found.netns_path, port).await.map_err(|why| {
            RuntimeError::Failed(format!("failed to connect to localhost:{port} inside namespace {sandbox:?}, {why}"))
        })
    }

    /// Runs a command in a running container, gathers its output and kills it after `timeout`
    /// (then [`RuntimeError::Timeout`]).
    pub async fn exec_probe(&self, container: &str, args: &[String], timeout: Duration) -> Result<ProbeResult> {
        let spec = ExecSpec { container: container.to_owned(), args: args.to_vec(), ..ExecSpec::default() };
        let run = async { exec::gather(self.exec(spec).await?).await };
        // Dropping the session kills the command.
        tokio::time::timeout(timeout, run).await.unwrap_or(Err(RuntimeError::Timeout(timeout)))
    }

    /// What a container uses.
    pub async fn stats(&self, container: &str) -> Result<Stats> {
        let cgroup = self.container_cgroup(container)?;
        blocking(move || Ok(cgroup.stats())).await
    }

    /// What a container has read from disks and written. A few small files are read.
    pub fn disk_stats(&self, container: &str) -> Result<Vec<DiskStats>> {
        Ok(self.container_cgroup(container)?.disks())
    }

    /// Changes a running container's limits; `None` leaves one as it is.
    pub async fn update_resources(&self, container: &str, resources: Resources) -> Result<()> {
        let cgroup = self.container_cgroup(container)?;
        blocking(move || match cgroup.apply(&resources) {
            failed if failed.is_empty() => Ok(()),
            failed => Err(RuntimeError::Failed(format!("could not set {}", failed.join(", ")))),
        })
        .await
    }

    fn container_cgroup(&self, container: &str) -> Result<Cgroup> {
        let sandbox = self.sandbox_of(container)?;
        Ok(self.cgroup(&sandbox.spec.cgroup_parent).child(container))
    }

    /// Opens the log file by its path again, after somebody renamed it.
    pub async fn reopen_log(&self, container: &str) -> Result<()> {
        let call = Call::ReopenLog { container: container.to_owned() };
        self.sandbox_of(container)?.call(call).await.map(drop)
    }

    /// Makes a cgroup (relative to the configured root), or changes its limits; for the tree above
    /// pods. Returns the limits that this machine does not offer.
    pub async fn apply_cgroup(&self, path: &str, resources: &Resources) -> Result<Vec<String>> {
        let (cgroup, resources) = (self.cgroup(path), resources.clone());
        blocking(move || {
            cgroup.create().map_err(|error| RuntimeError::io(cgroup.oci_path(), error))?;
            Ok(cgroup.apply(&resources))
        })
        .await
    }

    /// Removes a cgroup (relative to the configured root) if it is empty.
    pub async fn remove_cgroup(&self, path: &str) -> Result<()> {
        let (cgroup, shims) = (self.cgroup(path), self.cgroup(SHIM_CGROUP));
        blocking(move || {
            cgroup.remove_if_empty();
            shims.remove_if_empty();
            Ok(())
        })
        .await
    }

    /// Removes the empty cgroups at and below `paths` (relative to the configured root), our own, and
    /// the root itself if one is configured: for a node that is taken apart.
    pub async fn remove_cgroups(&self, paths: &[&str]) -> Result<()> {
        let mut groups: Vec<Cgroup> = paths.iter().chain([&SHIM_CGROUP]).map(|path| self.cgroup(path)).collect();
        if self.inner.config.cgroup_root.is_some() {
            groups.push(self.cgroup(""));
        }
        blocking(move || {
            groups.iter().for_each(Cgroup::remove_empty);
            Ok(())
        })
        .await
    }

    /// What a cgroup (relative to the configured root) uses, such as a pod's.
    pub async fn cgroup_stats(&self, path: &str) -> Result<Stats> {
        let cgroup = self.cgroup(path);
        blocking(move || Ok(cgroup.stats())).await
    }
}

/// Runs something that waits for the kernel or the disk away from the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(RuntimeError::Failed(error.to_string())))
}

fn unexpected(answer: &Answer) -> RuntimeError {
    RuntimeError::Failed(format!("the shim answered something else: {answer:?}"))
}

/// Ids become names of directories and cgroups.
fn check_id(id: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !id.is_empty() && id.len() <= 128 && !id.starts_with('.') && id.chars().all(fits) {
        true => Ok(()),
        false => Err(RuntimeError::Invalid(format!("id {id:?}"))),
    }
}

fn create_directory(path: &Path, existing: bool) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).recursive(existing).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(RuntimeError::Exists(path.file_name().unwrap_or_default().to_string_lossy().into_owned()))
        }
        Err(error) => Err(RuntimeError::io(path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_no_plain_names_are_refused() {
        assert!(check_id("0123abc-x_y.z").is_ok());
        for id in ["", ".", "..", "a/b", ".hidden", "a b", "ä"] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }
}
