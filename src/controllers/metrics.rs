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
    /// The bounds of a histogram; a counter has none.
    bounds: Option<&'static [f64]>,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, help, labels, bounds: None }
}

const FROM_4_MS: &[f64] =
    &[0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384, 32.768, 65.536];
const FROM_100_MS: &[f64] = &[0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2];
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
    bounds: Some(FROM_4_MS),
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
    bounds: Some(FROM_1_S),
};
pub(crate) static SLICE_CHANGES: Family =
    counter("endpoint_slice_controller_changes", &["operation"], "Writes of EndpointSlices.");
pub(crate) static SLICE_SYNCS: Family =
    counter("endpoint_slice_controller_syncs", &["result"], "How often Services were looked at.");
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
    bounds: Some(FROM_100_MS),
};
pub(crate) static GARBAGE_ERRORS: Family =
    counter("garbagecollector_controller_resources_sync_error_total", &[], "Failures of the garbage collector.");

#[derive(Debug)]
enum Series {
    Count(u64),
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
            let fresh = || family.bounds.map_or(Series::Count(0), |bounds| Series::Times(Histogram::new(bounds)));
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
        self.change(family, values, |series| {
            if let Series::Times(times) = series {
                times.observe(took);
            }
        });
    }
}

impl Source for Metrics {
    fn render(&self, out: &mut Text) {
        for (family, all) in self.families().values() {
            out.family(family.name, if family.bounds.is_some() { "histogram" } else { "counter" }, family.help);
            for (values, series) in all {
                let labels: Vec<(&str, &str)> =
                    family.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                match series {
                    Series::Count(count) => out.sample(family.name, &labels, count),
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
        for number in 0..2 * MOST {
            metrics.count(&FORCED_DELETIONS, &[&number.to_string(), "orphaned"], 1);
        }
        let mut text = Text::default();
        metrics.render(&mut text);
        let text = text.into_string();
        for line in [
            "job_controller_jobs_finished_total{completion_mode=\"Indexed\",result=\"succeeded\",reason=\"CompletionsReached\"} 2",
            "cronjob_controller_job_creation_skew_duration_seconds_bucket{le=\"4\"} 1",
            "pod_gc_collector_force_delete_pods_total{namespace=\"0\",reason=\"orphaned\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
        }
        assert_eq!(text.matches("pod_gc_collector_force_delete_pods_total{").count(), MOST);
    }
}
