//! StatefulSets from creation to garbage.

use super::{Cluster, find};
use naru_api::registry::{self, CONTROLLER_REVISIONS, PERSISTENT_VOLUME_CLAIMS, PODS, STATEFUL_SETS};
use naru_client::{DeleteOptions, ListParams, PatchKind};
use serde_json::{Value, json};
use std::sync::Arc;

fn stateful_set(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
        },
    })
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

/// Whether the set has come to rest with so many pods.
fn is_done(all: &[Arc<Value>], name: &str, replicas: i64) -> bool {
    let Some(set) = find(all, name) else { return false };
    let status = &set["status"];
    let counts = ["replicas", "readyReplicas", "availableReplicas", "currentReplicas", "updatedReplicas"];
    status["observedGeneration"] == set["metadata"]["generation"]
        && status["currentRevision"] == status["updateRevision"]
        && counts.iter().all(|field| status[field].as_i64().unwrap_or_default() == replicas)
}

async fn names(cluster: &Cluster, resource: &'static registry::Resource) -> Vec<String> {
    let all = cluster.client.list::<Value>(resource, &ListParams::namespace("default")).await.unwrap();
    all.items.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_runs_rolls_goes_back_scales_and_takes_its_claims_along() {
    let cluster = Cluster::start().await;
    cluster.create(&STATEFUL_SETS, stateful_set("web", 3, "web:1")).await;
    cluster.until(&STATEFUL_SETS, "three pods", |all| is_done(all, "web", 3)).await;
    assert_eq!(names(&cluster, &PODS).await, ["web-0", "web-1", "web-2"]);
    assert_eq!(names(&cluster, &PERSISTENT_VOLUME_CLAIMS).await, ["data-web-0", "data-web-1", "data-web-2"]);
    let created = ["web-0", "web-1", "web-2"].map(|pod| format!("create Pod {pod} in StatefulSet web successful"));
    cluster
        .until(&registry::EVENTS, "its events", |all| {
            let told = |message: &String| all.iter().any(|event| event["message"] == message.as_str());
            created.iter().all(told) && told(&"create Claim data-web-2 Pod web-2 in StatefulSet web success".to_owned())
        })
        .await;
    let first = names(&cluster, &CONTROLLER_REVISIONS).await;
    assert_eq!(first.len(), 1);
    cluster
        .until(&PODS, "pods of the first revision", |all| {
            all.iter().all(|pod| pod["metadata"]["labels"]["controller-revision-hash"] == first[0].as_str())
        })
        .await;

    cluster.merge(&STATEFUL_SETS, "web", image("web:2")).await;
    cluster.until(&STATEFUL_SETS, "the rollout", |all| is_done(all, "web", 3)).await;
    cluster
        .until(&PODS, "new pods", |all| {
            all.len() == 3 && all.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "web:2")
        })
        .await;
    assert_eq!(names(&cluster, &CONTROLLER_REVISIONS).await.len(), 2);

    cluster.merge(&STATEFUL_SETS, "web", image("web:1")).await;
    cluster
        .until(&CONTROLLER_REVISIONS, "the first revision to be the newest", |all| {
            all.len() == 2 && find(all, &first[0]).unwrap()["revision"] == 3
        })
        .await;
    cluster
        .until(&STATEFUL_SETS, "the way back", |all| {
            is_done(all, "web", 3) && all[0]["status"]["currentRevision"] == first[0].as_str()
        })
        .await;

    cluster.merge(&STATEFUL_SETS, "web", json!({"spec": {"replicas": 1}})).await;
    cluster.until(&STATEFUL_SETS, "one pod", |all| is_done(all, "web", 1)).await;
    cluster.until(&PERSISTENT_VOLUME_CLAIMS, "one claim", |all| all.len() == 1).await;
    cluster.client.delete(&STATEFUL_SETS, Some("default"), "web", &DeleteOptions::default()).await.unwrap();
    for resource in [&PODS, &CONTROLLER_REVISIONS, &PERSISTENT_VOLUME_CLAIMS] {
        cluster.until(resource, "nothing", <[_]>::is_empty).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_pod_holds_up_those_after_it_and_a_deleted_one_comes_back_by_name() {
    let cluster = Cluster::start().await;
    let mut set = stateful_set("web", 3, "broken");
    cluster.create(&STATEFUL_SETS, set.clone()).await;
    cluster
        .until(&STATEFUL_SETS, "one pod", |all| find(all, "web").is_some_and(|set| set["status"]["replicas"] == 1))
        .await;
    assert_eq!(names(&cluster, &PODS).await, ["web-0"]);
    set = stateful_set("all", 3, "broken");
    set["spec"]["podManagementPolicy"] = "Parallel".into();
    cluster.create(&STATEFUL_SETS, set).await;
    cluster
        .until(&STATEFUL_SETS, "three pods", |all| find(all, "all").is_some_and(|set| set["status"]["replicas"] == 3))
        .await;

    let uid = |pods: &[Arc<Value>]| find(pods, "all-1").map(|pod| pod["metadata"]["uid"].clone());
    let before: Value = cluster.client.get(&PODS, Some("default"), "all-1").await.unwrap();
    cluster.client.delete(&PODS, Some("default"), "all-1", &DeleteOptions::default()).await.unwrap();
    cluster
        .until(&PODS, "another pod of that name", |all| uid(all).is_some_and(|uid| uid != before["metadata"]["uid"]))
        .await;
    let failed = json!({"status": {"phase": "Failed"}});
    let (kind, before) =
        (PatchKind::Merge, cluster.client.get::<Value>(&PODS, Some("default"), "all-2").await.unwrap());
    cluster.client.patch::<Value>(&PODS, Some("default"), "all-2", Some("status"), kind, &failed).await.unwrap();
    let uid = |pods: &[Arc<Value>]| find(pods, "all-2").map(|pod| pod["metadata"]["uid"].clone());
    cluster
        .until(&PODS, "another pod for the failed one", |all| {
            uid(all).is_some_and(|uid| uid != before["metadata"]["uid"])
        })
        .await;
    let message = "StatefulSet default/all is recreating failed Pod all-2";
    cluster.until(&registry::EVENTS, "the event", |all| all.iter().any(|event| event["message"] == message)).await;
}
