//! Server-side apply and who owns what, through the server.

use super::*;
use serde_json::json;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

impl Server {
    async fn apply(&self, uri: &str, body: &str) -> Answer {
        self.call(Method::PATCH, uri, "application/apply-patch+yaml", body.as_bytes()).await
    }
}

/// Managers with their operations and subresources, by name.
fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let name = |entry: &Value| [text(entry, "manager"), text(entry, "operation"), text(entry, "subresource")].join(" ");
    let mut names: Vec<String> = entries.iter().map(name).collect();
    // Entries are sorted by operation and then by time, which may or may not pass a second between two writes.
    assert!(names.is_sorted_by_key(|name| name.split(' ').nth(1).map(str::to_owned)), "{names:?}");
    names.sort();
    names
}

fn fields(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries.iter().find(|entry| entry["manager"] == manager).map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

fn config_map_yaml(data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  namespace: default\n{data}")
}

#[tokio::test]
async fn apply_makes_changes_and_keeps() {
    let server = Server::start().await;
    let one = format!("{CONFIG_MAPS}/a?fieldManager=me");
    let created = server.apply(&one, &config_map_yaml("data:\n  a: \"1\"\n  b: \"1\"\n")).await;
    assert_eq!(created.code, 201);
    let created = created.ok();
    assert_eq!(managers(&created), ["me Apply "]);
    assert_eq!(fields(&created, "me"), json!({"f:data": {"f:a": {}, "f:b": {}}}));
    let again = server.apply(&one, &config_map_yaml("data: {a: \"1\", b: \"1\"}\n")).await;
    assert_eq!(again.code, 200);
    assert_eq!(again.ok(), created);
    let changed = server.apply(&one, &config_map_yaml("data: {a: \"2\"}\n")).await.ok();
    assert_eq!(changed["data"], json!({"a": "2"}));
    assert_ne!(changed["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    assert_eq!(changed["metadata"]["uid"], created["metadata"]["uid"]);
    // A dry run answers and leaves things as they are.
    let dry = server.apply(&format!("{one}&dryRun=All"), &config_map_yaml("data: {a: \"3\"}\n")).await.ok();
    assert_eq!(dry["data"]["a"], "3");
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/a")).await.ok(), changed);
    let dry = server.apply(&one.replace("/a?", "/b?dryRun=All&"), &config_map_yaml("").replace(": a", ": b")).await;
    assert_eq!(dry.code, 201);
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/b")).await.code, 404);
}

#[tokio::test]
async fn conflicts_are_told_and_forced() {
    let server = Server::start().await;
    server
        .apply(&format!("{CONFIG_MAPS}/a?fieldManager=one"), &config_map_yaml("data: {a: \"1\", b: \"1\"}\n"))
        .await
        .ok();
    let two = format!("{CONFIG_MAPS}/a?fieldManager=two");
    let body = config_map_yaml("data: {a: \"2\", b: \"2\"}\n");
    let refused = server
        .apply(&two, &body)
        .await
        .refused(409, "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.a\n- .data.b");
    assert_eq!(refused["reason"], "Conflict");
    assert_eq!(
        refused["details"],
        json!({"causes": [
            {"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.a"},
            {"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.b"},
        ]})
    );
    let forced = server.apply(&format!("{two}&force=true"), &body).await.ok();
    assert_eq!(forced["data"], json!({"a": "2", "b": "2"}));
    assert_eq!(managers(&forced), ["two Apply "]);
    server.merge(&format!("{CONFIG_MAPS}/a?fieldManager=edit"), json!({"data": {"a": "3"}})).await.ok();
    server
        .apply(&two, &body)
        .await
        .refused(409, "Apply failed with 1 conflict: conflict with \"edit\" using v1: .data.a");
}

#[tokio::test]
async fn what_cannot_be_applied_says_why() {
    let server = Server::start().await;
    let one = format!("{CONFIG_MAPS}/a");
    let body = config_map_yaml("");
    server.apply(&one, &body).await.refused(
        422,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
    );
    let long = "x".repeat(129);
    server.apply(&format!("{one}?fieldManager={long}"), &body).await.refused(
        422,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes",
    );
    server.merge(&format!("{one}?force=true"), json!({})).await.refused(
        422,
        "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
    );
    let one = format!("{one}?fieldManager=me");
    let wrong = [
        (body.replace("ConfigMap", "Secret"), 400, "invalid object type: /v1, Kind=Secret"),
        (body.replace("name: a", "name: b"), 400, "the name of the object (b) does not match the name on the URL (a)"),
        (
            body.replace("default", "other"),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            config_map_yaml("nonsense: 1\n"),
            500,
            "failed to create typed patch object (default/a; /v1, Kind=ConfigMap): .nonsense: field not declared in schema",
        ),
        (
            body.replace("  name: a", "  name: a\n  managedFields: [{manager: me}]"),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            body.replace("  name: a", "  name: a\n  uid: x"),
            409,
            "Operation cannot be fulfilled on configmaps \"a\": uid mismatch: the provided object specified uid x, and no existing object was found",
        ),
        (
            "[]".to_owned(),
            400,
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
    ];
    for (body, code, message) in wrong {
        server.apply(&one, &body).await.refused(code, message);
    }
    let stale = body.replace("  name: a", "  name: a\n  resourceVersion: \"1\"");
    assert_eq!(server.apply(&one, &stale).await.code, 409);
    server.apply(&one, &body).await.ok();
    assert_eq!(server.apply(&one, &stale).await.code, 409);
    let twice = config_map_yaml("data:\n  a: \"1\"\n  a: \"2\"\n");
    assert_eq!(server.apply(&format!("{one}&fieldValidation=Strict"), &twice).await.code, 400);
    assert_eq!(server.apply(&one, &twice).await.warnings, ["duplicate field \"data.a\""]);
}

fn deployment(replicas: &str) -> String {
    format!(
        "{{\"apiVersion\": \"apps/v1\", \"kind\": \"Deployment\", \"metadata\": {{\"name\": \"web\"}}, \"spec\": {{{replicas}
        \"selector\": {{\"matchLabels\": {{\"app\": \"web\"}}}},
        \"template\": {{\"metadata\": {{\"labels\": {{\"app\": \"web\"}}}}, \"spec\": {{\"containers\": [{{\"name\": \"c\", \"image\": \"i\",
            \"ports\": [{{\"containerPort\": 80}}]}}]}}}}}}}}"
    )
}

#[tokio::test]
async fn each_part_is_owned_by_its_writer() {
    let server = Server::start().await;
    let web = format!("{DEPLOYMENTS}/web");
    let created = server.apply(&format!("{web}?fieldManager=me"), &deployment("\"replicas\": 2,")).await.ok();
    assert_eq!(created["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
    let port = "k:{\"containerPort\":80,\"protocol\":\"TCP\"}";
    assert_eq!(
        fields(&created, "me")["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["f:ports"],
        json!({port: {".": {}, "f:containerPort": {}}})
    );
    let status = json!({"status": {"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]}, "spec": {"replicas": 9}});
    let status = server.merge(&format!("{web}/status?fieldManager=controller"), status).await.ok();
    assert_eq!(managers(&status), ["controller Update status", "me Apply "]);
    assert_eq!(fields(&status, "controller")["f:spec"], Value::Null);
    assert!(fields(&status, "controller")["f:status"]["f:conditions"]["k:{\"type\":\"Available\"}"].is_object());
    // Somebody scales, and the applier finds out.
    let scale = server.merge(&format!("{web}/scale?fieldManager=scaler"), json!({"spec": {"replicas": 5}})).await.ok();
    assert_eq!(scale["spec"]["replicas"], 5);
    let scaled = server.get(&web).await.ok();
    assert_eq!(fields(&scaled, "scaler"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(fields(&scaled, "me")["f:spec"]["f:replicas"], Value::Null);
    server.apply(&format!("{web}?fieldManager=me"), &deployment("\"replicas\": 2,")).await.refused(
        409,
        "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using apps/v1: .spec.replicas",
    );
    let left = server.apply(&format!("{web}?fieldManager=me"), &deployment("")).await.ok();
    assert_eq!(left["spec"]["replicas"], 5);
    let body = "{\"apiVersion\": \"autoscaling/v1\", \"kind\": \"Scale\", \"metadata\": {\"name\": \"web\"}, \"spec\": {\"replicas\": 6}}";
    server.apply(&format!("{web}/scale?fieldManager=hpa"), body).await.refused(
        409,
        "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using autoscaling/v1: .spec.replicas",
    );
    server.apply(&format!("{web}/scale?fieldManager=hpa&force=true"), body).await.ok();
    let scaled = server.get(&web).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 6);
    assert_eq!(managers(&scaled), ["controller Update status", "hpa Apply scale", "me Apply "]);
    // Status is applied through its own path.
    let body = "{\"apiVersion\": \"apps/v1\", \"kind\": \"Deployment\", \"metadata\": {\"name\": \"web\"}, \"status\": {\"replicas\": 3}, \"spec\": {\"paused\": true}}";
    let applied = server.apply(&format!("{web}/status?fieldManager=me&force=true"), body).await.ok();
    assert_eq!(applied["status"]["replicas"], 3);
    assert_eq!(applied["spec"]["paused"], Value::Null);
    assert!(managers(&applied).contains(&"me Apply status".to_owned()));
    assert_eq!(
        server.apply(&format!("{DEPLOYMENTS}/x/status?fieldManager=me"), &body.replace("web", "x")).await.code,
        404
    );
}

#[tokio::test]
async fn writers_are_known_by_their_programs() {
    let server = Server::start().await;
    let body = config_map("a").to_string();
    let headers = [("content-type", "application/json"), ("user-agent", "kubectl/v1.36.0 (linux/amd64)")];
    let created = server.call_as(admin(), Method::POST, CONFIG_MAPS, &headers, body.as_bytes()).await.ok();
    assert_eq!(managers(&created), ["kubectl Update "]);
    assert_eq!(fields(&created, "kubectl"), json!({"f:data": {".": {}, "f:k": {}}}));
    let mut put = created.clone();
    put["data"]["l"] = "w".into();
    put["metadata"]["managedFields"] = Value::Null;
    let put = server.put(&format!("{CONFIG_MAPS}/a?fieldManager=other"), put).await.ok();
    assert_eq!(managers(&put).len(), 2);
    assert_eq!(fields(&put, "other"), json!({"f:data": {"f:l": {}}}));
    let same = server.put(&format!("{CONFIG_MAPS}/a?fieldManager=third"), put.clone()).await.ok();
    assert_eq!(same, put);
    let cleared = server.merge(&format!("{CONFIG_MAPS}/a"), json!({"metadata": {"managedFields": [{}]}})).await.ok();
    assert_eq!(cleared["metadata"]["managedFields"], Value::Null);
    let applied =
        server.apply(&format!("{CONFIG_MAPS}/a?fieldManager=me"), &config_map_yaml("data: {n: \"1\"}\n")).await.ok();
    assert_eq!(managers(&applied), ["before-first-apply Update ", "me Apply "]);
    let bad = server.post(&format!("{CONFIG_MAPS}?fieldManager=a%01"), config_map("b")).await;
    bad.refused(
        422,
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\x01\": invalid character U+0001 (at position 1)",
    );
}

#[tokio::test]
async fn kubectl_rewrites_the_owners_of_client_side_apply() {
    let server = Server::start().await;
    let mut object = config_map("a");
    let last =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}).to_string();
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    let created = server.post(&format!("{CONFIG_MAPS}?fieldManager=kubectl-client-side-apply"), object).await.ok();
    let mut entries = created["metadata"]["managedFields"].clone();
    entries[0]["manager"] = "kubectl".into();
    entries[0]["operation"] = "Apply".into();
    let patch = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": entries},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": created["metadata"]["resourceVersion"]},
    ]);
    let one = format!("{CONFIG_MAPS}/a");
    let upgraded =
        server.call(Method::PATCH, &one, "application/json-patch+json", patch.to_string().as_bytes()).await.ok();
    assert_eq!(managers(&upgraded), ["kubectl Apply "]);
    let late = server.call(Method::PATCH, &one, "application/json-patch+json", patch.to_string().as_bytes()).await;
    assert_eq!(late.code, 409);
    let applied =
        server.apply(&format!("{one}?fieldManager=kubectl"), &config_map_yaml("data: {l: \"w\"}\n")).await.ok();
    assert_eq!(applied["data"], json!({"l": "w"}));
}

#[tokio::test]
async fn owners_of_another_version_are_told_in_theirs() {
    let server = Server::start().await;
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "eventTime": "2026-01-02T03:04:05.000006Z",
        "reportingController": "x", "reportingInstance": "y", "action": "a", "reason": "r", "type": "Normal", "note": "old",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}});
    server.apply(&format!("{events}/e?fieldManager=new"), &event.to_string()).await.ok();
    let core = "/api/v1/namespaces/default/events/e";
    let read = server.get(core).await.ok();
    assert_eq!(read["metadata"]["managedFields"][0]["apiVersion"], "events.k8s.io/v1");
    let patched = server.merge(&format!("{core}?fieldManager=old"), json!({"message": "new"})).await.ok();
    assert_eq!(fields(&patched, "new")["f:note"], Value::Null);
    assert_eq!(fields(&patched, "old"), json!({"f:message": {}}));
    server
        .apply(&format!("{events}/e?fieldManager=new"), &event.to_string())
        .await
        .refused(409, "Apply failed with 1 conflict: conflict with \"old\" using v1: .message");
}

#[tokio::test]
async fn strictness_covers_patches_and_their_results() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let one = format!("{CONFIG_MAPS}/a");
    let merge = "application/merge-patch+json";
    let twice = b"{\"data\": {\"a\": \"1\", \"a\": \"2\"}, \"x\": 1}";
    let warned = server.call(Method::PATCH, &one, merge, twice).await;
    assert_eq!(warned.warnings, ["duplicate field \"data.a\"", "unknown field \"x\""]);
    let strict = format!("{one}?fieldValidation=Strict");
    let refused = server.call(Method::PATCH, &strict, merge, twice).await;
    assert_eq!(refused.code, 422);
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.ends_with("strict decoding error: duplicate field \"data.a\", unknown field \"x\""), "{message}");
    let operations = b"[{\"op\": \"add\", \"path\": \"/data/b\", \"value\": \"1\", \"more\": 1}]";
    let refused = server.call(Method::PATCH, &strict, "application/json-patch+json", operations).await;
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .ends_with("strict decoding error: json patch unknown field \"[0].more\"")
    );
    let strategic =
        server.call(Method::PATCH, &strict, "application/strategic-merge-patch+json", b"{\"x\": {\"y\": 1}}").await;
    strategic.refused(
        422,
        " \"\" is invalid: patch: Invalid value: \"map[x:map[y:1]]\": strict decoding error: unknown field \"x\"",
    );
}

#[tokio::test]
async fn each_piece_of_a_pod_is_owned_by_its_writer() {
    let server = Server::start().await;
    let resources = json!({"requests": {"cpu": "1"}});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}});
    server.post(&format!("{PODS}?fieldManager=maker"), pod).await.ok();
    let config = |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": spec});
    let merge = "application/strategic-merge-patch+json";
    let patch = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"ephemeralContainers": [{"name": "e", "image": "i"}], "hostname": "h"}});
    let uri = format!("{PODS}/p/ephemeralcontainers?fieldManager=debugger");
    let pod = server.call(Method::PATCH, &uri, merge, patch.to_string().as_bytes()).await.ok();
    assert_eq!(managers(&pod), ["debugger Update ephemeralcontainers", "maker Update "]);
    let debugged = &fields(&pod, "debugger");
    assert_eq!(debugged.as_object().unwrap().keys().collect::<Vec<_>>(), ["f:spec"]);
    assert!(debugged["f:spec"]["f:ephemeralContainers"]["k:{\"name\":\"e\"}"]["f:image"].is_object(), "{debugged}");
    let uri = format!("{PODS}/p/ephemeralcontainers?fieldManager=applier");
    let body = config(json!({"ephemeralContainers": [{"name": "f", "image": "i"}]})).to_string();
    let pod = server.apply(&uri, &body).await.ok();
    let container = json!({"k:{\"name\":\"f\"}": {".": {}, "f:name": {}, "f:image": {}}});
    assert_eq!(fields(&pod, "applier"), json!({"f:spec": {"f:ephemeralContainers": container}}));
    // A resize is about pods that have a node.
    let labels = json!({"kubernetes.io/os": "linux"});
    let node =
        json!({"metadata": {"name": "n", "labels": labels}, "status": {"allocatable": {"cpu": "8", "pods": "8"}}});
    server.post("/api/v1/nodes", node).await.ok();
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{PODS}/p/binding?fieldManager=scheduler"), binding).await.ok();
    let body = config(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]})).to_string();
    let uri = format!("{PODS}/p/resize?fieldManager=resizer");
    server.apply(&uri, &body).await.refused(
        409,
        "Apply failed with 1 conflict: conflict with \"maker\" using v1: .spec.containers[name=\"c\"].resources.requests.cpu",
    );
    let pod = server.apply(&format!("{uri}&force=true"), &body).await.ok();
    assert_eq!(pod["metadata"].get("labels"), None, "a piece is not all of the pod");
    let container = json!({"k:{\"name\":\"c\"}": {"f:resources": {"f:requests": {"f:cpu": {}}}}});
    assert_eq!(fields(&pod, "resizer"), json!({"f:spec": {"f:containers": container}}));
    let who = managers(&pod);
    assert_eq!(who[0], "applier Apply ephemeralcontainers");
    assert!(who.contains(&"resizer Apply resize".to_owned()) && !who.iter().any(|who| who.starts_with("scheduler")));
}
