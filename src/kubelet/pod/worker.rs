//! One pod's worker: takes in news, decides, acts, publishes. Everything that takes long runs beside it.

use super::inbox::{Eviction, Inbox, News};
use super::plan::{self, Item, Kind, Outcome};
use super::slot::{Busy, Run, Slot, StartResult, labels};
use super::start::{self, Start, identity};
use super::status::{self, PodFacts};
use crate::probe::state::ProbeKind;
use crate::shared::{Shared, events};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use naru_base::{Shutdown, spawn};
use naru_runtime::{ContainerState, SandboxInfo};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long something that failed for lack of configuration waits.
pub(super) const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// How long `ErrImagePull` shows before it becomes `ImagePullBackOff`.
const IMAGE_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(1);

/// How long a container that was changed may take to run again before the pod is told to be without it.
const REPLACEMENT: SignedDuration = SignedDuration::from_secs(1);

/// Where a pod is in its life on this node.
#[derive(Debug)]
pub(super) enum Life {
    /// Its containers are kept running.
    Active,
    /// Its containers are being stopped; the API object goes afterwards if `delete`.
    Stopping,
    /// Nothing runs or will run again.
    Ended,
    /// Everything is cleaned up; only the deletion of the object is awaited.
    Cleaned,
}

/// A sandbox with its network.
#[derive(Debug, Clone)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) netns: PathBuf,
    pub(super) ips: Vec<IpAddr>,
}

/// What others may know of a container: for logs and exec.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visible {
    /// Id of the current or last run by container name, with its log and whether it runs.
    pub(crate) runs: BTreeMap<String, VisibleRun>,
    /// Why containers without a run wait.
    pub(crate) waiting: BTreeMap<String, String>,
    /// The sandbox, for its network.
    pub(crate) sandbox: Option<String>,
    /// Whether its volumes are in place.
    pub(crate) volumes_ready: bool,
}

/// What others may know of one container's run.
#[derive(Debug, Clone)]
pub(crate) struct VisibleRun {
    pub(crate) id: String,
    pub(crate) restart_count: i32,
    pub(crate) running: bool,
}

/// A pod's worker.
pub(crate) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) pod: Arc<Pod>,
    pub(super) inbox: Arc<Inbox>,
    visible: Arc<Mutex<Visible>>,
    pub(super) life: Life,
    pub(super) gone: bool,
    pub(super) start_time: Timestamp,
    /// When this agent saw it first.
    seen: Instant,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) slots: Vec<Slot>,
    pub(super) probes: BTreeMap<(String, ProbeKind), Shutdown>,
    /// The last status that was set.
    pub(super) status: PodStatus,
    /// When something that failed is tried again.
    pub(super) retry_at: Option<Timestamp>,
    /// When a token has to be renewed.
    pub(super) tokens: super::tokens::Tokens,
    pub(super) volumes_ready: bool,
    pub(super) verdict: Option<(String, String)>,
    /// Ends what runs beside the worker.
    pub(super) cancel: Shutdown,
    pub(super) deadline: Option<tokio::sync::watch::Sender<tokio::time::Instant>>,
    /// What became of the last wish for other resources.
    pub(super) resize: super::resize::Resize,
    /// What the pod's cgroup was given.
    pub(super) pod_limits: Option<naru_runtime::Resources>,
    /// One container takes all others with it.
    pub(super) restarting_all: bool,
    /// Until then nothing is published: a container that was changed is about to run again.
    replacing_until: Option<Timestamp>,
}

fn ephemeral_slots(pod: &Pod) -> impl Iterator<Item = Slot> {
    plan::ephemeral(pod).into_iter().map(|(container, looks_at)| {
        let mut slot = Slot::new(Arc::new(container), Kind::Ephemeral);
        slot.looks_at = looks_at;
        slot
    })
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        pod: Arc<Pod>,
        inbox: Arc<Inbox>,
        visible: Arc<Mutex<Visible>>,
        cancel: Shutdown,
    ) -> Self {
        let published = pod.status.clone().unwrap_or_default();
        let start_time = published.start_time.as_ref().map_or_else(Timestamp::now, |t| t.0);
        let mut slots: Vec<Slot> =
            plan::containers(&pod).map(|(c, kind)| Slot::new(Arc::new(c.clone()), kind)).collect();
        slots.extend(ephemeral_slots(&pod));
        Self {
            shared,
            pod,
            inbox,
            visible,
            life: Life::Active,
            gone: false,
            start_time,
            seen: Instant::now(),
            sandbox: None,
            slots,
            probes: BTreeMap::new(),
            status: published,
            retry_at: None,
            tokens: super::tokens::Tokens::default(),
            volumes_ready: false,
            verdict: None,
            cancel,
            deadline: None,
            resize: super::resize::Resize::default(),
            pod_limits: None,
            restarting_all: false,
            replacing_until: None,
        }
    }

    /// Lives as long as the pod does on this node.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        self.adopt().await;
        let mut first = true;
        loop {
            let begun = Instant::now();
            let news = self.inbox.take();
            let operation = match std::mem::take(&mut first) {
                true => "create",
                false if news.pod.is_some() => "update",
                false => "sync",
            };
            self.take_in(news);
            match self.life {
                Life::Active => self.active().await,
                Life::Stopping => self.stopping(),
                Life::Ended | Life::Cleaned => {}
            }
            if matches!(self.life, Life::Ended) {
                self.publish();
                self.clean_up().await;
            }
            self.publish();
            self.shared.metrics.round(operation, begun.elapsed());
            if matches!(self.life, Life::Cleaned) && self.deletion_wanted() && self.finish(&shutdown).await {
                return;
            }
            let wake = self.wake();
            let wait = async {
                match wake {
                    Some(after) => {
                        let _ = tokio::time::timeout(after, self.inbox.wait()).await;
                    }
                    None => self.inbox.wait().await,
                }
            };
            if shutdown.guard(wait).await.is_none() {
                return;
            }
        }
    }

    /// Takes over what an earlier agent left running.
    async fn adopt(&mut self) {
        let (_, _, uid) = identity(&self.pod);
        let now = Timestamp::now();
        let mut found: Vec<SandboxInfo> = self.shared.config.runtime.sandboxes();
        found.retain(|s| s.labels.get(labels::POD_UID) == Some(&uid));
        found.sort_by_key(|s| s.created_at_ns);
        let newest = found.pop_if(|s| !s.lost);
        for old in found {
            for container in &old.containers {
                start::discard(&self.shared, &container.id).await;
            }
            self.remove_sandbox(&old.id, &old.netns_path).await;
        }
        let published: BTreeMap<_, _> = self
            .status
            .container_statuses
            .iter()
            .chain(&self.status.init_container_statuses)
            .chain(&self.status.ephemeral_container_statuses)
            .flatten()
            .map(|s| (s.name.clone(), s.clone()))
            .collect();
        for slot in &mut self.slots {
            let name = &slot.container.name;
            let mut info = newest.as_ref().and_then(|s| s.containers.iter().rfind(|c| c.name == *name));
            if let Some(stillborn) = info.filter(|c| c.state == ContainerState::Created) {
                // The agent died between creation and start.
                start::discard(&self.shared, &stillborn.id).await;
                info = None;
            }
            slot.adopt(published.get(name), info, now);
            if newest.is_none() && info.is_none() {
                slot.lose(now);
            }
        }
        if self.is_over() {
            self.life = Life::Ended;
        }
        match newest {
            Some(sandbox) => self.adopt_sandbox(sandbox).await,
            None => self.sandbox_gone(),
        }
    }

    async fn adopt_sandbox(&mut self, sandbox: SandboxInfo) {
        let ips = match self.attach(&sandbox.id, &sandbox.netns_path).await {
            Ok(ips) => ips,
            Err(error) => {
                tracing::warn!(pod = self.name(), error, "network of an adopted pod not found");
                self.status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect()
            }
        };
        self.shared.host_ports.set(&identity(&self.pod).2, &self.pod, &ips);
        self.sandbox = Some(Sandbox { id: sandbox.id, netns: sandbox.netns_path, ips });
        for index in 0..self.slots.len() {
            self.start_probes(index);
        }
    }

    /// Whether the published phase is final.
    fn is_over(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    pub(super) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// The API object is being deleted, or is gone.
    pub(super) fn deletion_wanted(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    fn take_in(&mut self, news: News) {
        if let Some(pod) = news.pod {
            self.take_in_pod(pod);
        }
        self.gone |= news.gone;
        for exit in news.exits {
            self.take_in_exit(&exit.container, &exit.status);
        }
        for (name, result) in news.starts {
            self.take_in_start(&name, result);
        }
        for name in news.stops {
            if let Some(slot) = self.slots.iter_mut().find(|s| s.container.name == name) {
                slot.busy = None;
            }
            self.resync();
        }
        for report in news.probes {
            self.take_in_probe(report);
        }
        if news.resync {
            self.resync();
        }
        if let Some(Eviction { signal, message }) =
            news.evict.filter(|_| matches!(self.life, Life::Active) && self.verdict.is_none())
        {
            self.shared.metrics.evicted(signal);
            self.shared.pod_event(&self.pod, None, true, status::EVICTED, message.clone());
            self.verdict = Some((status::EVICTED.into(), message));
        }
        if news.sandbox_lost.is_some_and(|id| self.sandbox.as_ref().is_some_and(|s| s.id == id)) {
            self.sandbox_lost();
        }
    }

    fn take_in_pod(&mut self, pod: Arc<Pod>) {
        for (container, _) in plan::containers(&pod) {
            if let Some(slot) = self.slots.iter_mut().find(|s| s.container.name == container.name) {
                if start::hash(&slot.container) != start::hash(container) {
                    // What failed was another image.
                    slot.crash.reset();
                }
                slot.container = Arc::new(container.clone());
            }
        }
        for slot in ephemeral_slots(&pod) {
            if !self.slots.iter().any(|s| s.container.name == slot.container.name) {
                self.slots.push(slot);
            }
        }
        self.pod = pod;
        // What is published in the name of others, such as readiness gates, comes back in the next status.
        let ours = status::OWN_CONDITIONS;
        let foreign = |status: &PodStatus| -> Vec<_> {
            status.conditions.iter().flatten().filter(|c| !ours.contains(&c.type_.as_str())).cloned().collect()
        };
        let theirs = self.pod.status.as_ref().map(foreign).unwrap_or_default();
        let conditions = self.status.conditions.get_or_insert_default();
        conditions.retain(|c| ours.contains(&c.type_.as_str()));
        conditions.extend(theirs);
        self.status.qos_class = self.pod.status.as_ref().and_then(|s| s.qos_class.clone());
    }

    fn take_in_exit(&mut self, id: &str, exit: &naru_runtime::ExitStatus) {
        let Some(slot) = self.slots.iter_mut().find(|s| s.run.as_ref().is_some_and(|r| r.id == id && r.exit.is_none()))
        else {
            return;
        };
        let Some(run) = slot.run.as_mut() else { return };
        let message = super::message::read(run, &slot.container, exit.exit_code);
        run.end(exit, message);
        if run.is_outdated(&slot.container) {
            self.replacing_until = Some(Timestamp::now() + REPLACEMENT);
        }
        let name = slot.container.name.clone();
        self.stop_probes(&name);
    }

    /// Looks at the runtime for exits whose events were missed.
    fn resync(&mut self) {
        let ended: Vec<_> = self
            .slots
            .iter()
            .filter_map(|s| s.run.as_ref().filter(|r| r.exit.is_none()))
            .filter_map(|run| match self.shared.config.runtime.container(&run.id).map(|c| c.state) {
                Some(ContainerState::Exited(status)) => Some((run.id.clone(), status)),
                _ => None,
            })
            .collect();
        for (id, status) in ended {
            self.take_in_exit(&id, &status);
        }
    }

    fn take_in_start(&mut self, name: &str, result: StartResult) {
        let now = Timestamp::now();
        let Some(index) = self.slots.iter().position(|s| s.container.name == name) else { return };
        let slot = &mut self.slots[index];
        slot.busy = None;
        self.replacing_until = None;
        match result {
            StartResult::Running(run) => {
                slot.begin(*run);
                self.resync();
                self.start_probes(index);
            }
            StartResult::Ended(run) => slot.begin(*run),
            StartResult::Cancelled => {}
            StartResult::Blocked { reason, message } => {
                slot.waiting = Some((reason.into(), message));
                slot.blocked_until = Some(now + RETRY);
            }
            StartResult::Image { reason, message } => {
                slot.pull.advance(now, now);
                let delay = slot.pull.delay().unwrap_or(RETRY);
                slot.blocked_until = Some(now + delay);
                slot.waiting = Some((reason.into(), message.clone()));
                slot.next_waiting = (reason == "ErrImagePull").then(|| {
                    let image = slot.container.image.as_deref().unwrap_or_default();
                    let text = format!("Back-off pulling image {image:?}: {reason}: {message}");
                    (now + IMAGE_ERROR_SHOWN, "ImagePullBackOff".into(), text)
                });
            }
        }
    }

    /// One round of an active pod.
    async fn active(&mut self) {
        if self.deletion_wanted() || self.evicted() || self.deadline_passed() || self.rejected() {
            self.begin_stopping();
            return;
        }
        let now = Timestamp::now();
        if self.restart_all(now) {
            return;
        }
        self.flip_waiting(now);
        self.restart_changed();
        self.resize().await;
        let plan = self.plan(now);
        if let Some(outcome) = plan.outcome {
            return self.end(outcome, &plan.stop);
        }
        for (name, delay) in &plan.backing_off {
            self.note_crash_loop(name, *delay);
        }
        let waits = self.retry_at.is_some_and(|at| at > now);
        if plan.start.is_empty() {
            if self.volumes_ready {
                self.refresh_volumes().await;
            } else if self.sandbox.is_some() && !waits {
                // An adopted pod: its volumes are there, and have to be kept up to date again.
                self.retry_at = (!self.set_up_volumes().await).then(|| Timestamp::now() + RETRY);
            }
            return;
        }
        if waits {
            return;
        }
        self.retry_at = None;
        if !self.prepare().await {
            self.retry_at = Some(Timestamp::now() + RETRY);
            return;
        }
        for name in plan.start {
            self.start_container(&name, now);
        }
    }

    fn plan(&self, now: Timestamp) -> plan::Plan {
        let items: Vec<Item<'_>> = self
            .slots
            .iter()
            .map(|s| Item { container: &s.container, kind: s.kind, brief: s.brief(), backoff: &s.crash })
            .collect();
        plan::plan(&self.pod, &items, now)
    }

    fn flip_waiting(&mut self, now: Timestamp) {
        for slot in &mut self.slots {
            if slot.next_waiting.as_ref().is_none_or(|(at, ..)| *at > now) {
                continue;
            }
            let Some((_, reason, message)) = slot.next_waiting.take() else { continue };
            let field = slot.field_path();
            let image = slot.container.image.as_deref().unwrap_or_default();
            let text = format!("Back-off pulling image {image:?}");
            self.shared.pod_event(&self.pod, Some(&field), false, events::BACK_OFF, text);
            self.shared.pod_event(&self.pod, Some(&field), true, events::FAILED, format!("Error: {reason}"));
            slot.waiting = Some((reason, message));
        }
    }

    /// A container whose image was changed is stopped; the plan starts it again.
    fn restart_changed(&mut self) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let changed = slot.run.as_ref().is_some_and(|r| r.is_running() && r.is_outdated(&slot.container));
            if changed && slot.busy.is_none() {
                let text = format!("Container {} definition changed, will be restarted", slot.container.name);
                self.stop_container(index, &text, None);
            }
        }
    }

    pub(super) fn note_crash_loop(&mut self, name: &str, delay: SignedDuration) {
        let (namespace, pod, uid) = identity(&self.pod);
        let Some(slot) = self.slots.iter_mut().find(|s| s.container.name == name) else { return };
        let whom = format!("{pod}_{namespace}({uid})");
        let text =
            format!("back-off {} restarting failed container={name} pod={whom}", super::backoff::go_seconds(delay));
        let waiting = Some(("CrashLoopBackOff".to_owned(), text));
        if slot.waiting != waiting {
            slot.waiting = waiting;
            let field = slot.field_path();
            let text = format!("Back-off restarting failed container {name} in pod {whom}");
            self.shared.pod_event(&self.pod, Some(&field), true, events::BACK_OFF, text);
        }
    }

    fn start_container(&mut self, name: &str, now: Timestamp) {
        let Some(sandbox) = self.sandbox.clone() else { return };
        let Some(slot) = self.slots.iter().find(|s| s.container.name == name) else { return };
        let looks_at = slot.looks_at.clone().map(|target| {
            let run = self.slots.iter().find(|s| s.container.name == target).and_then(|s| s.run.as_ref());
            let running = run.filter(|r| r.is_running()).map(|r| r.id.clone());
            running.ok_or_else(|| format!("unable to find target container {target}"))
        });
        let Some(slot) = self.slots.iter_mut().find(|s| s.container.name == name) else { return };
        let previous = slot.run.as_ref();
        if let Some(finished) = previous.and_then(|r| r.exit.as_ref()).filter(|_| !slot.outlived) {
            let finished = finished.finished_at.as_ref().map_or(now, |t| t.0);
            slot.crash.advance(finished, now);
        }
        let start = Start {
            shared: self.shared.clone(),
            pod: self.pod.clone(),
            inbox: self.inbox.clone(),
            container: slot.container.clone(),
            field_path: slot.field_path(),
            sandbox: sandbox.id,
            pod_ips: sandbox.ips,
            restart_count: slot.next_restart_count(),
            previous: previous.map(|r| r.id.clone()),
            looks_at,
            cancel: self.cancel.clone(),
        };
        slot.busy = Some(Busy::Starting);
        slot.blocked_until = None;
        let (inbox, name) = (self.inbox.clone(), name.to_owned());
        spawn("start container", async move {
            let result = start.run().await;
            inbox.put(|news| news.starts.push((name, result)));
        });
    }

    /// Notes that the sandbox is gone: what should run starts over in a new one.
    pub(super) fn sandbox_gone(&mut self) {
        self.sandbox = None;
        self.shared.host_ports.set(&identity(&self.pod).2, &self.pod, &[]);
        let now = Timestamp::now();
        for slot in &mut self.slots {
            slot.lose(now);
        }
        let again = |slot: &Slot| {
            slot.kind == Kind::Main
                && slot.run.as_ref().is_none_or(|r| {
                    r.exit.as_ref().is_none_or(|e| plan::should_restart(&self.pod, &slot.container, e.exit_code))
                })
        };
        let restarting: Vec<bool> = self.slots.iter().map(again).collect();
        if restarting.contains(&true) {
            for (slot, again) in self.slots.iter_mut().zip(restarting) {
                slot.outlived = again || matches!(slot.kind, Kind::Init | Kind::Sidecar);
            }
        }
    }

    fn sandbox_lost(&mut self) {
        self.resync();
        let names: Vec<String> = self.slots.iter().map(|s| s.container.name.clone()).collect();
        names.iter().for_each(|name| self.stop_probes(name));
        if let Some(old) = self.sandbox.clone() {
            let text = "Pod sandbox changed, it will be killed and re-created.";
            self.shared.pod_event(&self.pod, None, false, events::SANDBOX_CHANGED, text);
            let shared = self.shared.clone();
            spawn("remove sandbox", async move { super::prepare::remove_sandbox(&shared, &old.id, &old.netns).await });
        }
        self.sandbox_gone();
    }

    /// Nothing will run again: stop what is left, then end.
    fn end(&mut self, _outcome: Outcome, sidecars: &[String]) {
        self.shared.host_ports.release(&identity(&self.pod).2);
        if !sidecars.is_empty() {
            return self.begin_stopping();
        }
        if self.slots.iter().all(|s| s.busy.is_none() && !s.run.as_ref().is_some_and(Run::is_running)) {
            self.life = Life::Ended;
        }
    }

    /// Computes the status and hands it on if it changed.
    pub(super) fn publish(&mut self) {
        let now = Timestamp::now();
        let ended = !matches!(self.life, Life::Active);
        let stopped = self.slots.iter().all(|s| s.busy.is_none() && !s.run.as_ref().is_some_and(Run::is_running));
        let pod_ips: Vec<String> = match &self.sandbox {
            Some(sandbox) => sandbox.ips.iter().map(ToString::to_string).collect(),
            None => self.status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
        };
        let facts = PodFacts {
            containers: self.slots.iter().map(|s| (s.container.name.clone(), s.view())).collect(),
            sandbox_ready: self.sandbox.as_ref().is_some_and(|s| !s.ips.is_empty()),
            pod_ips,
            host_ips: self.shared.config.host_ips(),
            start_time: Some(self.start_time),
            terminal: ended && stopped,
            verdict: self.verdict.clone(),
            resize: self.resize.condition(),
            whole: self.whole_pod(),
        };
        let visible = Visible {
            runs: self
                .slots
                .iter()
                .filter_map(|s| Some((s.container.name.clone(), s.run.as_ref()?)))
                .map(|(name, r)| {
                    (name, VisibleRun { id: r.id.clone(), restart_count: r.restart_count, running: r.is_running() })
                })
                .collect(),
            waiting: self
                .slots
                .iter()
                .filter_map(|s| Some((s.container.name.clone(), s.waiting.as_ref()?.0.clone())))
                .collect(),
            sandbox: self.sandbox.as_ref().map(|s| s.id.clone()),
            volumes_ready: self.volumes_ready,
        };
        *self.visible.lock().unwrap_or_else(PoisonError::into_inner) = visible;
        // Watchers, endpoints among them, need not see what is over in a moment, as they do not upstream.
        if matches!(self.life, Life::Active) && self.replacing_until.is_some_and(|until| until > now) {
            return;
        }
        self.replacing_until = None;
        // A final phase stays as it is.
        if self.is_over() && matches!(self.life, Life::Cleaned) {
            return;
        }
        let status = status::compute(&self.pod, &facts, &self.status, now);
        let runs = |status: &PodStatus| status.phase.as_deref() == Some("Running");
        if runs(&status) && !runs(&self.status) {
            self.shared.metrics.started(self.seen.elapsed());
        }
        self.shared.statuses.set(&self.pod, &status);
        self.status = status;
    }

    /// How long nothing has to be done.
    fn wake(&self) -> Option<Duration> {
        if !matches!(self.life, Life::Active) {
            return None;
        }
        let now = Timestamp::now();
        let flips = self.slots.iter().filter_map(|s| s.next_waiting.as_ref().map(|(at, ..)| *at));
        let plan = if self.restarting_all { plan::Plan::default() } else { self.plan(now) };
        let waits_for_plan = self.retry_at.is_none();
        let planned = plan.wake.into_iter().chain((!plan.start.is_empty() && waits_for_plan).then_some(now));
        let resize = self.resize.retry_at();
        let at = flips
            .chain(planned)
            .chain(resize)
            .chain(self.retry_at)
            .chain(self.tokens.renew_at())
            .chain(self.deadline_at())
            .chain(self.replacing_until)
            .min()?;
        Some(Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(1))
    }

    /// When `activeDeadlineSeconds` is over.
    pub(super) fn deadline_at(&self) -> Option<Timestamp> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        Some(self.start_time + SignedDuration::from_secs(seconds))
    }

    /// Whether the node has decided to end it.
    pub(super) fn evicted(&self) -> bool {
        self.verdict.as_ref().is_some_and(|(reason, _)| reason == status::EVICTED)
    }

    fn deadline_passed(&mut self) -> bool {
        let passed = self.deadline_at().is_some_and(|at| at <= Timestamp::now());
        if passed {
            let text = "Pod was active on the node longer than the specified deadline";
            self.shared.pod_event(&self.pod, None, false, "DeadlineExceeded", text);
            self.verdict = Some(("DeadlineExceeded".into(), text.into()));
        }
        passed
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
