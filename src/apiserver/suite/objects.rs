//! Creating, reading and changing objects.

use super::*;
use serde_json::json;

#[tokio::test]
async fn a_config_map_lives() {
    let server = Server::start().await;
    let created = server.post(CONFIG_MAPS, config_map("a")).await;
    assert_eq!(created.code, 201);
    let created = created.ok();
    assert_eq!(created["kind"], "ConfigMap");
    assert_eq!(created["metadata"]["namespace"], "default");
    assert!(created["metadata"]["uid"].is_string() && created["metadata"]["creationTimestamp"].is_string());
    let one = format!("{CONFIG_MAPS}/a");
    assert_eq!(server.get(&one).await.ok(), created);
    server.post(CONFIG_MAPS, config_map("a")).await.refused(409, "configmaps \"a\" already exists");

    let mut changed = created.clone();
    changed["data"]["k"] = "w".into();
    let updated = server.put(&one, changed.clone()).await.ok();
    assert_eq!(updated["data"]["k"], "w");
    assert_eq!(updated["metadata"]["uid"], created["metadata"]["uid"]);
    assert_ne!(updated["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    server.put(&one, changed).await.refused(
        409,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again",
    );
    // What changes nothing writes nothing.
    assert_eq!(server.put(&one, updated.clone()).await.ok(), updated);
    let list = server.get(CONFIG_MAPS).await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert!(list["items"][0].get("kind").is_none());
    let status = server.delete(&one).await.ok();
    assert_eq!((status["status"].as_str(), status["details"]["name"].as_str()), (Some("Success"), Some("a")));
    server.get(&one).await.refused(404, "configmaps \"a\" not found");
}

#[tokio::test]
async fn names_are_generated_and_checked() {
    let server = Server::start().await;
    let generated = server.post(CONFIG_MAPS, json!({ "metadata": { "generateName": "x-" } })).await.ok();
    assert_eq!(generated["metadata"]["name"].as_str().unwrap().len(), 7);
    assert_eq!(generated["metadata"]["generateName"], "x-");
    let nameless = server.post(CONFIG_MAPS, json!({ "metadata": {} })).await;
    nameless.refused(422, "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required");
    let elsewhere = json!({ "metadata": { "name": "a", "namespace": "other" } });
    server
        .post(CONFIG_MAPS, elsewhere)
        .await
        .refused(400, "the namespace of the provided object does not match the namespace sent on the request");
    let named = format!("{CONFIG_MAPS}/b");
    server
        .put(&named, config_map("a"))
        .await
        .refused(400, "the name of the object (a) does not match the name on the URL (b)");
    server.put(&named, config_map("b")).await.refused(404, "configmaps \"b\" not found");
    let versioned = json!({ "metadata": { "name": "a", "resourceVersion": "1" } });
    server
        .post(CONFIG_MAPS, versioned)
        .await
        .refused(400, "resourceVersion should not be set on objects to be created");
}

#[tokio::test]
async fn strictness_is_the_clients_choice() {
    let server = Server::start().await;
    let body = json!({ "metadata": { "name": "a" }, "spec": { "x": 1 }, "more": true });
    let strict = server.post(&format!("{CONFIG_MAPS}?fieldValidation=Strict"), body.clone()).await;
    strict.refused(
        400,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"more\", unknown field \"spec\"",
    );
    let warned = server.post(&format!("{CONFIG_MAPS}?dryRun=All"), body.clone()).await;
    assert_eq!(warned.warnings, ["unknown field \"more\"", "unknown field \"spec\""]);
    assert!(warned.ok().get("spec").is_none());
    let ignored = server.post(&format!("{CONFIG_MAPS}?fieldValidation=Ignore"), body).await;
    assert!(ignored.warnings.is_empty());
    let wrong = server.post(PODS, json!({ "metadata": { "name": "p" }, "spec": { "containers": "none" } })).await;
    assert_eq!(wrong.code, 400);
    let message = wrong.body["message"].as_str().unwrap();
    assert!(
        message.starts_with("Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal string"),
        "{message}"
    );
    let media = server.call(Method::POST, CONFIG_MAPS, "text/plain", b"{}").await;
    assert_eq!(media.code, 415);
    let yaml = b"metadata:\n  name: from-yaml\ndata:\n  k: v\n";
    let created = server.call(Method::POST, CONFIG_MAPS, "application/yaml", yaml).await.ok();
    assert_eq!(created["data"]["k"], "v");
}

#[tokio::test]
async fn dry_run_leaves_nothing() {
    let server = Server::start().await;
    let answer = server.post(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("a")).await;
    assert_eq!(answer.code, 201);
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
    let before = server.state().store.revision();
    let service =
        json!({ "metadata": { "name": "s" }, "spec": { "ports": [{ "port": 80 }], "clusterIP": "10.43.0.9" } });
    let services = "/api/v1/namespaces/default/services";
    server.post(&format!("{services}?dryRun=All"), service.clone()).await.ok();
    assert_eq!(server.state().store.revision(), before);
    // The address was given back.
    server.post(services, service).await.ok();
}

#[tokio::test]
async fn patches_of_each_kind() {
    let server = Server::start().await;
    server.post(PODS, pod("p")).await.ok();
    let one = format!("{PODS}/p");
    let merged = server.merge(&one, json!({ "metadata": { "labels": { "a": "b", "app": null } } })).await.ok();
    assert_eq!(merged["metadata"]["labels"], json!({ "a": "b" }));
    let strategic = json!({ "spec": { "containers": [{ "name": "c", "image": "j" }] } }).to_string();
    let patched =
        server.call(Method::PATCH, &one, "application/strategic-merge-patch+json", strategic.as_bytes()).await.ok();
    assert_eq!(patched["spec"]["containers"][0]["image"], "j");
    let operations = br#"[{"op":"test","path":"/metadata/labels/a","value":"b"},{"op":"add","path":"/metadata/labels/x","value":"y"}]"#;
    let patched = server.call(Method::PATCH, &one, "application/json-patch+json", operations).await.ok();
    assert_eq!(patched["metadata"]["labels"]["x"], "y");
    let unknown = server.call(Method::PATCH, &one, "application/json", b"{}").await;
    unknown.refused(
        415,
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
    );
    let stale = json!({ "metadata": { "resourceVersion": "1", "labels": { "z": "z" } } });
    assert_eq!(server.merge(&one, stale).await.code, 409);
    let nothing = server.merge(&one, json!({})).await.ok();
    assert_eq!(nothing["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let one = format!("{CONFIG_MAPS}/a");
    let patches = (0..8).map(|i| server.merge(&one, json!({ "data": { format!("k{i}"): "v" } })));
    for answer in futures::future::join_all(patches).await {
        answer.ok();
    }
    assert_eq!(server.get(&one).await.ok()["data"].as_object().unwrap().len(), 9);
}

#[tokio::test]
async fn status_and_spec_are_apart() {
    let server = Server::start().await;
    let created = server.post(PODS, pod("p")).await.ok();
    assert_eq!(created["status"]["phase"], "Pending");
    let one = format!("{PODS}/p");
    let status = server
        .merge(&format!("{one}/status"), json!({ "status": { "phase": "Running" }, "spec": { "nodeName": "n" } }))
        .await
        .ok();
    assert_eq!(status["status"]["phase"], "Running");
    assert!(status["spec"].get("nodeName").is_none());
    let labelled = server
        .merge(&one, json!({ "metadata": { "labels": { "a": "b" } }, "status": { "phase": "Failed" } }))
        .await
        .ok();
    assert_eq!(labelled["status"]["phase"], "Running");
}

#[tokio::test]
async fn scale_changes_the_replicas() {
    let server = Server::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({ "metadata": { "name": "web" }, "spec": {
        "selector": { "matchLabels": { "app": "web" } },
        "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } },
    } });
    let created = server.post(deployments, deployment).await.ok();
    assert_eq!((created["spec"]["replicas"].as_i64(), created["metadata"]["generation"].as_i64()), (Some(1), Some(1)));
    let path = format!("{deployments}/web/scale");
    let mut scale = server.get(&path).await.ok();
    assert_eq!(scale["status"]["selector"], "app=web");
    scale["spec"]["replicas"] = 3.into();
    assert_eq!(server.put(&path, scale.clone()).await.ok()["spec"]["replicas"], 3);
    assert_eq!(server.put(&path, scale).await.code, 409);
    server.merge(&path, json!({ "spec": { "replicas": 5 } })).await.ok();
    let now = server.get(&format!("{deployments}/web")).await.ok();
    assert_eq!((now["spec"]["replicas"].as_i64(), now["metadata"]["generation"].as_i64()), (Some(5), Some(3)));
}

#[tokio::test]
async fn a_pod_is_admitted_and_bound() {
    let server = Server::start().await;
    let created = server.post(PODS, pod("p")).await.ok();
    let spec = &created["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert!(spec.get("initContainers").is_none());
    let binding = json!({ "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "n1" } });
    let path = format!("{PODS}/p/binding");
    server.post(&path, binding.clone()).await.ok();
    let bound = server.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    server
        .post(&path, binding)
        .await
        .refused(409, "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\"");
    let on_node = server.get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn1")).await.ok();
    assert_eq!(on_node["items"].as_array().unwrap().len(), 1);
    let unknown = server.get(&format!("{PODS}?fieldSelector=spec.what%3Dn1")).await;
    assert_eq!(unknown.code, 400);
    let mut other = pod("q");
    other["spec"]["serviceAccountName"] = "missing".into();
    server.post(PODS, other).await.refused(
        403,
        "pods \"q\" is forbidden: error looking up service account default/missing: serviceaccount \"missing\" not found",
    );
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let server = Server::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({ "metadata": { "name": name }, "spec": spec });
    let first =
        server.post(services, service("a", json!({ "ports": [{ "port": 80 }], "type": "NodePort" }))).await.ok();
    let address = first["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.43."), "{address}");
    let port = first["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port));
    assert_eq!(first["spec"]["ipFamilies"], json!(["IPv4"]));
    let same = service("b", json!({ "ports": [{ "port": 80 }], "clusterIP": address }));
    let taken = server.post(services, same.clone()).await;
    assert_eq!(taken.code, 422);
    assert!(taken.body["message"].as_str().unwrap().contains("provided IP is already allocated"));
    let headless =
        server.post(services, service("h", json!({ "ports": [{ "port": 80 }], "clusterIP": "None" }))).await.ok();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    // An update without the addresses keeps them.
    let again = server
        .put(&format!("{services}/a"), service("a", json!({ "ports": [{ "port": 81 }], "type": "ClusterIP" })))
        .await
        .ok();
    assert_eq!(again["spec"]["clusterIP"], address);
    assert!(again["spec"]["ports"][0].get("nodePort").is_none());
    server.delete(&format!("{services}/a")).await.ok();
    assert_eq!(server.post(services, same).await.ok()["spec"]["clusterIP"], address);
}

#[tokio::test]
async fn pages_are_of_one_revision() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        server.post(CONFIG_MAPS, config_map(name)).await.ok();
    }
    let first = server.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    server.delete(&format!("{CONFIG_MAPS}/c")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.ok();
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(server.get(&format!("{CONFIG_MAPS}?continue=garbage")).await.code, 400);
    let both = server.get(&format!("{CONFIG_MAPS}?resourceVersionMatch=Exact")).await;
    assert_eq!(both.code, 422);
}

/// A length-delimited protobuf field.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[tag << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn envelope(kind: &str, message: &[u8]) -> Vec<u8> {
    let meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &meta), field(2, message)].concat()
}

#[tokio::test]
async fn protobuf_bodies_are_read() {
    let server = Server::start().await;
    let entry = [field(1, b"k"), field(2, b"v")].concat();
    let message = [field(1, &field(1, b"from-protobuf")), field(2, &entry)].concat();
    let media = "application/vnd.kubernetes.protobuf";
    let created = server.call(Method::POST, CONFIG_MAPS, media, &envelope("ConfigMap", &message)).await.ok();
    assert_eq!(
        (created["metadata"]["name"].as_str(), created["data"]["k"].as_str()),
        (Some("from-protobuf"), Some("v"))
    );
    let path = format!("{CONFIG_MAPS}/from-protobuf");
    let background = envelope("DeleteOptions", &field(4, b"Background"));
    server.call(Method::DELETE, &path, media, &background).await.ok();
    assert_eq!(server.get(&path).await.code, 404);
    let broken = server.call(Method::POST, CONFIG_MAPS, media, b"k8s\0\xff\xff").await;
    assert_eq!(broken.code, 400);
}

#[tokio::test]
async fn hostile_values_are_refused_and_named() {
    let server = Server::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let long = "x".repeat(300);
    let map = |meta: String, data: &str| format!(r#"{{"metadata":{{{meta}}},"data":{data}}}"#).into_bytes();
    let named = |name: &str| map(format!(r#""name":"{name}""#), "{}");
    let labelled = |key: &str, value: &str| map(format!(r#""name":"m","labels":{{"{key}":"{value}"}}"#), "{}");
    let replicas =
        |number: &str| format!(r#"{{"metadata":{{"name":"d"}},"spec":{{"replicas":{number}}}}}"#).into_bytes();
    let invalid = [br#"{"metadata":{"name":"m"},"data":{"a"#.as_slice(), b"\xff\xfe", br#"":"b"}}"#].concat();
    let deep = format!(r#"{{"metadata":{{"name":"m"}},"data":{{"a":{}1{}}}}}"#, "[".repeat(50), "]".repeat(50));
    let strict = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    for (uri, body, code, naming) in [
        (CONFIG_MAPS, named("a\\u0000b"), 422, "metadata.name"),
        (CONFIG_MAPS, named(&long), 422, "metadata.name"),
        (CONFIG_MAPS, named("../a"), 422, "metadata.name"),
        (CONFIG_MAPS, labelled(&long, "v"), 422, "metadata.labels"),
        (CONFIG_MAPS, labelled("k", &long), 422, "metadata.labels"),
        (CONFIG_MAPS, labelled("k", "\\u0000"), 422, "metadata.labels"),
        (CONFIG_MAPS, map(r#""name":"m""#.to_owned(), &format!(r#"{{"{long}":"b"}}"#)), 422, "data["),
        (CONFIG_MAPS, invalid, 422, "data["),
        (CONFIG_MAPS, deep.into_bytes(), 400, "data"),
        (deployments, replicas("1e400"), 400, "spec.replicas"),
        (deployments, replicas("99999999999999999999"), 400, "spec.replicas"),
        (deployments, replicas("-1"), 422, "spec.replicas"),
        (&strict, map(r#""name":"m""#.to_owned(), r#"{"a":"1","a":"2"}"#), 400, r#"duplicate field "data.a""#),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = server.call(Method::POST, uri, "application/json", &body).await;
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(answer.code == code && message.contains(naming), "{shown}: {} {message}", answer.code);
    }
    assert_eq!(server.get(CONFIG_MAPS).await.code, 200);
}

#[tokio::test]
async fn conditional_documents_and_unknown_methods() {
    let server = Server::start().await;
    assert_eq!(server.call(Method::POST, "/version", "", b"").await.code, 405);
    assert_eq!(server.call(Method::PUT, CONFIG_MAPS, "application/json", b"{}").await.code, 405);
    assert_eq!(server.post("/api/v1/configmaps", config_map("a")).await.code, 405);
    assert_eq!(server.get("/api/v1/namespaces/default/nodes").await.code, 404);
    assert_eq!(server.get("/api/v1/whatever").await.code, 404);
    let deep = format!("{{\"metadata\":{}1{}}}", "[".repeat(20_000), "]".repeat(20_000));
    assert_eq!(server.call(Method::POST, CONFIG_MAPS, "application/json", deep.as_bytes()).await.code, 400);
}

#[tokio::test]
async fn parts_of_the_control_plane_are_well() {
    let server = Server::start().await;
    let all = server.get("/api/v1/componentstatuses").await.ok();
    assert_eq!(all["kind"], "ComponentStatusList");
    assert_eq!(all["items"][2]["metadata"]["name"], "scheduler");
    let one = server.get("/api/v1/componentstatuses/etcd-0").await.ok();
    assert_eq!(one["conditions"][0], json!({"type": "Healthy", "status": "True", "message": "ok"}));
    server.get("/api/v1/componentstatuses/x").await.refused(404, "componentstatuses \"x\" not found");
    assert_eq!(server.delete("/api/v1/componentstatuses/etcd-0").await.code, 405);
}

#[tokio::test]
async fn a_binding_by_itself_binds() {
    let server = Server::start().await;
    server.post(PODS, pod("p")).await.ok();
    let binding = json!({ "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "n" } });
    server
        .post(&format!("{PODS}/other/binding"), binding.clone())
        .await
        .refused(400, "name in URL does not match name in Binding object");
    server.post("/api/v1/namespaces/default/bindings", binding).await.ok();
    assert_eq!(server.get(&format!("{PODS}/p")).await.ok()["spec"]["nodeName"], "n");
}

#[tokio::test]
async fn status_takes_along_what_metadata_its_kind_lets_it() {
    let server = Server::start().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let web = json!({
        "metadata": {"name": "web", "labels": {"was": "here"}},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
    });
    let mut pod = template.clone();
    pod["metadata"]["name"] = "web".into();
    let claim = json!({
        "metadata": {"name": "web", "labels": {"was": "here"}},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}},
    });
    let note = json!({"new": "note"});
    for (path, object, labels, notes) in [
        ("/apis/apps/v1/namespaces/default/deployments", web, json!({"was": "here"}), &note),
        ("/api/v1/namespaces/default/pods", pod, json!({"new": "label"}), &note),
        ("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", claim, json!({"was": "here"}), &Value::Null),
    ] {
        let mut object = server.post(path, object).await.ok();
        object["metadata"]["labels"] = json!({"new": "label"});
        object["metadata"]["annotations"] = json!({"new": "note"});
        let uri = format!("{path}/web/status");
        let after = server.call(Method::PUT, &uri, "application/json", object.to_string().as_bytes()).await.ok();
        assert_eq!(after["metadata"]["labels"], labels, "{path}");
        assert_eq!(&after["metadata"]["annotations"], notes, "{path}");
    }
}

#[tokio::test]
async fn objects_do_not_grow_without_end_and_large_ones_go_without_owners() {
    let server = Server::start().await;
    let path = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let revision = |name: &str, size: usize| {
        let base = json!({"metadata": {"name": name}, "revision": 1, "data": {"x": ""}}).to_string();
        json!({"metadata": {"name": name}, "revision": 1, "data": {"x": "y".repeat(size - base.len())}})
    };
    let limit = crate::server::MAX_BODY;
    let small = server.post(path, revision("a", 1000)).await.ok();
    assert!(small["metadata"]["managedFields"].is_array());
    let large = server.post(path, revision("b", limit - 220)).await.ok();
    assert!(large["metadata"].get("managedFields").is_none(), "owners would have made it too large");
    let note = json!({"metadata": {"annotations": {"note": "n".repeat(200_000)}}}).to_string();
    let uri = format!("{path}/b");
    server
        .call(Method::PATCH, &uri, "application/merge-patch+json", note.as_bytes())
        .await
        .refused(500, "etcdserver: request is too large");
    assert_eq!(server.get(&uri).await.ok(), large);
}

#[tokio::test]
async fn owners_that_are_named_twice_are_told_of() {
    let server = Server::start().await;
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
    let mut object = config_map("a");
    object["metadata"]["ownerReferences"] = json!([owner, owner]);
    let text = |when: &str| {
        format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: u"
        )
    };
    let created = server.post(CONFIG_MAPS, object.clone()).await;
    assert_eq!(created.warnings, [text("")]);
    let one = format!("{CONFIG_MAPS}/a");
    let replaced = server.put(&one, object.clone()).await;
    assert_eq!(replaced.warnings, [text("")]);
    let patched = server.merge(&one, json!({"metadata": {"ownerReferences": [owner, owner]}})).await;
    assert_eq!(patched.warnings, [text(" after mutating admission happens")]);
    for answer in [created, replaced, patched] {
        assert_eq!(answer.ok()["metadata"]["ownerReferences"], json!([owner]));
    }
}
