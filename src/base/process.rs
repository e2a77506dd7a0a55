//! What the kernel says of this process, under the names of Prometheus's own clients.

use crate::metrics::{Source, Text};
use std::fs;

/// Clock ticks in a second, as /proc tells times on every architecture.
const TICKS: f64 = 100.0;

/// This process.
#[derive(Debug, Clone, Copy)]
pub struct Process;

impl Source for Process {
    fn render(&self, out: &mut Text) {
        render(out);
    }
}

/// Writes the metrics; what cannot be read is left out.
fn render(out: &mut Text) {
    if let Some((cpu, started)) = times() {
        out.single("process_cpu_seconds_total", "counter", "Processor time used, in seconds.", cpu);
        out.single("process_start_time_seconds", "gauge", "When the process started, as Unix time.", started);
    }
    // Dashboards read how much is under way by this name, whatever a component is written in.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        out.single("go_goroutines", "gauge", "Tasks that are under way.", runtime.metrics().num_alive_tasks());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    if let (Some(resident), Some(whole)) = (kib("VmRSS:"), kib("VmSize:")) {
        out.single("process_resident_memory_bytes", "gauge", "Resident memory in bytes.", resident * 1024);
        out.single("process_virtual_memory_bytes", "gauge", "Virtual memory in bytes.", whole * 1024);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        out.single("process_open_fds", "gauge", "Open file descriptors.", files.count());
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let most = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    if let Some(most) = most.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()) {
        out.single("process_max_fds", "gauge", "File descriptors that may be open.", most);
    }
}

/// Processor seconds, and the time of the start.
fn times() -> Option<(f64, f64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name in parentheses, which may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    let kernel = fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = kernel.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(((ticks(14)? + ticks(15)?) / TICKS, booted + ticks(22)? / TICKS))
}
