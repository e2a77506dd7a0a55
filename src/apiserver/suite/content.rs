//! What answers look like on the wire.

use super::*;
use crate::negotiate::Encoding;
use crate::response::{self, Presentation};
use http_body_util::BodyExt;
use naru_api::codec;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

impl Server {
    /// Code, content type and body of an answer as it is sent.
    async fn sent(&self, method: Method, uri: &str, accept: &str, encoding: Encoding) -> (u16, String, Bytes) {
        let outcome = self.outcome(admin(), method, uri, &[("accept", accept)], b"").await;
        let answer = response::into_http(outcome, Presentation { encoding, ..Presentation::default() });
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let code = answer.status().as_u16();
        (code, content_type, answer.into_body().collect().await.unwrap().to_bytes())
    }
}

#[tokio::test]
async fn objects_lists_and_errors_in_protobuf_and_yaml() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let one = format!("{CONFIG_MAPS}/a");
    let none = format!("{CONFIG_MAPS}/none");
    for (uri, code, kind) in
        [(one.as_str(), 200, "ConfigMap"), (CONFIG_MAPS, 200, "ConfigMapList"), (&none, 404, "Status")]
    {
        let (status, content_type, body) = server.sent(Method::GET, uri, PROTOBUF, Encoding::Protobuf).await;
        assert_eq!((status, content_type.as_str()), (code, PROTOBUF), "{uri}");
        assert_eq!(codec::decode_protobuf(&body).unwrap().value["kind"], kind);
        let (status, content_type, body) = server.sent(Method::GET, uri, "application/yaml", Encoding::Yaml).await;
        assert_eq!((status, content_type.as_str()), (code, "application/yaml"), "{uri}");
        assert_eq!(codec::parse_yaml(&body).unwrap()["kind"], kind);
    }
    for path in ["/api", "/apis", "/apis/apps", "/api/v1"] {
        let (status, content_type, body) = server.sent(Method::GET, path, PROTOBUF, Encoding::Protobuf).await;
        assert_eq!((status, content_type.as_str()), (200, PROTOBUF), "{path}");
        assert!(codec::is_protobuf(&body));
    }
}

#[tokio::test]
async fn forms_that_do_not_fit_are_refused() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let ask =
        async |uri: &str, accept: &str| server.call_as(admin(), Method::GET, uri, &[("accept", accept)], b"").await;
    let form = |media: &str, form: &str, version: &str| format!("{media};as={form};g=meta.k8s.io;v={version}");
    let one = format!("{CONFIG_MAPS}/a");
    ask(&one, &form("application/json", "PartialObjectMetadataList", "v1")).await.refused(
        406,
        "you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)",
    );
    ask(CONFIG_MAPS, &form("application/json", "PartialObjectMetadata", "v1"))
        .await
        .refused(406, "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)");
    ask(CONFIG_MAPS, &form(PROTOBUF, "Table", "v1")).await.refused(
        406,
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    );
    let table = form("application/json", "Table", "v1");
    let headers = [("accept", table.as_str()), ("content-type", "application/json")];
    let review = br#"{"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}"#;
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    server.call_as(admin(), Method::POST, reviews, &headers, review).await.refused(
        406,
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    );
    let beta = ask(CONFIG_MAPS, &form("application/json", "Table", "v1beta1")).await.ok();
    assert_eq!(
        (&beta["apiVersion"], &beta["rows"][0]["object"]["apiVersion"]),
        (&json!("meta.k8s.io/v1beta1"), &json!("meta.k8s.io/v1beta1"))
    );
    let body = config_map("b").to_string();
    let headers = [("accept", "text/html"), ("content-type", "application/json")];
    assert_eq!(server.call_as(admin(), Method::POST, CONFIG_MAPS, &headers, body.as_bytes()).await.code, 406);
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/b")).await.code, 404, "what is refused is not written");
}

#[tokio::test]
async fn bodies_that_are_something_else_are_told_as_upstream_does() {
    let server = Server::start().await;
    let unread = "the object provided is unrecognized (must be of type ConfigMap): ";
    let no_json = "couldn't get version/kind; json parse error: ";
    let shape =
        r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    let (json, protobuf) = ("application/json", "application/vnd.kubernetes.protobuf");
    let cases: [(&str, &[u8], String); 10] = [
        (json, b"", format!("{unread}{no_json}unexpected end of JSON input (<empty>)")),
        (json, b"{", format!("{unread}{no_json}unexpected end of JSON input ({{)")),
        (
            json,
            b"[]",
            format!("{unread}{no_json}json: cannot unmarshal array into Go value of type {shape} (5b5d)"),
        ),
        (protobuf, b"", format!("{unread}empty data (<empty>)")),
        (
            protobuf,
            b"zz",
            format!(
                "{unread}provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] (7a7a)"
            ),
        ),
        (protobuf, b"k8s\0zz", format!("{unread}unexpected EOF (6b3873007a7a)")),
        (
            json,
            br#"{"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}}"#,
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion".to_owned(),
        ),
        (
            json,
            br#"{"kind": "Foo", "metadata": {"name": "a"}}"#,
            "Foo in version \"v1\" cannot be handled as a ConfigMap: no kind \"Foo\" is registered for version \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"".to_owned(),
        ),
        (
            json,
            br#"{"kind": "ConfigMap", "apiVersion": "apps/v1", "metadata": {"name": "a"}}"#,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"apps/v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"".to_owned(),
        ),
        (
            json,
            br#"{"data": {"a": 1}}"#,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string".to_owned(),
        ),
    ];
    for (media, body, message) in cases {
        server.call(Method::POST, CONFIG_MAPS, media, body).await.refused(400, &message);
    }
    let event = br#"{"kind": "Event", "apiVersion": "v1", "metadata": {"name": "a"}}"#;
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    server
        .call(Method::POST, events, json, event)
        .await
        .refused(400, "the API version in the data (v1) does not match the expected API version (events.k8s.io/v1)");
}

#[tokio::test]
async fn write_options_are_checked_in_one_answer() {
    let server = Server::start().await;
    let uri = format!("{CONFIG_MAPS}?dryRun=x&fieldValidation=y");
    let answer = server.post(&uri, config_map("a")).await;
    assert_eq!(answer.code, 422);
    let message = answer.body["message"].as_str().unwrap();
    assert!(
        message.starts_with("CreateOptions.meta.k8s.io \"\" is invalid: [dryRun: Unsupported value: "),
        "{message}"
    );
    assert!(message.contains(
        "fieldValidation: Unsupported value: \"y\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
    ));
}

#[tokio::test]
async fn a_watch_in_protobuf_comes_in_frames() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let uri = format!("{CONFIG_MAPS}?watch=1");
    let outcome = server.outcome(admin(), Method::GET, &uri, &[("accept", PROTOBUF)], b"").await;
    let encoding = Encoding::Protobuf;
    let answer = response::into_http(outcome, Presentation { encoding, ..Presentation::default() });
    assert_eq!(answer.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let frame = answer.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
    assert_eq!(frame[4..11], *b"\x0a\x05ADDED");
    assert!(
        server
            .outcome(admin(), Method::GET, &uri, &[("accept", "application/yaml")], b"")
            .await
            .is_err_and(|s| s.code == 406)
    );
}

#[tokio::test]
async fn health_checks_one_by_one() {
    let server = Server::start().await;
    assert_eq!(server.get("/readyz/etcd").await.ok(), "ok");
    assert_eq!(server.get("/livez/shutdown").await.code, 404);
    let text = server.get("/livez?verbose&exclude=etcd&exclude=nope").await.ok();
    let text = text.as_str().unwrap();
    assert!(text.starts_with("[+]ping ok\n[+]log ok\n[+]etcd excluded: ok\n"), "{text}");
    assert!(
        text.ends_with("warn: some health checks cannot be excluded: no matches for \"nope\"\nlivez check passed\n"),
        "{text}"
    );
}

#[tokio::test]
async fn openapi_documents_are_cached_by_their_hash() {
    let server = Server::start().await;
    let send = async |uri: &str, headers: &[(&str, &str)]| {
        let answer =
            response::into_http(server.outcome(admin(), Method::GET, uri, headers, b"").await, Presentation::default());
        let (parts, body) = answer.into_parts();
        (parts, body.collect().await.unwrap().to_bytes())
    };
    let index = server.get("/openapi/v3").await.ok();
    let at = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let (path, hash) = at.split_once("?hash=").unwrap();
    let header = |parts: &http::response::Parts, name: &str| parts.headers[name].to_str().unwrap().to_owned();

    let (parts, body) = send(&at, &[]).await;
    assert_eq!((parts.status.as_u16(), header(&parts, "cache-control").as_str()), (200, "public, immutable"));
    assert_eq!(header(&parts, "etag"), format!("\"{hash}\""));
    assert!(header(&parts, "expires").ends_with(" GMT"));
    let document: Value = serde_json::from_slice(&body).unwrap();
    assert!(document["paths"].get("/apis/apps/v1/namespaces/{namespace}/deployments").is_some());
    // An answer to no hash may change; one to a wrong hash says where the right one is.
    let (parts, _) = send(path, &[]).await;
    assert_eq!((parts.status.as_u16(), header(&parts, "cache-control").as_str()), (200, "no-cache, private"));
    let (parts, _) = send(&format!("{path}?hash=OLD"), &[]).await;
    assert_eq!((parts.status.as_u16(), header(&parts, "location")), (301, at.clone()));
    let (parts, body) = send(&at, &[("if-none-match", &format!("\"{hash}\""))]).await;
    assert_eq!((parts.status.as_u16(), body.len()), (304, 0));
    let protobuf = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
    let (parts, body) = send(&at, &[("accept", protobuf)]).await;
    assert_eq!(header(&parts, "content-type"), "application/com.github.proto-openapi.spec.v3.v1.0+protobuf");
    assert!(body.starts_with(b"\x0a\x053.0.0"));
    assert_eq!(send(&at, &[("accept", "text/html")]).await.0.status.as_u16(), 406);
    // Every document of the index is there under its hash.
    for entry in index["paths"].as_object().unwrap().values() {
        let (parts, _) = send(entry["serverRelativeURL"].as_str().unwrap(), &[]).await;
        assert_eq!(header(&parts, "cache-control"), "public, immutable", "{entry}");
    }
}

#[tokio::test]
async fn kubectl_is_told_that_there_are_no_custom_kinds() {
    let server = Server::start().await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let list = server.get(path).await.ok();
    assert_eq!(
        (list["kind"].as_str(), list["items"].as_array().map(Vec::len)),
        (Some("CustomResourceDefinitionList"), Some(0))
    );
    server.get(&format!("{path}/x")).await.code_is(404);
    let nobody = User::authenticated("nobody", []);
    server.call_as(nobody, Method::GET, path, &[], b"").await.code_is(403);
}

#[tokio::test]
async fn what_is_not_there_is_told_as_plain_text_or_as_a_status() {
    let server = Server::start().await;
    for path in ["/nothing", "/apis/nothing.example.com/v1/things", "/livez/nothing", "/openapi/v3/apis/nothing/v1"] {
        let outcome = server.outcome(admin(), Method::GET, path, &[], b"").await;
        let answer = response::into_http(outcome, Presentation::default());
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (404, &"text/plain; charset=utf-8".parse::<http::HeaderValue>().unwrap()),
            "{path}"
        );
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "404 page not found\n");
    }
    for path in ["/api/v1/things", "/api/v9/pods", "/apis/apps/v9/deployments", "/apis/apps/v1/things"] {
        server.get(path).await.refused(404, "the server could not find the requested resource");
    }
    let index = server.get("/").await.ok();
    let paths: Vec<&str> = index["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    for path in
        ["/", "/apis/apps/v1", "/livez/ping", "/readyz/etcd", "/readyz/shutdown", "/openapi/v3/"].into_iter().skip(1)
    {
        assert!(paths.contains(&path), "{path} in {paths:?}");
    }
    assert!(paths.is_sorted());
}

#[tokio::test]
async fn deletes_answer_with_the_object_where_upstream_does() {
    let server = Server::start().await;
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    let class = json!({"metadata": {"name": "a"}, "provisioner": "example.com/x"});
    server.post(classes, class).await.ok();
    assert_eq!(
        server.call(Method::DELETE, &format!("{classes}/a"), "application/json", b"").await.ok()["kind"],
        "StorageClass"
    );
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let gone = server.call(Method::DELETE, &format!("{CONFIG_MAPS}/a"), "application/json", b"").await.ok();
    assert_eq!((&gone["kind"], &gone["details"]["name"]), (&json!("Status"), &json!("a")));
}

#[tokio::test]
async fn a_scale_comes_in_every_form() {
    let server = Server::start().await;
    let body = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    });
    server.post("/apis/apps/v1/namespaces/default/deployments", body).await.ok();
    let uri = "/apis/apps/v1/namespaces/default/deployments/web/scale";
    let form = async |form: &str| {
        let accept = format!("application/json;as={form};g=meta.k8s.io;v=v1");
        server.call_as(admin(), Method::GET, uri, &[("accept", &accept)], b"").await.ok()
    };
    let table = form("Table").await;
    let columns = table["columnDefinitions"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap());
    assert_eq!(columns.collect::<Vec<_>>(), ["Name", "Desired", "Available", "Age"]);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("web"), json!(3), json!(0)]);
    assert_eq!(form("PartialObjectMetadata").await["metadata"]["name"], "web");
}

#[tokio::test]
async fn what_is_there_from_the_start_has_an_owner() {
    let server = Server::start().await;
    let namespace = server.get("/api/v1/namespaces/default").await.ok();
    let entry = &namespace["metadata"]["managedFields"][0];
    assert_eq!((&entry["manager"], &entry["operation"]), (&json!("kube-apiserver"), &json!("Update")));
    let labels = json!({".": {}, "f:kubernetes.io/metadata.name": {}});
    assert_eq!(entry["fieldsV1"], json!({"f:metadata": {"f:labels": labels}}));
}

#[tokio::test]
async fn json_patches_that_fail_are_told_as_upstream_does() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let one = format!("{CONFIG_MAPS}/a");
    let patch = async |uri: &str, patch: Value| {
        server.call(Method::PATCH, uri, "application/json-patch+json", patch.to_string().as_bytes()).await
    };
    for operation in [
        json!({ "op": "test", "path": "/data/k", "value": "w" }),
        json!({ "op": "remove", "path": "/data/nope" }),
        json!({ "op": "replace", "path": "/nope/k", "value": "w" }),
        json!({ "op": "add", "path": "nope", "value": "w" }),
        json!({ "op": "frob", "path": "/data" }),
        json!({ "path": "/data" }),
    ] {
        let text = "the server rejected our request due to an error in our request";
        let body = patch(&one, json!([operation])).await.refused(422, text);
        assert_eq!((body["reason"].as_str(), &body["details"]), (Some("Invalid"), &json!({})));
    }
    let ignore = format!("{one}?fieldValidation=Ignore");
    for (uri, wrong, text) in [
        (
            &one,
            json!({}),
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ),
        (
            &one,
            json!([1]),
            "error decoding patch: json: cannot unmarshal number into Go value of type handlers.jsonPatchOp",
        ),
        (
            &one,
            json!([{ "op": 1 }]),
            "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string",
        ),
        (&ignore, json!("x"), "json: cannot unmarshal string into Go value of type jsonpatch.Patch"),
    ] {
        patch(uri, wrong).await.refused(400, text);
    }
}

#[tokio::test]
async fn metrics_have_documents_though_nobody_stores_them() {
    let server = Server::start().await;
    let path = "apis/metrics.k8s.io/v1beta1";
    let index = server.get("/openapi/v3").await.ok();
    let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = server.get(&url).await.ok();
    let list = &document["paths"][format!("/{path}/namespaces/{{namespace}}/pods")]["get"];
    assert_eq!(list["x-kubernetes-group-version-kind"]["kind"], "PodMetrics");
    let schemas = &document["components"]["schemas"];
    for kind in ["NodeMetrics", "PodMetrics", "PodMetricsList", "ContainerMetrics"] {
        let schema = &schemas[format!("io.k8s.metrics.pkg.apis.metrics.v1beta1.{kind}")];
        assert!(schema["description"].is_string(), "{kind}");
    }
    let text = document.to_string();
    for piece in text.split("#/components/schemas/").skip(1) {
        let name = piece.split('"').next().unwrap();
        assert!(schemas[name].is_object(), "{name}");
    }
    let document = server.get("/openapi/v2").await.ok();
    assert!(document["definitions"]["io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics"].is_object());
}

#[tokio::test]
async fn metrics_tell_of_queues_and_of_our_own_requests() {
    let server = Server::start().await;
    let transport = server.api.in_process("admin", &["system:masters"]);
    let client = naru_client::Client::new(transport);
    let _: Value = client.get(&naru_api::registry::NAMESPACES, None, "default").await.unwrap();
    let queue = naru_client::WorkQueue::new();
    queue.measure(server.api.queues().queue("deployment"));
    queue.add("a");
    queue.add("b");
    assert_eq!(queue.next().await, "a");
    let text = server.get("/metrics").await.ok();
    let text = text.as_str().unwrap();
    for line in [
        "rest_client_requests_total{code=\"200\",method=\"GET\",host=\"in-process\"} 1",
        "rest_client_request_duration_seconds_count{host=\"in-process\",verb=\"GET\"} 1",
        "workqueue_adds_total{name=\"deployment\"} 2",
        "workqueue_depth{name=\"deployment\"} 1",
        "workqueue_queue_duration_seconds_count{name=\"deployment\"} 1",
        "workqueue_work_duration_seconds_count{name=\"deployment\"} 0",
        "workqueue_unfinished_work_seconds{name=\"deployment\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}
