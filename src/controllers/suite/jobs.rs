//! Jobs and CronJobs from creation to garbage.

use super::{Cluster, find};
use naru_api::registry::{self, CRON_JOBS, JOBS, PODS};
use naru_client::{DeleteOptions, ListParams, Propagation};
use serde_json::{Value, json};
use std::sync::Arc;

fn job(name: &str, image: &str, spec: Value) -> Value {
    let mut job = json!({"metadata": {"name": name}, "spec": spec});
    job["spec"]["template"]["spec"] = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": image}]});
    job
}

/// Whether the Job has a condition that is true.
fn is(all: &[Arc<Value>], name: &str, kind: &str) -> bool {
    let conditions = find(all, name).map(|job| &job["status"]["conditions"]);
    let conditions = conditions.and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}

async fn get(cluster: &Cluster, name: &str) -> Value {
    cluster.client.get(&JOBS, Some("default"), name).await.unwrap()
}

async fn told(cluster: &Cluster, reason: &str) {
    cluster.until(&registry::EVENTS, reason, |all| all.iter().any(|event| event["reason"] == reason)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_completes_and_counts_each_pod_once() {
    let cluster = Cluster::start().await;
    cluster.create(&JOBS, job("pi", "job:ok", json!({"completions": 5, "parallelism": 2}))).await;
    cluster.until(&JOBS, "completion", |all| is(all, "pi", "Complete")).await;
    let job = get(&cluster, "pi").await;
    let status = &job["status"];
    assert_eq!(status["succeeded"], 5);
    assert_eq!((status["ready"].as_i64(), status["terminating"].as_i64()), (Some(0), Some(0)));
    assert_eq!(status["uncountedTerminatedPods"], json!({}));
    assert!(status["active"].is_null() && status["completionTime"].is_string());
    let reasons: Vec<_> = status["conditions"].as_array().unwrap().iter().map(|c| (&c["type"], &c["reason"])).collect();
    let expect = json!(["SuccessCriteriaMet", "Complete"]);
    assert_eq!(json!(reasons.iter().map(|(kind, _)| kind).collect::<Vec<_>>()), expect);
    assert!(reasons.iter().all(|(_, reason)| *reason == "CompletionsReached"));
    let pods = cluster.client.list::<Value>(&PODS, &ListParams::namespace("default")).await.unwrap().items;
    assert_eq!(pods.len(), 5);
    assert!(pods.iter().all(|pod| pod["metadata"]["finalizers"].is_null()), "{pods:?}");
    told(&cluster, "Completed").await;
    let options = DeleteOptions::default().propagation(Propagation::Background);
    cluster.client.delete(&JOBS, Some("default"), "pi", &options).await.unwrap();
    cluster.until(&PODS, "no pods", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_pods_fail_gives_up() {
    let cluster = Cluster::start().await;
    cluster.create(&JOBS, job("bad", "job:fail", json!({"backoffLimit": 0}))).await;
    cluster.until(&JOBS, "failure", |all| is(all, "bad", "Failed")).await;
    let status = &get(&cluster, "bad").await["status"];
    assert_eq!(status["failed"], 1);
    assert!(status["succeeded"].is_null());
    let failed = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Failed").unwrap();
    assert_eq!(failed["reason"], "BackoffLimitExceeded");
    assert_eq!(failed["message"], "Job has reached the specified backoff limit");
    told(&cluster, "BackoffLimitExceeded").await;

    let policy = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]});
    cluster.create(&JOBS, job("fatal", "job:fail", json!({"podFailurePolicy": policy}))).await;
    cluster.until(&JOBS, "failure", |all| is(all, "fatal", "Failed")).await;
    let failed = get(&cluster, "fatal").await["status"]["conditions"][0].clone();
    assert_eq!((&failed["type"], &failed["reason"]), (&json!("FailureTarget"), &json!("PodFailurePolicy")));
    let message = failed["message"].as_str().unwrap();
    assert!(
        message.starts_with("Container c for pod default/fatal-")
            && message.ends_with(" failed with exit code 1 matching FailJob rule at index 0"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_succeed_and_fail_one_by_one() {
    let cluster = Cluster::start().await;
    let spec = json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed", "backoffLimitPerIndex": 0});
    cluster.create(&JOBS, job("parts", "job:fail-at-2", spec.clone())).await;
    cluster.until(&JOBS, "failure", |all| is(all, "parts", "Failed")).await;
    let status = &get(&cluster, "parts").await["status"];
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0,1,3"), &json!("2")));
    assert_eq!((status["succeeded"].as_i64(), status["failed"].as_i64()), (Some(3), Some(1)));
    assert_eq!(status["conditions"][0]["reason"], "FailedIndexes");
    let pods = cluster.client.list::<Value>(&PODS, &ListParams::namespace("default")).await.unwrap().items;
    let first =
        pods.iter().find(|pod| pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == "0");
    let first = first.unwrap();
    assert_eq!(first["spec"]["hostname"], "parts-0");
    assert!(first["metadata"]["name"].as_str().unwrap().starts_with("parts-0-"));
    assert_eq!(first["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"], "0");
    assert_eq!(first["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"], "0");
    assert_eq!(
        first["spec"]["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["fieldPath"],
        "metadata.labels['batch.kubernetes.io/job-completion-index']"
    );

    let mut enough = spec;
    enough["successPolicy"] = json!({"rules": [{"succeededIndexes": "0,1", "succeededCount": 1}]});
    enough["backoffLimitPerIndex"] = Value::Null;
    cluster.create(&JOBS, job("some", "job:ok", enough)).await;
    cluster.until(&JOBS, "completion", |all| is(all, "some", "Complete")).await;
    let met = get(&cluster, "some").await["status"]["conditions"][0].clone();
    assert_eq!((&met["type"], &met["reason"]), (&json!("SuccessCriteriaMet"), &json!("SuccessPolicy")));
    assert_eq!(met["message"], "Matched rules at index 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_suspended_resumed_and_goes_when_its_time_is_over() {
    let cluster = Cluster::start().await;
    cluster.create(&JOBS, job("slow", "web:1", json!({"parallelism": 2, "completions": 2}))).await;
    cluster.until(&PODS, "two pods", |all| all.len() == 2).await;
    cluster.merge(&JOBS, "slow", json!({"spec": {"suspend": true}})).await;
    cluster.until(&PODS, "no pods", <[_]>::is_empty).await;
    cluster.until(&JOBS, "suspension", |all| is(all, "slow", "Suspended")).await;
    cluster
        .until(&JOBS, "its counts", |all| {
            let status = &find(all, "slow").unwrap()["status"];
            status["startTime"].is_null() && status["active"].is_null() && status["failed"].is_null()
        })
        .await;
    told(&cluster, "Suspended").await;
    cluster.merge(&JOBS, "slow", json!({"spec": {"suspend": false}})).await;
    cluster.until(&PODS, "two pods", |all| all.len() == 2).await;
    told(&cluster, "Resumed").await;
    cluster.merge(&JOBS, "slow", json!({"spec": {"activeDeadlineSeconds": 0}})).await;
    cluster.until(&JOBS, "failure", |all| is(all, "slow", "Failed")).await;
    cluster.merge(&JOBS, "slow", json!({"spec": {"ttlSecondsAfterFinished": 0}})).await;
    cluster.until(&JOBS, "no Job", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_goes_on_after_a_restart() {
    let mut cluster = Cluster::start().await;
    cluster.create(&JOBS, job("pi", "job:ok", json!({"completions": 20, "parallelism": 4}))).await;
    for done in [1, 5, 9] {
        cluster
            .until(&JOBS, "some pods", |all| {
                find(all, "pi").unwrap()["status"]["succeeded"].as_i64().unwrap_or_default() >= done
            })
            .await;
        cluster.start_controllers().await;
    }
    cluster.until(&JOBS, "completion", |all| is(all, "pi", "Complete")).await;
    assert_eq!(get(&cluster, "pi").await["status"]["succeeded"], 20);
    let pods = cluster.client.list::<Value>(&PODS, &ListParams::namespace("default")).await.unwrap().items;
    assert_eq!(pods.len(), 20);
    assert!(pods.iter().all(|pod| pod["metadata"]["finalizers"].is_null()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_starts_jobs_and_keeps_some() {
    let cluster = Cluster::start().await;
    let template = job("", "job:ok", json!({}))["spec"].clone();
    let cron = json!({"metadata": {"name": "tick"}, "spec": {"schedule": "@every 1s", "successfulJobsHistoryLimit": 1,
        "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": template}}});
    cluster.create(&CRON_JOBS, cron).await;
    told(&cluster, "SuccessfulCreate").await;
    told(&cluster, "SawCompletedJob").await;
    cluster
        .until(&CRON_JOBS, "its status", |all| {
            let status = &find(all, "tick").unwrap()["status"];
            status["lastScheduleTime"].is_string() && status["lastSuccessfulTime"].is_string()
        })
        .await;
    cluster.merge(&CRON_JOBS, "tick", json!({"spec": {"suspend": true}})).await;
    cluster
        .until(&JOBS, "one Job", |all| {
            all.len() == 1
                && all[0]["metadata"]["labels"]["a"] == "b"
                && is(all, all[0]["metadata"]["name"].as_str().unwrap(), "Complete")
        })
        .await;
    cluster.until(&CRON_JOBS, "none active", |all| find(all, "tick").unwrap()["status"]["active"].is_null()).await;
}
