//! The row of a pod: readiness, the one word that sums up its state, restarts.

use crate::table;
use crate::tree::{flag, int, list, some_text, text};
use serde_json::Value;

/// What the walk over the container statuses gathers.
#[derive(Default)]
struct Summary {
    ready: usize,
    restarts: i64,
    last_restart: Option<i64>,
    reason: String,
}

impl Summary {
    fn count(&mut self, status: &Value) {
        self.restarts = self.restarts.saturating_add(int(&status["restartCount"]));
        let finished = &status["lastState"]["terminated"]["finishedAt"];
        self.last_restart = self.last_restart.max(finished.as_str().and_then(table::seconds));
    }
}

fn condition_is_true(pod: &Value, kind: &str) -> bool {
    list(&pod["status"]["conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True")
}

/// Whether a container of the spec is a sidecar: an init container that is restarted always.
fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn exit_text(terminated: &Value) -> String {
    match (some_text(&terminated["reason"]), int(&terminated["signal"])) {
        (Some(reason), _) => reason.to_owned(),
        (None, 0) => format!("ExitCode:{}", int(&terminated["exitCode"])),
        (None, signal) => format!("Signal:{signal}"),
    }
}

/// Walks the init containers; true while the pod is still initialising.
fn init_containers(pod: &Value, all: &mut Summary, sidecars: &mut Summary) -> bool {
    let specs = list(&pod["spec"]["initContainers"]);
    for (i, status) in list(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
        let sidecar = specs.iter().any(|c| c["name"] == status["name"] && is_sidecar(c));
        all.count(status);
        if sidecar {
            sidecars.count(status);
        }
        let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if terminated.is_object() && int(&terminated["exitCode"]) == 0 {
            continue;
        }
        if sidecar && flag(&status["started"]) {
            if flag(&status["ready"]) {
                all.ready += 1;
            }
            continue;
        }
        let why = text(&waiting["reason"]);
        all.reason = if terminated.is_object() {
            format!("Init:{}", exit_text(terminated))
        } else if !why.is_empty() && why != "PodInitializing" {
            format!("Init:{why}")
        } else {
            format!("Init:{i}/{}", specs.len())
        };
        return true;
    }
    false
}

fn containers(pod: &Value, summary: &mut Summary) {
    let mut running = false;
    for status in list(&pod["status"]["containerStatuses"]).iter().rev() {
        summary.count(status);
        let state = &status["state"];
        if let Some(reason) = some_text(&state["waiting"]["reason"]) {
            summary.reason = reason.to_owned();
        } else if state["terminated"].is_object() {
            summary.reason = exit_text(&state["terminated"]);
        } else if flag(&status["ready"]) && state["running"].is_object() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = condition_is_true(pod, "Ready");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn summarize(pod: &Value) -> Summary {
    let status = &pod["status"];
    let phase = text(&status["phase"]);
    let mut all = Summary { reason: some_text(&status["reason"]).unwrap_or(phase).to_owned(), ..Summary::default() };
    let gated =
        list(&status["conditions"]).iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated");
    if gated {
        all.reason = "SchedulingGated".to_owned();
    }
    let mut sidecars = Summary::default();
    let initializing = init_containers(pod, &mut all, &mut sidecars);
    if !initializing || condition_is_true(pod, "Initialized") {
        all.restarts = sidecars.restarts;
        all.last_restart = sidecars.last_restart;
        containers(pod, &mut all);
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        if status["reason"] == "NodeLost" {
            all.reason = "Unknown".to_owned();
        } else if phase != "Succeeded" && phase != "Failed" {
            all.reason = "Terminating".to_owned();
        }
    }
    all
}

/// `1/2`, `<none>` without gates.
fn readiness_gates(pod: &Value) -> String {
    let gates = list(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|g| condition_is_true(pod, text(&g["conditionType"]))).count();
    format!("{open}/{}", gates.len())
}

/// The cells of a pod's row.
pub(super) fn row(pod: &Value, now: i64) -> Vec<Value> {
    let spec = &pod["spec"];
    let summary = summarize(pod);
    let sidecars = list(&spec["initContainers"]).iter().filter(|c| is_sidecar(c)).count();
    let total = list(&spec["containers"]).len() + sidecars;
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts > 0 => {
            format!("{} ({} ago)", summary.restarts, table::duration(now - last))
        }
        _ => summary.restarts.to_string(),
    };
    let status = &pod["status"];
    let ip = some_text(&status["podIPs"][0]["ip"]).unwrap_or(text(&status["podIP"]));
    vec![
        table::name(pod),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restarts.into(),
        table::created(pod, now),
        table::or_none(ip),
        table::or_none(text(&spec["nodeName"])),
        table::or_none(text(&status["nominatedNodeName"])),
        readiness_gates(pod).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(pod: Value, expect: [&str; 3]) {
        let cells = row(&pod, 1_000);
        let got: Vec<&str> = cells[1..4].iter().map(text).collect();
        assert_eq!(got, expect, "{pod}");
    }

    #[test]
    fn states_of_a_pod() {
        let one = json!({"containers": [{"name": "a"}]});
        check(json!({"spec": one, "status": {"phase": "Pending"}}), ["0/1", "Pending", "0"]);
        check(
            json!({"spec": one, "status": {"phase": "Pending", "containerStatuses": [
                {"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}),
            ["0/1", "ImagePullBackOff", "0"],
        );
        check(
            json!({"spec": one, "status": {"phase": "Running", "containerStatuses": [{"ready": true, "restartCount": 3,
                "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "1970-01-01T00:16:35Z"}}}]}}),
            ["1/1", "Running", "3 (5s ago)"],
        );
        check(
            json!({"spec": one, "status": {"phase": "Failed", "containerStatuses": [
                {"state": {"terminated": {"exitCode": 3}}}]}}),
            ["0/1", "ExitCode:3", "0"],
        );
        check(json!({"spec": one, "status": {"phase": "Failed", "reason": "Evicted"}}), ["0/1", "Evicted", "0"]);
        check(
            json!({"metadata": {"deletionTimestamp": "1970-01-01T00:00:00Z"}, "spec": one, "status": {"phase": "Running"}}),
            ["0/1", "Terminating", "0"],
        );
    }

    #[test]
    fn init_containers_and_sidecars() {
        let spec = json!({"containers": [{"name": "a"}], "initContainers": [
            {"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
        check(
            json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"running": {}}}]}}),
            ["0/2", "Init:0/2", "0"],
        );
        check(
            json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}),
            ["0/2", "Init:CrashLoopBackOff", "2"],
        );
        check(
            json!({"spec": spec, "status": {"phase": "Running",
                "initContainerStatuses": [
                    {"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 0}}},
                    {"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}],
                "containerStatuses": [{"ready": true, "state": {"running": {}}}]}}),
            ["2/2", "Running", "1"],
        );
    }
}
