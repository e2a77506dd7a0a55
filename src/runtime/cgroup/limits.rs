//! Writes limits in the files of either version.

use super::Cgroup;
use crate::spec::Resources;
use std::fs;
use std::path::{Path, PathBuf};

/// Controllers handed down on v2.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// Devices that every container may use. Making nodes is harmless without the right to open them.
pub(super) const DEVICES: [&str; 10] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// Sets what is given; returns the names of the limits that could not be set.
pub(super) fn apply(group: &Cgroup, resources: &Resources) -> Vec<String> {
    let mut failed = Vec::new();
    let mut set = |controller: &str, v1: (&str, Option<String>), v2: (&str, Option<String>)| {
        let target = match group.v1(controller) {
            Some(directory) => v1.1.map(|value| (Some(directory.join(v1.0)), v1.0, value)),
            None => v2.1.map(|value| (group.v2().map(|d| d.join(v2.0)), v2.0, value)),
        };
        let Some((path, name, value)) = target else { return };
        let done = path.is_some_and(|path: PathBuf| {
            fs::write(&path, &value)
                .inspect_err(|error| tracing::debug!(path = %path.display(), value, %error, "limit not set"))
                .is_ok()
        });
        if !done {
            failed.push(name.to_owned());
        }
    };
    let text = |value: Option<i64>| value.map(|v| v.to_string());
    let or_max = |value: Option<i64>| value.map(|v| if v < 0 { "max".to_owned() } else { v.to_string() });
    set(
        "cpu",
        ("cpu.shares", resources.cpu_shares.map(|s| s.to_string())),
        ("cpu.weight", resources.cpu_shares.map(|s| weight(s).to_string())),
    );
    let period = resources.cpu_period.unwrap_or(100_000);
    let cpu_max =
        resources.cpu_quota.map(|quota| if quota > 0 { format!("{quota} {period}") } else { format!("max {period}") });
    // On v1 the period goes first, so that a quota is never judged against the old one.
    set("cpu", ("cpu.cfs_period_us", resources.cpu_period.map(|p| p.to_string())), ("cpu.max", cpu_max));
    set("cpu", ("cpu.cfs_quota_us", text(resources.cpu_quota)), ("", None));
    set("cpuset", ("cpuset.cpus", resources.cpuset_cpus.clone()), ("cpuset.cpus", resources.cpuset_cpus.clone()));
    set("cpuset", ("cpuset.mems", resources.cpuset_mems.clone()), ("cpuset.mems", resources.cpuset_mems.clone()));
    set(
        "memory",
        ("memory.limit_in_bytes", text(resources.memory_limit)),
        ("memory.max", or_max(resources.memory_limit)),
    );
    for (size, bytes) in &resources.huge_pages {
        let (v1, v2) = (format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.max"));
        let has = group.v1("hugetlb").map_or_else(|| group.v2().map(|d| d.join(&v2)), |d| Some(d.join(&v1)));
        // None of what nobody offers is no limit that is missing.
        if *bytes > 0 || has.is_some_and(|path| path.exists()) {
            set("hugetlb", (&v1, text(Some(*bytes))), (&v2, text(Some(*bytes))));
        }
    }
    set("pids", ("pids.max", or_max(resources.pids_limit)), ("pids.max", or_max(resources.pids_limit)));
    failed
}

/// The v2 weight (1 to 10000) that stands for v1 shares (2 to 262144).
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9_999 / 262_142
}

/// On v2, lets the children of `directory` use every controller that it has itself.
pub(super) fn delegate_controllers(directory: &Path) {
    let control = directory.join("cgroup.subtree_control");
    let Ok(have) = fs::read_to_string(directory.join("cgroup.controllers")) else { return };
    let handed = fs::read_to_string(&control).unwrap_or_default();
    for controller in have.split_ascii_whitespace().filter(|c| CONTROLLERS.contains(c)) {
        if handed.split_ascii_whitespace().all(|c| c != controller)
            && let Err(error) = fs::write(&control, format!("+{controller}"))
        {
            tracing::debug!(path = %control.display(), controller, %error, "controller not handed down");
        }
    }
}

/// On v1, a new cpuset is empty and takes no process: copy the parent's.
pub(super) fn inherit_cpuset(parent: &Path, child: &Path) {
    if fs::exists(child.join("cgroup.controllers")).unwrap_or(false) {
        return;
    }
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let path = child.join(name);
        if fs::read_to_string(&path).is_ok_and(|value| value.trim().is_empty())
            && let Ok(value) = fs::read_to_string(parent.join(name))
        {
            let _ = fs::write(&path, value.trim());
        }
    }
}

/// Denies all devices but the usual ones and `extra` (in the form of `devices.allow`).
pub(super) fn restrict_devices(directory: &Path, extra: &[String]) {
    if let Err(error) = fs::write(directory.join("devices.deny"), "a") {
        tracing::debug!(path = %directory.display(), %error, "devices not restricted");
        return;
    }
    for rule in DEVICES.iter().copied().chain(extra.iter().map(String::as_str)) {
        if let Err(error) = fs::write(directory.join("devices.allow"), rule) {
            tracing::debug!(path = %directory.display(), rule, %error, "device not allowed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_limited_where_the_kernel_has_them() -> std::io::Result<()> {
        use crate::cgroup::{Hierarchies, V1};
        let dir = tempfile::tempdir()?;
        let resources = Resources {
            huge_pages: [("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)].into(),
            ..Resources::default()
        };
        for (version, file) in [(1, "hugetlb.2MB.limit_in_bytes"), (2, "hugetlb.2MB.max")] {
            let root = dir.path().join(version.to_string());
            let group = root.join("pod");
            fs::create_dir_all(&group)?;
            let hierarchies = match version {
                1 => Hierarchies { v1: vec![V1 { mount: root, controllers: vec!["hugetlb".into()] }], v2: None },
                _ => Hierarchies { v1: Vec::new(), v2: Some(root) },
            };
            // None of what the kernel does not have is missing nothing.
            assert!(apply(&hierarchies.group("pod"), &resources).is_empty());
            assert_eq!(fs::read_to_string(group.join(file))?, (4 << 20).to_string());
            fs::write(group.join(file.replace("2MB", "1GB")), "max")?;
            assert!(apply(&hierarchies.group("pod"), &resources).is_empty());
            assert_eq!(fs::read_to_string(group.join(file.replace("2MB", "1GB")))?, "0");
            // A group without the controller says what could not be set.
            let missing = apply(&hierarchies.group("absent"), &resources);
            assert_eq!(missing, [file], "version {version}");
        }
        Ok(())
    }

    #[test]
    fn shares_map_to_weights_at_both_ends() {
        assert_eq!(weight(0), 1);
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(262_144), 10_000);
    }
}
