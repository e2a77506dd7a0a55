//! A whole control plane over simulated nodes.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::{Config, EXIT_CODE, FAILS_AT, READY_AFTER, SILENT};
use async_trait::async_trait;
use base64::Engine;
use bytes::Bytes;
use naru_api::registry::{self, Resource};
use naru_apiserver::ApiServer;
use naru_base::Shutdown;
use naru_client::{
    Client, DeleteOptions, Error, Informer, Informers, ListParams, PatchKind, Request, Transport, WatchStream,
};
use naru_store::{Options, Store};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::Notify;

/// Longer than anything here takes; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(120);
const RENEWALS: Duration = Duration::from_millis(200);
/// Nothing may be written while leases are renewed so often: five seconds.
const QUIET: usize = 25;

type Writes = Arc<Mutex<Vec<String>>>;

/// Notes each write, but for leases and events.
struct Recording {
    inner: Arc<dyn Transport>,
    writes: Writes,
}

#[async_trait]
impl Transport for Recording {
    async fn send(&self, request: Request) -> Result<Bytes, Error> {
        let churn = request.uri.contains("/leases") || request.uri.contains("/events");
        if request.method != http::Method::GET && !churn {
            let body = String::from_utf8_lossy(&request.body);
            self.writes.lock().unwrap().push(format!("{} {} {body}", request.method, request.uri));
        }
        self.inner.send(request).await
    }

    async fn watch(&self, request: Request) -> Result<WatchStream, Error> {
        self.inner.watch(request).await
    }
}

struct Cluster {
    _dir: TempDir,
    client: Client,
    shutdown: Shutdown,
    writes: Writes,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

fn key_pem() -> String {
    let random = ring::rand::SystemRandom::new();
    let kind = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(key.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

impl Cluster {
    async fn start(nodes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("db"), Options::default()).unwrap();
        let shutdown = Shutdown::new();
        let config = naru_apiserver::Config::new(store, key_pem(), [192, 0, 2, 1].into());
        let api = ApiServer::new(config, shutdown.clone()).await.unwrap();
        let client = Client::new(api.in_process("admin", &["system:masters"]));
        let writes = Writes::default();
        let (of_clients, all) = (api.clone(), writes.clone());
        let as_user = Arc::new(move |name: &str, groups: &[&str]| {
            let inner = of_clients.in_process(name, groups);
            Client::new(Arc::new(Recording { inner, writes: all.clone() }))
        });
        let informers = Informers::new(client.clone(), &shutdown);
        let of_controllers = as_user.clone();
        let config = naru_controllers::Config {
            client_for: Arc::new(move |name| {
                let (user, groups) = naru_controllers::user_of(name);
                of_controllers(&user, groups)
            }),
            informers: informers.clone(),
            ca_pem: "CA".to_owned(),
            legacy_token: Arc::new(|_| None),
            cluster_cidr: "10.42.0.0/16".to_owned(),
            node_cidr_mask: 24,
            signer: None,
            queues: naru_client::QueueMetrics::default(),
            metrics: Arc::default(),
        };
        naru_controllers::start_all(config, &shutdown);
        naru_scheduler::start(as_user("system:kube-scheduler", &[]), &informers, Arc::default(), &shutdown);
        let config = Config {
            nodes,
            client_for: Arc::new(move |name| as_user(&format!("system:node:{name}"), &["system:nodes"])),
            informers,
            version: "v1.36.0".to_owned(),
            renew_every: RENEWALS,
        };
        crate::start(config, &shutdown);
        let cluster = Self { _dir: dir, client, shutdown, writes };
        cluster
            .until(&registry::NODES, "nodes", |all| {
                let usable =
                    |node: &Arc<Value>| node["spec"]["podCIDR"].is_string() && node["spec"]["taints"].is_null();
                all.len() == nodes && all.iter().all(usable)
            })
            .await;
        let account = |all: &[Arc<Value>]| all.iter().any(|object| object["metadata"]["name"] == "default");
        cluster.until(&registry::SERVICE_ACCOUNTS, "default account", account).await;
        cluster
    }

    async fn create(&self, resource: &Resource, object: Value) {
        self.client.create::<Value>(resource, Some("default"), &object).await.unwrap();
    }

    /// Waits until the objects of a resource, in the namespace `default` if they are in any, are as wished.
    async fn until(&self, resource: &'static Resource, what: &str, wish: impl Fn(&[Arc<Value>]) -> bool) {
        let shutdown = self.shutdown.child();
        let params = if resource.is_namespaced() { ListParams::namespace("default") } else { ListParams::all() };
        let informer: Informer<Value> = Informer::start(&self.client, resource, params, &shutdown);
        let outcome = tokio::time::timeout(PATIENCE, informer.until(wish)).await;
        shutdown.trigger();
        let seen = informer.list();
        assert!(outcome.is_ok(), "waited in vain for {what}: {}", serde_json::to_string_pretty(&seen).unwrap());
    }

    /// Waits until nothing has been written while the lease of a node was renewed a number of times.
    async fn until_quiet(&self, node: &str) {
        let leases = registry::by_kind("coordination.k8s.io", "v1", "Lease").unwrap();
        let params = ListParams::namespace("kube-node-lease").fields(format!("metadata.name={node}"));
        let informer: Informer<Value> = Informer::start(&self.client, leases, params, &self.shutdown);
        let renewed = Arc::new(Notify::new());
        let notifier = renewed.clone();
        informer.subscribe(move |_| notifier.notify_one());
        let written = || self.writes.lock().unwrap().len();
        let quiet = async {
            let (mut before, mut renewals) = (written(), 0);
            while renewals < QUIET {
                renewed.notified().await;
                renewals = if written() == before { renewals + 1 } else { 0 };
                before = written();
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, quiet).await;
        let writes = self.writes.lock().unwrap();
        assert!(outcome.is_ok(), "it goes on: {:#?}", &writes[writes.len().saturating_sub(20)..]);
    }
}

fn template(name: &str, annotations: &Value, restart: Option<&str>) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "example.com/i:1"}]});
    if let Some(policy) = restart {
        spec["restartPolicy"] = policy.into();
    }
    json!({"metadata": {"labels": {"app": name}, "annotations": annotations}, "spec": spec})
}

fn workload(name: &str, replicas: Option<u32>, more: Value) -> Value {
    let mut spec = more;
    if let Some(replicas) = replicas {
        spec["replicas"] = replicas.into();
    }
    spec["selector"] = json!({"matchLabels": {"app": name}});
    spec["template"] = template(name, &json!({}), None);
    json!({"metadata": {"name": name}, "spec": spec})
}

/// Whether the only object of a kind counts so many in a field of its status.
fn counts(all: &[Arc<Value>], field: &str, wanted: u64) -> bool {
    all.len() == 1 && all[0]["status"][field].as_u64() == Some(wanted)
}

fn pods_on<'a>(all: &'a [Arc<Value>], phase: &'a str) -> impl Iterator<Item = &'a Arc<Value>> {
    all.iter().filter(move |pod| pod["status"]["phase"] == phase)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_has_come_to_rest_writes_nothing_but_leases() {
    let cluster = Cluster::start(4).await;
    cluster.create(&registry::DEPLOYMENTS, workload("web", Some(5), json!({}))).await;
    cluster.create(&registry::STATEFUL_SETS, workload("db", Some(2), json!({"serviceName": "db"}))).await;
    cluster.create(&registry::DAEMON_SETS, workload("agent", None, json!({}))).await;
    let ends = json!({ EXIT_CODE: "0" });
    let job = json!({"completions": 3, "parallelism": 2, "template": template("job", &ends, Some("Never"))});
    cluster.create(&registry::JOBS, json!({"metadata": {"name": "job"}, "spec": job})).await;
    let cron = json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job}});
    cluster.create(&registry::CRON_JOBS, json!({"metadata": {"name": "cron"}, "spec": cron})).await;
    let service = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    cluster.create(&registry::SERVICES, json!({"metadata": {"name": "web"}, "spec": service})).await;
    let budget = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    let budgets = registry::by_kind("policy", "v1", "PodDisruptionBudget").unwrap();
    cluster.create(budgets, json!({"metadata": {"name": "web"}, "spec": budget})).await;
    let stuck = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "64"}}}]});
    cluster.create(&registry::PODS, json!({"metadata": {"name": "too-large"}, "spec": stuck})).await;

    cluster.until(&registry::DEPLOYMENTS, "the Deployment", |all| counts(all, "availableReplicas", 5)).await;
    cluster.until(&registry::STATEFUL_SETS, "the StatefulSet", |all| counts(all, "availableReplicas", 2)).await;
    cluster.until(&registry::DAEMON_SETS, "the DaemonSet", |all| counts(all, "numberAvailable", 4)).await;
    cluster.until(&registry::JOBS, "the Job", |all| counts(all, "succeeded", 3)).await;
    cluster.until(budgets, "the budget", |all| counts(all, "disruptionsAllowed", 4)).await;
    cluster.until_quiet("simulated-0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn annotations_say_how_pods_and_nodes_behave() {
    let cluster = Cluster::start(2).await;
    let fails = json!({ EXIT_CODE: "0", FAILS_AT: "1" });
    let job = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0,
        "template": template("job", &fails, Some("Never"))});
    cluster.create(&registry::JOBS, json!({"metadata": {"name": "job"}, "spec": job})).await;
    cluster
        .until(&registry::JOBS, "a Job of which one index fails", |all| {
            counts(all, "succeeded", 2) && all[0]["status"]["failedIndexes"] == "1"
        })
        .await;

    let pod = |name: &str, annotations: Value| {
        let mut pod = template(name, &annotations, None);
        pod["metadata"]["name"] = name.into();
        pod
    };
    cluster.create(&registry::PODS, pod("slow", json!({ READY_AFTER: "never" }))).await;
    cluster.create(&registry::PODS, pod("quick", json!({}))).await;
    let is_ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    cluster
        .until(&registry::PODS, "pods that run", |all| {
            let running: Vec<_> = pods_on(all, "Running").collect();
            let fits = |pod: &&Arc<Value>| {
                let in_range = pod["status"]["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.42."));
                in_range && is_ready(pod) == (pod["metadata"]["name"] == "quick")
            };
            running.len() == 2 && running.iter().all(fits)
        })
        .await;

    // A silent node does not even stop its pods.
    let all = cluster.client.list::<Value>(&registry::PODS, &ListParams::namespace("default")).await.unwrap();
    let quick = all.items.iter().find(|pod| pod["metadata"]["name"] == "quick").unwrap();
    let node = quick["spec"]["nodeName"].as_str().unwrap().to_owned();
    let silence = |value: Value| {
        let patch = json!({"metadata": {"annotations": {SILENT: value}}});
        let (client, node) = (cluster.client.clone(), node.clone());
        async move { client.patch::<Value>(&registry::NODES, None, &node, None, PatchKind::Merge, &patch).await.unwrap() }
    };
    silence("true".into()).await;
    let other = if node == "simulated-0" { "simulated-1" } else { "simulated-0" };
    let silent = |all: &[Arc<Value>]| all.iter().any(|n| n["metadata"]["annotations"][SILENT] == "true");
    cluster.until(&registry::NODES, "the silent node", silent).await;
    cluster.until_quiet(other).await;
    cluster.client.delete(&registry::PODS, Some("default"), "quick", &DeleteOptions::default().grace(1)).await.unwrap();
    cluster.until_quiet(other).await;
    let quick = cluster.client.get::<Value>(&registry::PODS, Some("default"), "quick").await.unwrap();
    assert!(quick["metadata"]["deletionTimestamp"].is_string());
    silence(Value::Null).await;
    cluster
        .until(&registry::PODS, "the pod to go", |all| !all.iter().any(|pod| pod["metadata"]["name"] == "quick"))
        .await;
}
