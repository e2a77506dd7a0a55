//! Preemption: which less important pods make room for one that fits nowhere.

use crate::cache::Cache;
use crate::cycle::{Refusals, Unschedulable, fits};
use crate::plugins::Context;
use crate::pod_info::PodInfo;
use naru_client::projections::{Meta, PodView, Selector, condition};
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Nodes that are tried for one pod; more are not looked at once one of them does.
const CANDIDATES: usize = 100;

/// What upstream says first: the plug-in for devices is asked before, and has nothing to do.
const BEFORE: &str = "no new claims to deallocate, ";

/// A PodDisruptionBudget as far as it matters here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Budget {
    metadata: Meta,
    spec: BudgetSpec,
    status: BudgetStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct BudgetSpec {
    selector: Option<Selector>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BudgetStatus {
    disruptions_allowed: i64,
    disrupted_pods: BTreeMap<String, String>,
}

/// Room that is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Nomination {
    /// Where.
    pub(crate) node: String,
    /// Who has to go.
    pub(crate) victims: Vec<Arc<PodInfo>>,
}

struct Candidate {
    nomination: Nomination,
    violations: usize,
}

/// Finds the node where the least harm makes room, or says why there is none, as users know it.
pub(crate) fn find(
    pod: &PodInfo,
    cache: &mut Cache,
    refused: &Unschedulable,
    budgets: &[Arc<Budget>],
) -> Result<Nomination, String> {
    if pod.pod.spec.preemption_policy == "Never" {
        return Err(format!("{BEFORE}preemption: not eligible due to preemptionPolicy=Never."));
    }
    if waits_for_victims(pod, cache, refused) {
        return Err(format!("{BEFORE}preemption: not eligible due to a terminating pod on the nominated node."));
    }
    // Who is not less important, and waits for room that was made, has it already.
    let kept = cache.keep_room(pod);
    let found = find_among(pod, cache, refused, budgets);
    cache.clear_room(&kept);
    found
}

fn find_among(
    pod: &PodInfo,
    cache: &mut Cache,
    refused: &Unschedulable,
    budgets: &[Arc<Budget>],
) -> Result<Nomination, String> {
    let mut refusals = Refusals::default();
    let mut best: Option<Candidate> = None;
    let mut found = 0;
    for node in &refused.crowded {
        match on_node(pod, cache, node, budgets) {
            Ok(candidate) => {
                found += 1;
                if best.as_ref().is_none_or(|best| harm(&candidate) < harm(best)) {
                    best = Some(candidate);
                }
            }
            Err(reasons) => reasons.iter().for_each(|reason| refusals.add_times(reason, 1)),
        }
        if found >= CANDIDATES {
            break;
        }
    }
    if let Some(best) = best {
        return Ok(best.nomination);
    }
    let helpless = refused.nodes - refused.crowded.len();
    refusals.add_times("Preemption is not helpful for scheduling", helpless);
    Err(format!("{BEFORE}preemption: 0/{} nodes are available: {}.", refused.nodes, refusals.text()))
}

/// Whether room has been made already, and its pods are still going.
fn waits_for_victims(pod: &PodInfo, cache: &Cache, refused: &Unschedulable) -> bool {
    let Some(name) = cache.nomination(pod.uid()) else { return false };
    let Some(info) = cache.node(name).filter(|_| refused.crowded.iter().any(|crowded| crowded == name)) else {
        return false;
    };
    let going = |other: &PodView| {
        let target = condition(&other.status.conditions, "DisruptionTarget");
        other.metadata.is_deleting() && target.is_some_and(|target| target.reason == "PreemptionByScheduler")
    };
    info.pods.values().any(|other| other.priority() < pod.priority() && going(&other.pod))
}

/// The least that has to go from one node, or why nothing helps.
fn on_node(pod: &PodInfo, cache: &mut Cache, node: &str, budgets: &[Arc<Budget>]) -> Result<Candidate, Vec<String>> {
    let Some(info) = cache.node(node) else { return Err(Vec::new()) };
    let mut lesser: Vec<Arc<PodInfo>> =
        info.pods.values().filter(|other| other.priority() < pod.priority()).cloned().collect();
    if lesser.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".to_owned()]);
    }
    // The most important are spared first.
    lesser.sort_by_key(|pod| importance(pod));
    let assumed: Vec<bool> = lesser.iter().map(|other| cache.is_assumed(other.uid())).collect();
    for other in &lesser {
        cache.remove_pod(other.uid());
    }
    let outcome = spare(pod, cache, node, &lesser, budgets);
    for (other, assumed) in lesser.into_iter().zip(assumed) {
        put_back(cache, other, node, assumed);
    }
    outcome
}

fn put_back(cache: &mut Cache, pod: Arc<PodInfo>, node: &str, assumed: bool) {
    if assumed { cache.assume(pod, node) } else { cache.set_pod(pod) }
}

/// With all of `lesser` gone from the cache: puts back as many as can stay.
fn spare(
    pod: &PodInfo,
    cache: &mut Cache,
    node: &str,
    lesser: &[Arc<PodInfo>],
    budgets: &[Arc<Budget>],
) -> Result<Candidate, Vec<String>> {
    let fit = |cache: &Cache| match cache.node(node) {
        Some(info) => fits(&Context::new(pod, cache), info)
            .map_err(|unfit| unfit.reasons.iter().map(ToString::to_string).collect()),
        None => Err(Vec::new()),
    };
    fit(cache)?;
    let (protected, free) = split(lesser, budgets);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (group, is_protected) in [(protected, true), (free, false)] {
        for other in group {
            cache.assume(other.clone(), node);
            if fit(cache).is_err() {
                cache.remove_pod(other.uid());
                violations += usize::from(is_protected);
                victims.push(other);
            }
        }
    }
    victims.sort_by_key(|pod| importance(pod));
    Ok(Candidate { nomination: Nomination { node: node.to_owned(), victims }, violations })
}

/// Higher priority first, then the one that has run for longer.
fn importance(pod: &PodInfo) -> (Reverse<i32>, String) {
    (Reverse(pod.priority()), started(&pod.pod).to_owned())
}

/// When a pod was started; one that was not is the youngest.
fn started(pod: &PodView) -> &str {
    match pod.status.start_time.as_str() {
        "" => "9999",
        since => since,
    }
}

/// Pods whose removal a budget forbids, and the rest.
fn split(pods: &[Arc<PodInfo>], budgets: &[Arc<Budget>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut allowed: Vec<i64> = budgets.iter().map(|budget| budget.status.disruptions_allowed).collect();
    pods.iter().cloned().partition(|pod| {
        let mut forbidden = false;
        for (budget, left) in budgets.iter().zip(&mut allowed) {
            if budget.covers(&pod.pod) && !budget.status.disrupted_pods.contains_key(&pod.pod.metadata.name) {
                *left -= 1;
                forbidden |= *left < 0;
            }
        }
        forbidden
    })
}

impl Budget {
    fn covers(&self, pod: &PodView) -> bool {
        let selector = self.spec.selector.as_ref().filter(|selector| !selector.is_empty());
        self.metadata.namespace == pod.metadata.namespace
            && !pod.metadata.labels.is_empty()
            && selector.is_some_and(|selector| selector.matches(&pod.metadata.labels))
    }
}

/// The smaller the better: broken budgets, the most important victim, all their importance, their number, and how
/// long the oldest of the most important has run.
fn harm(candidate: &Candidate) -> (usize, i64, i64, usize, Reverse<String>) {
    let victims = &candidate.nomination.victims;
    let priorities = || victims.iter().map(|victim| i64::from(victim.priority()));
    let highest = priorities().max().unwrap_or(i64::MIN);
    // Negative priorities count too, so each is lifted above zero.
    let sum = priorities().map(|priority| priority + i64::from(i32::MAX) + 1).sum();
    let most_important = victims.iter().filter(|victim| i64::from(victim.priority()) == highest);
    let earliest = most_important.map(|victim| started(&victim.pod)).min().unwrap_or_default();
    (candidate.violations, highest, sum, victims.len(), Reverse(earliest.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::cycle::choose;
    use crate::testing::{labelled_node, node, pod, tainted_node};
    use serde_json::{Value, json};

    fn of(name: &str, cpu: &str, priority: i32, more: Value) -> PodInfo {
        let mut spec = json!({
            "priority": priority,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut pod = pod(name, spec);
        pod.metadata.labels.insert("app".to_owned(), name.to_owned());
        PodInfo::new(Arc::new(pod))
    }

    fn on(name: &str, cpu: &str, priority: i32, node: &str) -> Arc<PodInfo> {
        Arc::new(of(name, cpu, priority, json!({ "nodeName": node })))
    }

    fn cluster(pods: &[Arc<PodInfo>]) -> Cache {
        let mut cache = Cache::default();
        cache.set_node(node("a", "2", "8Gi"));
        cache.set_node(node("b", "2", "8Gi"));
        for pod in pods {
            cache.set_pod(pod.clone());
        }
        cache
    }

    /// Where room is made and who goes, or what users are told.
    fn check(cache: &mut Cache, pod: &PodInfo, budgets: &[Arc<Budget>], expected: &str) {
        let requested = |cache: &Cache| cache.nodes().map(|(_, info)| info.requested.clone()).collect::<Vec<_>>();
        let before = requested(cache);
        let refused = choose(pod, cache, &mut 0, |_| 0, &mut Vec::new()).unwrap_err();
        let outcome = match find(pod, cache, &refused, budgets) {
            Ok(found) => {
                let names: Vec<&str> = found.victims.iter().map(|victim| victim.pod.metadata.name.as_str()).collect();
                format!("{}: {}", found.node, names.join(" "))
            }
            Err(why) => why,
        };
        assert_eq!(outcome, expected);
        assert_eq!(requested(cache), before, "trying changes nothing");
    }

    #[test]
    fn the_fewest_and_least_important_go() {
        let mut cache = cluster(&[on("x", "1", 5, "a"), on("y", "1", 1, "a"), on("z", "2", 5, "b")]);
        check(&mut cache, &of("p", "1", 10, json!({})), &[], "a: y");
        check(&mut cache, &of("p", "2", 10, json!({})), &[], "b: z");
        let mut cache = cluster(&[on("x", "2", 20, "a"), on("z", "2", 7, "b")]);
        check(&mut cache, &of("p", "1", 10, json!({})), &[], "b: z");
    }

    #[test]
    fn what_does_not_help_is_said() {
        let mut cache = cluster(&[on("x", "2", 10, "a"), on("z", "2", 10, "b")]);
        let nobody = "no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
        check(&mut cache, &of("p", "1", 10, json!({})), &[], nobody);
        let huge = "no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
        check(&mut cache, &of("p", "9", 20, json!({})), &[], huge);
        let never = json!({"preemptionPolicy": "Never"});
        let said = "no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.";
        check(&mut cache, &of("p", "1", 20, never), &[], said);
        let mut cache = Cache::default();
        cache.set_node(tainted_node("t", "NoSchedule"));
        let tainted = "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
        check(&mut cache, &of("p", "1", 20, json!({})), &[], tainted);
        let mut cache = cluster(&[on("x", "1", 20, "a"), on("y", "1", 1, "a"), on("z", "2", 20, "b")]);
        let still = "no new claims to deallocate, preemption: 0/2 nodes are available: 1 Insufficient cpu, \
            1 No preemption victims found for incoming pod.";
        check(&mut cache, &of("p", "2", 10, json!({})), &[], still);
    }

    #[test]
    fn budgets_are_kept_where_another_node_does() {
        let budget = json!({
            "metadata": {"namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "x"}}},
            "status": {"disruptionsAllowed": 0},
        });
        let budgets = [Arc::new(serde_json::from_value::<Budget>(budget).unwrap())];
        let mut cache = cluster(&[on("x", "2", 1, "a"), on("z", "2", 5, "b")]);
        check(&mut cache, &of("p", "1", 10, json!({})), &[], "a: x");
        check(&mut cache, &of("p", "1", 10, json!({})), &budgets, "b: z");
    }

    #[test]
    fn pods_that_go_already_are_waited_for() {
        let mut cache = cluster(&[on("z", "2", 20, "b")]);
        let mut victim = (*on("x", "2", 1, "a").pod).clone();
        victim.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
        cache.set_pod(Arc::new(PodInfo::new(Arc::new(victim.clone()))));
        let pod = Arc::new(of("p", "1", 10, json!({})));
        cache.nominate(pod.clone(), "a");
        check(&mut cache, &pod, &[], "a: x");
        victim.status.conditions = vec![naru_client::projections::Condition {
            kind: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: "PreemptionByScheduler".to_owned(),
            ..Default::default()
        }];
        cache.set_pod(Arc::new(PodInfo::new(Arc::new(victim))));
        let waits =
            "no new claims to deallocate, preemption: not eligible due to a terminating pod on the nominated node.";
        check(&mut cache, &pod, &[], waits);
    }

    #[test]
    fn room_that_was_made_for_one_is_not_made_again_for_the_next() {
        let mut cache = cluster(&[on("x", "2", 1, "a"), on("z", "2", 5, "b")]);
        let first = Arc::new(of("p", "2", 10, json!({})));
        check(&mut cache, &first, &[], "a: x");
        cache.nominate(first, "a");
        check(&mut cache, &of("q", "2", 10, json!({})), &[], "b: z");
        let none = "no new claims to deallocate, preemption: 0/2 nodes are available: 1 Insufficient cpu, \
            1 No preemption victims found for incoming pod.";
        check(&mut cache, &of("r", "2", 3, json!({})), &[], none);
    }

    #[test]
    fn who_may_never_come_is_nobodys_company() {
        let mut cache = cluster(&[]);
        for name in ["a", "b"] {
            cache.set_node(labelled_node(name, &[("zone", name)]));
        }
        let db = Arc::new(of("db", "1", 10, json!({})));
        cache.nominate(db.clone(), "a");
        let term = json!({"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "zone"});
        let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
        let fan = of("fan", "1", 1, near);
        assert!(choose(&fan, &mut cache, &mut 0, |_| 0, &mut Vec::new()).is_err());
        cache.assume(db, "a");
        assert_eq!(choose(&fan, &mut cache, &mut 0, |_| 0, &mut Vec::new()).unwrap(), "a");
    }

    #[test]
    fn room_that_was_made_is_kept_for_the_more_important() {
        let mut cache = cluster(&[on("z", "2", 5, "b")]);
        let important = Arc::new(of("p", "2", 10, json!({})));
        cache.nominate(important.clone(), "a");
        assert!(choose(&of("q", "1", 1, json!({})), &mut cache, &mut 0, |_| 0, &mut Vec::new()).is_err());
        assert_eq!(choose(&of("r", "1", 20, json!({})), &mut cache, &mut 0, |_| 0, &mut Vec::new()).unwrap(), "a");
        assert_eq!(choose(&important, &mut cache, &mut 0, |_| 0, &mut Vec::new()).unwrap(), "a");
        cache.end_nomination(important.uid());
        assert_eq!(choose(&of("q", "1", 1, json!({})), &mut cache, &mut 0, |_| 0, &mut Vec::new()).unwrap(), "a");
    }
}
