//! Webhooks that decide, constrained impersonation, and what reviews say of both.

use super::outside::Outside;
use super::*;
use crate::flags::Flags;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn alice() -> User {
    User::authenticated("alice", [])
}

/// A webhook that lets `alice` list pods of one node and denies everything about secrets.
async fn webhook() -> Outside {
    Outside::start(|_, review| {
        let about = &review["spec"]["resourceAttributes"];
        let on_a = about["fieldSelector"]["requirements"][0]["values"][0] == "a";
        let status = match about["resource"].as_str().unwrap_or_default() {
            "pods" if on_a => json!({ "allowed": true, "reason": "because" }),
            "secrets" => json!({ "allowed": false, "denied": true, "reason": "never" }),
            "nodes" => return (400, json!({})),
            _ => json!({ "allowed": false, "reason": "no idea" }),
        };
        (200, json!({ "apiVersion": review["apiVersion"], "kind": "SubjectAccessReview", "status": status }))
    })
    .await
}

#[tokio::test]
async fn a_webhook_decides_in_its_place() {
    let outside = webhook().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authorization.yaml");
    let webhook = json!({ "timeout": "3s", "subjectAccessReviewVersion": "v1", "failurePolicy": "NoOpinion",
        "connectionInfo": { "type": "KubeConfigFile", "kubeConfigFile": outside.kubeconfig(dir.path()) } });
    let document = json!({ "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
        "authorizers": [{ "type": "Webhook", "name": "w", "webhook": webhook }, { "type": "Node", "name": "n" }, { "type": "RBAC", "name": "r" }] });
    std::fs::write(&file, document.to_string()).unwrap();
    let server = Server::start_with(|config| {
        config.flags = Flags::parse(&[format!("authorization-config={}", file.display())]).unwrap();
    })
    .await;
    let list = async |uri: &str| server.call_as(alice(), Method::GET, uri, &[], b"").await;
    for _ in 0..2 {
        list("/api/v1/pods?fieldSelector=spec.nodeName%3Da").await.ok();
    }
    assert_eq!(outside.asked().len(), 1, "a yes counts for a while");
    list("/api/v1/pods").await.refused(
        403,
        "pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" at the cluster scope: no idea",
    );
    list("/api/v1/secrets").await.refused(
        403,
        "secrets is forbidden: User \"alice\" cannot list resource \"secrets\" in API group \"\" at the cluster scope: never",
    );
    assert_eq!(list("/api/v1/nodes").await.code, 500);
    let about = |resource: &str, selector: Value| {
        let attributes = json!({ "verb": "list", "resource": resource, "fieldSelector": selector });
        json!({ "spec": { "user": "alice", "resourceAttributes": attributes } })
    };
    let review = async |spec: Value| server.post(REVIEWS, spec).await.ok()["status"].clone();
    let on_a = json!({ "requirements": [{ "key": "spec.nodeName", "operator": "In", "values": ["a"] }] });
    assert_eq!(review(about("pods", on_a)).await, json!({ "allowed": true, "reason": "because" }));
    assert_eq!(
        review(about("secrets", json!({ "rawSelector": "a=b" }))).await,
        json!({ "allowed": false, "denied": true, "reason": "never" })
    );
    server.post(REVIEWS, about("pods", json!({}))).await.refused(
        422,
        "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
    );
    // Those who may do everything are not asked about.
    let before = outside.asked().len();
    server.get("/api/v1/secrets").await.ok();
    assert_eq!(outside.asked().len(), before);
    let rules = server
        .call_as(
            alice(),
            Method::POST,
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            &[],
            br#"{"spec":{"namespace":"default"}}"#,
        )
        .await;
    let status = &rules.ok()["status"];
    assert_eq!(status["incomplete"], true);
    assert_eq!(status["evaluationError"], "webhook authorizer does not support user rule resolution");
}

/// Gives alice a role with these rules everywhere.
async fn grant(server: &Server, rules: Value) {
    let role = json!({ "metadata": { "name": "r" }, "rules": rules });
    server.post(&format!("{RBAC}/clusterroles"), role).await.ok();
    let binding = json!({ "metadata": { "name": "b" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r" },
        "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "alice" }] });
    server.post(&format!("{RBAC}/clusterrolebindings"), binding).await.ok();
}

#[tokio::test]
async fn constrained_impersonation_is_for_the_request_at_hand() {
    let server = Server::start().await;
    let auth = "authentication.k8s.io";
    grant(
        &server,
        json!([
            { "apiGroups": [auth], "resources": ["users"], "verbs": ["impersonate:user-info"], "resourceNames": ["bob"] },
            { "apiGroups": [auth], "resources": ["nodes"], "verbs": ["impersonate:arbitrary-node"] },
            { "apiGroups": [auth], "resources": ["selfsubjectreviews"], "verbs": ["impersonate-on:user-info:create", "impersonate-on:arbitrary-node:create"] },
            { "apiGroups": [auth], "resources": ["groups"], "verbs": ["impersonate:user-info"] },
        ]),
    )
    .await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let whoami = async |headers: &[(&str, &str)]| {
        let answer = server.call_as(alice(), Method::POST, path, headers, b"{}").await;
        (answer.code, answer.body)
    };
    let (_, bob) = whoami(&[("impersonate-user", "bob"), ("impersonate-group", "team")]).await;
    assert_eq!(bob["status"]["userInfo"], json!({ "username": "bob", "groups": ["team", "system:authenticated"] }));
    let (_, node) = whoami(&[("impersonate-user", "system:node:n")]).await;
    assert_eq!(
        node["status"]["userInfo"],
        json!({ "username": "system:node:n", "groups": ["system:nodes", "system:authenticated"] })
    );
    let (code, masters) = whoami(&[("impersonate-user", "bob"), ("impersonate-group", "system:masters")]).await;
    assert_eq!(code, 403);
    assert_eq!(
        masters["message"],
        "groups.authentication.k8s.io \"system:masters\" is forbidden: User \"alice\" cannot impersonate:user-info resource \"groups\" in API group \"authentication.k8s.io\" at the cluster scope: impersonating the system:masters group is not allowed"
    );
    assert_eq!(whoami(&[("impersonate-user", "carol")]).await.0, 403);
    server.call_as(alice(), Method::GET, PODS, &[("impersonate-user", "bob")], b"").await.refused(
        403,
        "pods is forbidden: User \"alice\" cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" in the namespace \"default\"",
    );
    let (code, nobody) = whoami(&[("impersonate-group", "team")]).await;
    assert_eq!(code, 400);
    assert_eq!(
        nobody["message"],
        "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"team\"}, Extra:map[string][]string(nil)} without impersonating a user name"
    );
}

#[tokio::test]
async fn the_old_right_to_impersonate_is_still_one() {
    let server = Server::start().await;
    grant(
        &server,
        json!([
            { "apiGroups": [""], "resources": ["users", "groups", "serviceaccounts"], "verbs": ["impersonate"] },
            { "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes", "uids"], "verbs": ["impersonate"] },
        ]),
    )
    .await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let whoami = async |headers: &[(&str, &str)]| {
        let answer = server.call_as(alice(), Method::POST, path, headers, b"{}").await;
        (answer.code, answer.body["status"]["userInfo"].clone())
    };
    let bob = [("impersonate-user", "bob"), ("impersonate-uid", "7"), ("impersonate-extra-scopes", "a")];
    assert_eq!(
        whoami(&bob).await.1,
        json!({ "username": "bob", "uid": "7", "groups": ["system:authenticated"], "extra": { "scopes": ["a"] } })
    );
    assert_eq!(whoami(&[("impersonate-user", "bob"), ("impersonate-extra-other", "a")]).await.0, 403);
    assert_eq!(
        whoami(&[("impersonate-user", "system:serviceaccount:ns:sa")]).await.1["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"])
    );
    let anonymous =
        whoami(&[("impersonate-user", "system:anonymous"), ("impersonate-group", "system:unauthenticated")]).await;
    assert_eq!(anonymous.1["groups"], Value::Null, "anonymous may not even ask who it is: {anonymous:?}");
}

#[tokio::test]
async fn groups_of_a_service_account_are_asked_about() {
    let server = Server::start().await;
    grant(&server, json!([{ "apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"] }])).await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let account = ("impersonate-user", "system:serviceaccount:ns:sa");
    server.call_as(alice(), Method::POST, path, &[account], b"{}").await.ok();
    let more = [account, ("impersonate-group", "system:serviceaccounts:kube-system")];
    server.call_as(alice(), Method::POST, path, &more, b"{}").await.code_is(403);
}

#[tokio::test]
async fn rules_are_listed_as_far_as_they_can_be() {
    let server = Server::start().await;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let ask = async |user: User, namespace: &str| {
        let body = json!({ "spec": { "namespace": namespace } }).to_string();
        server.call_as(user, Method::POST, path, &[], body.as_bytes()).await
    };
    let everything = ask(admin(), "default").await.ok();
    let all = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] });
    assert!(everything["status"]["resourceRules"].as_array().unwrap().contains(&all), "{everything}");
    let kubelet = User::authenticated("system:node:a", ["system:nodes".to_owned()]);
    let node = ask(kubelet, "default").await.ok();
    assert_eq!(node["status"]["incomplete"], true);
    assert_eq!(node["status"]["evaluationError"], "node authorizer does not support user rule resolution");
    ask(admin(), "").await.refused(400, "no namespace on request");
}
