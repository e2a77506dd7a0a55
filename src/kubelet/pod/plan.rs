//! What to do next for a pod's containers: a pure function of their states.

use super::backoff::CrashBackoff;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

/// The part that a container plays in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs to completion before the next one.
    Init,
    /// An init container that stays.
    Sidecar,
    /// An ordinary container.
    Main,
    /// One that was added to look at the others: it runs once, and nothing depends on it.
    Ephemeral,
}

/// When a container that ended starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Whatever its exit code.
    Always,
    /// After a failure.
    OnFailure,
    /// Not at all.
    Never,
}

impl Restart {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text? {
            "Always" => Some(Self::Always),
            "OnFailure" => Some(Self::OnFailure),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }

    fn applies(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// What a container is doing, as far as planning cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brief {
    /// Never started in this sandbox, or ready to be tried again.
    Absent,
    /// Cannot be tried before the given time (image or configuration is missing).
    Blocked(Timestamp),
    /// Being started or stopped.
    Busy,
    /// Running; whether its startup is over.
    Running {
        /// Startup probe passed (or there is none) and the postStart hook is done.
        started: bool,
    },
    /// Ended.
    Exited {
        /// Exit code.
        code: i32,
        /// When it ended.
        finished_at: Timestamp,
    },
}

/// One container to plan for.
#[derive(Debug)]
pub struct Item<'a> {
    /// Its specification.
    pub container: &'a Container,
    /// Its part.
    pub kind: Kind,
    /// What it is doing.
    pub brief: Brief,
    /// Its back-off.
    pub backoff: &'a CrashBackoff,
}

/// How a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All containers ended well.
    Succeeded,
    /// At least one did not.
    Failed,
}

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Containers to start.
    pub start: Vec<String>,
    /// Containers that wait for their back-off, with the whole delay.
    pub backing_off: Vec<(String, SignedDuration)>,
    /// Sidecars to stop since their pod is done.
    pub stop: Vec<String>,
    /// When to look again.
    pub wake: Option<Timestamp>,
    /// Set once nothing will run again.
    pub outcome: Option<Outcome>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Starts or delays a container that is not running.
    fn revive(&mut self, item: &Item<'_>, now: Timestamp) {
        match item.brief {
            Brief::Absent => self.start.push(item.container.name.clone()),
            Brief::Blocked(until) if until <= now => self.start.push(item.container.name.clone()),
            Brief::Blocked(until) => self.wake_at(until),
            Brief::Exited { finished_at, .. } => match item.backoff.remaining(finished_at, now) {
                None => self.start.push(item.container.name.clone()),
                Some(left) => {
                    self.backing_off.push((item.container.name.clone(), item.backoff.delay().unwrap_or(left)));
                    self.wake_at(now + left);
                }
            },
            Brief::Busy | Brief::Running { .. } => {}
        }
    }
}

/// The containers of `pod` with their parts, init containers first.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (&Container, Kind)> {
    let spec = pod.spec.as_ref();
    let init = spec.into_iter().flat_map(|s| s.init_containers.iter().flatten()).map(|c| {
        let kind = if c.restart_policy.as_deref() == Some("Always") { Kind::Sidecar } else { Kind::Init };
        (c, kind)
    });
    let main = spec.into_iter().flat_map(|s| s.containers.iter()).map(|c| (c, Kind::Main));
    init.chain(main)
}

/// The ephemeral containers of `pod`, as ordinary ones, with the containers that they look at.
pub fn ephemeral(pod: &Pod) -> Vec<(Container, Option<String>)> {
    let list = pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
    // Their fields have the same names.
    let ordinary = |e| serde_json::from_value(serde_json::to_value(e).ok()?).ok();
    list.filter_map(|e| Some((ordinary(e)?, e.target_container_name.clone().filter(|t| !t.is_empty())))).collect()
}

/// Whether `pod` has a container of this name, of whichever kind.
pub fn has_container(pod: &Pod, name: &str) -> bool {
    let ephemeral = || pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
    containers(pod).any(|(c, _)| c.name == name) || ephemeral().any(|c| c.name == name)
}

/// The action of a rule that restarts the whole pod.
pub(super) const RESTART_ALL: &str = "RestartAllContainers";

/// The first rule of a container about this exit code.
pub(super) fn rule(container: &Container, code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        let Some(exit_codes) = &rule.exit_codes else { return false };
        let listed = exit_codes.values.iter().flatten().any(|v| *v == code);
        match exit_codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    })
}

/// Whether a container that ended with `code` is started again.
pub fn should_restart(pod: &Pod, container: &Container, code: i32) -> bool {
    let pod_policy =
        Restart::parse(pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref())).unwrap_or(Restart::Always);
    if rule(container, code).is_some_and(|rule| rule.action == "Restart" || rule.action == RESTART_ALL) {
        return true;
    }
    Restart::parse(container.restart_policy.as_deref()).unwrap_or(pod_policy).applies(code)
}

/// Decides the next steps.
pub fn plan(pod: &Pod, items: &[Item<'_>], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let main_began = items.iter().any(|i| i.kind == Kind::Main && i.brief != Brief::Absent);
    if main_began {
        let finished = main_outcome(pod, items);
        for item in items.iter().filter(|i| i.kind == Kind::Sidecar) {
            match (finished, item.brief) {
                (Some(_), Brief::Running { .. }) => plan.stop.push(item.container.name.clone()),
                (None, _) => plan.revive(item, now),
                _ => {}
            }
        }
        plan.outcome = finished;
        if finished.is_none() {
            plan_main(pod, items, now, &mut plan);
        }
    } else if plan_init(pod, items, now, &mut plan) {
        plan_main(pod, items, now, &mut plan);
    }
    for item in items.iter().filter(|i| i.kind == Kind::Ephemeral) {
        match (plan.outcome, item.brief) {
            (Some(_), Brief::Running { .. }) => plan.stop.push(item.container.name.clone()),
            (None, Brief::Absent | Brief::Blocked(_)) => plan.revive(item, now),
            _ => {}
        }
    }
    plan
}

/// Steps through the init containers; true when all are done.
fn plan_init(pod: &Pod, items: &[Item<'_>], now: Timestamp, plan: &mut Plan) -> bool {
    for item in items.iter().filter(|i| matches!(i.kind, Kind::Init | Kind::Sidecar)) {
        let passed = match (item.kind, item.brief) {
            (Kind::Sidecar, Brief::Running { started }) => started,
            (Kind::Init, Brief::Exited { code: 0, .. }) => true,
            (Kind::Init, Brief::Exited { code, .. }) if !should_restart_init(pod, item.container, code) => {
                plan.outcome = Some(Outcome::Failed);
                plan.stop = running_sidecars(items);
                false
            }
            _ => {
                plan.revive(item, now);
                false
            }
        };
        if !passed {
            return false;
        }
    }
    true
}

/// An init container repeats until it succeeds unless the pod is never to be restarted.
fn should_restart_init(pod: &Pod, container: &Container, code: i32) -> bool {
    should_restart(pod, container, code)
}

fn plan_main(pod: &Pod, items: &[Item<'_>], now: Timestamp, plan: &mut Plan) {
    for item in items.iter().filter(|i| i.kind == Kind::Main) {
        match item.brief {
            Brief::Exited { code, .. } if !should_restart(pod, item.container, code) => {}
            _ => plan.revive(item, now),
        }
    }
}

fn running_sidecars(items: &[Item<'_>]) -> Vec<String> {
    let running = |i: &&Item<'_>| i.kind == Kind::Sidecar && matches!(i.brief, Brief::Running { .. });
    items.iter().filter(running).map(|i| i.container.name.clone()).collect()
}

/// The outcome when all ordinary containers have ended for good.
fn main_outcome(pod: &Pod, items: &[Item<'_>]) -> Option<Outcome> {
    let mut outcome = Outcome::Succeeded;
    for item in items.iter().filter(|i| i.kind == Kind::Main) {
        match item.brief {
            Brief::Exited { code, .. } if !should_restart(pod, item.container, code) => {
                if code != 0 {
                    outcome = Outcome::Failed;
                }
            }
            _ => return None,
        }
    }
    Some(outcome)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + secs).unwrap()
    }

    fn exited(code: i32) -> Brief {
        Brief::Exited { code, finished_at: at(0) }
    }

    const UP: Brief = Brief::Running { started: true };

    fn check(policy: &str, briefs: &[(&str, Brief)], expect: impl Fn(&mut Plan)) {
        // Names say the part: i1, s1 (sidecar), m1.
        let container = |name: &str| match name.chars().next() {
            Some('s') => json!({"name": name, "restartPolicy": "Always"}),
            _ => json!({"name": name}),
        };
        let (main, init): (Vec<_>, Vec<_>) = briefs.iter().partition(|(name, _)| name.starts_with('m'));
        let pod: Pod = serde_json::from_value(json!({"spec": {"restartPolicy": policy,
            "initContainers": init.iter().map(|(n, _)| container(n)).collect::<Vec<_>>(),
            "containers": main.iter().map(|(n, _)| container(n)).collect::<Vec<_>>()}}))
        .unwrap();
        let backoff = CrashBackoff::default();
        let items: Vec<Item<'_>> = containers(&pod)
            .map(|(container, kind)| {
                let brief = briefs.iter().find(|(n, _)| *n == container.name).unwrap().1;
                Item { container, kind, brief, backoff: &backoff }
            })
            .collect();
        let mut want = Plan::default();
        expect(&mut want);
        assert_eq!(plan(&pod, &items, at(1)), want, "{policy} {briefs:?}");
    }

    fn start(names: &[&str]) -> impl Fn(&mut Plan) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        move |plan| plan.start = names.clone()
    }

    #[test]
    fn init_containers_go_one_after_another() {
        check("Always", &[("i1", Brief::Absent), ("i2", Brief::Absent), ("m1", Brief::Absent)], start(&["i1"]));
        check("Always", &[("i1", UP), ("i2", Brief::Absent), ("m1", Brief::Absent)], start(&[]));
        check("Always", &[("i1", exited(0)), ("i2", Brief::Absent), ("m1", Brief::Absent)], start(&["i2"]));
        check("Always", &[("i1", exited(0)), ("m1", Brief::Absent), ("m2", Brief::Absent)], start(&["m1", "m2"]));
        check("Always", &[("i1", exited(3)), ("m1", Brief::Absent)], start(&["i1"]));
        check("Never", &[("i1", exited(3)), ("m1", Brief::Absent)], |p| p.outcome = Some(Outcome::Failed));
    }

    #[test]
    fn sidecars_start_in_order_stay_and_stop_last() {
        check("Never", &[("s1", Brief::Absent), ("i2", Brief::Absent), ("m1", Brief::Absent)], start(&["s1"]));
        check("Never", &[("s1", Brief::Running { started: false }), ("m1", Brief::Absent)], start(&[]));
        check("Never", &[("s1", UP), ("i2", Brief::Absent), ("m1", Brief::Absent)], start(&["i2"]));
        check("Never", &[("s1", exited(0)), ("m1", UP)], start(&["s1"]));
        check("Never", &[("s1", UP), ("m1", exited(0))], |p| {
            p.stop = vec!["s1".into()];
            p.outcome = Some(Outcome::Succeeded);
        });
    }

    #[test]
    fn restart_policies() {
        check("Always", &[("m1", exited(0))], start(&["m1"]));
        check("OnFailure", &[("m1", exited(1)), ("m2", exited(0))], start(&["m1"]));
        check("OnFailure", &[("m1", exited(0))], |p| p.outcome = Some(Outcome::Succeeded));
        check("Never", &[("m1", exited(1)), ("m2", exited(0))], |p| p.outcome = Some(Outcome::Failed));
        check("Never", &[("m1", exited(1)), ("m2", UP)], |_| {});
    }

    #[test]
    fn blocked_containers_wait_for_their_time() {
        check("Always", &[("m1", Brief::Blocked(at(5)))], |p| p.wake = Some(at(5)));
        check("Always", &[("m1", Brief::Blocked(at(1)))], start(&["m1"]));
        check("Always", &[("m1", Brief::Busy)], |_| {});
    }

    #[test]
    fn a_restarted_container_waits_for_its_back_off() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "m"}]}})).unwrap();
        let mut backoff = CrashBackoff::default();
        backoff.advance(at(-20), at(-20));
        let (container, kind) = containers(&pod).next().unwrap();
        let items = [Item { container, kind, brief: exited(1), backoff: &backoff }];
        let got = plan(&pod, &items, at(4));
        assert_eq!(got.backing_off, [("m".to_string(), SignedDuration::from_secs(10))]);
        assert_eq!(got.wake, Some(at(10)));
    }
}
