//! Programs as people run them, in images made of Debian's packages: Redis, PostgreSQL, Python.

use crate::cluster::Cluster;

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: redis, labels: {app: redis}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: REGISTRY/redis:1
    readinessProbe: {exec: {command: [redis-cli, ping]}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: redis}
spec: {selector: {app: redis}, ports: [{port: 6379}]}
---
apiVersion: v1
kind: Pod
metadata: {name: postgres}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 70, runAsGroup: 70, fsGroup: 70}
  containers:
  - name: c
    image: REGISTRY/postgres:1
    volumeMounts: [{name: data, mountPath: /data}]
    readinessProbe: {exec: {command: [pg_isready, -h, /tmp]}, periodSeconds: 1}
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: python, labels: {app: python}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: c
    image: REGISTRY/python:1
    readinessProbe: {httpGet: {path: /, port: 8000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: python}
spec: {selector: {app: python}, ports: [{port: 8000}]}
";

#[test]
fn databases_and_languages_run() {
    let mut c = Cluster::prepare("databases", &[]);
    c.up();
    let registry = c.registry();
    for image in ["redis", "postgres", "python"] {
        c.push(image, "1");
    }
    c.eventually("the node is Ready", |c| {
        c.get("nodes", "{.items[*].status.conditions[?(@.type=='Ready')].status}") == "True"
    });
    c.apply(&PODS.replace("REGISTRY", registry));
    c.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s"]);
    let redis = |args: &[&str]| c.kubectl(&[&["exec", "redis", "--", "redis-cli"], args].concat());
    assert_eq!(redis(&["set", "key", "value"]), "OK\n");
    assert_eq!(redis(&["get", "key"]), "value\n");
    let sql = "create table t (n int); insert into t select generate_series(1, 1000); select sum(n) from t";
    let said = c.kubectl(&["exec", "postgres", "--", "psql", "-h", "/tmp", "-U", "postgres", "-qtAc", sql]);
    assert_eq!(said, "500500\n");
    // By name and Service, from a language's own library.
    let script = "import socket, urllib.request\n\
        print(urllib.request.urlopen('http://python:8000/').status)\n\
        s = socket.create_connection(('redis', 6379)); s.sendall(b'GET key\\r\\n'); print(s.recv(100))";
    let said = c.kubectl(&["exec", "python", "--", "python3", "-c", script]);
    assert_eq!(said, "200\nb'$5\\r\\nvalue\\r\\n'\n");
    c.remove();
}
