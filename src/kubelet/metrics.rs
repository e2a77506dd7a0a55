//! What the kubelet counts of its own work, under upstream's names. Labels come from closed sets: nothing is kept of
//! a pod that is gone, and a series that is there costs no memory when it is counted again.

use crate::engine::ContainerRuntime;
use async_trait::async_trait;
use naru_base::metrics::{Histogram, Text};
use naru_runtime::{
    ContainerInfo, ContainerSpec, DiskStats, Event, ExecSession, ExecSpec, ProbeResult, Resources,
    Result as RuntimeResult, SandboxInfo, SandboxSpec, Stats,
};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio::time::Instant;

const DEFAULT: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// From 5 ms, each two and a half times the one before.
const RUNTIME: &[f64] = &[
    0.005,
    0.0125,
    0.031_25,
    0.078_125,
    0.195_312_5,
    0.488_281_25,
    1.220_703_125,
    3.051_757_812_5,
    7.629_394_531_25,
    19.073_486_328_125,
    47.683_715_820_312_5,
    119.209_289_550_781_25,
    298.023_223_876_953_1,
    745.058_059_692_382_8,
];
const STARTS: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0,
    600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
const STORAGE: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];

/// Numbers by the values of `N` labels.
#[derive(Debug)]
struct Series<V, const N: usize>(Mutex<BTreeMap<[&'static str; N], V>>);

impl<V, const N: usize> Default for Series<V, N> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<V, const N: usize> Series<V, N> {
    fn all(&self) -> MutexGuard<'_, BTreeMap<[&'static str; N], V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const N: usize> Series<u64, N> {
    fn count(&self, labels: [&'static str; N]) {
        *self.all().entry(labels).or_default() += 1;
    }

    fn render(&self, out: &mut Text, name: &str, help: &str, labels: [&str; N]) {
        out.family(name, "counter", help);
        for (values, count) in &*self.all() {
            out.sample(name, &pairs(labels, values), count);
        }
    }
}

impl<const N: usize> Series<Histogram, N> {
    fn observe(&self, bounds: &'static [f64], labels: [&'static str; N], took: Duration) {
        self.all().entry(labels).or_insert_with(|| Histogram::new(bounds)).observe(took);
    }

    fn render(&self, out: &mut Text, name: &str, help: &str, labels: [&str; N]) {
        out.family(name, "histogram", help);
        for (values, histogram) in &*self.all() {
            out.histogram(name, &pairs(labels, values), histogram);
        }
    }
}

fn pairs<'a, const N: usize>(labels: [&'a str; N], values: &[&'a str; N]) -> Vec<(&'a str, &'a str)> {
    labels.into_iter().zip(values.iter().copied()).collect()
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    runtime: Series<Histogram, 1>,
    runtime_errors: Series<u64, 1>,
    cgroups: Series<Histogram, 1>,
    rounds: Series<Histogram, 1>,
    starts: Series<Histogram, 0>,
    evictions: Series<u64, 1>,
    /// By operation, outcome and kind of volume.
    storage: Series<Histogram, 3>,
}

impl Metrics {
    /// A worker has looked after its pod once: `create`, `update` or `sync`.
    pub(crate) fn round(&self, operation: &'static str, took: Duration) {
        self.rounds.observe(DEFAULT, [operation], took);
    }

    /// A pod runs, so long after it was seen first.
    pub(crate) fn started(&self, after: Duration) {
        self.starts.observe(STARTS, [], after);
    }

    /// A pod is evicted, for this reason.
    pub(crate) fn evicted(&self, signal: &'static str) {
        self.evictions.count([signal]);
    }

    /// A volume of this kind was set up or taken down.
    pub(crate) fn volume(&self, operation: &'static str, done: bool, plugin: &'static str, took: Duration) {
        let status = if done { "success" } else { "fail-unknown" };
        self.storage.observe(STORAGE, [operation, status, plugin], took);
    }

    /// Something that the runtime or the image store was asked for.
    pub(crate) async fn timed<T, E>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let outcome = work.await;
        self.runtime.observe(RUNTIME, [operation], begun.elapsed());
        if outcome.is_err() {
            self.runtime_errors.count([operation]);
        }
        outcome
    }

    /// Writes everything.
    pub(crate) fn render(&self, out: &mut Text) {
        let name = "kubelet_runtime_operations_total";
        out.family(name, "counter", "[ALPHA] Cumulative number of runtime operations by operation type.");
        for ([operation], histogram) in &*self.runtime.all() {
            out.sample(name, &[("operation_type", operation)], histogram.count());
        }
        let by_type = ["operation_type"];
        let name = "kubelet_runtime_operations_errors_total";
        let help = "[ALPHA] Cumulative number of runtime operation errors by operation type.";
        self.runtime_errors.render(out, name, help, by_type);
        let name = "kubelet_runtime_operations_duration_seconds";
        let help = "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.";
        self.runtime.render(out, name, help, by_type);
        let name = "kubelet_cgroup_manager_duration_seconds";
        let help = "[ALPHA] Duration in seconds for cgroup manager operations. Broken down by method.";
        self.cgroups.render(out, name, help, by_type);
        let name = "kubelet_pod_worker_duration_seconds";
        let help = "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, \
                    or sync";
        self.rounds.render(out, name, help, by_type);
        let name = "kubelet_pod_start_duration_seconds";
        let help = "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to \
                    run";
        self.starts.render(out, name, help, []);
        let help = "[ALPHA] Cumulative number of pod evictions by eviction signal";
        self.evictions.render(out, "kubelet_evictions", help, ["eviction_signal"]);
        self.render_storage(out);
    }

    fn render_storage(&self, out: &mut Text) {
        let name = "storage_operation_duration_seconds";
        let help = "[ALPHA] Storage operation duration";
        self.storage.render(out, name, help, ["operation_name", "status", "volume_plugin"]);
        // Upstream has given this name up; dashboards read it still.
        let name = "storage_operation_errors_total";
        out.family(name, "counter", "Storage operation errors");
        for ([operation, status, plugin], histogram) in &*self.storage.all() {
            if *status != "success" {
                let labels = [("operation_name", *operation), ("volume_plugin", *plugin)];
                out.sample(name, &labels, histogram.count());
            }
        }
    }
}

/// A runtime of which is counted what it is asked for.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) runtime: Arc<dyn ContainerRuntime>,
    pub(crate) metrics: Arc<Metrics>,
}

#[async_trait]
impl ContainerRuntime for Measured {
    fn events(&self) -> broadcast::Receiver<Event> {
        self.runtime.events()
    }
    fn sandboxes(&self) -> Vec<SandboxInfo> {
        self.runtime.sandboxes()
    }
    fn container(&self, id: &str) -> Option<ContainerInfo> {
        self.runtime.container(id)
    }
    async fn create_sandbox(&self, spec: SandboxSpec) -> RuntimeResult<SandboxInfo> {
        self.metrics.timed("run_podsandbox", self.runtime.create_sandbox(spec)).await
    }
    async fn remove_sandbox(&self, id: &str) -> RuntimeResult<()> {
        self.metrics.timed("remove_podsandbox", self.runtime.remove_sandbox(id)).await
    }
    async fn create_container(&self, sandbox: &str, spec: ContainerSpec) -> RuntimeResult<ContainerInfo> {
        self.metrics.timed("create_container", self.runtime.create_container(sandbox, spec)).await
    }
    async fn start_container(&self, id: &str) -> RuntimeResult<ContainerInfo> {
        self.metrics.timed("start_container", self.runtime.start_container(id)).await
    }
    async fn signal_container(&self, id: &str, signal: i32) -> RuntimeResult<()> {
        // Not `stop_container`, which would take as long as the container does.
        self.metrics.timed("signal_container", self.runtime.signal_container(id, signal)).await
    }
    async fn remove_container(&self, id: &str) -> RuntimeResult<()> {
        self.metrics.timed("remove_container", self.runtime.remove_container(id)).await
    }
    async fn exec(&self, spec: ExecSpec) -> RuntimeResult<ExecSession> {
        self.metrics.timed("exec", self.runtime.exec(spec)).await
    }
    async fn exec_probe(&self, container: &str, args: &[String], timeout: Duration) -> RuntimeResult<ProbeResult> {
        self.metrics.timed("exec_sync", self.runtime.exec_probe(container, args, timeout)).await
    }
    async fn stats(&self, container: &str) -> RuntimeResult<Stats> {
        self.metrics.timed("container_stats", self.runtime.stats(container)).await
    }
    fn disk_stats(&self, container: &str) -> Vec<DiskStats> {
        self.runtime.disk_stats(container)
    }
    async fn cgroup_stats(&self, path: &str) -> RuntimeResult<Stats> {
        self.runtime.cgroup_stats(path).await
    }
    async fn update_resources(&self, container: &str, resources: Resources) -> RuntimeResult<()> {
        self.metrics.timed("update_container", self.runtime.update_resources(container, resources)).await
    }
    async fn apply_cgroup(&self, path: &str, resources: &Resources) -> RuntimeResult<()> {
        let begun = Instant::now();
        let outcome = self.runtime.apply_cgroup(path, resources).await;
        self.metrics.cgroups.observe(DEFAULT, ["update"], begun.elapsed());
        outcome
    }
    async fn reopen_log(&self, container: &str) -> RuntimeResult<()> {
        self.metrics.timed("reopen_container_log", self.runtime.reopen_log(container)).await
    }
    async fn attach(&self, container: &str) -> RuntimeResult<ExecSession> {
        self.metrics.timed("attach", self.runtime.attach(container)).await
    }
    async fn close_stdin(&self, container: &str) -> RuntimeResult<()> {
        self.runtime.close_stdin(container).await
    }
    async fn dial(&self, sandbox: &str, port: u16) -> RuntimeResult<TcpStream> {
        self.metrics.timed("port_forward", self.runtime.dial(sandbox, port)).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::fake::FakeRuntime;

    #[tokio::test]
    async fn what_is_asked_for_is_counted_with_its_outcome() {
        let metrics = Arc::new(Metrics::default());
        let measured = Measured { runtime: Arc::new(FakeRuntime::default()), metrics: metrics.clone() };
        assert!(measured.start_container("absent").await.is_err());
        measured.remove_sandbox("absent").await.unwrap();
        measured.apply_cgroup("kubepods", &Resources::default()).await.unwrap();
        metrics.round("create", Duration::from_millis(20));
        metrics.started(Duration::from_secs(2));
        metrics.evicted("emptydirfs.limit");
        metrics.volume("volume_mount", true, "kubernetes.io/secret", Duration::from_millis(1));
        metrics.volume("volume_mount", false, "kubernetes.io/secret", Duration::from_millis(1));
        let mut out = Text::default();
        metrics.render(&mut out);
        let text = out.into_string();
        for line in [
            "kubelet_runtime_operations_total{operation_type=\"start_container\"} 1",
            "kubelet_runtime_operations_total{operation_type=\"remove_podsandbox\"} 1",
            "kubelet_runtime_operations_errors_total{operation_type=\"start_container\"} 1",
            "kubelet_runtime_operations_duration_seconds_count{operation_type=\"remove_podsandbox\"} 1",
            "kubelet_cgroup_manager_duration_seconds_count{operation_type=\"update\"} 1",
            "kubelet_pod_worker_duration_seconds_bucket{operation_type=\"create\",le=\"0.025\"} 1",
            "kubelet_pod_start_duration_seconds_bucket{le=\"2\"} 1",
            "kubelet_evictions{eviction_signal=\"emptydirfs.limit\"} 1",
            "storage_operation_duration_seconds_count{operation_name=\"volume_mount\",status=\"success\",\
             volume_plugin=\"kubernetes.io/secret\"} 1",
            "storage_operation_errors_total{operation_name=\"volume_mount\",volume_plugin=\"kubernetes.io/secret\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("errors_total{operation_type=\"remove_podsandbox\"}"), "{text}");
    }
}
