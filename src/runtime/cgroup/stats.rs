//! Reads what a group has used.

use super::Cgroup;
use crate::spec::Stats;
use std::fs;
use std::path::Path;

pub(super) fn read(group: &Cgroup) -> Stats {
    let v2 = group.v2();
    let memory = match group.v1("memory") {
        Some(directory) => memory(&directory, "memory.usage_in_bytes", "total_inactive_file", "total_rss"),
        None => v2.as_deref().map(|d| memory(d, "memory.current", "inactive_file", "anon")).unwrap_or_default(),
    };
    let cpu_usage_ns = match group.v1("cpuacct") {
        Some(directory) => number(&directory.join("cpuacct.usage")).unwrap_or_default(),
        None => v2.as_deref().and_then(|d| field(&d.join("cpu.stat"), "usage_usec")).unwrap_or_default() * 1000,
    };
    let pids = group.v1("pids").or(v2).and_then(|d| number(&d.join("pids.current"))).unwrap_or_default();
    Stats { cpu_usage_ns, pids, ..memory }
}

fn memory(directory: &Path, usage: &str, inactive: &str, anonymous: &str) -> Stats {
    let usage = number(&directory.join(usage)).unwrap_or_default();
    let stat = directory.join("memory.stat");
    Stats {
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(field(&stat, inactive).unwrap_or_default()),
        memory_rss_bytes: field(&stat, anonymous).unwrap_or_default(),
        ..Stats::default()
    }
}

pub(super) fn oom_kills(group: &Cgroup) -> u64 {
    let (directory, file) = match group.v1("memory") {
        Some(directory) => (Some(directory), "memory.oom_control"),
        None => (group.v2(), "memory.events"),
    };
    directory.and_then(|d| field(&d.join(file), "oom_kill")).unwrap_or_default()
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
