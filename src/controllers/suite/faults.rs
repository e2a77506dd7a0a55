//! A transport that fails: conflicts, time-outs before and after the deed, late and broken watches (so that
//! caches are stale). Everything has to come out right all the same.

use super::{Cluster, deployment, find, is_done};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use naru_api::registry::{
    DAEMON_SETS, DEPLOYMENTS, PERSISTENT_VOLUME_CLAIMS, PODS, REPLICATION_CONTROLLERS, STATEFUL_SETS,
};
use naru_api::status::Status;
use naru_client::{Client, DeleteOptions, Error, Informer, ListParams, Propagation, Request, Transport, WatchStream};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where all faults come from.
#[derive(Debug)]
pub(super) struct Faults {
    state: AtomicU64,
    /// Events get through: they are not sent again, and tests wait for them.
    spares_events: bool,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { state: AtomicU64::new(seed), spares_events: false })
    }

    /// The same ones in each run of a test, and others in other tests.
    pub(super) fn of_this_test() -> Arc<Self> {
        let mut name = DefaultHasher::new();
        std::thread::current().name().hash(&mut name);
        Arc::new(Self { state: AtomicU64::new(name.finish()), spares_events: true })
    }

    /// A number below `bound`.
    fn below(&self, bound: u64) -> u64 {
        // Splitmix: any two draws differ, whoever asks.
        let mut z = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// A client that meets them.
    pub(super) fn client(self: &Arc<Self>, inner: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Arc::new(Faulty { inner, faults: self.clone() })
    }
}

struct Faulty {
    inner: Arc<dyn Transport>,
    faults: Arc<Faults>,
}

fn timed_out() -> Error {
    Error::Connection("timed out".to_owned())
}

fn conflict() -> Error {
    Error::Status(Box::new(Status::conflict("", "things", "x", "the object has been modified")))
}

#[async_trait]
impl Transport for Faulty {
    async fn send(&self, request: Request) -> Result<Bytes, Error> {
        if self.faults.spares_events && request.uri.contains("/events") {
            return self.inner.send(request).await;
        }
        let read = request.method == http::Method::GET;
        match (read, self.faults.below(80)) {
            (_, 0) => return Err(timed_out()),
            (false, 1) if request.method != http::Method::POST => return Err(conflict()),
            (false, 2) => {
                // Done, but nobody hears of it.
                drop(self.inner.send(request).await);
                return Err(timed_out());
            }
            _ => {}
        }
        self.inner.send(request).await
    }

    async fn watch(&self, request: Request) -> Result<WatchStream, Error> {
        if self.faults.below(20) == 0 {
            return Err(timed_out());
        }
        let stream = self.inner.watch(request).await?;
        let (faults, left) = (self.faults.clone(), 60 + self.faults.below(400));
        let late = futures::stream::unfold((stream, left), move |(mut stream, left)| {
            let faults = faults.clone();
            async move {
                if left == 0 {
                    return None;
                }
                let event = stream.next().await?;
                match faults.below(40) {
                    0 => tokio::time::sleep(Duration::from_millis(faults.below(400))).await,
                    1..=10 => tokio::time::sleep(Duration::from_millis(faults.below(30))).await,
                    _ => {}
                }
                Some((event, (stream, left - 1)))
            }
        });
        Ok(late.boxed())
    }
}

/// The most pods of a workload that there have been at once, without those that were going.
pub(super) struct Most {
    counted: Arc<Mutex<HashMap<String, usize>>>,
    pods: Informer<Value>,
}

impl Most {
    pub(super) fn watch(cluster: &Cluster) -> Self {
        let client: &Client = &cluster.client;
        let pods: Informer<Value> = Informer::start(client, &PODS, ListParams::namespace("default"), &cluster.shutdown);
        let counted: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let (most, all) = (counted.clone(), pods.clone());
        pods.subscribe(move |_| {
            let mut now: HashMap<String, usize> = HashMap::new();
            for pod in all.list().iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
                let labels = &pod["metadata"]["labels"];
                let app = labels["app"].as_str().unwrap_or_default();
                *now.entry(app.to_owned()).or_default() += 1;
                if let Some(hash) = labels["pod-template-hash"].as_str() {
                    *now.entry(format!("{app}-{hash}")).or_default() += 1;
                }
            }
            let mut most = most.lock().unwrap();
            for (app, count) in now {
                let known = most.entry(app).or_default();
                *known = (*known).max(count);
            }
        });
        Self { counted, pods }
    }

    pub(super) fn of(&self, app: &str) -> usize {
        self.counted.lock().unwrap().get(app).copied().unwrap_or_default()
    }

    /// The same for that ReplicaSet of a Deployment that had most.
    pub(super) fn of_one_set(&self, app: &str) -> usize {
        let counted = self.counted.lock().unwrap();
        let sets = counted.iter().filter(|(key, _)| key.strip_prefix(app).is_some_and(|rest| rest.starts_with('-')));
        sets.map(|(_, count)| *count).max().unwrap_or_default()
    }

    /// Pods by workload that are there now.
    fn now(&self, app: &str) -> usize {
        self.pods.list().iter().filter(|pod| pod["metadata"]["labels"]["app"] == app).count()
    }
}

pub(super) fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// Whether an object's counts are all as wanted, and about its present generation.
fn shows(all: &[Arc<Value>], name: &str, fields: &[&str], count: i64) -> bool {
    find(all, name).is_some_and(|object| {
        object["status"]["observedGeneration"] == object["metadata"]["generation"]
            && fields.iter().all(|field| object["status"][field].as_i64().unwrap_or_default() == count)
    })
}

const STATEFUL: [&str; 4] = ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas"];
const DAEMONS: [&str; 4] =
    ["desiredNumberScheduled", "currentNumberScheduled", "numberAvailable", "updatedNumberScheduled"];

async fn settle(cluster: &Cluster, replicas: i64) {
    cluster.until(&DEPLOYMENTS, "the deployment", |all| is_done(all, "web", replicas)).await;
    cluster.until(&STATEFUL_SETS, "the stateful set", |all| shows(all, "db", &STATEFUL, 3)).await;
    cluster.until(&DAEMON_SETS, "the daemon set", |all| shows(all, "log", &DAEMONS, 2)).await;
    let counted = ["replicas", "readyReplicas", "availableReplicas"];
    cluster.until(&REPLICATION_CONTROLLERS, "the controller", |all| shows(all, "rc", &counted, 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_come_out_right_over_a_bad_connection() {
    let cluster = Cluster::over(Faults::new(7)).await;
    cluster.add_node("n2").await;
    let most = Most::watch(&cluster);
    cluster.create(&DEPLOYMENTS, deployment("web", 4, "web:1")).await;
    let selector = |app: &str| json!({"matchLabels": {"app": app}});
    let policy = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    let claims = json!([{"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
    let stateful = json!({"metadata": {"name": "db"}, "spec": {"replicas": 3, "serviceName": "db",
        "selector": selector("db"), "template": template("db", "db:1"), "volumeClaimTemplates": claims,
        "persistentVolumeClaimRetentionPolicy": policy}});
    cluster.create(&STATEFUL_SETS, stateful).await;
    let daemons = json!({"metadata": {"name": "log"}, "spec": {"selector": selector("log"), "template": template("log", "log:1")}});
    cluster.create(&DAEMON_SETS, daemons).await;
    let controller = json!({"metadata": {"name": "rc"}, "spec": {"replicas": 3, "selector": {"app": "rc"}, "template": template("rc", "rc:1")}});
    cluster.create(&REPLICATION_CONTROLLERS, controller).await;
    settle(&cluster, 4).await;

    let image = |app: &str| json!({"spec": {"template": template(app, "new:2")}});
    for (resource, name) in [(&DEPLOYMENTS, "web"), (&STATEFUL_SETS, "db"), (&DAEMON_SETS, "log")] {
        cluster.merge(resource, name, image(name)).await;
    }
    settle(&cluster, 4).await;
    cluster
        .until(&PODS, "new pods alone", |all| {
            let of = |app: &str| all.iter().filter(|pod| pod["metadata"]["labels"]["app"] == app).count();
            let old = all.iter().any(|pod| {
                let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
                image != "new:2" && image != "rc:1"
            });
            !old && [of("web"), of("db"), of("log"), of("rc")] == [4, 3, 2, 3]
        })
        .await;
    // Never one more than wanted. A Deployment that rolls counts what its sets are to have, as upstream does, and
    // one set may have its new pod before the other has let go of its old one; but no set has one too many.
    assert_eq!(["db", "log", "rc"].map(|app| most.of(app)), [3, 2, 3]);
    assert_eq!(most.of_one_set("web"), 4);
    assert_eq!(most.now("db"), 3);

    cluster.merge(&STATEFUL_SETS, "db", json!({"spec": {"replicas": 1}})).await;
    cluster.until(&PERSISTENT_VOLUME_CLAIMS, "one claim", |all| all.len() == 1).await;
    let options = DeleteOptions::default().propagation(Propagation::Background);
    for (resource, name) in
        [(&DEPLOYMENTS, "web"), (&STATEFUL_SETS, "db"), (&DAEMON_SETS, "log"), (&REPLICATION_CONTROLLERS, "rc")]
    {
        cluster.client.delete(resource, Some("default"), name, &options).await.unwrap();
    }
    for resource in [&PODS, &PERSISTENT_VOLUME_CLAIMS] {
        cluster.until(resource, "nothing", <[_]>::is_empty).await;
    }
    // Each of about twenty objects is written a few times; a loop would write thousands of times.
    let writes = cluster.writes.lock().unwrap().len();
    assert!(writes < 3000, "{writes} writes");
}
