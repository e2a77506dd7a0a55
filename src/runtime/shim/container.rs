//! One container: made, started, watched and removed, strictly one step at a time.

use super::external::{self, External};
use super::launch::{Guards, Report, complete_env, find_program, run};
use super::log::{LineCutter, LogFile};
use super::oci;
use super::tap::Tap;
use super::trace::ShimLog;
use super::{Pod, capability, namespaces, users};
use crate::cgroup::Cgroup;
use crate::proc::now_ns;
use crate::protocol::{Fault, FaultKind};
use crate::seccomp::Filter;
use crate::spec::{ContainerInfo, ContainerSpec, ContainerState, ExitStatus, SeccompProfile};
use crate::sys;
use libcontainer::container::Container as Oci;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a program may take to begin before it counts as failed.
const START_TIMEOUT_MS: i32 = 10_000;
/// Reads of one stream in a row, so that a flood on one does not starve the others.
const READS_IN_A_ROW: usize = 4;
/// Bytes a read takes at most.
pub(super) const READ_SIZE: usize = 16 * 1024;
/// Streams that are looked at by somebody at once.
const MAX_TAPS: usize = 64;
/// Reads of one stream after its container's end: more than a pipe holds.
const LAST_READS: usize = 64;

/// A container and what the shim holds for it.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) spec: ContainerSpec,
    pub(super) cgroup: Cgroup,
    pub(super) pid: u32,
    pub(super) state: ContainerState,
    pub(super) guards: Guards,
    pub(super) outputs: Vec<Output>,
    log: Option<LogFile>,
    /// Until it is started.
    waiting: Option<Waiting>,
    /// What another runtime made.
    pub(super) external: Option<External>,
    /// Kept open so that the process does not see end of file while nobody is attached.
    stdin: Option<OwnedFd>,
    /// Those who look at the output as it comes.
    pub(super) taps: Vec<Tap>,
    directory: PathBuf,
    created_at_ns: i64,
    started_at_ns: Option<i64>,
}

/// A container that has not been started.
#[derive(Debug)]
enum Waiting {
    /// Of the library, with where its process says why it could not run.
    Ours(Box<Oci>, File),
    /// Of another runtime.
    Theirs(External),
}

/// A stream of a container on its way into the log.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) fd: OwnedFd,
    cutter: LineCutter,
}

/// The container's ends of its standard streams.
#[derive(Debug, Default)]
struct Streams {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    console: Option<(UnixListener, PathBuf)>,
}

impl Container {
    /// `pid_holder`: a process of the process namespace to join, if not one of its own.
    pub(super) fn create(
        pod: &Pod,
        log: &mut ShimLog,
        spec: ContainerSpec,
        pid_holder: Option<u32>,
    ) -> Result<Self, Fault> {
        let cgroup = pod.cgroup.child(&spec.id);
        let directory = pod.containers_directory().join(&spec.id);
        let made = Self::try_create(pod, log, spec, &cgroup, &directory, pid_holder);
        if made.is_err() {
            cgroup.remove(Duration::from_secs(2));
            let _ = fs::remove_dir_all(&directory);
        }
        made
    }

    fn try_create(
        pod: &Pod,
        log: &mut ShimLog,
        spec: ContainerSpec,
        cgroup: &Cgroup,
        directory: &Path,
        pid_holder: Option<u32>,
    ) -> Result<Self, Fault> {
        let invalid = |text: String| Fault::new(FaultKind::Invalid, text);
        let seccomp = if spec.privileged { &SeccompProfile::Unconfined } else { &spec.seccomp };
        let capabilities = wanted_capabilities(&spec);
        let guards = Guards {
            capabilities,
            no_new_privileges: spec.no_new_privileges,
            seccomp: Filter::compile(seccomp, &capabilities.names()).map_err(invalid)?,
        };
        let output_log = spec
            .log_path
            .as_deref()
            .map(|path| LogFile::open(path).map_err(|e| Fault::failed(format!("{}: {e}", path.display()))))
            .transpose()?;
        let nodes = oci::devices(&spec);
        prepare_cgroup(cgroup, &spec, &nodes)?;
        if let Err(error) = users::as_root_of(pod, || make_cwd(&spec.rootfs, &spec.cwd)) {
            tracing::debug!(%error, "working directory not made");
        }
        let (outputs, stdin, mut streams) =
            make_streams(pod, &spec).map_err(|e| Fault::failed(format!("streams: {e}")))?;
        let stage = pod.users.as_ref().map(|users| users::Stage::new(pod, users, &spec)).transpose()?;
        let shm = stage.as_ref().map_or_else(|| pod.shm(), |stage| stage.shm.clone());
        // Users of the pod's own may not look at the process, so they get the namespace itself.
        let processes = pid_holder.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/pid")));
        let held = processes.as_ref().filter(|_| stage.is_some()).map(File::open).transpose();
        let held = held.map_err(|error| Fault::failed(format!("process namespace: {error}")))?;
        let context = oci::Context {
            sandbox: &pod.spec,
            processes: match &held {
                Some(file) => Some(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))),
                None => processes,
            },
            shm: &shm,
            users: pod.users.as_ref().map(AsRawFd::as_raw_fd),
            cgroup_path: cgroup.oci_path(),
            unified_cgroups: pod.hierarchies.is_unified(),
            cgroup_places: cgroup.places(),
            capabilities: guards.capabilities_before().and(capability::Set::own()),
            bounding: guards.capabilities,
        };
        let seen = stage.as_ref().map_or(&spec, |stage| &stage.spec);
        let config = oci::config(seen, &nodes, &context);
        let (pid, waiting) = match &pod.spec.handler {
            Some(program) => {
                let made = External::new(program, &pod.directory, &pod.containers_directory(), &spec.id);
                let made = made.map_err(|error| Fault::failed(error.to_string()))?;
                let pid = create_by(&made, config, seen, &nodes, guards.capabilities, &mut streams)?;
                (pid, Waiting::Theirs(made))
            }
            None => {
                write_config(&pod.directory, &config)?;
                create_by_library(pod, log, &spec, &guards, &mut streams)?
            }
        };
        drop(stage);
        // libcontainer knows v1 controllers or v2; a hybrid machine has more hierarchies.
        cgroup.join(pid);
        if let Waiting::Ours(..) = &waiting
            && let Err(error) = namespaces::set_propagation(pod, pid, &spec.mounts)
        {
            if let Ok(pid @ 1..) = i32::try_from(pid) {
                // SAFETY: a child of ours that has not been waited for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            return Err(Fault::failed(format!("propagation of mounts: {error}")));
        }
        set_oom_score(pid, spec.oom_score_adj);
        let outputs = match streams.console.take() {
            Some((listener, path)) => vec![receive_console(&listener, &path, pod.host_id(spec.uid))?],
            None => outputs,
        };
        Ok(Self {
            cgroup: cgroup.clone(),
            pid,
            state: ContainerState::Created,
            guards,
            outputs,
            log: output_log,
            external: match &waiting {
                Waiting::Theirs(external) => Some(external.clone()),
                Waiting::Ours(..) => None,
            },
            waiting: Some(waiting),
            stdin,
            taps: Vec::new(),
            directory: directory.to_owned(),
            created_at_ns: now_ns(),
            started_at_ns: None,
            spec,
        })
    }

    pub(super) fn start(&mut self) -> Result<(), Fault> {
        match self.waiting.take() {
            None => {
                return Err(Fault::new(FaultKind::Invalid, format!("container {:?} was started before", self.spec.id)));
            }
            Some(Waiting::Theirs(external)) => external.start()?,
            Some(Waiting::Ours(mut oci, report)) => {
                oci.start().map_err(|error| Fault::new(FaultKind::Start, chain(&error)))?;
                match Report::read(&report, START_TIMEOUT_MS) {
                    Ok(None) => {}
                    Ok(Some(text)) => return Err(Fault::new(FaultKind::Start, text)),
                    Err(error) => return Err(Fault::new(FaultKind::Start, format!("start: {error}"))),
                }
            }
        }
        self.state = ContainerState::Running;
        self.started_at_ns = Some(now_ns());
        Ok(())
    }

    /// Notes the end of the first process and what is left in the pipes.
    pub(super) fn exited(&mut self, status: i32) -> ExitStatus {
        let mut scratch = vec![0; READ_SIZE];
        self.pid = 0;
        for index in (0..self.outputs.len()).rev() {
            self.pump(index, LAST_READS, &mut scratch);
        }
        let status = ExitStatus {
            exit_code: exit_code(status),
            signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
            oom_killed: self.cgroup.oom_kills() > 0,
            finished_at_ns: now_ns(),
        };
        self.state = ContainerState::Exited(status.clone());
        self.waiting = None;
        // Children left behind may hold the streams open; nobody attached waits for them.
        self.taps.retain_mut(Tap::finish);
        status
    }

    /// Moves what a stream has to the log.
    pub(super) fn read_output(&mut self, index: usize, scratch: &mut [u8]) {
        if !self.is_held() {
            self.pump(index, READS_IN_A_ROW, scratch);
        }
    }

    fn pump(&mut self, index: usize, reads: usize, scratch: &mut [u8]) {
        let now = now_ns();
        for _ in 0..reads {
            let output = &mut self.outputs[index];
            match nix::unistd::read(&output.fd, scratch) {
                Err(nix::errno::Errno::EAGAIN) => return,
                Err(nix::errno::Errno::EINTR) => {}
                Ok(count) if count > 0 => {
                    if let Some(log) = &mut self.log {
                        output.cutter.feed(&scratch[..count], now, log);
                    }
                    let name = output.cutter.name();
                    self.taps.retain_mut(|tap| tap.name() != name || tap.write(&scratch[..count]));
                }
                // A terminal whose last user has gone reads EIO.
                Ok(_) | Err(_) => {
                    let mut output = self.outputs.remove(index);
                    if let Some(log) = &mut self.log {
                        output.cutter.finish(now, log);
                    }
                    self.close_taps(output.cutter.name());
                    return;
                }
            }
            if self.is_held() && self.pid != 0 {
                return;
            }
        }
    }

    /// Whether somebody attached has to take what was read before more is read.
    pub(super) fn is_held(&self) -> bool {
        self.taps.iter().any(Tap::is_full)
    }

    /// Ends what a stream's observers see, after what they have not taken yet.
    fn close_taps(&mut self, name: &str) {
        self.taps.retain_mut(|tap| tap.name() != name || tap.finish());
    }

    /// Passes on what observers have room for, and lets go of those who have gone or take nothing.
    pub(super) fn serve_taps(&mut self) {
        self.taps.retain_mut(Tap::flush);
    }

    /// Lets somebody see the output from now on, and write the input: whether there is a terminal,
    /// whether there is an input, and the caller's descriptors.
    pub(super) fn attach(&mut self) -> Result<(bool, bool, Vec<OwnedFd>), Fault> {
        if self.state != ContainerState::Running {
            return Err(Fault::new(FaultKind::NotRunning, self.spec.id.clone()));
        }
        let failed = |error: std::io::Error| Fault::failed(format!("attach: {error}"));
        if self.taps.len() + self.outputs.len() > MAX_TAPS {
            return Err(Fault::failed("attach: too many are attached already"));
        }
        let mut fds = Vec::new();
        if self.spec.tty {
            let master = self.outputs.first().ok_or_else(|| Fault::new(FaultKind::NotRunning, self.spec.id.clone()))?;
            fds.push(master.fd.try_clone().map_err(failed)?);
        } else if let Some(stdin) = &self.stdin {
            fds.push(stdin.try_clone().map_err(failed)?);
        }
        let has_stdin = if self.spec.tty { self.spec.stdin } else { self.stdin.is_some() };
        let names: &[&'static str] = if self.spec.tty { &["stdout"] } else { &["stdout", "stderr"] };
        for name in names {
            let (reader, tap) = Tap::new(name).map_err(failed)?;
            fds.push(reader);
            // A stream that has ended already reads as ended.
            if self.outputs.iter().any(|output| output.cutter.name() == *name) {
                self.taps.push(tap);
            }
        }
        Ok((self.spec.tty, has_stdin, fds))
    }

    /// Where a command's terminal is handed over by another runtime.
    pub(super) fn console_socket(&self) -> std::io::Result<(UnixListener, PathBuf)> {
        listen_for_console(&self.directory)
    }

    pub(super) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    pub(super) fn reopen_log(&mut self) -> Result<(), Fault> {
        match &mut self.log {
            Some(log) => log.reopen().map_err(|error| Fault::failed(error.to_string())),
            None => Ok(()),
        }
    }

    /// Removes what is left once the processes are gone. Returns whether nothing is.
    pub(super) fn clean_up(&mut self, patience: Duration) -> bool {
        if let Some(external) = &self.external {
            external.delete();
        }
        let gone = self.cgroup.remove(patience);
        let _ = fs::remove_dir_all(&self.directory);
        gone
    }

    pub(super) fn info(&self, sandbox: &str) -> ContainerInfo {
        ContainerInfo {
            id: self.spec.id.clone(),
            sandbox: sandbox.to_owned(),
            name: self.spec.name.clone(),
            labels: self.spec.labels.clone(),
            state: self.state.clone(),
            pid: self.pid,
            created_at_ns: self.created_at_ns,
            started_at_ns: self.started_at_ns,
        }
    }
}

/// 128 + n for signal n, as shells have it.
pub(super) fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Has the library make the container: its process, and what it waits with.
fn create_by_library(
    pod: &Pod,
    log: &mut ShimLog,
    spec: &ContainerSpec,
    guards: &Guards,
    streams: &mut Streams,
) -> Result<(u32, Waiting), Fault> {
    let (reader, writer) = sys::pipe().map_err(|e| Fault::failed(e.to_string()))?;
    let reader = File::from(reader);
    let payload = Payload {
        args: spec.args.clone(),
        env: spec.env.clone(),
        uid: spec.uid,
        guards: guards.clone(),
        report: Report::new(&writer),
    };
    let mark = log.mark();
    let built = build(pod, &spec.id, payload, streams);
    drop(writer);
    let oci = built.map_err(|error| explain(&error, &reader, log, mark))?;
    let pid = oci.pid().and_then(|pid| u32::try_from(pid.as_raw()).ok()).unwrap_or_default();
    Ok((pid, Waiting::Ours(Box::new(oci), reader)))
}

/// Has another runtime make the container: its process.
fn create_by(
    external: &External,
    mut config: serde_json::Value,
    spec: &ContainerSpec,
    nodes: &[oci::Node],
    held: capability::Set,
    streams: &mut Streams,
) -> Result<u32, Fault> {
    let seccomp = if spec.privileged { &SeccompProfile::Unconfined } else { &spec.seccomp };
    let filter = crate::seccomp::for_other_runtimes(seccomp, &held.names());
    external::complete(&mut config, spec, nodes, held);
    if let Some(filter) = filter.map_err(|text| Fault::new(FaultKind::Invalid, text))? {
        config["linux"]["seccomp"] = filter;
    }
    let console = streams.console.as_ref().map(|(_, path)| path.clone());
    let ends = (streams.stdin.take(), streams.stdout.take(), streams.stderr.take());
    let made = external.create(&config, console.as_deref(), ends);
    if made.is_err() {
        external.delete();
    }
    made
}

fn wanted_capabilities(spec: &ContainerSpec) -> capability::Set {
    let own = capability::Set::own();
    if spec.privileged { own } else { capability::Set::from_names(&spec.capabilities).and(own) }
}

fn prepare_cgroup(cgroup: &Cgroup, spec: &ContainerSpec, nodes: &[oci::Node]) -> Result<(), Fault> {
    cgroup.create().map_err(|error| Fault::failed(format!("cgroup {}: {error}", cgroup.oci_path())))?;
    let failed = cgroup.apply(&spec.resources);
    if !failed.is_empty() {
        tracing::warn!(limits = ?failed, "limits that this machine's cgroups do not offer");
    }
    cgroup.die_together();
    cgroup.forbid_swap();
    if !spec.privileged {
        let mut rules: Vec<String> = nodes.iter().map(oci::Node::rule).collect();
        if spec.tty {
            rules.push("c 5:1 rwm".to_owned());
        }
        cgroup.restrict_devices(&rules);
    }
    Ok(())
}

fn write_config(directory: &Path, config: &serde_json::Value) -> Result<(), Fault> {
    let path = directory.join("config.json");
    let bytes = serde_json::to_vec(config).map_err(|error| Fault::failed(error.to_string()))?;
    fs::write(&path, bytes).map_err(|error| Fault::failed(format!("{}: {error}", path.display())))
}

type OurEnds = (Vec<Output>, Option<OwnedFd>);

fn listen_for_console(directory: &Path) -> std::io::Result<(UnixListener, PathBuf)> {
    let path = directory.join("console.sock");
    let _ = fs::remove_file(&path);
    let (_handle, short) = sys::short_path(directory, "console.sock")?;
    let listener = UnixListener::bind(short)?;
    listener.set_nonblocking(true)?;
    Ok((listener, path))
}

fn make_streams(pod: &Pod, spec: &ContainerSpec) -> std::io::Result<(Vec<Output>, Option<OwnedFd>, Streams)> {
    if spec.tty {
        let console = Some(listen_for_console(&pod.directory)?);
        return Ok((Vec::new(), None, Streams { console, ..Streams::default() }));
    }
    let mut streams = Streams::default();
    let mut ours: OurEnds = Default::default();
    for (name, slot) in [("stdout", &mut streams.stdout), ("stderr", &mut streams.stderr)] {
        let (reader, writer) = sys::pipe()?;
        sys::set_nonblocking(reader.as_raw_fd())?;
        // Images open /dev/stdout by name, as their own user.
        nix::unistd::fchown(&writer, Some(pod.host_id(spec.uid).into()), Some(pod.host_id(spec.gid).into()))?;
        ours.0.push(Output { fd: reader, cutter: LineCutter::new(name) });
        *slot = Some(writer);
    }
    if spec.stdin {
        let (reader, writer) = sys::pipe()?;
        nix::unistd::fchown(&reader, Some(spec.uid.into()), Some(spec.gid.into()))?;
        streams.stdin = Some(reader);
        ours.1 = Some(writer);
    } else {
        streams.stdin = Some(File::open("/dev/null")?.into());
    }
    Ok((ours.0, ours.1, streams))
}

fn build(
    pod: &Pod,
    id: &str,
    payload: Payload,
    streams: &mut Streams,
) -> Result<Oci, libcontainer::error::LibcontainerError> {
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(pod.containers_directory())?
        .with_executor(payload);
    builder.stdin = streams.stdin.take();
    builder.stdout = streams.stdout.take();
    builder.stderr = streams.stderr.take();
    let console = streams.console.as_ref().map(|(_, path)| path.clone());
    // libcontainer insists on a cgroup file system where it looks for one.
    let _decoy = pod.hierarchies.is_none().then(|| namespaces::Decoy::new(&pod.directory));
    builder.with_console_socket(console).as_init(&pod.directory).with_systemd(false).with_detach(true).build()
}

/// The best text there is for a failed creation: what the process itself reported, else the first
/// error that was logged, else the error's own.
fn explain(error: &libcontainer::error::LibcontainerError, report: &File, log: &mut ShimLog, mark: u64) -> Fault {
    let reported = sys::set_nonblocking(report.as_raw_fd()).ok().and_then(|()| {
        let mut text = [0; 4096];
        let mut source = report;
        let count = source.read(&mut text).ok().filter(|count| *count > 0)?;
        Some(String::from_utf8_lossy(&text[..count]).into_owned())
    });
    let text = reported.unwrap_or_else(|| match log.cause_since(mark) {
        Some(cause) => format!("failed to create container: {cause}"),
        None => format!("failed to create container: {}", chain(error)),
    });
    Fault::new(FaultKind::Start, text)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn receive_console(listener: &UnixListener, path: &Path, uid: u32) -> Result<Output, Fault> {
    let failed = |error: std::io::Error| Fault::failed(format!("console: {error}"));
    let (connection, _) = listener.accept().map_err(failed)?;
    let _ = fs::remove_file(path);
    connection.set_nonblocking(true).map_err(failed)?;
    let mut fds = Vec::new();
    sys::receive_with_fds(connection.as_raw_fd(), &mut [0; 64], &mut fds).map_err(failed)?;
    let master = fds.pop().ok_or_else(|| Fault::failed("console: no terminal came"))?;
    super::pty::give_to(&master, uid).map_err(failed)?;
    sys::set_nonblocking(master.as_raw_fd()).map_err(failed)?;
    Ok(Output { fd: master, cutter: LineCutter::new("stdout") })
}

/// Best effort: a value below the caller's own needs CAP_SYS_RESOURCE.
pub(super) fn set_oom_score(pid: u32, value: Option<i32>) {
    let value = value.unwrap_or_default();
    if let Err(error) = fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string()) {
        tracing::debug!(pid, value, %error, "oom_score_adj not set");
    }
}

/// Makes the working directory inside the root file system, never following a link out of it.
fn make_cwd(rootfs: &Path, cwd: &str) -> std::io::Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, rootfs, flags, Mode::empty())?;
    let open = |path: &Path| openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let mut reached = PathBuf::from("/");
    for component in Path::new(cwd).components() {
        let std::path::Component::Normal(name) = component else { continue };
        let next = reached.join(name);
        if open(&next).is_err() {
            mkdirat(&open(&reached)?, name, Mode::from_raw_mode(0o755))?;
        }
        reached = next;
    }
    Ok(())
}

/// What libcontainer calls in the container's first process.
#[derive(Debug, Clone)]
struct Payload {
    args: Vec<String>,
    env: Vec<String>,
    uid: u32,
    guards: Guards,
    report: Report,
}

impl Executor for Payload {
    /// Runs while the container is created, so that a missing program is found before the start.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        let name = self.args.first().map_or("", String::as_str);
        match find_program(name, &self.env) {
            Ok(_) => Ok(()),
            Err(text) => {
                self.report.say(&text);
                Err(ExecutorValidationError::ArgValidationError(text))
            }
        }
    }

    /// The environment is handed to the program directly, in order.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        // SAFETY: prctl with integers only. The container must not outlive its shim.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
        let name = self.args.first().map_or("", String::as_str);
        let text = match find_program(name, &self.env) {
            Ok(program) => run(&program, &self.args, &complete_env(self.env.clone(), self.uid), &self.guards),
            Err(text) => text,
        };
        self.report.say(&text);
        Err(ExecutorError::Other(text))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_working_directory_stays_inside() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        make_cwd(root.path(), "/a/b/c").unwrap();
        assert!(root.path().join("a/b/c").is_dir());
        let _ = make_cwd(root.path(), "/link/escaped");
        assert!(!outside.path().join("escaped").exists());
    }

    #[test]
    fn exit_codes_are_those_of_shells() {
        assert_eq!(exit_code(3 << 8), 3);
        assert_eq!(exit_code(libc::SIGKILL), 137);
    }
}
