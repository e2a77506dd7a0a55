//! DaemonSets from creation to garbage.

use super::{Cluster, find};
use naru_api::registry::{CONTROLLER_REVISIONS, DAEMON_SETS, EVENTS, NODES, PODS};
use naru_client::{Client, DeleteOptions, ListParams, PatchKind};
use serde_json::{Value, json};
use std::sync::Arc;

fn daemon_set(rolling: Value) -> Value {
    json!({
        "metadata": {"name": "log"},
        "spec": {
            "selector": {"matchLabels": {"app": "log"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "c", "image": "log:1"}]}},
        },
    })
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn is_done(all: &[Arc<Value>], nodes: i64) -> bool {
    let Some(set) = find(all, "log") else { return false };
    let counts = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "numberAvailable",
        "updatedNumberScheduled",
    ];
    set["status"]["observedGeneration"] == set["metadata"]["generation"]
        && counts.iter().all(|field| set["status"][field].as_i64().unwrap_or_default() == nodes)
}

/// Names of the nodes with a pod, each once for each pod, in order.
fn nodes(pods: &[Arc<Value>]) -> Vec<&str> {
    let mut nodes: Vec<_> = pods.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap_or_default()).collect();
    nodes.sort_unstable();
    nodes
}

async fn taint(client: &Client, node: &str, taints: Value) {
    let patch = json!({"spec": {"taints": taints}});
    client.patch::<Value>(&NODES, None, node, None, PatchKind::Merge, &patch).await.unwrap();
}

async fn rolls(rolling: Value) {
    let cluster = Cluster::start().await;
    cluster.add_node("n2").await;
    cluster.create(&DAEMON_SETS, daemon_set(rolling)).await;
    cluster.until(&DAEMON_SETS, "a pod on each node", |all| is_done(all, 2)).await;
    cluster.until(&PODS, "one pod each", |all| nodes(all) == ["n1", "n2"]).await;
    cluster.add_node("n3").await;
    cluster.until(&DAEMON_SETS, "a pod on the new node", |all| is_done(all, 3)).await;

    let revisions = async || {
        let params = ListParams::namespace("default");
        cluster.client.list::<Value>(&CONTROLLER_REVISIONS, &params).await.unwrap().items
    };
    let first = revisions().await[0]["metadata"]["name"].clone();
    cluster.merge(&DAEMON_SETS, "log", image("log:2")).await;
    cluster.until(&DAEMON_SETS, "the rollout", |all| is_done(all, 3)).await;
    cluster
        .until(&PODS, "new pods alone", |all| {
            nodes(all) == ["n1", "n2", "n3"] && all.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "log:2")
        })
        .await;
    cluster.merge(&DAEMON_SETS, "log", image("log:1")).await;
    cluster.until(&DAEMON_SETS, "the way back", |all| is_done(all, 3)).await;
    let first = first.as_str().unwrap();
    cluster
        .until(&CONTROLLER_REVISIONS, "the first revision to be the newest", |all| {
            all.len() == 2 && find(all, first).unwrap()["revision"] == 3
        })
        .await;

    taint(&cluster.client, "n2", json!([{"key": "t", "effect": "NoExecute"}])).await;
    cluster.until(&PODS, "no pod on the tainted node", |all| nodes(all) == ["n1", "n3"]).await;
    cluster.until(&DAEMON_SETS, "two nodes", |all| is_done(all, 2)).await;
    cluster.client.delete(&DAEMON_SETS, Some("default"), "log", &DeleteOptions::default()).await.unwrap();
    for resource in [&PODS, &CONTROLLER_REVISIONS] {
        cluster.until(resource, "nothing", <[_]>::is_empty).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_rolls_by_deletion() {
    rolls(json!({"maxUnavailable": 1})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_rolls_by_surge() {
    rolls(json!({"maxSurge": 1, "maxUnavailable": 0})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_daemon_pod_is_replaced_with_an_event() {
    let cluster = Cluster::start().await;
    cluster.create(&DAEMON_SETS, daemon_set(json!({}))).await;
    cluster.until(&DAEMON_SETS, "a pod", |all| is_done(all, 1)).await;
    let pods = cluster.client.list::<Value>(&PODS, &ListParams::namespace("default")).await.unwrap().items;
    let name = pods[0]["metadata"]["name"].as_str().unwrap();
    let failed = json!({"status": {"phase": "Failed"}});
    let (client, kind) = (&cluster.client, PatchKind::Merge);
    client.patch::<Value>(&PODS, Some("default"), name, Some("status"), kind, &failed).await.unwrap();
    cluster
        .until(&PODS, "another pod", |all| {
            all.len() == 1 && all[0]["metadata"]["name"] != name && all[0]["status"]["phase"] == "Running"
        })
        .await;
    let message = format!("Found failed daemon pod default/{name} on node n1, will try to kill it");
    cluster.until(&EVENTS, "the event", |all| all.iter().any(|event| event["message"] == message.as_str())).await;
}
