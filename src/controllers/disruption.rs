//! PodDisruptionBudgets: counts how many pods may still go, and takes back announcements of evictions
//! that never came.

use crate::Context;
use crate::objects::{self, now, now_text, seconds};
use naru_api::meta::split_api_version;
use naru_api::registry::{self, POD_DISRUPTION_BUDGETS, PODS};
use naru_client::projections::{
    BudgetCondition, BudgetStatusView, BudgetView, IntOrPercent, OwnerRef, PodView, ReplicaSetView, Selector,
    SelectorTerm, condition,
};
use naru_client::{
    Change, Client, Error, EventRecorder, Informer, ListParams, Next, ObjectKey, ObjectReference, PatchKind, WorkQueue,
    is_not_found,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 2;
/// Seconds in which an announced eviction should have come.
const PATIENCE_SECONDS: i64 = 120;
const TARGET: &str = "DisruptionTarget";

struct Budgets {
    client: Client,
    recorder: EventRecorder,
    budgets: Informer<BudgetView>,
    pods: Informer<PodView>,
    sets: Informer<ReplicaSetView>,
    queue: WorkQueue<ObjectKey>,
    /// Pods that have been told that they will go.
    targets: WorkQueue<ObjectKey>,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let budgets: Informer<BudgetView> = context.informers.start(&POD_DISRUPTION_BUDGETS, ListParams::all());
    let (pods, sets) = (context.informers.pods(), context.informers.replica_sets());
    let controller = Arc::new(Budgets {
        client: context.client.clone(),
        recorder: context.recorder("controllermanager"),
        budgets: budgets.clone(),
        pods: pods.clone(),
        sets: sets.clone(),
        queue: WorkQueue::new(),
        targets: WorkQueue::new(),
    });
    let queue = controller.queue.clone();
    budgets.subscribe(move |change| queue.add(change.key.clone()));
    let taker = controller.clone();
    pods.subscribe(move |change| taker.pod_changed(change));
    let taker = controller.clone();
    sets.subscribe(move |change| taker.scale_changed(&change.key.namespace));
    let taker = controller.clone();
    context.informers.deployments().subscribe(move |change| {
        let replicas = |side: &Option<Arc<_>>| {
            side.as_ref().map(|d: &Arc<naru_client::projections::DeploymentView>| d.spec.replicas)
        };
        if replicas(&change.old) != replicas(&change.new) {
            taker.scale_changed(&change.key.namespace);
        }
    });
    let synced = |(budgets, pods, sets): (Informer<BudgetView>, Informer<PodView>, Informer<ReplicaSetView>)| async move {
        budgets.synced().await;
        pods.synced().await;
        sets.synced().await;
    };
    let caches = (budgets, pods, sets);
    let runner = controller.clone();
    context.run(&controller.queue, WORKERS, synced(caches.clone()), move |key| {
        let controller = runner.clone();
        async move { controller.reconcile(&key).await }
    });
    let runner = controller.clone();
    context.run(&controller.targets, 1, synced(caches), move |key| {
        let controller = runner.clone();
        async move { controller.check_target(&key).await }
    });
}

fn selects(budget: &BudgetView, pod: &PodView) -> bool {
    budget.spec.selector.as_ref().is_some_and(|selector| selector.matches(&pod.metadata.labels))
}

/// Whether a pod is told that it will go, by somebody who may change their mind.
fn is_target(pod: &PodView) -> bool {
    let told = condition(&pod.status.conditions, TARGET);
    let told = told.is_some_and(|told| told.status == "True" && told.reason != "TerminationByKubelet");
    told && pod.is_active()
}

impl Budgets {
    fn pod_changed(&self, change: &Change<PodView>) {
        for budget in self.budgets.by_namespace(&change.key.namespace) {
            if change.old.iter().chain(&change.new).any(|pod| selects(&budget, pod)) {
                self.queue.add(budget.metadata.key());
            }
        }
        if change.new.as_ref().is_some_and(|pod| is_target(pod)) {
            self.targets.add(change.key.clone());
        }
    }

    /// Budgets in parts of a whole follow the whole.
    fn scale_changed(&self, namespace: &str) {
        for budget in self.budgets.by_namespace(namespace) {
            let by_scale = matches!(budget.spec.min_available, Some(IntOrPercent::Percent(_)));
            if by_scale || budget.spec.max_unavailable.is_some() {
                self.queue.add(budget.metadata.key());
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(budget) = self.budgets.get_key(key) else { return Ok(Next::Done) };
        let mut pods = self.pods.by_namespace(&key.namespace);
        pods.retain(|pod| selects(&budget, pod));
        let about = ObjectReference::of(&POD_DISRUPTION_BUDGETS, &budget.metadata);
        if pods.is_empty() {
            self.recorder.normal(&about, "NoPods", "No matching pods found");
        }
        let time = now();
        let counted = match self.expected(&budget, &pods).await? {
            Ok((expected, desired)) => {
                let (disrupted, recheck) = self.disrupted(&budget, &pods, time);
                (count(&budget, &pods, expected, desired, disrupted), recheck)
            }
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.recorder.warning(&about, "CalculateExpectedPodCountFailed", message);
                let mut status = budget.status.clone();
                status.disruptions_allowed = 0;
                let generation = status.observed_generation;
                allow(&mut status.conditions, "False", "SyncFailed", &why, generation);
                (status, None)
            }
        };
        let (status, recheck) = counted;
        if status != budget.status {
            // An eviction that has spent from the budget meanwhile must not be undone.
            let (client, meta) = (&self.client, &budget.metadata);
            objects::replace_status(client, &POD_DISRUPTION_BUDGETS, meta, &meta.resource_version, &status).await?;
        }
        Ok(recheck.map_or(Next::Done, |wait| Next::After(Duration::from_secs(wait.max(1)))))
    }

    /// How many pods there should be, and how many of them healthy; or why that cannot be told.
    async fn expected(&self, budget: &BudgetView, pods: &[Arc<PodView>]) -> Result<Result<(i32, i32), String>, Error> {
        let spec = &budget.spec;
        let all = i32::try_from(pods.len()).unwrap_or(i32::MAX);
        if let (None, Some(IntOrPercent::Int(minimum))) = (&spec.max_unavailable, &spec.min_available) {
            return Ok(Ok((all, *minimum)));
        }
        if spec.max_unavailable.is_none() && spec.min_available.is_none() {
            return Ok(Ok((0, 0)));
        }
        let scale = match self.scale(budget, pods).await? {
            Ok(scale) => scale,
            Err(why) => return Ok(Err(why)),
        };
        let desired = match (&spec.max_unavailable, &spec.min_available) {
            (Some(maximum), _) => (scale - maximum.of(scale, true)).max(0),
            (None, minimum) => minimum.as_ref().map_or(0, |minimum| minimum.of(scale, true)),
        };
        Ok(Ok((scale, desired)))
    }

    /// The sum of what the pods' controllers want.
    async fn scale(&self, budget: &BudgetView, pods: &[Arc<PodView>]) -> Result<Result<i32, String>, Error> {
        let (mut scales, mut unmanaged) = (HashMap::<String, i32>::new(), 0);
        for pod in pods {
            let Some(owner) = pod.metadata.controller() else {
                unmanaged += 1;
                continue;
            };
            if scales.contains_key(&owner.uid) {
                continue;
            }
            match self.scale_of(&pod.metadata.namespace, owner).await? {
                Ok(None) => return Ok(Err(format!("found no controllers for pod {:?}", pod.metadata.name))),
                Ok(Some((uid, scale))) => {
                    // A Deployment counts once for all of its sets.
                    if uid != owner.uid {
                        scales.insert(owner.uid.clone(), 0);
                    }
                    scales.insert(uid, scale);
                }
                Err(why) => return Ok(Err(why)),
            }
        }
        if unmanaged > 0 {
            let about = ObjectReference::of(&POD_DISRUPTION_BUDGETS, &budget.metadata);
            let selector = budget.spec.selector.as_ref().map_or_else(|| "nil".to_owned(), as_go_prints);
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
            );
            self.recorder.warning(&about, "UnmanagedPods", message);
        }
        Ok(Ok(scales.values().fold(0, |sum, scale| sum.saturating_add(*scale))))
    }

    /// The uid of what scales a pod's controller, and how many pods it wants.
    async fn scale_of(
        &self,
        namespace: &str,
        owner: &OwnerRef,
    ) -> Result<Result<Option<(String, i32)>, String>, Error> {
        if owner.kind == registry::REPLICA_SETS.kind
            && let Some(set) = self.sets.get_key(&ObjectKey::new(namespace, &owner.name))
            && set.metadata.uid == owner.uid
            && let Some(above) = set.metadata.controller()
        {
            return self.replicas(namespace, above).await;
        }
        self.replicas(namespace, owner).await
    }

    async fn replicas(
        &self,
        namespace: &str,
        owner: &OwnerRef,
    ) -> Result<Result<Option<(String, i32)>, String>, Error> {
        let (group, version) = split_api_version(&owner.api_version);
        let Some(resource) = registry::by_kind(group, version, &owner.kind) else { return Ok(Ok(None)) };
        if resource.subresource("scale").is_none() {
            let name =
                if group.is_empty() { resource.plural.to_owned() } else { format!("{}.{group}", resource.plural) };
            return Ok(Err(format!("{name} does not implement the scale subresource")));
        }
        let found: Result<Value, Error> = self.client.get(resource, Some(namespace), &owner.name).await;
        match found {
            Ok(object) if object["metadata"]["uid"] == owner.uid.as_str() => {
                let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
                Ok(Ok(Some((owner.uid.clone(), i32::try_from(replicas).unwrap_or(i32::MAX)))))
            }
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(Ok(None)),
        }
    }

    /// Pods whose eviction has been allowed and that are still there; and the seconds until one of them
    /// is late.
    fn disrupted(
        &self,
        budget: &BudgetView,
        pods: &[Arc<PodView>],
        now: i64,
    ) -> (BTreeMap<String, String>, Option<u64>) {
        let (mut kept, mut recheck) = (BTreeMap::new(), None::<i64>);
        for pod in pods.iter().filter(|pod| !pod.metadata.is_deleting()) {
            let Some(time) = budget.status.disrupted_pods.get(&pod.metadata.name) else { continue };
            let left = seconds(time) + PATIENCE_SECONDS - now;
            if left < 0 {
                let about = ObjectReference::of(&PODS, &pod.metadata);
                let namespace = &budget.metadata.namespace;
                let message = format!("Pod was expected by PDB {namespace}/{namespace} to be deleted but it wasn't");
                self.recorder.warning(&about, "NotDeleted", message);
            } else {
                recheck = Some(recheck.map_or(left, |other| other.min(left)));
                kept.insert(pod.metadata.name.clone(), time.clone());
            }
        }
        (kept, recheck.map(|left| u64::try_from(left + 1).unwrap_or_default()))
    }

    /// Takes the announcement back from a pod that is still there after a while.
    async fn check_target(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(pod) = self.pods.get_key(key).filter(|pod| is_target(pod)) else { return Ok(Next::Done) };
        let since = condition(&pod.status.conditions, TARGET).map_or(0, |told| seconds(&told.last_transition_time));
        let left = since + PATIENCE_SECONDS - now();
        if left > 0 {
            return Ok(Next::After(Duration::from_secs(u64::try_from(left).unwrap_or_default())));
        }
        let meta = &pod.metadata;
        let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [
            {"type": TARGET, "status": "False", "lastTransitionTime": now_text(), "reason": null, "message": null}]}});
        let (client, kind) = (&self.client, PatchKind::Strategic);
        match client.patch::<Value>(&PODS, meta.namespace(), &meta.name, Some("status"), kind, &patch).await {
            Err(error) if is_not_found(&error) => Ok(Next::Done),
            other => other.map(|_| Next::Done),
        }
    }
}

/// A selector as upstream's messages show it.
fn as_go_prints(selector: &Selector) -> String {
    let labels = selector.match_labels.iter().map(|(key, value)| format!("{key}: {value},"));
    let demands = selector.match_expressions.iter().map(|term| {
        let SelectorTerm { key, operator, values } = term;
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},", values.join(" "))
    });
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}",
        labels.collect::<String>(),
        demands.collect::<String>()
    )
}

fn count(
    budget: &BudgetView,
    pods: &[Arc<PodView>],
    expected: i32,
    desired: i32,
    disrupted: BTreeMap<String, String>,
) -> BudgetStatusView {
    let healthy = pods
        .iter()
        .filter(|pod| !pod.metadata.is_deleting() && pod.is_ready() && !disrupted.contains_key(&pod.metadata.name));
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { healthy.saturating_sub(desired).max(0) };
    let mut status = BudgetStatusView {
        observed_generation: budget.metadata.generation,
        disrupted_pods: disrupted,
        disruptions_allowed: allowed,
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods: expected,
        conditions: budget.status.conditions.clone(),
    };
    let (allows, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    allow(&mut status.conditions, allows, reason, "", budget.metadata.generation);
    status
}

/// Sets the condition; its time is that of the last change of its status.
fn allow(conditions: &mut Vec<BudgetCondition>, status: &str, reason: &str, message: &str, generation: i64) {
    const ALLOWED: &str = "DisruptionAllowed";
    let mut condition = BudgetCondition {
        kind: ALLOWED.to_owned(),
        status: status.to_owned(),
        observed_generation: generation,
        last_transition_time: now_text(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    match conditions.iter_mut().find(|present| present.kind == ALLOWED) {
        None => conditions.push(condition),
        Some(present) => {
            if present.status == condition.status {
                condition.last_transition_time.clone_from(&present.last_transition_time);
            }
            *present = condition;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_shown_as_upstream_shows_it() {
        let selector: Selector = serde_json::from_value(json!({"matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]}))
        .unwrap();
        assert_eq!(
            as_go_prints(&selector),
            "&LabelSelector{MatchLabels:map[string]string{a: 1,b: 2,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}"
        );
    }

    #[tokio::test]
    async fn an_eviction_that_never_came_is_taken_back() {
        let script = crate::suite::Scripted::new();
        let shutdown = naru_base::Shutdown::new();
        let client = naru_client::Client::new(script.clone());
        let controller = Budgets {
            recorder: EventRecorder::start(client.clone(), &registry::EVENTS, "controllermanager", None, &shutdown),
            client,
            budgets: Informer::detached(),
            pods: Informer::detached(),
            sets: Informer::detached(),
            queue: WorkQueue::new(),
            targets: WorkQueue::new(),
        };
        let announce = |name: &str, age: i64, reason: &str, phase: &str| {
            let since = naru_api::meta::time::format_seconds(now() - age);
            let told = json!({"type": TARGET, "status": "True", "reason": reason, "lastTransitionTime": since});
            let pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name},
                "status": {"phase": phase, "conditions": [told]}});
            let pod: PodView = serde_json::from_value(pod).unwrap();
            controller.pods.apply(ObjectKey::new("d", name), String::new(), Some(pod));
        };
        announce("stale", 200, "EvictionByEvictionAPI", "Running");
        announce("fresh", 10, "EvictionByEvictionAPI", "Running");
        announce("ended", 200, "EvictionByEvictionAPI", "Failed");
        announce("by-its-node", 200, "TerminationByKubelet", "Running");
        let check = async |name: &str| {
            let next = controller.check_target(&ObjectKey::new("d", name)).await.unwrap();
            (next == Next::Done, script.bodies(&format!("/pods/{name}/status")).len())
        };
        assert_eq!(check("stale").await, (true, 1));
        assert_eq!(check("fresh").await, (false, 0), "it is looked at again");
        assert_eq!((check("ended").await, check("by-its-node").await), ((true, 0), (true, 0)));
        let written = &script.bodies("/pods/stale/status")[0]["status"]["conditions"][0];
        assert_eq!((&written["type"], &written["status"]), (&json!(TARGET), &json!("False")));
        shutdown.trigger();
    }

    #[test]
    fn healthy_pods_beyond_those_desired_may_go() {
        let budget: BudgetView = serde_json::from_value(json!({"metadata": {"generation": 2}})).unwrap();
        let pod = |name: &str, ready: &str, deleting: bool| {
            let mut pod =
                json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
            if deleting {
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            Arc::new(serde_json::from_value::<PodView>(pod).unwrap())
        };
        let pods = [
            pod("a", "True", false),
            pod("b", "True", false),
            pod("c", "False", false),
            pod("d", "True", true),
            pod("e", "True", false),
        ];
        let disrupted = BTreeMap::from([("e".to_owned(), "2026-01-01T00:00:00Z".to_owned())]);
        let status = count(&budget, &pods, 5, 1, disrupted);
        assert_eq!((status.current_healthy, status.disruptions_allowed, status.observed_generation), (2, 1, 2));
        assert_eq!(status.conditions[0].reason, "SufficientPods");
        let status = count(&budget, &pods, 5, 2, BTreeMap::new());
        assert_eq!((status.current_healthy, status.disruptions_allowed), (3, 1));
        let status = count(&budget, &[], 0, 0, BTreeMap::new());
        assert_eq!((status.disruptions_allowed, status.conditions[0].reason.as_str()), (0, "InsufficientPods"));
    }
}
