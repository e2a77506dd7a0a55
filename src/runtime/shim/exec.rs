//! Runs a command in a running container: joins its cgroups and namespaces, takes its identity and
//! guards, and becomes the command.

use super::capability;
use super::container::{Container, set_oom_score};
use super::external::{self, External};
use super::launch::{Guards, Report, complete_env, find_program, run};
use super::pty;
use crate::protocol::{Fault, FaultKind};
use crate::spec::{ContainerState, ExecSpec};
use crate::sys;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// How long the command may take to begin.
const START_TIMEOUT_MS: i32 = 10_000;

/// Namespaces that a container may have of its own, with their files' names.
const NAMESPACES: [(&str, libc::c_int); 7] = [
    ("user", libc::CLONE_NEWUSER),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("net", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("mnt", libc::CLONE_NEWNS),
    ("cgroup", libc::CLONE_NEWCGROUP),
];

/// A command that has begun.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: i32,
    /// The caller's ends: stdin (if asked for), stdout, stderr; or the terminal's master.
    pub(super) fds: Vec<OwnedFd>,
}

/// Everything the new process needs, gathered before the fork.
struct Plan {
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    guards: Guards,
    /// Whether the container's users are not the host's.
    own_users: bool,
    /// The AppArmor profile, and the machine's /proc, since the container's own is not to be trusted.
    confinement: Option<(String, File)>,
    size: Option<(u16, u16)>,
    stdio: Stdio,
    report: Report,
}

enum Stdio {
    Pipes([RawFd; 3]),
    /// A terminal is opened inside; its master goes through this socket.
    Terminal(RawFd),
}

pub(super) fn start(container: &Container, spec: &ExecSpec) -> Result<Started, Fault> {
    if container.state != ContainerState::Running {
        return Err(Fault::new(FaultKind::NotRunning, container.spec.id.clone()));
    }
    let failed = |what: &'static str| move |error: io::Error| Fault::failed(format!("exec: {what}: {error}"));
    if let Some(external) = &container.external {
        return start_by(external, container, spec);
    }
    let target = pidfd(container.pid).map_err(failed("container"))?;
    let (report, report_writer) = sys::pipe().map_err(failed("pipe"))?;
    let (pids, pid_writer) = sys::pipe().map_err(failed("pipe"))?;
    let ends = Ends::new(spec).map_err(failed("pipe"))?;
    let flags = differing_namespaces(container.pid);
    let own_users = flags & libc::CLONE_NEWUSER != 0;
    let plan = plan(container, spec, own_users, ends.stdio(), Report::new(&report_writer)).map_err(failed("/proc"))?;
    // SAFETY: this process has one thread, so the child may do anything until it executes or exits.
    match unsafe { libc::fork() } {
        -1 => Err(failed("fork")(io::Error::last_os_error())),
        0 => {
            container.cgroup.join(0);
            set_oom_score(std::process::id(), container.spec.oom_score_adj);
            enter_and_clone(&target, flags, &plan, pid_writer.as_raw_fd());
            // SAFETY: ends the process without running the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
        intermediate => {
            drop((report_writer, pid_writer));
            let (terminal, fds) = ends.ours();
            finish(intermediate, File::from(report), File::from(pids), terminal, fds)
        }
    }
}

/// Has the runtime that made the container run the command.
fn start_by(external: &External, container: &Container, spec: &ExecSpec) -> Result<Started, Fault> {
    let failed = |error: io::Error| Fault::failed(format!("exec: {error}"));
    let process = external::process(&container.spec, spec, container.guards.capabilities);
    if !spec.tty {
        let Ends { ours, theirs, .. } = Ends::new(spec).map_err(failed)?;
        let mut theirs = theirs.into_iter();
        let pid = external.exec(&process, None, (theirs.next(), theirs.next(), theirs.next()))?;
        return Ok(Started { pid: pid as i32, fds: ours });
    }
    let (listener, path) = container.console_socket().map_err(failed)?;
    let made = external.exec(&process, Some(&path), (None, None, None));
    let _ = fs::remove_file(&path);
    let pid = made?;
    let (connection, _) = listener.accept().map_err(failed)?;
    connection.set_nonblocking(true).map_err(failed)?;
    let mut fds = Vec::new();
    sys::receive_with_fds(connection.as_raw_fd(), &mut [0; 64], &mut fds).map_err(failed)?;
    let master = fds.first().ok_or_else(|| Fault::failed("exec: no terminal came"))?;
    if let Some((columns, rows)) = spec.tty_size {
        sys::set_terminal_size(master.as_raw_fd(), columns, rows);
    }
    Ok(Started { pid: pid as i32, fds })
}

/// In the parent: learns the command's pid, and whether it runs.
fn finish(
    intermediate: i32,
    report: File,
    mut pids: File,
    terminal: Option<OwnedFd>,
    mut fds: Vec<OwnedFd>,
) -> Result<Started, Fault> {
    let reported = Report::read(&report, START_TIMEOUT_MS);
    if reported.is_err() {
        // SAFETY: a child of ours that has not been waited for.
        unsafe { libc::kill(intermediate, libc::SIGKILL) };
    }
    // SAFETY: waits for our own child, which has ended, is about to, or has been killed.
    unsafe { libc::waitpid(intermediate, std::ptr::null_mut(), 0) };
    let mut bytes = [0; 4];
    let pid = pids.read_exact(&mut bytes).ok().map(|()| i32::from_ne_bytes(bytes));
    let failure = match reported {
        Ok(None) => None,
        Ok(Some(text)) => Some(text),
        Err(error) => Some(format!("exec: {error}")),
    };
    match (failure, pid) {
        (None, Some(pid)) => {
            if let Some(socket) = terminal {
                sys::receive_with_fds(socket.as_raw_fd(), &mut [0; 1], &mut fds)
                    .map_err(|error| Fault::failed(format!("exec: terminal: {error}")))?;
            }
            Ok(Started { pid, fds })
        }
        (failure, pid) => {
            if let Some(pid) = pid {
                // SAFETY: a child of ours that has not been waited for; the loop reaps it.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            Err(Fault::new(FaultKind::Start, failure.unwrap_or_else(|| "exec: the process died".to_owned())))
        }
    }
}

/// In the intermediate child, which is in the container's cgroups already: joins the namespaces and
/// makes the command's process a child of the shim, since a process namespace takes only children.
fn enter_and_clone(target: &OwnedFd, flags: libc::c_int, plan: &Plan, pids: RawFd) {
    // SAFETY: plain system calls on integers and descriptors; clone without a stack behaves as fork
    // in this single-threaded process.
    let pid = unsafe {
        // Nothing in the container may look into this process while it still holds ours.
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        if flags != 0 && libc::setns(target.as_raw_fd(), flags) != 0 {
            plan.report.say(&format!("exec: cannot enter the container: {}", io::Error::last_os_error()));
            return;
        }
        libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0 as libc::c_long, 0, 0, 0)
    };
    match pid {
        -1 => plan.report.say(&format!("exec: cannot fork in the container: {}", io::Error::last_os_error())),
        0 => {
            let text = become_command(plan);
            plan.report.say(&text);
            // SAFETY: ends the process without running the parent's exit handlers.
            unsafe { libc::_exit(126) }
        }
        pid => {
            let bytes = (pid as i32).to_ne_bytes();
            // SAFETY: writes four initialised bytes.
            unsafe { libc::write(pids, bytes.as_ptr().cast(), bytes.len()) };
        }
    }
}

/// In the command's process. Returns only to say what went wrong.
fn become_command(plan: &Plan) -> String {
    let step = |what: &str, result: libc::c_long| match result {
        0 => Ok(()),
        _ => Err(format!("exec: {what}: {}", io::Error::last_os_error())),
    };
    let prepare = || -> Result<(), String> {
        // SAFETY: plain system calls on integers, a live list of groups and own descriptors.
        unsafe {
            libc::setsid();
            libc::umask(0o022);
            if plan.own_users {
                // Until now this is a user of the host, to whom nothing in there belongs.
                step("setgroups", libc::setgroups(0, std::ptr::null()).into())?;
                step("setresgid", libc::setresgid(0, 0, 0).into())?;
                step("setresuid", libc::setresuid(0, 0, 0).into())?;
            }
            connect(plan).map_err(|error| format!("exec: standard streams: {error}"))?;
            let groups = (plan.groups.len(), plan.groups.as_ptr());
            step("setgroups", libc::setgroups(groups.0, groups.1).into())?;
            plan.guards.capabilities.bound();
            libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0);
            step("setresgid", libc::setresgid(plan.gid, plan.gid, plan.gid).into())?;
            let cwd = std::env::set_current_dir(&plan.cwd);
            step("setresuid", libc::setresuid(plan.uid, plan.uid, plan.uid).into())?;
            if plan.guards.capabilities_before().and(capability::Set::own_permitted()).hold().is_err() {
                return Err("exec: capset".to_owned());
            }
            cwd.map_err(|error| {
                let errno = error.raw_os_error().unwrap_or_default();
                format!("chdir to cwd ({:?}) failed: {}", plan.cwd, sys::errno_text(errno))
            })?;
        }
        if let Some((profile, proc)) = &plan.confinement {
            confine(profile, proc).map_err(|error| format!("exec: AppArmor profile {profile:?}: {error}"))?;
        }
        sys::close_on_exec_beyond_stdio();
        Ok(())
    };
    if let Err(text) = prepare() {
        return text;
    }
    let env = complete_env(plan.env.clone(), plan.uid);
    match find_program(plan.args.first().map_or("", String::as_str), &env) {
        Ok(program) => run(&program, &plan.args, &env, &plan.guards),
        Err(text) => text,
    }
}

/// The next program that this process becomes is confined by a profile.
fn confine(profile: &str, proc: &File) -> io::Result<()> {
    use nix::fcntl::{OFlag, openat};
    let file =
        openat(proc, "self/attr/apparmor/exec", OFlag::O_WRONLY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
    File::from(file).write_all(format!("exec {profile}").as_bytes())
}

/// Puts the standard streams in place.
fn connect(plan: &Plan) -> io::Result<()> {
    let sources = match plan.stdio {
        Stdio::Pipes(fds) => fds,
        Stdio::Terminal(socket) => {
            let (master, peer) = pty::open()?;
            nix::unistd::fchown(&peer, Some(plan.uid.into()), None)?;
            if let Some((columns, rows)) = plan.size {
                sys::set_terminal_size(master.as_raw_fd(), columns, rows);
            }
            sys::send_with_fds(socket, &[0], &[master.as_raw_fd()])?;
            pty::take_control(peer.as_raw_fd());
            let fd = peer.as_raw_fd();
            // Open until the program runs; all above 2 are closed then.
            std::mem::forget(peer);
            [fd; 3]
        }
    };
    for (target, source) in sources.into_iter().enumerate() {
        // SAFETY: plain dup2 of descriptors above 2 onto 0 to 2.
        if unsafe { libc::dup2(source, target as libc::c_int) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn plan(container: &Container, spec: &ExecSpec, own_users: bool, stdio: Stdio, report: Report) -> io::Result<Plan> {
    let own = &container.spec;
    let mut env = if spec.env.is_empty() { own.env.clone() } else { spec.env.clone() };
    if spec.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    let cwd = spec.cwd.clone().unwrap_or_else(|| own.cwd.clone());
    let confinement = match &own.apparmor {
        Some(profile) => Some((profile.clone(), File::open("/proc")?)),
        None => None,
    };
    Ok(Plan {
        args: spec.args.clone(),
        env,
        cwd: if cwd.is_empty() { "/".to_owned() } else { cwd },
        uid: spec.uid.unwrap_or(own.uid),
        gid: spec.gid.unwrap_or(own.gid),
        groups: super::oci::groups(own),
        guards: container.guards.clone(),
        own_users,
        confinement,
        size: spec.tty_size,
        stdio,
        report,
    })
}

/// Both ends of the command's standard streams.
struct Ends {
    ours: Vec<OwnedFd>,
    theirs: Vec<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Ends {
    fn new(spec: &ExecSpec) -> io::Result<Self> {
        if spec.tty {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            return Ok(Self { ours: Vec::new(), theirs: vec![theirs.into()], terminal: Some(ours.into()) });
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        if spec.stdin {
            let (reader, writer) = sys::pipe()?;
            theirs.push(reader);
            ours.push(writer);
        } else {
            theirs.push(File::open("/dev/null")?.into());
        }
        for _ in 0..2 {
            let (reader, writer) = sys::pipe()?;
            ours.push(reader);
            theirs.push(writer);
        }
        Ok(Self { ours, theirs, terminal: None })
    }

    fn stdio(&self) -> Stdio {
        match self.theirs.as_slice() {
            [stdin, stdout, stderr] => Stdio::Pipes([stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()]),
            other => Stdio::Terminal(other.first().map_or(-1, AsRawFd::as_raw_fd)),
        }
    }

    fn ours(self) -> (Option<OwnedFd>, Vec<OwnedFd>) {
        (self.terminal, self.ours)
    }
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers and returns a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::c_long, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The namespaces that a process has and this one has not.
fn differing_namespaces(pid: u32) -> libc::c_int {
    NAMESPACES
        .iter()
        .filter(|(name, _)| {
            let theirs = fs::read_link(format!("/proc/{pid}/ns/{name}"));
            theirs.is_ok_and(|theirs| fs::read_link(format!("/proc/self/ns/{name}")).is_ok_and(|ours| ours != theirs))
        })
        .fold(0, |flags, (_, flag)| flags | flag)
}
