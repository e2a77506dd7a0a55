//! What kubelets may do, what pods may be, and what may be granted.

use super::*;
use serde_json::json;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn kubelet(node: &str) -> User {
    User::authenticated(format!("system:node:{node}"), ["system:nodes".to_owned()])
}

fn alice() -> User {
    User::authenticated("alice", [])
}

impl Server {
    async fn as_user(&self, user: User, method: Method, uri: &str, body: Value) -> Answer {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.call_as(user, method, uri, &[("content-type", kind)], body.as_bytes()).await
    }
}

/// A server with nodes `a` and `b`, and a pod on `a` that uses the secret `used`.
async fn two_nodes() -> Server {
    let server = Server::start().await;
    for node in ["a", "b"] {
        server.post("/api/v1/nodes", json!({ "metadata": { "name": node } })).await.ok();
    }
    for secret in ["used", "other"] {
        server.post("/api/v1/namespaces/default/secrets", json!({ "metadata": { "name": secret } })).await.ok();
    }
    server.post("/api/v1/namespaces/default/configmaps", config_map("c")).await.ok();
    let pod = json!({ "metadata": { "name": "p" }, "spec": {
        "nodeName": "a",
        "containers": [{ "name": "c", "image": "i", "envFrom": [{ "secretRef": { "name": "used" } }] }],
    } });
    server.post(PODS, pod).await.ok();
    server
}

#[tokio::test]
async fn a_kubelet_reads_what_its_pods_need() {
    let server = two_nodes().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let used = format!("{secrets}/used");
    server.as_user(kubelet("a"), Method::GET, &used, Value::Null).await.ok();
    server.as_user(kubelet("b"), Method::GET, &used, Value::Null).await.refused(
        403,
        "secrets \"used\" is forbidden: User \"system:node:b\" cannot get resource \"secrets\" in API group \"\" in the namespace \"default\": no relationship found between node 'b' and this object",
    );
    let cases = [
        (Method::GET, format!("{secrets}/other"), "no relationship found between node 'a' and this object"),
        (Method::GET, secrets.to_owned(), "No Object name found"),
        (Method::GET, "/api/v1/secrets".to_owned(), "can only read namespaced object of this type"),
        (Method::DELETE, used, "can only read resources of this type"),
        (
            Method::GET,
            "/api/v1/namespaces/default/configmaps/c".to_owned(),
            "no relationship found between node 'a' and this object",
        ),
        (Method::GET, "/api/v1/nodes/b".to_owned(), "node 'a' cannot read 'b', only its own Node object"),
        (Method::GET, "/api/v1/nodes".to_owned(), "node 'a' cannot read all nodes, only its own Node object"),
        (Method::GET, "/api/v1/pods".to_owned(), "can only list/watch pods with spec.nodeName field selector"),
        (
            Method::GET,
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/b".to_owned(),
            "can only access node lease with the same name as the requesting node",
        ),
        (
            Method::GET,
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/a".to_owned(),
            "can only access leases in the \"kube-node-lease\" system namespace",
        ),
    ];
    for (method, uri, why) in cases {
        let answer = server.as_user(kubelet("a"), method, &uri, Value::Null).await;
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(answer.code == 403 && message.ends_with(&format!(": {why}")), "{uri}: {message}");
    }
    for uri in [
        "/api/v1/pods?fieldSelector=spec.nodeName%3Da",
        "/api/v1/nodes?fieldSelector=metadata.name%3Da",
        "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dused",
        "/api/v1/services",
    ] {
        server.as_user(kubelet("a"), Method::GET, uri, Value::Null).await.ok();
    }
    // A member of the group by another name is no node.
    let odd = User::authenticated("odd", ["system:nodes".to_owned()]);
    assert_eq!(server.as_user(odd, Method::GET, "/api/v1/nodes/a", Value::Null).await.code, 403);
}

#[tokio::test]
async fn a_kubelet_changes_its_own_node_and_pods() {
    let server = two_nodes().await;
    let patch = |labels: Value| json!({ "metadata": { "labels": labels } });
    let a = "/api/v1/nodes/a";
    server.as_user(kubelet("a"), Method::PATCH, a, patch(json!({ "node.kubernetes.io/x": "y" }))).await.ok();
    server.as_user(kubelet("a"), Method::PATCH, a, patch(json!({ "node-role.kubernetes.io/master": "", "kubernetes.io/z": "" }))).await.refused(
        403,
        "nodes \"a\" is forbidden: is not allowed to modify labels: kubernetes.io/z, node-role.kubernetes.io/master",
    );
    let taints = json!({ "spec": { "taints": [{ "key": "k", "effect": "NoSchedule" }] } });
    server
        .as_user(kubelet("a"), Method::PATCH, a, taints)
        .await
        .refused(403, "nodes \"a\" is forbidden: node \"a\" is not allowed to modify taints");
    server
        .as_user(kubelet("b"), Method::PATCH, "/api/v1/nodes/a/status", patch(json!({})))
        .await
        .refused(403, "nodes \"a\" is forbidden: node \"b\" is not allowed to modify node \"a\"");
    server.as_user(kubelet("a"), Method::POST, PODS, pod("n")).await.refused(
        403,
        "pods \"n\" is forbidden: pod does not have \"kubernetes.io/config.mirror\" annotation, node \"a\" can only create mirror pods",
    );
    let one = format!("{PODS}/p");
    server
        .as_user(kubelet("b"), Method::PATCH, &format!("{one}/status"), json!({ "status": { "phase": "Failed" } }))
        .await
        .refused(
            403,
            "pods \"p\" is forbidden: node \"b\" can only update pod status for pods with spec.nodeName set to itself",
        );
    server
        .as_user(kubelet("b"), Method::DELETE, &one, Value::Null)
        .await
        .refused(403, "pods \"p\" is forbidden: node \"b\" can only delete pods with spec.nodeName set to itself");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = |name: &str| json!({ "metadata": { "name": name }, "spec": { "holderIdentity": name, "leaseDurationSeconds": 40 } });
    server.as_user(kubelet("a"), Method::POST, leases, lease("a")).await.ok();
    server.as_user(kubelet("a"), Method::POST, leases, lease("b")).await.refused(
        403,
        "leases.coordination.k8s.io \"b\" is forbidden: can only access node lease with the same name as the requesting node",
    );
}

#[tokio::test]
async fn a_kubelet_gets_tokens_for_its_pods_alone() {
    let server = two_nodes().await;
    let uid = server.get(&format!("{PODS}/p")).await.ok()["metadata"]["uid"].clone();
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let bound = |reference: Value| json!({ "spec": { "expirationSeconds": 3600, "boundObjectRef": reference } });
    let reference = json!({ "kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid });
    server.as_user(kubelet("a"), Method::POST, path, bound(reference.clone())).await.ok();
    let prefix = "serviceaccounts \"default\" is forbidden: ";
    let unbound = server.as_user(kubelet("a"), Method::POST, path, json!({ "spec": {} })).await;
    unbound.refused(403, &format!("{prefix}node requested token not bound to a pod"));
    let no_uid = json!({ "kind": "Pod", "apiVersion": "v1", "name": "p" });
    let answer = server.as_user(kubelet("a"), Method::POST, path, bound(no_uid)).await;
    answer.refused(403, &format!("{prefix}node requested token with a pod binding without a uid"));
    assert_eq!(server.as_user(kubelet("b"), Method::POST, path, bound(reference)).await.code, 403);
}

#[tokio::test]
async fn nobody_grants_more_than_they_have() {
    let server = Server::start().await;
    let rules = |verbs: Value| {
        json!([{ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": verbs },
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }])
    };
    let base = format!("{RBAC}/namespaces/default");
    let role = |name: &str, rules: Value| json!({ "metadata": { "name": name }, "rules": rules });
    let bind = |name: &str, kind: &str, role: &str| {
        json!({ "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role },
        "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "alice" }] })
    };
    server.post(&format!("{base}/roles"), role("r", rules(json!(["create", "update"])))).await.ok();
    server.post(&format!("{base}/rolebindings"), bind("b", "Role", "r")).await.ok();

    let pods = |verbs: Value| json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": verbs }]);
    let roles = format!("{base}/roles");
    server.as_user(alice(), Method::POST, &roles, role("same", pods(json!(["get"])))).await.ok();
    server.as_user(alice(), Method::POST, &roles, role("more", pods(json!(["get", "list", "watch"])))).await.refused(
        403,
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"alice\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\" \"watch\"]}",
    );
    let bindings = format!("{base}/rolebindings");
    server.as_user(alice(), Method::POST, &bindings, bind("again", "Role", "same")).await.ok();
    server.as_user(alice(), Method::POST, &bindings, bind("c", "ClusterRole", "view")).await.code_is(403);
    server
        .as_user(alice(), Method::POST, &bindings, bind("d", "ClusterRole", "nothing"))
        .await
        .refused(404, "clusterrole.rbac.authorization.k8s.io \"nothing\" not found");
    // The verbs `bind` and `escalate` lift the limits.
    let more = json!([{ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["view"] },
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["escalate"] }]);
    server.post(&roles, role("lift", more)).await.ok();
    server.post(&bindings, bind("lift", "Role", "lift")).await.ok();
    server.as_user(alice(), Method::POST, &bindings, bind("c", "ClusterRole", "view")).await.ok();
    server.as_user(alice(), Method::POST, &bindings, bind("e", "ClusterRole", "edit")).await.code_is(403);
    server.as_user(alice(), Method::POST, &roles, role("more", pods(json!(["*"])))).await.ok();
}

#[tokio::test]
async fn gathered_roles_are_for_those_who_have_everything() {
    let server = Server::start().await;
    let own = json!({ "metadata": { "name": "own" }, "rules": [{ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["create"] }] });
    server.post(&format!("{RBAC}/clusterroles"), own).await.ok();
    let binding = json!({ "metadata": { "name": "own" }, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "own" },
        "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "alice" }] });
    server.post(&format!("{RBAC}/clusterrolebindings"), binding).await.ok();
    let gathering = json!({ "metadata": { "name": "g" }, "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] } });
    server.as_user(alice(), Method::POST, &format!("{RBAC}/clusterroles"), gathering).await.refused(
        403,
        "clusterroles.rbac.authorization.k8s.io \"g\" is forbidden: must have cluster-admin privileges to use an aggregationRule",
    );
}

#[tokio::test]
async fn default_roles_are_put_right_at_a_start() {
    let server = Server::start().await;
    let view = format!("{RBAC}/clusterroles/system:node-proxier");
    let extra = json!([{ "apiGroups": ["x"], "resources": ["y"], "verbs": ["get"] }]);
    server.merge(&view, json!({ "rules": extra })).await.ok();
    let kept = format!("{RBAC}/clusterroles/system:basic-user");
    let hands_off = json!({ "rbac.authorization.kubernetes.io/autoupdate": "false" });
    server.merge(&kept, json!({ "metadata": { "annotations": hands_off }, "rules": [] })).await.ok();
    server.merge(&format!("{RBAC}/clusterrolebindings/cluster-admin"), json!({ "subjects": [] })).await.ok();
    let config = Config::new(server.state().config.store.clone(), key_pem(), [192, 0, 2, 1].into());
    ApiServer::new(config, server.shutdown.child()).await.unwrap();
    server.state().cache.wait_for(server.state().store.revision()).await.unwrap();
    let rules = server.get(&view).await.ok()["rules"].clone();
    let rules = rules.as_array().unwrap();
    assert!(rules.len() > 1 && rules[0] == extra[0], "{rules:?}");
    assert_eq!(server.get(&kept).await.ok()["rules"], Value::Null);
    let binding = server.get(&format!("{RBAC}/clusterrolebindings/cluster-admin")).await.ok();
    assert_eq!(binding["subjects"][0]["name"], "system:masters");
}

#[tokio::test]
async fn pods_are_as_their_namespace_asks() {
    let server = Server::start().await;
    let labels =
        json!({ "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted" });
    let namespace = json!({ "metadata": { "name": "hard", "labels": labels } });
    server.post("/api/v1/namespaces", namespace).await.ok();
    let account = json!({ "metadata": { "name": "default" } });
    server.post("/api/v1/namespaces/hard/serviceaccounts", account).await.ok();
    let pods = "/api/v1/namespaces/hard/pods";
    let privileged = |name: &str| {
        let mut pod = pod(name);
        pod["spec"]["containers"][0]["securityContext"] = json!({ "privileged": true });
        pod
    };
    server.post(pods, privileged("x")).await.refused(
        403,
        "pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set securityContext.privileged=true)",
    );
    let answer = server.post(pods, pod("y")).await;
    assert!(answer.code == 201 && answer.warnings.len() == 1, "{:?}", answer.warnings);
    assert!(answer.warnings[0].starts_with(
        "would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\" "
    ));
    let deployment = json!({ "metadata": { "name": "d" }, "spec": { "selector": { "matchLabels": { "app": "x" } },
        "template": { "metadata": { "labels": { "app": "x" } }, "spec": privileged("x")["spec"] } } });
    let answer = server.post("/apis/apps/v1/namespaces/hard/deployments", deployment).await;
    assert!(answer.code == 201 && answer.warnings.len() == 1, "{:?}", answer.warnings);

    let labelled = |level: &str| json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": level } } });
    let uri = "/api/v1/namespaces/hard";
    let answer = server.merge(uri, labelled("restricted")).await;
    assert_eq!(
        answer.warnings,
        [
            "existing pods in namespace \"hard\" violate the new PodSecurity enforce level \"restricted:latest\"",
            "y: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile",
        ]
    );
    assert_eq!(server.merge(uri, labelled("privileged")).await.warnings, Vec::<String>::new());
    server.merge(uri, labelled("soft")).await.refused(
        422,
        "Namespace \"hard\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"soft\": must be one of privileged, baseline, restricted",
    );
}
