//! What users see of each plugin, as tables: which node is chosen, or what the event says.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::cache::Cache;
use crate::cycle::choose;
use crate::plugins::{PLUGINS, Scale};
use crate::pod_info::PodInfo;
use crate::testing::pod;
use naru_client::projections::NodeView;
use serde_json::{Value, json};
use std::sync::Arc;

/// A node of 4 CPUs and 8 GiB; `more` is merged over its parts.
fn node(name: &str, more: &Value) -> Arc<NodeView> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    merge(&mut node, more);
    Arc::new(serde_json::from_value(node).unwrap())
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            more.iter().for_each(|(key, value)| merge(into.entry(key.clone()).or_insert(Value::Null), value));
        }
        (into, more) => *into = more.clone(),
    }
}

fn info(name: &str, spec: &Value) -> PodInfo {
    let mut pod = pod(name, spec.clone());
    pod.metadata.labels = serde_json::from_value(spec["labels"].clone()).unwrap_or_default();
    PodInfo::new(Arc::new(pod))
}

/// `nodes` by name, `placed` pods with their `nodeName`; expects a node's name, or the reasons of the refusal.
fn check(nodes: &Value, placed: &Value, spec: &Value, expected: &str) {
    let mut cache = Cache::default();
    for (name, more) in nodes.as_object().unwrap() {
        cache.set_node(node(name, more));
    }
    for (spec, number) in placed.as_array().unwrap().iter().zip(0..) {
        cache.set_pod(Arc::new(info(&format!("placed-{number}"), spec)));
    }
    let chosen = choose(&info("p", spec), &mut cache, &mut 0, |_| 0, &mut Vec::new());
    let seen = chosen.unwrap_or_else(|refused| refused.message);
    let count = nodes.as_object().unwrap().len();
    let seen = seen.strip_prefix(&format!("0/{count} nodes are available: ")).unwrap_or(&seen);
    assert_eq!(seen, expected, "{spec} among {nodes} with {placed}");
}

fn requests(requests: &Value) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
}

fn port(host_ip: &str, protocol: &str) -> Value {
    json!({"containers": [{"name": "c", "ports": [
        {"containerPort": 80, "hostPort": 54321, "hostIP": host_ip, "protocol": protocol}]}]})
}

fn with(mut one: Value, other: &Value) -> Value {
    merge(&mut one, other);
    one
}

#[test]
fn node_name_and_unschedulable() {
    let cordoned = json!({"a": {"spec": {"unschedulable": true}}});
    check(&cordoned, &json!([]), &json!({}), "1 node(s) were unschedulable.");
    let tolerant = json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]});
    check(&cordoned, &json!([]), &tolerant, "a");
    check(&json!({"a": {}}), &json!([]), &json!({"nodeName": "a"}), "a");
    let elsewhere = json!({"nodeName": "z"});
    check(&json!({"a": {}}), &json!([]), &elsewhere, "1 node(s) didn't match the requested node name.");
}

#[test]
fn taints() {
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let nodes = json!({"a": taint("NoSchedule"), "b": taint("NoExecute")});
    check(&nodes, &json!([]), &json!({}), "2 node(s) had untolerated taint(s).");
    let equal = |value: &str| json!({"tolerations": [{"key": "k", "value": value, "effect": "NoExecute"}]});
    check(&nodes, &json!([]), &equal("v"), "b");
    check(&nodes, &json!([]), &equal("w"), "2 node(s) had untolerated taint(s).");
    // Disliked, not forbidden.
    check(&json!({"a": taint("PreferNoSchedule"), "b": {}}), &json!([]), &json!({}), "b");
    check(&json!({"a": taint("PreferNoSchedule")}), &json!([]), &json!({}), "a");
}

#[test]
fn node_affinity() {
    let nodes = json!({"a": {"metadata": {"labels": {"disk": "ssd"}}}, "b": {}});
    let none = "2 node(s) didn't match Pod's node affinity/selector.";
    check(&nodes, &json!([]), &json!({"nodeSelector": {"disk": "ssd"}}), "a");
    check(&nodes, &json!([]), &json!({"nodeSelector": {"disk": "tape"}}), none);
    let term = |operator: &str| json!({"matchExpressions": [{"key": "disk", "operator": operator}]});
    let demand = |term: Value| {
        json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
    };
    check(&nodes, &json!([]), &demand(term("DoesNotExist")), "b");
    check(&nodes, &json!([]), &demand(json!({})), none);
    let wish = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": term("DoesNotExist")}]}}});
    check(&nodes, &json!([]), &wish, "b");
    // Both have to hold.
    let both = with(demand(term("DoesNotExist")), &json!({"nodeSelector": {"disk": "ssd"}}));
    check(&nodes, &json!([]), &both, none);
}

#[test]
fn ports() {
    let nodes = json!({"a": {}});
    let taken = |ip: &str| json!([with(port(ip, "TCP"), &json!({"nodeName": "a"}))]);
    let none = "1 node(s) didn't have free ports for the requested pod ports.";
    check(&nodes, &taken("0.0.0.0"), &port("127.0.0.1", "TCP"), none);
    check(&nodes, &taken("127.0.0.1"), &port("0.0.0.0", "TCP"), none);
    check(&nodes, &taken("127.0.0.1"), &port("127.0.0.2", "TCP"), "a");
    check(&nodes, &taken("127.0.0.1"), &port("127.0.0.1", "UDP"), "a");
}

#[test]
fn fit() {
    let nodes = json!({"a": {"status": {"allocatable": {"example.com/gpu": "2", "ephemeral-storage": "1Gi"}}}});
    let taken = |amounts: &Value| json!([with(requests(amounts), &json!({"nodeName": "a"}))]);
    let half = taken(&json!({"cpu": "3", "memory": "6Gi", "example.com/gpu": "1"}));
    let ask = |amounts: Value| requests(&amounts);
    check(&nodes, &half, &ask(json!({"cpu": "1", "memory": "2Gi", "example.com/gpu": "1"})), "a");
    check(&nodes, &half, &ask(json!({"cpu": "1001m"})), "1 Insufficient cpu.");
    check(&nodes, &half, &ask(json!({"example.com/gpu": "2"})), "1 Insufficient example.com/gpu.");
    check(&nodes, &half, &ask(json!({"example.com/other": "1"})), "1 Insufficient example.com/other.");
    check(&nodes, &half, &ask(json!({"ephemeral-storage": "2Gi"})), "1 Insufficient ephemeral-storage.");
    let both = "1 Insufficient cpu, 1 Insufficient memory.";
    check(&nodes, &half, &ask(json!({"cpu": "2", "memory": "4Gi"})), both);
    let full = json!({"a": {"status": {"allocatable": {"pods": "1"}}}});
    check(&full, &taken(&json!({})), &json!({}), "1 Too many pods.");
    // One that asks for nothing goes to a node with nothing left.
    check(&nodes, &taken(&json!({"cpu": "4"})), &json!({}), "a");
}

#[test]
fn affinity_between_pods() {
    let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
    let nodes = json!({"a": zone("x"), "b": zone("x"), "c": zone("y")});
    let term = json!({"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone"});
    let demand = |kind: &str| {
        json!({"labels": {"app": "db"}, "affinity": {kind: {
            "requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    };
    let web = json!([{"labels": {"app": "web"}, "nodeName": "a"}]);
    check(&nodes, &json!([]), &demand("podAffinity"), "3 node(s) didn't match pod affinity rules.");
    check(&nodes, &web, &demand("podAntiAffinity"), "c");
    let everywhere = json!([{"labels": {"app": "web"}, "nodeName": "a"}, {"labels": {"app": "web"}, "nodeName": "c"}]);
    let apart = "3 node(s) didn't match pod anti-affinity rules.";
    check(&nodes, &everywhere, &demand("podAntiAffinity"), apart);
    let hermit = json!([
        with(demand("podAntiAffinity"), &json!({"nodeName": "a"})),
        with(demand("podAntiAffinity"), &json!({"nodeName": "c"}))
    ]);
    let shunned = "3 node(s) didn't satisfy existing pods anti-affinity rules.";
    check(&nodes, &hermit, &json!({"labels": {"app": "web"}}), shunned);
    let wish = |kind: &str| {
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "podAffinityTerm": term}]}}})
    };
    let on_c = json!([{"labels": {"app": "web"}, "nodeName": "c"}]);
    check(&nodes, &on_c, &wish("podAffinity"), "c");
    check(&nodes, &web, &wish("podAntiAffinity"), "c");
}

#[test]
fn spread() {
    let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
    let nodes = json!({"a": zone("x"), "b": zone("y"), "bare": {}});
    let constraint = |when: &str| {
        json!({"labels": {"app": "web"}, "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "web"}}}]})
    };
    let on = |nodes: &[&str]| {
        nodes.iter().map(|node| json!({"labels": {"app": "web"}, "nodeName": node})).collect::<Value>()
    };
    check(&nodes, &on(&["a"]), &constraint("DoNotSchedule"), "b");
    check(&nodes, &on(&["a", "a"]), &constraint("ScheduleAnyway"), "b");
    let cordoned = with(nodes, &json!({"b": {"spec": {"unschedulable": true}}}));
    check(
        &cordoned,
        &on(&["a"]),
        &constraint("DoNotSchedule"),
        "1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't match pod topology spread \
         constraints (missing required label), 1 node(s) were unschedulable.",
    );
}

#[test]
fn resources_and_images_make_nodes_better() {
    let nodes = json!({"a": {}, "b": {}});
    let on = |node: &str, cpu: &str, memory: &str| {
        with(requests(&json!({"cpu": cpu, "memory": memory})), &json!({"nodeName": node}))
    };
    let small = requests(&json!({"cpu": "500m", "memory": "1Gi"}));
    check(&nodes, &json!([on("a", "2", "4Gi")]), &small, "b");
    // As much is free on both; the pod makes the use of b more even.
    let uneven = json!([on("a", "2", "1Gi"), on("b", "1", "3Gi")]);
    check(&nodes, &uneven, &requests(&json!({"cpu": "1", "memory": "512Mi"})), "b");
    let image = |size: i64| json!({"status": {"images": [{"names": ["big:1"], "sizeBytes": size}]}});
    let wants = json!({"containers": [{"name": "c", "image": "big:1"}]});
    check(&json!({"a": {}, "b": image(900 << 20)}), &json!([]), &wants, "b");
    check(&json!({"a": image(10 << 20), "b": {}}), &json!([]), &wants, "a");
}

#[test]
fn weights_and_scales_are_the_usual_ones() {
    let scored = PLUGINS.iter().filter_map(|plugin| Some((plugin.name, plugin.score?.weight, plugin.score?.scale)));
    let expected = [
        ("TaintToleration", 3, Scale::LowestBest),
        ("NodeAffinity", 2, Scale::HighestBest),
        ("PodTopologySpread", 2, Scale::Spread),
        ("InterPodAffinity", 2, Scale::Range),
        ("ImageLocality", 1, Scale::None),
        ("LeastAllocated", 1, Scale::None),
        ("NodeResourcesBalancedAllocation", 1, Scale::None),
    ];
    assert_eq!(scored.collect::<Vec<_>>(), expected);
    let check = |scale: Scale, raw: &[i64], expected: &[i64]| assert_eq!(scale.apply(raw.to_vec()), expected);
    check(Scale::HighestBest, &[0, 1, 4], &[0, 25, 100]);
    check(Scale::LowestBest, &[0, 1, 4], &[100, 75, 0]);
    check(Scale::LowestBest, &[0, 0], &[100, 100]);
    check(Scale::Range, &[-5, 0, 5], &[0, 50, 100]);
    check(Scale::Range, &[3, 3], &[0, 0]);
}
