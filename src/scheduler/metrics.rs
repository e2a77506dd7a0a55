//! What the scheduler counts, under upstream's names.

use naru_base::metrics::{Histogram, Source, Text};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

const PROFILE: (&str, &str) = ("profile", "default-scheduler");
const SECONDS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
const LONG_SECONDS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36,
    1310.72, 2621.44, 5242.88,
];
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
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sizes {
    pub(crate) active: usize,
    pub(crate) backoff: usize,
    pub(crate) unschedulable: usize,
    pub(crate) gated: usize,
    pub(crate) pods: usize,
    pub(crate) nodes: usize,
    pub(crate) assumed: usize,
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
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            attempts: [(); 3].map(|()| Histogram::new(SECONDS)),
            algorithm: Histogram::new(SECONDS),
            until_placed: Vec::new(),
            attempts_of_pods: Histogram::new(ATTEMPTS),
            preemptions: 0,
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

    /// A node was chosen, or found to be missing.
    pub(crate) fn decided(&self, took: Duration) {
        self.counts().algorithm.observe(took);
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
        metrics.watch(|| Some(Sizes { gated: 2, ..Sizes::default() }));
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
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
        }
    }
}
