//! The walking skeleton: a real image from a registry answers through its Service, and keeps doing
//! so through rollouts, deletions and restarts of the server.

use crate::cluster::Cluster;
use crate::programs::Program;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const HELLO: &str = "Welcome to nginx!\n";

/// A pod finds its account's token where libraries look for it, and one for somebody else where it asked for it.
fn tokens_are_mounted(c: &Cluster, registry: &str) {
    let dir = "/var/run/secrets/kubernetes.io/serviceaccount";
    let read = |pod: &str, path: &str| c.kubectl(&["exec", pod, "--", "cat", path]);
    assert_eq!(read("client", &format!("{dir}/namespace")), "default");
    assert_eq!(read("client", &format!("{dir}/ca.crt")), c.get("configmap kube-root-ca.crt", r"{.data.ca\.crt}"));
    let upstream = Program::new(c, "kubectl", "v35");
    let file = upstream.home.join("review.yaml");
    let review = |token: &str, audiences: &str, path: &str| {
        let head = "apiVersion: authentication.k8s.io/v1\nkind: TokenReview\n";
        std::fs::write(&file, format!("{head}spec: {{token: {token}, audiences: {audiences}}}\n")).unwrap();
        upstream.run(&format!("create -f {} -o jsonpath={path}", file.display()))
    };
    let token = read("client", &format!("{dir}/token"));
    assert_eq!(review(&token, "[]", "{.status.user.username}"), "system:serviceaccount:default:default");
    assert_eq!(review(&token, "[]", r"{.status.user.extra.authentication\.kubernetes\.io/pod-name[0]}"), "client");
    c.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: projected}}
spec:
  automountServiceAccountToken: false
  securityContext: {{runAsUser: 1000, fsGroup: 1000}}
  containers:
  - name: main
    image: {registry}/busybox:1
    command: [sleep, '3600']
    volumeMounts: [{{name: tokens, mountPath: /tokens}}]
  volumes:
  - name: tokens
    projected:
      sources: [{{serviceAccountToken: {{path: vault, audience: vault, expirationSeconds: 3600}}}}]
"
    ));
    c.kubectl(&["wait", "--for=condition=Ready", "pod/projected", "--timeout=120s"]);
    let token = read("projected", "/tokens/vault");
    assert_eq!(review(&token, "[vault]", "{.status.audiences[0]}"), "vault");
    assert_eq!(review(&token, "[]", "{.status.authenticated}"), "");
    assert!(!c.try_kubectl(&["exec", "projected", "--", "ls", dir]).status.success(), "it asked for no other token");
    c.kubectl(&["delete", "pod", "projected", "--grace-period=0", "--force"]);
}

/// nginx in two replicas with a readiness probe, behind a NodePort service.
fn web(registry: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: nginx
        image: {registry}/nginx:1
        ports: [{{containerPort: 80}}]
        readinessProbe: {{httpGet: {{path: /, port: 80}}, periodSeconds: 1}}
"
    )
}

#[test]
fn an_image_from_a_registry_answers_through_its_service() {
    let mut c = Cluster::start("walk");
    let registry = c.registry();

    // The issue's first lines, word for word.
    c.kubectl(&["create", "deployment", "web", &format!("--image={registry}/nginx:1"), "--replicas=2"]);
    c.kubectl(&["expose", "deployment", "web", "--port=80", "--type=NodePort"]);
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let ip = c.get("service web", "{.spec.clusterIP}");
    c.eventually("the ClusterIP answers from the host", |c| c.curl(&format!("http://{ip}/")) == HELLO);
    let port = c.get("service web", "{.spec.ports[0].nodePort}");
    assert_eq!(c.curl(&format!("http://192.0.2.10:{port}/")), HELLO, "NodePort on the node's address");

    // From a second pod, by its address.
    c.kubectl(&["run", "client", &format!("--image={registry}/busybox:1"), "--restart=Never", "--", "sleep", "3600"]);
    c.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=120s"]);
    assert_eq!(c.kubectl(&["exec", "client", "--", "wget", "-qO-", &format!("http://{ip}/")]), HELLO);
    // By its name, as libraries find it and as the search list completes it.
    assert_eq!(c.kubectl(&["exec", "client", "--", "wget", "-qO-", "http://web/"]), HELLO);
    let found = c.kubectl(&["exec", "client", "--", "nslookup", "web.default.svc.cluster.local"]);
    assert!(found.contains(&ip), "{found}");
    let reverse = c.kubectl(&["exec", "client", "--", "nslookup", &ip]);
    assert!(reverse.contains("web.default.svc.cluster.local"), "{reverse}");
    let dns = c.get("service kube-dns -n kube-system", "{.spec.clusterIP}");
    assert_eq!(dns, "10.43.0.10");
    let metrics = c.curl(&format!("http://{dns}:9153/metrics"));
    assert!(metrics.contains("coredns_dns_requests_total"), "{metrics}");

    // The API server's own Service, with the pod's own credentials.
    let answer = c.kubectl(&[
        "exec",
        "client",
        "--",
        "sh",
        "-c",
        "test -s /var/run/secrets/kubernetes.io/serviceaccount/token && nc $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo reached",
    ]);
    assert_eq!(answer, "reached\n");
    tokens_are_mounted(&c, registry);
    // Hairpin: a pod reaches itself through its own Service when it is the only one behind it.
    c.kubectl(&["scale", "deployment/web", "--replicas=1"]);
    c.eventually("one endpoint is left", |c| {
        c.get("endpointslices -l kubernetes.io/service-name=web", "{.items[*].endpoints[*].addresses[0]}")
            .split_whitespace()
            .count()
            == 1
            && c.get("pods -l app=web", "{.items[*].metadata.name}").split_whitespace().count() == 1
    });
    assert_eq!(c.kubectl(&["exec", "deployment/web", "--", "wget", "-qO-", &format!("http://{ip}/")]), HELLO);

    // Logs, exec, and what people look at.
    let logs = c.kubectl(&["logs", "deployment/web", "--tail=200"]);
    assert!(logs.contains("GET / HTTP/1.1"), "{logs}");
    assert_eq!(c.kubectl(&["exec", "client", "--", "sh", "-c", "echo $((6*7))"]), "42\n");
    let bytes: String = (0..300_000).map(|number| format!("{number}\n")).collect();
    let echoed = c.feed(&["exec", "-i", "client", "--", "cat"], &bytes);
    assert!(echoed.stdout == bytes.as_bytes(), "{} of {} bytes came back", echoed.stdout.len(), bytes.len());
    let failed = c.try_kubectl(&["exec", "client", "--", "sh", "-c", "exit 3"]);
    assert_eq!(failed.status.code(), Some(3));
    let wide = c.kubectl(&["get", "pods", "-o", "wide"]);
    assert!(wide.contains("NOMINATED NODE") && wide.contains("1/1") && wide.contains("node-a"), "{wide}");
    let described = c.kubectl(&["describe", "pod", "client"]);
    for event in ["Successfully assigned default/client to node-a", "Container created", "Container started"] {
        assert!(described.contains(event), "{event}: {described}");
    }
    assert!(c.kubectl(&["describe", "deployment", "web"]).contains("ScalingReplicaSet"));
    assert!(c.kubectl(&["describe", "node", "node-a"]).contains("KubeletReady"));
    assert!(c.kubectl(&["describe", "service", "web"]).contains(&ip));

    // Desired state: a deleted pod is replaced; scale up and to nothing.
    let pod = c.get("pods -l app=web", "{.items[0].metadata.name}");
    c.kubectl(&["delete", "pod", &pod, "--timeout=120s"]);
    c.eventually("the pod is replaced", |c| c.get("deployment web", "{.status.readyReplicas}") == "1");
    c.kubectl(&["scale", "deployment/web", "--replicas=5"]);
    c.eventually("five are ready", |c| c.get("deployment web", "{.status.readyReplicas}") == "5");
    c.kubectl(&["scale", "deployment/web", "--replicas=0"]);
    c.eventually("none is left", |c| c.get("pods -l app=web", "{.items[*].metadata.name}").is_empty());
    assert_eq!(c.curl(&format!("http://{ip}/")), "", "a service without endpoints refuses");

    c.kubectl(&["delete", "deployment,service,pod", "--all", "--timeout=120s"]);
    clean_removal(c);
}

/// After removal nothing is left on the machine.
fn clean_removal(mut c: Cluster) {
    c.remove();
    let data = c.data_dir().display().to_string();
    let mounts = String::from_utf8(c.host.sh("cat /proc/mounts").stdout).unwrap();
    assert!(!mounts.contains(&data), "mounts are left: {mounts}");
    let links = String::from_utf8(c.host.sh("ip -br link").stdout).unwrap();
    let links: Vec<_> = links.lines().filter_map(|line| line.split(['@', ' ']).next()).collect();
    assert_eq!(
        links.iter().filter(|name| !["lo", "uplink", "wire", "ifb0", "ifb1"].contains(name)).count(),
        0,
        "{links:?}"
    );
    let addresses = String::from_utf8(c.host.sh("ip -br addr").stdout).unwrap();
    assert!(!addresses.contains("10.43.0.10"), "the DNS address is left: {addresses}");
    let cgroups = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &c.host.name])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&cgroups.stdout), "", "cgroups are left");
    let processes = String::from_utf8(c.host.sh("ps -eo args").stdout).unwrap();
    assert!(
        !processes.lines().any(|line| line.contains(&data) && !line.contains("ps -eo")),
        "processes are left: {processes}"
    );
}

#[test]
fn a_rollout_fails_no_request() {
    let mut c = Cluster::start("roll");
    let registry = c.registry();
    c.apply(&web(registry));
    c.kubectl(&["expose", "deployment", "web", "--port=80"]);
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let ip = c.get("service web", "{.spec.clusterIP}");
    let url = format!("http://{ip}/");
    c.eventually("the service answers", |c| c.curl(&url) == HELLO);

    let done = Arc::new(AtomicBool::new(false));
    let (good, bad) = (AtomicU32::new(0), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let (c, url, good, bad) = (&c, &url, &good, &bad);
        let stop = done.clone();
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let output = c.host.command("curl").args(["-sS", "-m", "5", url]).output().unwrap();
                if output.stdout == HELLO.as_bytes() {
                    good.fetch_add(1, Ordering::Relaxed);
                } else {
                    bad.lock().unwrap().push(String::from_utf8_lossy(&output.stderr).into_owned());
                }
            }
        });
        let end = scope.spawn(|| {
            c.kubectl(&["set", "image", "deployment/web", &format!("nginx={registry}/nginx:2")]);
            c.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
            c.eventually("the old pods are gone", |c| {
                c.get("pods -l app=web", "{.items[*].spec.containers[0].image}")
                    == format!("{registry}/nginx:2 {registry}/nginx:2")
            });
        });
        let result = end.join();
        done.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    assert_eq!(bad.into_inner().unwrap(), Vec::<String>::new(), "failed requests during the rollout");
    assert!(good.load(Ordering::Relaxed) > 0);
    assert_eq!(c.get("deployment web", "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}"), "2");
}

/// What must not change over a restart of the server: pods, containers, restart counts.
fn identities(c: &Cluster) -> String {
    c.get(
        "pods",
        "{range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}",
    )
}

const TICKER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: ticker}
spec:
  containers:
  - name: ticker
    image: REGISTRY/busybox:1
    command: [sh, -c, 'i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.2; done']
";

#[test]
fn a_killed_server_harms_no_container_and_loses_no_write() {
    let mut c = Cluster::start("kill");
    let registry = c.registry();
    c.apply(&web(registry));
    c.apply(&TICKER.replace("REGISTRY", registry));
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    c.kubectl(&["wait", "--for=condition=Ready", "pod/ticker", "--timeout=120s"]);
    let before = identities(&c);
    assert_eq!(before.lines().count(), 3, "{before}");

    // Writers that note what was acknowledged, until the server is gone.
    let acknowledged = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let c = &c;
                scope.spawn(move || {
                    let mut names = Vec::new();
                    for number in 0.. {
                        let name = format!("load-{writer}-{number}");
                        if !c.try_kubectl(&["create", "configmap", &name, "--from-literal=a=b"]).status.success() {
                            return names;
                        }
                        names.push(name);
                    }
                    names
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(3));
        let pid = c.pid().to_string();
        assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(!acknowledged.is_empty());
    c.down("-9");
    c.up();
    let stored = c.get("configmaps", "{.items[*].metadata.name}");
    for name in &acknowledged {
        assert!(stored.split(' ').any(|have| have == name), "{name} was acknowledged and is lost");
    }
    c.eventually("the node reports", |c| c.get("pod ticker", "{.status.phase}") == "Running");
    let marker = c.kubectl(&["logs", "ticker", "--tail=1"]);
    c.eventually("the log goes on", |c| c.kubectl(&["logs", "ticker", "--tail=1"]) != marker);
    assert_eq!(identities(&c), before, "pods or containers changed over the restart");
    let ticks = c.kubectl(&["logs", "ticker"]);
    for (number, line) in ticks.lines().enumerate() {
        assert_eq!(line, format!("tick {}", number + 1), "the log has a gap");
    }
    assert_eq!(c.kubectl(&["exec", "ticker", "--", "echo", "again"]), "again\n");
    let ip = c.get("pods -l app=web", "{.items[0].status.podIP}");
    assert_eq!(c.curl(&format!("http://{ip}/")), HELLO);

    // SIGTERM: a clean end, and the same again.
    let status = c.down("-TERM");
    assert!(status.success(), "{status}: {}", c.log());
    c.up();
    c.eventually("exec works", |c| c.try_kubectl(&["exec", "ticker", "--", "echo", "again"]).status.success());
    assert_eq!(identities(&c), before);
}

#[test]
fn pods_come_back_after_a_reboot() {
    let mut c = Cluster::start("boot");
    let registry = c.registry();
    c.apply(&web(registry));
    c.kubectl(&["expose", "deployment", "web", "--port=80"]);
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let ip = c.get("service web", "{.spec.clusterIP}");
    // What a reboot leaves: the disk. Processes, mounts and interfaces are gone.
    c.down("-9");
    let killed = c.host.sh(&format!(
        "pkill -9 -f '[s]him .*{dir}' ; sleep 1; awk '$2 ~ \"{dir}\" {{print $2}}' /proc/mounts | sort -r | xargs -r umount -l; \
         for link in $(ip -br link | awk '{{print $1}}' | cut -d@ -f1 | grep -v -e '^lo$' -e uplink -e wire -e ifb); do ip link del $link; done",
        dir = c.data_dir().display()
    ));
    assert!(killed.status.success(), "{}", String::from_utf8_lossy(&killed.stderr));
    c.up();
    c.eventually("the service answers again", |c| c.curl(&format!("http://{ip}/")) == HELLO);
    c.eventually("both are ready", |c| c.get("deployment web", "{.status.readyReplicas}") == "2");
}
