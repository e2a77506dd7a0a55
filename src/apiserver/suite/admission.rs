//! What admission does to requests: quotas, limit ranges, classes, certificates.

use super::*;
use base64::Engine;
use futures::future::join_all;

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A quota as its controller would have counted it.
async fn quota(server: &Server, name: &str, hard: Value, used: Value) {
    let object = json!({ "metadata": { "name": name }, "spec": { "hard": hard } });
    let mut object = server.post(QUOTAS, object).await.ok();
    object["status"] = json!({ "hard": hard, "used": used });
    server.put(&format!("{QUOTAS}/{name}/status"), object).await.ok();
}

#[tokio::test]
async fn parallel_creates_fill_a_quota_exactly() {
    let server = Server::start().await;
    quota(&server, "ten", json!({ "pods": "10", "count/pods": "100" }), json!({ "pods": "0", "count/pods": "0" }))
        .await;
    quota(&server, "many", json!({ "pods": "50" }), json!({ "pods": "0" })).await;
    let names: Vec<String> = (0..16).map(|i| format!("p{i}")).collect();
    let answers = join_all(names.iter().map(|name| server.post(PODS, pod(name)))).await;
    assert_eq!(answers.iter().filter(|answer| answer.code == 201).count(), 10);
    let refused: Vec<_> = answers.iter().filter(|answer| answer.code == 403).collect();
    assert_eq!(refused.len(), 6);
    let message = refused[0].body["message"].as_str().unwrap();
    assert!(
        message.ends_with("is forbidden: exceeded quota: ten, requested: pods=1, used: pods=10, limited: pods=10"),
        "{message}"
    );
    let used = server.get(&format!("{QUOTAS}/ten")).await.ok();
    assert_eq!(used["status"]["used"], json!({ "count/pods": "10", "pods": "10" }));
    // Whoever was refused by one quota costs nothing in the others.
    assert_eq!(server.get(&format!("{QUOTAS}/many")).await.ok()["status"]["used"], json!({ "pods": "10" }));
}

#[tokio::test]
async fn neither_dry_runs_nor_taken_names_cost_anything() {
    let server = Server::start().await;
    quota(&server, "q", json!({ "count/configmaps": "2" }), json!({ "count/configmaps": "0" })).await;
    server.post(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("a")).await.ok();
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    assert_eq!(server.post(CONFIG_MAPS, config_map("a")).await.code, 409);
    let used = server.get(&format!("{QUOTAS}/q")).await.ok();
    assert_eq!(used["status"]["used"], json!({ "count/configmaps": "1" }));
}

#[tokio::test]
async fn a_quota_on_limits_makes_containers_name_theirs() {
    let server = Server::start().await;
    quota(&server, "q", json!({ "limits.cpu": "1" }), json!({ "limits.cpu": "0" })).await;
    server
        .post(PODS, pod("p"))
        .await
        .refused(403, "pods \"p\" is forbidden: failed quota: q: must specify limits.cpu for: c");
    let range = json!({ "metadata": { "name": "r" }, "spec": { "limits": [{
        "type": "Container", "default": { "cpu": "600m" }, "max": { "cpu": "700m" } }] } });
    server.post("/api/v1/namespaces/default/limitranges", range).await.ok();
    let created = server.post(PODS, pod("p")).await.ok();
    assert_eq!(
        created["spec"]["containers"][0]["resources"],
        json!({ "limits": { "cpu": "600m" }, "requests": { "cpu": "600m" } })
    );
    server.post(PODS, pod("q")).await.refused(
        403,
        "pods \"q\" is forbidden: exceeded quota: q, requested: limits.cpu=600m, used: limits.cpu=600m, limited: limits.cpu=1",
    );
    let mut large = pod("large");
    large["spec"]["containers"][0]["resources"] = json!({ "limits": { "cpu": "800m" } });
    server
        .post(PODS, large)
        .await
        .refused(403, "pods \"large\" is forbidden: maximum cpu usage per Container is 700m, but limit is 800m");
}

#[tokio::test]
async fn new_nodes_are_tainted_and_pods_wear_their_zone() {
    let server = Server::start().await;
    let node = json!({ "metadata": { "name": "n", "labels": { "topology.k8s.io/zone": "z" } } });
    let node = server.post("/api/v1/nodes", node).await.ok();
    assert_eq!(node["spec"]["taints"], json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }]));
    server.post(PODS, pod("p")).await.ok();
    let binding = json!({ "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "n" } });
    server.post(&format!("{PODS}/p/binding"), binding).await.ok();
    let bound = server.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(bound["metadata"]["labels"]["topology.k8s.io/zone"], "z");
}

#[tokio::test]
async fn a_default_ingress_class_is_used() {
    let server = Server::start().await;
    let class = json!({ "metadata": { "name": "c", "annotations": {
        "ingressclass.kubernetes.io/is-default-class": "true" } }, "spec": { "controller": "example.com/c" } });
    server.post("/apis/networking.k8s.io/v1/ingressclasses", class).await.ok();
    let ingress = json!({ "metadata": { "name": "i" }, "spec": { "defaultBackend": {
        "service": { "name": "s", "port": { "number": 80 } } } } });
    let created = server.post("/apis/networking.k8s.io/v1/namespaces/default/ingresses", ingress).await.ok();
    assert_eq!(created["spec"]["ingressClassName"], "c");
}

pub(super) const CSR: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIHiMIGKAgEAMCgxFzAVBgNVBAoMDnN5c3RlbTptYXN0ZXJzMQ0wCwYDVQQDDARq
YW5lMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEuWhS1n/UwCuCBStXTOzi+A1D
IMJ7NxfpPDEzBblis+tG7T49UhNWpnIRGgB3bL6OOSVAzG5DTa1RS2ItDjg9caAA
MAoGCCqGSM49BAMCA0cAMEQCIEhIRg4lOhZIKNJJQHbDGlaNSgEFYJugZu5ayB0T
cTMEAiBf59iJXJr5CvJFk52J7uZsyaoymBJbe8s0I04VEWTBvA==
-----END CERTIFICATE REQUEST-----
";

pub(super) fn request(name: &str, signer: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": {
        "request": base64::engine::general_purpose::STANDARD.encode(CSR),
        "signerName": signer, "usages": ["client auth"], "username": "somebody else" } })
}

#[tokio::test]
async fn certificates_are_asked_for_and_approved() {
    let server = Server::start().await;
    let created = server.post(REQUESTS, request("r", "example.com/x")).await.ok();
    assert_eq!(created["spec"]["username"], "admin");
    assert_eq!(created["spec"]["groups"], json!(["system:masters", "system:authenticated"]));
    server.post(REQUESTS, request("m", "kubernetes.io/kube-apiserver-client")).await.refused(
        403,
        "certificatesigningrequests.certificates.k8s.io \"m\" is forbidden: use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
    );
    let role = json!({ "metadata": { "name": "approver" }, "rules": [{
        "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update"] }] });
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await.ok();
    let binding = json!({ "metadata": { "name": "approver" }, "subjects": [{ "kind": "User", "name": "jane",
        "apiGroup": "rbac.authorization.k8s.io" }], "roleRef": { "kind": "ClusterRole", "name": "approver",
        "apiGroup": "rbac.authorization.k8s.io" } });
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.ok();
    let mut approved = created;
    approved["status"]["conditions"] = json!([{ "type": "Approved", "status": "True", "reason": "Because" }]);
    let uri = format!("{REQUESTS}/r/approval");
    let json_type = [("content-type", "application/json")];
    let jane = User::authenticated("jane", []);
    let body = approved.to_string();
    server.call_as(jane, Method::PUT, &uri, &json_type, body.as_bytes()).await.refused(
        403,
        "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to approve requests with signerName \"example.com/x\"",
    );
    let answer = server.put(&uri, approved).await.ok();
    let other = json!({ "metadata": { "annotations": { "by": "patch" } }, "spec": { "username": "root" } });
    let patched = server.merge(&uri, other).await.ok();
    assert_eq!(patched["metadata"]["annotations"]["by"], "patch", "metadata may be changed this way too");
    assert_eq!(patched["spec"]["username"], "admin");
    let wrong = json!({ "metadata": { "labels": { "not a key": "v" } } });
    server.merge(&uri, wrong).await.code_is(422);
    let condition = &answer["status"]["conditions"][0];
    assert!(condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string());
    let list = server.get(&format!("{REQUESTS}?fieldSelector=spec.signerName=example.com/x")).await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn flow_control_objects_exist() {
    let server = Server::start().await;
    let base = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let count = |list: Value| list["items"].as_array().unwrap().len();
    assert_eq!(count(server.get(&format!("{base}/flowschemas")).await.ok()), 11);
    assert_eq!(count(server.get(&format!("{base}/prioritylevelconfigurations")).await.ok()), 8);
    // What is shipped passes its own rules.
    for kind in ["flowschemas/exempt", "flowschemas/catch-all", "prioritylevelconfigurations/catch-all"] {
        let object = server.get(&format!("{base}/{kind}")).await.ok();
        server.put(&format!("{base}/{kind}"), object).await.ok();
    }
}

#[tokio::test]
async fn one_priority_class_is_the_default() {
    let server = Server::start().await;
    let uri = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = |name: &str| json!({ "metadata": { "name": name }, "value": 1, "globalDefault": true });
    server.post(uri, class("a")).await.ok();
    server.post(uri, class("b")).await.refused(
        403,
        "priorityclasses.scheduling.k8s.io \"b\" is forbidden: PriorityClass a is already marked as default. Only one default can exist",
    );
}

#[tokio::test]
async fn owners_are_named_by_those_who_may_delete() {
    let server = Server::start().await;
    let role = json!({ "metadata": { "name": "creator" }, "rules": [
        { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"] }] });
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await.ok();
    let binding = json!({ "metadata": { "name": "creator" }, "subjects": [{ "kind": "User", "name": "jane",
        "apiGroup": "rbac.authorization.k8s.io" }], "roleRef": { "kind": "ClusterRole", "name": "creator",
        "apiGroup": "rbac.authorization.k8s.io" } });
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.ok();
    let json_type = [("content-type", "application/json")];
    let mut owned = config_map("a");
    let plain = owned.to_string();
    let jane = || User::authenticated("jane", []);
    server.call_as(jane(), Method::POST, CONFIG_MAPS, &json_type, plain.as_bytes()).await.ok();
    owned["metadata"]["name"] = "b".into();
    owned["metadata"]["ownerReferences"] = json!([{ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u" }]);
    let answer = server.call_as(jane(), Method::POST, CONFIG_MAPS, &json_type, owned.to_string().as_bytes()).await;
    assert_eq!(answer.code, 403);
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.contains("cannot set an ownerRef on a resource you can't delete"), "{message}");
}
