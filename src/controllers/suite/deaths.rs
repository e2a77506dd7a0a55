//! Controllers that are killed after each single write: whoever starts after them has the objects alone to go
//! on from, whatever they were about to do next.

use super::faults::{Most, template};
use super::{Cluster, deployment, find, is_done};
use crate::{Config, Context};
use async_trait::async_trait;
use bytes::Bytes;
use naru_api::registry::{
    CONTROLLER_REVISIONS, CRON_JOBS, DAEMON_SETS, DEPLOYMENTS, JOBS, PERSISTENT_VOLUME_CLAIMS, PODS, REPLICA_SETS,
    STATEFUL_SETS,
};
use naru_base::{Shutdown, spawn};
use naru_client::{Error, PatchKind, Request, Transport, WatchStream};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Mutex;

/// One life: it ends with its first write, and nobody hears the answer.
struct Life {
    /// Held while a write is under way, so that there is no second one; true once it is over.
    over: Mutex<bool>,
    end: Shutdown,
}

struct Mortal {
    inner: Arc<dyn Transport>,
    life: Arc<Life>,
}

#[async_trait]
impl Transport for Mortal {
    async fn send(&self, request: Request) -> Result<Bytes, Error> {
        // Events are not what anybody goes on from.
        if request.method == http::Method::GET || request.uri.contains("/events") {
            return self.inner.send(request).await;
        }
        let mut over = self.life.over.lock().await;
        if !*over {
            self.inner.send(request).await?;
            *over = true;
            self.life.end.trigger();
        }
        drop(over);
        std::future::pending().await
    }

    async fn watch(&self, request: Request) -> Result<WatchStream, Error> {
        self.inner.watch(request).await
    }
}

impl Cluster {
    /// Runs the controllers of these names, one short life after the other. Tells how many there were.
    fn run_mortal(&self, names: &'static [&'static str]) -> Arc<AtomicUsize> {
        let (api, parent, lives) = (self.api.clone(), self.shutdown.clone(), Arc::new(AtomicUsize::new(0)));
        let (counted, reads) = (lives.clone(), self.client.clone());
        spawn("lives", async move {
            loop {
                let end = parent.child();
                let life = Arc::new(Life { over: Mutex::new(false), end: end.clone() });
                let api = api.clone();
                let client_for = move |name: &str| {
                    let (user, groups) = crate::user_of(name);
                    let inner = api.in_process(&user, groups);
                    naru_client::Client::new(Arc::new(Mortal { inner, life: life.clone() }))
                };
                let informers = naru_client::Informers::new(reads.clone(), &end);
                let config = Config { client_for: Arc::new(client_for), ..config(informers) };
                for controller in crate::ALL.iter().filter(|controller| names.contains(&controller.name)) {
                    (controller.start)(&Context::new(&config, controller.name, &end));
                }
                end.triggered().await;
                if parent.is_triggered() {
                    return;
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        lives
    }
}

fn config(informers: naru_client::Informers) -> Config {
    Config {
        client_for: Arc::new(|_| unreachable!("it is replaced")),
        informers,
        ca_pem: String::new(),
        legacy_token: Arc::new(|_| None),
        cluster_cidr: "10.42.0.0/16".to_owned(),
        node_cidr_mask: 24,
        queues: naru_client::QueueMetrics::default(),
        signer: None,
    }
}

fn selector(app: &str) -> Value {
    json!({"matchLabels": {"app": app}})
}

/// Whether every field of the status has this count, for the present generation.
fn counts(all: &[Arc<Value>], name: &str, fields: &[&str], count: i64) -> bool {
    find(all, name).is_some_and(|object| {
        object["status"]["observedGeneration"] == object["metadata"]["generation"]
            && fields.iter().all(|field| object["status"][*field].as_i64().unwrap_or_default() == count)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_goes_on_from_the_objects_alone() {
    const KILLED: &[&str] = &["deployment-controller", "replicaset-controller"];
    let cluster = Cluster::without(KILLED).await;
    let most = Most::watch(&cluster);
    let lives = cluster.run_mortal(KILLED);
    cluster.create(&DEPLOYMENTS, deployment("web", 3, "web:1")).await;
    cluster.until(&DEPLOYMENTS, "the first rollout", |all| is_done(all, "web", 3)).await;
    let image = |image: &str| json!({"spec": deployment("web", 3, image)["spec"]});
    let rolled = |revision: &'static str| {
        move |all: &[Arc<Value>]| {
            let web = find(all, "web").unwrap();
            web["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == revision && is_done(all, "web", 3)
        }
    };
    cluster.merge(&DEPLOYMENTS, "web", image("web:2")).await;
    cluster.until(&DEPLOYMENTS, "the second rollout", rolled("2")).await;
    cluster.merge(&DEPLOYMENTS, "web", image("web:1")).await;
    cluster.until(&DEPLOYMENTS, "the way back", rolled("3")).await;
    cluster.merge(&DEPLOYMENTS, "web", json!({"spec": {"replicas": 1}})).await;
    cluster.until(&DEPLOYMENTS, "one pod", |all| is_done(all, "web", 1)).await;
    cluster.until(&PODS, "one pod", |all| all.len() == 1).await;
    cluster.until(&REPLICA_SETS, "two sets", |all| all.len() == 2).await;
    // A Deployment counts what its sets are to have: all in all there may be more for a moment.
    assert_eq!(most.of_one_set("web"), 3);
    assert!(lives.load(Ordering::Relaxed) > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn stateful_sets_and_daemon_sets_go_on_from_the_objects_alone() {
    const KILLED: &[&str] = &["statefulset-controller", "daemon-set-controller"];
    let cluster = Cluster::without(KILLED).await;
    cluster.add_node("n2").await;
    let most = Most::watch(&cluster);
    let lives = cluster.run_mortal(KILLED);
    let claims = json!([{"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
    let policy = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    let stateful = json!({"metadata": {"name": "db"}, "spec": {"replicas": 2, "serviceName": "db",
        "selector": selector("db"), "template": template("db", "db:1"), "volumeClaimTemplates": claims,
        "persistentVolumeClaimRetentionPolicy": policy}});
    cluster.create(&STATEFUL_SETS, stateful).await;
    let daemons = json!({"metadata": {"name": "log"}, "spec": {"selector": selector("log"), "template": template("log", "log:1")}});
    cluster.create(&DAEMON_SETS, daemons).await;
    let settled = async || {
        let stateful = ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas"];
        cluster.until(&STATEFUL_SETS, "the stateful set", |all| counts(all, "db", &stateful, 2)).await;
        let daemons = ["desiredNumberScheduled", "currentNumberScheduled", "numberAvailable", "updatedNumberScheduled"];
        cluster.until(&DAEMON_SETS, "the daemon set", |all| counts(all, "log", &daemons, 2)).await;
    };
    settled().await;
    for (resource, name) in [(&STATEFUL_SETS, "db"), (&DAEMON_SETS, "log")] {
        cluster.merge(resource, name, json!({"spec": {"template": template(name, "new:2")}})).await;
    }
    settled().await;
    let image = |pod: &Arc<Value>| pod["spec"]["containers"][0]["image"].clone();
    cluster.until(&PODS, "new pods", |all| all.len() == 4 && all.iter().all(|pod| image(pod) == "new:2")).await;
    cluster.until(&CONTROLLER_REVISIONS, "two revisions each", |all| all.len() == 4).await;
    cluster.merge(&STATEFUL_SETS, "db", json!({"spec": {"replicas": 1}})).await;
    cluster.until(&PERSISTENT_VOLUME_CLAIMS, "one claim", |all| all.len() == 1).await;
    assert_eq!((most.of("db"), most.of("log")), (2, 2));
    assert!(lives.load(Ordering::Relaxed) > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_cron_jobs_go_on_from_the_objects_alone() {
    const KILLED: &[&str] = &["job-controller", "cronjob-controller"];
    let cluster = Cluster::without(KILLED).await;
    let lives = cluster.run_mortal(KILLED);
    let job = |name: &str, image: &str, spec: Value| {
        let mut job = json!({"metadata": {"name": name}, "spec": spec});
        job["spec"]["template"] = json!({"metadata": {"labels": {"app": name}}, "spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}});
        job
    };
    let indexed = json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 0});
    cluster.create(&JOBS, job("sum", "job:ok", json!({"completions": 4, "parallelism": 2}))).await;
    cluster.create(&JOBS, job("parts", "job:fail-at-2", indexed)).await;
    let is = |all: &[Arc<Value>], name: &str, kind: &str| {
        let conditions = find(all, name).map(|job| &job["status"]["conditions"]);
        let conditions = conditions.and_then(Value::as_array);
        conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
    };
    cluster.until(&JOBS, "their ends", |all| is(all, "sum", "Complete") && is(all, "parts", "Failed")).await;
    let sum: Value = cluster.client.get(&JOBS, Some("default"), "sum").await.unwrap();
    assert_eq!((&sum["status"]["succeeded"], &sum["status"]["failed"]), (&json!(4), &Value::Null));
    let parts: Value = cluster.client.get(&JOBS, Some("default"), "parts").await.unwrap();
    assert_eq!((&parts["status"]["succeeded"], &parts["status"]["failed"]), (&json!(3), &json!(1)));
    assert_eq!(
        (&parts["status"]["completedIndexes"], &parts["status"]["failedIndexes"]),
        (&json!("0,1,3"), &json!("2"))
    );
    cluster
        .until(&PODS, "each pod made and counted once", |all| {
            let of = |app: &str| all.iter().filter(|pod| pod["metadata"]["labels"]["app"] == app).count();
            (of("sum"), of("parts")) == (4, 4) && all.iter().all(|pod| pod["metadata"]["finalizers"].is_null())
        })
        .await;

    // Many times have passed: one Job is made of the last of them, and one only.
    let template = job("tick", "job:ok", json!({}))["spec"].clone();
    let cron = json!({"metadata": {"name": "tick"}, "spec": {"schedule": "0 0 1 * *", "suspend": true,
        "jobTemplate": {"spec": template}}});
    cluster.create(&CRON_JOBS, cron).await;
    let status = json!({"status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}});
    let kind = PatchKind::Merge;
    cluster.client.patch::<Value>(&CRON_JOBS, Some("default"), "tick", Some("status"), kind, &status).await.unwrap();
    cluster.merge(&CRON_JOBS, "tick", json!({"spec": {"suspend": false}})).await;
    cluster
        .until(&CRON_JOBS, "its status", |all| {
            let status = &find(all, "tick").unwrap()["status"];
            status["lastSuccessfulTime"].is_string()
                && status["active"].is_null()
                && status["lastScheduleTime"] != "2026-01-01T00:00:00Z"
        })
        .await;
    cluster.until(&JOBS, "one Job of it", |all| all.len() == 3).await;
    assert!(lives.load(Ordering::Relaxed) > 20);
}
