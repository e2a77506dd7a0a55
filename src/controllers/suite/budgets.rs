//! PodDisruptionBudgets over the pods of a Deployment.

use super::{Cluster, deployment, find, is_done};
use naru_api::registry::{DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS};
use naru_client::ListParams;
use serde_json::{Value, json};
use std::sync::Arc;

/// Whether the budget has counted as given.
fn counted(all: &[Arc<Value>], allowed: i64, healthy: i64, desired: i64, expected: i64) -> bool {
    let Some(budget) = find(all, "web") else { return false };
    let status = &budget["status"];
    let count = |field: &str| status[field].as_i64().unwrap_or(-1);
    status["observedGeneration"] == budget["metadata"]["generation"]
        && (count("disruptionsAllowed"), count("currentHealthy")) == (allowed, healthy)
        && (count("desiredHealthy"), count("expectedPods")) == (desired, expected)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_follows_its_pods_and_is_spent_by_evictions() {
    let cluster = Cluster::start().await;
    cluster.create(&DEPLOYMENTS, deployment("web", 4, "web:1")).await;
    cluster.until(&DEPLOYMENTS, "the rollout", |all| is_done(all, "web", 4)).await;
    let budget = json!({"metadata": {"name": "web"},
        "spec": {"maxUnavailable": "25%", "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create(&POD_DISRUPTION_BUDGETS, budget).await;
    cluster.until(&POD_DISRUPTION_BUDGETS, "one to spare", |all| counted(all, 1, 4, 3, 4)).await;
    let pods = cluster.client.list::<Value>(&PODS, &ListParams::namespace("default")).await.unwrap().items;
    let name = pods[0]["metadata"]["name"].as_str().unwrap();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let evicted =
        cluster.client.create_sub::<Value>(&PODS, Some("default"), name, "eviction", &eviction).await.unwrap();
    assert_eq!(evicted["status"], "Success");
    cluster.until(&PODS, "another pod", |all| all.len() == 4 && find(all, name).is_none()).await;
    cluster.until(&POD_DISRUPTION_BUDGETS, "one to spare again", |all| counted(all, 1, 4, 3, 4)).await;
    cluster.merge(&DEPLOYMENTS, "web", json!({"spec": {"replicas": 8}})).await;
    cluster.until(&POD_DISRUPTION_BUDGETS, "two to spare", |all| counted(all, 2, 8, 6, 8)).await;
    let number = json!({"spec": {"maxUnavailable": null, "minAvailable": 8}});
    cluster.merge(&POD_DISRUPTION_BUDGETS, "web", number).await;
    cluster.until(&POD_DISRUPTION_BUDGETS, "none to spare", |all| counted(all, 0, 8, 8, 8)).await;
}
