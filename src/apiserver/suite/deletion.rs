//! How objects go.

use super::*;
use serde_json::json;

async fn scheduled_pod(server: &Server, name: &str) -> String {
    server.post(PODS, pod(name)).await.ok();
    let binding = json!({ "metadata": { "name": name }, "target": { "kind": "Node", "name": "n" } });
    server.post(&format!("{PODS}/{name}/binding"), binding).await.ok();
    format!("{PODS}/{name}")
}

#[tokio::test]
async fn a_running_pod_gets_its_grace_and_the_node_ends_it() {
    let server = Server::start().await;
    let path = scheduled_pod(&server, "p").await;
    let marked = server.delete(&path).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let first = marked["metadata"]["deletionTimestamp"].clone();
    assert!(first.is_string());
    // Again without a wish: nothing changes.
    assert_eq!(server.delete(&path).await.ok()["metadata"]["resourceVersion"], marked["metadata"]["resourceVersion"]);
    let shorter = server.delete_with(&path, json!({ "gracePeriodSeconds": 5 })).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let longer = server.delete_with(&path, json!({ "gracePeriodSeconds": 60 })).await.ok();
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 5);
    let status = server.merge(&format!("{path}/status"), json!({ "status": { "phase": "Running" } })).await;
    status.ok();
    server
        .delete_with(&path, json!({ "gracePeriodSeconds": 0, "preconditions": { "uid": marked["metadata"]["uid"] } }))
        .await
        .ok();
    assert_eq!(server.get(&path).await.code, 404);
}

#[tokio::test]
async fn pods_that_do_not_run_go_at_once() {
    let server = Server::start().await;
    server.post(PODS, pod("p")).await.ok();
    assert_eq!(server.delete(&format!("{PODS}/p")).await.ok()["kind"], "Pod");
    assert_eq!(server.get(&format!("{PODS}/p")).await.code, 404);
    let path = scheduled_pod(&server, "done").await;
    server.merge(&format!("{path}/status"), json!({ "status": { "phase": "Succeeded" } })).await.ok();
    server.delete(&path).await.ok();
    assert_eq!(server.get(&path).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_until_the_last_is_gone() {
    let server = Server::start().await;
    let mut object = config_map("a");
    object["metadata"]["finalizers"] = json!(["example.com/x", "example.com/y"]);
    server.post(CONFIG_MAPS, object).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let marked = server.delete(&path).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let more = json!({ "metadata": { "finalizers": ["example.com/x", "example.com/y", "example.com/z"] } });
    assert_eq!(server.merge(&path, more).await.code, 422);
    server.merge(&path, json!({ "metadata": { "finalizers": ["example.com/y"] } })).await.ok();
    server.get(&path).await.ok();
    server.merge(&path, json!({ "metadata": { "finalizers": null } })).await.ok();
    assert_eq!(server.get(&path).await.code, 404);
}

#[tokio::test]
async fn propagation_leaves_its_finalizer() {
    let server = Server::start().await;
    for (policy, finalizer) in [("Orphan", "orphan"), ("Foreground", "foregroundDeletion")] {
        server.post(CONFIG_MAPS, config_map("a")).await.ok();
        let path = format!("{CONFIG_MAPS}/a");
        let marked = server.delete_with(&path, json!({ "propagationPolicy": policy })).await.ok();
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        server.merge(&path, json!({ "metadata": { "finalizers": [] } })).await.ok();
        assert_eq!(server.get(&path).await.code, 404, "{policy}");
    }
    server.post(CONFIG_MAPS, config_map("b")).await.ok();
    let path = format!("{CONFIG_MAPS}/b");
    assert_eq!(server.delete_with(&path, json!({ "propagationPolicy": "Other" })).await.code, 422);
    let stale = server.delete_with(&path, json!({ "preconditions": { "uid": "other" } })).await;
    assert_eq!(stale.code, 409);
    server
        .delete_with(&path, json!({ "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background" }))
        .await
        .ok();
}

#[tokio::test]
async fn a_namespace_terminates_and_is_finalized() {
    let server = Server::start().await;
    let created = server.post("/api/v1/namespaces", json!({ "metadata": { "name": "n" } })).await.ok();
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(created["status"]["phase"], "Active");
    let inside = "/api/v1/namespaces/n/configmaps";
    server.post(inside, config_map("a")).await.ok();
    let marked = server.delete("/api/v1/namespaces/n").await.ok();
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused = server.post(inside, config_map("b")).await.refused(
        403,
        "configmaps \"b\" is forbidden: unable to create new content in namespace n because it is being terminated",
    );
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    server.delete(inside).await.ok();
    let mut namespace = server.get("/api/v1/namespaces/n").await.ok();
    namespace["spec"]["finalizers"] = json!([]);
    server.put("/api/v1/namespaces/n/finalize", namespace).await.ok();
    assert_eq!(server.get("/api/v1/namespaces/n").await.code, 404);
    server.post(inside, config_map("c")).await.refused(404, "namespaces \"n\" not found");
    server
        .delete("/api/v1/namespaces/default")
        .await
        .refused(403, "namespaces \"default\" is forbidden: this namespace may not be deleted");
}

#[tokio::test]
async fn a_collection_goes_by_selector() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({ "name": name });
        server.post(CONFIG_MAPS, object).await.ok();
    }
    server.delete(&format!("{CONFIG_MAPS}?labelSelector=name%20in%20(a,b)")).await.ok();
    let left = server.get(CONFIG_MAPS).await.ok();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
}
