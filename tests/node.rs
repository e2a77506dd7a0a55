//! What people do to a running pod: debug it, resize it, look at what it uses, reach its host ports.

use crate::cluster::Cluster;

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 200m, memory: 64Mi}}
    resizePolicy:
    - {resourceName: cpu, restartPolicy: NotRequired}
    - {resourceName: memory, restartPolicy: RestartContainer}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: REGISTRY/nginx:1
    ports:
    - {containerPort: 80, hostPort: 8080}
    - {containerPort: 80, hostPort: 8081, hostIP: 192.0.2.10}
---
apiVersion: v1
kind: Pod
metadata: {name: flood}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c, 'i=0; while true; do i=$((i+1)); echo line $i; usleep 2000; done']
";

#[test]
fn a_running_pod_is_debugged_resized_measured_and_reached() {
    let mut c = Cluster::prepare(
        "node",
        &["--kubelet-arg=container-log-max-size=16Ki", "--kubelet-arg=container-log-max-files=3"],
    );
    c.up();
    let registry = c.registry();
    c.eventually("the node is Ready", |c| {
        c.get("nodes", "{.items[*].status.conditions[?(@.type=='Ready')].status}") == "True"
    });
    c.apply(&PODS.replace("REGISTRY", registry));
    c.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s"]);
    debugged(&c, registry);
    resized(&c);
    crate::resizing::play(&c, registry);
    host_ports(&c);
    logs_are_rotated(&c);
    measured(&c);
    streams_end(&mut c);
}

/// Whoever follows a log or types into a command is let go when the server ends, and the server does not wait.
fn streams_end(c: &mut Cluster) {
    use std::process::Stdio;
    let piped = |c: &Cluster, args: &[&str]| {
        c.kubectl_command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut following = piped(c, &["logs", "-f", "flood", "--tail=1"]);
    let mut typing = piped(c, &["exec", "-i", "app", "-c", "c", "--", "sh", "-c", "echo up; cat"]);
    for child in [&mut following, &mut typing] {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        assert!(!line.is_empty());
    }
    assert!(c.down("-TERM").success());
    for child in [&mut following, &mut typing] {
        c.eventually("the client has ended", |_| child.try_wait().unwrap().is_some());
    }
}

/// An ephemeral container sees the processes of the one that it looks at.
fn debugged(c: &Cluster, registry: &str) {
    let image = format!("--image={registry}/busybox:1");
    let args =
        ["debug", "-i", "app", &image, "--target=c", "--quiet", "--profile=general", "--container=look", "--", "sh"];
    // The client is let go when its input ends, whatever the container says after that.
    let output = c.feed(&args, "ps\nexit 3\n");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    c.eventually("it has ended", |c| {
        c.get("pod app", "{.status.ephemeralContainerStatuses[0].state.terminated.exitCode}") == "3"
    });
    assert!(c.kubectl(&["logs", "app", "-c", "look"]).contains("sleep 36000"));
    assert_eq!(c.get("pod app", "{.status.phase}"), "Running");
}

/// Without a restart for processors, with one for memory.
fn resized(c: &Cluster) {
    let resize = |limits: &str| {
        let patch = format!(r#"{{"spec":{{"containers":[{{"name":"c","resources":{{"limits":{limits}}}}}]}}}}"#);
        c.kubectl(&["patch", "pod", "app", "--subresource", "resize", "--patch", &patch]);
    };
    resize(r#"{"cpu":"300m"}"#);
    let status = "{.status.containerStatuses[0].resources.limits.cpu} {.status.containerStatuses[0].restartCount}";
    c.eventually("the processors are given", |c| c.get("pod app", status) == "300m 0");
    let id = c.get("pod app", "{.status.containerStatuses[0].containerID}").replace("naru://", "");
    let quota =
        format!("cat $(find /sys/fs/cgroup -path '*{id}*' -name cpu.cfs_quota_us -o -path '*{id}*' -name cpu.max)");
    let quota = String::from_utf8(c.host.sh(&quota).stdout).unwrap();
    // A machine without the controller has no file.
    assert!(quota.is_empty() || quota.starts_with("30000"), "{quota}");
    resize(r#"{"memory":"96Mi"}"#);
    let status = "{.status.containerStatuses[0].resources.limits.memory} {.status.containerStatuses[0].restartCount}";
    c.eventually("the memory is given by a restart", |c| c.get("pod app", status) == "96Mi 1");
    c.eventually("nothing is left to do", |c| !c.get("pod app", "{.status.conditions[*].type}").contains("Resize"));
}

fn host_ports(c: &Cluster) {
    for port in [8080, 8081] {
        let url = format!("http://192.0.2.10:{port}/");
        c.eventually("the host port answers", |c| c.curl(&url) == "Welcome to nginx!\n");
    }
    c.kubectl(&["delete", "pod", "web", "--timeout=60s"]);
    c.eventually("the host port is closed", |c| c.curl("http://192.0.2.10:8080/").is_empty());
}

/// Old files go, and one who follows misses nothing.
fn logs_are_rotated(c: &Cluster) {
    let command = c.kubectl_command(&["logs", "-f", "flood", "--tail=1"]).stdout(std::process::Stdio::piped()).spawn();
    let mut following = command.unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(following.stdout.take().unwrap()));
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        line.strip_prefix("line ").and_then(|n| n.parse::<u64>().ok()).unwrap_or_else(|| panic!("{line:?}"))
    };
    let logs = c.data_dir().join("agent/logs");
    let files =
        || String::from_utf8(c.host.sh(&format!("find {}/*flood* -name '0.log*'", logs.display())).stdout).unwrap();
    let mut last = next();
    let mut rotations = std::collections::BTreeSet::new();
    while rotations.len() < 2 {
        for _ in 0..500 {
            let line = next();
            assert_eq!(line, last + 1, "a line is missing");
            last = line;
        }
        let files = files();
        assert!(files.lines().count() <= 3, "{files}");
        rotations.extend(files.lines().filter(|file| !file.ends_with("0.log")).map(str::to_owned));
    }
    following.kill().unwrap();
    following.wait().unwrap();
}

/// `kubectl top`, and the node's own metrics for those who may see them.
fn measured(c: &Cluster) {
    c.eventually("kubectl top knows the pods", |c| {
        let output = c.try_kubectl(&["top", "pod", "--containers"]);
        String::from_utf8_lossy(&output.stdout).contains("flood")
    });
    assert!(c.kubectl(&["top", "node"]).contains("node-a"));
    assert!(c.kubectl(&["get", "--raw", "/api/v1/nodes/node-a/proxy/metrics/resource"]).contains("pod=\"flood\""));
    let token = c.kubectl(&["create", "token", "default"]);
    let fetch = |header: &str| {
        let command = format!("curl -sk -m 5 -H 'Authorization: {header}' https://127.0.0.1:10250/metrics/cadvisor");
        String::from_utf8(c.host.sh(&command).stdout).unwrap()
    };
    assert_eq!(fetch("Bearer nobody"), "Unauthorized");
    assert!(
        fetch(&format!("Bearer {}", token.trim())).starts_with("Forbidden (user=system:serviceaccount:default:default")
    );
    c.kubectl(&["create", "clusterrole", "reader", "--verb=get", "--resource=nodes/metrics"]);
    c.kubectl(&["create", "clusterrolebinding", "reader", "--clusterrole=reader", "--serviceaccount=default:other"]);
    c.kubectl(&["create", "serviceaccount", "other"]);
    let token = c.kubectl(&["create", "token", "other"]);
    assert!(fetch(&format!("Bearer {}", token.trim())).contains("container_memory_working_set_bytes{"));
}
