//! Tokens that kubelets ask for on behalf of their pods.

use super::*;

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";

async fn ask(server: &Server, uid: &Value, audiences: &[&str]) -> Answer {
    let pod = json!({ "kind": "Pod", "apiVersion": "v1", "name": "web", "uid": uid });
    let mut request = json!({ "spec": { "boundObjectRef": pod } });
    if !audiences.is_empty() {
        request["spec"]["audiences"] = json!(audiences);
    }
    let kubelet = User::authenticated("system:node:n1", ["system:nodes".to_owned()]);
    let body = request.to_string();
    server.call_as(kubelet, Method::POST, ACCOUNT, &[("content-type", "application/json")], body.as_bytes()).await
}

#[tokio::test]
async fn a_kubelet_gets_tokens_for_the_audiences_of_its_pods() {
    let server = Server::start().await;
    server.post("/api/v1/nodes", json!({ "metadata": { "name": "n1" } })).await.ok();
    let driver =
        json!({ "metadata": { "name": "csi.example.org" }, "spec": { "tokenRequests": [{ "audience": "store" }] } });
    server.post("/apis/storage.k8s.io/v1/csidrivers", driver).await.ok();
    let mut web = pod("web");
    web["spec"]["nodeName"] = "n1".into();
    web["spec"]["volumes"] = json!([
        { "name": "t", "projected": { "sources": [{ "serviceAccountToken": { "path": "t", "audience": "vault" } }] } },
        { "name": "c", "csi": { "driver": "csi.example.org" } },
    ]);
    let uid = server.post(PODS, web).await.ok()["metadata"]["uid"].clone();
    for audiences in [&[][..], &["vault"], &["store"]] {
        ask(&server, &uid, audiences).await.ok();
    }
    let refusal = "serviceaccounts \"default\" is forbidden: audience \"registry\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience";
    ask(&server, &uid, &["registry"]).await.refused(403, refusal);
    let many = "serviceaccounts \"default\" is forbidden: node may only request 0 or 1 audiences";
    ask(&server, &uid, &["vault", "store"]).await.refused(403, many);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules =
        json!([{ "apiGroups": [""], "resources": ["registry"], "verbs": ["request-serviceaccounts-token-audience"] }]);
    server.post(&format!("{rbac}/clusterroles"), json!({ "metadata": { "name": "pull" }, "rules": rules })).await.ok();
    let group = "rbac.authorization.k8s.io";
    let binding = json!({ "metadata": { "name": "pull" }, "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": "pull" },
        "subjects": [{ "apiGroup": group, "kind": "Group", "name": "system:nodes" }] });
    server.post(&format!("{rbac}/clusterrolebindings"), binding).await.ok();
    ask(&server, &uid, &["registry"]).await.ok();
}
