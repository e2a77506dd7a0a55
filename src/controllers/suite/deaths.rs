//! Controllers that are killed after each single write: whoever starts after them has the objects alone to go
//! on from, whatever they were about to do next.

use super::faults::{Most, template};
use super::housekeeping::node_request;
use super::{Cluster, PATIENCE, deployment, find, is_done};
use crate::{Config, Context};
use async_trait::async_trait;
use bytes::Bytes;
use naru_api::registry::{
    self, CERTIFICATE_SIGNING_REQUESTS, CLUSTER_ROLES, CONFIG_MAPS, CONTROLLER_REVISIONS, CRON_JOBS, DAEMON_SETS,
    DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, JOBS, NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS, PODS, REPLICA_SETS,
    REPLICATION_CONTROLLERS, RESOURCE_QUOTAS, SECRETS, SERVICE_ACCOUNTS, SERVICE_CIDRS, SERVICES, STATEFUL_SETS,
};
use naru_base::{Shutdown, spawn};
use naru_client::{DeleteOptions, Error, PatchKind, Propagation, Request, Transport, WatchStream};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
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
        // Events are not what anybody goes on from, and a review is a question.
        let is_write = |uri: &str| !uri.contains("/events") && !uri.contains("/subjectaccessreviews");
        if request.method == http::Method::GET || !is_write(&request.uri) {
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
        ca_pem: "CA".to_owned(),
        legacy_token: Arc::new(|token| Some(format!("token of {}", token.account))),
        cluster_cidr: "10.42.0.0/16".to_owned(),
        node_cidr_mask: 24,
        queues: naru_client::QueueMetrics::default(),
        metrics: Arc::default(),
        signer: Some(Arc::new(super::housekeeping::SelfSigner)),
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

#[tokio::test(flavor = "multi_thread")]
async fn replication_controllers_and_budgets_go_on_from_the_objects_alone() {
    const KILLED: &[&str] = &["replication-controller", "disruption-controller", "ttl-after-finished-controller"];
    let cluster = Cluster::without(KILLED).await;
    let most = Most::watch(&cluster);
    let lives = cluster.run_mortal(KILLED);
    let budgets = registry::by_kind("policy", "v1", "PodDisruptionBudget").unwrap();
    let budget = json!({"metadata": {"name": "rc"}, "spec": {"minAvailable": 2, "selector": selector("rc")}});
    cluster.create(budgets, budget).await;
    let controller = json!({"metadata": {"name": "rc"}, "spec": {"replicas": 4, "selector": {"app": "rc"},
        "template": template("rc", "rc:1")}});
    cluster.create(&REPLICATION_CONTROLLERS, controller).await;
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "job:ok"}]}});
    let job = json!({"metadata": {"name": "short"}, "spec": {"ttlSecondsAfterFinished": 0, "template": template}});
    cluster.create(&JOBS, job).await;
    let fields = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    cluster.until(&REPLICATION_CONTROLLERS, "four pods", |all| counts(all, "rc", &fields, 4)).await;
    let allowed = |count: i64| move |all: &[Arc<Value>]| counts(all, "rc", &["disruptionsAllowed"], count);
    cluster.until(budgets, "two that may go", allowed(2)).await;
    cluster.merge(&REPLICATION_CONTROLLERS, "rc", json!({"spec": {"replicas": 3}})).await;
    cluster.until(&REPLICATION_CONTROLLERS, "three pods", |all| counts(all, "rc", &fields, 3)).await;
    cluster.until(budgets, "one that may go", allowed(1)).await;
    cluster.until(&JOBS, "the Job to go", <[_]>::is_empty).await;
    assert_eq!(most.of("rc"), 4);
    assert!(lives.load(Ordering::Relaxed) > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_goes_whoever_is_killed() {
    const KILLED: &[&str] = &[
        "generic-garbage-collector",
        "namespace-controller",
        "pod-garbage-collector",
        "pvc-protection-controller",
        "service-cidrs-controller",
    ];
    let cluster = Cluster::without(KILLED).await;
    let lives = cluster.run_mortal(KILLED);
    let away = json!({"metadata": {"name": "away"}});
    cluster.client.create::<Value>(&NAMESPACES, None, &away).await.unwrap();
    let account = async {
        // Pods are not taken before it is there.
        while cluster.client.get::<Value>(&SERVICE_ACCOUNTS, Some("away"), "default").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, account).await.unwrap();
    for (resource, object) in [
        (&CONFIG_MAPS, json!({"metadata": {"name": "a"}})),
        (&SECRETS, json!({"metadata": {"name": "b"}})),
        (&SERVICES, json!({"metadata": {"name": "c"}, "spec": {"ports": [{"port": 80}]}})),
        (&PODS, json!({"metadata": {"name": "d"}, "spec": {"containers": [{"name": "c", "image": "x"}]}})),
    ] {
        cluster.client.create::<Value>(resource, Some("away"), &object).await.unwrap();
    }
    let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.99.0.0/24"]}});
    cluster.client.create::<Value>(&SERVICE_CIDRS, None, &range).await.unwrap();
    let ready = |all: &[Arc<Value>]| {
        find(all, "more").is_some_and(|range| {
            range["metadata"]["finalizers"].is_array() && range["status"]["conditions"][0]["status"] == "True"
        })
    };
    cluster.until(&SERVICE_CIDRS, "the range to be ready", ready).await;
    cluster.client.delete(&SERVICE_CIDRS, None, "more", &DeleteOptions::default()).await.unwrap();
    cluster.client.delete(&NAMESPACES, None, "away", &DeleteOptions::default()).await.unwrap();

    let owner = |object: &Value| {
        let meta = &object["metadata"];
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": meta["name"], "uid": meta["uid"],
            "blockOwnerDeletion": true}])
    };
    let map = async |name: String, owners: Value| -> Value {
        let map = json!({"metadata": {"name": name, "ownerReferences": owners}});
        cluster.client.create(&CONFIG_MAPS, Some("default"), &map).await.unwrap()
    };
    for (name, propagation) in
        [("back", Propagation::Background), ("fore", Propagation::Foreground), ("orphan", Propagation::Orphan)]
    {
        let top = map(name.to_owned(), json!([])).await;
        let middle = map(format!("{name}-1"), owner(&top)).await;
        map(format!("{name}-2"), owner(&middle)).await;
        let options = DeleteOptions::default().propagation(propagation);
        cluster.client.delete(&CONFIG_MAPS, Some("default"), name, &options).await.unwrap();
    }
    cluster
        .until(&CONFIG_MAPS, "what is orphaned alone to be left", |all| {
            let mut names: Vec<_> = all.iter().filter_map(|map| map["metadata"]["name"].as_str()).collect();
            names.sort_unstable();
            names == ["kube-root-ca.crt", "orphan-1", "orphan-2"]
                && find(all, "orphan-1").is_some_and(|map| map["metadata"]["ownerReferences"].is_null())
        })
        .await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.create(&PERSISTENT_VOLUME_CLAIMS, claim).await;
    cluster.client.delete(&PERSISTENT_VOLUME_CLAIMS, Some("default"), "data", &DeleteOptions::default()).await.unwrap();
    // A pod that never got a node, and whose object is kept from going at once.
    let pod = json!({"metadata": {"name": "lost"}, "spec": {"schedulerName": "nobody",
        "containers": [{"name": "c", "image": "x"}]}});
    cluster.create(&PODS, pod).await;
    cluster.client.delete(&PODS, Some("default"), "lost", &DeleteOptions::default()).await.unwrap();
    cluster.until(&PERSISTENT_VOLUME_CLAIMS, "the claim to go", <[_]>::is_empty).await;
    cluster.until(&PODS, "the pod to go", <[_]>::is_empty).await;
    cluster.until(&NAMESPACES, "the namespace to go", |all| find(all, "away").is_none()).await;
    cluster.until(&SERVICE_CIDRS, "the range to go", |all| find(all, "more").is_none()).await;
    assert!(lives.load(Ordering::Relaxed) > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_in_order_comes_out_right_whoever_is_killed() {
    const KILLED: &[&str] = &[
        "bootstrap-signer",
        "certificate-controller",
        "clusterrole-aggregation-controller",
        "endpoint-controller",
        "endpointslice-controller",
        "endpointslicemirroring-controller",
        "node-controller",
        "resourcequota-controller",
        "root-ca-cert-publisher",
        "service-controller",
        "token-cleaner",
        "tokens-controller",
        "ttl-controller",
    ];
    let cluster = Cluster::without(KILLED).await;
    let lives = cluster.run_mortal(KILLED);
    cluster.add_node("n2").await;
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let web = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]});
    cluster.create(&SERVICES, service("web", web)).await;
    cluster.create(&SERVICES, service("own", json!({"ports": [{"port": 80}]}))).await;
    let endpoints = json!({"metadata": {"name": "own"},
        "subsets": [{"addresses": [{"ip": "192.0.2.7"}, {"ip": "fd00::7"}], "ports": [{"port": 8080}]}]});
    cluster.create(&ENDPOINTS, endpoints).await;
    cluster.create(&DEPLOYMENTS, deployment("web", 2, "web:1")).await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "9", "services": "9"}}});
    cluster.create(&RESOURCE_QUOTAS, quota).await;
    let token = json!({"metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token"});
    cluster.create(&SECRETS, token).await;
    cluster.client.create::<Value>(&CERTIFICATE_SIGNING_REQUESTS, None, &node_request("n9")).await.unwrap();
    let rule = json!({"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]});
    let role = json!({"rules": [rule],
        "metadata": {"name": "widgets", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}});
    cluster.client.create::<Value>(&CLUSTER_ROLES, None, &role).await.unwrap();

    cluster.until(&DEPLOYMENTS, "the pods", |all| is_done(all, "web", 2)).await;
    let ready = |all: &[Arc<Value>], service: &str| {
        let of = all.iter().filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
        let endpoints = of.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
    };
    cluster
        .until(&ENDPOINT_SLICES, "two endpoints each, once", |all| {
            // One is the API server's own.
            all.len() == 4 && ready(all, "web") == 2 && ready(all, "own") == 2
        })
        .await;
    let addresses = |all: &[Arc<Value>]| {
        find(all, "web").and_then(|found| found["subsets"][0]["addresses"].as_array()).map_or(0, Vec::len)
    };
    cluster.until(&ENDPOINTS, "two addresses", |all| addresses(all) == 2).await;
    // One Service is the API server's own.
    let used = json!({"pods": "2", "services": "3"});
    cluster.until(&RESOURCE_QUOTAS, "the count", |all| find(all, "q").unwrap()["status"]["used"] == used).await;
    cluster.until(&SECRETS, "the token", |all| find(all, "t").unwrap()["data"]["token"].is_string()).await;
    cluster.until(&CONFIG_MAPS, "the authority", |all| find(all, "kube-root-ca.crt").is_some()).await;
    cluster
        .until(&CERTIFICATE_SIGNING_REQUESTS, "the certificate", |all| {
            find(all, "n9").is_some_and(|request| request["status"]["certificate"].is_string())
        })
        .await;
    let has = |role: &Value| role["rules"].as_array().is_some_and(|rules| rules.contains(&rule));
    cluster.until(&CLUSTER_ROLES, "its rule in view", |all| find(all, "view").is_some_and(|role| has(role))).await;
    cluster
        .until(&NODES, "nodes with ranges of their own and no taints", |all| {
            let range = |node: &Arc<Value>| node["spec"]["podCIDR"].as_str().map(ToOwned::to_owned);
            let ranges: std::collections::BTreeSet<_> = all.iter().filter_map(range).collect();
            let fine = |node: &Arc<Value>| {
                node["spec"]["taints"].is_null()
                    && node["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] == "0"
            };
            ranges.len() == 2 && all.iter().all(fine)
        })
        .await;
    assert!(lives.load(Ordering::Relaxed) > 20);
}
