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
