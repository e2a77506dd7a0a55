//! Deployments from creation to garbage.

use super::{Cluster, deployment, find, is_done};
use naru_api::registry::{self, DEPLOYMENTS, PODS, REPLICA_SETS};
use naru_client::{DeleteOptions, ListParams};
use serde_json::{Value, json};

async fn messages(cluster: &Cluster, reason: &str) -> Vec<String> {
    let events = cluster.client.list::<Value>(&registry::EVENTS, &ListParams::namespace("default")).await.unwrap();
    let of = events.items.into_iter().filter(|event| event["reason"] == reason);
    of.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_runs_rolls_scales_and_leaves_nothing() {
    let cluster = Cluster::start().await;
    cluster.create(&DEPLOYMENTS, deployment("web", 3, "web:1")).await;
    cluster.until(&DEPLOYMENTS, "the first rollout", |all| is_done(all, "web", 3)).await;
    cluster
        .until(&registry::EVENTS, "pods assigned", |all| {
            let assigned = |event: &&_| {
                let event: &std::sync::Arc<Value> = event;
                event["message"].as_str().is_some_and(|text| text.starts_with("Successfully assigned default/web-"))
            };
            all.iter().filter(assigned).count() == 3
        })
        .await;
    let scaled = messages(&cluster, "ScalingReplicaSet").await;
    assert_eq!(scaled.len(), 1, "{scaled:?}");
    assert!(scaled[0].starts_with("Scaled up replica set web-") && scaled[0].ends_with(" from 0 to 3"), "{scaled:?}");

    let image = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "image": "web:2", "ports": [{"name": "http", "containerPort": 8080}]}]}}}});
    cluster.merge(&DEPLOYMENTS, "web", image).await;
    cluster
        .until(&DEPLOYMENTS, "the second rollout", |all| {
            let revision = &find(all, "web").unwrap()["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
            revision == "2" && is_done(all, "web", 3)
        })
        .await;
    cluster
        .until(&PODS, "new pods alone", |all| {
            all.len() == 3 && all.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "web:2")
        })
        .await;

    cluster.merge(&DEPLOYMENTS, "web", json!({"spec": {"replicas": 5}})).await;
    cluster.until(&DEPLOYMENTS, "five pods", |all| is_done(all, "web", 5)).await;
    cluster.merge(&DEPLOYMENTS, "web", json!({"spec": {"replicas": 0}})).await;
    cluster.until(&PODS, "no pods", <[_]>::is_empty).await;
    cluster.merge(&DEPLOYMENTS, "web", json!({"spec": {"replicas": 2}})).await;
    cluster.until(&DEPLOYMENTS, "two pods", |all| is_done(all, "web", 2)).await;

    let options = DeleteOptions::default();
    cluster.client.delete(&DEPLOYMENTS, Some("default"), "web", &options).await.unwrap();
    cluster.until(&REPLICA_SETS, "no replica sets", <[_]>::is_empty).await;
    cluster.until(&PODS, "no pods", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_is_replaced_and_a_broken_rollout_keeps_the_old_pods() {
    let cluster = Cluster::start().await;
    cluster.create(&DEPLOYMENTS, deployment("web", 4, "web:1")).await;
    cluster.until(&DEPLOYMENTS, "the rollout", |all| is_done(all, "web", 4)).await;
    let pods = cluster.client.list::<Value>(&PODS, &ListParams::namespace("default")).await.unwrap().items;
    let victim = pods[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.client.delete(&PODS, Some("default"), &victim, &DeleteOptions::default()).await.unwrap();
    cluster
        .until(&PODS, "a replacement", |all| {
            all.len() == 4 && find(all, &victim).is_none() && all.iter().all(|pod| pod["status"]["phase"] == "Running")
        })
        .await;

    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "broken"}]}}}});
    cluster.merge(&DEPLOYMENTS, "web", image).await;
    // Of four, one may be missing and one may be too many.
    cluster
        .until(&PODS, "a rollout that is stuck", |all| {
            let of = |image: &str| all.iter().filter(|pod| pod["spec"]["containers"][0]["image"] == image).count();
            (of("web:1"), of("broken")) == (3, 2)
        })
        .await;
    cluster
        .until(&DEPLOYMENTS, "its status", |all| {
            let status = &find(all, "web").unwrap()["status"];
            status["availableReplicas"] == 3 && status["updatedReplicas"] == 2
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_says_why_and_is_placed_when_there_is_room() {
    let cluster = Cluster::start().await;
    let pod = |name: &str, cpu: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": cpu}}}]}})
    };
    cluster.create(&PODS, pod("first", "6")).await;
    cluster.until(&PODS, "the first", |all| all.iter().any(|pod| pod["status"]["phase"] == "Running")).await;
    cluster.create(&PODS, pod("second", "6")).await;
    cluster
        .until(&PODS, "the second's condition", |all| {
            let conditions = find(all, "second").map(|pod| &pod["status"]["conditions"]);
            conditions.and_then(Value::as_array).into_iter().flatten().any(|condition| {
                condition["type"] == "PodScheduled"
                    && condition["reason"] == "Unschedulable"
                    && condition["message"].as_str().unwrap().starts_with(
                        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No pre",
                    )
            })
        })
        .await;
    cluster.client.delete(&PODS, Some("default"), "first", &DeleteOptions::default()).await.unwrap();
    cluster
        .until(&PODS, "the second to run", |all| {
            find(all, "second").is_some_and(|pod| pod["status"]["phase"] == "Running")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_asks_for_it_goes_back_by_itself() {
    let cluster = Cluster::start().await;
    let mut wanted = deployment("web", 2, "web:1");
    wanted["metadata"]["annotations"] = json!({"naru.io/rollback-on-failure": "true"});
    wanted["spec"]["progressDeadlineSeconds"] = 1.into();
    cluster.create(&DEPLOYMENTS, wanted).await;
    cluster
        .until(&DEPLOYMENTS, "the first rollout to be noted", |all| {
            let annotations = &find(all, "web").unwrap()["metadata"]["annotations"];
            is_done(all, "web", 2) && annotations["naru.io/last-good-replica-set"].is_string()
        })
        .await;
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "broken"}]}}}});
    cluster.merge(&DEPLOYMENTS, "web", image).await;
    cluster
        .until(&DEPLOYMENTS, "the way back", |all| {
            let web = find(all, "web").unwrap();
            let back = web["status"]["conditions"].as_array().unwrap().iter().any(|told| {
                told["type"] == "RolledBack"
                    && told["message"].as_str().unwrap().contains("(revision 2) has made no progress")
            });
            back && is_done(all, "web", 2) && web["spec"]["template"]["spec"]["containers"][0]["image"] == "web:1"
        })
        .await;
    cluster.until(&registry::EVENTS, "the event", |all| all.iter().any(|event| event["reason"] == "RolledBack")).await;
}
