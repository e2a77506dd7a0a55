//! ResourceQuotas and ReplicationControllers.

use super::{Cluster, find};
use naru_api::registry::{CONFIG_MAPS, PODS, REPLICATION_CONTROLLERS, RESOURCE_QUOTAS};
use naru_client::{DeleteOptions, Propagation};
use serde_json::{Value, json};
use std::sync::Arc;

fn uses(all: &[Arc<Value>], used: &Value) -> bool {
    find(all, "q")
        .is_some_and(|quota| quota["status"]["used"] == *used && quota["status"]["hard"] == quota["spec"]["hard"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_counts_what_was_there_refuses_what_is_too_much_and_forgets_what_goes() {
    let cluster = Cluster::start().await;
    let map = |name: &str| json!({"metadata": {"name": name}});
    cluster.create(&CONFIG_MAPS, map("early")).await;
    cluster.until(&CONFIG_MAPS, "the authority's certificate", |all| all.len() == 2).await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "3", "pods": "5"}}});
    cluster.create(&RESOURCE_QUOTAS, quota).await;
    cluster.until(&RESOURCE_QUOTAS, "the first count", |all| uses(all, &json!({"configmaps": "2", "pods": "0"}))).await;
    cluster.create(&CONFIG_MAPS, map("third")).await;
    cluster.until(&RESOURCE_QUOTAS, "a charge", |all| uses(all, &json!({"configmaps": "3", "pods": "0"}))).await;
    let refused = cluster.client.create::<Value>(&CONFIG_MAPS, Some("default"), &map("fourth")).await.unwrap_err();
    let expected = "configmaps \"fourth\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=3, limited: configmaps=3";
    assert_eq!(refused.to_string(), expected);
    cluster.client.delete(&CONFIG_MAPS, Some("default"), "early", &DeleteOptions::default()).await.unwrap();
    cluster.until(&RESOURCE_QUOTAS, "less", |all| uses(all, &json!({"configmaps": "2", "pods": "0"}))).await;
    cluster.create(&CONFIG_MAPS, map("fourth")).await;
    cluster.merge(&RESOURCE_QUOTAS, "q", json!({"spec": {"hard": {"pods": null, "secrets": "1"}}})).await;
    cluster
        .until(&RESOURCE_QUOTAS, "another set of limits", |all| uses(all, &json!({"configmaps": "3", "secrets": "0"})))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_keeps_its_pods_within_the_quota_and_says_when_it_cannot() {
    let cluster = Cluster::start().await;
    cluster.create(&RESOURCE_QUOTAS, json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2"}}})).await;
    cluster.until(&RESOURCE_QUOTAS, "the first count", |all| uses(all, &json!({"pods": "0"}))).await;
    let controller = json!({"metadata": {"name": "rc"}, "spec": {"replicas": 3, "selector": {"app": "rc"},
        "template": {"metadata": {"labels": {"app": "rc"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
    cluster.create(&REPLICATION_CONTROLLERS, controller).await;
    cluster
        .until(&REPLICATION_CONTROLLERS, "two pods and a failure", |all| {
            let status = &find(all, "rc").unwrap()["status"];
            let failure = &status["conditions"][0];
            status["availableReplicas"] == 2
                && failure["type"] == "ReplicaFailure"
                && failure["reason"] == "FailedCreate"
        })
        .await;
    cluster.merge(&REPLICATION_CONTROLLERS, "rc", json!({"spec": {"replicas": 1}})).await;
    cluster
        .until(&REPLICATION_CONTROLLERS, "one pod and no failure", |all| {
            let status = &find(all, "rc").unwrap()["status"];
            status["replicas"] == 1 && status["conditions"].is_null()
        })
        .await;
    cluster.until(&RESOURCE_QUOTAS, "one pod in the quota", |all| uses(all, &json!({"pods": "1"}))).await;
    // Unasked, a ReplicationController leaves its pods.
    let options = DeleteOptions::default().propagation(Propagation::Background);
    cluster.client.delete(&REPLICATION_CONTROLLERS, Some("default"), "rc", &options).await.unwrap();
    cluster.until(&PODS, "no pods", <[_]>::is_empty).await;
}
