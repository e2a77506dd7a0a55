//! The status that a pod shows: pure.

use crate::life::{Life, Look};
use naru_api::meta::time::format_seconds;
use naru_client::projections::{ContainerView, PodView, condition};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// Whether the published status says what the containers do. Others may have changed it: a node that was silent
/// finds its pods not ready.
pub(crate) fn agrees(pod: &PodView, look: Look, restarts: i32) -> bool {
    let count = pod.status.container_statuses.first().map(|status| status.restart_count);
    pod.status.phase == phase(look) && pod.is_ready() == is_ready(pod, look) && count == Some(restarts)
}

fn phase(look: Look) -> &'static str {
    match look {
        Look::Running { .. } | Look::Waiting { .. } => "Running",
        Look::Ended { code: 0 } => "Succeeded",
        Look::Ended { .. } => "Failed",
    }
}

/// Whether the pod is ready as a whole: its containers are, and all its readiness gates are open.
fn is_ready(pod: &PodView, look: Look) -> bool {
    let open = |kind: &str| condition(&pod.status.conditions, kind).is_some_and(|gate| gate.status == "True");
    look == Look::Running { ready: true } && pod.spec.readiness_gates.iter().all(|gate| open(&gate.condition_type))
}

/// What to write.
pub(crate) fn of(pod: &PodView, look: Look, life: &Life, ip: Ipv4Addr, host: Ipv4Addr) -> Value {
    let now = format_seconds(jiff::Timestamp::now().as_second());
    let started = format_seconds(life.started_at);
    let containers: Vec<Value> =
        pod.spec.containers.iter().map(|container| container_status(container, look, life, &started, &now)).collect();
    let inits: Vec<Value> = pod
        .spec
        .init_containers
        .iter()
        .map(|container| {
            let as_main = container.restart_policy == "Always";
            let look = if as_main { look } else { Look::Ended { code: 0 } };
            let mut status = container_status(container, look, life, &started, &now);
            if !as_main {
                status["ready"] = true.into();
            }
            status
        })
        .collect();
    let since = match pod.status.start_time.as_str() {
        "" => started.as_str(),
        since => since,
    };
    let mut status = json!({
        "phase": phase(look),
        "observedGeneration": pod.metadata.generation,
        "startTime": since,
        "hostIP": host, "hostIPs": [{"ip": host}],
        "conditions": conditions(pod, look, &now),
        "containerStatuses": containers,
    });
    if !matches!(look, Look::Ended { .. }) || !pod.status.pod_ip.is_empty() {
        status["podIP"] = json!(ip);
        status["podIPs"] = json!([{ "ip": ip }]);
    }
    if !inits.is_empty() {
        status["initContainerStatuses"] = inits.into();
    }
    status
}

fn conditions(pod: &PodView, look: Look, now: &str) -> Value {
    let ended = matches!(look, Look::Ended { .. });
    let completed = (look == Look::Ended { code: 0 }).then_some("PodCompleted");
    let main = look == Look::Running { ready: true };
    let not_ready = match look {
        Look::Ended { code: 0 } => Some("PodCompleted"),
        Look::Ended { .. } => Some("PodFailed"),
        _ => Some("ContainersNotReady"),
    };
    let gated = if main { Some("ReadinessGatesNotReady") } else { not_ready };
    let ready = is_ready(pod, look);
    let all = [
        ("PodReadyToStartContainers", !ended, None),
        ("Initialized", true, completed),
        ("Ready", ready, gated.filter(|_| !ready)),
        ("ContainersReady", main, not_ready.filter(|_| !main)),
    ];
    let conditions = all.into_iter().map(|(kind, holds, reason)| {
        let status = if holds { "True" } else { "False" };
        let before = condition(&pod.status.conditions, kind).filter(|before| before.status == status);
        let since = before.map_or(now, |before| before.last_transition_time.as_str());
        json!({"type": kind, "status": status, "reason": reason, "lastProbeTime": null, "lastTransitionTime": since,
               "observedGeneration": pod.metadata.generation})
    });
    conditions.collect()
}

fn container_status(container: &ContainerView, look: Look, life: &Life, started: &str, now: &str) -> Value {
    let id = format!("simulated://{}/{}", container.name, life.restarts);
    let terminated = |code: i32| {
        let reason = if code == 0 { "Completed" } else { "Error" };
        json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now,
                              "containerID": id}})
    };
    let (state, last) = match look {
        Look::Running { .. } => (json!({"running": {"startedAt": started}}), json!({})),
        Look::Waiting { code } => (json!({"waiting": {"reason": "CrashLoopBackOff"}}), terminated(code)),
        Look::Ended { code } => (terminated(code), json!({})),
    };
    json!({
        "name": container.name,
        "state": state, "lastState": last,
        "ready": look == Look::Running { ready: true },
        "started": matches!(look, Look::Running { .. }),
        "restartCount": life.restarts,
        "image": container.image, "imageID": format!("simulated://{}", container.image), "containerID": id,
    })
}
