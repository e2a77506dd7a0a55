//! Removes what dead shims have left. Blocking; works from what is on disk.

use crate::cgroup::{Cgroup, Hierarchies};
use crate::error::{Result, RuntimeError};
use crate::proc;
use crate::protocol::{SANDBOX_FILE, STATE_FILE, SandboxFile, StateFile};
use crate::shim::{CONTAINERS, SHIM_CGROUP, lock_holder};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long killed processes may take to vanish.
const PATIENCE: Duration = Duration::from_secs(5);

/// The description of a sandbox, if it can be read.
pub(super) fn read_sandbox(directory: &Path) -> Option<SandboxFile> {
    serde_json::from_slice(&fs::read(directory.join(SANDBOX_FILE)).ok()?).ok()
}

/// How to find the shim, if one was ready once.
pub(super) fn read_state(directory: &Path) -> Option<StateFile> {
    serde_json::from_slice(&fs::read(directory.join(STATE_FILE)).ok()?).ok()
}

/// Whether that shim lives: same boot and same process.
pub(super) fn is_alive(state: &StateFile) -> bool {
    state.boot_id == proc::boot_id() && proc::start_time(state.pid) == Some(state.start_time)
}

/// Waits for a shim that is just starting, since the agent that started it has died.
pub(super) fn await_state(directory: &Path) -> Option<StateFile> {
    let start = Instant::now();
    loop {
        match read_state(directory) {
            Some(state) => return Some(state),
            None if start.elapsed() > PATIENCE => return None,
            None => lock_holder(&directory.join(SANDBOX_FILE))?,
        };
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn cgroup(file: &SandboxFile) -> Option<Cgroup> {
    // An empty path would be everything below the root.
    let parent = Path::new(file.spec.cgroup_parent.trim_matches('/'));
    let root = PathBuf::from(file.cgroup_root.clone().unwrap_or_default());
    (!parent.as_os_str().is_empty()).then(|| Hierarchies::detect().group(root.join(parent)))
}

/// The cgroups of the sandbox's containers, by the directories that its shim made for them. The
/// parent may hold those of another sandbox, the pod's next one.
fn container_cgroups(directory: &Path) -> Vec<Cgroup> {
    let Some(parent) = read_sandbox(directory).as_ref().and_then(cgroup) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(directory.join(CONTAINERS)) else { return Vec::new() };
    entries.flatten().filter_map(|entry| Some(parent.child(entry.file_name().to_str()?))).collect()
}

/// Kills the containers of a sandbox.
pub(super) fn kill(directory: &Path) {
    for cgroup in container_cgroups(directory) {
        cgroup.kill();
    }
}

/// Removes processes, mounts, cgroups and files of a sandbox. A live shim is killed.
pub(super) fn remove(directory: &Path) -> Result<()> {
    let shim = read_state(directory).filter(is_alive).map(|state| state.pid);
    if let Some(pid) = shim.or_else(|| lock_holder(&directory.join(SANDBOX_FILE)))
        && let Ok(pid) = i32::try_from(pid)
    {
        // SAFETY: sends a signal to a process that was just seen to be the shim; no memory involved.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    for cgroup in container_cgroups(directory) {
        cgroup.kill();
        if !cgroup.remove(PATIENCE) {
            return Err(RuntimeError::Failed(format!("cgroup {} is still in use", cgroup.oci_path())));
        }
    }
    if let Some(file) = read_sandbox(directory) {
        let root = PathBuf::from(file.cgroup_root.clone().unwrap_or_default());
        // In use while there are other sandboxes in them, which is no failure.
        for group in cgroup(&file).into_iter().chain([Hierarchies::detect().group(root.join(SHIM_CGROUP))]) {
            group.remove_if_empty();
        }
    }
    for mount in proc::mounts_below(directory).iter().rev() {
        if let Err(error) = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH) {
            tracing::warn!(mount = %mount.display(), %error, "not unmounted");
        }
    }
    // Never delete through a mount.
    if let Some(mount) = proc::mounts_below(directory).first() {
        return Err(RuntimeError::io(mount, "still mounted"));
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(RuntimeError::io(directory, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_another_boot_or_with_a_used_number_is_no_shim() {
        let pid = std::process::id();
        let start_time = proc::start_time(pid).unwrap();
        let state = StateFile { pid, start_time, boot_id: proc::boot_id(), ..StateFile::default() };
        assert!(is_alive(&state));
        assert!(!is_alive(&StateFile { boot_id: "another".into(), ..state.clone() }));
        assert!(!is_alive(&StateFile { start_time: start_time + 1, ..state }));
    }

    #[test]
    fn what_is_on_disk_without_a_process_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let sandbox = directory.path().join("a");
        fs::create_dir_all(sandbox.join("containers/c")).unwrap();
        fs::write(sandbox.join(SANDBOX_FILE), "not JSON").unwrap();
        assert_eq!(await_state(&sandbox), None);
        remove(&sandbox).unwrap();
        remove(&sandbox).unwrap();
        assert!(!sandbox.exists());
    }
}
