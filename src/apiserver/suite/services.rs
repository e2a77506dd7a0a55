//! Addresses and ports of Services.

use super::{Answer, Server};
use naru_api::registry;
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn service(name: &str, more: Value) -> Value {
    let mut object = json!({ "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }] } });
    object["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object
}

async fn dual() -> Server {
    Server::start_with(|config| config.service_cidr = "10.43.0.0/24,fd00:43::/112".to_owned()).await
}

/// The addresses that have an object, but for the `kubernetes` Service's.
async fn taken(server: &Server) -> Vec<String> {
    let list = server.get(ADDRESSES).await.ok();
    let names =
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned());
    names.filter(|name| name != "10.43.0.1").collect()
}

fn message(answer: Answer) -> String {
    assert!(answer.code >= 400, "{}", answer.body);
    answer.body["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_first_range_and_address_are_objects() {
    let server = dual().await;
    let range = server.get(&format!("{RANGES}/kubernetes")).await.ok();
    assert_eq!(range["spec"]["cidrs"], json!(["10.43.0.0/24", "fd00:43::/112"]));
    let address = server.get(&format!("{ADDRESSES}/10.43.0.1")).await.ok();
    let parent = json!({"resource": "services", "namespace": "default", "name": "kubernetes"});
    assert_eq!(address["spec"]["parentRef"], parent);
    assert_eq!(
        address["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
}

#[tokio::test]
async fn addresses_come_and_go_with_families_and_types() {
    let server = dual().await;
    let one = server.post(SERVICES, service("a", json!({}))).await.ok();
    let first = one["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert_eq!((&one["spec"]["ipFamilies"], &one["spec"]["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
    assert_eq!(taken(&server).await, std::slice::from_ref(&first));
    let uri = format!("{SERVICES}/a");
    let two = server.merge(&uri, json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}})).await.ok();
    assert_eq!(two["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(two["spec"]["clusterIPs"][0], first.as_str());
    assert!(two["spec"]["clusterIPs"][1].as_str().unwrap().starts_with("fd00:43::"));
    assert_eq!(taken(&server).await.len(), 2);
    let less = server.merge(&uri, json!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await.ok();
    assert_eq!((&less["spec"]["clusterIPs"], &less["spec"]["ipFamilies"]), (&json!([first]), &json!(["IPv4"])));
    assert_eq!(taken(&server).await, [first]);
    let name = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let name = server.merge(&uri, name).await.ok();
    assert!(name["spec"].get("clusterIP").is_none() && name["spec"].get("ipFamilies").is_none());
    assert!(taken(&server).await.is_empty());
    let back = server.merge(&uri, json!({"spec": {"type": "ClusterIP", "externalName": null}})).await.ok();
    assert_eq!(taken(&server).await, [back["spec"]["clusterIP"].as_str().unwrap()]);
    server.delete(&uri).await.ok();
    assert!(taken(&server).await.is_empty());
}

#[tokio::test]
async fn wrong_services_take_nothing() {
    let server = dual().await;
    server
        .post(SERVICES, service("a", json!({"ports": []})))
        .await
        .refused(422, "Service \"a\" is invalid: spec.ports: Required value");
    server.post(&format!("{SERVICES}?dryRun=All"), service("a", json!({"type": "NodePort"}))).await.ok();
    assert!(taken(&server).await.is_empty());
    let given = service("a", json!({"clusterIP": "10.43.0.77"}));
    server.post(SERVICES, given.clone()).await.ok();
    assert_eq!(
        message(server.post(SERVICES, service("b", json!({"clusterIP": "10.43.0.77"}))).await),
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.0.77\"]: failed to allocate IP 10.43.0.77: provided IP is already allocated"
    );
    assert_eq!(
        message(server.post(SERVICES, service("b", json!({"clusterIP": "10.44.0.77"}))).await),
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.44.0.77\"]: failed to allocate IP 10.44.0.77: the provided network does not match the current range"
    );
    let moved = json!({"spec": {"clusterIP": "10.43.0.78"}});
    assert_eq!(
        message(server.merge(&format!("{SERVICES}/a"), moved).await),
        "Service \"a\" is invalid: spec.clusterIPs[0]: Invalid value: [\"10.43.0.78\"]: may not change once set"
    );
    assert_eq!(taken(&server).await, ["10.43.0.77"]);
    // Its address is looked at before its name.
    server.post(SERVICES, given).await.code_is(422);
    server.post(SERVICES, service("a", json!({}))).await.refused(409, "services \"a\" already exists");
    assert_eq!(taken(&server).await, ["10.43.0.77"]);
}

#[tokio::test]
async fn single_stack_clusters_have_one_family() {
    let server = Server::start().await;
    let dual = service("a", json!({"ipFamilyPolicy": "RequireDualStack"}));
    server.post(SERVICES, dual).await.refused(
        422,
        "Service \"a\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
    );
    let preferring = server.post(SERVICES, service("b", json!({"ipFamilyPolicy": "PreferDualStack"}))).await.ok();
    assert_eq!(preferring["spec"]["ipFamilies"], json!(["IPv4"]));
    let headless = server.post(SERVICES, service("c", json!({"clusterIP": "None"}))).await.ok();
    assert_eq!(headless["spec"]["ipFamilyPolicy"], "RequireDualStack");
    assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
}

#[tokio::test]
async fn ranges_may_join_and_end() {
    let server = Server::start().await;
    let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.99.0.0/28"]}});
    server.post(RANGES, range).await.ok();
    server.post(SERVICES, service("a", json!({"clusterIP": "10.99.0.5"}))).await.ok();
    let mut status = server.get(&format!("{RANGES}/more")).await.ok();
    status["status"] = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "Terminating",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    server.put(&format!("{RANGES}/more/status"), status).await.ok();
    server.post(SERVICES, service("b", json!({"clusterIP": "10.99.0.6"}))).await.code_is(422);
}

#[tokio::test]
async fn a_start_gives_back_what_nobody_has() {
    let server = Server::start().await;
    let given = server.post(SERVICES, service("a", json!({}))).await.ok();
    let ip = given["spec"]["clusterIP"].as_str().unwrap().to_owned();
    server.delete(&format!("{ADDRESSES}/{ip}")).await.ok();
    let stray = json!({"metadata": {"name": "10.43.9.9", "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "gone"}}});
    server.post(ADDRESSES, stray).await.ok();
    let mine = json!({"metadata": {"name": "10.43.9.8"},
        "spec": {"parentRef": {"group": "example.com", "resource": "things", "name": "x"}}});
    server.post(ADDRESSES, mine).await.ok();
    let store = server.state().config.store.clone();
    let config = crate::Config::new(store, super::key_pem(), [192, 0, 2, 1].into());
    crate::ApiServer::new(config, server.shutdown.child()).await.unwrap();
    server.state().cache.wait_for(server.state().store.revision()).await.unwrap();
    let mut expect = vec!["10.43.9.8".to_owned(), ip];
    expect.sort();
    let mut found = taken(&server).await;
    found.sort();
    assert_eq!(found, expect);
    assert!(server.state().cache.get(&registry::IP_ADDRESSES, None, "10.43.9.9").is_none());
}

#[tokio::test]
async fn node_ports_are_numbers_of_one_service() {
    let server = Server::start().await;
    let ports = json!([{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]);
    let both = server.post(SERVICES, service("dns", json!({"type": "NodePort", "ports": ports}))).await.ok();
    let number = both["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert_eq!(both["spec"]["ports"][1]["nodePort"], number);
    let other = json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "UDP", "nodePort": number}]});
    assert_eq!(
        message(server.post(SERVICES, service("b", other)).await),
        format!(
            "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: {number}: provided port is already allocated"
        )
    );
    let low = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
    assert_eq!(
        message(server.post(SERVICES, service("b", low)).await),
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
    );
    let uri = format!("{SERVICES}/dns");
    let plain = server.merge(&uri, json!({"spec": {"type": "ClusterIP"}})).await.ok();
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
    let again = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": number}]});
    server.post(SERVICES, service("b", again)).await.ok();
}

#[tokio::test]
async fn health_check_ports_follow_the_policy() {
    let server = Server::start().await;
    let local =
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": false});
    let balancer = server.post(SERVICES, service("lb", local)).await.ok();
    let port = balancer["spec"]["healthCheckNodePort"].as_u64().unwrap();
    assert!((30_000..=32_767).contains(&port));
    assert!(balancer["spec"]["ports"][0].get("nodePort").is_none());
    let uri = format!("{SERVICES}/lb");
    let moved = server.merge(&uri, json!({"spec": {"healthCheckNodePort": port - 1}})).await;
    moved.refused(
        422,
        &format!(
            "Service \"lb\" is invalid: spec.healthCheckNodePort: Invalid value: {}: field is immutable",
            port - 1
        ),
    );
    let taken = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port});
    server.post(SERVICES, service("x", taken.clone())).await.refused(
        500,
        &format!("Internal error occurred: failed to allocate requested HealthCheck NodePort {port}: provided port is already allocated"),
    );
    let cluster = server.merge(&uri, json!({"spec": {"externalTrafficPolicy": "Cluster"}})).await.ok();
    assert!(cluster["spec"].get("healthCheckNodePort").is_none());
    server.post(SERVICES, service("x", taken)).await.ok();
}
