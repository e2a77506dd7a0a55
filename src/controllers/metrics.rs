//! What the controllers count, under upstream's names.

use naru_base::metrics::{Histogram, Source, Text};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Series of one family; what would be another one is not counted.
const MOST: usize = 1000;

/// A family of series that differ in the values of their labels.
#[derive(Debug)]
pub(crate) struct Family {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    /// With its bounds.
    Histogram(&'static [f64]),
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, help, labels, kind: Kind::Counter }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, help, labels, kind: Kind::Gauge }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    bounds: &'static [f64],
    help: &'static str,
) -> Family {
    Family { name, help, labels, kind: Kind::Histogram(bounds) }
}

const FROM_4_MS: &[f64] =
    &[0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384, 32.768, 65.536];
const FROM_100_MS: &[f64] = &[0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2];
const FROM_1_MS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
const FROM_1_MS_BY_4: &[f64] = &[0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096, 16.384];
const FROM_2: &[f64] =
    &[2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0];
/// What upstream's client library takes where nothing else is said.
const USUAL: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const FROM_5_MS_TO_4_MIN: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0];
const FROM_10_MS_BY_4: &[f64] = &[0.01, 0.04, 0.16, 0.64, 2.56, 10.24, 40.96, 163.84];
const FROM_1_S: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

pub(crate) static JOB_SYNCS: Family = counter(
    "job_controller_job_syncs_total",
    &["completion_mode", "result", "action"],
    "How often Jobs were looked at.",
);
pub(crate) static JOB_SYNC_TIMES: Family = Family {
    name: "job_controller_job_sync_duration_seconds",
    help: "How long looking at a Job took.",
    labels: &["completion_mode", "result", "action"],
    kind: Kind::Histogram(FROM_4_MS),
};
pub(crate) static JOBS_FINISHED: Family = counter(
    "job_controller_jobs_finished_total",
    &["completion_mode", "result", "reason"],
    "Jobs that have come to their ends.",
);
pub(crate) static JOB_PODS_FINISHED: Family = counter(
    "job_controller_job_pods_finished_total",
    &["completion_mode", "result"],
    "Pods of Jobs that have ended and are counted.",
);
pub(crate) static JOB_PODS_CREATED: Family =
    counter("job_controller_job_pods_creation_total", &["reason", "status"], "Pods made for Jobs.");
pub(crate) static CRON_JOB_SKEW: Family = Family {
    name: "cronjob_controller_job_creation_skew_duration_seconds",
    help: "From when a Job was due until it was made.",
    labels: &[],
    kind: Kind::Histogram(FROM_1_S),
};
pub(crate) static SLICE_CHANGES: Family =
    counter("endpoint_slice_controller_changes", &["operation"], "Writes of EndpointSlices.");
pub(crate) static SLICE_SYNCS: Family =
    counter("endpoint_slice_controller_syncs", &["result"], "How often Services were looked at.");
pub(crate) static SLICE_ENDPOINTS_ADDED: Family = histogram(
    "endpoint_slice_controller_endpoints_added_per_sync",
    &[],
    FROM_2,
    "Endpoints that a look at a Service has added.",
);
pub(crate) static SLICE_ENDPOINTS_REMOVED: Family = histogram(
    "endpoint_slice_controller_endpoints_removed_per_sync",
    &[],
    FROM_2,
    "Endpoints that a look at a Service has taken away.",
);
pub(crate) static SLICES_CHANGED: Family = histogram(
    "endpoint_slice_controller_endpointslices_changed_per_sync",
    &["topology", "traffic_distribution"],
    USUAL,
    "EndpointSlices that a look at a Service has changed.",
);
pub(crate) static SLICE_ENDPOINTS: Family =
    gauge("endpoint_slice_controller_endpoints_desired", &[], "Endpoints that there should be.");
pub(crate) static SLICES: Family = gauge("endpoint_slice_controller_num_endpoint_slices", &[], "EndpointSlices.");
pub(crate) static SLICES_NEEDED: Family = gauge(
    "endpoint_slice_controller_desired_endpoint_slices",
    &[],
    "EndpointSlices that there would be if all were full.",
);
pub(crate) static SERVICES_BY_WISH: Family = gauge(
    "endpoint_slice_controller_services_count_by_traffic_distribution",
    &["traffic_distribution"],
    "Services by how they want their traffic distributed.",
);
pub(crate) static MIRROR_CHANGES: Family = counter(
    "endpoint_slice_mirroring_controller_changes",
    &["operation"],
    "Writes of EndpointSlices that mirror Endpoints.",
);
pub(crate) static MIRROR_TIMES: Family = histogram(
    "endpoint_slice_mirroring_controller_endpoints_sync_duration",
    &[],
    FROM_1_MS,
    "How long looking at Endpoints took.",
);
pub(crate) static MIRROR_SKIPPED: Family = histogram(
    "endpoint_slice_mirroring_controller_addresses_skipped_per_sync",
    &[],
    FROM_2,
    "Addresses that were not mirrored.",
);
pub(crate) static ZONE_HEALTH: Family =
    gauge("node_collector_zone_health", &["zone"], "How many of a zone's nodes are well, in percent.");
pub(crate) static ZONE_SIZE: Family = gauge("node_collector_zone_size", &["zone"], "Nodes of a zone.");
pub(crate) static ZONE_UNHEALTHY: Family =
    gauge("node_collector_unhealthy_nodes_in_zone", &["zone"], "Nodes of a zone that are not ready.");
pub(crate) static NODE_HEALTH_TIMES: Family = histogram(
    "node_collector_update_node_health_duration_seconds",
    &[],
    FROM_1_MS_BY_4,
    "How long looking at a node took.",
);
pub(crate) static ALL_NODES_HEALTH_TIMES: Family = histogram(
    "node_collector_update_all_nodes_health_duration_seconds",
    &[],
    FROM_10_MS_BY_4,
    "How long looking at all nodes took.",
);
pub(crate) static JOBS_OF_OTHERS: Family = counter(
    "job_controller_jobs_by_external_controller_total",
    &["controller_name"],
    "Jobs that somebody else manages.",
);
pub(crate) static JOB_FAILURES_BY_POLICY: Family = counter(
    "job_controller_pod_failures_handled_by_failure_policy_total",
    &["action"],
    "Failed pods that a Job's policy has said something about.",
);
pub(crate) static JOB_INDEXES_FINISHED: Family = counter(
    "job_controller_job_finished_indexes_total",
    &["status", "backoffLimit"],
    "Indexes of Jobs that have come to their ends.",
);
pub(crate) static JOB_PODS_TRACKED: Family = counter(
    "job_controller_terminated_pods_tracking_finalizer_total",
    &["event"],
    "Ended pods with the finalizer of Jobs that came, and that lost it.",
);
pub(crate) static TAINT_DELETION_DELAYS: Family = histogram(
    "taint_eviction_controller_pod_deletion_duration_seconds",
    &[],
    FROM_5_MS_TO_4_MIN,
    "From when a taint was to evict a pod until it was deleted.",
);
pub(crate) static NODE_EVICTIONS: Family =
    counter("node_collector_evictions_total", &["zone"], "Nodes that were given up.");
pub(crate) static TAINT_DELETIONS: Family =
    counter("taint_eviction_controller_pod_deletions_total", &[], "Pods that a taint has evicted.");
pub(crate) static FORCED_DELETIONS: Family = counter(
    "pod_gc_collector_force_delete_pods_total",
    &["namespace", "reason"],
    "Pods that were deleted since nobody else would.",
);
pub(crate) static FORCED_DELETION_ERRORS: Family = counter(
    "pod_gc_collector_force_delete_pod_errors_total",
    &["namespace", "reason"],
    "Pods that could not be deleted though nobody else would.",
);
pub(crate) static TTL_DELAYS: Family = Family {
    name: "ttl_after_finished_controller_job_deletion_duration_seconds",
    help: "From when a Job was to go until it was deleted.",
    labels: &[],
    kind: Kind::Histogram(FROM_100_MS),
};
pub(crate) static GARBAGE_ERRORS: Family =
    counter("garbagecollector_controller_resources_sync_error_total", &[], "Failures of the garbage collector.");

#[derive(Debug)]
enum Series {
    Count(u64),
    Level(f64),
    Times(Histogram),
}

type Known = BTreeMap<&'static str, (&'static Family, BTreeMap<Vec<String>, Series>)>;

/// The counts of all controllers; made before them, since whoever shows them starts first.
#[derive(Debug, Default)]
pub struct Metrics {
    families: Mutex<Known>,
}

impl Metrics {
    fn families(&self) -> MutexGuard<'_, Known> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, family: &'static Family, values: &[&str], change: impl FnOnce(&mut Series)) {
        let mut families = self.families();
        let (_, all) = families.entry(family.name).or_insert_with(|| (family, BTreeMap::new()));
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        if all.len() < MOST || all.contains_key(&values) {
            let fresh = || match family.kind {
                Kind::Counter => Series::Count(0),
                Kind::Gauge => Series::Level(0.0),
                Kind::Histogram(bounds) => Series::Times(Histogram::new(bounds)),
            };
            change(all.entry(values).or_insert_with(fresh));
        }
    }

    /// Counts so many; `values` are those of the family's labels.
    pub(crate) fn count(&self, family: &'static Family, values: &[&str], by: usize) {
        if by > 0 {
            self.change(family, values, |series| {
                if let Series::Count(count) = series {
                    *count += by as u64;
                }
            });
        }
    }

    /// Counts a time.
    pub(crate) fn observe(&self, family: &'static Family, values: &[&str], took: Duration) {
        self.observe_value(family, values, took.as_secs_f64());
    }

    /// Counts a value of a histogram.
    pub(crate) fn observe_value(&self, family: &'static Family, values: &[&str], value: f64) {
        self.change(family, values, |series| {
            if let Series::Times(times) = series {
                times.add(value);
            }
        });
    }

    /// How much there is now.
    pub(crate) fn set(&self, family: &'static Family, values: &[&str], level: f64) {
        self.change(family, values, |series| *series = Series::Level(level));
    }
}

impl Source for Metrics {
    fn render(&self, out: &mut Text) {
        for (family, all) in self.families().values() {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            out.family(family.name, kind, family.help);
            for (values, series) in all {
                let labels: Vec<(&str, &str)> =
                    family.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                match series {
                    Series::Count(count) => out.sample(family.name, &labels, count),
                    Series::Level(level) => out.sample(family.name, &labels, level),
                    Series::Times(times) => out.histogram(family.name, &labels, times),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_told_and_is_bounded() {
        let metrics = Metrics::default();
        metrics.count(&JOBS_FINISHED, &["Indexed", "succeeded", "CompletionsReached"], 2);
        metrics.observe(&CRON_JOB_SKEW, &[], Duration::from_secs(3));
        metrics.set(&ZONE_SIZE, &["r1::z1"], 3.0);
        metrics.set(&ZONE_SIZE, &["r1::z1"], 2.0);
        metrics.observe_value(&SLICE_ENDPOINTS_ADDED, &[], 3.0);
        for number in 0..2 * MOST {
            metrics.count(&FORCED_DELETIONS, &[&number.to_string(), "orphaned"], 1);
        }
        let mut text = Text::default();
        metrics.render(&mut text);
        let text = text.into_string();
        for line in [
            "job_controller_jobs_finished_total{completion_mode=\"Indexed\",result=\"succeeded\",reason=\"CompletionsReached\"} 2",
            "cronjob_controller_job_creation_skew_duration_seconds_bucket{le=\"4\"} 1",
            "# TYPE node_collector_zone_size gauge",
            "node_collector_zone_size{zone=\"r1::z1\"} 2",
            "endpoint_slice_controller_endpoints_added_per_sync_bucket{le=\"4\"} 1",
            "pod_gc_collector_force_delete_pods_total{namespace=\"0\",reason=\"orphaned\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
        }
        assert_eq!(text.matches("pod_gc_collector_force_delete_pods_total{").count(), MOST);
    }
}
