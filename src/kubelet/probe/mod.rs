//! Probes: thresholds, and the tasks that ask.

mod grpc;
pub mod run;
pub mod state;
mod tls;

use k8s_openapi::api::core::v1::Probe;
use naru_base::{Shutdown, spawn};
use run::Target;
use state::{Outcome, ProbeKind, Thresholds, Timing};
use std::time::Duration;

/// A process that has just been started needs a moment to listen; a probe that comes too early
/// would cost a whole period.
const SETTLE: Duration = Duration::from_millis(100);

/// What a probing task tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A probe was made: `successful`, `failed` or `unknown`.
    Made(&'static str),
    /// A single probe failed; the text is an event's.
    Unhealthy(String),
    /// A single probe was answered strangely; the text is an event's.
    Strange(String),
    /// What is known changed.
    Verdict(bool),
}

/// Asks periodically until `shutdown`, or until a startup or liveness probe has reached its end:
/// then the container is up, or will be stopped.
pub fn start(
    kind: ProbeKind,
    probe: Probe,
    target: Target,
    initial: Option<bool>,
    running_for: Duration,
    shutdown: &Shutdown,
    report: impl Fn(Report) + Send + Sync + 'static,
) {
    let shutdown = shutdown.clone();
    spawn("probe", async move {
        let timing = Timing::of(&probe);
        let mut thresholds = Thresholds::new(timing, initial);
        let first = timing.initial_delay.max(SETTLE).saturating_sub(running_for);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + first, timing.period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if shutdown.guard(ticks.tick()).await.is_none() {
                return;
            }
            let Some(outcome) = shutdown.guard(run::probe(&target, &probe, timing.timeout)).await else { return };
            report(Report::Made(match &outcome {
                Outcome::Success | Outcome::Warning(_) => "successful",
                Outcome::Failure(_) => "failed",
                Outcome::Unknown(_) => "unknown",
            }));
            match &outcome {
                Outcome::Success => {}
                Outcome::Warning(text) => report(Report::Strange(format!("{} probe warning: {text}", kind.title()))),
                Outcome::Failure(text) => report(Report::Unhealthy(format!("{} probe failed: {text}", kind.title()))),
                Outcome::Unknown(text) => report(Report::Unhealthy(format!(
                    "{} probe errored and resulted in unknown state: {text}",
                    kind.title()
                ))),
            }
            if let Some(verdict) = thresholds.observe(&outcome) {
                report(Report::Verdict(verdict));
                let over = match kind {
                    ProbeKind::Startup => true,
                    ProbeKind::Liveness => !verdict,
                    ProbeKind::Readiness => false,
                };
                if over {
                    return;
                }
            }
        }
    });
}
