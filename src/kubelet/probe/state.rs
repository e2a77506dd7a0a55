//! When single probe results change what is known of a container: pure thresholds.

use k8s_openapi::api::core::v1::Probe;
use std::time::Duration;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Has the container come up?
    Startup,
    /// May it get traffic?
    Readiness,
    /// Must it be restarted?
    Liveness,
}

impl ProbeKind {
    /// The word that event texts start with.
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It answered well.
    Success,
    /// It answered well enough, but not as one would expect; how.
    Warning(String),
    /// It answered badly; why.
    Failure(String),
    /// It could not be asked; why. Counts as no answer.
    Unknown(String),
}

/// A probe's numbers with defaults applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Before the first probe.
    pub initial_delay: Duration,
    /// Between probes.
    pub period: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Successes in a row that count.
    pub success_threshold: u32,
    /// Failures in a row that count.
    pub failure_threshold: u32,
}

impl Timing {
    /// Reads the numbers of `probe`.
    pub fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default))
        };
        let count = |value: Option<i32>, default: u32| {
            value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success_threshold: count(probe.success_threshold, 1),
            failure_threshold: count(probe.failure_threshold, 3),
        }
    }
}

/// Counts results in a row.
#[derive(Debug, Clone)]
pub struct Thresholds {
    timing: Timing,
    last_good: Option<bool>,
    run: u32,
    verdict: Option<bool>,
}

impl Thresholds {
    /// Starts with `initial` as what is taken for known.
    pub fn new(timing: Timing, initial: Option<bool>) -> Self {
        Self { timing, last_good: None, run: 0, verdict: initial }
    }

    /// Notes a result; `Some` when what is known changes.
    pub fn observe(&mut self, outcome: &Outcome) -> Option<bool> {
        let good = match outcome {
            Outcome::Success | Outcome::Warning(_) => true,
            Outcome::Failure(_) => false,
            Outcome::Unknown(_) => return None,
        };
        if self.last_good == Some(good) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last_good = Some(good);
            self.run = 1;
        }
        let needed = if good { self.timing.success_threshold } else { self.timing.failure_threshold };
        if self.run < needed || self.verdict == Some(good) {
            return None;
        }
        self.verdict = Some(good);
        Some(good)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn check(probe: serde_json::Value, initial: Option<bool>, script: &str, expect: &[(usize, bool)]) {
        let timing = Timing::of(&serde_json::from_value(probe).unwrap());
        let mut thresholds = Thresholds::new(timing, initial);
        let mut got = Vec::new();
        for (at, c) in script.chars().enumerate() {
            let outcome = match c {
                '+' => Outcome::Success,
                '-' => Outcome::Failure(String::new()),
                _ => Outcome::Unknown(String::new()),
            };
            got.extend(thresholds.observe(&outcome).map(|verdict| (at, verdict)));
        }
        assert_eq!(got, expect, "{script}");
    }

    #[test]
    fn thresholds_count_in_a_row() {
        check(json!({}), Some(false), "+", &[(0, true)]);
        check(json!({}), Some(false), "---", &[]);
        check(json!({}), Some(false), "+--+---+", &[(0, true), (6, false), (7, true)]);
        check(json!({"successThreshold": 2}), Some(false), "+-++", &[(3, true)]);
        check(json!({"failureThreshold": 1}), Some(true), "+-", &[(1, false)]);
        check(json!({}), Some(true), "--?-", &[(3, false)]);
        check(json!({}), None, "+", &[(0, true)]);
    }

    #[test]
    fn numbers_have_defaults() {
        let timing = Timing::of(&Probe::default());
        assert_eq!(timing.period, Duration::from_secs(10));
        assert_eq!(timing.timeout, Duration::from_secs(1));
        assert_eq!((timing.success_threshold, timing.failure_threshold), (1, 3));
    }
}
