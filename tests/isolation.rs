//! How far pods are from the machine: users of their own, other runtimes, mounts that travel or do not.

use crate::cluster::Cluster;

const PODS: &str = "
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: other}
handler: runc
overhead: {podFixed: {cpu: 50m, memory: 8Mi}}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: nowhere}
handler: nowhere
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {one: first}
---
apiVersion: v1
kind: Pod
metadata: {name: mapped}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 4242}
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c]
    args:
    - |
      echo map: $(cat /proc/self/uid_map) / $(cat /proc/self/gid_map)
      echo me: $(busybox id -u) root: $(busybox stat -c %u:%g /bin)
      for path in /data /settings/one /token/token /memory /dev/shm /etc/hosts; do
        echo $path $(busybox stat -L -c '%u:%g %a' $path)
      done
      echo config: $(cat /settings/one) image: $(cat /web/var/www/html/index.html)
      echo written >/data/file && echo part >/part/file && echo kept >/memory/file && echo root >/root.txt && echo all written
      busybox chown 33:33 /data/file && echo given away
      busybox mknod /data/device b 8 0 || echo no devices
      echo 1 2>/dev/null >/proc/sys/kernel/panic || echo no parameters
      echo message >/dev/termination-log
      echo done
      exec sleep 36000
    securityContext: {seccompProfile: {type: RuntimeDefault}}
    resources: {limits: {memory: 64Mi, cpu: 200m}}
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: data, mountPath: /part, subPath: part}
    - {name: memory, mountPath: /memory}
    - {name: settings, mountPath: /settings}
    - {name: token, mountPath: /token}
    - {name: web, mountPath: /web}
  - name: user
    image: REGISTRY/busybox:1
    command: [sh, -c, 'cat /data/file || sleep 0.2; echo me: $(busybox id -u); exec sleep 36000']
    securityContext: {runAsUser: 1000, runAsGroup: 1000, capabilities: {drop: [ALL]}, allowPrivilegeEscalation: false}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - {name: data, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: settings, configMap: {name: settings}}
  - {name: token, projected: {sources: [{serviceAccountToken: {path: token}}]}}
  - {name: web, image: {reference: 'REGISTRY/nginx:1'}}
---
apiVersion: v1
kind: Pod
metadata: {name: neighbour}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  shareProcessNamespace: true
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c, 'cat /proc/self/uid_map; exec sleep 36000']
---
apiVersion: v1
kind: Pod
metadata: {name: giver-mapped}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c, 'busybox mkdir -p /host/mapped && busybox mount -t tmpfs given /host/mapped && echo here >/host/mapped/file; cat /host/mapped/file; exec sleep 36000']
    securityContext: {privileged: true}
    volumeMounts: [{name: host, mountPath: /host, mountPropagation: Bidirectional}]
  volumes:
  - {name: host, hostPath: {path: SHARED}}
---
apiVersion: v1
kind: Pod
metadata: {name: classed}
spec:
  runtimeClassName: other
  terminationGracePeriodSeconds: 10
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c, 'trap \"echo stopping; exit 0\" TERM; echo ready; while true; do sleep 0.1; done']
    resources: {requests: {memory: 16Mi}, limits: {memory: 64Mi, cpu: 200m}}
    readinessProbe: {exec: {command: [cat, /settings/one]}, periodSeconds: 1}
    volumeMounts: [{name: settings, mountPath: /settings}]
  volumes:
  - {name: settings, configMap: {name: settings}}
---
apiVersion: v1
kind: Pod
metadata: {name: nowhere}
spec:
  runtimeClassName: nowhere
  containers:
  - {name: c, image: 'REGISTRY/busybox:1', command: [sleep, '36000']}
---
apiVersion: v1
kind: Pod
metadata: {name: giver}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    securityContext: {privileged: true}
    volumeMounts: [{name: host, mountPath: /host, mountPropagation: Bidirectional}]
  - name: taker
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    volumeMounts: [{name: host, mountPath: /host, mountPropagation: HostToContainer}]
  - name: private
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    volumeMounts: [{name: host, mountPath: /host}]
  - name: sealed
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    volumeMounts:
    - {name: below, mountPath: /below, readOnly: true, recursiveReadOnly: Enabled}
    - {name: below, mountPath: /open, readOnly: true}
  volumes:
  - {name: host, hostPath: {path: SHARED}}
  - {name: below, hostPath: {path: BELOW}}
";

#[test]
fn pods_have_users_runtimes_and_mounts_of_their_own() {
    let mut c = Cluster::prepare("isolation", &[]);
    let (shared, below) = (c.host.dir.join("shared"), c.host.dir.join("below"));
    let set = format!(
        "mkdir -p {0} {1}/inner && mount --bind {0} {0} && mount --make-shared {0} && mount -t tmpfs inner {1}/inner",
        shared.display(),
        below.display()
    );
    assert!(c.host.sh(&set).status.success());
    c.up();
    let registry = c.registry();
    let pods = PODS.replace("REGISTRY", registry);
    let pods = pods.replace("SHARED", &shared.display().to_string()).replace("BELOW", &below.display().to_string());
    c.apply(&pods);
    let ready = ["pod/mapped", "pod/neighbour", "pod/classed", "pod/giver", "pod/giver-mapped"];
    for pod in ready {
        c.kubectl(&["wait", "--for=condition=Ready", pod, "--timeout=120s"]);
    }
    // Before the server is killed: events are written lazily.
    c.eventually("an event says so", |c| {
        let about = "events --field-selector involvedObject.name=giver-mapped,reason=MountPropagationLimited";
        c.get(about, "{.items[0].message}")
            == "volumeMount \"host\": with hostUsers false, Bidirectional mount propagation goes one way: mounts that \
                the container makes below /host do not reach the node"
    });
    users(&mut c);
    runtimes(&c);
    mounts(&c, &shared);
    c.kubectl(&["delete", "pod", "--all", "--timeout=120s"]);
    c.eventually("nothing is left", |c| {
        let data = c.data_dir();
        let look = format!("ls {0}/agent/pods {0}/run/sandboxes {0}/run/rootfs", data.display());
        let text = String::from_utf8(c.host.sh(&look).stdout).unwrap();
        text.lines().all(|line| line.is_empty() || line.ends_with(':'))
    });
    c.remove();
}

fn users(c: &mut Cluster) {
    let log = |c: &Cluster, pod: &str, container: &str| c.kubectl(&["logs", pod, "-c", container]);
    c.eventually("it has looked around", |c| log(c, "mapped", "c").contains("done"));
    let said = log(c, "mapped", "c");
    let first: u32 = said.split_ascii_whitespace().nth(2).and_then(|word| word.parse().ok()).unwrap();
    assert!(first >= 65_536 && first.is_multiple_of(65_536), "{said}");
    for line in [
        format!("map: 0 {first} 65536 / 0 {first} 65536").as_str(),
        "me: 0 root: 0:0",
        "/data 0:4242 2777",
        "/settings/one 0:4242 644",
        "/memory 0:4242 2777",
        "/dev/shm 0:0 1777",
        "/etc/hosts 0:0 644",
        "config: first image: Welcome to nginx!",
        "all written",
        "given away",
        "no devices",
        "no parameters",
    ] {
        assert!(said.lines().any(|found| found == line), "{line:?} in\n{said}");
    }
    assert!(said.contains("/token/token 0:4242 640") || said.contains("/token/token 0:4242 644"), "{said}");
    let range = |map: &str| map.split_ascii_whitespace().nth(1).and_then(|word| word.parse::<u32>().ok());
    let other = range(&log(c, "neighbour", "c"));
    assert!(other.is_some_and(|other| other.is_multiple_of(65_536) && other != first), "{other:?}");
    assert!(log(c, "mapped", "user").contains("me: 1000"));

    // The host sees who they are there, and their files as in any pod.
    let uid = c.get("pod mapped", "{.metadata.uid}");
    let volume = c.data_dir().join(format!("agent/pods/{uid}/volumes/kubernetes.io~empty-dir/data/file"));
    let owner = String::from_utf8(c.host.sh(&format!("stat -c %u {}", volume.display())).stdout).unwrap();
    assert_eq!(owner, "33\n");
    let ids = c.kubectl(&["exec", "mapped", "-c", "c", "--", "sh", "-c", "busybox id -u; cat /proc/self/uid_map"]);
    assert!(ids.starts_with("0\n") && ids.contains(&first.to_string()), "{ids}");
    let ids =
        c.kubectl(&["exec", "mapped", "-c", "user", "--", "sh", "-c", "busybox id -u; grep CapEff /proc/self/status"]);
    assert_eq!(ids, "1000\nCapEff:\t0000000000000000\n");

    // A new server knows whose ids are taken.
    c.down("-KILL");
    c.up();
    c.eventually("exec works again", |c| c.try_kubectl(&["exec", "mapped", "-c", "c", "--", "true"]).status.success());
    let kill = ["exec", "mapped", "-c", "c", "--", "busybox", "kill", "-9", "-1"];
    let _ = c.try_kubectl(&kill);
    let third = "
apiVersion: v1
kind: Pod
metadata: {name: third}
spec:
  hostUsers: false
  restartPolicy: Never
  containers: [{name: c, image: 'REGISTRY/busybox:1', command: [cat, /proc/self/uid_map]}]
";
    c.apply(&third.replace("REGISTRY", "127.0.0.1:5000"));
    c.eventually("the third has run", |c| c.get("pod third", "{.status.phase}") == "Succeeded");
    let third = range(&log(c, "third", "c"));
    assert!(third.is_some() && third != Some(first) && third != other, "{third:?} beside {first} and {other:?}");
    assert_eq!(
        c.get("nodes", "{.items[0].status.runtimeHandlers[?(@.name=='')].features.userNamespaces}"),
        this_kernel_translates().to_string()
    );
}

/// Whether this kernel can do all of it: Linux 6.3.
fn this_kernel_translates() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(3))
}

fn runtimes(c: &Cluster) {
    c.eventually("an unknown handler is named", |c| {
        let messages = c.get("events --field-selector involvedObject.name=nowhere", "{.items[*].message}");
        messages.contains(
            "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: \
             no runtime for \"nowhere\" is configured",
        )
    });
    assert_eq!(c.get("pod classed", "{.spec.overhead.memory}"), "8Mi");
    assert_eq!(c.kubectl(&["exec", "classed", "--", "cat", "/settings/one"]), "first");
    let typed = c.feed(&["exec", "-i", "classed", "--", "cat"], "typed");
    assert_eq!(typed.stdout, b"typed");
    // Runc itself knows the container.
    let uid = c.get("pod classed", "{.status.containerStatuses[0].containerID}").replace("naru://", "");
    let found = c
        .host
        .sh(&format!("find {}/run/sandboxes -name state.json -path '*{uid}*' | head -n 1", c.data_dir().display()));
    assert!(String::from_utf8(found.stdout).unwrap().contains("/runtime/"));
    let pod = c.get("pod classed", "{.metadata.uid}");
    let limit =
        format!("cat $(find /sys/fs/cgroup -path '*pod{pod}/memory.limit_in_bytes' -o -path '*pod{pod}/memory.max')");
    let limit = String::from_utf8(c.host.sh(&limit).stdout).unwrap();
    assert!(limit.is_empty() || limit == format!("{}\n", (64 + 8) << 20), "{limit}");
    assert!(c.get("nodes", "{.items[0].status.runtimeHandlers[*].name}").contains("runc"));
    let mut following = c.kubectl_command(&["logs", "-f", "classed"]);
    let following = following.stdout(std::process::Stdio::piped()).spawn().unwrap();
    c.kubectl(&["delete", "pod", "classed", "--timeout=60s"]);
    let said = String::from_utf8(following.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains("ready\n") && said.contains("stopping\n"), "{said}");
}

fn mounts(c: &Cluster, shared: &std::path::Path) {
    let run = |container: &str, script: &str| {
        let output = c.try_kubectl(&["exec", "giver", "-c", container, "--", "sh", "-c", script]);
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    run("c", "mkdir /host/given && busybox mount -t tmpfs given /host/given && echo here >/host/given/file");
    let seen = String::from_utf8(c.host.sh(&format!("cat {}/given/file", shared.display())).stdout).unwrap();
    assert_eq!(seen, "here\n", "the host sees what the container mounts");
    assert_eq!(run("taker", "cat /host/given/file"), "here\n");
    assert!(run("private", "cat /host/given/file").contains("No such file"));
    c.eventually("what is mounted by other users stays with them", |c| {
        c.kubectl(&["logs", "giver-mapped"]) == "here\n"
    });
    assert!(!c.host.sh(&format!("cat {}/mapped/file", shared.display())).status.success());
    let mount = format!("mkdir {0}/own && mount -t tmpfs own {0}/own && echo own >{0}/own/file", shared.display());
    assert!(c.host.sh(&mount).status.success());
    for container in ["c", "taker"] {
        assert_eq!(run(container, "cat /host/own/file"), "own\n", "{container}");
    }
    assert!(run("private", "cat /host/own/file").contains("No such file"));
    assert!(
        run("taker", "busybox mount -t tmpfs x /host/own").contains("ermi"),
        "an ordinary container mounts nothing"
    );
    assert!(run("sealed", "echo x >/below/inner/file").contains("Read-only file system"));
    assert_eq!(run("sealed", "echo x >/open/inner/file"), "");
    assert!(run("sealed", "echo x >/open/file").contains("Read-only file system"));
    let unmount = format!("umount {0}/given {0}/own", shared.display());
    assert!(c.host.sh(&unmount).status.success());
}
