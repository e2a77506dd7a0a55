//! What the scheduler counts, under upstream's names.

use crate::queue::Incoming;
use naru_base::metrics::{Histogram, Source, Text};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

const PROFILE: (&str, &str) = ("profile", "default-scheduler");
const SECONDS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
const LONG_SECONDS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36,
    1310.72, 2621.44, 5242.88,
];
/// Of the steps, from 0.1 ms; of single plugins, from 0.01 ms.
const STEP_SECONDS: &[f64] =
    &[0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048];
const PLUGIN_SECONDS: &[f64] = &[
    1e-5,
    1.5e-5,
    2.25e-5,
    3.375e-5,
    5.0625e-5,
    7.59375e-5,
    0.000_113_9,
    0.000_170_86,
    0.000_256_29,
    0.000_384_43,
    0.000_576_65,
    0.000_864_98,
    0.001_297_46,
    0.001_946_2,
    0.002_919_29,
    0.004_378_94,
    0.006_568_41,
    0.009_852_61,
    0.014_778_92,
    0.022_168_38,
];
/// One of so many decisions is timed plugin by plugin.
const SAMPLED: u64 = 10;
const ATTEMPTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0];
const VICTIMS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// Attempts that are told apart in the time until a pod is placed; more are counted with the last.
const MAX_ATTEMPTS: u32 = 16;

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    Scheduled,
    Unschedulable,
    Error,
}

const OUTCOMES: [&str; 3] = ["scheduled", "unschedulable", "error"];

/// How much there is at the moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sizes {
    pub(crate) active: usize,
    pub(crate) backoff: usize,
    pub(crate) unschedulable: usize,
    pub(crate) gated: usize,
    pub(crate) pods: usize,
    pub(crate) nodes: usize,
    pub(crate) assumed: usize,
    pub(crate) incoming: Incoming,
    pub(crate) by_plugin: BTreeMap<&'static str, usize>,
}

type Sizing = Box<dyn Fn() -> Option<Sizes> + Send + Sync>;

/// The scheduler's counts; made before it, since whoever shows them starts first.
#[derive(Default)]
pub struct Metrics {
    counts: Mutex<Counts>,
    sizes: OnceLock<Sizing>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Counts {
    /// How long each attempt took, by its outcome.
    attempts: [Histogram; 3],
    algorithm: Histogram,
    /// How long pods took to be placed, by the number of attempts.
    until_placed: Vec<Histogram>,
    attempts_of_pods: Histogram,
    preemptions: u64,
    victims: Histogram,
    decisions: u64,
    /// By step and whether it came to something.
    steps: BTreeMap<(&'static str, bool), Histogram>,
    /// By plugin, step and whether the node passed.
    plugins: BTreeMap<(&'static str, &'static str, bool), Histogram>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            attempts: [(); 3].map(|()| Histogram::new(SECONDS)),
            algorithm: Histogram::new(SECONDS),
            until_placed: Vec::new(),
            attempts_of_pods: Histogram::new(ATTEMPTS),
            preemptions: 0,
            decisions: 0,
            steps: BTreeMap::new(),
            plugins: BTreeMap::new(),
            victims: Histogram::new(VICTIMS),
        }
    }
}

impl Metrics {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom to ask how much there is.
    pub(crate) fn watch(&self, sizes: impl Fn() -> Option<Sizes> + Send + Sync + 'static) {
        // A second scheduler of the same process would have counts of its own.
        let _ = self.sizes.set(Box::new(sizes));
    }

    /// An attempt is over.
    pub(crate) fn attempt(&self, outcome: Outcome, took: Duration) {
        self.counts().attempts[outcome as usize].observe(took);
    }

    /// A node was chosen, or found to be missing. Tells whether the plugins are to be timed.
    pub(crate) fn decided(&self, took: Duration, steps: &[(&'static str, bool, Duration)]) -> bool {
        let mut counts = self.counts();
        counts.algorithm.observe(took);
        counts.decisions += 1;
        for (step, done, took) in steps {
            counts.step(step, *done, *took);
        }
        counts.decisions % SAMPLED == 1
    }

    /// A step of an attempt is over.
    pub(crate) fn step(&self, step: &'static str, done: bool, took: Duration) {
        self.counts().step(step, done, took);
    }

    /// How long single plugins took.
    pub(crate) fn plugins(&self, times: &[(&'static str, &'static str, bool, Duration)]) {
        let mut counts = self.counts();
        for (plugin, step, passed, took) in times {
            let fresh = || Histogram::new(PLUGIN_SECONDS);
            counts.plugins.entry((plugin, step, *passed)).or_insert_with(fresh).observe(*took);
        }
    }

    /// A pod has got its node after so many attempts.
    pub(crate) fn placed(&self, attempts: u32, took: Duration) {
        let mut counts = self.counts();
        counts.attempts_of_pods.add(f64::from(attempts));
        let at = attempts.clamp(1, MAX_ATTEMPTS) as usize;
        while counts.until_placed.len() < at {
            counts.until_placed.push(Histogram::new(LONG_SECONDS));
        }
        counts.until_placed[at - 1].observe(took);
    }

    /// Room was made.
    pub(crate) fn preempted(&self, victims: usize) {
        let mut counts = self.counts();
        counts.preemptions += 1;
        counts.victims.add(victims as f64);
    }
}

impl Counts {
    fn step(&mut self, step: &'static str, done: bool, took: Duration) {
        self.steps.entry((step, done)).or_insert_with(|| Histogram::new(STEP_SECONDS)).observe(took);
    }
}

/// As upstream names it.
fn status(done: bool) -> &'static str {
    if done { "Success" } else { "Unschedulable" }
}

impl Source for Metrics {
    fn render(&self, out: &mut Text) {
        let sizes = self.sizes.get().and_then(|sizes| sizes()).unwrap_or_default();
        let counts = self.counts();
        let name = "scheduler_schedule_attempts_total";
        out.family(name, "counter", "Attempts to schedule pods, by result.");
        for (outcome, attempts) in OUTCOMES.iter().zip(&counts.attempts) {
            out.sample(name, &[PROFILE, ("result", outcome)], attempts.count());
        }
        let name = "scheduler_scheduling_attempt_duration_seconds";
        out.family(name, "histogram", "How long attempts took, without binding.");
        for (outcome, attempts) in OUTCOMES.iter().zip(&counts.attempts) {
            out.histogram(name, &[PROFILE, ("result", outcome)], attempts);
        }
        let name = "scheduler_scheduling_algorithm_duration_seconds";
        out.family(name, "histogram", "How long choosing a node took.");
        out.histogram(name, &[], &counts.algorithm);
        let name = "scheduler_pod_scheduling_sli_duration_seconds";
        out.family(name, "histogram", "From a pod's coming to its node being chosen, by the number of attempts.");
        for (took, attempts) in counts.until_placed.iter().zip(1..) {
            out.histogram(name, &[("attempts", &attempts.to_string())], took);
        }
        let name = "scheduler_pod_scheduling_attempts";
        out.family(name, "histogram", "How many attempts pods needed.");
        out.histogram(name, &[], &counts.attempts_of_pods);
        let name = "scheduler_preemption_attempts_total";
        out.single(name, "counter", "How often room was made.", counts.preemptions);
        let name = "scheduler_preemption_victims";
        out.family(name, "histogram", "How many pods had to go each time.");
        out.histogram(name, &[], &counts.victims);
        let name = "scheduler_framework_extension_point_duration_seconds";
        out.family(name, "histogram", "How long each step of an attempt took.");
        for ((step, done), times) in &counts.steps {
            out.histogram(name, &[("extension_point", step), PROFILE, ("status", status(*done))], times);
        }
        let name = "scheduler_plugin_execution_duration_seconds";
        out.family(name, "histogram", "How long a plugin took for a node, in one of ten attempts.");
        for ((plugin, step, passed), times) in &counts.plugins {
            let labels = [("extension_point", *step), ("plugin", *plugin), ("status", status(*passed))];
            out.histogram(name, &labels, times);
        }
        let name = "scheduler_queue_incoming_pods_total";
        out.family(name, "counter", "Pods that came into a queue, by the event that brought them there.");
        for ((queue, event), count) in &sizes.incoming {
            out.sample(name, &[("event", event), ("queue", queue)], count);
        }
        let name = "scheduler_unschedulable_pods";
        out.family(name, "gauge", "Pods that wait because of a plugin; one may wait because of several.");
        for (plugin, count) in &sizes.by_plugin {
            out.sample(name, &[("plugin", plugin), PROFILE], count);
        }
        let name = "scheduler_pending_pods";
        out.family(name, "gauge", "Pods that wait, by queue.");
        let queues = [
            ("active", sizes.active),
            ("backoff", sizes.backoff),
            ("gated", sizes.gated),
            ("unschedulable", sizes.unschedulable),
        ];
        for (queue, pods) in queues {
            out.sample(name, &[("queue", queue)], pods);
        }
        let name = "scheduler_cache_size";
        out.family(name, "gauge", "What the scheduler knows of, by type.");
        for (kind, count) in [("assumed_pods", sizes.assumed), ("nodes", sizes.nodes), ("pods", sizes.pods)] {
            out.sample(name, &[("type", kind)], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_told_under_the_usual_names() {
        let metrics = Metrics::default();
        let incoming = Incoming::from([(("active", "NodeAdd"), 4)]);
        let by_plugin = BTreeMap::from([("NodeName", 1)]);
        metrics.watch(move || {
            Some(Sizes { gated: 2, incoming: incoming.clone(), by_plugin: by_plugin.clone(), ..Sizes::default() })
        });
        let took = Duration::from_millis(3);
        assert!(metrics.decided(took, &[("Filter", false, took)]), "the first one is timed");
        assert!(!metrics.decided(took, &[]));
        metrics.plugins(&[("NodeName", "Filter", true, took)]);
        metrics.attempt(Outcome::Unschedulable, Duration::from_millis(3));
        metrics.placed(2, Duration::from_secs(1));
        metrics.preempted(3);
        let mut text = Text::default();
        metrics.render(&mut text);
        let text = text.into_string();
        for line in [
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"unschedulable\"} 1",
            "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"2\"} 1",
            "scheduler_preemption_victims_sum 3",
            "scheduler_pending_pods{queue=\"gated\"} 2",
            "scheduler_queue_incoming_pods_total{event=\"NodeAdd\",queue=\"active\"} 4",
            "scheduler_unschedulable_pods{plugin=\"NodeName\",profile=\"default-scheduler\"} 1",
            "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Filter\",profile=\"default-scheduler\",status=\"Unschedulable\"} 1",
            "scheduler_plugin_execution_duration_seconds_count{extension_point=\"Filter\",plugin=\"NodeName\",status=\"Success\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
        }
    }
}
