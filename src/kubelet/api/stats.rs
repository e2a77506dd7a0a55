//! `/stats/summary` and the metrics: what the node, its pods and their containers use.

use crate::disk::{self, Taken};
use crate::pod::start::identity;
use crate::pods::Pods;
use crate::shared::Shared;
use crate::usage::{self, PodUsage, Usage};
use crate::volumes;
use jiff::Timestamp;
use naru_base::metrics::Text;
use naru_runtime::{ContainerState, DiskStats};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

fn time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

fn cpu(usage: &Usage) -> Value {
    let mut out = json!({"time": time(usage.at), "usageCoreNanoSeconds": usage.stats.cpu_usage_ns});
    if let Some(rate) = usage.nano_cores {
        out["usageNanoCores"] = rate.into();
    }
    out
}

fn memory(usage: &Usage) -> Value {
    json!({
        "time": time(usage.at),
        "usageBytes": usage.stats.memory_usage_bytes,
        "workingSetBytes": usage.stats.memory_working_set_bytes,
        "rssBytes": usage.stats.memory_rss_bytes,
    })
}

/// What a part of a file system takes, beside what the whole has.
fn part(path: &Path, taken: Taken, at: Timestamp) -> Value {
    let mut out = file_system(path, at);
    if out.is_object() {
        out["usedBytes"] = taken.bytes.into();
        out["inodesUsed"] = taken.inodes.into();
    }
    out
}

fn file_system(path: &Path, at: Timestamp) -> Value {
    let Ok(fs) = rustix::fs::statvfs(path) else { return Value::Null };
    json!({
        "time": time(at),
        "availableBytes": fs.f_bavail * fs.f_frsize,
        "capacityBytes": fs.f_blocks * fs.f_frsize,
        "usedBytes": (fs.f_blocks - fs.f_bfree) * fs.f_frsize,
        "inodesFree": fs.f_ffree,
        "inodes": fs.f_files,
        "inodesUsed": fs.f_files.saturating_sub(fs.f_ffree),
    })
}

fn network(traffic: &[(String, usage::Traffic)], at: Timestamp) -> Value {
    let row = |(name, t): &(String, usage::Traffic)| json!({"name": name, "rxBytes": t.received, "rxErrors": t.receive_errors, "txBytes": t.sent, "txErrors": t.send_errors});
    let interfaces: Vec<Value> = traffic.iter().map(row).collect();
    let first = traffic.iter().position(|(name, _)| name == "eth0").unwrap_or(0);
    let mut out = interfaces.get(first).cloned().unwrap_or_else(|| json!({"name": ""}));
    out["time"] = time(at).into();
    out["interfaces"] = interfaces.into();
    out
}

fn pod(shared: &Shared, pod: &PodUsage) -> Value {
    let data = &shared.config.data_dir;
    let now = Timestamp::now();
    let mut on_disk = Taken::default();
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|c| {
            let written = shared.config.images.written(&c.id).map(|path| disk::taken(&path)).unwrap_or_default();
            let logs = disk::taken(&pod.logs.join(&c.name));
            on_disk = on_disk + written + logs;
            let mut out = json!({"name": c.name, "cpu": cpu(&c.usage), "memory": memory(&c.usage)});
            out["startTime"] = c.started_at.map(time).into();
            out["rootfs"] = part(data, written, now);
            out["logs"] = part(data, logs, now);
            if let Some(limit) = c.memory_limit.and_then(|limit| u64::try_from(limit).ok()) {
                let left = limit.saturating_sub(c.usage.stats.memory_working_set_bytes);
                out["memory"]["availableBytes"] = left.into();
            }
            out
        })
        .collect();
    let volumes: Vec<Value> = pod
        .volumes
        .iter()
        .map(|(name, path, is_on_disk)| {
            let taken = disk::taken(path);
            if *is_on_disk {
                on_disk = on_disk + taken;
            }
            let mut out = part(path, taken, now);
            out["name"] = name.as_str().into();
            out
        })
        .collect();
    let sum = usage::sum(pod.containers.iter().map(|c| c.usage)).unwrap_or_default();
    json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": pod.started_at.map(time),
        "containers": containers,
        "cpu": cpu(&sum),
        "memory": memory(&sum),
        "network": network(&pod.traffic, sum.at),
        "process_stats": {"process_count": sum.stats.pids},
        "volume": volumes,
        "ephemeral-storage": part(data, on_disk, now),
    })
}

/// `/stats/summary`. Looks at the files of all pods.
pub(super) fn summary(pods: &Pods) -> Value {
    let shared = pods.shared();
    let node = shared.usage.node();
    let mut node_memory = memory(&node);
    let left = shared.node_memory.saturating_sub(node.stats.memory_working_set_bytes);
    node_memory["availableBytes"] = left.into();
    let fs = file_system(&shared.config.data_dir, node.at);
    json!({
        "node": {
            "nodeName": shared.config.node_name,
            "cpu": cpu(&node),
            "memory": node_memory,
            "network": network(&usage::traffic(std::process::id()), node.at),
            "fs": fs,
            "runtime": {"imageFs": fs, "containerFs": fs},
        },
        "pods": usage::pods(pods).iter().map(|one| pod(shared, one)).collect::<Vec<_>>(),
    })
}

/// Text in the exposition format.
#[derive(Debug, Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64, at: Option<Timestamp>) {
        let _ = write!(self.0, "{name}");
        for (index, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{value}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = write!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
        match at {
            Some(at) => writeln!(self.0, " {}", at.as_millisecond()),
            None => writeln!(self.0),
        }
        .unwrap_or_default();
    }
}

fn seconds(usage: &Usage) -> f64 {
    usage.stats.cpu_usage_ns as f64 / 1e9
}

fn working_set(usage: &Usage) -> f64 {
    usage.stats.memory_working_set_bytes as f64
}

/// `/metrics/resource`: what autoscalers and `kubectl top` are made from.
pub(super) fn resource(pods: &Pods) -> String {
    let mut out = Exposition::default();
    let all = usage::pods(pods);
    let node = pods.shared().usage.node();
    type Value = fn(&Usage) -> f64;
    let measures: [(&str, &str, &str, Value); 2] = [
        ("cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed in core-seconds", seconds),
        ("memory_working_set_bytes", "gauge", "[STABLE] Current working set in bytes", working_set),
    ];
    for (suffix, kind, help, value) in measures {
        let name = format!("container_{suffix}");
        out.family(&name, kind, help);
        for pod in &all {
            for c in &pod.containers {
                let labels = [("container", &*c.name), ("namespace", &pod.namespace), ("pod", &pod.name)];
                out.sample(&name, &labels, value(&c.usage), Some(c.usage.at));
            }
        }
        let name = format!("pod_{suffix}");
        out.family(&name, kind, help);
        for pod in &all {
            if let Some(sum) = usage::sum(pod.containers.iter().map(|c| c.usage)) {
                let labels = [("namespace", &*pod.namespace), ("pod", &pod.name)];
                out.sample(&name, &labels, value(&sum), Some(sum.at));
            }
        }
        let name = format!("node_{suffix}");
        out.family(&name, kind, help);
        out.sample(&name, &[], value(&node), Some(node.at));
    }
    let name = "container_start_time_seconds";
    out.family(name, "gauge", "[STABLE] Start time of the container since unix epoch in seconds");
    for pod in &all {
        for c in &pod.containers {
            let labels = [("container", &*c.name), ("namespace", &pod.namespace), ("pod", &pod.name)];
            out.sample(name, &labels, c.started_at.map_or(0.0, |t| t.as_millisecond() as f64 / 1e3), None);
        }
    }
    out.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample("resource_scrape_error", &[], 0.0, None);
    out.0
}

/// `/metrics/cadvisor`: containers under the names that dashboards know.
pub(super) fn cadvisor(pods: &Pods) -> String {
    let mut out = Exposition::default();
    let all = usage::pods(pods);
    type Value = fn(&usage::Consumer) -> f64;
    let measures: [(&str, &str, &str, Value); 11] = [
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |c| {
            seconds(&c.usage)
        }),
        ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory.", |c| {
            c.usage.stats.memory_usage_bytes as f64
        }),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |c| working_set(&c.usage)),
        ("container_memory_rss", "gauge", "Size of RSS in bytes.", |c| c.usage.stats.memory_rss_bytes as f64),
        ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |c| {
            c.usage.stats.memory_cache_bytes as f64
        }),
        ("container_memory_swap", "gauge", "Container swap usage in bytes.", |c| {
            c.usage.stats.memory_swap_bytes as f64
        }),
        ("container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", |c| {
            c.usage.stats.cpu_periods as f64
        }),
        ("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", |c| {
            c.usage.stats.cpu_throttled_periods as f64
        }),
        (
            "container_cpu_cfs_throttled_seconds_total",
            "counter",
            "Total time duration the container has been throttled.",
            |c| c.usage.stats.cpu_throttled_ns as f64 / 1e9,
        ),
        ("container_processes", "gauge", "Number of processes running inside the container.", |c| {
            c.usage.stats.pids as f64
        }),
        ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |c| {
            c.memory_limit.unwrap_or(0) as f64
        }),
    ];
    for (name, kind, help, value) in measures {
        out.family(name, kind, help);
        for pod in &all {
            for c in &pod.containers {
                let mut labels = vec![("container", &*c.name), ("id", &*c.id), ("image", &*c.image), ("name", &*c.id)];
                labels.extend([("namespace", &*pod.namespace), ("pod", &*pod.name)]);
                if name == "container_cpu_usage_seconds_total" {
                    labels.insert(1, ("cpu", "total"));
                }
                out.sample(name, &labels, value(c), Some(c.usage.at));
            }
        }
    }
    disks(pods, &all, &mut out);
    type Count = fn(&usage::Traffic) -> u64;
    let traffic: [(&str, &str, Count); 8] = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", |t| t.received),
        ("container_network_receive_packets_total", "Cumulative count of packets received", |t| t.received_packets),
        ("container_network_receive_errors_total", "Cumulative count of errors while receiving", |t| t.receive_errors),
        ("container_network_receive_packets_dropped_total", "Packets dropped while receiving", |t| t.receive_drops),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |t| t.sent),
        ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |t| t.sent_packets),
        ("container_network_transmit_errors_total", "Cumulative count of errors while transmitting", |t| t.send_errors),
        ("container_network_transmit_packets_dropped_total", "Packets dropped while transmitting", |t| t.send_drops),
    ];
    for (name, help, value) in traffic {
        out.family(name, "counter", help);
        for pod in &all {
            for (interface, t) in &pod.traffic {
                let labels = [("interface", &**interface), ("namespace", &pod.namespace), ("pod", &pod.name)];
                out.sample(name, &labels, value(t) as f64, None);
            }
        }
    }
    out.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    out.sample("machine_memory_bytes", &[], pods.shared().node_memory as f64, None);
    out.0
}

/// What containers have read and written, by device.
fn disks(pods: &Pods, all: &[PodUsage], out: &mut Exposition) {
    let runtime = &pods.shared().config.runtime;
    let of = |pod: &PodUsage| -> Vec<_> { pod.containers.iter().map(|c| runtime.disk_stats(&c.id)).collect() };
    let found: Vec<_> = all.iter().map(of).collect();
    type Value = fn(&DiskStats) -> u64;
    let measures: [(&str, &str, Value); 4] = [
        ("container_fs_reads_total", "Cumulative count of reads completed", |d| d.reads),
        ("container_fs_reads_bytes_total", "Cumulative count of bytes read", |d| d.read_bytes),
        ("container_fs_writes_total", "Cumulative count of writes completed", |d| d.writes),
        ("container_fs_writes_bytes_total", "Cumulative count of bytes written", |d| d.written_bytes),
    ];
    for (name, help, value) in measures {
        out.family(name, "counter", help);
        for (pod, containers) in all.iter().zip(&found) {
            for (c, disks) in pod.containers.iter().zip(containers) {
                for disk in disks {
                    let labels = [
                        ("container", &*c.name),
                        ("device", &disk.device),
                        ("id", &c.id),
                        ("image", &c.image),
                        ("name", &c.id),
                        ("namespace", &pod.namespace),
                        ("pod", &pod.name),
                    ];
                    out.sample(name, &labels, value(disk) as f64, None);
                }
            }
        }
    }
}

/// Counts of probes' results, by pod, container, kind and result.
#[derive(Debug, Default)]
pub(crate) struct ProbeCounts(std::sync::Mutex<BTreeMap<[String; 6], u64>>);

impl ProbeCounts {
    /// Counts one: container, namespace, pod, uid, kind, result.
    pub(crate) fn count(&self, labels: [String; 6]) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).entry(labels).or_default() += 1;
    }

    /// A pod has gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).retain(|labels, _| labels[3] != uid);
    }

    /// `/metrics/probes`.
    pub(super) fn render(&self) -> String {
        let mut out = Exposition::default();
        out.family(
            "prober_probe_total",
            "counter",
            "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
        );
        let names = ["container", "namespace", "pod", "pod_uid", "probe_type", "result"];
        for (labels, count) in &*self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            let pairs: Vec<(&str, &str)> = names.iter().copied().zip(labels.iter().map(String::as_str)).collect();
            out.sample("prober_probe_total", &pairs, *count as f64, None);
        }
        out.0
    }
}

/// `/metrics`: the agent itself.
pub(super) fn own(pods: &Pods) -> String {
    let mut out = Text::default();
    let shared = pods.shared();
    let sandboxes = shared.config.runtime.sandboxes();
    let name = "kubelet_node_name";
    out.family(name, "gauge", "[ALPHA] The node's name. The count is always 1.");
    out.sample(name, &[("node", &shared.config.node_name)], 1);
    let help = "[BETA] Number of pods that have a running pod sandbox";
    out.single("kubelet_running_pods", "gauge", help, sandboxes.iter().filter(|s| !s.lost).count());
    let mut states = [("created", 0), ("exited", 0), ("running", 0)];
    for container in sandboxes.iter().flat_map(|s| &s.containers) {
        states[match container.state {
            ContainerState::Created => 0,
            ContainerState::Exited(_) => 1,
            ContainerState::Running => 2,
        }]
        .1 += 1;
    }
    let name = "kubelet_running_containers";
    out.family(name, "gauge", "[BETA] Number of containers currently running");
    for (state, count) in states {
        out.sample(name, &[("container_state", state)], count);
    }
    total_volumes(pods, &mut out);
    shared.metrics.render(&mut out);
    for source in &shared.config.metrics {
        source.render(&mut out);
    }
    out.into_string()
}

/// How many volumes the pods of this node want, and how many of them are there.
fn total_volumes(pods: &Pods, out: &mut Text) {
    let mut counts: BTreeMap<(&'static str, &'static str), u64> = BTreeMap::new();
    for pod in pods.list() {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let wanted = !matches!(phase, Some("Succeeded" | "Failed"));
        let (namespace, name, _) = identity(&pod);
        let there = pods.find(&namespace, &name).is_some_and(|(_, visible)| visible.volumes_ready);
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let plugin = volumes::plugin_name(volume);
            *counts.entry((plugin, "actual_state_of_world")).or_default() += u64::from(there);
            *counts.entry((plugin, "desired_state_of_world")).or_default() += u64::from(wanted);
        }
    }
    let name = "volume_manager_total_volumes";
    out.family(name, "gauge", "[ALPHA] Number of volumes in Volume Manager");
    for ((plugin, state), count) in counts {
        out.sample(name, &[("plugin_name", plugin), ("state", state)], count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped_and_probes_forgotten_with_their_pod() {
        let counts = ProbeCounts::default();
        let labels = |uid: &str| ["c", "n", "p\"q", uid, "Liveness", "successful"].map(str::to_owned);
        counts.count(labels("u"));
        counts.count(labels("u"));
        counts.count(labels("v"));
        counts.forget("v");
        let text = counts.render();
        assert!(text.ends_with(
            "prober_probe_total{container=\"c\",namespace=\"n\",pod=\"p\\\"q\",pod_uid=\"u\",probe_type=\"Liveness\",result=\"successful\"} 2\n"
        ), "{text}");
    }
}
