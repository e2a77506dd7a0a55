//! Who may do what, and as whom.

use super::*;
use serde_json::json;

fn alice() -> User {
    User::authenticated("alice", [])
}

#[tokio::test]
async fn refusals_say_who_cannot_do_what_where() {
    let server = Server::start().await;
    let cases = [
        (
            Method::GET,
            "/api/v1/namespaces/default/pods",
            "pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
        ),
        (
            Method::GET,
            "/api/v1/nodes/n",
            "nodes \"n\" is forbidden: User \"alice\" cannot get resource \"nodes\" in API group \"\" at the cluster scope",
        ),
        (
            Method::GET,
            "/apis/apps/v1/deployments?watch=1",
            "deployments.apps is forbidden: User \"alice\" cannot watch resource \"deployments\" in API group \"apps\" at the cluster scope",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/default/pods/p/exec",
            "pods \"p\" is forbidden: User \"alice\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"default\"",
        ),
        (Method::GET, "/metrics", "forbidden: User \"alice\" cannot get path \"/metrics\""),
    ];
    for (method, uri, message) in cases {
        server.call_as(alice(), method, uri, &[], b"").await.refused(403, message);
    }
    // What everybody may see.
    assert_eq!(server.call_as(User::anonymous(), Method::GET, "/healthz", &[], b"").await.code, 200);
    assert_eq!(server.call_as(User::anonymous(), Method::GET, "/api", &[], b"").await.code, 403);
    assert_eq!(server.call_as(alice(), Method::GET, "/apis", &[], b"").await.code, 200);
}

#[tokio::test]
async fn a_role_counts_for_the_next_request() {
    let server = Server::start().await;
    let list = "/api/v1/namespaces/default/configmaps";
    assert_eq!(server.call_as(alice(), Method::GET, list, &[], b"").await.code, 403);
    let base = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({ "metadata": { "name": "r" }, "rules": [{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"] }] });
    let binding = json!({ "metadata": { "name": "b" }, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r" },
        "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "alice" }] });
    server.post(&format!("{base}/rolebindings"), binding).await.ok();
    let dangling = server.call_as(alice(), Method::GET, list, &[], b"").await;
    assert!(
        dangling.body["message"].as_str().unwrap().ends_with(": RBAC: role.rbac.authorization.k8s.io \"r\" not found")
    );
    server.post(&format!("{base}/roles"), role).await.ok();
    assert_eq!(server.call_as(alice(), Method::GET, list, &[], b"").await.code, 200);
    let elsewhere = "/api/v1/namespaces/kube-system/configmaps";
    assert_eq!(server.call_as(alice(), Method::GET, elsewhere, &[], b"").await.code, 403);
    let review = json!({ "spec": { "resourceAttributes": { "namespace": "default", "verb": "list", "resource": "configmaps" } } });
    let body = review.to_string();
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = server.call_as(alice(), Method::POST, path, &[], body.as_bytes()).await.ok();
    assert_eq!(answer["status"]["allowed"], true);
    assert_eq!(
        answer["status"]["reason"],
        "RBAC: allowed by RoleBinding \"b/default\" of Role \"r\" to User \"alice\""
    );
    server.delete(&format!("{base}/roles/r")).await.ok();
    assert_eq!(server.call_as(alice(), Method::GET, list, &[], b"").await.code, 403);
}

#[tokio::test]
async fn tokens_live_as_long_as_what_they_are_bound_to() {
    let server = Server::start().await;
    let pod = server.post(PODS, pod("p")).await.ok();
    let request = json!({ "spec": { "audiences": [], "expirationSeconds": 3600,
        "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "p", "uid": pod["metadata"]["uid"] } } });
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let issued = server.post(path, request).await.ok();
    let token = issued["status"]["token"].as_str().unwrap();
    let state = server.state();
    let header = format!("Bearer {token}");
    let user = authenticate(state, Some(&header), "/api").await.unwrap();
    assert_eq!(user.name, "system:serviceaccount:default:default");
    assert!(user.in_group("system:serviceaccounts:default") && user.in_group("system:authenticated"));
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    let review = json!({ "spec": { "token": token, "audiences": ["somebody-else"] } });
    let answer = server.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.ok();
    assert_eq!(
        answer["status"],
        json!({ "user": {}, "error": "token audiences [\"https://kubernetes.default.svc.cluster.local\"] is invalid for the target audiences [\"somebody-else\"]" })
    );
    server.delete(&format!("{PODS}/p")).await.ok();
    assert!(authenticate(state, Some(&header), "/api").await.is_none());
    assert!(authenticate(state, Some("Bearer nonsense"), "/api").await.is_none());
    assert_eq!(authenticate(state, None, "/livez").await.unwrap().name, "system:anonymous");
    assert!(authenticate(state, None, "/api").await.is_none());
    let short = server.post(path, json!({ "spec": { "expirationSeconds": 10 } })).await;
    assert_eq!(short.code, 422);
}

#[tokio::test]
async fn impersonation_needs_a_permission_of_its_own() {
    let server = Server::start().await;
    let as_alice = [("impersonate-user", "alice"), ("impersonate-group", "team")];
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let me = server.call_as(admin(), Method::POST, path, &as_alice, b"{}").await.ok();
    assert_eq!(me["status"]["userInfo"], json!({ "username": "alice", "groups": ["team", "system:authenticated"] }));
    server.call_as(alice(), Method::POST, path, &[("impersonate-user", "admin")], b"{}").await.refused(
        403,
        "selfsubjectreviews.authentication.k8s.io is forbidden: User \"alice\" cannot impersonate-on:user-info:create resource \"selfsubjectreviews\" in API group \"authentication.k8s.io\" at the cluster scope",
    );
    let refused = server.call_as(admin(), Method::GET, PODS, &as_alice, b"").await;
    assert_eq!(refused.code, 403);
}

#[tokio::test]
async fn reviews_answer_and_keep_nothing() {
    let server = Server::start().await;
    let before = server.state().store.revision();
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    let spec = |namespace: &str| json!({ "spec": { "user": "alice", "resourceAttributes": { "namespace": namespace, "verb": "get", "resource": "pods" } } });
    assert_eq!(server.post(local, spec("default")).await.ok()["status"]["allowed"], false);
    assert_eq!(server.post(local, spec("other")).await.code, 422);
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let answer = server.post(rules, json!({ "spec": { "namespace": "default" } })).await.ok();
    let listed = answer["status"]["resourceRules"].as_array().unwrap();
    assert!(listed.iter().any(|rule| rule["verbs"] == json!(["*"])), "{listed:?}");
    let tokens = "/apis/authentication.k8s.io/v1/tokenreviews";
    assert_eq!(
        server.post(tokens, json!({ "spec": { "token": "nonsense" } })).await.ok()["status"]["authenticated"],
        Value::Null
    );
    let subject = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    assert_eq!(server.post(subject, json!({ "spec": {} })).await.code, 422);
    assert_eq!(server.state().store.revision(), before);
}
