//! The process that is the parent of a pod's containers. Single-threaded, small, outlives the agent.
//!
//! Architecture invariant: nothing here starts a thread. libcontainer works by raw clones, which
//! are sound only in a process of one thread.

mod capability;
mod connection;
mod container;
mod exec;
mod external;
mod launch;
mod log;
mod namespaces;
mod oci;
mod pty;
mod server;
mod tap;
mod trace;
mod users;

use crate::cgroup::{Cgroup, Hierarchies};
use crate::proc;
use crate::protocol::{SANDBOX_FILE, SOCKET, STATE_FILE, SandboxFile, StateFile, VERSION};
use crate::spec::SandboxSpec;
use crate::sys;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the shim says on its standard output once it can be talked to.
pub(crate) const READY: &str = "ready";
/// Cgroup of all shims, outside the service's own, which is emptied when the service stops.
pub(crate) const SHIM_CGROUP: &str = "naru-shims";
/// Directory in the sandbox's with one for each container, named by its id.
pub(crate) const CONTAINERS: &str = "containers";

/// What does not change while a shim lives.
#[derive(Debug)]
struct Pod {
    spec: SandboxSpec,
    directory: PathBuf,
    hierarchies: Hierarchies,
    cgroup: Cgroup,
    /// First process of the shared process namespace.
    pause: Option<u32>,
    /// The pod's own user namespace.
    users: Option<OwnedFd>,
}

impl Pod {
    fn shm(&self) -> PathBuf {
        if self.spec.host_ipc { "/dev/shm".into() } else { self.directory.join("shm") }
    }

    /// The host's id for one in the pod.
    fn host_id(&self, id: u32) -> u32 {
        id.saturating_add(self.spec.first_host_id.unwrap_or(0))
    }

    fn containers_directory(&self) -> PathBuf {
        self.directory.join(CONTAINERS)
    }
}

/// Entry point of `naru shim DIRECTORY`; `args` are those after the word `shim`. The directory
/// holds the description of the sandbox. The caller learns from the standard output whether that
/// worked: `ready`, or the reason why not.
pub fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(directory) = args.next().map(PathBuf::from) else {
        say("usage: shim DIRECTORY");
        return ExitCode::from(2);
    };
    // SAFETY: this process has one thread; parent and child go on separately.
    match unsafe { libc::fork() } {
        -1 => {
            say(&format!("fork: {}", io::Error::last_os_error()));
            ExitCode::FAILURE
        }
        0 => match prepare(&directory) {
            Ok(mut server) => {
                say(READY);
                if let Err(error) = detach_stdio(server.log_file()) {
                    tracing::warn!(%error, "standard streams not detached");
                }
                server.run()
            }
            Err(error) => {
                say(&error.to_string());
                ExitCode::FAILURE
            }
        },
        _ => ExitCode::SUCCESS,
    }
}

fn say(text: &str) {
    // The one place that prints: the agent reads it. If it does not, nobody does.
    let _ = writeln!(io::stdout(), "{text}").and_then(|()| io::stdout().flush());
}

fn prepare(directory: &Path) -> io::Result<server::Server> {
    let path = directory.join(SANDBOX_FILE);
    let file: SandboxFile = serde_json::from_slice(&fs::read(&path)?)?;
    become_daemon(directory)?;
    lock(&path)?;
    let log = trace::ShimLog::install(&directory.join("shim.log"))?;
    let hierarchies = Hierarchies::detect();
    let root = PathBuf::from(file.cgroup_root.unwrap_or_default());
    let home = hierarchies.group(root.join(SHIM_CGROUP));
    home.create()?;
    home.join(0);
    let cgroup = hierarchies.group(root.join(&file.spec.cgroup_parent));
    cgroup.create()?;
    let failed = cgroup.apply(&file.spec.resources);
    if !failed.is_empty() {
        tracing::warn!(limits = ?failed, "limits that this machine's cgroups do not offer");
    }
    let users = namespaces::enter(&file.spec)?;
    let signals = block_child_signal()?;
    let pause = match file.spec.share_pid && !file.spec.host_pid {
        true => Some(namespaces::spawn_pause(&directory.join("empty"), users.as_ref())?),
        false => None,
    };
    let pod = Pod { spec: file.spec, directory: directory.to_owned(), hierarchies, cgroup, pause, users };
    namespaces::mount_shm(&pod.spec, &pod.shm())?;
    fs::create_dir(pod.containers_directory())?;
    let listener = listen(directory)?;
    write_state(directory)?;
    Ok(server::Server::new(pod, log, listener, signals))
}

/// Marks the sandbox as one that a process works on, for as long as this process lives: until the
/// state is written, an agent that has just started has no other way to know.
fn lock(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let lock = whole_file(libc::F_WRLCK);
    // SAFETY: F_SETLK reads a flock.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Closing any descriptor of the file would end the lock.
    std::mem::forget(file);
    Ok(())
}

/// The process that holds the lock on a sandbox, if any.
pub(crate) fn lock_holder(path: &Path) -> Option<u32> {
    let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    let mut lock = whole_file(libc::F_WRLCK);
    // SAFETY: F_GETLK reads and writes a flock.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) };
    let held = asked == 0 && i32::from(lock.l_type) != libc::F_UNLCK;
    held.then_some(lock.l_pid).and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0)
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    // SAFETY: all-zero is a valid flock: from the file's start to its end.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock
}

/// A session of its own, no controlling terminal, the parent of orphans below it.
fn become_daemon(directory: &Path) -> io::Result<()> {
    const NAME: &std::ffi::CStr = c"naru-shim";
    std::env::set_current_dir(directory)?;
    // SAFETY: plain system calls on integers and a static string.
    unsafe {
        libc::setsid();
        libc::umask(0o022);
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr(), 0, 0, 0);
        // libcontainer leaves an empty list of groups alone, so there must be none to inherit.
        libc::setgroups(0, std::ptr::null());
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_IGN);
        }
        if libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Ends of children are read from a descriptor, so that one poll waits for everything.
fn block_child_signal() -> io::Result<RawFd> {
    // SAFETY: a signal set on the stack; signalfd returns a new descriptor, kept for ever.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(fd),
        }
    }
}

fn listen(directory: &Path) -> io::Result<UnixListener> {
    let (_handle, path) = sys::short_path(directory, SOCKET)?;
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Written last: who finds it can connect.
fn write_state(directory: &Path) -> io::Result<()> {
    let pid = std::process::id();
    let state = StateFile {
        version: VERSION,
        pid,
        start_time: proc::start_time(pid).unwrap_or_default(),
        boot_id: proc::boot_id(),
        holder_pid: pid,
        created_at_ns: proc::now_ns(),
    };
    let temporary = directory.join("state.json.new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    serde_json::to_writer(&mut file, &state)?;
    fs::rename(temporary, directory.join(STATE_FILE))
}

/// Standard input and output to nowhere, errors (a panic's) to the log.
fn detach_stdio(log: &File) -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for (target, source) in [null.as_raw_fd(), null.as_raw_fd(), log.as_raw_fd()].into_iter().enumerate() {
        // SAFETY: plain dup2 onto the standard descriptors.
        if unsafe { libc::dup2(source, target as libc::c_int) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
