//! The life of an object of every kind, as clients lead it: create, read, list, watch, patch, update, status, delete,
//! deletecollection.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{FutureExt, StreamExt};
use naru_client::transport::EventType;
use std::panic::AssertUnwindSafe;

fn template() -> Value {
    json!({ "metadata": { "labels": { "app": "a" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } })
}

fn workload() -> Value {
    json!({ "spec": { "replicas": 1, "selector": { "matchLabels": { "app": "a" } }, "template": template() } })
}

fn job_template() -> Value {
    let mut template = template();
    template["spec"]["restartPolicy"] = "Never".into();
    json!({ "spec": { "template": template } })
}

/// What is said beside the metadata, by the collection.
fn objects() -> Vec<(&'static str, Value)> {
    let daemon = json!({ "spec": { "selector": { "matchLabels": { "app": "a" } }, "template": template() } });
    let deployment = workload();
    let rc = json!({ "spec": { "selector": { "app": "a" }, "template": template() } });
    let claim =
        json!({ "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } });
    let volume = json!({ "spec": { "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" }, "hostPath": { "path": "/a" } } });
    let scaled = json!({ "spec": { "maxReplicas": 2, "scaleTargetRef": { "kind": "Deployment", "name": "a", "apiVersion": "apps/v1" } } });
    let regarding = json!({ "kind": "Pod", "name": "a", "namespace": "default" });
    let now = "2026-01-01T00:00:00.000000Z";
    let mut event =
        json!({ "regarding": regarding, "eventTime": now, "action": "Act", "reason": "Why", "type": "Normal" });
    event["reportingController"] = "example.com/c".into();
    event["reportingInstance"] = "c-1".into();
    let flow =
        json!({ "spec": { "matchingPrecedence": 9000, "priorityLevelConfiguration": { "name": "global-default" } } });
    let level = json!({ "spec": { "type": "Limited", "limited": { "limitResponse": { "type": "Reject" } } } });
    let ingress = json!({ "spec": { "defaultBackend": { "service": { "name": "a", "port": { "number": 80 } } } } });
    let csr = json!({ "spec": { "request": STANDARD.encode(super::admission::CSR), "signerName": "example.com/s", "usages": ["digital signature"] } });
    let attached =
        json!({ "spec": { "attacher": "d.example.com", "nodeName": "n", "source": { "persistentVolumeName": "a" } } });
    let endpoints = json!({ "subsets": [{ "addresses": [{ "ip": "10.0.0.24" }], "ports": [{ "port": 80 }] }] });
    let limits = json!({ "spec": { "limits": [{ "type": "Container", "max": { "cpu": "2" } }] } });
    let parent = json!({ "resource": "services", "namespace": "default", "name": "a" });
    let in_default =
        |path: &str| -> &'static str { Box::leak(path.replace("NS", "namespaces/default").into_boxed_str()) };
    vec![
        (in_default("/api/v1/NS/configmaps"), json!({ "data": { "k": "v" } })),
        (in_default("/api/v1/NS/secrets"), json!({ "stringData": { "k": "v" } })),
        (in_default("/api/v1/NS/serviceaccounts"), json!({})),
        (in_default("/api/v1/NS/podtemplates"), json!({ "template": template() })),
        (in_default("/api/v1/NS/pods"), template()),
        (in_default("/api/v1/NS/services"), json!({ "spec": { "ports": [{ "port": 80 }] } })),
        (in_default("/api/v1/NS/endpoints"), endpoints),
        (in_default("/api/v1/NS/limitranges"), limits),
        (in_default("/api/v1/NS/resourcequotas"), json!({ "spec": { "hard": { "pods": "1" } } })),
        (in_default("/api/v1/NS/replicationcontrollers"), rc),
        (in_default("/api/v1/NS/persistentvolumeclaims"), claim),
        (in_default("/apis/events.k8s.io/v1/NS/events"), event),
        (in_default("/apis/apps/v1/NS/deployments"), deployment),
        (in_default("/apis/apps/v1/NS/replicasets"), workload()),
        (in_default("/apis/apps/v1/NS/statefulsets"), workload()),
        (in_default("/apis/apps/v1/NS/daemonsets"), daemon),
        (in_default("/apis/apps/v1/NS/controllerrevisions"), json!({ "revision": 1, "data": { "a": 1 } })),
        (in_default("/apis/batch/v1/NS/jobs"), job_template()),
        (
            in_default("/apis/batch/v1/NS/cronjobs"),
            json!({ "spec": { "schedule": "* * * * *", "jobTemplate": job_template() } }),
        ),
        (in_default("/apis/autoscaling/v2/NS/horizontalpodautoscalers"), scaled.clone()),
        (in_default("/apis/autoscaling/v1/NS/horizontalpodautoscalers"), scaled),
        (in_default("/apis/policy/v1/NS/poddisruptionbudgets"), json!({ "spec": { "minAvailable": 1 } })),
        (in_default("/apis/coordination.k8s.io/v1/NS/leases"), json!({ "spec": { "holderIdentity": "h" } })),
        (in_default("/apis/discovery.k8s.io/v1/NS/endpointslices"), json!({ "addressType": "IPv4", "endpoints": [] })),
        (in_default("/apis/networking.k8s.io/v1/NS/ingresses"), ingress),
        (in_default("/apis/networking.k8s.io/v1/NS/networkpolicies"), json!({ "spec": { "podSelector": {} } })),
        (in_default("/apis/storage.k8s.io/v1/NS/csistoragecapacities"), json!({ "storageClassName": "a" })),
        (in_default("/apis/rbac.authorization.k8s.io/v1/NS/roles"), json!({ "rules": [] })),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", json!({ "rules": [] })),
        ("/api/v1/persistentvolumes", volume),
        ("/api/v1/nodes", json!({})),
        ("/apis/networking.k8s.io/v1/ingressclasses", json!({ "spec": { "controller": "example.com/c" } })),
        ("/apis/networking.k8s.io/v1/servicecidrs", json!({ "spec": { "cidrs": ["10.96.0.0/24"] } })),
        (
            "/apis/networking.k8s.io/v1/ipaddresses",
            json!({ "metadata": { "name": "10.96.1.1" }, "spec": { "parentRef": parent } }),
        ),
        ("/apis/storage.k8s.io/v1/storageclasses", json!({ "provisioner": "example.com/p" })),
        ("/apis/storage.k8s.io/v1/csidrivers", json!({ "spec": {} })),
        ("/apis/storage.k8s.io/v1/csinodes", json!({ "spec": { "drivers": [] } })),
        ("/apis/storage.k8s.io/v1/volumeattachments", attached),
        (
            "/apis/storage.k8s.io/v1/volumeattributesclasses",
            json!({ "driverName": "d.example.com", "parameters": { "a": "b" } }),
        ),
        ("/apis/node.k8s.io/v1/runtimeclasses", json!({ "handler": "h" })),
        ("/apis/scheduling.k8s.io/v1/priorityclasses", json!({ "value": 5 })),
        ("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", flow),
        ("/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", level),
        ("/apis/certificates.k8s.io/v1/certificatesigningrequests", csr),
        ("/apis/resource.k8s.io/v1/deviceclasses", json!({ "spec": {} })),
    ]
}

struct Life<'a> {
    server: &'a Server,
    collection: &'static str,
    name: String,
    object: Value,
}

impl Life<'_> {
    fn one(&self) -> String {
        format!("{}/{}", self.collection, self.name)
    }

    async fn patched(&self, uri: &str, body: Value) -> Value {
        let answer = self.server.merge(uri, body).await;
        assert_eq!(answer.code, 200, "PATCH {uri}: {}", answer.body);
        answer.body
    }

    async fn listed(&self, query: &str) -> Vec<Value> {
        let collection = match query.strip_prefix("all") {
            Some(_) => self.collection.replace("/namespaces/default", ""),
            None => self.collection.to_owned(),
        };
        let list = self.server.get(&format!("{collection}?labelSelector=life%3D{}", self.name)).await.ok();
        list["items"].as_array().unwrap().clone()
    }

    async fn run(&self) {
        let created = self.server.post(self.collection, self.object.clone()).await;
        assert_eq!(created.code, 201, "POST {}: {}", self.collection, created.body);
        let created = created.body;
        assert!(created["metadata"]["uid"].is_string() && created["metadata"]["creationTimestamp"].is_string());
        assert_eq!(self.server.get(&self.one()).await.ok()["metadata"]["uid"], created["metadata"]["uid"]);
        assert_eq!(self.listed("").await.len(), 1, "{}", self.collection);
        assert_eq!(self.listed("all").await.len(), 1, "{}", self.collection);
        let version = created["metadata"]["resourceVersion"].as_str().unwrap();
        let uri = format!("{}?watch=1&labelSelector=life%3D{}&resourceVersion={version}", self.collection, self.name);
        let mut watch = self.server.watch(&uri, "application/json").await;

        self.patched(&self.one(), json!({ "metadata": { "labels": { "patched": "yes" } } })).await;
        let mut changed = self.server.get(&self.one()).await.ok();
        assert_eq!(changed["metadata"]["labels"]["patched"], "yes", "{}", self.collection);
        changed["metadata"]["annotations"]["updated"] = "yes".into();
        let updated = self.server.put(&self.one(), changed).await;
        assert_eq!(updated.code, 200, "PUT {}: {}", self.one(), updated.body);
        assert_eq!(updated.body["metadata"]["annotations"]["updated"], "yes");
        // Controllers inside the server may write in between.
        loop {
            let event = watch.next().await.unwrap().unwrap();
            assert_eq!(event.kind, EventType::Modified, "{}", self.collection);
            let seen: Value = serde_json::from_slice(&event.object).unwrap();
            if seen["metadata"]["annotations"]["updated"] == "yes" {
                break;
            }
        }
        self.status().await;
        self.end(&updated.body).await;
        let mut kinds = Vec::new();
        while kinds.last() != Some(&EventType::Deleted) {
            kinds.push(watch.next().await.unwrap().unwrap().kind);
        }
    }

    /// The status, where there is one of its own.
    async fn status(&self) {
        let uri = format!("{}/status", self.one());
        if self.server.get(&uri).await.code == 404 {
            return;
        }
        let patched = self.patched(&uri, json!({ "metadata": { "annotations": { "patchedstatus": "true" } } })).await;
        if METADATA_STAYS.iter().any(|plural| self.collection.ends_with(plural)) {
            assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], Value::Null, "{uri}");
            return;
        }
        assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true", "{uri}");
        let mut status = self.server.get(&uri).await.ok();
        status["metadata"]["annotations"]["updatedstatus"] = "true".into();
        let updated = self.server.put(&uri, status).await;
        assert_eq!(updated.code, 200, "PUT {uri}: {}", updated.body);
        assert_eq!(updated.body["metadata"]["annotations"]["updatedstatus"], "true", "{uri}");
    }

    /// Deletes it by name, and once more with its collection.
    async fn end(&self, last: &Value) {
        let gone =
            self.server.delete(&format!("{}?propagationPolicy=Background&gracePeriodSeconds=0", self.one())).await;
        assert_eq!(gone.code, 200, "DELETE {}: {}", self.one(), gone.body);
        self.let_go().await;
        assert_eq!(self.server.get(&self.one()).await.code, 404, "{}", self.one());
        let created = self.server.post(self.collection, self.object.clone()).await;
        assert_eq!(created.code, 201, "POST {} again: {}", self.collection, created.body);
        assert_ne!(created.body["metadata"]["uid"], last["metadata"]["uid"]);
        let query = format!("labelSelector=life%3D{}&propagationPolicy=Background&gracePeriodSeconds=0", self.name);
        // Services are the one kind without; they go one by one.
        if self.server.delete(&format!("{}?{query}", self.collection)).await.code == 405 {
            self.server.delete(&self.one()).await.ok();
        }
        self.let_go().await;
        assert!(self.listed("").await.is_empty(), "{}", self.collection);
    }

    /// Takes away what others would have to let go of first.
    async fn let_go(&self) {
        if self.server.get(&self.one()).await.code == 200 {
            self.patched(&self.one(), json!({ "metadata": { "finalizers": null } })).await;
        }
    }
}

/// Kinds whose status is written without touching the metadata.
const METADATA_STAYS: [&str; 3] = ["volumeattachments", "flowschemas", "prioritylevelconfigurations"];

#[tokio::test]
async fn objects_of_every_kind_live_and_die() {
    let server = Server::start().await;
    let mut failed = Vec::new();
    for (collection, mut object) in objects() {
        let name = object["metadata"]["name"].as_str().unwrap_or("life").to_owned();
        let name = if collection.ends_with("csidrivers") { "life.example.com".to_owned() } else { name };
        object["metadata"]["name"] = name.as_str().into();
        object["metadata"]["labels"]["life"] = name.as_str().into();
        let life = Life { server: &server, collection, name, object };
        if AssertUnwindSafe(life.run()).catch_unwind().await.is_err() {
            failed.push(collection);
        }
    }
    assert_eq!(failed, [""; 0]);
}

#[tokio::test]
async fn reviews_answer_for_users_groups_and_oneself() {
    let server = Server::start().await;
    let role = json!({ "metadata": { "name": "r" }, "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }] });
    server.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", role).await.ok();
    let binding = json!({ "metadata": { "name": "b" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r" },
        "subjects": [{ "kind": "ServiceAccount", "name": "default", "namespace": "default" }] });
    server.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await.ok();
    let account = "system:serviceaccount:default:default";
    let asked = json!({ "namespace": "default", "verb": "list", "resource": "pods", "version": "v1" });
    let review = json!({ "spec": { "user": account, "resourceAttributes": asked } });
    let uri = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    assert_eq!(server.post(uri, review.clone()).await.ok()["status"]["allowed"], true);
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    assert_eq!(server.post(local, review).await.ok()["status"]["allowed"], true);
    let other = json!({ "spec": { "user": "e2e", "resourceAttributes": asked } });
    assert_eq!(server.post(uri, other).await.ok()["status"]["allowed"], false);
}

#[tokio::test]
async fn a_volumes_status_tells_when_its_phase_changed() {
    let server = Server::start().await;
    let volume = json!({ "metadata": { "name": "v" }, "spec": { "accessModes": ["ReadWriteOnce"],
        "capacity": { "storage": "1Gi" }, "hostPath": { "path": "/a" } } });
    server.post("/api/v1/persistentvolumes", volume).await.ok();
    let uri = "/api/v1/persistentvolumes/v/status";
    let past = "2001-01-01T00:00:00Z";
    let told = json!({ "status": { "phase": "Bound", "lastPhaseTransitionTime": past } });
    assert_eq!(server.merge(uri, told).await.ok()["status"]["lastPhaseTransitionTime"], past);
    let same = server.merge(uri, json!({ "status": { "phase": "Bound", "message": "m" } })).await.ok();
    assert_eq!(same["status"]["lastPhaseTransitionTime"], past);
    let changed = server.merge(uri, json!({ "status": { "phase": "Released" } })).await.ok();
    assert_ne!(changed["status"]["lastPhaseTransitionTime"], past);
}

#[tokio::test]
async fn pods_are_warned_about_once_and_workloads_when_they_change() {
    let server = Server::start().await;
    let mut pod = pod("p");
    pod["spec"]["containers"][0]["ports"] =
        json!([{ "name": "a", "containerPort": 80 }, { "name": "b", "containerPort": 80 }]);
    assert_eq!(server.post(PODS, pod.clone()).await.warnings.len(), 1);
    let labels = json!({ "metadata": { "labels": { "x": "y" } } });
    assert!(server.merge(&format!("{PODS}/p"), labels.clone()).await.warnings.is_empty());
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let mut deployment = workload();
    deployment["metadata"]["name"] = "d".into();
    deployment["spec"]["template"]["spec"] = pod["spec"].clone();
    let one = format!("{deployments}/d");
    assert_eq!(server.post(deployments, deployment).await.warnings.len(), 1);
    assert!(server.merge(&one, labels).await.warnings.is_empty());
    assert_eq!(server.merge(&one, json!({ "spec": { "replicas": 2 } })).await.warnings.len(), 1);
}
