//! What a pod's worker knows of one container: its runs, why it waits, its back-offs.

use super::backoff::CrashBackoff;
use super::plan::{Brief, Kind};
use super::status::{ContainerView, State};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerStateTerminated, ContainerStatus, ContainerUser, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use naru_runtime::{ContainerInfo, ContainerState, ExitStatus};
use std::path::PathBuf;
use std::sync::Arc;

/// Labels that a container carries in the runtime, so that a later agent can adopt it.
pub(crate) mod labels {
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const CONTAINER: &str = "io.kubernetes.container.name";
    pub(crate) const RESTARTS: &str = "io.kubernetes.container.restartCount";
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const IMAGE: &str = "io.naru.image";
    pub(crate) const IMAGE_ID: &str = "io.naru.image-id";
    pub(crate) const STOP_SIGNAL: &str = "io.naru.stop-signal";
    pub(crate) const MESSAGE_FILE: &str = "io.naru.message-file";
    pub(crate) const LOG: &str = "io.naru.log";
    pub(crate) const RESOURCES: &str = "io.naru.resources";
    pub(crate) const USER: &str = "io.naru.user";
}

/// One run of a container.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) restart_count: i32,
    pub(crate) hash: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) stop_signal: i32,
    pub(crate) message_file: Option<PathBuf>,
    pub(crate) log: Option<PathBuf>,
    /// What it was given when it started, or last.
    pub(crate) resources: Option<ResourceRequirements>,
    /// As whom its first process was started.
    pub(crate) user: Option<ContainerUser>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) exit: Option<Box<ContainerStateTerminated>>,
    /// The startup probe passed, or there is none.
    pub(crate) started: bool,
    /// The readiness probe passed, or there is none.
    pub(crate) ready: bool,
}

impl Run {
    /// Reads a run off the runtime.
    pub(crate) fn of(info: &ContainerInfo) -> Self {
        let label = |name: &str| info.labels.get(name).cloned();
        Self {
            id: info.id.clone(),
            restart_count: label(labels::RESTARTS).and_then(|n| n.parse().ok()).unwrap_or(0),
            hash: label(labels::HASH).unwrap_or_default(),
            image: label(labels::IMAGE).unwrap_or_default(),
            image_id: label(labels::IMAGE_ID).unwrap_or_default(),
            stop_signal: label(labels::STOP_SIGNAL).and_then(|n| n.parse().ok()).unwrap_or(15),
            message_file: label(labels::MESSAGE_FILE).map(Into::into),
            log: label(labels::LOG).map(Into::into),
            resources: label(labels::RESOURCES).and_then(|text| serde_json::from_str(&text).ok()),
            user: label(labels::USER).and_then(|text| serde_json::from_str(&text).ok()),
            started_at: info.started_at_ns.map(timestamp),
            exit: None,
            started: false,
            ready: false,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.started_at.is_some() && self.exit.is_none()
    }

    /// Whether the container has been changed since in a way that needs another run.
    pub(crate) fn is_outdated(&self, container: &Container) -> bool {
        !self.hash.is_empty() && self.hash != super::start::hash(container)
    }

    pub(crate) fn uri(&self) -> String {
        container_uri(&self.id)
    }

    /// Notes the end of the run.
    pub(crate) fn end(&mut self, status: &ExitStatus, message: Option<String>) {
        let reason = match status.exit_code {
            _ if status.oom_killed => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        };
        self.exit = Some(Box::new(ContainerStateTerminated {
            container_id: Some(self.uri()),
            exit_code: status.exit_code,
            reason: Some(reason.into()),
            message,
            signal: None,
            started_at: self.started_at.map(Time),
            finished_at: Some(Time(timestamp(status.finished_at_ns))),
        }));
        self.started = false;
        self.ready = false;
    }
}

/// How containers are named in status.
pub(crate) fn container_uri(id: &str) -> String {
    format!("naru://{id}")
}

/// A time from nanoseconds since the epoch.
pub(crate) fn timestamp(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(ns.into()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// How a start came to an end.
#[derive(Debug)]
pub(crate) enum StartResult {
    /// It runs.
    Running(Box<Run>),
    /// It was made, but its command could not be run.
    Ended(Box<Run>),
    /// The image could not be had.
    Image {
        /// `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`.
        reason: &'static str,
        /// Why.
        message: String,
    },
    /// Something else is missing or failed; tried again a little later.
    Blocked {
        /// `CreateContainerConfigError`, `CreateContainerError`.
        reason: &'static str,
        /// Why.
        message: String,
    },
    /// Given up since the pod is ending.
    Cancelled,
}

/// What is being done to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Busy {
    Starting,
    Stopping,
}

/// One container of the pod.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) container: Arc<Container>,
    pub(crate) kind: Kind,
    /// The container whose processes this one sees, beside its own.
    pub(crate) looks_at: Option<String>,
    pub(crate) run: Option<Run>,
    /// `run` belongs to a sandbox that is gone, and is to be followed by another.
    pub(crate) outlived: bool,
    pub(crate) last: Option<Box<ContainerStateTerminated>>,
    pub(crate) waiting: Option<(String, String)>,
    pub(crate) blocked_until: Option<Timestamp>,
    /// What `waiting` becomes at a given time.
    pub(crate) next_waiting: Option<(Timestamp, String, String)>,
    pub(crate) busy: Option<Busy>,
    pub(crate) crash: CrashBackoff,
    pub(crate) pull: CrashBackoff,
}

impl Slot {
    pub(crate) fn new(container: Arc<Container>, kind: Kind) -> Self {
        Self {
            container,
            kind,
            looks_at: None,
            run: None,
            outlived: false,
            last: None,
            waiting: None,
            blocked_until: None,
            next_waiting: None,
            busy: None,
            crash: CrashBackoff::default(),
            pull: CrashBackoff::default(),
        }
    }

    /// The field path that events about this container carry.
    pub(crate) fn field_path(&self) -> String {
        match self.kind {
            Kind::Main => format!("spec.containers{{{}}}", self.container.name),
            Kind::Init | Kind::Sidecar => format!("spec.initContainers{{{}}}", self.container.name),
            Kind::Ephemeral => format!("spec.ephemeralContainers{{{}}}", self.container.name),
        }
    }

    /// The number of the next run.
    pub(crate) fn next_restart_count(&self) -> i32 {
        self.run.as_ref().map_or(0, |run| run.restart_count + 1)
    }

    /// Takes over what an earlier agent published, then what the runtime still has.
    pub(crate) fn adopt(&mut self, published: Option<&ContainerStatus>, found: Option<&ContainerInfo>, now: Timestamp) {
        if let Some(status) = published {
            self.last = status.last_state.as_ref().and_then(|s| s.terminated.clone()).map(Box::new);
            self.run = published_run(status, now);
        }
        let Some(info) = found else { return };
        let mut run = Run::of(info);
        if let Some(before) = self.run.take() {
            if before.id == run.id {
                // Readiness is not lost by the agent's restart.
                (run.started, run.ready) = published.map_or((false, false), |s| (s.started == Some(true), s.ready));
                // It may have been resized since it started.
                run.resources = published.and_then(|s| s.resources.clone()).or(run.resources);
            } else if run.restart_count > before.restart_count {
                self.last = before.exit.or(self.last.take());
            }
        }
        if let ContainerState::Exited(status) = &info.state {
            let message = super::message::read(&run, &self.container, status.exit_code);
            run.end(status, message);
        }
        self.run = Some(run);
    }

    /// What planning has to know.
    pub(crate) fn brief(&self) -> Brief {
        if self.busy.is_some() {
            return Brief::Busy;
        }
        if let Some(until) = self.blocked_until {
            return Brief::Blocked(until);
        }
        match &self.run {
            Some(run) if !self.outlived => match &run.exit {
                Some(exit) => Brief::Exited {
                    code: exit.exit_code,
                    finished_at: exit.finished_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0),
                },
                None => Brief::Running { started: run.started },
            },
            _ => Brief::Absent,
        }
    }

    /// What is published.
    pub(crate) fn view(&self) -> ContainerView {
        let mut view = ContainerView { last: self.last.clone(), ..Default::default() };
        if let Some(run) = &self.run {
            view.restart_count = run.restart_count;
            view.container_id = Some(run.uri());
            view.image = run.image.clone();
            view.image_id = run.image_id.clone();
            view.user = run.user.clone();
            view.started = run.started;
            view.ready = run.ready;
            view.resources = run.resources.clone();
        }
        view.state = match (&self.run, &self.waiting) {
            (Some(Run { exit: None, started_at: Some(since), .. }), _) => State::Running(*since),
            (Some(Run { exit: Some(exit), .. }), waiting) if waiting.is_some() || self.outlived => {
                view.last = Some(exit.clone());
                State::Waiting(waiting.clone())
            }
            (Some(Run { exit: Some(exit), .. }), _) => State::Terminated(exit.clone()),
            (_, waiting) => State::Waiting(waiting.clone()),
        };
        view
    }

    /// Notes a new run.
    pub(crate) fn begin(&mut self, run: Run) {
        if let Some(exit) = self.run.take().and_then(|old| old.exit) {
            self.last = Some(exit);
        }
        self.outlived = false;
        self.waiting = None;
        self.blocked_until = None;
        self.next_waiting = None;
        self.pull.reset();
        self.run = Some(run);
    }

    /// Ends a run whose container disappeared with its sandbox.
    pub(crate) fn lose(&mut self, now: Timestamp) {
        if let Some(run) = self.run.as_mut().filter(|run| run.exit.is_none()) {
            run.exit = Some(Box::new(lost(&run.uri(), run.started_at, now)));
            run.started = false;
            run.ready = false;
        }
    }
}

/// A run whose end nobody saw.
fn lost(uri: &str, started_at: Option<Timestamp>, now: Timestamp) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(uri.to_owned()),
        exit_code: 255,
        reason: Some("Unknown".into()),
        started_at: started_at.map(Time),
        finished_at: Some(Time(now)),
        ..Default::default()
    }
}

/// The run that a published status tells of, ended if it was running.
fn published_run(status: &ContainerStatus, now: Timestamp) -> Option<Run> {
    let uri = status.container_id.clone().filter(|id| !id.is_empty())?;
    let id = uri.strip_prefix("naru://").unwrap_or(&uri).to_owned();
    let state = status.state.clone().unwrap_or_default();
    let started_at = state.running.as_ref().and_then(|r| r.started_at.as_ref()).map(|t| t.0);
    let exit = match (state.terminated, state.running) {
        (Some(terminated), _) => terminated,
        (None, Some(_)) => lost(&uri, started_at, now),
        (None, None) => status.last_state.clone().and_then(|s| s.terminated).unwrap_or_else(|| lost(&uri, None, now)),
    };
    Some(Run {
        id,
        restart_count: status.restart_count,
        hash: String::new(),
        image: status.image.clone(),
        image_id: status.image_id.clone(),
        stop_signal: 15,
        message_file: None,
        log: None,
        resources: None,
        user: status.user.clone(),
        started_at,
        exit: Some(Box::new(exit)),
        started: false,
        ready: false,
    })
}
