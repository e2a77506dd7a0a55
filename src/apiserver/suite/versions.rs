//! Resources that are served in a version other than the stored one.

use super::*;
use futures::StreamExt;
use naru_client::transport::EventType;

const CORE: &str = "/api/v1/namespaces/default/events";
const V1: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn event(name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "name": name },
        "regarding": { "kind": "Pod", "namespace": "default", "name": "p" },
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "example.com/c",
        "reportingInstance": "i",
        "action": "Doing",
        "reason": "Done",
        "note": "so",
        "type": "Normal",
    })
}

#[tokio::test]
async fn events_of_two_groups_are_one() {
    let server = Server::start().await;
    let created = server.post(V1, event("e")).await;
    assert_eq!(created.code, 201);
    let created = created.ok();
    assert_eq!((created["apiVersion"].as_str(), created["note"].as_str()), (Some("events.k8s.io/v1"), Some("so")));
    let core = server.get(&format!("{CORE}/e")).await.ok();
    assert_eq!((core["apiVersion"].as_str(), core["message"].as_str()), (Some("v1"), Some("so")));
    assert_eq!(core["involvedObject"]["name"], "p");
    assert_eq!(core["metadata"], created["metadata"]);

    let mut changed = created.clone();
    changed["series"] = json!({ "count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z" });
    let one = format!("{V1}/e");
    assert_eq!(server.put(&one, changed.clone()).await.ok()["series"]["count"], 2);
    changed["metadata"]["resourceVersion"] = Value::Null;
    changed["note"] = "other".into();
    server
        .put(&one, changed)
        .await
        .refused(422, "Event \"e\" is invalid: message: Invalid value: \"other\": field is immutable");
    let patched = server.merge(&one, json!({ "series": { "count": 3 } })).await.ok();
    assert_eq!((patched["series"]["count"].as_i64(), patched["note"].as_str()), (Some(3), Some("so")));
    let core = server.merge(&format!("{CORE}/e"), json!({ "message": "by core" })).await.ok();
    assert_eq!(core["message"], "by core");
    let mut odd = event("f");
    odd["message"] = "core's".into();
    server.post(&format!("{V1}?fieldValidation=Strict"), odd).await.refused(
        400,
        "Event in version \"v1\" cannot be handled as a Event: strict decoding error: unknown field \"message\"",
    );
    server.get(&format!("{V1}/none")).await.refused(404, "events.events.k8s.io \"none\" not found");
    server.delete(&one).await.ok();
    server.get(&format!("{CORE}/e")).await.refused(404, "events \"e\" not found");
}

#[tokio::test]
async fn lists_tables_and_watches_speak_the_version_asked_for() {
    let server = Server::start().await;
    server.post(V1, event("a")).await.ok();
    server.post(V1, event("b")).await.ok();
    let list = server.get(V1).await.ok();
    assert_eq!((list["kind"].as_str(), list["apiVersion"].as_str()), (Some("EventList"), Some("events.k8s.io/v1")));
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 2);
    assert_eq!(items[0]["regarding"]["name"], "p");
    assert!(items[0].get("kind").is_none() && items[0].get("involvedObject").is_none());
    let selected = server.get(&format!("{V1}?fieldSelector=regarding.name=p,metadata.name=b")).await.ok();
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    server
        .get(&format!("{V1}?fieldSelector=involvedObject.name=p"))
        .await
        .refused(400, "field label not supported: involvedObject.name");

    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let rows = server.call_as(admin(), Method::GET, &format!("{V1}?includeObject=Object"), &table, b"").await.ok();
    assert_eq!(rows["rows"][0]["cells"][3], "pod/p");
    assert_eq!(rows["rows"][0]["object"]["apiVersion"], "events.k8s.io/v1");
    assert_eq!(rows["rows"][0]["object"]["note"], "so");

    let mut watch = server.watch(&format!("{V1}?watch=true"), "application/json").await;
    let mut next = async || {
        let event = watch.next().await.unwrap().unwrap();
        (event.kind, serde_json::from_slice::<Value>(&event.object).unwrap())
    };
    assert_eq!(next().await.1["note"], "so");
    next().await;
    let gone = server.call(Method::DELETE, V1, "", b"").await.ok();
    assert_eq!(gone["apiVersion"], "events.k8s.io/v1");
    let (kind, object) = next().await;
    assert_eq!((kind, object["apiVersion"].as_str()), (EventType::Deleted, Some("events.k8s.io/v1")));
    assert!(server.get(CORE).await.ok()["items"].as_array().unwrap().is_empty());
}
