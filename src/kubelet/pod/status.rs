//! A pod's published status, computed from what the node knows: phase, conditions, container statuses.

use super::plan::{Kind, containers, should_restart};
use super::restart_all::WholePod;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements, VolumeMount, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;

/// What a container is doing now.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Not running, for a reason; `None` is the ordinary start of a pod.
    Waiting(Option<(String, String)>),
    /// Running since.
    Running(Timestamp),
    /// Ended.
    Terminated(Box<ContainerStateTerminated>),
}

/// What the node knows of one container.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// Its state.
    pub state: State,
    /// How the run before ended.
    pub last: Option<Box<ContainerStateTerminated>>,
    /// How often it was started again.
    pub restart_count: i32,
    /// `naru://ID` of the current or last run.
    pub container_id: Option<String>,
    /// Resolved image name, empty before a run.
    pub image: String,
    /// Digest of the image.
    pub image_id: String,
    /// As whom its first process was started.
    pub user: Option<ContainerUser>,
    /// Startup probe and postStart hook are over.
    pub started: bool,
    /// The readiness probe says so, or there is none.
    pub ready: bool,
    /// What it may use at present.
    pub resources: Option<ResourceRequirements>,
}

/// The conditions that the node sets.
/// Set by whoever ends a pod before its time.
const DISRUPTED: &str = "DisruptionTarget";
/// Why a pod that took too much has failed.
pub(super) const EVICTED: &str = "Evicted";
pub(super) const OWN_CONDITIONS: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
    ALL_RESTARTING,
];
/// Tells of a pod that is restarted as a whole.
const ALL_RESTARTING: &str = "AllContainersRestarting";

impl Default for ContainerView {
    fn default() -> Self {
        Self {
            state: State::Waiting(None),
            last: None,
            restart_count: 0,
            container_id: None,
            image: String::new(),
            image_id: String::new(),
            user: None,
            started: false,
            ready: false,
            resources: None,
        }
    }
}

/// What the node knows of one pod.
#[derive(Debug, Clone, Default)]
pub struct PodFacts {
    /// Its containers by name.
    pub containers: BTreeMap<String, ContainerView>,
    /// The sandbox and its network are up.
    pub sandbox_ready: bool,
    /// Addresses of the pod.
    pub pod_ips: Vec<String>,
    /// Addresses of the node.
    pub host_ips: Vec<String>,
    /// When the node accepted the pod.
    pub start_time: Option<Timestamp>,
    /// Nothing will run again, whatever the restart policy.
    pub terminal: bool,
    /// Reason and message of a pod that the node ended or refused.
    pub verdict: Option<(String, String)>,
    /// A condition about new resources: type, reason, message.
    pub resize: Option<(&'static str, Option<&'static str>, Option<String>)>,
    /// Whether all containers are being restarted, or may be.
    pub(super) whole: WholePod,
}

/// Computes the status to publish; `old` gives transition times and what others own.
pub fn compute(pod: &Pod, facts: &PodFacts, old: &PodStatus, now: Timestamp) -> PodStatus {
    let has_init = pod.spec.as_ref().is_some_and(|s| s.init_containers.as_ref().is_some_and(|i| !i.is_empty()));
    let (mut init_statuses, mut statuses) = (Vec::new(), Vec::new());
    for (container, kind) in containers(pod) {
        let status = container_status(container, kind, facts.containers.get(&container.name), has_init);
        if kind == Kind::Main { statuses.push(status) } else { init_statuses.push(status) }
    }
    let ephemeral = super::plan::ephemeral(pod);
    let ephemeral_statuses = ephemeral.iter().map(|(container, _)| {
        container_status(container, Kind::Ephemeral, facts.containers.get(&container.name), false)
    });
    let phase = if facts.verdict.is_some() { "Failed" } else { phase(pod, &init_statuses, &statuses, facts.terminal) };
    let own =
        pod.spec.as_ref().and_then(|s| s.resources.clone()).filter(|r| r.requests.is_some() || r.limits.is_some());
    let mut status = PodStatus {
        phase: Some(phase.into()),
        allocated_resources: own.as_ref().and_then(|r| r.requests.clone()),
        resources: match &facts.resize {
            None => own,
            // Until it is met, what was there before.
            Some(_) => old.resources.clone(),
        },
        observed_generation: pod.metadata.generation,
        host_ip: facts.host_ips.first().cloned(),
        host_ips: list(facts.host_ips.iter().map(|ip| HostIP { ip: ip.clone() })),
        pod_ip: facts.pod_ips.first().cloned(),
        pod_ips: list(facts.pod_ips.iter().map(|ip| PodIP { ip: ip.clone() })),
        start_time: facts.start_time.map(Time),
        qos_class: old.qos_class.clone(),
        nominated_node_name: None,
        reason: facts.verdict.as_ref().map(|(reason, _)| reason.clone()),
        message: facts.verdict.as_ref().map(|(_, message)| message.clone()),
        init_container_statuses: list(init_statuses.into_iter()),
        container_statuses: list(statuses.into_iter()),
        ephemeral_container_statuses: list(ephemeral_statuses),
        ..Default::default()
    };
    status.conditions = Some(conditions(pod, facts, &status, old, now));
    status
}

fn list<T>(items: impl Iterator<Item = T>) -> Option<Vec<T>> {
    let items: Vec<T> = items.collect();
    (!items.is_empty()).then_some(items)
}

fn container_status(
    container: &Container,
    kind: Kind,
    view: Option<&ContainerView>,
    has_init: bool,
) -> ContainerStatus {
    let fresh = ContainerView::default();
    let view = view.unwrap_or(&fresh);
    let running = matches!(view.state, State::Running(_));
    let ready = match kind {
        Kind::Init => matches!(&view.state, State::Terminated(t) if t.exit_code == 0),
        Kind::Sidecar | Kind::Main => running && view.started && view.ready,
        Kind::Ephemeral => false,
    };
    let ordinary = kind != Kind::Ephemeral;
    // A container that an older agent started has what its specification says.
    let resources = view.resources.clone().or_else(|| container.resources.clone()).filter(|_| running && ordinary);
    ContainerStatus {
        name: container.name.clone(),
        state: Some(container_state(&view.state, has_init)),
        last_state: Some(ContainerState { terminated: view.last.as_deref().cloned(), ..Default::default() }),
        ready,
        started: Some(running && view.started).filter(|_| ordinary),
        restart_count: view.restart_count,
        image: if view.image.is_empty() { container.image.clone().unwrap_or_default() } else { view.image.clone() },
        image_id: view.image_id.clone(),
        user: view.user.clone(),
        container_id: view.container_id.clone(),
        allocated_resources: resources.as_ref().and_then(|r| r.requests.clone()),
        resources,
        volume_mounts: list(container.volume_mounts.iter().flatten().map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only,
            recursive_read_only: (mount.read_only == Some(true)).then(|| recursive(mount).into()),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Whether mounts below a read-only one are read-only as well: they are wherever that is asked for.
fn recursive(mount: &VolumeMount) -> &'static str {
    match mount.recursive_read_only.as_deref() {
        Some("Enabled" | "IfPossible") => "Enabled",
        _ => "Disabled",
    }
}

fn container_state(state: &State, has_init: bool) -> ContainerState {
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }),
        ..Default::default()
    };
    match state {
        State::Waiting(None) => waiting(if has_init { "PodInitializing" } else { "ContainerCreating" }, None),
        State::Waiting(Some((reason, message))) => waiting(reason, Some(message.clone()).filter(|m| !m.is_empty())),
        State::Running(since) => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*since)) }),
            ..Default::default()
        },
        State::Terminated(terminated) => {
            ContainerState { terminated: Some((**terminated).clone()), ..Default::default() }
        }
    }
}

fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

fn had_a_run(status: &ContainerStatus) -> bool {
    status.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
}

/// The phase that follows from the container statuses.
fn phase(pod: &Pod, init: &[ContainerStatus], main: &[ContainerStatus], terminal: bool) -> &'static str {
    let kinds: BTreeMap<&str, (&Container, Kind)> = containers(pod).map(|(c, k)| (c.name.as_str(), (c, k))).collect();
    let policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always");
    let mut pending_init = false;
    let main_began = main.iter().any(|s| is_running(s) || terminated(s).is_some() || had_a_run(s));
    for status in init {
        let Some((container, kind)) = kinds.get(status.name.as_str()) else { continue };
        match (kind, terminated(status)) {
            (Kind::Init, Some(t)) if t.exit_code != 0 => {
                if terminal || !should_restart(pod, container, t.exit_code) {
                    return "Failed";
                }
                pending_init = true;
            }
            (Kind::Init, Some(_)) => {}
            (Kind::Sidecar, _) if status.started == Some(true) || terminated(status).is_some() => {}
            _ => pending_init = true,
        }
    }
    if pending_init && !main_began && !terminal {
        return "Pending";
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in main {
        if is_running(status) {
            running += 1;
        } else if let Some(t) = terminated(status) {
            stopped += 1;
            succeeded += usize::from(t.exit_code == 0);
        } else if had_a_run(status) {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    if terminal && running == 0 {
        // A pod that ended before its containers began failed.
        return if stopped > 0 && stopped == succeeded && waiting == 0 { "Succeeded" } else { "Failed" };
    }
    if waiting > 0 {
        return "Pending";
    }
    if running > 0 || (stopped > 0 && policy == "Always") {
        return "Running";
    }
    let sidecar_up = init.iter().any(is_running);
    match stopped {
        0 => "Pending",
        _ if sidecar_up => "Running",
        _ if stopped == succeeded => "Succeeded",
        _ if restarts_something(pod, main) => "Running",
        _ => "Failed",
    }
}

fn restarts_something(pod: &Pod, main: &[ContainerStatus]) -> bool {
    containers(pod).filter(|(_, kind)| *kind == Kind::Main).any(|(container, _)| {
        main.iter().find(|s| s.name == container.name).is_some_and(|status| match terminated(status) {
            Some(t) => should_restart(pod, container, t.exit_code),
            None => had_a_run(status),
        })
    })
}

fn conditions(pod: &Pod, facts: &PodFacts, status: &PodStatus, old: &PodStatus, now: Timestamp) -> Vec<PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let main = status.container_statuses.as_deref().unwrap_or_default();
    let containers_ready = containers_ready(phase, pod, init, main);
    let computed = [
        ("PodReadyToStartContainers", facts.sandbox_ready, None, None),
        initialized(phase, pod, init, main),
        ready(pod, old, containers_ready.clone()),
        ("ContainersReady", containers_ready.0, containers_ready.1, containers_ready.2),
        ("PodScheduled", true, None, None),
    ];
    let old_conditions = old.conditions.as_deref().unwrap_or_default();
    let mut out: Vec<PodCondition> = computed
        .into_iter()
        .chain(all_restarting(phase, facts.whole))
        .map(|(type_, holds, reason, message)| {
            let value = if holds { "True" } else { "False" };
            let before = old_conditions.iter().find(|c| c.type_ == type_);
            let since = before.filter(|c| c.status == value).and_then(|c| c.last_transition_time.clone());
            PodCondition {
                type_: type_.into(),
                status: value.into(),
                reason: reason.map(Into::into),
                message,
                last_transition_time: Some(since.unwrap_or(Time(now))),
                last_probe_time: None,
                observed_generation: pod.metadata.generation,
            }
        })
        .collect();
    if let Some((type_, reason, message)) = &facts.resize {
        let before = old_conditions.iter().find(|c| c.type_ == *type_);
        out.push(PodCondition {
            type_: (*type_).into(),
            status: "True".into(),
            reason: reason.map(Into::into),
            message: message.clone(),
            last_transition_time: Some(before.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now))),
            last_probe_time: None,
            observed_generation: pod.metadata.generation,
        });
    }
    out.extend(old_conditions.iter().filter(|c| !OWN_CONDITIONS.contains(&c.type_.as_str())).cloned());
    let evicted = facts.verdict.as_ref().filter(|(reason, _)| reason == EVICTED);
    if let Some((_, message)) = evicted.filter(|_| !out.iter().any(|c| c.type_ == DISRUPTED)) {
        out.push(PodCondition {
            type_: DISRUPTED.into(),
            status: "True".into(),
            reason: Some("TerminationByKubelet".into()),
            message: Some(message.clone()),
            last_transition_time: Some(Time(now)),
            last_probe_time: None,
            observed_generation: pod.metadata.generation,
        });
    }
    out
}

type Condition = (&'static str, bool, Option<&'static str>, Option<String>);

fn all_restarting(phase: &str, whole: WholePod) -> Option<Condition> {
    let (holds, reason, message) = match (phase, whole) {
        (_, WholePod::Fixed) => return None,
        ("Succeeded", _) => (false, Some("PodCompleted"), None),
        ("Failed", _) => (false, Some("PodFailed"), None),
        (_, WholePod::Restartable) => (false, None, None),
        (_, WholePod::Restarting) => {
            (true, Some("RestartAllContainersStarted"), Some("container exited with restart policy rule".to_owned()))
        }
    };
    Some((ALL_RESTARTING, holds, reason, message))
}

fn names<'a>(statuses: impl Iterator<Item = &'a ContainerStatus>) -> String {
    statuses.map(|s| s.name.as_str()).collect::<Vec<_>>().join(" ")
}

fn initialized(phase: &str, pod: &Pod, init: &[ContainerStatus], main: &[ContainerStatus]) -> Condition {
    let name = "Initialized";
    if phase == "Succeeded" {
        return (name, true, Some("PodCompleted"), None);
    }
    let sidecar =
        |status: &ContainerStatus| containers(pod).any(|(c, kind)| c.name == status.name && kind == Kind::Sidecar);
    let began = main.iter().any(|s| is_running(s) || terminated(s).is_some() || had_a_run(s));
    let open = |status: &&ContainerStatus| {
        if sidecar(status) { status.started != Some(true) && !began } else { !status.ready && !began }
    };
    let incomplete = names(init.iter().filter(open));
    if incomplete.is_empty() {
        (name, true, None, None)
    } else {
        let message = format!("containers with incomplete status: [{incomplete}]");
        (name, false, Some("ContainersNotInitialized"), Some(message))
    }
}

fn containers_ready(
    phase: &str,
    pod: &Pod,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> (bool, Option<&'static str>, Option<String>) {
    match phase {
        "Succeeded" => return (false, Some("PodCompleted"), None),
        "Failed" => return (false, Some("PodFailed"), None),
        _ => {}
    }
    let sidecar = |status: &&ContainerStatus| containers(pod).any(|(c, k)| c.name == status.name && k == Kind::Sidecar);
    let unready = names(init.iter().filter(sidecar).chain(main).filter(|s| !s.ready));
    if unready.is_empty() {
        (true, None, None)
    } else {
        (false, Some("ContainersNotReady"), Some(format!("containers with unready status: [{unready}]")))
    }
}

fn ready(pod: &Pod, old: &PodStatus, containers: (bool, Option<&'static str>, Option<String>)) -> Condition {
    if !containers.0 {
        return ("Ready", false, containers.1, containers.2);
    }
    let old_conditions = old.conditions.as_deref().unwrap_or_default();
    let mut problems = Vec::new();
    for gate in pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten()) {
        match old_conditions.iter().find(|c| c.type_ == gate.condition_type) {
            None => problems.push(format!(
                "corresponding condition of pod readiness gate {:?} does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => problems.push(format!(
                "the status of pod readiness gate {:?} is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => {}
        }
    }
    match problems.is_empty() {
        true => ("Ready", true, None, None),
        false => ("Ready", false, Some("ReadinessGatesNotReady"), Some(problems.join(", "))),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
