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

#[tokio::test]
async fn preconditions_and_options_are_refused_in_upstreams_words() {
    let server = Server::start().await;
    let created = server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let uid = created["metadata"]["uid"].as_str().unwrap();
    let text = format!(
        "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (other) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
    );
    server.delete_with(&path, json!({ "preconditions": { "uid": "other" } })).await.refused(409, &text);
    server.delete_with(&path, json!({ "dryRun": ["x"] })).await.refused(
        422,
        "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"x\"]: supported values: \"All\"",
    );
    server.delete_with(&path, json!({ "dryRun": ["All"] })).await.ok();
    server.get(&path).await.ok();
}

#[tokio::test]
async fn a_deleted_job_leaves_its_pods_unless_told_otherwise() {
    let server = Server::start().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}});
    let created = server.post(jobs, job).await.ok();
    let uid = &created["metadata"]["uid"];
    assert_eq!(created["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], *uid);
    assert_eq!(created["metadata"]["labels"]["controller-uid"], *uid);
    let path = format!("{jobs}/j");
    let marked = server.delete(&path).await.ok();
    assert_eq!(marked["metadata"]["finalizers"], json!(["orphan"]));
    server.delete_with(&path, json!({ "propagationPolicy": "Background" })).await.ok();
    assert_eq!(server.get(&path).await.code, 404);
}

#[tokio::test]
async fn a_budget_lets_so_many_pods_go_and_no_more() {
    let server = Server::start().await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = |name: &str| json!({"metadata": {"name": name}, "spec": {"minAvailable": 1, "selector": {}}});
    for name in ["a", "b"] {
        let path = scheduled_pod(&server, name).await;
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        server.merge(&format!("{path}/status"), ready).await.ok();
    }
    server.post(budgets, budget("one")).await.ok();
    let evict = async |name: &str| {
        // Clients of long ago post the older version.
        let version = if name == "a" { "policy/v1" } else { "policy/v1beta1" };
        let eviction = json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": name}});
        server.post(&format!("{PODS}/{name}/eviction"), eviction).await
    };
    let refused = "Cannot evict pod as it would violate the pod's disruption budget.";
    // Nobody has counted yet.
    let early = evict("a").await.refused(429, refused);
    assert_eq!(early["details"]["causes"][0]["reason"], "DisruptionBudget");
    assert_eq!(early["details"]["retryAfterSeconds"], 10);
    let counted = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    server.merge(&format!("{budgets}/one/status"), counted).await.ok();
    assert_eq!(evict("a").await.ok()["status"], "Success");
    let gone = server.get(&format!("{PODS}/a")).await.ok();
    assert!(gone["metadata"]["deletionTimestamp"].is_string());
    let conditions = gone["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "EvictionByEvictionAPI"));
    let spent = server.get(&format!("{budgets}/one")).await.ok();
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
    assert!(spent["status"]["disruptedPods"]["a"].is_string());
    let late = evict("b").await.refused(429, refused);
    assert_eq!(
        late["details"]["causes"][0]["message"],
        "The disruption budget one does not allow evicting pods currently"
    );
    // A pod that is going already is nobody's loss.
    evict("a").await.ok();
    server.post(budgets, budget("two")).await.ok();
    evict("b").await.refused(
        500,
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
    );
    assert_eq!(server.get(&format!("{budgets}/two")).await.ok()["status"]["disruptionsAllowed"], 0);
}
