//! `/eviction`: deletes a pod if its disruption budget allows it.

use super::Call;
use super::body::{self, Expected};
use super::delete;
use super::delete_options::Options;
use crate::cache::{ListAt, Selection};
use crate::clock;
use crate::objects::{self, Put};
use crate::pipeline::State;
use crate::response::{Failure, Outcome, Reply};
use naru_api::facts;
use naru_api::meta;
use naru_api::registry::{self, POD_DISRUPTION_BUDGETS, PODS};
use naru_api::selector::{FieldSelector, LabelSelector};
use naru_api::status::{Status, StatusCause};
use naru_store::{Durability, Expect};
use serde_json::{Value, json};

/// How often a pod or a budget that moves is looked at again.
const ATTEMPTS: usize = 10;
/// Evicted pods that a budget may wait for; more were never confirmed.
const MAX_DISRUPTED: usize = 2000;
/// Seconds after which to ask again while a budget is being worked out.
const RETRY_SECONDS: i32 = 10;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// POST of `/eviction`.
pub(super) async fn evict(call: &Call) -> Outcome {
    let ty = facts::type_by_name("io.k8s.api.policy.v1.Eviction")
        .ok_or_else(|| Box::new(Status::internal("no type Eviction")))?;
    let expected = Expected { group: "policy", version: "v1", kind: "Eviction", ty };
    let eviction = body::decode(call, expected)?.value;
    let name = call.info.name.as_str();
    if meta::name(&eviction) != name {
        return Err(Box::new(Status::bad_request("name in URL does not match name in Eviction object")));
    }
    let namespace = call.namespace(&PODS);
    let mut options = Options::of_eviction(call, &eviction["deleteOptions"])?;
    let mut allowed = false;
    for _ in 0..ATTEMPTS {
        let current = call.state.cache.get(&PODS, namespace, name);
        let current = current.ok_or_else(|| Box::new(Status::not_found("", "pods", name)))?;
        let pod = objects::tree(&current)?;
        options.check_preconditions(&PODS, name, &pod)?;
        if !allowed && !is_ignored(&pod) {
            match budgets(&call.state, &pod).await?.as_slice() {
                [] => {}
                [budget] => spend(call, budget, &pod, options.dry_run).await?,
                _ => return Err(Box::new(Status::failure(500, "", MANY_BUDGETS))),
            }
        }
        // What was taken from a budget is not taken twice.
        allowed = true;
        if options.dry_run {
            break;
        }
        // From here on it is this pod, as it is now.
        if let Some(revision) = mark(&call.state, namespace, name, pod, current.revision()).await? {
            options.pin(revision);
            break;
        }
    }
    delete::delete_one(call, &PODS, namespace, name, &options).await?;
    Ok(Reply::json(201, r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","code":201}"#))
}

const MANY_BUDGETS: &str =
    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";

/// Pods that serve nobody, or will not for long.
fn is_ignored(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || meta::deletion_timestamp(pod).is_some()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The budgets that select the pod.
async fn budgets(state: &State, pod: &Value) -> Result<Vec<Value>, Failure> {
    let all = (LabelSelector::everything(), FieldSelector::everything());
    let selection = Selection::new(Some(meta::namespace(pod)), all.0, all.1);
    let listed = state.cache.list(&POD_DISRUPTION_BUDGETS, &selection, 0, ListAt::Newest).await;
    let listed = listed.map_err(|error| super::read::cache_failure(&error))?;
    let mut found = Vec::new();
    for budget in &listed.objects {
        let budget = objects::tree(budget)?;
        let selector = LabelSelector::from_object(&budget["spec"]["selector"]);
        if selector.is_ok_and(|selector| selector.matches_object(pod)) {
            found.push(budget);
        }
    }
    Ok(found)
}

/// Takes the disruption of a pod from its budget, or says why not.
async fn spend(call: &Call, budget: &Value, pod: &Value, dry_run: bool) -> Result<(), Failure> {
    let name = meta::name(budget);
    let namespace = Some(meta::namespace(budget));
    for _ in 0..ATTEMPTS {
        let Some(current) = call.state.cache.get(&POD_DISRUPTION_BUDGETS, namespace, name) else {
            return Ok(());
        };
        let mut budget = objects::tree(&current)?;
        if !is_ready(pod) && may_lose_unhealthy(&budget) {
            return Ok(());
        }
        take(&mut budget, meta::name(pod))?;
        if dry_run {
            return Ok(());
        }
        let (bytes, expect) = (objects::encode(budget), Expect::Revision(current.revision()));
        let resource = &POD_DISRUPTION_BUDGETS;
        match objects::put(&call.state, resource, namespace, name, expect, bytes, Durability::Sync).await? {
            Put::Done(_) => return Ok(()),
            Put::Conflict => {}
        }
    }
    Err(still_processing(name))
}

/// A pod that is not ready counts for nothing in a budget that is met without it, or that lets it go.
fn may_lose_unhealthy(budget: &Value) -> bool {
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or_default();
    let met = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || met
}

fn refused(message: String, retry_seconds: i32) -> Failure {
    let mut status = Status::too_many_requests(REFUSED, retry_seconds);
    let cause = StatusCause { reason: "DisruptionBudget".to_owned(), message, field: String::new() };
    status.details.get_or_insert_default().causes.push(cause);
    Box::new(status)
}

fn still_processing(name: &str) -> Failure {
    refused(format!("The disruption budget {name} is still being processed by the server."), RETRY_SECONDS)
}

/// One disruption less in the budget's status.
fn take(budget: &mut Value, pod: &str) -> Result<(), Failure> {
    let name = meta::name(budget).to_owned();
    let status = &budget["status"];
    let forbidden = |why: &str| Err(Box::new(Status::forbidden("policy", "poddisruptionbudget", &name, why)));
    if status["observedGeneration"].as_i64().unwrap_or_default() < meta::generation(budget) {
        return Err(still_processing(&name));
    }
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or_default();
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(refused(why_none(&name, status), 0));
    }
    let now = clock::now_rfc3339();
    let generation = meta::generation(budget);
    let status = &mut budget["status"];
    status["disruptionsAllowed"] = (allowed - 1).into();
    status["disruptedPods"][pod] = now.as_str().into();
    if allowed == 1 {
        let condition = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods",
            "observedGeneration": generation, "lastTransitionTime": now, "message": ""});
        replace_condition(&mut status["conditions"], condition);
    }
    Ok(())
}

fn why_none(name: &str, status: &Value) -> String {
    let count = |field: &str| status[field].as_i64().unwrap_or_default();
    let conditions = status["conditions"].as_array();
    let condition =
        conditions.into_iter().flatten().find(|c| c["type"] == "DisruptionAllowed" && c["status"] == "False");
    let text = |field: &str| condition.and_then(|c| c[field].as_str()).unwrap_or_default();
    let (reason, message) = (text("reason"), text("message"));
    if !message.is_empty() && reason == "SyncFailed" {
        return format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        );
    }
    let (healthy, wanted) = (count("currentHealthy"), count("desiredHealthy"));
    if healthy <= wanted {
        format!("The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently")
    } else if message.is_empty() {
        format!("The disruption budget {name} does not allow evicting pods currently")
    } else {
        format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
    }
}

fn replace_condition(conditions: &mut Value, condition: Value) {
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|present| present["type"] == condition["type"]) {
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
}

/// Says on the pod why it goes. `None` when somebody else wrote first.
async fn mark(
    state: &State,
    namespace: Option<&str>,
    name: &str,
    mut pod: Value,
    revision: i64,
) -> Result<Option<i64>, Failure> {
    let mut condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": clock::now_rfc3339()});
    let generation = meta::generation(&pod);
    if generation > 0 {
        condition["observedGeneration"] = generation.into();
    }
    let conditions = pod["status"]["conditions"].as_array();
    if conditions.into_iter().flatten().any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True") {
        return Ok(Some(revision));
    }
    replace_condition(&mut pod["status"]["conditions"], condition);
    let (bytes, expect) = (objects::encode(pod), Expect::Revision(revision));
    match objects::put(state, &registry::PODS, namespace, name, expect, bytes, Durability::Sync).await? {
        Put::Done(stored) => {
            let stored: Value = serde_json::from_slice(&stored.json).map_err(|e| Box::new(Status::internal(e)))?;
            Ok(meta::resource_version(&stored).parse().ok())
        }
        Put::Conflict => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "status": status})
    }

    fn cause(failure: Failure) -> (u16, String, Option<i32>) {
        let details = failure.details.unwrap();
        (failure.code, details.causes[0].message.clone(), details.retry_after_seconds)
    }

    #[test]
    fn a_budget_is_spent_once_for_each_pod() {
        let mut one = budget(json!({"observedGeneration": 2, "disruptionsAllowed": 1}));
        take(&mut one, "p").unwrap();
        assert_eq!(one["status"]["disruptionsAllowed"], 0);
        assert!(one["status"]["disruptedPods"]["p"].is_string());
        assert_eq!(one["status"]["conditions"][0]["reason"], "InsufficientPods");
        assert_eq!(
            cause(take(&mut one, "q").unwrap_err()),
            (429, "The disruption budget b needs 0 healthy pods and has 0 currently".to_owned(), None)
        );
        let mut stale = budget(json!({"observedGeneration": 1, "disruptionsAllowed": 1}));
        assert_eq!(
            cause(take(&mut stale, "p").unwrap_err()),
            (429, "The disruption budget b is still being processed by the server.".to_owned(), Some(10))
        );
        let mut negative = budget(json!({"observedGeneration": 2, "disruptionsAllowed": -1}));
        assert_eq!(
            take(&mut negative, "p").unwrap_err().message,
            "poddisruptionbudget.policy \"b\" is forbidden: pdb disruptions allowed is negative"
        );
    }

    #[test]
    fn unhealthy_pods_go_where_they_are_not_needed() {
        let with = |policy: &str, healthy: i64| json!({"spec": {"unhealthyPodEvictionPolicy": policy}, "status": {"currentHealthy": healthy, "desiredHealthy": 2}});
        assert!(may_lose_unhealthy(&with("AlwaysAllow", 0)));
        assert!(may_lose_unhealthy(&with("IfHealthyBudget", 2)));
        assert!(!may_lose_unhealthy(&with("IfHealthyBudget", 1)));
        assert!(!may_lose_unhealthy(&json!({"status": {"currentHealthy": 0, "desiredHealthy": 0}})));
    }
}
