//! What a StatefulSet does next, in order and one at a time unless it is parallel. Pure.

use super::REVISION;
use crate::pods::is_available;
use naru_client::projections::{PodView, RevisionView, StatefulSetView};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Pods made in one run.
const BURST: usize = 500;

/// Where a set comes from and where it goes.
#[derive(Debug, Clone)]
pub(super) struct Revisions {
    pub(super) current: Arc<RevisionView>,
    pub(super) update: Arc<RevisionView>,
    /// Names that were found taken, all told.
    pub(super) collisions: i32,
}

/// One thing to do.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// The pod of this number is made, at the current revision or at the update's.
    Create {
        ordinal: i32,
        current: bool,
    },
    Delete(Arc<PodView>),
    /// A pod that is wanted: claims and identity are put right.
    Keep(Arc<PodView>),
    /// A pod that is not wanted any more: its claims may have to go with it.
    Release(Arc<PodView>),
}

/// The number of the set's pod of this name.
pub(super) fn ordinal(set: &StatefulSetView, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(&set.metadata.name)?.strip_prefix('-')?;
    let canonical = digits == "0" || (!digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit()));
    canonical.then(|| digits.parse().ok()).flatten()
}

/// The pods of a set, sorted by what they are to it.
struct Members {
    wanted: BTreeMap<i32, Arc<PodView>>,
    /// Highest number first.
    condemned: Vec<(i32, Arc<PodView>)>,
}

impl Members {
    fn split(set: &StatefulSetView, pods: &[Arc<PodView>]) -> Self {
        let (start, end) = range(set);
        let mut members = Self { wanted: BTreeMap::new(), condemned: Vec::new() };
        for pod in pods {
            match ordinal(set, &pod.metadata.name) {
                Some(number) if (start..end).contains(&number) => drop(members.wanted.insert(number, pod.clone())),
                Some(number) => members.condemned.push((number, pod.clone())),
                None => {}
            }
        }
        members.condemned.sort_by_key(|(number, _)| Reverse(*number));
        members
    }
}

/// Whether the set wants a pod of this name.
pub(super) fn wants(set: &StatefulSetView, pod: &str) -> bool {
    let (start, end) = range(set);
    ordinal(set, pod).is_some_and(|number| (start..end).contains(&number))
}

fn range(set: &StatefulSetView) -> (i32, i32) {
    let start = set.spec.ordinals.start;
    (start, start.saturating_add(set.spec.replicas()))
}

/// Stages of steps: a later one is begun when the earlier ones are done.
pub(super) fn plan(set: &StatefulSetView, revisions: &Revisions, pods: &[Arc<PodView>], now: i64) -> Vec<Vec<Step>> {
    let members = Members::split(set, pods);
    let in_order = set.spec.pod_management_policy != "Parallel";
    let unavailable = |pod: &PodView| pod.metadata.is_deleting() || !is_running_and_available(set, pod, now);
    let (steps, blocked) = wanted(set, revisions, &members, in_order, now);
    let mut stages = vec![steps];
    if blocked {
        return stages;
    }
    stages.push(members.condemned.iter().map(|(_, pod)| Step::Release(pod.clone())).collect());
    let (steps, blocked) = condemned(&members, in_order, unavailable);
    stages.push(steps);
    if !blocked && set.spec.update_strategy.kind != "OnDelete" {
        stages.push(renewal(set, revisions, &members, unavailable));
    }
    stages
}

fn is_running_and_available(set: &StatefulSetView, pod: &PodView, now: i64) -> bool {
    pod.status.phase == "Running" && is_available(pod, set.spec.min_ready_seconds, now)
}

/// Steps for the pods that are wanted, and whether something has to be waited for.
fn wanted(
    set: &StatefulSetView,
    revisions: &Revisions,
    members: &Members,
    in_order: bool,
    now: i64,
) -> (Vec<Step>, bool) {
    let (start, end) = range(set);
    let mut steps = Vec::new();
    let mut created = 0;
    for number in start..end {
        let Some(pod) = members.wanted.get(&number) else {
            let current = keeps_current(set, number) && revisions.current != revisions.update;
            steps.push(Step::Create { ordinal: number, current });
            created += 1;
            if in_order || created == BURST {
                return (steps, true);
            }
            continue;
        };
        if pod.is_finished() {
            if !pod.metadata.is_deleting() {
                steps.push(Step::Delete(pod.clone()));
            }
            if in_order {
                return (steps, true);
            }
            continue;
        }
        if pod.metadata.is_deleting() {
            if in_order {
                return (steps, true);
            }
            continue;
        }
        steps.push(Step::Keep(pod.clone()));
        if in_order && !is_running_and_available(set, pod, now) {
            return (steps, true);
        }
    }
    (steps, false)
}

/// Whether the pod of this number is made at the current revision still.
fn keeps_current(set: &StatefulSetView, number: i32) -> bool {
    let strategy = &set.spec.update_strategy;
    let first_updated = match &strategy.rolling_update {
        _ if strategy.kind != "RollingUpdate" => return false,
        Some(rolling) => rolling.partition,
        None => set.status.current_replicas,
    };
    number < set.spec.ordinals.start.saturating_add(first_updated)
}

/// Steps for the pods that are not wanted, and whether something has to be waited for.
fn condemned(members: &Members, in_order: bool, unavailable: impl Fn(&PodView) -> bool) -> (Vec<Step>, bool) {
    if !in_order {
        let live = members.condemned.iter().filter(|(_, pod)| !pod.metadata.is_deleting());
        return (live.map(|(_, pod)| Step::Delete(pod.clone())).collect(), false);
    }
    let Some((number, last)) = members.condemned.first() else { return (Vec::new(), false) };
    let first_sick = members.condemned.iter().rev().find(|(_, pod)| unavailable(pod));
    let may_go =
        !last.metadata.is_deleting() && (!unavailable(last) || first_sick.is_some_and(|(first, _)| first == number));
    let steps = if may_go { vec![Step::Delete(last.clone())] } else { Vec::new() };
    (steps, true)
}

/// The next pods to be replaced.
fn renewal(
    set: &StatefulSetView,
    revisions: &Revisions,
    members: &Members,
    unavailable: impl Fn(&PodView) -> bool,
) -> Vec<Step> {
    let (start, end) = range(set);
    let rolling = set.spec.update_strategy.rolling_update.as_ref();
    let first = start.saturating_add(rolling.map_or(0, |rolling| rolling.partition));
    let outdated = |pod: &PodView| {
        let updated = pod.metadata.labels.get(REVISION) == Some(&revisions.update.metadata.name);
        !updated && !pod.metadata.is_deleting()
    };
    match rolling.and_then(|rolling| rolling.max_unavailable.as_ref()) {
        None => one_by_one(members, first..end, outdated, unavailable).into_iter().collect(),
        Some(limit) => {
            let limit = limit.of(set.spec.replicas(), false).max(1);
            let available = members.wanted.values().filter(|pod| !unavailable(pod)).count();
            let missing = set.spec.replicas() - i32::try_from(available).unwrap_or(i32::MAX);
            let room = usize::try_from(limit - missing).unwrap_or_default();
            let old = members.wanted.range(first..).rev().map(|(_, pod)| pod).filter(|pod| outdated(pod));
            if set.spec.pod_management_policy != "Parallel" {
                return old.take(room).cloned().map(Step::Delete).collect();
            }
            // Those that do not work anyhow cost nothing.
            let (sick, well): (Vec<_>, Vec<_>) = old.cloned().partition(|pod| unavailable(pod));
            sick.into_iter().chain(well.into_iter().take(room)).map(Step::Delete).collect()
        }
    }
}

/// The highest number first, each when those above are available.
fn one_by_one(
    members: &Members,
    numbers: Range<i32>,
    outdated: impl Fn(&PodView) -> bool,
    unavailable: impl Fn(&PodView) -> bool,
) -> Option<Step> {
    for number in numbers.rev() {
        let pod = members.wanted.get(&number)?;
        if outdated(pod) {
            return Some(Step::Delete(pod.clone()));
        }
        if unavailable(pod) {
            return None;
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(in super::super) fn revisions(current: &str, update: &str) -> Revisions {
        let revision = |name: &str| Arc::new(serde_json::from_value(json!({"metadata": {"name": name}})).unwrap());
        Revisions { current: revision(current), update: revision(update), collisions: 0 }
    }

    pub(in super::super) fn set(replicas: i32, change: impl Fn(&mut Value)) -> StatefulSetView {
        let mut value = json!({
            "metadata": {"name": "web", "generation": 2},
            "spec": {"replicas": replicas, "podManagementPolicy": "OrderedReady",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}},
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    /// `3:new` is a pod that is available; after it may come `!` unready, `p` pending, `x` deleting,
    /// `f` failed.
    pub(in super::super) fn pods(list: &[&str]) -> Vec<Arc<PodView>> {
        let pod = |text: &&str| {
            let (number, rest) = text.split_once(':').unwrap();
            let revision = rest.trim_end_matches(['!', 'p', 'x', 'f']);
            let has = |mark: char| rest[revision.len()..].contains(mark);
            let phase = if has('p') {
                "Pending"
            } else if has('f') {
                "Failed"
            } else {
                "Running"
            };
            let ready = if has('!') || has('p') || has('f') { "False" } else { "True" };
            let mut value = json!({
                "metadata": {"name": format!("web-{number}"), "labels": {REVISION: revision}},
                "status": {"phase": phase, "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            });
            if has('x') {
                value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            Arc::new(serde_json::from_value(value).unwrap())
        };
        list.iter().map(pod).collect()
    }

    /// What is made and deleted.
    fn check(set: &StatefulSetView, present: &[&str], expected: &[&str]) {
        let stages = plan(set, &revisions("old", "new"), &pods(present), i64::MAX / 2);
        let told: Vec<String> = stages
            .iter()
            .flatten()
            .filter_map(|step| match step {
                Step::Create { ordinal, current: false } => Some(format!("+{ordinal}")),
                Step::Create { ordinal, current: true } => Some(format!("+{ordinal} old")),
                Step::Delete(pod) => Some(format!("-{}", ordinal(set, &pod.metadata.name).unwrap())),
                Step::Keep(_) | Step::Release(_) => None,
            })
            .collect();
        assert_eq!(told, expected, "{present:?}");
    }

    #[test]
    fn an_ordered_set_grows_and_shrinks_one_by_one() {
        let three = set(3, |_| {});
        check(&three, &[], &["+0"]);
        check(&three, &["0:new!"], &[]);
        check(&three, &["0:newp"], &[]);
        check(&three, &["0:new"], &["+1"]);
        check(&three, &["0:new", "2:new"], &["+1"]);
        check(&three, &["0:new", "1:newx", "2:new"], &[]);
        check(&three, &["0:new", "1:newf", "2:new"], &["-1"]);
        check(&three, &["0:new", "1:new", "2:new", "3:new", "4:new"], &["-4"]);
        check(&three, &["0:new", "1:new", "2:new", "3:new", "4:newx"], &[]);
        // One that is sick goes first only if no lower one is.
        check(&three, &["0:new", "1:new", "2:new", "3:new!", "4:new!"], &[]);
        check(&three, &["0:new", "1:new", "2:new", "3:new", "4:new!"], &["-4"]);
        // Nothing goes while one that stays is sick.
        check(&three, &["0:new", "1:new!", "2:new", "3:new"], &[]);
    }

    #[test]
    fn a_parallel_set_does_all_at_once() {
        let parallel = set(3, |set| set["spec"]["podManagementPolicy"] = "Parallel".into());
        check(&parallel, &[], &["+0", "+1", "+2"]);
        check(&parallel, &["1:newp", "4:new", "5:new!", "6:newx"], &["+0", "+2", "-5", "-4"]);
        check(&parallel, &["0:newf", "1:new", "2:new"], &["-0"]);
    }

    #[test]
    fn a_rollout_goes_from_the_highest_number_down_to_the_partition() {
        let three = set(3, |_| {});
        check(&three, &["0:old", "1:old", "2:old"], &["-2"]);
        check(&three, &["0:old", "1:old", "2:oldx"], &[]);
        check(&three, &["0:old", "1:old"], &["+2"]);
        check(&three, &["0:old", "1:old", "2:new!"], &[]);
        check(&three, &["0:old", "1:old", "2:new"], &["-1"]);
        check(&three, &["0:new", "1:new", "2:new"], &[]);
        let partitioned = set(3, |set| set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = 2.into());
        check(&partitioned, &["0:old", "1:old", "2:old"], &["-2"]);
        check(&partitioned, &["0:old", "1:old", "2:new"], &[]);
        check(&partitioned, &["0:old"], &["+1 old"]);
        check(&partitioned, &["0:old", "1:old"], &["+2"]);
        let on_delete = set(3, |set| set["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
        check(&on_delete, &["0:old", "1:old", "2:old"], &[]);
        check(&on_delete, &["0:old", "1:old"], &["+2"]);
    }

    #[test]
    fn several_may_be_replaced_at_once_where_the_set_says_so() {
        let set = |policy: &str, limit: Value, partition: i32| {
            set(4, |set| {
                set["spec"]["podManagementPolicy"] = policy.into();
                let rolling = json!({"partition": partition, "maxUnavailable": limit});
                set["spec"]["updateStrategy"]["rollingUpdate"] = rolling;
            })
        };
        let old = ["0:old", "1:old", "2:old", "3:old"];
        for policy in ["OrderedReady", "Parallel"] {
            check(&set(policy, json!(2), 0), &old, &["-3", "-2"]);
            check(&set(policy, json!("50%"), 3), &old, &["-3"]);
            check(&set(policy, json!("10%"), 0), &old, &["-3"]);
            check(&set(policy, json!(3), 0), &["0:old", "1:new", "2:old", "3:new"], &["-2", "-0"]);
        }
        let two = set("Parallel", json!(2), 0);
        check(&two, &["0:old", "1:old", "2:old", "3:new!"], &["-2"]);
        check(&two, &["0:old", "1:old", "2:oldx", "3:new!"], &[]);
        check(&two, &["0:old!", "1:old!", "2:old", "3:old"], &["-1", "-0"]);
        check(&two, &["0:old!", "1:old", "2:old", "3:old"], &["-0", "-3"]);
        check(&two, &["0:old", "1:old", "2:old"], &["+3", "-2"]);
        // In order, whatever is unavailable comes first.
        check(&set("OrderedReady", json!(2), 0), &["0:old", "1:old", "2:old", "3:new!"], &[]);
    }

    #[test]
    fn counting_may_begin_anywhere() {
        let shifted = set(2, |set| set["spec"]["ordinals"] = json!({"start": 5}));
        check(&shifted, &[], &["+5"]);
        check(&shifted, &["5:new", "6:new", "0:new", "7:new"], &["-7"]);
        check(&shifted, &["5:new", "6:new", "0:new"], &["-0"]);
    }

    #[test]
    fn readiness_has_to_last() {
        let patient = set(2, |set| set["spec"]["minReadySeconds"] = 30.into());
        let ready_at = crate::objects::seconds("2026-01-01T00:00:00Z");
        let made = |now: i64| plan(&patient, &revisions("new", "new"), &pods(&["0:new"]), now)[0].len();
        assert_eq!((made(ready_at + 29), made(ready_at + 30)), (1, 2));
    }

    #[test]
    fn names_have_one_number_each() {
        let set = set(1, |_| {});
        assert_eq!(ordinal(&set, "web-0"), Some(0));
        assert_eq!(ordinal(&set, "web-12"), Some(12));
        for other in ["web", "web-", "web-01", "web-x", "web--1", "webb-1", "web-99999999999"] {
            assert_eq!(ordinal(&set, other), None, "{other}");
        }
    }
}
