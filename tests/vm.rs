//! A machine with a kernel of its own: a stock modular one with version 2 of cgroups and AppArmor, where nothing
//! has loaded br_netfilter. What the test's own machine may not have is proved here.

use crate::cluster::Cluster;

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1
    command: [sleep, '36000']
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: busybox:1
    command: [sh, -c, 'dd if=/dev/zero of=/dev/null bs=200M count=1; echo survived']
    resources: {limits: {memory: 32Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: 'nginx:1'}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: confined}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {appArmorProfile: {type: Localhost, localhostProfile: naru-test}}
  containers:
  - name: c
    image: busybox:1
    command: [sh, -c, 'cat /proc/self/attr/current; touch /tmp/x || echo denied; touch /x && echo allowed; sleep 36000']
  - name: free
    image: busybox:1
    securityContext: {appArmorProfile: {type: Unconfined}}
    command: [sh, -c, 'cat /proc/self/attr/current; sleep 36000']
---
apiVersion: v1
kind: Pod
metadata: {name: unknown}
spec:
  containers:
  - name: c
    image: busybox:1
    securityContext: {appArmorProfile: {type: Localhost, localhostProfile: nobody-loaded-it}}
---
apiVersion: v1
kind: Pod
metadata: {name: bomb}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1
    command: [sh, -c, 'b() { b | b & }; b; sleep 36000']
";

#[test]
fn a_stock_machine_with_version_2_of_cgroups() {
    let c = Cluster::machine("vm");
    c.eventually("the node is Ready", |c| {
        c.get("nodes", "{.items[*].status.conditions[?(@.type=='Ready')].status}") == "True"
    });
    c.apply(PODS);
    c.kubectl(&["wait", "--for=condition=Ready", "pod/limited", "pod/web", "pod/confined", "--timeout=300s"]);
    limits_and_resize(&c);
    devices(&c);
    services(&c);
    apparmor(&c);
    c.eventually("the kernel's victim is named", |c| {
        c.get("pod hog", "{.status.containerStatuses[0].state.terminated.reason}") == "OOMKilled"
    });
    assert_eq!(c.get("pod hog", "{.status.containerStatuses[0].state.terminated.exitCode}"), "137");
    fork_bomb(&c);
}

fn inside(c: &Cluster, pod: &str, script: &str) -> String {
    c.kubectl(&["exec", pod, "-c", "c", "--", "sh", "-c", script])
}

fn limits_and_resize(c: &Cluster) {
    let read = "cd /sys/fs/cgroup && cat memory.max cpu.max memory.swap.max";
    assert_eq!(inside(c, "limited", read), "67108864\n20000 100000\n0\n");
    let patch = r#"{"spec":{"containers":[{"name":"c","resources":{
        "requests":{"cpu":"100m","memory":"32Mi"},"limits":{"cpu":"300m","memory":"96Mi"}}}]}}"#;
    c.kubectl(&["patch", "pod", "limited", "--subresource", "resize", "-p", patch]);
    c.eventually("the limits are wider", |c| inside(c, "limited", read) == "100663296\n30000 100000\n0\n");
    assert_eq!(c.get("pod limited", "{.status.containerStatuses[0].restartCount}"), "0");
    let reasons = |c: &Cluster| c.get("events --field-selector involvedObject.name=limited", "{.items[*].reason}");
    c.eventually("the resize is told", |c| reasons(c).contains("ResizeCompleted"));
}

/// A container makes device nodes as it likes, and opens none of the machine's.
fn devices(c: &Cluster) {
    let number = inside(c, "limited", "cat /sys/block/vda/dev");
    let (major, minor) = number.trim().split_once(':').unwrap();
    let open = format!("mknod /dev/disk b {major} {minor} && dd if=/dev/disk of=/dev/null count=1 2>&1; true");
    let said = inside(c, "limited", &open.replace("mknod", "busybox mknod"));
    assert!(said.contains("Operation not permitted"), "{said}");
    assert_eq!(inside(c, "limited", "echo x > /dev/null && head -c 3 /dev/urandom | wc -c"), "3\n");
}

/// Pods of one node reach each other and themselves through a Service although bridged traffic passes no filter.
fn services(c: &Cluster) {
    let loaded = inside(c, "limited", "cat /proc/modules");
    assert!(loaded.contains("nf_tables"), "{loaded}");
    assert!(!loaded.contains("br_netfilter"), "the machine is not a stock one");
    let address = c.get("service web", "{.spec.clusterIP}");
    let fetch = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 10 {address} 80");
    for pod in ["limited", "web"] {
        c.eventually("the Service answers", |c| {
            let said = c.try_kubectl(&["exec", pod, "--", "sh", "-c", &fetch]);
            String::from_utf8_lossy(&said.stdout).contains("Welcome to nginx!")
        });
    }
}

fn apparmor(c: &Cluster) {
    c.eventually("both have said what they are", |c| {
        let said = |container: &str| c.kubectl(&["logs", "confined", "-c", container]);
        said("c").contains("allowed") && !said("free").is_empty()
    });
    assert_eq!(c.kubectl(&["logs", "confined", "-c", "c"]).lines().next(), Some("naru-test (enforce)"));
    assert!(c.kubectl(&["logs", "confined", "-c", "c"]).contains("denied\nallowed"));
    assert_eq!(c.kubectl(&["logs", "confined", "-c", "free"]).trim(), "unconfined");
    assert_eq!(inside(c, "confined", "cat /proc/self/attr/current"), "naru-test (enforce)\n");
    c.eventually("a profile that is not there is missed", |c| {
        let message = c.get("pod unknown", "{.status.containerStatuses[0].state.waiting.message}");
        message == "apparmor profile not found nobody-loaded-it"
    });
}

/// Whoever forks without end is stopped by a limit; the node and the others do not notice.
fn fork_bomb(c: &Cluster) {
    assert_eq!(inside(c, "limited", "echo $((6 * 7))"), "42\n");
    assert_eq!(c.get("nodes", "{.items[*].status.conditions[?(@.type=='Ready')].status}"), "True");
    c.kubectl(&["delete", "pod", "bomb", "--timeout=120s"]);
    assert_eq!(c.get("pod web", "{.status.phase}"), "Running");
}
