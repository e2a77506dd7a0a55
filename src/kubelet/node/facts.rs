//! What the machine has: processors, memory, disk, identity. Read from /proc and /sys.

use crate::config::KubeletConfig;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::fs;

/// Memory that pods may not count on, as upstream's default eviction threshold.
const RESERVED_MEMORY_KIB: u64 = 100 * 1024;

/// Facts about the machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) max_pods: u32,
    pub(crate) huge_pages: BTreeMap<String, u64>,
    /// Processes and threads that the kernel allows.
    pub(crate) processes: Option<i64>,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    /// Which limits this machine's cgroups do not offer, and what to do about it.
    pub(crate) cgroup_problem: Option<String>,
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

impl Facts {
    /// Reads everything.
    pub(crate) fn read(config: &KubeletConfig) -> Self {
        let disk = rustix::fs::statvfs(&config.data_dir).map_or(0, |s| s.f_blocks * s.f_frsize);
        let machine_id = line("/etc/machine-id");
        let system_uuid = line("/sys/class/dmi/id/product_uuid");
        Self {
            cpus: count_cpus(&line("/sys/devices/system/cpu/online")).unwrap_or(1),
            memory_bytes: memory_total(&line("/proc/meminfo")),
            disk_bytes: disk,
            max_pods: config.max_pods,
            huge_pages: huge_pages(),
            processes: processes(),
            system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid },
            machine_id,
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image: os_image(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            cgroup_problem: naru_runtime::cgroup_problem(),
        }
    }

    fn common(&self) -> BTreeMap<String, Quantity> {
        let mut out = BTreeMap::from([
            ("cpu".to_owned(), Quantity(self.cpus.to_string())),
            ("pods".to_owned(), Quantity(self.max_pods.to_string())),
        ]);
        for (name, bytes) in &self.huge_pages {
            let text = if *bytes == 0 { "0".to_owned() } else { format!("{}Ki", bytes / 1024) };
            out.insert(name.clone(), Quantity(text));
        }
        out
    }

    /// What all pods together may have: processors by weight, and not the last of the processes.
    pub(crate) fn limits_of_all_pods(&self) -> naru_runtime::Resources {
        naru_runtime::Resources {
            cpu_shares: Some(1024 * self.cpus as u64),
            pids_limit: self.processes.map(|all| all / 10 * 9),
            ..Default::default()
        }
    }

    /// Everything there is.
    pub(crate) fn capacity(&self) -> BTreeMap<String, Quantity> {
        let mut out = self.common();
        out.insert("memory".into(), Quantity(format!("{}Ki", self.memory_bytes / 1024)));
        out.insert("ephemeral-storage".into(), Quantity(format!("{}Ki", self.disk_bytes / 1024)));
        out
    }

    /// What pods may have.
    pub(crate) fn allocatable(&self) -> BTreeMap<String, Quantity> {
        let mut out = self.common();
        let memory = (self.memory_bytes / 1024).saturating_sub(RESERVED_MEMORY_KIB);
        out.insert("memory".into(), Quantity(format!("{memory}Ki")));
        out.insert("ephemeral-storage".into(), Quantity((self.disk_bytes / 10 * 9).to_string()));
        out
    }
}

/// Counts `0-3,5`.
fn count_cpus(online: &str) -> Option<usize> {
    online.split(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(sum + last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1)
    })
}

fn memory_total(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    total
        .and_then(|l| l.trim().strip_suffix("kB"))
        .and_then(|n| n.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// Processes and threads that this machine can have at once.
pub(crate) fn processes() -> Option<i64> {
    let number = |name: &str| line(&format!("/proc/sys/kernel/{name}")).parse::<i64>().ok();
    Some(number("pid_max")?.min(number("threads-max")?))
}

fn huge_pages() -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(kib) =
            name.to_str().and_then(|n| n.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok())
        else {
            continue;
        };
        let pages =
            fs::read_to_string(entry.path().join("nr_hugepages")).ok().and_then(|n| n.trim().parse::<u64>().ok());
        let size = if kib % (1 << 20) == 0 {
            format!("{}Gi", kib >> 20)
        } else if kib % 1024 == 0 {
            format!("{}Mi", kib >> 10)
        } else {
            format!("{kib}Ki")
        };
        out.insert(format!("hugepages-{size}"), pages.unwrap_or(0) * kib * 1024);
    }
    out
}

fn os_image(text: &str) -> String {
    let value = |name: &str| {
        text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('=')).map(|v| v.trim_matches('"').to_owned())
    };
    value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_else(|| "Linux".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files_are_understood() {
        assert_eq!(count_cpus("0-3,5"), Some(5));
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus(""), None);
        assert_eq!(memory_total("MemTotal:        2048 kB\nMemFree: 1 kB"), 2 << 20);
        assert_eq!(
            os_image("NAME=\"X\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
    }

    #[test]
    fn pods_get_less_than_there_is() {
        let facts = Facts { cpus: 2, memory_bytes: 1 << 30, disk_bytes: 1000, max_pods: 110, ..Default::default() };
        assert_eq!(facts.capacity()["memory"].0, "1048576Ki");
        assert_eq!(facts.allocatable()["memory"].0, "946176Ki");
        assert_eq!(facts.allocatable()["ephemeral-storage"].0, "900");
        assert_eq!(facts.allocatable()["pods"].0, "110");
    }
}
