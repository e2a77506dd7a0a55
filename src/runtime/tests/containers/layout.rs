//! The layouts of cgroups that a machine may have, as far as this one can show them: its own, version
//! 2 as far as it has it, and none. Each in a mount namespace of its own.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

const CGROUPS: &str = "/sys/fs/cgroup";

/// A layout of cgroups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    mounted: Option<bool>,
}

/// `mounted`: as it is, or not at all, or version 2 alone.
pub(crate) const ALL: &[Layout] = &[
    Layout { name: "cgroups of this machine", mounted: None },
    Layout { name: "cgroup v2 alone", mounted: Some(true) },
    Layout { name: "no cgroups", mounted: Some(false) },
];

/// Does something where cgroups look so. This process must have one thread.
pub(crate) fn run_in<T>(layout: Layout, work: impl FnOnce() -> T) -> T {
    let Some(mounted) = layout.mounted else { return work() };
    let before = std::fs::File::open("/proc/self/ns/mnt").unwrap();
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    umount2(CGROUPS, MntFlags::MNT_DETACH).unwrap();
    if mounted {
        mount(Some("cgroup2"), CGROUPS, Some("cgroup2"), MsFlags::empty(), none).unwrap();
    }
    let outcome = work();
    // Threads that the work has begun and not ended would keep this one from going back.
    setns(&before, CloneFlags::CLONE_NEWNS).unwrap();
    outcome
}
