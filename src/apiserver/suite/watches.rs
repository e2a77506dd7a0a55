//! Watches, by the transport that the process's own parts use.

use super::*;
use futures::StreamExt;
use naru_client::transport::{EventType, Request};
use serde_json::json;

async fn next(events: &mut WatchStream) -> (EventType, Value) {
    let event = events.next().await.unwrap().unwrap();
    (event.kind, serde_json::from_slice(&event.object).unwrap())
}

#[tokio::test]
async fn events_follow_the_object() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let mut events = server.watch(&format!("{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name%3Da"), "").await;
    let (kind, object) = next(&mut events).await;
    assert_eq!((kind, object["metadata"]["name"].as_str()), (EventType::Added, Some("a")));
    server.post(CONFIG_MAPS, config_map("other")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let patched = server.merge(&path, json!({ "data": { "k": "w" } })).await.ok();
    let (kind, object) = next(&mut events).await;
    assert_eq!(kind, EventType::Modified);
    assert_eq!(object, patched);
    server.delete(&path).await.ok();
    let (kind, object) = next(&mut events).await;
    assert_eq!((kind, object["data"]["k"].as_str()), (EventType::Deleted, Some("w")));
}

#[tokio::test]
async fn labels_that_come_and_go_add_and_delete() {
    let server = Server::start().await;
    let created = server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let revision = created["metadata"]["resourceVersion"].as_str().unwrap();
    let uri = format!("{CONFIG_MAPS}?watch=1&labelSelector=x%3Dy&resourceVersion={revision}");
    let mut events = server.watch(&uri, "").await;
    let path = format!("{CONFIG_MAPS}/a");
    server.merge(&path, json!({ "metadata": { "labels": { "x": "y" } } })).await.ok();
    assert_eq!(next(&mut events).await.0, EventType::Added);
    server.merge(&path, json!({ "metadata": { "labels": { "x": "z" } } })).await.ok();
    assert_eq!(next(&mut events).await.0, EventType::Deleted);
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let uri = format!(
        "{CONFIG_MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut events = server.watch(&uri, "").await;
    assert_eq!(next(&mut events).await.0, EventType::Added);
    let (kind, object) = next(&mut events).await;
    assert_eq!(kind, EventType::Bookmark);
    assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn table_events_tell_their_columns_once() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    server.post(CONFIG_MAPS, config_map("b")).await.ok();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut events = server.watch(&format!("{CONFIG_MAPS}?watch=1"), accept).await;
    let (_, first) = next(&mut events).await;
    let (_, second) = next(&mut events).await;
    assert_eq!(first["rows"][0]["cells"][0], "a");
    assert!(first["columnDefinitions"].is_array() && second["columnDefinitions"].is_null());
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_its_time_is_over_or_the_server_stops() {
    let server = Server::start().await;
    let mut timed = server.watch("/api/v1/nodes?watch=1&timeoutSeconds=5", "").await;
    assert!(timed.next().await.is_none());
    let mut stopped = server.watch("/api/v1/nodes?watch=1", "").await;
    server.shutdown.trigger();
    assert!(stopped.next().await.is_none());
}

#[tokio::test]
async fn in_process_users_are_authorized_and_see_the_same() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let request =
        |uri: &str| Request { method: Method::GET, uri: uri.to_owned(), content_type: "", body: Bytes::new() };
    let admin = server.api.in_process("admin", &["system:masters"]);
    let list: Value = serde_json::from_slice(&admin.send(request(CONFIG_MAPS)).await.unwrap()).unwrap();
    assert_eq!(list["kind"], "ConfigMapList");
    let mut events = admin.watch(request(&format!("{CONFIG_MAPS}?watch=true"))).await.unwrap();
    assert_eq!(next(&mut events).await.0, EventType::Added);
    let nobody = server.api.in_process("nobody", &[]);
    let refused = nobody.send(request(CONFIG_MAPS)).await.unwrap_err();
    assert!(refused.to_string().contains("cannot list resource \"configmaps\""), "{refused}");
}

async fn event_of(server: &Server, uri: &str) -> (EventType, Value) {
    next(&mut server.watch(uri, "").await).await
}

#[tokio::test]
async fn options_that_do_not_go_together_are_refused() {
    let server = Server::start().await;
    let cases = [
        (
            "resourceVersionMatch=Exact",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersionMatch=Newer&resourceVersion=1",
            "resourceVersionMatch: Unsupported value: \"Newer\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=1&continue=x",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
        ),
        ("sendInitialEvents=true", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        (
            "watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (
            "watch=1&sendInitialEvents=true&resourceVersion=1",
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
    ];
    for (query, error) in cases {
        let answer = server.get(&format!("{CONFIG_MAPS}?{query}")).await;
        answer.refused(422, &format!("ListOptions.meta.k8s.io \"\" is invalid: {error}"));
    }
    let number = |text| {
        format!("resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax")
    };
    let get = async |query: &str| server.get(&format!("{CONFIG_MAPS}?{query}")).await;
    get("resourceVersion=x").await.refused(400, &format!("invalid resource version: {}", number("x")));
    get("watch=1&resourceVersion=x").await.refused(500, &number("x"));
    for query in ["limit=x", "timeoutSeconds=x", "watch=1&timeoutSeconds=x"] {
        get(query).await.refused(400, "strconv.ParseInt: parsing \"x\": invalid syntax");
    }
    get("continue=e30").await.refused(
        400,
        "invalid continue token: continue key is not valid: server does not recognize this encoded version ",
    );
    get("fieldSelector=spec.x%3Dy")
        .await
        .refused(400, "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
    server.get(&format!("{PODS}?fieldSelector=spec.x%3Dy")).await.refused(400, "field label not supported: spec.x");
}

#[tokio::test]
async fn a_revision_that_has_not_come_is_too_large() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    tokio::time::pause();
    let current = server.state().store.revision();
    let message = format!("Timeout: Too large resource version: {}, current: {current}", current + 9);
    let ahead = current + 9;
    for (uri, seconds) in [
        (format!("{CONFIG_MAPS}?resourceVersion={ahead}"), json!(1)),
        (format!("{CONFIG_MAPS}/a?resourceVersion={ahead}"), json!(1)),
        (format!("{CONFIG_MAPS}?resourceVersion={ahead}&resourceVersionMatch=Exact"), Value::Null),
    ] {
        let status = server.get(&uri).await.refused(504, &message);
        assert_eq!(status["reason"], "Timeout");
        assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert_eq!(status["details"]["retryAfterSeconds"], seconds, "{uri}");
    }
    let uri =
        format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=1&resourceVersionMatch=NotOlderThan&resourceVersion={ahead}");
    let (kind, status) = event_of(&server, &uri).await;
    assert_eq!((kind, &status["code"]), (EventType::Error, &json!(504)));
}

#[tokio::test]
async fn watches_of_forgotten_revisions_end_with_an_error_event() {
    let server = Server::start().await;
    let first = server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap();
    server.merge(&format!("{CONFIG_MAPS}/a"), json!({ "data": { "k": "w" } })).await.ok();
    let store = &server.state().config.store;
    store.compact(store.revision()).await.unwrap();
    let list = format!("{CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
    let restarted = Config::new(store.clone(), key_pem(), [192, 0, 2, 1].into());
    let api = ApiServer::new(restarted, server.shutdown.child()).await.unwrap();
    let client = api.in_process("admin", &["system:masters"]);
    let request =
        |uri: &str| Request { method: Method::GET, uri: uri.to_owned(), content_type: "", body: Bytes::new() };
    let uri = format!("{CONFIG_MAPS}?watch=1&resourceVersion={revision}");
    let mut events = client.watch(request(&uri)).await.unwrap();
    let (kind, status) = next(&mut events).await;
    assert_eq!((kind, &status["code"], &status["reason"]), (EventType::Error, &json!(410), &json!("Expired")));
    assert!(events.next().await.is_none());
    let refused = client.send(request(&list)).await.unwrap_err();
    assert!(refused.to_string().contains("The resourceVersion for the provided list is too old."), "{refused}");
}

#[tokio::test]
async fn a_watch_without_a_version_marks_the_end_of_what_is_there() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let mut events = server.watch(&format!("{CONFIG_MAPS}?watch=1&allowWatchBookmarks=1"), "").await;
    assert_eq!(next(&mut events).await.0, EventType::Added);
    let (kind, object) = next(&mut events).await;
    assert_eq!(
        (kind, &object["metadata"]["annotations"]["k8s.io/initial-events-end"]),
        (EventType::Bookmark, &json!("true"))
    );
    let from_now = format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=0&resourceVersionMatch=NotOlderThan");
    let mut events = server.watch(&from_now, "").await;
    server.post(CONFIG_MAPS, config_map("b")).await.ok();
    assert_eq!(next(&mut events).await.1["metadata"]["name"], "b");
}

#[tokio::test]
async fn a_collection_is_deleted_whole_and_by_selector() {
    let server = Server::start().await;
    for i in 0..300 {
        let mut map = config_map(&format!("m{i}"));
        map["metadata"]["labels"] = json!({ "half": (i % 2).to_string() });
        server.post(CONFIG_MAPS, map).await.ok();
    }
    let deleted = server.delete(&format!("{CONFIG_MAPS}?labelSelector=half%3D1")).await.ok();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 150);
    assert_eq!(server.get(CONFIG_MAPS).await.ok()["items"].as_array().unwrap().len(), 150);
    server.delete(CONFIG_MAPS).await.ok();
    assert_eq!(server.get(CONFIG_MAPS).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn what_is_not_served_is_an_error_inside_the_process_too() {
    let server = Server::start().await;
    let transport = server.api.in_process("admin", &["system:masters"]);
    for uri in ["/apis/nowhere.example.com/v1/things", "/apis/nowhere.example.com/v1/things?watch=true", "/nowhere"] {
        let request = || Request {
            method: Method::GET,
            uri: uri.to_owned(),
            content_type: "application/json",
            body: Bytes::new(),
        };
        let error = if uri.contains("watch") {
            transport.watch(request()).await.err().unwrap()
        } else {
            transport.send(request()).await.unwrap_err()
        };
        assert!(naru_client::is_not_found(&error), "{uri}: {error}");
        assert_eq!(error.to_string(), "404 page not found");
    }
}
