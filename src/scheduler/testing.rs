//! Pods and nodes for this crate's tests.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::pod_info::PodInfo;
use naru_client::projections::{NodeView, PodView};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn pod(name: &str, spec: Value) -> PodView {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": spec,
    }))
    .unwrap()
}

pub(crate) fn asking(name: &str, cpu: &str, memory: &str) -> Arc<PodInfo> {
    let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}});
    Arc::new(PodInfo::new(Arc::new(pod(name, json!({"containers": [container]})))))
}

pub(crate) fn bound(info: &PodInfo, node: &str) -> Arc<PodInfo> {
    let mut pod = (*info.pod).clone();
    node.clone_into(&mut pod.spec.node_name);
    Arc::new(PodInfo::new(Arc::new(pod)))
}

fn make_node(value: &Value) -> Arc<NodeView> {
    Arc::new(serde_json::from_value(value.clone()).unwrap())
}

pub(crate) fn node(name: &str, cpu: &str, memory: &str) -> Arc<NodeView> {
    make_node(&json!({
        "metadata": {"name": name},
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "110"}},
    }))
}

pub(crate) fn labelled_node(name: &str, labels: &[(&str, &str)]) -> Arc<NodeView> {
    let mut node = (*node(name, "4", "8Gi")).clone();
    node.metadata.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Arc::new(node)
}

pub(crate) fn tainted_node(name: &str, effect: &str) -> Arc<NodeView> {
    make_node(&json!({
        "metadata": {"name": name},
        "spec": {"taints": [{"key": "k", "effect": effect}]},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    }))
}

/// A pod of the application `app`.
pub(crate) fn labelled_pod(name: &str, app: &str, spec: Value) -> PodInfo {
    let mut pod = pod(name, spec);
    pod.metadata.labels.insert("app".to_owned(), app.to_owned());
    PodInfo::new(Arc::new(pod))
}

/// The same on a node.
pub(crate) fn placed(name: &str, app: &str, spec: Value, node: &str) -> Arc<PodInfo> {
    bound(&labelled_pod(name, app, spec), node)
}
