//! The audit log of a whole server.

use super::outside::Outside;
use super::*;
use crate::AuditFlags;
use futures::StreamExt;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

async fn server(policy: &str, format: &str) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("db"), Options::default()).unwrap();
    let mut config = Config::new(store, key_pem(), [192, 0, 2, 1].into());
    let file = dir.path().join("policy.yaml");
    std::fs::write(&file, format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{policy}")).unwrap();
    config.flags.audit = AuditFlags {
        policy_file: Some(file),
        log_path: Some(dir.path().join("audit.log")),
        log_format: Some(format.to_owned()),
        ..AuditFlags::default()
    };
    let shutdown = Shutdown::new();
    let api = ApiServer::new(config, shutdown.clone()).await.unwrap();
    Server { _dir: Some(dir), api, shutdown }
}

fn lines(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("audit.log")).unwrap();
    text.lines().map(str::to_owned).collect()
}

impl Server {
    fn events(&self) -> Vec<Value> {
        let lines = lines(self._dir.as_ref().unwrap().path());
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn each_level_tells_what_it_is_to_tell() {
    let policy = "- {level: None, resources: [{group: '', resources: [namespaces]}]}\n\
                  - {level: Metadata, resources: [{group: '', resources: [secrets]}]}\n\
                  - {level: Request, resources: [{group: '', resources: [configmaps]}], verbs: [create], omitStages: [RequestReceived]}\n\
                  - {level: RequestResponse, resources: [{group: '', resources: [configmaps]}], omitStages: [RequestReceived], omitManagedFields: true}\n";
    let server = server(policy, "json").await;
    server.get("/api/v1/namespaces").await.ok();
    assert!(server.events().is_empty());
    let secret = json!({ "metadata": { "name": "s" }, "data": { "k": "c2VjcmV0" } });
    server.post("/api/v1/namespaces/default/secrets?fieldManager=m", secret).await.ok();
    let events = server.events();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["stage"], "RequestReceived");
    assert!(events[0].get("responseStatus").is_none());
    let told = &events[1];
    assert_eq!((told["kind"].as_str(), told["apiVersion"].as_str()), (Some("Event"), Some("audit.k8s.io/v1")));
    assert_eq!((told["stage"].as_str(), told["level"].as_str()), (Some("ResponseComplete"), Some("Metadata")));
    assert_eq!(told["auditID"], events[0]["auditID"]);
    assert_eq!(told["requestURI"], "/api/v1/namespaces/default/secrets?fieldManager=m");
    assert_eq!(told["verb"], "create");
    assert_eq!(told["user"], json!({ "username": "admin", "groups": ["system:masters", "system:authenticated"] }));
    assert_eq!(told["sourceIPs"], json!(["127.0.0.1"]));
    let object = json!({ "resource": "secrets", "namespace": "default", "name": "s", "apiVersion": "v1" });
    assert_eq!(told["objectRef"], object);
    assert_eq!(told["responseStatus"], json!({ "metadata": {}, "code": 201 }));
    let annotations = json!({ "authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": "" });
    assert_eq!(told["annotations"], annotations);
    assert!(!events.iter().any(|event| event.to_string().contains("c2VjcmV0")), "a body is not told of at this level");

    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    server.merge(&format!("{CONFIG_MAPS}/a"), json!({ "data": { "k": "w" } })).await.ok();
    server.get(&format!("{CONFIG_MAPS}/none")).await.code_is(404);
    server.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    let events = server.events()[2..].to_vec();
    assert_eq!(events.len(), 4);
    assert_eq!(events[0]["requestObject"]["data"], json!({ "k": "v" }));
    assert!(events[0].get("responseObject").is_none());
    assert_eq!(events[1]["requestObject"], json!({ "data": { "k": "w" } }));
    assert_eq!(events[1]["responseObject"]["data"], json!({ "k": "w" }));
    assert!(events[1]["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(events[2]["responseStatus"]["reason"], "NotFound");
    assert_eq!(events[2]["responseStatus"]["code"], 404);
    assert_eq!(events[2]["responseObject"]["kind"], "Status");
    assert_eq!(
        (events[3]["responseStatus"]["status"].as_str(), &events[3]["verb"]),
        (Some("Success"), &json!("delete"))
    );
}

#[tokio::test]
async fn refusals_impersonation_and_pod_security_are_annotated() {
    let server = server("- {level: Metadata, omitStages: [RequestReceived]}\n", "json").await;
    let nobody = || User::authenticated("nobody", []);
    server.call_as(nobody(), Method::GET, PODS, &[], b"").await.code_is(403);
    let headers = [("impersonate-user", "jane"), ("impersonate-group", "dev"), ("user-agent", "kubectl/1")];
    server.call_as(admin(), Method::GET, PODS, &headers, b"").await.code_is(403);
    let event = &server.events()[0];
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(event["responseStatus"]["reason"], "Forbidden");
    let event = &server.events()[1];
    assert_eq!(event["user"]["username"], "admin");
    assert_eq!(event["impersonatedUser"], json!({ "username": "jane", "groups": ["dev", "system:authenticated"] }));
    assert_eq!(event["userAgent"], "kubectl/1");
    let account = json!({ "metadata": { "name": "default" } });
    server.post("/api/v1/namespaces/default/serviceaccounts", account).await.ok();
    server.post(PODS, pod("p")).await.ok();
    let event = server.events().pop().unwrap();
    assert_eq!(event["annotations"]["pod-security.kubernetes.io/enforce-policy"], "privileged:latest");
}

#[tokio::test]
async fn a_watch_is_told_of_when_it_begins_and_when_it_ends() {
    let server = server("- {level: RequestResponse, verbs: [watch]}\n", "json").await;
    let mut watch = server.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=0"), "application/json").await;
    let stages = |server: &Server| server.events().iter().map(|event| event["stage"].clone()).collect::<Vec<_>>();
    assert_eq!(stages(&server), ["RequestReceived", "ResponseStarted"]);
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    watch.next().await.unwrap().unwrap();
    drop(watch);
    while stages(&server).len() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(stages(&server), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
}

#[tokio::test]
async fn the_older_lines_are_upstreams() {
    let server = server("- {level: Metadata}\n", "legacy").await;
    server.get("/version").await.ok();
    let lines = lines(server._dir.as_ref().unwrap().path());
    assert_eq!(lines.len(), 2);
    let after = |line: &str| line.split_once(" AUDIT: id=").unwrap().1[38..].to_owned();
    let common = "ip=\"127.0.0.1\" method=\"get\" user=\"admin\" groups=\"\\\"system:masters\\\",\\\"system:authenticated\\\"\" \
                  as=\"<self>\" asgroups=\"<lookup>\" user-agent=\"\" namespace=\"<none>\" uri=\"/version\"";
    assert_eq!(after(&lines[0]), format!(" stage=\"RequestReceived\" {common} response=\"<deferred>\""));
    assert_eq!(after(&lines[1]), format!(" stage=\"ResponseComplete\" {common} response=\"200\""));
}

/// A server that tells a webhook, with the flags that a test wants.
async fn told(outside: &Outside, flags: &[&str]) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    let rules =
        "rules: [{level: Request, resources: [{group: '', resources: [pods]}, {group: autoscaling}]}, {level: None}]";
    std::fs::write(
        &policy,
        format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n{rules}"),
    )
    .unwrap();
    let file = outside.kubeconfig(dir.path());
    let mut arguments = vec![
        format!("audit-policy-file={}", policy.display()),
        format!("audit-webhook-config-file={}", file.display()),
        "audit-webhook-initial-backoff=1ms".to_owned(),
    ];
    arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
    Server::start_with(|config| config.flags = crate::flags::Flags::parse(&arguments).unwrap()).await
}

#[tokio::test]
async fn a_webhook_is_told_in_batches_and_at_the_end() {
    let failures = std::sync::atomic::AtomicUsize::new(2);
    let outside = Outside::start(move |_, _| {
        let failed = failures.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        (if failed { 503 } else { 200 }, Value::Null)
    })
    .await;
    let server = told(&outside, &["audit-webhook-batch-max-size=3", "audit-webhook-batch-max-wait=1h"]).await;
    for _ in 0..4 {
        server.get(PODS).await.ok();
    }
    server.api.state.audit.as_ref().unwrap().flush().await;
    let asked = outside.asked();
    let sizes: Vec<usize> = asked.iter().map(|(_, list)| list["items"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [3, 3, 3, 1], "the first batch was sent three times");
    let list = &asked[0].1;
    assert_eq!((list["kind"].as_str(), list["apiVersion"].as_str()), (Some("EventList"), Some("audit.k8s.io/v1")));
    assert_eq!(list["items"][0]["requestURI"], PODS);
    assert!(list["items"][0].get("kind").is_none());
}

#[tokio::test]
async fn a_strict_webhook_that_does_not_answer_refuses_requests() {
    let outside = Outside::start(|_, _| (400, Value::Null)).await;
    let server = told(&outside, &["audit-webhook-mode=blocking"]).await;
    server.get(PODS).await.ok();
    assert_eq!(outside.asked().len(), 1);
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    std::fs::write(&policy, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n").unwrap();
    let again = format!("audit-policy-file={}", policy.display());
    let server = told(&outside, &["audit-webhook-mode=blocking-strict", &again]).await;
    server.get(PODS).await.refused(500, "Internal error occurred: failed to store audit event");
}

#[tokio::test]
async fn large_events_go_without_their_objects_or_not_at_all() {
    let outside = Outside::start(|_, _| (200, Value::Null)).await;
    let flags =
        ["audit-webhook-mode=blocking", "audit-webhook-truncate-enabled", "audit-webhook-truncate-max-event-size=1400"];
    let server = told(&outside, &flags).await;
    let mut large = pod("p");
    large["metadata"]["annotations"] = json!({ "a": "x".repeat(2000) });
    server.post(PODS, large).await.ok();
    server.get(PODS).await.ok();
    server.get(&format!("{PODS}?fieldManager={}", "x".repeat(1400))).await.ok();
    let told: Vec<Value> = outside.asked().iter().map(|(_, list)| list["items"][0].clone()).collect();
    assert_eq!(told.len(), 2, "nothing is left of the third one that could go");
    assert_eq!(told[0]["annotations"]["audit.k8s.io/truncated"], "true");
    assert!(told[0].get("requestObject").is_none());
    assert_eq!(told[0]["objectRef"]["name"], "p");
    assert!(told[1]["annotations"].get("audit.k8s.io/truncated").is_none());
}

#[tokio::test]
async fn a_log_in_batches_is_written_when_they_are_full() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    let rules = "rules: [{level: Metadata, nonResourceURLs: [/version]}, {level: None}]";
    std::fs::write(
        &policy,
        format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n{rules}\n"),
    )
    .unwrap();
    let arguments = [
        format!("audit-policy-file={}", policy.display()),
        format!("audit-log-path={}", dir.path().join("audit.log").display()),
        "audit-log-mode=batch".to_owned(),
        "audit-log-batch-max-size=2".to_owned(),
        "audit-log-batch-max-wait=1h".to_owned(),
    ];
    let server = Server::start_with(|config| config.flags = crate::flags::Flags::parse(&arguments).unwrap()).await;
    for _ in 0..2 {
        server.get("/version").await.ok();
    }
    while lines(dir.path()).len() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    server.get("/version").await.ok();
    server.api.state.audit.as_ref().unwrap().flush().await;
    assert_eq!(lines(dir.path()).len(), 3, "the end waits for nothing");
}

#[tokio::test]
async fn objects_are_told_with_their_defaults() {
    let outside = Outside::start(|_, _| (200, Value::Null)).await;
    let server = told(&outside, &["audit-webhook-mode=blocking"]).await;
    let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let target = json!({ "kind": "Deployment", "name": "d", "apiVersion": "apps/v1" });
    let spec = json!({ "maxReplicas": 3, "scaleTargetRef": target });
    server.post(path, json!({ "metadata": { "name": "h" }, "spec": spec })).await.ok();
    server.post(PODS, pod("p")).await.ok();
    let told: Vec<Value> = outside.asked().iter().map(|(_, list)| list["items"][0]["requestObject"].clone()).collect();
    assert_eq!(told[0]["spec"]["minReplicas"], 1);
    let spec = &told[1]["spec"];
    assert_eq!(
        (spec["restartPolicy"].as_str(), spec["schedulerName"].as_str()),
        (Some("Always"), Some("default-scheduler"))
    );
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
    assert!(spec.get("tolerations").is_none(), "admission comes later");
}

#[tokio::test]
async fn a_policy_that_cannot_be_used_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("db"), Options::default()).unwrap();
    let mut config = Config::new(store, key_pem(), [192, 0, 2, 1].into());
    let file = dir.path().join("policy.yaml");
    std::fs::write(&file, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []\n").unwrap();
    config.flags.audit.policy_file = Some(file.clone());
    config.flags.audit.log_path = Some("-".into());
    let error = ApiServer::new(config, Shutdown::new()).await.unwrap_err().to_string();
    assert_eq!(error, format!("audit-policy-file: {}: loaded illegal policy with 0 rules", file.display()));
}
