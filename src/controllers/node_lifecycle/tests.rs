//! Nodes that fall silent, by a clock that the tests move.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::suite::Scripted;
use naru_base::Shutdown;
use naru_client::ObjectKey;

fn lifecycle(script: &Arc<Scripted>, shutdown: &Shutdown) -> Lifecycle {
    let client = Client::new(script.clone());
    let pods: Informer<PodView> = Informer::detached();
    let pods_by_node = pods.index(|pod: &PodView| vec![pod.spec.node_name.clone()]);
    Lifecycle {
        recorder: EventRecorder::start(client.clone(), &registry::EVENTS, "node-controller", None, shutdown),
        client,
        metrics: Arc::default(),
        nodes: Informer::detached(),
        leases: Informer::detached(),
        pods,
        pods_by_node,
        signs: Mutex::default(),
        zones: Mutex::default(),
        queue: WorkQueue::new(),
        evictions: WorkQueue::new(),
    }
}

fn put_node(lifecycle: &Lifecycle, node: Value) {
    let node: NodeView = serde_json::from_value(node).unwrap();
    lifecycle.nodes.apply(ObjectKey::new("", &node.metadata.name), String::new(), Some(node));
}

fn node(conditions: Value, taints: Value) -> Value {
    json!({"metadata": {"name": "n1", "uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"taints": taints}, "status": {"conditions": conditions}})
}

fn ready(status: &str, heartbeat: &str) -> Value {
    json!([{"type": "Ready", "status": status, "lastHeartbeatTime": heartbeat}])
}

/// All messages of events, once there are so many.
async fn events(script: &Scripted, count: usize) -> Vec<String> {
    loop {
        let told = script.bodies("/events");
        if told.len() >= count {
            return told
                .iter()
                .map(|event| format!("{} {}", event["reason"], event["message"]).replace('"', ""))
                .collect();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_is_unknown_after_fifty_seconds() {
    let (script, shutdown) = (Scripted::new(), Shutdown::new());
    let lifecycle = lifecycle(&script, &shutdown);
    put_node(&lifecycle, node(ready("True", "then"), json!([])));
    let pod = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    lifecycle.pods.apply(ObjectKey::new("d", "p"), String::new(), Some(serde_json::from_value(pod).unwrap()));
    assert_eq!(lifecycle.reconcile("n1").await.unwrap(), Next::After(GRACE));
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(lifecycle.reconcile("n1").await.unwrap(), Next::After(Duration::from_secs(20)));
    // Its lease counts as well as its status.
    let lease: LeaseView = serde_json::from_value(json!({"spec": {"renewTime": "1"}})).unwrap();
    lifecycle.leases.apply(ObjectKey::new("kube-node-lease", "n1"), String::new(), Some(lease));
    assert_eq!(lifecycle.reconcile("n1").await.unwrap(), Next::After(GRACE));
    assert!(script.bodies("/status").is_empty());
    tokio::time::advance(GRACE).await;
    assert_eq!(lifecycle.reconcile("n1").await.unwrap(), Next::Done);
    let status = &script.bodies("/nodes/n1/status")[0]["status"]["conditions"];
    let told = |index: usize| {
        ["type", "status", "reason", "message"].map(|field| status[index][field].as_str().unwrap().to_owned())
    };
    assert_eq!(told(0), ["Ready", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status."]);
    assert_eq!(told(1), ["MemoryPressure", "Unknown", "NodeStatusNeverUpdated", "Kubelet never posted node status."]);
    assert_eq!((told(2)[0].as_str(), told(3)[0].as_str()), ("DiskPressure", "PIDPressure"));
    assert_eq!(status[0]["lastHeartbeatTime"], "then");
    assert_eq!(status[1]["lastHeartbeatTime"], "2026-01-01T00:00:00Z");

    put_node(&lifecycle, node(ready("Unknown", "then"), json!([])));
    lifecycle.reconcile("n1").await.unwrap();
    let taints = &script.bodies("/nodes/n1")[0]["spec"]["taints"];
    assert_eq!((&taints[0]["key"], &taints[0]["effect"]), (&json!(taints::UNREACHABLE), &json!("NoSchedule")));
    let pod = &script.bodies("/pods/p/status")[0]["status"]["conditions"][0];
    assert_eq!((&pod["type"], &pod["status"]), (&json!("Ready"), &json!("False")));
    let expected = [
        "RegisteredNode Node n1 event: Registered Node n1 in Controller",
        "NodeNotReady Node n1 status is now: NodeNotReady",
        "NodeNotReady Node is not ready",
    ];
    assert_eq!(events(&script, 3).await, expected);
    lifecycle.nodes.apply(ObjectKey::new("", "n1"), String::new(), None);
    lifecycle.reconcile("n1").await.unwrap();
    assert_eq!(events(&script, 4).await[3], "RemovingNode Node n1 event: Removing Node n1 from Controller");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_never_reported_gets_a_minute_from_its_creation() {
    let (script, shutdown) = (Scripted::new(), Shutdown::new());
    let lifecycle = lifecycle(&script, &shutdown);
    let mut young = node(json!([]), json!([]));
    young["metadata"]["creationTimestamp"] = now_text().into();
    put_node(&lifecycle, young);
    let Next::After(left) = lifecycle.reconcile("n1").await.unwrap() else { panic!("it is too early") };
    assert!(left <= STARTUP_GRACE);
    assert!(script.bodies("/status").is_empty());
    put_node(&lifecycle, node(json!([]), json!([])));
    assert_eq!(lifecycle.reconcile("n1").await.unwrap(), Next::Done);
    assert_eq!(script.bodies("/status")[0]["status"]["conditions"][0]["reason"], "NodeStatusNeverUpdated");
}

#[tokio::test(start_paused = true)]
async fn older_labels_follow_the_newer_ones() {
    let (script, shutdown) = (Scripted::new(), Shutdown::new());
    let lifecycle = lifecycle(&script, &shutdown);
    let mut labelled = node(ready("True", "1"), json!([]));
    labelled["metadata"]["labels"] = json!({"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64",
        "beta.kubernetes.io/arch": "arm64"});
    put_node(&lifecycle, labelled);
    lifecycle.reconcile("n1").await.unwrap();
    assert_eq!(script.bodies("/nodes/n1")[0]["metadata"]["labels"], json!({"beta.kubernetes.io/os": "linux"}));
}
