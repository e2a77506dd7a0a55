//! A pod's probes: which run when, and what their reports change.

use super::inbox::ProbeReport;
use super::plan::Kind;
use super::worker::Worker;
use crate::probe::state::ProbeKind;
use crate::probe::{self, Report, run::Target};
use crate::shared::events;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Probe;
use std::time::Duration;

impl Worker {
    pub(super) fn take_in_probe(&mut self, news: ProbeReport) {
        let Some(index) = self.slots.iter().position(|s| s.container.name == news.container) else { return };
        let slot = &mut self.slots[index];
        let Some(run) = slot.run.as_mut().filter(|r| r.id == news.container_id && r.is_running()) else { return };
        match (news.kind, news.report) {
            // Counted where it was made.
            (_, Report::Made(_)) => {}
            (_, Report::Unhealthy(text)) => {
                let field = slot.field_path();
                self.shared.pod_event(&self.pod, Some(&field), true, events::UNHEALTHY, text);
            }
            (_, Report::Strange(text)) => {
                let field = slot.field_path();
                self.shared.pod_event(&self.pod, Some(&field), true, events::PROBE_WARNING, text);
            }
            (ProbeKind::Startup, Report::Verdict(true)) => {
                run.started = true;
                run.ready = slot.container.readiness_probe.is_none();
                self.start_probes(index);
            }
            (ProbeKind::Readiness, Report::Verdict(good)) => run.ready = good,
            (ProbeKind::Liveness, Report::Verdict(true)) => {}
            (kind @ (ProbeKind::Startup | ProbeKind::Liveness), Report::Verdict(false)) => {
                let what = if kind == ProbeKind::Startup { "startup" } else { "liveness" };
                let text = format!("Container {} failed {what} probe, will be restarted", slot.container.name);
                let probe = if kind == ProbeKind::Startup {
                    &slot.container.startup_probe
                } else {
                    &slot.container.liveness_probe
                };
                let grace = probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
                self.stop_container(index, &text, grace);
            }
        }
    }

    /// Starts the probes that a running container is due.
    pub(super) fn start_probes(&mut self, index: usize) {
        let slot = &self.slots[index];
        let container = slot.container.clone();
        let Some(run) = slot.run.as_ref().filter(|r| r.is_running()) else { return };
        if slot.kind == Kind::Init {
            return;
        }
        let age = run
            .started_at
            .map_or(Duration::ZERO, |at| Duration::try_from(Timestamp::now().duration_since(at)).unwrap_or_default());
        let due: Vec<(ProbeKind, Probe, Option<bool>)> = if run.started {
            let readiness = container.readiness_probe.clone().map(|p| (ProbeKind::Readiness, p, Some(run.ready)));
            let liveness = container.liveness_probe.clone().map(|p| (ProbeKind::Liveness, p, Some(true)));
            readiness.into_iter().chain(liveness).collect()
        } else {
            container.startup_probe.clone().map(|p| (ProbeKind::Startup, p, None)).into_iter().collect()
        };
        let target = Target {
            runtime: self.shared.config.runtime.clone(),
            container_id: run.id.clone(),
            container: container.clone(),
            pod_ip: self.sandbox.as_ref().and_then(|s| s.ips.first().copied()),
        };
        for (kind, probe, initial) in due {
            let key = (container.name.clone(), kind);
            if self.probes.contains_key(&key) {
                continue;
            }
            let stop = self.cancel.child();
            let (inbox, name, id) = (self.inbox.clone(), container.name.clone(), target.container_id.clone());
            let (namespace, pod, uid) = super::start::identity(&self.pod);
            let shared = self.shared.clone();
            let report = move |report: Report| {
                if let Report::Made(result) = report {
                    let (kind, result) = (kind.title().to_owned(), result.to_owned());
                    let labels = [name.clone(), namespace.clone(), pod.clone(), uid.clone(), kind, result];
                    return shared.probe_counts.count(labels);
                }
                inbox.put(|news| {
                    news.probes.push(ProbeReport { container: name.clone(), container_id: id.clone(), kind, report });
                });
            };
            probe::start(kind, probe, target.clone(), initial, age, &stop, report);
            self.probes.insert(key, stop);
        }
    }

    pub(super) fn stop_probes(&mut self, container: &str) {
        self.probes.retain(|(name, _), stop| {
            let keep = name != container;
            if !keep {
                stop.trigger();
            }
            keep
        });
    }
}
