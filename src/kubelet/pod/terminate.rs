//! Ends a pod: gate, hooks, signals; sidecars after the others, last started first.

use super::plan::Kind;
use super::slot::Busy;
use super::start::identity;
use super::stop::{self, Stop};
use super::worker::{Life, Worker};
use crate::probe::run::Target;
use crate::shared::events;
use k8s_openapi::api::core::v1::LifecycleHandler;
use naru_base::spawn;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a stop signal waits for the proxy to send nothing more.
const GATE: Duration = Duration::from_secs(1);
const DEFAULT_GRACE: i64 = 30;

impl Worker {
    /// Seconds that containers have to end by themselves.
    fn grace(&self) -> Duration {
        let given = self.pod.metadata.deletion_grace_period_seconds;
        let spec = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        let seconds = if self.gone || self.evicted() { Some(1) } else { given.or(spec) };
        Duration::from_secs(u64::try_from(seconds.unwrap_or(DEFAULT_GRACE)).unwrap_or(0))
    }

    fn target(&self, index: usize) -> Option<(Target, i32)> {
        let slot = &self.slots[index];
        let run = slot.run.as_ref().filter(|r| r.is_running())?;
        let target = Target {
            runtime: self.shared.config.runtime.clone(),
            container_id: run.id.clone(),
            container: slot.container.clone(),
            pod_ip: self.sandbox.as_ref().and_then(|s| s.ips.first().copied()),
        };
        Some((target, run.stop_signal))
    }

    /// Stops one container of a pod that goes on.
    pub(super) fn stop_container(&mut self, index: usize, message: &str, grace: Option<i64>) {
        let hook = self.slots[index].container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
        self.stop_one(index, message, grace, hook);
    }

    /// Stops one container without its hook and without delay.
    pub(super) fn stop_at_once(&mut self, index: usize, message: &str) {
        self.stop_one(index, message, Some(0), None);
    }

    fn stop_one(&mut self, index: usize, message: &str, grace: Option<i64>, hook: Option<LifecycleHandler>) {
        let Some((target, signal)) = self.target(index) else { return };
        if self.slots[index].busy.is_some() {
            return;
        }
        let grace =
            grace.or(self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds)).unwrap_or(DEFAULT_GRACE);
        let deadline = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        self.kill_event(index, message);
        self.slots[index].busy = Some(Busy::Stopping);
        let name = self.slots[index].container.name.clone();
        self.stop_probes(&name);
        let (inbox, shared, pod, field) =
            (self.inbox.clone(), self.shared.clone(), self.pod.clone(), self.slots[index].field_path());
        spawn("stop container", async move {
            let (_keep, deadline) = watch::channel(deadline);
            let stopped = stop::stop(Stop { target, signal, hook, deadline }).await;
            if let Some(error) = stopped.hook_error {
                shared.pod_event(
                    &pod,
                    Some(&field),
                    true,
                    events::FAILED_PRE_STOP,
                    format!("PreStopHook failed: {error}"),
                );
            }
            inbox.put(|news| news.stops.push(name));
        });
    }

    fn kill_event(&self, index: usize, message: &str) {
        let field = self.slots[index].field_path();
        self.shared.pod_event(&self.pod, Some(&field), false, events::KILLING, message);
    }

    /// Begins to stop everything that runs.
    pub(super) fn begin_stopping(&mut self) {
        self.cancel.trigger();
        self.shared.host_ports.release(&identity(&self.pod).2);
        self.life = Life::Stopping;
        let deadline = Instant::now() + self.grace();
        let (sender, receiver) = watch::channel(deadline);
        self.deadline = Some(sender);
        let (mut main, mut sidecars) = (Vec::new(), Vec::new());
        for index in 0..self.slots.len() {
            let Some((target, signal)) = self.target(index) else { continue };
            let name = self.slots[index].container.name.clone();
            self.kill_event(index, &format!("Stopping container {name}"));
            self.slots[index].busy = Some(Busy::Stopping);
            let hook = target.container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
            let job = (name, self.slots[index].field_path(), Stop { target, signal, hook, deadline: receiver.clone() });
            if self.slots[index].kind == Kind::Sidecar { sidecars.push(job) } else { main.push(job) }
        }
        let ips =
            if self.host_network() { Vec::new() } else { self.sandbox.iter().flat_map(|s| s.ips.clone()).collect() };
        let (shared, pod, inbox) = (self.shared.clone(), self.pod.clone(), self.inbox.clone());
        spawn("stop pod", async move {
            let dropped = futures::future::join_all(ips.into_iter().map(|ip| shared.config.gate.dropped(ip)));
            let _ = tokio::time::timeout(GATE, dropped).await;
            let run = |(name, field, job): (String, String, Stop)| {
                let (shared, pod, inbox) = (shared.clone(), pod.clone(), inbox.clone());
                async move {
                    let stopped = stop::stop(job).await;
                    if let Some(error) = stopped.hook_error {
                        let text = format!("PreStopHook failed: {error}");
                        shared.pod_event(&pod, Some(&field), true, events::FAILED_PRE_STOP, text);
                    }
                    inbox.put(|news| news.stops.push(name));
                }
            };
            futures::future::join_all(main.into_iter().map(run)).await;
            for job in sidecars.into_iter().rev() {
                run(job).await;
            }
            inbox.poke();
        });
    }

    /// One round of a pod that is being stopped.
    pub(super) fn stopping(&mut self) {
        if let Some(sender) = &self.deadline {
            // A second deletion may leave less time; never more.
            let at = Instant::now() + self.grace();
            sender.send_if_modified(|deadline| {
                let sooner = at < *deadline;
                if sooner {
                    *deadline = at;
                }
                sooner
            });
        }
        // What was about to start when the stop began is stopped as soon as it runs.
        for index in 0..self.slots.len() {
            if self.slots[index].busy.is_none() && self.target(index).is_some() {
                let message = format!("Stopping container {}", self.slots[index].container.name);
                let grace = i64::try_from(self.grace().as_secs()).ok();
                self.stop_container(index, &message, grace);
            }
        }
        if self.slots.iter().all(|s| s.busy.is_none() && self.not_running(s)) {
            self.life = Life::Ended;
        }
    }

    fn not_running(&self, slot: &super::slot::Slot) -> bool {
        !slot.run.as_ref().is_some_and(super::slot::Run::is_running)
    }
}
