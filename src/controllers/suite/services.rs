//! What a namespace and a Service get.

use super::{Cluster, deployment, find, is_done};
use naru_api::registry::{self, DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, SERVICES};
use naru_client::{DeleteOptions, PatchKind};
use serde_json::{Value, json};
use std::sync::Arc;

/// Ready addresses in the slices of a Service.
fn ready(all: &[Arc<Value>], service: &str) -> usize {
    let of = all.iter().filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    let endpoints = of.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_follows_its_pods_in_both_forms() {
    let cluster = Cluster::start().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    cluster.create(&SERVICES, service).await;
    let placeholder =
        |all: &[Arc<Value>]| all.iter().any(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web");
    cluster.until(&ENDPOINT_SLICES, "an empty slice", placeholder).await;
    cluster.create(&DEPLOYMENTS, deployment("web", 2, "web:1")).await;
    cluster.until(&DEPLOYMENTS, "the pods", |all| is_done(all, "web", 2)).await;
    cluster
        .until(&ENDPOINT_SLICES, "two endpoints", |all| {
            let port = |slice: &Arc<Value>| slice["ports"][0]["port"] == 8080;
            ready(all, "web") == 2 && all.iter().any(port)
        })
        .await;
    cluster
        .until(&ENDPOINTS, "two addresses", |all| {
            let addresses = find(all, "web").map(|endpoints| &endpoints["subsets"][0]["addresses"]);
            addresses.and_then(Value::as_array).is_some_and(|addresses| addresses.len() == 2)
        })
        .await;
    cluster.merge(&DEPLOYMENTS, "web", json!({"spec": {"replicas": 0}})).await;
    cluster.until(&ENDPOINT_SLICES, "no endpoints", |all| ready(all, "web") == 0).await;
    cluster.client.delete(&SERVICES, Some("default"), "web", &DeleteOptions::default()).await.unwrap();
    cluster.until(&ENDPOINT_SLICES, "no slices", |all| !placeholder(all)).await;
    cluster.until(&ENDPOINTS, "no Endpoints", |all| find(all, "web").is_none()).await;
}

/// The zones that the endpoints of a Service are meant for, in order; `-` for none.
fn hints(all: &[Arc<Value>], service: &str) -> String {
    let of = all.iter().filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    let endpoints = of.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let mut hints: Vec<_> =
        endpoints.map(|endpoint| endpoint["hints"]["forZones"][0]["name"].as_str().unwrap_or("-")).collect();
    hints.sort_unstable();
    hints.join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn zones_share_the_endpoints_of_a_service_that_asks_by_annotation() {
    let cluster = Cluster::start().await;
    cluster.add_node("n2").await;
    for (node, zone) in [("n1", "z1"), ("n2", "z2")] {
        let labels = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
        let kind = PatchKind::Merge;
        cluster.client.patch::<Value>(&registry::NODES, None, node, None, kind, &labels).await.unwrap();
    }
    let service = json!({"metadata": {"name": "web", "annotations": {"service.kubernetes.io/topology-mode": "Auto"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.create(&SERVICES, service).await;
    cluster.create(&DEPLOYMENTS, deployment("web", 4, "web:1")).await;
    cluster.until(&ENDPOINT_SLICES, "hints", |all| hints(all, "web") == "z1 z1 z2 z2").await;
    let told = async |what: &str| {
        let message = format!("Topology Aware Hints has been {what}, addressType: IPv4");
        let is_told = |all: &[Arc<Value>]| all.iter().any(|event| event["message"] == message.as_str());
        cluster.until(&registry::EVENTS, what, is_told).await;
    };
    told("enabled").await;
    let none = json!({"metadata": {"annotations": {"service.kubernetes.io/topology-mode": null}}});
    cluster.merge(&SERVICES, "web", none).await;
    cluster.until(&ENDPOINT_SLICES, "no hints", |all| hints(all, "web") == "- - - -").await;
    told("disabled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_on_a_node_that_is_not_there_has_no_endpoint() {
    // The pod stays although its node is not there.
    let cluster = Cluster::without(&["pod-garbage-collector"]).await;
    let service = json!({"metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.create(&SERVICES, service).await;
    let pod = json!({"metadata": {"name": "lost", "labels": {"app": "web"}},
        "spec": {"nodeName": "nowhere", "containers": [{"name": "c", "image": "web:1"}]}});
    cluster.create(&registry::PODS, pod).await;
    let message = "Error updating Endpoint Slices for Service default/web: skipping Pod lost for Service default/web: \
        Node nowhere Not Found";
    let is_told = |all: &[Arc<Value>]| all.iter().any(|event| event["message"] == message);
    cluster.until(&registry::EVENTS, "the event", is_told).await;
    cluster.until(&ENDPOINT_SLICES, "no endpoint", |all| ready(all, "web") == 0).await;
    cluster.add_node("nowhere").await;
    cluster.until(&ENDPOINT_SLICES, "the endpoint", |all| ready(all, "web") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_others_are_mirrored() {
    let cluster = Cluster::start().await;
    let service = json!({"metadata": {"name": "own"}, "spec": {"ports": [{"port": 80}]}});
    cluster.create(&SERVICES, service).await;
    let endpoints = json!({"metadata": {"name": "own"},
        "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 8080}]}]});
    cluster.create(&ENDPOINTS, endpoints).await;
    cluster.until(&ENDPOINT_SLICES, "a mirror", |all| ready(all, "own") == 1).await;
    let more =
        json!({"subsets": [{"addresses": [{"ip": "192.0.2.7"}, {"ip": "192.0.2.8"}], "ports": [{"port": 8080}]}]});
    cluster.merge(&ENDPOINTS, "own", more).await;
    cluster.until(&ENDPOINT_SLICES, "two endpoints", |all| ready(all, "own") == 2).await;
    cluster.merge(&ENDPOINTS, "own", json!({"metadata": {"annotations": {"why": "because"}}})).await;
    let told = |all: &[Arc<Value>]| all.iter().any(|slice| slice["metadata"]["annotations"]["why"] == "because");
    cluster.until(&ENDPOINT_SLICES, "the annotation", told).await;
    cluster.client.delete(&ENDPOINTS, Some("default"), "own", &DeleteOptions::default()).await.unwrap();
    cluster.until(&ENDPOINT_SLICES, "no mirror", |all| ready(all, "own") == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_can_serve_balance_a_service() {
    let cluster = Cluster::start().await;
    let addresses = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]}});
    let (nodes, kind) = (&registry::NODES, PatchKind::Merge);
    cluster.client.patch::<Value>(nodes, None, "n1", Some("status"), kind, &addresses).await.unwrap();
    let service = json!({"metadata": {"name": "lb"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    cluster.create(&SERVICES, service).await;
    let ip = |all: &[Arc<Value>]| find(all, "lb").map(|lb| lb["status"]["loadBalancer"]["ingress"][0]["ip"].clone());
    let said = json!({"metadata": {"annotations": {"naru.io/balancer": "default/lb=80/TCP"}}});
    cluster.client.patch::<Value>(nodes, None, "n1", None, kind, &said).await.unwrap();
    cluster.until(&SERVICES, "an address", |all| ip(all) == Some("192.0.2.9".into())).await;
    let busy = json!({"metadata": {"annotations": {"naru.io/balancer": null}}});
    cluster.client.patch::<Value>(nodes, None, "n1", None, kind, &busy).await.unwrap();
    cluster.until(&SERVICES, "none again", |all| ip(all) == Some(Value::Null)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_gets_its_account_and_certificates() {
    let cluster = Cluster::start().await;
    cluster
        .until(&registry::CONFIG_MAPS, "the authority's certificate", |all| {
            find(all, "kube-root-ca.crt").is_some_and(|map| map["data"]["ca.crt"] == "CA")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_that_start_over_find_nothing_to_write() {
    let mut cluster = Cluster::well_connected().await;
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}})
    };
    cluster.create(&SERVICES, service("web")).await;
    cluster.create(&DEPLOYMENTS, deployment("web", 3, "web:1")).await;
    cluster.until(&DEPLOYMENTS, "the rollout", |all| is_settled(all, "web")).await;
    cluster.until(&ENDPOINT_SLICES, "three endpoints", |all| ready(all, "web") == 3).await;
    cluster.until(&ENDPOINTS, "Endpoints", |all| find(all, "web").is_some_and(|web| has_addresses(web, 3))).await;

    cluster.start_controllers().await;
    // Keys are worked off in order, so that the canary's end comes after all that was there before.
    cluster.create(&SERVICES, service("canary")).await;
    cluster.create(&DEPLOYMENTS, deployment("canary", 1, "web:1")).await;
    cluster.until(&DEPLOYMENTS, "the canary", |all| is_settled(all, "canary")).await;
    cluster.until(&ENDPOINT_SLICES, "its endpoint", |all| ready(all, "canary") == 1).await;
    let writes = cluster.writes.lock().unwrap();
    // Nodes are told of anew by each process, as upstream does it.
    let known = ["canary", "RegisteredNode"];
    let needless: Vec<_> = writes.iter().filter(|write| !known.iter().any(|known| write.contains(known))).collect();
    assert!(needless.is_empty(), "{needless:#?}");
}

fn has_addresses(endpoints: &Value, count: usize) -> bool {
    endpoints["subsets"][0]["addresses"].as_array().is_some_and(|addresses| addresses.len() == count)
}

/// Whether the Deployment has told the end of its rollout.
fn is_settled(all: &[Arc<Value>], name: &str) -> bool {
    let conditions = find(all, name).map(|object| &object["status"]["conditions"]);
    let mut conditions = conditions.and_then(Value::as_array).into_iter().flatten();
    conditions.any(|condition| condition["reason"] == "NewReplicaSetAvailable")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_claim_waits_for_its_pod_and_then_goes() {
    let cluster = Cluster::start().await;
    let claims = &registry::PERSISTENT_VOLUME_CLAIMS;
    let claim = json!({"metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.create(claims, claim).await;
    let pod = json!({"metadata": {"name": "user"}, "spec": {"containers": [{"name": "c", "image": "x"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    cluster.create(&registry::PODS, pod).await;
    let options = DeleteOptions::default();
    cluster.client.delete(claims, Some("default"), "data", &options).await.unwrap();
    cluster
        .until(claims, "the claim waits", |all| all.len() == 1 && !all[0]["metadata"]["deletionTimestamp"].is_null())
        .await;
    cluster.client.delete(&registry::PODS, Some("default"), "user", &options).await.unwrap();
    cluster.until(claims, "the claim is gone", <[_]>::is_empty).await;
}
