//! Priority and fairness through the pipeline, and its objects.

use super::*;
use std::time::Duration;

const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";

async fn eventually<F: AsyncFn() -> bool>(what: &str, check: F) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": {
        "matchingPrecedence": 50, "priorityLevelConfiguration": { "name": level },
        "rules": [{ "subjects": [{ "kind": "User", "user": { "name": user } }], "resourceRules": [{ "verbs": ["*"],
            "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true }] }] } })
}

#[tokio::test]
async fn what_must_exist_comes_back_and_is_put_right() {
    let server = Server::start().await;
    let level = |name: &str| format!("{LEVELS}/{name}");
    let uid = server.get(&level("catch-all")).await.ok()["metadata"]["uid"].clone();
    server.delete(&level("catch-all")).await.ok();
    eventually("catch-all comes back", async || {
        let found = server.get(&level("catch-all")).await;
        found.code == 200 && found.body["metadata"]["uid"] != uid
    })
    .await;

    // What is suggested is the server's while the annotation says so, and its owner's afterwards.
    let shares = json!({ "spec": { "limited": { "nominalConcurrencyShares": 77 } } });
    server.merge(&level("workload-low"), shares.clone()).await.ok();
    eventually("workload-low is put right", async || {
        server.get(&level("workload-low")).await.ok()["spec"]["limited"]["nominalConcurrencyShares"] == 100
    })
    .await;
    let mut mine = shares;
    mine["metadata"] = json!({ "annotations": { "apf.kubernetes.io/autoupdate-spec": "false" } });
    server.merge(&level("workload-low"), mine).await.ok();
    let fence = server.post(SCHEMAS, schema("fence", "nowhere", "x")).await.ok();
    assert_eq!(fence["status"], json!({}));
    eventually("the fence is told that its level is missing", async || {
        let condition = server.get(&format!("{SCHEMAS}/fence")).await.ok()["status"]["conditions"][0].clone();
        condition["type"] == "Dangling"
            && condition["status"] == "True"
            && condition["reason"] == "NotFound"
            && condition["message"]
                == "This FlowSchema references the PriorityLevelConfiguration object named \"nowhere\" but there is no such object"
    })
    .await;
    let spec = server.get(&level("workload-low")).await.ok()["spec"]["limited"]["nominalConcurrencyShares"].clone();
    assert_eq!(spec, 77);
    let told = server.get(&format!("{SCHEMAS}/exempt")).await.ok()["status"]["conditions"][0].clone();
    assert_eq!((&told["status"], &told["reason"]), (&json!("False"), &json!("Found")));
}

#[tokio::test]
async fn a_level_without_seats_refuses_and_the_others_go_on() {
    let server = Server::start().await;
    let jail = json!({ "metadata": { "name": "jail" }, "spec": { "type": "Limited", "limited": {
        "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": { "type": "Reject" } } } });
    server.post(LEVELS, jail).await.ok();
    server.post(SCHEMAS, schema("prisoner", "jail", "prisoner")).await.ok();
    let prisoner = || User::authenticated("prisoner", []);
    eventually("the prisoner is refused", async || {
        let answer = server.call_as(prisoner(), Method::GET, PODS, &[], b"").await;
        answer.code == 429
            && answer.body["message"] == "Too many requests, please try again later."
            && answer.body["details"]["retryAfterSeconds"] == 1
    })
    .await;
    server.get(PODS).await.ok();
    // Health is exempt.
    assert_eq!(server.call_as(prisoner(), Method::GET, "/readyz", &[], b"").await.code, 200);
    let text = server.get("/metrics").await.ok();
    let text = text.as_str().unwrap();
    for line in [
        "apiserver_flowcontrol_rejected_requests_total{priority_level=\"jail\",flow_schema=\"prisoner\",reason=\"concurrency-limit\"} 1",
        "apiserver_request_terminations_total{verb=\"LIST\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",scope=\"namespace\",component=\"apiserver\",code=\"429\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let dump = async |table: &str| {
        let text = server.get(&format!("/debug/api_priority_and_fairness/dump_{table}")).await.ok();
        let lines =
            text.as_str().unwrap().lines().map(|line| line.split(", ").map(str::trim).map(str::to_owned).collect());
        lines.collect::<Vec<Vec<String>>>()
    };
    let levels = dump("priority_levels").await;
    assert_eq!((levels[0].len(), &*levels[0][0]), (10, "PriorityLevelName"));
    let jail = levels.iter().find(|line| line[0] == "jail").unwrap();
    assert_eq!(jail[1..7], ["0", "true", "false", "0", "0", "0"]);
    assert_ne!(jail[7], "0", "it has refused somebody");
    assert!(dump("queues").await.iter().filter(|line| line[0] == "workload-low").count() > 1);
    assert_eq!(dump("requests").await.len(), 1, "nobody waits");
}

#[tokio::test]
async fn requests_are_counted_under_the_names_that_dashboards_read() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    server.post(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("b")).await.ok();
    server.get(&format!("{CONFIG_MAPS}/none")).await.code_is(404);
    server.get("/api/v1/namespaces/default/nonsense/of/mine").await.code_is(404);
    let mut watch = server.watch(&format!("{CONFIG_MAPS}?watch=1"), "application/json").await;
    futures::StreamExt::next(&mut watch).await.unwrap().unwrap();
    let text = server.get("/metrics").await.ok();
    let text = text.as_str().unwrap();
    let labels = |verb: &str, scope: &str| {
        format!(
            "verb=\"{verb}\",group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",scope=\"{scope}\",component=\"apiserver\""
        )
    };
    let post = labels("POST", "resource");
    for line in [
        format!("apiserver_request_total{{{post},dry_run=\"\",code=\"201\"}} 1\n"),
        format!("apiserver_request_total{{{post},dry_run=\"All\",code=\"201\"}} 1\n"),
        format!("apiserver_request_total{{{},dry_run=\"\",code=\"404\"}} 1\n", labels("GET", "resource")),
        format!("apiserver_request_duration_seconds_bucket{{{post},dry_run=\"\",le=\"60\"}} 1\n"),
        format!("apiserver_request_sli_duration_seconds_count{{{post}}} 1\n"),
        format!("apiserver_request_slo_duration_seconds_count{{{post}}} 1\n"),
        format!("apiserver_longrunning_requests{{{}}} 1\n", labels("WATCH", "namespace")),
        "apiserver_watch_events_total{group=\"\",version=\"v1\",resource=\"configmaps\"} 1\n".to_owned(),
        "apiserver_storage_objects{resource=\"configmaps\"} ".to_owned(),
        "apiserver_current_inflight_requests{request_kind=\"mutating\"} ".to_owned(),
        "etcd_request_duration_seconds_count{operation=\"create\",group=\"\",resource=\"configmaps\"} 1\n".to_owned(),
        "process_cpu_seconds_total ".to_owned(),
        "process_resident_memory_bytes ".to_owned(),
        "go_goroutines ".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
    assert!(!text.contains("nonsense"), "labels are never what a client makes up");
    drop(watch);
    let text = server.get("/metrics").await.ok();
    let ended = format!("apiserver_longrunning_requests{{{}}} 0\n", labels("WATCH", "namespace"));
    assert!(text.as_str().unwrap().contains(&ended));
}

#[tokio::test]
async fn the_client_says_how_long_it_waits() {
    let server = Server::start().await;
    server.get(&format!("{PODS}?timeout=10s")).await.ok();
    let what = "invalid timeout specified in the request URL - time: invalid duration \"soon\"";
    server.get(&format!("{PODS}?timeout=soon")).await.refused(400, what);
    // A charge that waits for another one, which does not end.
    let quota = json!({ "metadata": { "name": "q" }, "spec": { "hard": { "count/configmaps": "9" } } });
    server.post("/api/v1/namespaces/default/resourcequotas", quota).await.ok();
    let _turn = server.state().quota_locks.of("default").lock().await;
    let what = "Timeout: request did not complete within the allotted timeout";
    let late = server.post(&format!("{CONFIG_MAPS}?timeout=1ns"), config_map("late")).await.refused(504, what);
    assert_eq!(late["reason"], "Timeout");
}
