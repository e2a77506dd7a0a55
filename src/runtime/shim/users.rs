//! A pod's own users: the user namespace, and mounts in which its ids are those of files on the host.

use super::Pod;
use crate::idmap::{self, IDS};
use crate::protocol::Fault;
use crate::spec::ContainerSpec;
use crate::sys;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Directories that every user can reach, for mounts that only a container that is being made sees.
const PLACES: [&str; 7] = ["/mnt", "/media", "/srv", "/opt", "/home", "/tmp", "/run"];

/// Makes a user namespace whose root is the host's user `first`, and enters network, IPC and host name
/// namespaces that it owns. This process stays who it is.
pub(super) fn enter(first: u32) -> io::Result<OwnedFd> {
    let owned = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    let (done, done_writer) = sys::pipe()?;
    let (hold, hold_writer) = sys::pipe()?;
    // SAFETY: this process has one thread; the child only makes system calls and ends.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            drop((done, hold_writer));
            let made = unshare(CloneFlags::CLONE_NEWUSER | owned);
            let errno = made.err().map_or(0_i32, |errno| errno as i32).to_ne_bytes();
            // SAFETY: writes initialised bytes, then waits for the parent to close its end, and ends without
            // the parent's exit handlers.
            unsafe {
                libc::write(done_writer.as_raw_fd(), errno.as_ptr().cast(), errno.len());
                libc::read(hold.as_raw_fd(), [0_u8; 1].as_mut_ptr().cast(), 1);
                libc::_exit(0)
            }
        }
        child => child,
    };
    drop((done_writer, hold));
    let entered = (|| {
        let mut errno = [0; 4];
        File::from(done).read_exact(&mut errno)?;
        match i32::from_ne_bytes(errno) {
            0 => {}
            libc::ENOSPC => return Err(no_namespaces()),
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{child}/{map}"), format!("0 {first} {IDS}"))?;
        }
        for (name, kind) in
            [("net", CloneFlags::CLONE_NEWNET), ("uts", CloneFlags::CLONE_NEWUTS), ("ipc", CloneFlags::CLONE_NEWIPC)]
        {
            setns(File::open(format!("/proc/{child}/ns/{name}"))?, kind)?;
        }
        Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
    })();
    drop(hold_writer);
    // SAFETY: waits for our own child, which ends once its pipe is closed.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    entered.map_err(|error: io::Error| io::Error::new(error.kind(), format!("user namespace: {error}")))
}

fn no_namespaces() -> io::Error {
    io::Error::other(
        "the machine allows no more of them: raise the kernel parameter user.max_user_namespaces (sysctl -w \
         user.max_user_namespaces=15000), or leave hostUsers out",
    )
}

/// Starts a child in a process namespace that the user namespace owns. `run` does not return while all is well.
pub(super) fn spawn_within(users: &OwnedFd, run: impl FnOnce()) -> io::Result<u32> {
    let (reader, writer) = sys::pipe()?;
    // SAFETY: this process has one thread.
    let between = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            let pid = match setns(users, CloneFlags::CLONE_NEWUSER) {
                // SAFETY: clone without a stack behaves as fork in a process of one thread. The new process is
                // a child of this one's parent.
                Ok(()) => unsafe {
                    let flags = libc::CLONE_PARENT | libc::CLONE_NEWPID | libc::SIGCHLD;
                    libc::syscall(libc::SYS_clone, flags, 0 as libc::c_long, 0, 0, 0)
                },
                Err(_) => -1,
            };
            if pid == 0 {
                run();
            } else {
                let bytes = (pid as i32).to_ne_bytes();
                // SAFETY: writes initialised bytes.
                unsafe { libc::write(writer.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
            }
            // SAFETY: ends the process without running the parent's exit handlers.
            unsafe { libc::_exit(1) }
        }
        between => between,
    };
    drop(writer);
    let mut bytes = [0; 4];
    let read = File::from(reader).read_exact(&mut bytes);
    // SAFETY: waits for our own child, which has ended or is about to.
    unsafe { libc::waitpid(between, std::ptr::null_mut(), 0) };
    read?;
    u32::try_from(i32::from_ne_bytes(bytes)).map_err(|_| io::Error::other("process namespace not made"))
}

/// Runs something whose new files belong to the pod's root.
pub(super) fn as_root_of<T>(pod: &Pod, work: impl FnOnce() -> T) -> T {
    let Some(first) = pod.spec.first_host_id else { return work() };
    // SAFETY: changes which user this process is to file systems; it has one thread.
    unsafe {
        libc::setfsgid(first);
        libc::setfsuid(first);
    }
    let result = work();
    // SAFETY: as above.
    unsafe {
        libc::setfsuid(0);
        libc::setfsgid(0);
    }
    result
}

/// A mount namespace in which a container's root and volumes lie where its root can reach them, their owners
/// translated, for as long as this lives. Where they are on the host, only the host's root may go.
#[derive(Debug)]
pub(super) struct Stage {
    before: File,
    directory: PathBuf,
    /// With the places that the mounts have here.
    pub(super) spec: ContainerSpec,
    /// The same for the pod's shared memory.
    pub(super) shm: PathBuf,
}

impl Stage {
    pub(super) fn new(pod: &Pod, users: &OwnedFd, spec: &ContainerSpec) -> Result<Self, Fault> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| Fault::failed(format!("{what}: {error}"))
        };
        let root = idmap::detached(&spec.rootfs, true).map_err(failed("root file system"))?;
        let shm = idmap::detached(&pod.shm(), true).map_err(failed("shared memory"))?;
        let mut volumes = Vec::new();
        for volume in &spec.mounts {
            let source = fs::canonicalize(&volume.source).map_err(failed(&volume.source.display().to_string()))?;
            let mount = idmap::detached(&source, true).map_err(failed(&source.display().to_string()))?;
            if !volume.translated {
                idmap::translate(&mount, users.as_fd()).map_err(|error| untranslated(&source, &error))?;
            }
            volumes.push((mount, source.is_dir()));
        }
        let place = PLACES.iter().map(Path::new).find(|place| usable(place, &pod.directory));
        let place = place.ok_or_else(|| Fault::failed("no directory like /mnt for the mounts of user namespaces"))?;
        let before = File::open("/proc/self/ns/mnt").map_err(failed("mount namespace"))?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| failed("mount namespace")(errno.into()))?;
        // From here on, being dropped leads back.
        let mut stage = Self { before, directory: pod.directory.clone(), spec: spec.clone(), shm: place.join("shm") };
        stage.set(place, &root, &shm, &volumes).map_err(failed("mounts of a user namespace"))?;
        Ok(stage)
    }

    fn set(&mut self, place: &Path, root: &OwnedFd, shm: &OwnedFd, volumes: &[(OwnedFd, bool)]) -> io::Result<()> {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
        mount(Some("naru"), place, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))?;
        self.spec.rootfs = place.join("root");
        for (mount, target) in [(root, &self.spec.rootfs), (shm, &self.shm)] {
            fs::create_dir(target)?;
            idmap::attach(mount, target)?;
        }
        for (index, ((mount, is_directory), volume)) in volumes.iter().zip(&mut self.spec.mounts).enumerate() {
            volume.source = place.join(index.to_string());
            match is_directory {
                true => fs::create_dir(&volume.source)?,
                false => fs::write(&volume.source, b"")?,
            }
            idmap::attach(mount, &volume.source)?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.before, CloneFlags::CLONE_NEWNS) {
            tracing::error!(%error, "mount namespace not restored");
        }
        // Entering a mount namespace moves to its root.
        let _ = std::env::set_current_dir(&self.directory);
    }
}

/// Whether mounts may hide what is there: nothing of the sandbox is.
fn usable(place: &Path, directory: &Path) -> bool {
    fs::symlink_metadata(place).is_ok_and(|data| data.is_dir()) && !directory.starts_with(place)
}

fn untranslated(source: &Path, error: &io::Error) -> Fault {
    let in_memory = rustix::fs::statfs(source).is_ok_and(|data| data.f_type as u64 == libc::TMPFS_MAGIC as u64);
    let advice = match in_memory {
        true => "volumes in memory take Linux 6.3",
        false => "its file system does not offer it on this kernel",
    };
    Fault::failed(format!(
        "failed to set MOUNT_ATTR_IDMAP on {}: {error}: {advice}; use another volume, or leave hostUsers out",
        source.display()
    ))
}
