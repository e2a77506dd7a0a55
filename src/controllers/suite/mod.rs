//! All controllers and the scheduler together, over a whole API server and a node without containers.

#![allow(clippy::unwrap_used, reason = "tests")]

mod budgets;
mod daemonsets;
mod deaths;
mod deployments;
mod faults;
mod garbage;
mod housekeeping;
mod jobs;
mod nodes;
mod quotas;
mod scripted;
mod services;
mod statefulsets;
mod tokens;

pub(crate) use scripted::Scripted;

use crate::Config;
use bytes::Bytes;
use naru_api::meta::time::Timestamp;
use naru_api::registry::{self, Resource};
use naru_apiserver::ApiServer;
use naru_base::{Shutdown, spawn};
use naru_client::projections::PodView;
use naru_client::{Client, DeleteOptions, Informer, Informers, ListParams, ObjectKey, PatchKind, WorkQueue};
use naru_client::{Error, Request, Transport, WatchStream};
use naru_store::{Options, Store};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::sync::RwLock;

/// Longer than anything here takes; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A control plane over a store that goes with it.
struct Cluster {
    _dir: TempDir,
    api: ApiServer,
    client: Client,
    controllers: Shutdown,
    gate: Gate,
    shutdown: Shutdown,
    writes: Writes,
    faults: Option<Arc<faults::Faults>>,
    /// Controllers that are not run.
    left_out: &'static [&'static str],
}

/// What the controllers have written since they were started.
type Writes = Arc<Mutex<Vec<String>>>;

/// Lets the writes of controllers pass until these are ended as by `kill -9`: what was sent is carried out,
/// and nothing comes after it.
#[derive(Clone, Default)]
struct Gate(Arc<RwLock<bool>>);

impl Gate {
    /// Returns once nothing passes any more.
    async fn close(&self) {
        *self.0.write().await = true;
    }
}

/// Notes each write.
struct Recording {
    inner: Arc<dyn Transport>,
    writes: Writes,
    gate: Gate,
}

#[async_trait::async_trait]
impl Transport for Recording {
    async fn send(&self, request: Request) -> Result<Bytes, Error> {
        if request.method != http::Method::GET {
            let closed = self.gate.0.clone().read_owned().await;
            if *closed {
                return Err(Error::Connection("the controllers have ended".to_owned()));
            }
            let body = String::from_utf8_lossy(&request.body);
            self.writes.lock().unwrap().push(format!("{} {} {body}", request.method, request.uri));
            let inner = self.inner.clone();
            // A task of its own: a write goes on when its controller is dropped, and keeps the gate open.
            let sent = spawn("write", async move {
                let answer = inner.send(request).await;
                drop(closed);
                answer
            });
            return sent.await.unwrap();
        }
        self.inner.send(request).await
    }

    async fn watch(&self, request: Request) -> Result<WatchStream, Error> {
        self.inner.watch(request).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

fn key_pem() -> String {
    use base64::Engine;
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(key.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

impl Cluster {
    /// A cluster with one node that is ready. Its controllers have a bad connection, as in all tests that do
    /// not count what is written.
    async fn start() -> Self {
        Self::build(Some(faults::Faults::of_this_test()), &[]).await
    }

    /// One whose controllers have a good connection.
    async fn well_connected() -> Self {
        Self::build(None, &[]).await
    }

    /// One whose controllers meet these faults.
    async fn over(faults: Arc<faults::Faults>) -> Self {
        Self::build(Some(faults), &[]).await
    }

    /// One that some controllers are not run in.
    async fn without(left_out: &'static [&'static str]) -> Self {
        Self::build(None, left_out).await
    }

    async fn build(faults: Option<Arc<faults::Faults>>, left_out: &'static [&'static str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("db"), Options::default()).unwrap();
        let shutdown = Shutdown::new();
        let config = naru_apiserver::Config::new(store, key_pem(), [192, 0, 2, 1].into());
        let api = ApiServer::new(config, shutdown.clone()).await.unwrap();
        let client = Client::new(api.in_process("admin", &["system:masters"]));
        let informers = Informers::new(client.clone(), &shutdown);
        let (controllers, gate, writes) = (Shutdown::new(), Gate::default(), Writes::default());
        let mut cluster = Self { _dir: dir, api, client, controllers, gate, shutdown, writes, faults, left_out };
        cluster.start_controllers().await;
        let scheduler = Client::new(cluster.api.in_process("system:kube-scheduler", &[]));
        naru_scheduler::start(scheduler, &informers, Arc::default(), &cluster.shutdown);
        cluster.add_node("n1").await;
        cluster.run_pods(&informers);
        cluster.until(&registry::SERVICE_ACCOUNTS, "default account", |all| find(all, "default").is_some()).await;
        cluster
    }

    /// Starts the controllers, or starts them anew with empty caches.
    async fn start_controllers(&mut self) {
        self.controllers.trigger();
        self.gate.close().await;
        self.gate = Gate::default();
        self.controllers = self.shutdown.child();
        self.writes = Arc::default();
        let (api, writes, faults) = (self.api.clone(), self.writes.clone(), self.faults.clone());
        let gate = self.gate.clone();
        let over = move |inner: Arc<dyn Transport>| match &faults {
            Some(faults) => faults.client(inner),
            None => inner,
        };
        let reads = Client::new(over(self.client.transport().clone()));
        let client_for = move |name: &str| {
            let (user, groups) = crate::user_of(name);
            let inner = over(api.in_process(&user, groups));
            Client::new(Arc::new(Recording { inner, writes: writes.clone(), gate: gate.clone() }))
        };
        let config = Config {
            client_for: Arc::new(client_for),
            informers: Informers::new(reads, &self.controllers),
            ca_pem: "CA".to_owned(),
            legacy_token: {
                let api = self.api.clone();
                Arc::new(move |token| {
                    let crate::LegacyToken { namespace, secret, account, account_uid } = *token;
                    api.legacy_token(&naru_apiserver::LegacyToken { namespace, secret, account, account_uid })
                })
            },
            cluster_cidr: "10.42.0.0/16".to_owned(),
            node_cidr_mask: 24,
            queues: naru_client::QueueMetrics::default(),
            metrics: Arc::default(),
            signer: Some(Arc::new(housekeeping::SelfSigner)),
        };
        for controller in crate::ALL.iter().filter(|controller| !self.left_out.contains(&controller.name)) {
            (controller.start)(&crate::Context::new(&config, controller.name, &self.controllers));
        }
    }

    async fn add_node(&self, name: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        self.client.create::<Value>(&registry::NODES, None, &node).await.unwrap();
        let now = crate::objects::now_text();
        let status = json!({"status": {
            "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }});
        let (client, kind) = (&self.client, PatchKind::Merge);
        client.patch::<Value>(&registry::NODES, None, name, Some("status"), kind, &status).await.unwrap();
        self.renew_lease(name);
    }

    /// Keeps a node alive, however long the test takes.
    fn renew_lease(&self, node: &str) {
        let (client, shutdown, node) = (self.client.clone(), self.shutdown.clone(), node.to_owned());
        spawn("lease", async move {
            let (resource, namespace) = (&registry::LEASES, Some("kube-node-lease"));
            let lease = json!({"metadata": {"name": node}, "spec": {"holderIdentity": node}});
            drop(client.create::<Value>(resource, namespace, &lease).await);
            loop {
                let renewed = json!({"spec": {"renewTime": Timestamp::from_system(SystemTime::now()).to_micros()}});
                drop(client.patch::<Value>(resource, namespace, &node, None, PatchKind::Merge, &renewed).await);
                if shutdown.guard(tokio::time::sleep(Duration::from_secs(10))).await.is_none() {
                    return;
                }
            }
        });
    }

    /// Plays the node: pods that are bound turn Ready, terminating ones go.
    fn run_pods(&self, informers: &Informers) {
        let (client, pods, queue) = (self.client.clone(), informers.pods(), WorkQueue::<ObjectKey>::new());
        let adder = queue.clone();
        pods.subscribe(move |change| adder.add(change.key.clone()));
        let shutdown = self.shutdown.clone();
        let next_ip = AtomicU32::new(1);
        spawn("node", async move {
            while let Some(key) = shutdown.guard(queue.next()).await {
                if let Some(pod) = pods.get_key(&key) {
                    let number = next_ip.fetch_add(1, Ordering::Relaxed);
                    play(&client, &pod, &format!("10.42.0.{}", number % 250)).await;
                }
                queue.done(&key);
            }
        });
    }

    async fn create(&self, resource: &Resource, object: Value) {
        self.client.create::<Value>(resource, Some("default"), &object).await.unwrap();
    }

    async fn merge(&self, resource: &Resource, name: &str, patch: Value) {
        let kind = PatchKind::Merge;
        self.client.patch::<Value>(resource, Some("default"), name, None, kind, &patch).await.unwrap();
    }

    /// Waits until the objects of a resource in the namespace `default` are as wished.
    async fn until(&self, resource: &'static Resource, what: &str, wish: impl Fn(&[Arc<Value>]) -> bool) {
        let shutdown = self.shutdown.child();
        let informer: Informer<Value> =
            Informer::start(&self.client, resource, ListParams::namespace("default"), &shutdown);
        let outcome = tokio::time::timeout(PATIENCE, informer.until(wish)).await;
        shutdown.trigger();
        let seen = informer.list();
        assert!(outcome.is_ok(), "waited in vain for {what}: {}", serde_json::to_string_pretty(&seen).unwrap());
    }
}

async fn play(client: &Client, pod: &PodView, ip: &str) {
    let meta = &pod.metadata;
    let resource = &registry::PODS;
    if pod.spec.node_name.is_empty() {
        return;
    }
    // The pod may have gone meanwhile, so outcomes do not matter.
    if meta.is_deleting() {
        let options = DeleteOptions::default().uid(&meta.uid).grace(0);
        drop(client.delete(resource, meta.namespace(), &meta.name, &options).await);
    } else if pod.status.phase == "Pending" {
        let now = crate::objects::now_text();
        let broken = pod.spec.containers.iter().any(|container| container.image.contains("broken"));
        let ready = if broken { "False" } else { "True" };
        let status = json!({"metadata": {"uid": meta.uid}, "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}],
        }});
        let status = ended(pod, &now).unwrap_or(status);
        let kind = PatchKind::Strategic;
        drop(client.patch::<Value>(resource, meta.namespace(), &meta.name, Some("status"), kind, &status).await);
    }
}

/// The status of a pod whose image says how it ends.
fn ended(pod: &PodView, now: &str) -> Option<Value> {
    let index = pod.metadata.labels.get("batch.kubernetes.io/job-completion-index");
    let outcome = pod.spec.containers.iter().find_map(|container| container.image.strip_prefix("job:"))?;
    let fails = match outcome.strip_prefix("fail-at-") {
        Some(at) => index.is_some_and(|index| index == at),
        None => outcome == "fail",
    };
    let phase = if fails { "Failed" } else { "Succeeded" };
    let end = json!({"terminated": {"exitCode": i32::from(fails), "finishedAt": now, "startedAt": now}});
    Some(json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": phase, "containerStatuses": [
        {"name": "c", "image": "x", "imageID": "x", "ready": false, "restartCount": 0, "state": end}]}}))
}

fn find<'a>(all: &'a [Arc<Value>], name: &str) -> Option<&'a Arc<Value>> {
    all.iter().find(|object| object["metadata"]["name"] == name)
}

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image,
                    "ports": [{"name": "http", "containerPort": 8080}]}]},
            },
        },
    })
}

/// Whether a Deployment says that it is done, with so many pods.
fn is_done(all: &[Arc<Value>], name: &str, replicas: i64) -> bool {
    let Some(deployment) = find(all, name) else { return false };
    let status = &deployment["status"];
    let count = |field: &str| status[field].as_i64().unwrap_or_default();
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"]
            .iter()
            .all(|field| count(field) == replicas)
}
