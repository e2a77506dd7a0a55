//! What containers, pods and the node use: looked at every few seconds, so that rates can be told.

use crate::pods::Pods;
use crate::shared::Shared;
use jiff::Timestamp;
use naru_base::{Shutdown, spawn};
use naru_runtime::{ContainerState, Stats};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two looks; upstream's housekeeping takes as long.
const INTERVAL: Duration = Duration::from_secs(10);
/// The kernel's unit of processor time in /proc/stat.
const NS_PER_TICK: u64 = 10_000_000;

/// What something used at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// When it was looked at.
    pub(crate) at: Timestamp,
    /// The counters.
    pub(crate) stats: Stats,
    /// Billionths of a processor since the look before; `None` after the first.
    pub(crate) nano_cores: Option<u64>,
}

impl Usage {
    fn after(before: Option<&Self>, stats: Stats, at: Timestamp) -> Self {
        let rate = |before: &Self| {
            let elapsed = at.duration_since(before.at).as_nanos();
            let used = i128::from(stats.cpu_usage_ns.checked_sub(before.stats.cpu_usage_ns)?);
            u64::try_from(used * 1_000_000_000 / elapsed.max(1)).ok()
        };
        Self { at, stats, nano_cores: before.and_then(rate) }
    }
}

#[derive(Debug, Default)]
struct Table {
    node: Usage,
    /// By container id.
    containers: HashMap<String, Usage>,
}

/// The last look at everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct UsageTable(Arc<Mutex<Table>>);

impl UsageTable {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One container's.
    pub(crate) fn container(&self, id: &str) -> Option<Usage> {
        self.table().containers.get(id).copied()
    }

    /// The whole machine's.
    pub(crate) fn node(&self) -> Usage {
        self.table().node
    }

    /// Keeps looking until shutdown; containers that have ended are forgotten.
    pub(crate) fn start(&self, shared: Arc<Shared>, shutdown: &Shutdown) {
        let (this, shutdown) = (self.clone(), shutdown.clone());
        spawn("usage", async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while shutdown.guard(ticks.tick()).await.is_some() {
                this.look(&shared).await;
            }
        });
    }

    async fn look(&self, shared: &Shared) {
        let runtime = &shared.config.runtime;
        let running: Vec<String> = runtime
            .sandboxes()
            .iter()
            .flat_map(|s| &s.containers)
            .filter(|c| c.state == ContainerState::Running)
            .map(|c| c.id.clone())
            .collect();
        let mut found = HashMap::new();
        for id in running {
            if let Ok(stats) = runtime.stats(&id).await {
                let usage = Usage::after(self.table().containers.get(&id), stats, Timestamp::now());
                found.insert(id, usage);
            }
        }
        let node = node_stats();
        let mut table = self.table();
        table.containers = found;
        table.node = Usage::after(Some(&table.node).filter(|n| n.at != Timestamp::default()), node, Timestamp::now());
    }
}

/// The whole machine's counters.
fn node_stats() -> Stats {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let total = kib("MemTotal");
    Stats {
        cpu_usage_ns: busy_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default()) * NS_PER_TICK,
        memory_usage_bytes: total.saturating_sub(kib("MemFree")),
        memory_working_set_bytes: total.saturating_sub(kib("MemAvailable")),
        memory_rss_bytes: kib("AnonPages"),
        ..Stats::default()
    }
}

/// Ticks of all processors but those spent idle or waiting for disks.
fn busy_ticks(stat: &str) -> u64 {
    let numbers = stat.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1);
    // user nice system idle iowait irq softirq steal; guests are in user already.
    numbers
        .take(8)
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .filter_map(|(_, text)| text.parse::<u64>().ok())
        .sum()
}

/// Bytes that an interface has received and sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) received_packets: u64,
    pub(crate) receive_errors: u64,
    pub(crate) receive_drops: u64,
    pub(crate) sent: u64,
    pub(crate) sent_packets: u64,
    pub(crate) send_errors: u64,
    pub(crate) send_drops: u64,
}

/// The interfaces of a process's network, loopback left out.
pub(crate) fn traffic(pid: u32) -> Vec<(String, Traffic)> {
    parse_traffic(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

fn parse_traffic(text: &str) -> Vec<(String, Traffic)> {
    let row = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
        let at = |index: usize| numbers.get(index).copied();
        let traffic = Traffic {
            received: at(0)?,
            received_packets: at(1)?,
            receive_errors: at(2)?,
            receive_drops: at(3)?,
            sent: at(8)?,
            sent_packets: at(9)?,
            send_errors: at(10)?,
            send_drops: at(11)?,
        };
        Some((name.trim().to_owned(), traffic)).filter(|(name, _)| name != "lo")
    };
    text.lines().filter_map(row).collect()
}

/// Memory of all a pod's containers and so on: the sum over their last looks.
pub(crate) fn sum(usages: impl Iterator<Item = Usage>) -> Option<Usage> {
    usages.reduce(|a, b| Usage {
        at: a.at.max(b.at),
        stats: Stats {
            cpu_usage_ns: a.stats.cpu_usage_ns + b.stats.cpu_usage_ns,
            memory_usage_bytes: a.stats.memory_usage_bytes + b.stats.memory_usage_bytes,
            memory_working_set_bytes: a.stats.memory_working_set_bytes + b.stats.memory_working_set_bytes,
            memory_rss_bytes: a.stats.memory_rss_bytes + b.stats.memory_rss_bytes,
            memory_cache_bytes: a.stats.memory_cache_bytes + b.stats.memory_cache_bytes,
            memory_swap_bytes: a.stats.memory_swap_bytes + b.stats.memory_swap_bytes,
            pids: a.stats.pids + b.stats.pids,
            ..Stats::default()
        },
        nano_cores: a.nano_cores.zip(b.nano_cores).map(|(a, b)| a + b).or(a.nano_cores).or(b.nano_cores),
    })
}

/// A running container with what it uses.
#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) image: String,
    pub(crate) memory_limit: Option<i64>,
    pub(crate) usage: Usage,
}

/// A pod with its running containers.
#[derive(Debug, Clone)]
pub(crate) struct PodUsage {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) containers: Vec<Consumer>,
    pub(crate) traffic: Vec<(String, Traffic)>,
    /// Volumes of its own, by name; whether they are on the disk.
    pub(crate) volumes: Vec<(String, PathBuf, bool)>,
    /// Where the logs of its containers are.
    pub(crate) logs: PathBuf,
}

/// All pods of the node that run something.
pub(crate) fn pods(pods: &Pods) -> Vec<PodUsage> {
    let shared = pods.shared();
    let sandboxes = shared.config.runtime.sandboxes();
    let mut out = Vec::new();
    for pod in pods.list() {
        let (namespace, name, uid) = crate::pod::start::identity(&pod);
        let Some((_, visible)) = pods.find(&namespace, &name) else { continue };
        let limit = |container: &str| {
            let found = crate::pod::plan::containers(&pod).find(|(c, _)| c.name == container)?.0;
            let limits = found.resources.as_ref()?.limits.as_ref()?;
            limits.get("memory").map(crate::pod::resources::units)
        };
        let containers: Vec<Consumer> = visible
            .runs
            .iter()
            .filter(|(_, run)| run.running)
            .filter_map(|(name, run)| {
                let info = shared.config.runtime.container(&run.id)?;
                Some(Consumer {
                    name: name.clone(),
                    id: run.id.clone(),
                    started_at: info.started_at_ns.map(crate::pod::slot::timestamp),
                    image: info.labels.get(crate::pod::slot::labels::IMAGE).cloned().unwrap_or_default(),
                    memory_limit: limit(name),
                    usage: shared.usage.container(&run.id)?,
                })
            })
            .collect();
        if containers.is_empty() {
            continue;
        }
        let pod_dir = shared.config.pod_dir(&uid);
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|volume| {
            let path = crate::volumes::path(&pod_dir, volume).filter(|path| path.starts_with(&pod_dir))?;
            let on_disk = volume.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref().is_none_or(str::is_empty));
            Some((volume.name.clone(), path, on_disk))
        });
        let own_network = pod.spec.as_ref().is_none_or(|s| s.host_network != Some(true));
        let sandbox = sandboxes.iter().find(|s| Some(&s.id) == visible.sandbox.as_ref()).filter(|_| own_network);
        out.push(PodUsage {
            volumes: volumes.collect(),
            logs: shared.config.pod_logs(&namespace, &name, &uid),
            namespace,
            name,
            uid,
            started_at: pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0),
            containers,
            traffic: sandbox.map(|s| traffic(s.pid)).unwrap_or_default(),
        });
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_two_looks() {
        let at = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).unwrap();
        let used = |ns| Stats { cpu_usage_ns: ns, ..Stats::default() };
        let first = Usage::after(None, used(1_000_000_000), at(0));
        assert_eq!(first.nano_cores, None);
        let second = Usage::after(Some(&first), used(6_000_000_000), at(10));
        assert_eq!(second.nano_cores, Some(500_000_000));
        // A counter that went back belongs to something else.
        assert_eq!(Usage::after(Some(&second), used(0), at(20)).nano_cores, None);
    }

    #[test]
    fn kernel_tables_are_read() {
        assert_eq!(busy_ticks("cpu  10 20 30 400 50 6 7 8 9 9\ncpu0 1 1 1 1\n"), 81);
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 40 5 6 7 0 0 0 0\n";
        let eth0 = Traffic {
            received: 10,
            received_packets: 2,
            receive_errors: 3,
            receive_drops: 4,
            sent: 40,
            sent_packets: 5,
            send_errors: 6,
            send_drops: 7,
        };
        assert_eq!(parse_traffic(text), [("eth0".to_owned(), eth0)]);
    }
}
