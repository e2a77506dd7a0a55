//! Control groups on every layout: v2, v1, both, without controllers, or none at all. What a
//! machine does not offer is left out; the rest works.

mod device_filter;
mod limits;
mod stats;

use crate::proc::unescape;
use crate::spec::Resources;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The cgroup file systems of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    v1: Vec<V1>,
    v2: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct V1 {
    mount: PathBuf,
    controllers: Vec<String>,
}

impl Hierarchies {
    pub(crate) fn detect() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount) = left.split(' ').nth(4).map(unescape) else { continue };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") if found.v2.is_none() => found.v2 = Some(mount),
                Some("cgroup") => {
                    let options = right.nth(1).unwrap_or_default();
                    let controllers: Vec<String> =
                        options.split(',').filter(|o| !matches!(*o, "rw" | "ro")).map(String::from).collect();
                    if !found.v1.iter().any(|v1| v1.controllers == controllers) {
                        found.v1.push(V1 { mount, controllers });
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Whether v2 is all there is.
    pub(crate) fn is_unified(&self) -> bool {
        self.v1.is_empty() && self.v2.is_some()
    }

    /// Whether there is no cgroup file system at all.
    pub(crate) fn is_none(&self) -> bool {
        self.v1.is_empty() && self.v2.is_none()
    }

    /// Those of the controllers behind the usual limits that this machine does not offer.
    pub(crate) fn missing_controllers(&self) -> Vec<&'static str> {
        let offered = self.v2.as_ref().and_then(|root| fs::read_to_string(root.join("cgroup.controllers")).ok());
        let offered = offered.unwrap_or_default();
        let has = |name: &str| self.controller(name).is_some() || offered.split_ascii_whitespace().any(|o| o == name);
        ["cpu", "memory", "pids"].into_iter().filter(|name| !has(name)).collect()
    }

    fn roots(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|v1| v1.mount.as_path()).chain(self.v2.as_deref())
    }

    fn controller(&self, name: &str) -> Option<&Path> {
        self.v1.iter().find(|v1| v1.controllers.iter().any(|c| c == name)).map(|v1| v1.mount.as_path())
    }

    /// The group at `path`, given relative to the top of every hierarchy.
    pub(crate) fn group(&self, path: impl AsRef<Path>) -> Cgroup {
        let path = path.as_ref().strip_prefix("/").unwrap_or(path.as_ref()).to_owned();
        Cgroup { hierarchies: self.clone(), path }
    }
}

/// One group, in all hierarchies at once.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    hierarchies: Hierarchies,
    path: PathBuf,
}

impl Cgroup {
    /// As OCI wants it: absolute.
    pub(crate) fn oci_path(&self) -> String {
        format!("/{}", self.path.display())
    }

    pub(crate) fn child(&self, name: &str) -> Cgroup {
        Cgroup { hierarchies: self.hierarchies.clone(), path: self.path.join(name) }
    }

    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.roots().map(|root| root.join(&self.path))
    }

    fn v1(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchies.controller(controller).map(|mount| mount.join(&self.path))
    }

    fn v2(&self) -> Option<PathBuf> {
        self.hierarchies.v2.as_ref().map(|mount| mount.join(&self.path))
    }

    /// Where the group is in every hierarchy, with the place of that hierarchy.
    pub(crate) fn places(&self) -> Vec<(PathBuf, PathBuf)> {
        let roots = self.hierarchies.roots().map(|root| (root.join(&self.path), root.to_owned()));
        roots.filter(|(directory, _)| directory.is_dir()).collect()
    }

    /// Makes the group wherever that is possible. Fails only if it is possible nowhere although
    /// there are hierarchies.
    pub(crate) fn create(&self) -> io::Result<()> {
        let mut made = false;
        let mut failure = None;
        for root in self.hierarchies.roots() {
            match make_path(root, &self.path) {
                Ok(()) => made = true,
                Err(error) => {
                    tracing::debug!(root = %root.display(), %error, "cgroup not made");
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if !made => Err(error),
            _ => Ok(()),
        }
    }

    /// Moves a process (0: the calling one) into the group.
    pub(crate) fn join(&self, pid: u32) {
        for directory in self.directories() {
            if let Err(error) = fs::write(directory.join("cgroup.procs"), pid.to_string()) {
                tracing::debug!(cgroup = %directory.display(), %error, "process not moved");
            }
        }
    }

    /// Sets the limits given and leaves the others. Returns what could not be set, for a warning.
    pub(crate) fn apply(&self, resources: &Resources) -> Vec<String> {
        limits::apply(self, resources)
    }

    /// Allows the standard devices and `extra` (in the form of `devices.allow`) only.
    pub(crate) fn restrict_devices(&self, extra: &[String]) {
        if let Some(directory) = self.v1("devices") {
            limits::restrict_devices(&directory, extra);
        } else if let Some(directory) = self.v2() {
            let rules = limits::DEVICES.iter().copied().chain(extra.iter().map(String::as_str));
            if let Err(error) = device_filter::restrict(&directory, rules) {
                tracing::warn!(cgroup = %directory.display(), %error, "devices not restricted");
            }
        }
    }

    /// No swap for the group: what is limited in memory is not to be found on the disk instead; v2.
    pub(crate) fn forbid_swap(&self) {
        if let Some(directory) = self.v2().filter(|_| self.v1("memory").is_none()) {
            // Absent where the machine does not account for swap.
            let _ = fs::write(directory.join("memory.swap.max"), "0");
        }
    }

    /// When memory runs out, the kernel kills all of the group, not one process of it; v2.
    pub(crate) fn die_together(&self) {
        if let Some(directory) = self.v2() {
            // Absent without a memory controller.
            let _ = fs::write(directory.join("memory.oom.group"), "1");
        }
    }

    /// What the group has used.
    pub(crate) fn stats(&self) -> crate::spec::Stats {
        stats::read(self)
    }

    /// What the group has read from disks and written.
    pub(crate) fn disks(&self) -> Vec<crate::spec::DiskStats> {
        stats::disks(self)
    }

    /// How often the out-of-memory killer struck here.
    pub(crate) fn oom_kills(&self) -> u64 {
        stats::oom_kills(self)
    }

    /// Processes in the group and in those below.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for directory in self.directories() {
            gather(&directory, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Sends SIGKILL to everything in the group and below.
    pub(crate) fn kill(&self) {
        if let Some(directory) = self.v2() {
            // One write that no fork can outrun, from kernel 5.14 on.
            let _ = fs::write(directory.join("cgroup.kill"), "1");
        }
        for pid in self.processes() {
            if let Ok(pid) = i32::try_from(pid) {
                // SAFETY: sends a signal to a process read from a cgroup of our own; no memory involved.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
    }

    /// Removes the group and those below, killing what is left in them, for at most `patience`.
    /// Returns whether nothing is left.
    pub(crate) fn remove(&self, patience: Duration) -> bool {
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            // Every hierarchy is tried, whatever became of the one before.
            let left = self.directories().filter(|directory| !remove_tree(directory)).count();
            let gone = left == 0;
            if gone || start.elapsed() > patience {
                return gone;
            }
            self.kill();
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Removes the group and those below wherever they hold no process.
    pub(crate) fn remove_empty(&self) {
        for directory in self.directories() {
            remove_tree(&directory);
        }
    }

    /// Removes the group itself where it is empty.
    pub(crate) fn remove_if_empty(&self) {
        for directory in self.directories() {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Makes `path` below `root` step by step, so that every step can hand its controllers down.
fn make_path(root: &Path, path: &Path) -> io::Result<()> {
    let mut parent = root.to_owned();
    for component in path.components() {
        let directory = parent.join(component);
        limits::delegate_controllers(&parent);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        limits::inherit_cpuset(&parent, &directory);
        parent = directory;
    }
    Ok(())
}

fn gather(directory: &Path, pids: &mut Vec<u32>) {
    let Ok(list) = fs::read_to_string(directory.join("cgroup.procs")) else { return };
    pids.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
    for child in children(directory) {
        gather(&child, pids);
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

fn remove_tree(directory: &Path) -> bool {
    for child in children(directory) {
        remove_tree(&child);
    }
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_told_apart() {
        let unified = Hierarchies::parse("25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(unified.is_unified());
        let hybrid = Hierarchies::parse(
            "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        );
        assert!(!hybrid.is_unified());
        assert_eq!(hybrid.controller("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(hybrid.controller("memory"), None);
        assert_eq!(hybrid.roots().count(), 3);
    }

    #[test]
    fn no_hierarchy_is_no_failure() {
        let group = Hierarchies::default().group("/kubepods/x");
        assert!(group.create().is_ok());
        assert!(group.apply(&Resources { pids_limit: Some(5), ..Resources::default() }).len() == 1);
        assert!(group.remove(Duration::ZERO));
        assert_eq!(group.oci_path(), "/kubepods/x");
    }
}
