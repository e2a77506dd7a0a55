//! Tables for the computed pod status.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use serde_json::json;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + secs).unwrap()
}

fn pod(policy: &str, init: &[&str], main: &[&str]) -> Pod {
    let container = |name: &&str| match name.starts_with('s') {
        true => json!({"name": name, "image": "img", "restartPolicy": "Always"}),
        false => json!({"name": name, "image": "img"}),
    };
    serde_json::from_value(json!({"metadata": {"generation": 3}, "spec": {"restartPolicy": policy,
        "initContainers": init.iter().map(container).collect::<Vec<_>>(),
        "containers": main.iter().map(container).collect::<Vec<_>>()}}))
    .unwrap()
}

fn running() -> ContainerView {
    ContainerView { state: State::Running(at(0)), started: true, ready: true, ..Default::default() }
}

fn ended(code: i32) -> ContainerView {
    let t = ContainerStateTerminated { exit_code: code, ..Default::default() };
    ContainerView { state: State::Terminated(Box::new(t)), ..Default::default() }
}

fn crash_loop() -> ContainerView {
    ContainerView {
        state: State::Waiting(Some(("CrashLoopBackOff".into(), "back-off".into()))),
        last: Some(Box::default()),
        ..Default::default()
    }
}

fn facts(containers: &[(&str, ContainerView)]) -> PodFacts {
    PodFacts { containers: containers.iter().map(|(n, v)| (n.to_string(), v.clone())).collect(), ..Default::default() }
}

fn check_phase(pod: &Pod, containers: &[(&str, ContainerView)], expect: &str) {
    let status = compute(pod, &facts(containers), &PodStatus::default(), at(1));
    assert_eq!(status.phase.as_deref(), Some(expect), "{containers:?}");
}

#[test]
fn phases() {
    let always = pod("Always", &[], &["m"]);
    check_phase(&always, &[], "Pending");
    check_phase(&always, &[("m", running())], "Running");
    check_phase(&always, &[("m", ended(1))], "Running");
    check_phase(&always, &[("m", crash_loop())], "Running");
    let never = pod("Never", &[], &["m", "n"]);
    check_phase(&never, &[("m", ended(0)), ("n", running())], "Running");
    check_phase(&never, &[("m", ended(0)), ("n", ended(0))], "Succeeded");
    check_phase(&never, &[("m", ended(0)), ("n", ended(2))], "Failed");
    check_phase(&never, &[("m", ended(0))], "Pending");
    let on_failure = pod("OnFailure", &[], &["m"]);
    check_phase(&on_failure, &[("m", ended(1))], "Running");
    check_phase(&on_failure, &[("m", ended(0))], "Succeeded");
    let init = pod("Never", &["i"], &["m"]);
    check_phase(&init, &[("i", running())], "Pending");
    check_phase(&init, &[("i", ended(1))], "Failed");
    check_phase(&init, &[("i", ended(0)), ("m", running())], "Running");
    let sidecar = pod("Never", &["s"], &["m"]);
    check_phase(&sidecar, &[("s", running()), ("m", ended(0))], "Running");
    check_phase(&sidecar, &[("s", ended(137)), ("m", ended(0))], "Succeeded");
}

#[test]
fn a_stopped_pod_has_a_final_phase_whatever_its_policy() {
    let pod = pod("Always", &[], &["m"]);
    let mut facts = facts(&[("m", ended(0))]);
    facts.terminal = true;
    let phase = |facts: &PodFacts| compute(&pod, facts, &PodStatus::default(), at(1)).phase.unwrap();
    assert_eq!(phase(&facts), "Succeeded");
    facts.containers.insert("m".into(), ended(137));
    assert_eq!(phase(&facts), "Failed");
    facts.containers.insert("m".into(), ContainerView::default());
    assert_eq!(phase(&facts), "Failed");
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
    status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == type_).unwrap()
}

fn check_condition(status: &PodStatus, type_: &str, expect: (&str, Option<&str>, Option<&str>)) {
    let c = condition(status, type_);
    assert_eq!((c.status.as_str(), c.reason.as_deref(), c.message.as_deref()), expect, "{type_}");
}

#[test]
fn conditions_of_a_pod_that_starts() {
    let pod = pod("Always", &["i"], &["m"]);
    let status = compute(&pod, &facts(&[]), &PodStatus::default(), at(1));
    let order: Vec<&str> = status.conditions.as_ref().unwrap().iter().map(|c| c.type_.as_str()).collect();
    assert_eq!(order, ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]);
    let open = Some("containers with incomplete status: [i]");
    check_condition(&status, "Initialized", ("False", Some("ContainersNotInitialized"), open));
    let unready = Some("containers with unready status: [m]");
    check_condition(&status, "Ready", ("False", Some("ContainersNotReady"), unready));
    check_condition(&status, "PodScheduled", ("True", None, None));
    assert_eq!(condition(&status, "Ready").observed_generation, Some(3));
    let waiting = status.container_statuses.as_ref().unwrap()[0].state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
}

#[test]
fn completed_and_failed_pods_say_why_they_are_not_ready() {
    let never = pod("Never", &[], &["m"]);
    let done = compute(&never, &facts(&[("m", ended(0))]), &PodStatus::default(), at(1));
    check_condition(&done, "Ready", ("False", Some("PodCompleted"), None));
    check_condition(&done, "Initialized", ("True", Some("PodCompleted"), None));
    let failed = compute(&never, &facts(&[("m", ended(1))]), &PodStatus::default(), at(1));
    check_condition(&failed, "ContainersReady", ("False", Some("PodFailed"), None));
}

#[test]
fn transition_times_move_only_when_the_status_does() {
    let pod = pod("Always", &[], &["m"]);
    let first = compute(&pod, &facts(&[]), &PodStatus::default(), at(1));
    let second = compute(&pod, &facts(&[("m", running())]), &first, at(5));
    assert_eq!(condition(&second, "Ready").last_transition_time, Some(Time(at(5))));
    assert_eq!(condition(&second, "PodScheduled").last_transition_time, Some(Time(at(1))));
    let third = compute(&pod, &facts(&[("m", running())]), &second, at(9));
    assert_eq!(third, second);
}

#[test]
fn readiness_gates_hold_a_pod_back_and_foreign_conditions_stay() {
    let mut pod = pod("Always", &[], &["m"]);
    pod.spec.as_mut().unwrap().readiness_gates =
        serde_json::from_value(json!([{"conditionType": "example.com/gate"}])).unwrap();
    let facts = facts(&[("m", running())]);
    let status = compute(&pod, &facts, &PodStatus::default(), at(1));
    let absent = Some("corresponding condition of pod readiness gate \"example.com/gate\" does not exist.");
    check_condition(&status, "Ready", ("False", Some("ReadinessGatesNotReady"), absent));
    check_condition(&status, "ContainersReady", ("True", None, None));
    let old = PodStatus {
        conditions: Some(vec![PodCondition {
            type_: "example.com/gate".into(),
            status: "True".into(),
            ..Default::default()
        }]),
        ..Default::default()
    };
    let status = compute(&pod, &facts, &old, at(1));
    check_condition(&status, "Ready", ("True", None, None));
    check_condition(&status, "example.com/gate", ("True", None, None));
}
