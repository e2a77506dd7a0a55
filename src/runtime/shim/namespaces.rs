//! The sandbox's namespaces. The shim lives in them itself, which keeps them alive without a
//! process of their own; only a shared process namespace needs one, since it needs a first process.

use super::{Pod, capability};
use crate::spec::{Mount, Propagation, SandboxSpec};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The kernel's overflow identity, `nobody` on most systems.
const NOBODY: u32 = 65_534;

/// Moves this process into namespaces of its own and prepares them. Returns the user namespace that owns
/// them, if the sandbox has one.
pub(super) fn enter(spec: &SandboxSpec) -> io::Result<Option<OwnedFd>> {
    let users = match spec.first_host_id {
        Some(first) => Some(super::users::enter(first)?),
        None => {
            unshare(flags(spec))?;
            None
        }
    };
    if !spec.host_network {
        if !spec.hostname.is_empty() {
            nix::unistd::sethostname(&spec.hostname)?;
        }
        bring_up_loopback()?;
    }
    set_sysctls(spec)?;
    Ok(users)
}

fn flags(spec: &SandboxSpec) -> CloneFlags {
    let mut flags = CloneFlags::empty();
    if !spec.host_network {
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    }
    if !spec.host_ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
    }
    flags
}

fn set_sysctls(spec: &SandboxSpec) -> io::Result<()> {
    let mut defaults = BTreeMap::new();
    if !spec.host_network {
        // Within its own network namespace a container may use low ports and ping without privilege.
        defaults.insert("net.ipv4.ip_unprivileged_port_start", "0");
        defaults.insert("net.ipv4.ping_group_range", "0 2147483647");
    }
    for (name, value) in defaults.into_iter().filter(|(name, _)| !spec.sysctls.contains_key(*name)) {
        if let Err(error) = fs::write(sysctl_path(name), value) {
            tracing::debug!(name, %error, "default not set");
        }
    }
    for (name, value) in &spec.sysctls {
        fs::write(sysctl_path(name), value)
            .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}={value}: {error}")))?;
    }
    Ok(())
}

fn sysctl_path(name: &str) -> String {
    // A slash form exists for names with dots in a part, such as those of interfaces.
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    format!("/proc/sys/{path}")
}

fn bring_up_loopback() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an ifreq with a NUL-terminated name.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A mount namespace, and the root that a process has in it. Entering a mount namespace moves to the root of it all,
/// which is another one on a machine that lives in a directory of a larger one.
#[derive(Debug)]
struct Mounts {
    namespace: fs::File,
    root: fs::File,
}

impl Mounts {
    /// Of a process, by what /proc calls it.
    fn of(process: &str) -> io::Result<Self> {
        let open = |what: &str| fs::File::open(format!("/proc/{process}/{what}"));
        Ok(Self { namespace: open("ns/mnt")?, root: open("root")? })
    }

    /// Moves this process into them; its directory is their root afterwards.
    fn enter(&self) -> io::Result<()> {
        nix::sched::setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
        nix::unistd::fchdir(&self.root)?;
        std::os::unix::fs::chroot(".")
    }
}

/// On a machine without cgroups: a mount namespace in which there seem to be some, version 1 without
/// controllers, for as long as this lives.
#[derive(Debug)]
pub(super) struct Decoy {
    before: Option<Mounts>,
    directory: PathBuf,
}

impl Decoy {
    pub(super) fn new(directory: &Path) -> Self {
        let before = Mounts::of("self").and_then(|before| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            Ok(before)
        });
        let decoy = Self { before: before.ok(), directory: directory.to_owned() };
        if decoy.before.is_some() {
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            let none = None::<&str>;
            let mounted = nix::mount::mount(none, "/", none, private, none).and_then(|()| {
                nix::mount::mount(Some("none"), "/sys/fs/cgroup", Some("tmpfs"), MsFlags::MS_RDONLY, none)
            });
            if let Err(error) = mounted {
                tracing::warn!(%error, "no cgroups, and no way round it");
            }
        }
        decoy
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        if let Some(before) = self.before.take()
            && let Err(error) = before.enter()
        {
            tracing::error!(%error, "mount namespace not restored");
        }
        // The directory is gone only if the sandbox is.
        let _ = std::env::set_current_dir(&self.directory);
    }
}

/// Says how later mounts travel between the machine and a container that has been made and not started. The
/// library leaves every mount as the machine's own are, or makes it follow those.
pub(super) fn set_propagation(pod: &Pod, pid: u32, mounts: &[Mount]) -> io::Result<()> {
    let mut wanted: Vec<&Mount> = mounts.iter().filter(|m| m.propagation != Propagation::Bidirectional).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    wanted.sort_by_key(|m| m.destination.components().count());
    let (before, theirs) = (Mounts::of("self")?, Mounts::of(&pid.to_string())?);
    let outcome = theirs.enter().and_then(|()| propagate(&wanted));
    before.enter()?;
    std::env::set_current_dir(&pod.directory)?;
    outcome
}

/// In the container's mounts: paths are its own. Its process waits, so nobody changes them now.
fn propagate(wanted: &[&Mount]) -> io::Result<()> {
    for mount in wanted {
        let kind = match mount.propagation {
            Propagation::Private => MsFlags::MS_PRIVATE,
            _ => MsFlags::MS_SLAVE,
        };
        let none = None::<&str>;
        let set = nix::mount::mount(none, &mount.destination, none, MsFlags::MS_REC | kind, none);
        set.map_err(|errno| io::Error::other(format!("{}: {errno}", mount.destination.display())))?;
    }
    Ok(())
}

/// Makes what the containers see as /dev/shm. With the host's IPC it is the host's own.
pub(super) fn mount_shm(spec: &SandboxSpec, path: &Path) -> io::Result<()> {
    if spec.host_ipc {
        return Ok(());
    }
    fs::create_dir(path)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let root = spec.first_host_id.unwrap_or(0);
    let options = format!("mode=1777,size=65536k,uid={root},gid={root}");
    nix::mount::mount(Some("shm"), path, Some("tmpfs"), flags, Some(options.as_str()))?;
    Ok(())
}

/// Undoes [`mount_shm`].
pub(super) fn unmount_shm(path: &Path) {
    if let Err(error) = nix::mount::umount2(path, MntFlags::MNT_DETACH) {
        tracing::debug!(%error, "shm not unmounted");
    }
}

/// Starts the first process of a shared process namespace. It does nothing but reap, sees an empty
/// directory as its root and has no privileges, since containers can look at it.
pub(super) fn spawn_pause(empty: &Path, users: Option<&OwnedFd>) -> io::Result<u32> {
    fs::create_dir_all(empty)?;
    if let Some(users) = users {
        return super::users::spawn_within(users, || pause(empty));
    }
    // SAFETY: clone without a stack behaves as fork; this process has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWPID | libc::SIGCHLD, 0 as libc::c_long, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            pause(empty);
            // SAFETY: ends the process without running the parent's exit handlers.
            unsafe { libc::_exit(1) }
        }
        pid => Ok(pid as u32),
    }
}

/// What `ps` shows of this process: the words that it was started with are written over.
fn set_command_line(text: &[u8]) {
    // After the name in brackets, which may hold anything: the fields from the third on.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let at = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let (begin, end) = (at(48), at(49));
    if begin == 0 || end <= begin {
        return;
    }
    let length = end - begin;
    // SAFETY: the kernel's record of where this process's arguments lie: its own writable stack, which
    // nobody reads any more (arguments were copied when the program began).
    unsafe {
        std::ptr::write_bytes(begin as *mut u8, 0, length);
        std::ptr::copy_nonoverlapping(text.as_ptr(), begin as *mut u8, text.len().min(length - 1));
    }
}

fn pause(empty: &Path) {
    const NAME: &CStr = c"pause";
    set_command_line(b"/pause");
    if std::env::set_current_dir(empty).and_then(|()| std::os::unix::fs::chroot(".")).is_err() {
        return;
    }
    capability::Set::default().bound();
    // SAFETY: prctl with integers and a static string, close_range on all descriptors of this
    // process, which uses none of them any more, and plain identity changes.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr(), 0, 0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        libc::setgroups(0, std::ptr::null());
        libc::setresgid(NOBODY, NOBODY, NOBODY);
        if libc::setresuid(NOBODY, NOBODY, NOBODY) != 0 {
            return;
        }
        // Changing the identity has cleared it.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
    }
    // SAFETY: signal set on the stack; waits for and reaps children for ever.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        loop {
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
            libc::sigwaitinfo(&raw const set, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_become_paths() {
        assert_eq!(sysctl_path("net.ipv4.tcp_syncookies"), "/proc/sys/net/ipv4/tcp_syncookies");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/x"), "/proc/sys/net/ipv4/conf/eth0.1/x");
    }
}
