//! Nodes that are not ready, and what becomes of their pods.

use super::{Cluster, find};
use naru_api::registry::{EVENTS, NODES, PODS};
use naru_client::PatchKind;
use serde_json::{Value, json};
use std::sync::Arc;

impl Cluster {
    /// Plays a node's report.
    async fn report(&self, node: &str, ready: &str) {
        let now = crate::objects::now_text();
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": ready, "reason": "Test",
            "lastHeartbeatTime": now, "lastTransitionTime": now}]}});
        let kind = PatchKind::Strategic;
        self.client.patch::<Value>(&NODES, None, node, Some("status"), kind, &status).await.unwrap();
    }

    async fn run_on(&self, node: &str, name: &str, tolerations: Value) {
        let pod = json!({"metadata": {"name": name, "finalizers": ["example.com/look"]}, "spec": {
            "nodeName": node, "tolerations": tolerations, "containers": [{"name": "c", "image": "x"}]}});
        self.create(&PODS, pod).await;
        self.until(&PODS, "the pod", |all| find(all, name).is_some_and(|pod| pod["status"]["phase"] == "Running"))
            .await;
    }
}

/// A node's taints that we have made, sorted.
fn taints(all: &[Arc<Value>], node: &str) -> Vec<String> {
    let taints = find(all, node).map(|node| &node["spec"]["taints"]).and_then(Value::as_array);
    let text = |taint: &Value| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap());
    let mut taints: Vec<_> = taints.into_iter().flatten().map(text).collect();
    taints.sort_unstable();
    taints
}

fn is_target(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut targets = conditions.filter(|condition| condition["type"] == "DisruptionTarget");
    targets.any(|told| {
        told["reason"] == "DeletionByTaintManager"
            && told["message"] == "Taint manager: deleting due to NoExecute taint"
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_ready_loses_pods_that_do_not_tolerate_it() {
    let cluster = Cluster::start().await;
    cluster.add_node("n2").await;
    cluster.until(&NODES, "no taints", |all| taints(all, "n2").is_empty()).await;
    let bears = json!([{"operator": "Exists"}]);
    let for_a_while = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
        "tolerationSeconds": 3600}]);
    let at_once = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
        "tolerationSeconds": 0}]);
    cluster.run_on("n2", "bears", bears).await;
    cluster.run_on("n2", "waits", for_a_while).await;
    cluster.run_on("n2", "goes", at_once).await;
    cluster.report("n2", "False").await;
    let not_ready = ["node.kubernetes.io/not-ready:NoExecute", "node.kubernetes.io/not-ready:NoSchedule"];
    cluster.until(&NODES, "its taints", |all| taints(all, "n2") == not_ready).await;
    cluster
        .until(&PODS, "one pod to go and say why", |all| {
            let going = |pod: &&Arc<Value>| !pod["metadata"]["deletionTimestamp"].is_null();
            let gone: Vec<_> = all.iter().filter(going).collect();
            gone.len() == 1 && gone[0]["metadata"]["name"] == "goes" && is_target(gone[0])
        })
        .await;
    cluster.report("n2", "Unknown").await;
    let unreachable = ["node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule"];
    cluster.until(&NODES, "the other taints", |all| taints(all, "n2") == unreachable).await;
    cluster.until(&NODES, "all to be well again", |all| taints(all, "n1").is_empty()).await;
    // With nobody left that is ready, nobody is given up.
    cluster.report("n1", "Unknown").await;
    cluster
        .until(&NODES, "no more evictions", |all| {
            ["n1", "n2"].iter().all(|node| taints(all, node) == ["node.kubernetes.io/unreachable:NoSchedule"])
        })
        .await;
    cluster.report("n1", "True").await;
    cluster.report("n2", "True").await;
    cluster.until(&NODES, "no taints", |all| ["n1", "n2"].iter().all(|node| taints(all, node).is_empty())).await;
    cluster
        .until(&EVENTS, "what was told", |all| {
            let told = |text: &str| all.iter().any(|event| event["message"] == text);
            told("Marking for deletion Pod default/goes")
                && told("Cancelling deletion of Pod default/waits")
                && told("Node n2 event: Registered Node n2 in Controller")
        })
        .await;
}
