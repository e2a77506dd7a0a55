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
        "object *v1.Table does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message",
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
