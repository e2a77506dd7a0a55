//! The arithmetic of rollouts: which set gets how many replicas next. Pure.

use super::{DESIRED, MAX};
use crate::objects::seconds;
use naru_client::projections::{DeploymentView, IntOrPercent, ReplicaSetView};
use std::cmp::Reverse;
use std::sync::Arc;

/// A set, and the replicas that it shall have.
pub(super) type Step = (Arc<ReplicaSetView>, i32);

/// A Deployment's sets.
#[derive(Debug, Default)]
pub(super) struct Sets {
    /// The one of the present template, if it exists.
    pub(super) new: Option<Arc<ReplicaSetView>>,
    /// The others, oldest first.
    pub(super) old: Vec<Arc<ReplicaSetView>>,
}

impl Sets {
    pub(super) fn split(deployment: &DeploymentView, mut all: Vec<Arc<ReplicaSetView>>) -> Self {
        all.sort_by_key(|set| (seconds(&set.metadata.creation_timestamp), set.metadata.name.clone()));
        let wanted = deployment.spec.template.digest;
        let new = all.iter().position(|set| set.spec.template.digest == wanted);
        Self { new: new.map(|index| all.remove(index)), old: all }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSetView>> {
        self.old.iter().chain(&self.new)
    }

    fn replicas(&self) -> i32 {
        self.all().map(|set| set.spec.replicas()).sum()
    }

    fn available(&self) -> i32 {
        self.all().map(|set| set.status.available_replicas).sum()
    }

    fn active(&self) -> Vec<&Arc<ReplicaSetView>> {
        self.all().filter(|set| set.spec.replicas() > 0).collect()
    }
}

/// The pods that a Deployment wants.
pub(super) fn wanted(deployment: &DeploymentView) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

/// How many more there may be for a while.
pub(super) fn surge(deployment: &DeploymentView) -> i32 {
    limits(deployment).0
}

/// How many may be missing for a while.
pub(super) fn max_unavailable(deployment: &DeploymentView) -> i32 {
    limits(deployment).1.min(wanted(deployment))
}

/// Surge and unavailability. If both came to nothing no rollout could ever move.
fn limits(deployment: &DeploymentView) -> (i32, i32) {
    if deployment.spec.strategy.kind == "Recreate" {
        return (0, 0);
    }
    let quarter = IntOrPercent::Percent("25%".to_owned());
    let rolling = deployment.spec.strategy.rolling_update.clone().unwrap_or_default();
    let wanted = wanted(deployment);
    let surge = rolling.max_surge.unwrap_or_else(|| quarter.clone()).of(wanted, true);
    let missing = rolling.max_unavailable.unwrap_or(quarter).of(wanted, false);
    if surge == 0 && missing == 0 { (0, 1) } else { (surge, missing) }
}

/// Sets that a rollout has left behind go down to nothing.
pub(super) fn all_down(sets: &[Arc<ReplicaSetView>]) -> Vec<Step> {
    sets.iter().filter(|set| set.spec.replicas() > 0).map(|set| (set.clone(), 0)).collect()
}

/// The size that a new set starts with.
pub(super) fn first_size(deployment: &DeploymentView, sets: &Sets) -> i32 {
    grown(deployment, sets, 0)
}

/// The size that the new set may grow to, from `now`.
fn grown(deployment: &DeploymentView, sets: &Sets, now: i32) -> i32 {
    let wanted = wanted(deployment);
    if deployment.spec.strategy.kind == "Recreate" {
        return wanted;
    }
    let room = wanted + surge(deployment) - sets.replicas();
    if room <= 0 { now } else { now + room.min(wanted - now) }
}

/// The growth of the new set, or its shrinking to the size wanted.
pub(super) fn up(deployment: &DeploymentView, sets: &Sets) -> Option<Step> {
    let new = sets.new.as_ref()?;
    let now = new.spec.replicas();
    let next = if now > wanted(deployment) { wanted(deployment) } else { grown(deployment, sets, now) };
    (next != now).then(|| (new.clone(), next))
}

/// The shrinking of the old sets, as far as enough pods stay available: those that are not available
/// go first, then the oldest set's.
pub(super) fn down(deployment: &DeploymentView, sets: &Sets) -> Vec<Step> {
    let minimum = wanted(deployment) - max_unavailable(deployment);
    let new = sets.new.as_ref();
    let new_unavailable = new.map_or(0, |new| new.spec.replicas() - new.status.available_replicas);
    let mut budget = sets.replicas() - minimum - new_unavailable;
    if budget <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<i32> = sets.old.iter().map(|set| set.spec.replicas()).collect();
    for (set, size) in sets.old.iter().zip(&mut sizes) {
        let sick = (*size - set.status.available_replicas).clamp(0, budget);
        *size -= sick;
        budget -= sick;
    }
    let mut surplus = sets.available() - minimum;
    for size in &mut sizes {
        let cut = (*size).min(surplus).max(0);
        *size -= cut;
        surplus -= cut;
    }
    let steps = sets.old.iter().cloned().zip(sizes);
    steps.filter(|(set, size)| *size != set.spec.replicas()).collect()
}

/// Whether the Deployment's size has changed since its sets were sized.
pub(super) fn is_resized(deployment: &DeploymentView, sets: &Sets) -> bool {
    let active = sets.active();
    active.iter().any(|set| noted(set, DESIRED).is_some_and(|noted| noted != wanted(deployment)))
}

fn noted(set: &ReplicaSetView, annotation: &str) -> Option<i32> {
    set.metadata.annotations.get(annotation)?.parse().ok()
}

/// Brings the sets to the Deployment's size without going on with the rollout.
pub(super) fn resize(deployment: &DeploymentView, sets: &Sets) -> Vec<Step> {
    let wanted = wanted(deployment);
    let active = sets.active();
    let only = match active.as_slice() {
        [] => sets.new.as_ref().or(sets.old.last()),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(only) = only {
        return vec![(only.clone(), wanted)];
    }
    let saturated = sets.new.as_ref().is_some_and(|new| {
        new.spec.replicas() == wanted && noted(new, DESIRED) == Some(wanted) && new.status.available_replicas == wanted
    });
    if saturated {
        return all_down(&sets.old);
    }
    if deployment.spec.strategy.kind == "Recreate" || active.is_empty() {
        return Vec::new();
    }
    proportionally(deployment, active)
}

/// Several sets share a growth or a shrinking in proportion to their sizes.
fn proportionally(deployment: &DeploymentView, mut active: Vec<&Arc<ReplicaSetView>>) -> Vec<Step> {
    let wanted = wanted(deployment);
    let allowed = if wanted > 0 { wanted + surge(deployment) } else { 0 };
    let change = allowed - active.iter().map(|set| set.spec.replicas()).sum::<i32>();
    // The largest come first; of equals the newest grows first, and the oldest shrinks first.
    active.sort_by_key(|set| {
        let created = seconds(&set.metadata.creation_timestamp);
        (Reverse(set.spec.replicas()), if change > 0 { -created } else { created })
    });
    let mut given = 0;
    let mut steps: Vec<Step> = Vec::with_capacity(active.len());
    for set in active {
        let now = set.spec.replicas();
        let before = noted(set, MAX).filter(|max| *max > 0).unwrap_or(wanted).max(1);
        let share = (f64::from(now) * f64::from(allowed) / f64::from(before)).round() as i32 - now;
        let left = change - given;
        let share = match change {
            0 => 0,
            1.. => share.clamp(0, left),
            _ if wanted == 0 => -now,
            _ => share.clamp(left, 0).max(-now),
        };
        given += share;
        steps.push((set.clone(), now + share));
    }
    if let Some((_, first)) = steps.first_mut() {
        *first = (*first + change - given).max(0);
    }
    steps
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32, surge: &str, unavailable: &str) -> DeploymentView {
        let bound = |text: &str| match text.parse::<i32>() {
            Ok(number) => json!(number),
            Err(_) => json!(text),
        };
        serde_json::from_value(json!({"spec": {
            "replicas": replicas,
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": bound(surge), "maxUnavailable": bound(unavailable)}},
        }}))
        .unwrap()
    }

    /// Name, replicas, available; the Deployment size noted on it is `max`.
    fn set(name: &str, replicas: i32, available: i32, max: i32) -> Arc<ReplicaSetView> {
        let value = json!({
            "metadata": {"name": name, "annotations": {MAX: max.to_string(), DESIRED: max.to_string()}},
            "spec": {"replicas": replicas},
            "status": {"replicas": replicas, "availableReplicas": available},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn sets(new: (i32, i32), old: &[(i32, i32)]) -> Sets {
        let old = old.iter().enumerate();
        Sets {
            new: Some(set("new", new.0, new.1, 10)),
            old: old.map(|(index, old)| set(&format!("old{index}"), old.0, old.1, 10)).collect(),
        }
    }

    fn sizes(steps: &[Step]) -> Vec<(&str, i32)> {
        steps.iter().map(|(set, size)| (set.metadata.name.as_str(), *size)).collect()
    }

    #[test]
    fn the_new_set_grows_within_the_surge() {
        let check = |surge: &str, new, old: &[(i32, i32)], expected: Option<i32>| {
            let step = up(&deployment(10, surge, "0"), &sets(new, old));
            assert_eq!(step.map(|(_, size)| size), expected, "surge {surge}");
        };
        check("25%", (0, 0), &[(10, 10)], Some(3));
        check("25%", (3, 0), &[(10, 10)], None);
        check("25%", (3, 3), &[(7, 7)], Some(6));
        check("100%", (0, 0), &[(10, 10)], Some(10));
        check("2", (10, 10), &[], None);
        check("2", (12, 12), &[], Some(10));
    }

    #[test]
    fn old_sets_shrink_only_while_enough_is_available() {
        let check = |unavailable: &str, new, old: &[(i32, i32)], expected: &[(&str, i32)]| {
            let steps = down(&deployment(10, "25%", unavailable), &sets(new, old));
            assert_eq!(sizes(&steps), expected, "new {new:?} old {old:?}");
        };
        check("0", (3, 0), &[(10, 10)], &[]);
        check("0", (3, 2), &[(10, 10)], &[("old0", 8)]);
        check("2", (3, 0), &[(10, 10)], &[("old0", 8)]);
        // Pods that do not work go first, wherever they are, and count against nothing.
        check("2", (3, 0), &[(5, 5), (5, 3)], &[("old1", 3)]);
        check("0", (10, 10), &[(3, 3)], &[("old0", 0)]);
        // New pods that are not available count as taken from the budget.
        check("2", (5, 0), &[(8, 8)], &[]);
    }

    #[test]
    fn both_limits_at_nothing_still_move() {
        let deployment = deployment(3, "0", "0");
        assert_eq!((surge(&deployment), max_unavailable(&deployment)), (0, 1));
        assert_eq!(sizes(&down(&deployment, &sets((0, 0), &[(3, 3)]))), [("old0", 2)]);
    }

    #[test]
    fn a_rollout_ends_whatever_the_limits() {
        for (surge, unavailable) in [("25%", "25%"), ("0", "1"), ("1", "0"), ("100%", "0"), ("0", "0")] {
            let deployment = deployment(7, surge, unavailable);
            let mut state = sets((0, 0), &[(4, 4), (3, 3)]);
            for round in 0.. {
                assert!(round < 40, "{surge} {unavailable} never ends");
                let steps: Vec<_> =
                    up(&deployment, &state).map_or_else(|| down(&deployment, &state), |step| vec![step]);
                if steps.is_empty() {
                    break;
                }
                for (set, size) in steps {
                    let next = super::tests::set(&set.metadata.name, size, size, 10);
                    for slot in state.old.iter_mut().chain(&mut state.new) {
                        if slot.metadata.name == next.metadata.name {
                            *slot = next.clone();
                        }
                    }
                }
                let available: i32 = state.available();
                assert!(available >= 7 - max_unavailable(&deployment), "{surge} {unavailable}");
                assert!(state.replicas() <= 7 + super::surge(&deployment), "{surge} {unavailable}");
            }
            assert_eq!(state.new.unwrap().spec.replicas(), 7);
            assert!(state.old.iter().all(|set| set.spec.replicas() == 0));
        }
    }

    #[test]
    fn a_resize_in_the_middle_of_a_rollout_is_shared() {
        let check = |wanted: i32, new, old: &[(i32, i32)], expected: &[(&str, i32)]| {
            let state = sets(new, old);
            let deployment = deployment(wanted, "0", "1");
            assert!(is_resized(&deployment, &state));
            let mut steps = resize(&deployment, &state);
            steps.sort_by_key(|(set, _)| set.metadata.name.clone());
            assert_eq!(sizes(&steps), expected);
        };
        check(20, (5, 5), &[(5, 5)], &[("new", 10), ("old0", 10)]);
        check(5, (2, 2), &[(8, 8)], &[("new", 1), ("old0", 4)]);
        check(0, (2, 2), &[(8, 8)], &[("new", 0), ("old0", 0)]);
        check(4, (10, 10), &[], &[("new", 4)]);
    }

    #[test]
    fn the_rounding_goes_to_the_largest_set() {
        let check = |wanted: i32, max: i32, sizes_now: [i32; 3], expected: &[(&str, i32)]| {
            let [new, first, second] = sizes_now;
            let state = Sets {
                new: Some(set("new", new, 0, max)),
                old: vec![set("old0", first, first, max), set("old1", second, second, max)],
            };
            let mut steps = resize(&deployment(wanted, "3", "2"), &state);
            steps.sort_by_key(|(set, _)| set.metadata.name.clone());
            assert_eq!(sizes(&steps), expected);
        };
        check(30, 13, [5, 8, 0], &[("new", 13), ("old0", 20)]);
        check(10, 13, [5, 8, 0], &[("new", 5), ("old0", 8)]);
        check(3, 13, [5, 8, 0], &[("new", 2), ("old0", 4)]);
        check(17, 13, [4, 5, 4], &[("new", 6), ("old0", 8), ("old1", 6)]);
    }
}
