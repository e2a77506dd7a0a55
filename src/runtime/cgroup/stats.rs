//! Reads what a group has used.

use super::Cgroup;
use crate::spec::{DiskStats, Stats};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub(super) fn read(group: &Cgroup) -> Stats {
    let v2 = group.v2();
    let memory = match group.v1("memory") {
        Some(directory) => memory(&directory, &MEMORY_V1),
        None => v2.as_deref().map(|d| memory(d, &MEMORY_V2)).unwrap_or_default(),
    };
    let cpu_usage_ns = match group.v1("cpuacct") {
        Some(directory) => number(&directory.join("cpuacct.usage")).unwrap_or_default(),
        None => v2.as_deref().and_then(|d| field(&d.join("cpu.stat"), "usage_usec")).unwrap_or_default() * 1000,
    };
    let (cpu, throttled, unit) = match group.v1("cpu") {
        Some(directory) => (Some(directory), "throttled_time", 1),
        None => (v2.clone(), "throttled_usec", 1000),
    };
    let cpu = |name: &str| cpu.as_deref().and_then(|d| field(&d.join("cpu.stat"), name)).unwrap_or_default();
    let pids = group.v1("pids").or(v2).and_then(|d| number(&d.join("pids.current"))).unwrap_or_default();
    Stats {
        cpu_usage_ns,
        pids,
        cpu_periods: cpu("nr_periods"),
        cpu_throttled_periods: cpu("nr_throttled"),
        cpu_throttled_ns: cpu(throttled) * unit,
        ..memory
    }
}

/// How a version calls what it counts: the file of all usage, then fields of `memory.stat`.
struct Names {
    usage: &'static str,
    inactive: &'static str,
    anonymous: &'static str,
    cache: &'static str,
    /// A file on version 2.
    swap: &'static str,
}

const MEMORY_V1: Names = Names {
    usage: "memory.usage_in_bytes",
    inactive: "total_inactive_file",
    anonymous: "total_rss",
    cache: "total_cache",
    swap: "total_swap",
};
const MEMORY_V2: Names = Names {
    usage: "memory.current",
    inactive: "inactive_file",
    anonymous: "anon",
    cache: "file",
    swap: "memory.swap.current",
};

fn memory(directory: &Path, names: &Names) -> Stats {
    let usage = number(&directory.join(names.usage)).unwrap_or_default();
    let stat = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
    let of = |name: &str| line_of(&stat, name).unwrap_or_default();
    Stats {
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(of(names.inactive)),
        memory_rss_bytes: of(names.anonymous),
        memory_cache_bytes: of(names.cache),
        memory_swap_bytes: line_of(&stat, names.swap)
            .or_else(|| number(&directory.join(names.swap)))
            .unwrap_or_default(),
        ..Stats::default()
    }
}

/// What the group and those below have read and written, by device.
pub(super) fn disks(group: &Cgroup) -> Vec<DiskStats> {
    let read = |directory: &Path, file: &str| fs::read_to_string(directory.join(file)).unwrap_or_default();
    let found = match (group.v1("blkio"), group.v2()) {
        (Some(directory), _) => disks_v1(
            &read(&directory, "blkio.throttle.io_service_bytes_recursive"),
            &read(&directory, "blkio.throttle.io_serviced_recursive"),
        ),
        (None, Some(directory)) => disks_v2(&read(&directory, "io.stat")),
        (None, None) => BTreeMap::new(),
    };
    let name = |number: &str| {
        let about = fs::read_to_string(format!("/sys/dev/block/{number}/uevent")).unwrap_or_default();
        about.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(|name| format!("/dev/{name}"))
    };
    let named = |(number, disk): (String, DiskStats)| DiskStats { device: name(&number).unwrap_or(number), ..disk };
    found.into_iter().map(named).collect()
}

/// Lines such as `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn disks_v2(text: &str) -> BTreeMap<String, DiskStats> {
    let mut out = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(device) = words.next() else { continue };
        let disk: &mut DiskStats = out.entry(device.to_owned()).or_default();
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match name {
                "rbytes" => disk.read_bytes = value,
                "wbytes" => disk.written_bytes = value,
                "rios" => disk.reads = value,
                "wios" => disk.writes = value,
                _ => {}
            }
        }
    }
    out
}

/// Lines such as `8:0 Read 1`, of bytes and of operations.
fn disks_v1(bytes: &str, operations: &str) -> BTreeMap<String, DiskStats> {
    let mut out: BTreeMap<String, DiskStats> = BTreeMap::new();
    for (text, in_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [device, what, value] = words[..] else { continue };
            let Ok(value) = value.parse() else { continue };
            let disk = out.entry(device.to_owned()).or_default();
            match (what, in_bytes) {
                ("Read", true) => disk.read_bytes = value,
                ("Write", true) => disk.written_bytes = value,
                ("Read", false) => disk.reads = value,
                ("Write", false) => disk.writes = value,
                _ => {}
            }
        }
    }
    out
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
    line_of(&fs::read_to_string(path).ok()?, name)
}

fn line_of(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tell_the_same_of_disks() {
        let v1 = disks_v1("8:0 Read 1\n8:0 Write 2\n8:0 Sync 9\nTotal 3\n", "8:0 Read 3\n8:0 Write 4\n8:0 Total 7\n");
        let v2 = disks_v2("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        let disk = DiskStats { device: String::new(), read_bytes: 1, written_bytes: 2, reads: 3, writes: 4 };
        assert_eq!(v1, BTreeMap::from([("8:0".to_owned(), disk)]));
        assert_eq!(v1, v2);
    }
}
