//! Workloads on real pods, by upstream's `kubectl`: run to their ends, renewed, rolled back, drained; and rolled under
//! load without a request that fails.

use crate::cluster::{Cluster, PATIENCE};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const JOB: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: parts}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: c
        image: REGISTRY/busybox:1
        command: [sh, -c, 'echo part $JOB_COMPLETION_INDEX on $(hostname)']
";

const STATEFUL_SET: &str = "
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 1}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers: [{name: nginx, image: 'REGISTRY/nginx:1'}]
";

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {naru.io/rollback-on-failure: 'true'}}
spec:
  replicas: 2
  progressDeadlineSeconds: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: nginx, image: 'REGISTRY/nginx:1'}]
";

/// Pods that take their leave before they end, so that everybody has noticed by then.
const SERVED: &str = "
apiVersion: v1
kind: Service
metadata: {name: hello}
spec: {clusterIP: 10.43.255.2, selector: {app: hello}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: 2
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      terminationGracePeriodSeconds: 60
      containers:
      - name: hello
        image: naru.local/self
        args: [hello, --port=8080]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 30}}}
";

#[test]
fn a_rollout_under_load_fails_no_request() {
    let c = Cluster::start("load");
    c.apply(SERVED);
    c.kubectl(&["rollout", "status", "deployment/hello", "--timeout=120s"]);
    let address: SocketAddr = "10.43.255.2:80".parse().unwrap();
    let namespace = std::fs::File::open(c.host.netns()).unwrap();
    let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let client = || {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            // The proxy may be a moment behind the first endpoints.
            while request(address).is_err() && !over.load(Ordering::Relaxed) {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            let mut failures = Vec::new();
            while !over.load(Ordering::Relaxed) {
                failures.extend(request(address).err());
                asked.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            failures
        };
        let clients = [scope.spawn(client), scope.spawn(client)];
        let stop = Stop(&over);
        let more = |c: &Cluster| {
            let before = asked.load(Ordering::Relaxed);
            c.eventually("requests are answered", |_| asked.load(Ordering::Relaxed) > before + 20);
        };
        more(&c);
        // A rollout that is paused changes nothing; resumed it goes on, and the next one goes back.
        c.kubectl(&["rollout", "pause", "deployment/hello"]);
        c.kubectl(&["set", "env", "deployment/hello", "STAMP=two"]);
        more(&c);
        assert_eq!(c.get("rs", "{.items[*].status.replicas}"), "2");
        c.kubectl(&["rollout", "resume", "deployment/hello"]);
        c.kubectl(&["rollout", "status", "deployment/hello", "--timeout=120s"]);
        assert_eq!(c.get("pods -l app=hello", "{.items[*].spec.containers[0].env[0].value}").matches("two").count(), 2);
        c.kubectl(&["scale", "deployment/hello", "--replicas=3"]);
        c.kubectl(&["rollout", "restart", "deployment/hello"]);
        c.kubectl(&["rollout", "status", "deployment/hello", "--timeout=120s"]);
        let history = c.kubectl(&["rollout", "history", "deployment/hello"]);
        assert!(history.lines().any(|line| line.starts_with('3')), "{history}");
        c.kubectl(&["rollout", "undo", "deployment/hello", "--to-revision=1"]);
        c.kubectl(&["rollout", "status", "deployment/hello", "--timeout=120s"]);
        more(&c);
        drop(stop);
        for client in clients {
            let failures = client.join().unwrap();
            assert!(failures.is_empty(), "{failures:?} of {}", asked.load(Ordering::Relaxed));
        }
    });
    c.kubectl(&["cordon", "node-a"]);
    c.kubectl(&["scale", "deployment/hello", "--replicas=4"]);
    c.eventually("the fourth pod waits for a node", |c| {
        let told = c.get("pods -l app=hello", "{.items[*].status.conditions[?(@.type=='PodScheduled')].message}");
        told.contains("0/1 nodes are available: 1 node(s) were unschedulable.")
    });
    c.kubectl(&["uncordon", "node-a"]);
    c.kubectl(&["wait", "--for=jsonpath={.status.readyReplicas}=4", "deployment/hello", "--timeout=120s"]);
}

/// Ends the clients, also where something else fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One request over a connection of its own.
fn request(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(std::io::Error::other(answer)) }
}

#[test]
fn workloads_run_to_their_ends_are_renewed_rolled_back_and_drained() {
    let mut c = Cluster::start("work");
    let registry = c.registry();
    jobs(&c, registry);
    renewal(&c, registry);
    conflict(&c, registry);
    rollback(&c, registry);
    drain(&c);
}

fn jobs(c: &Cluster, registry: &str) {
    c.apply(&JOB.replace("REGISTRY", registry));
    c.kubectl(&["wait", "--for=condition=complete", "job/parts", "--timeout=120s"]);
    assert_eq!(c.get("job parts", "{.status.completedIndexes} {.status.succeeded}"), "0-2 3");
    let logs = c.kubectl(&["logs", "-l", "batch.kubernetes.io/job-name=parts"]);
    let mut lines: Vec<_> = logs.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["part 0 on parts-0", "part 1 on parts-1", "part 2 on parts-2"]);

    let image = format!("--image={registry}/busybox:1");
    c.kubectl(&["create", "cronjob", "tick", &image, "--schedule=0 0 1 1 *", "--", "echo", "ticked"]);
    c.kubectl(&["create", "job", "once", "--from=cronjob/tick"]);
    c.kubectl(&["wait", "--for=condition=complete", "job/once", "--timeout=120s"]);
    assert_eq!(c.kubectl(&["logs", "job/once"]), "ticked\n");
    c.kubectl(&["patch", "cronjob", "tick", "-p", r#"{"spec": {"schedule": "@every 1s"}}"#]);
    c.eventually("a Job of the schedule succeeds", |c| {
        !c.get("cronjob tick", "{.status.lastSuccessfulTime}").is_empty()
    });
    c.kubectl(&["delete", "cronjob/tick", "job/parts"]);
    c.eventually("their Jobs and pods are gone", |c| c.get("jobs,pods", "{.items[*].metadata.name}").is_empty());
}

fn renewal(c: &Cluster, registry: &str) {
    let images = |c: &Cluster| c.get("pods -l app=db", "{.items[*].spec.containers[0].image}");
    let expected = |tags: [u8; 2]| tags.map(|tag| format!("{registry}/nginx:{tag}")).join(" ");
    c.apply(&STATEFUL_SET.replace("REGISTRY", registry));
    c.kubectl(&["rollout", "status", "statefulset/db", "--timeout=120s"]);
    c.kubectl(&["set", "image", "statefulset/db", &format!("nginx={registry}/nginx:2")]);
    let told = c.kubectl(&["rollout", "status", "statefulset/db", "--timeout=120s"]);
    assert!(told.contains("partitioned roll out complete: 1 new pods have been updated..."), "{told}");
    assert_eq!(images(c), expected([1, 2]));
    c.kubectl(&[
        "patch",
        "statefulset",
        "db",
        "-p",
        r#"{"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}"#,
    ]);
    c.kubectl(&["rollout", "status", "statefulset/db", "--timeout=120s"]);
    assert_eq!(images(c), expected([2, 2]));
    assert_eq!(
        c.kubectl(&["rollout", "history", "statefulset/db"])
            .lines()
            .filter(|line| line.starts_with(['1', '2']))
            .count(),
        2
    );
    c.kubectl(&["rollout", "undo", "statefulset/db"]);
    c.kubectl(&["rollout", "status", "statefulset/db", "--timeout=120s"]);
    assert_eq!(images(c), expected([1, 1]));
    c.kubectl(&["scale", "statefulset/db", "--replicas=0"]);
}

/// Pods that pass the scheduler by are refused by the node where another one has their port.
fn conflict(c: &Cluster, registry: &str) {
    let spec = format!(
        "{{nodeName: node-a, terminationGracePeriodSeconds: 0, containers: [{{name: c, image: {registry}/busybox:1, \
         command: [sleep, '3600'], ports: [{{containerPort: 80, hostPort: 21017}}]}}]}}"
    );
    c.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: holder}}\nspec: {spec}"));
    c.kubectl(&["wait", "--for=condition=Ready", "pod/holder", "--timeout=120s"]);
    c.apply(&format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: late}}\nspec: {{replicas: 1, serviceName: db, \
         selector: {{matchLabels: {{app: late}}}}, template: {{metadata: {{labels: {{app: late}}}}, spec: {spec}}}}}"
    ));
    c.eventually("its pod is refused and made anew", |c| {
        let told = c.kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"]);
        told.contains("Predicate NodePorts failed")
            && told.contains("StatefulSet default/late is recreating failed Pod late-0")
    });
    c.kubectl(&["delete", "pod/holder"]);
    c.kubectl(&["rollout", "status", "statefulset/late", "--timeout=120s"]);
    c.kubectl(&["delete", "statefulset/late"]);
}

fn rollback(c: &Cluster, registry: &str) {
    c.apply(&DEPLOYMENT.replace("REGISTRY", registry));
    c.eventually("the first rollout is known to be good", |c| {
        c.get("deployment web", "{.metadata.annotations}").contains("naru.io/last-good-replica-set")
    });
    c.kubectl(&["set", "image", "deployment/web", &format!("nginx={registry}/absent:1")]);
    c.eventually("it has gone back by itself", |c| {
        let image = c.get("deployment web", "{.spec.template.spec.containers[0].image}");
        let told = c.get("deployment web", "{.status.conditions[?(@.type=='RolledBack')].message}");
        image == format!("{registry}/nginx:1") && told.starts_with("Rolled back to replica set")
    });
    c.kubectl(&["wait", "--for=condition=Available", "deployment/web", "--timeout=120s"]);
    c.eventually("two pods are left", |c| {
        c.get("deployment web", "{.status.replicas} {.status.availableReplicas}") == "2 2"
    });
}

fn drain(c: &Cluster) {
    let drain = |seconds: u8| {
        let wait = format!("--timeout={seconds}s");
        c.try_kubectl(&[
            "drain",
            "node-a",
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--pod-selector=app=web",
            &wait,
        ])
    };
    let placed = |c: &Cluster| c.get("pods -l app=web", "{.items[*].spec.nodeName}");
    c.kubectl(&["create", "pdb", "web", "--selector=app=web", "--min-available=2"]);
    let refused = drain(1);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "the budget allows nothing");
    assert!(said.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{said}");
    assert_eq!(c.get("node node-a", "{.spec.unschedulable}"), "true");
    assert_eq!(placed(c), "node-a node-a");
    c.kubectl(&["patch", "pdb", "web", "-p", r#"{"spec": {"minAvailable": 0}}"#]);
    let drained = drain(120);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    c.eventually("no pod is on the node", |c| placed(c).is_empty());
    c.kubectl(&["uncordon", "node-a"]);
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    c.kubectl(&["taint", "nodes", "node-a", "own=x:NoExecute"]);
    c.eventually("the taint has cleared the node", |c| placed(c).is_empty());
    c.kubectl(&["taint", "nodes", "node-a", "own:NoExecute-"]);
    c.kubectl(&["wait", "--for=condition=Available", "deployment/web", "--timeout=120s"]);
    c.eventually("its pods are back", |c| placed(c) == "node-a node-a");
}
