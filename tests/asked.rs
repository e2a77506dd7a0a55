//! What the conformance suite asks of a node, pod by pod, with images made here: what containers find in their
//! environment, files and identities, and what becomes of those that end, wait or fail.

use crate::cluster::Cluster;

/// Pods that look around and end; what each has to print, or to say when it is over.
const LOOKING: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {data-1: value-1, path: mapped}
binaryData: {dump: "3q2+7w=="}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {data-1: secret-1}
---
apiVersion: v1
kind: Pod
metadata: {name: message-file}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: 'REGISTRY/busybox:1', command: [sh, -c, 'echo log; echo -n OK >/dev/termination-log'], terminationMessagePolicy: FallbackToLogsOnError}
  - {name: log, image: 'REGISTRY/busybox:1', command: [sh, -c, 'echo -n DONE; exit 1'], terminationMessagePolicy: FallbackToLogsOnError}
  - {name: empty, image: 'REGISTRY/busybox:1', command: [sh, -c, 'echo -n DONE'], terminationMessagePolicy: FallbackToLogsOnError}
  - name: user
    image: REGISTRY/busybox:1
    command: [sh, -c, 'echo -n DONE >/dev/termination-custom-log']
    terminationMessagePath: /dev/termination-custom-log
    securityContext: {runAsUser: 1000}
---
apiVersion: v1
kind: Pod
metadata: {name: looks, labels: {l: one}, annotations: {a: first}}
spec:
  restartPolicy: Never
  hostAliases: [{ip: 123.45.67.89, hostnames: [foo, bar]}]
  securityContext:
    fsGroup: 1001
    sysctls: [{name: kernel.shm_rmid_forced, value: '1'}]
  initContainers:
  - {name: init, image: 'REGISTRY/busybox:1', command: ['true']}
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c]
    args:
    - |
      echo env: $SECRET $NAME $NAMESPACE ${UID:+uid} $COMPOSED
      echo ips: $POD_IP $HOST_IP $HOST_IPS
      echo limits: $CPU_LIMIT $MEMORY_LIMIT $CPU_REQUEST
      for path in /cm/data-1 /cm-mode/renamed /cm-mode/data-1 /secret/data-1 /projected/cm/data-1 /projected/labels /empty /memory; do
        echo mode $path $(busybox stat -L -c '%a %u:%g' $path)
      done
      echo link $(busybox readlink /cm/data-1) $(busybox readlink /cm/..data | busybox cut -c1-4)
      echo binary $(busybox od -An -tx1 /cm/dump)
      echo projected: $(cat /projected/cm/data-1 /projected/secret/data-1 /projected/labels /projected/limit)
      echo sysctl: $(cat /proc/sys/kernel/shm_rmid_forced)
      echo hosts: $(grep -c 'Kubernetes-managed hosts file' /etc/hosts) $(grep 123.45.67.89 /etc/hosts)
      echo resolv: $(cat /etc/resolv.conf)
      echo id: $(busybox id -u) $(busybox id -g) $(busybox id -G)
      echo privileges: $(grep NoNewPrivs /proc/self/status)
      busybox ip link add dummy0 type dummy 2>/dev/null || echo no links
      (umask 0; echo x >/memory/f; busybox chmod 0666 /memory/f; busybox stat -c 'file %a' /memory/f)
      grep ' /memory ' /proc/mounts | busybox cut -d' ' -f1,3
    securityContext: {allowPrivilegeEscalation: false}
    envFrom: [{prefix: CM_, configMapRef: {name: settings}}]
    env:
    - {name: SECRET, valueFrom: {secretKeyRef: {name: hidden, key: data-1}}}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: HOST_IPS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
    - {name: CPU_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: MEMORY_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: CPU_REQUEST, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: COMPOSED, value: '$(NAME);;$(CM_data-1)'}
    resources: {requests: {cpu: 25m}}
    volumeMounts:
    - {name: cm, mountPath: /cm}
    - {name: cm-mode, mountPath: /cm-mode}
    - {name: secret, mountPath: /secret}
    - {name: projected, mountPath: /projected}
    - {name: empty, mountPath: /empty}
    - {name: memory, mountPath: /memory}
    - {name: cm, mountPath: /etc/resolv.conf, subPath: data-1}
  volumes:
  - {name: cm, configMap: {name: settings}}
  - {name: cm-mode, configMap: {name: settings, defaultMode: 256, items: [{key: path, path: renamed, mode: 292}, {key: data-1, path: data-1}]}}
  - {name: secret, secret: {secretName: hidden, defaultMode: 288}}
  - name: projected
    projected:
      defaultMode: 256
      sources:
      - {configMap: {name: settings, items: [{key: data-1, path: cm/data-1}]}}
      - {secret: {name: hidden, items: [{key: data-1, path: secret/data-1, mode: 511}]}}
      - {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: limit, resourceFieldRef: {containerName: c, resource: requests.cpu, divisor: 1m}}]}}
  - {name: empty, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
---
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  restartPolicy: Never
  hostNetwork: true
  securityContext: {runAsUser: 65534, runAsGroup: 2001, supplementalGroups: [3001]}
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c]
    args:
    - |
      echo id: $(busybox id -u) $(busybox id -g) $(busybox id -G)
      echo hosts: $(grep -c '# Kubernetes-managed hosts file\.' /etc/hosts)
      echo x >/file 2>/dev/null || echo read-only
      cat /secret/data-1 && echo readable
    securityContext: {readOnlyRootFilesystem: true}
    volumeMounts: [{name: secret, mountPath: /secret}]
  volumes: [{name: secret, secret: {secretName: hidden, defaultMode: 292}}]
---
apiVersion: v1
kind: Pod
metadata: {name: init-never}
spec:
  restartPolicy: Never
  initContainers:
  - {name: one, image: 'REGISTRY/busybox:1', command: ['true']}
  - {name: two, image: 'REGISTRY/busybox:1', command: ['false']}
  containers: [{name: c, image: 'REGISTRY/busybox:1', command: ['true']}]
---
apiVersion: v1
kind: Pod
metadata: {name: deadline}
spec:
  terminationGracePeriodSeconds: 0
  activeDeadlineSeconds: 1
  containers: [{name: c, image: 'REGISTRY/busybox:1', command: [sleep, '36000']}]
"#;

/// Pods that stay, for what is done to them.
const STAYING: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: handler}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c, 'mkdir /www; for f in started stopped executed; do echo x >/www/$f; done; exec busybox httpd -f -vv -p 8080 -h /www']
---
apiVersion: v1
kind: Pod
metadata: {name: init-always}
spec:
  terminationGracePeriodSeconds: 0
  initContainers: [{name: one, image: 'REGISTRY/busybox:1', command: ['false']}]
  containers: [{name: c, image: 'REGISTRY/busybox:1', command: [sleep, '36000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: expands, annotations: {notmysubpath: mypath}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    env: [{name: ANNOTATION, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['mysubpath']"}}}]
    volumeMounts:
    - {name: data, mountPath: /sub, subPathExpr: $(ANNOTATION)/inner}
    - {name: data, mountPath: /data}
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: dots}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    env: [{name: DOTS, value: ..}]
    volumeMounts: [{name: data, mountPath: /sub, subPathExpr: $(DOTS)}]
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: updated, labels: {l: one}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    resources: {requests: {cpu: 20m, memory: 20Mi}, limits: {cpu: 20m, memory: 20Mi}}
    volumeMounts: [{name: info, mountPath: /info}, {name: late, mountPath: /late}, {name: secret, mountPath: /secret}]
  volumes:
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: late, configMap: {name: late, optional: true}}
  - {name: secret, projected: {sources: [{secret: {name: hidden, optional: true}}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: http
    image: REGISTRY/busybox:1
    command: [busybox, httpd, -f, -p, '8081', -h, /etc]
    livenessProbe: {httpGet: {path: /passwd, port: 8081}, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 1}
  - name: tcp
    image: REGISTRY/busybox:1
    command: [busybox, httpd, -f, -p, '8082', -h, /etc]
    livenessProbe: {tcpSocket: {port: 8082}, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 1}
  - name: exec
    image: REGISTRY/busybox:1
    command: [sh, -c, 'echo began; echo ok >/tmp/health; sleep 2; rm /tmp/health; sleep 36000']
    livenessProbe: {exec: {command: [cat, /tmp/health]}, periodSeconds: 1, failureThreshold: 1}
  - name: never
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    readinessProbe: {exec: {command: ['false']}, periodSeconds: 1}
"#;

/// Pods that take more of the disk than they may; each goes by another of its limits.
const GREEDY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: greedy-volume}
spec:
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c, 'busybox dd if=/dev/zero of=/data/file bs=1M count=3; exec sleep 36000']
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {sizeLimit: 1Mi}}]
---
apiVersion: v1
kind: Pod
metadata: {name: greedy-pod}
spec:
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c, 'busybox dd if=/dev/zero of=/data/file bs=1M count=3; exec sleep 36000']
    resources: {limits: {ephemeral-storage: 1Mi}}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: greedy-container}
spec:
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c, 'busybox dd if=/dev/zero of=/file bs=1M count=3; exec sleep 36000']
    resources: {limits: {ephemeral-storage: 1Mi}}
  - {name: d, image: 'REGISTRY/busybox:1', command: [sleep, '36000'], resources: {limits: {ephemeral-storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c, 'busybox dd if=/dev/zero of=/data/file bs=1M count=3; exec sleep 36000']
    resources: {limits: {ephemeral-storage: 100Mi}}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {sizeLimit: 50Mi}}]
"#;

/// One whose hooks call the handler.
const HOOKED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: hooked}
spec:
  terminationGracePeriodSeconds: 3
  containers:
  - name: http
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    lifecycle:
      postStart: {httpGet: {host: HANDLER, port: 8080, path: '/started'}}
      preStop: {httpGet: {host: HANDLER, port: 8080, path: '/stopped'}}
  - name: exec
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    lifecycle:
      postStart: {exec: {command: [sh, -c, 'busybox wget -qO- "http://HANDLER:8080/executed"']}}
      preStop: {sleep: {seconds: 1}}
"#;

#[test]
fn what_the_conformance_suite_asks_of_a_node() {
    let mut c = Cluster::start("asked");
    let registry = c.registry();
    c.apply(&LOOKING.replace("REGISTRY", registry));
    c.apply(&GREEDY.replace("REGISTRY", registry));
    crate::exiting::begin(&c, registry);
    c.apply(&STAYING.replace("REGISTRY", registry));
    c.kubectl(&["wait", "--for=condition=Ready", "pod/handler", "pod/updated", "--timeout=120s"]);
    let handler = c.get("pod handler", "{.status.podIP}");
    c.apply(&HOOKED.replace("REGISTRY", registry).replace("HANDLER", &handler));
    updates(&c);
    messages(&c);
    environment(&c);
    ends(&c);
    expansion(&c);
    hooks(&c);
    websockets(&c);
    probes(&c);
    generations(&c);
    evictions(&c);
    crate::exiting::end(&c);
}

fn messages(c: &Cluster) {
    c.eventually("all have ended", |c| c.get("pod message-file", "{.status.phase}") == "Failed");
    for (container, message) in [("c", "OK"), ("log", "DONE"), ("empty", ""), ("user", "DONE")] {
        let path = format!("{{.status.containerStatuses[?(@.name=='{container}')].state.terminated.message}}");
        assert_eq!(c.get("pod message-file", &path), message, "{container}");
    }
    let logs = |flag: &str| c.kubectl(&["logs", "message-file", "-c", "log", flag]);
    assert_eq!((logs("--since=24h").as_str(), logs("--since-time=2999-01-01T00:00:00Z").as_str()), ("DONE", ""));
    assert_eq!((logs("--limit-bytes=2").as_str(), logs("--tail=0").as_str()), ("DO", ""));
    assert!(logs("--timestamps").ends_with("Z DONE"));
}

fn environment(c: &Cluster) {
    c.eventually("it has looked", |c| c.get("pod looks", "{.status.phase}") == "Succeeded");
    let log = c.kubectl(&["logs", "looks", "-c", "c"]);
    let ip = c.get("pod looks", "{.status.podIP}");
    let cpus = c.get("nodes", "{.items[0].status.allocatable.cpu}");
    let memory = c.get("nodes", "{.items[0].status.allocatable.memory}");
    let bytes = memory.trim_end_matches("Ki").parse::<u64>().unwrap() * 1024;
    for line in [
        "env: secret-1 looks default uid looks;;value-1".to_owned(),
        format!("ips: {ip} 192.0.2.10 192.0.2.10"),
        format!("limits: {cpus} {bytes} 25"),
        "mode /cm/data-1 644 0:1001".into(),
        "mode /cm-mode/renamed 444 0:1001".into(),
        "mode /cm-mode/data-1 440 0:1001".into(),
        "mode /secret/data-1 440 0:1001".into(),
        "mode /projected/cm/data-1 440 0:1001".into(),
        "mode /projected/labels 440 0:1001".into(),
        "mode /empty 2777 0:1001".into(),
        "mode /memory 2777 0:1001".into(),
        "link ..data/data-1 ..20".into(),
        "binary de ad be ef".into(),
        "projected: value-1secret-1l=\"one\"25".into(),
        "sysctl: 1".into(),
        "hosts: 1 123.45.67.89 foo bar".into(),
        "resolv: value-1".into(),
        "id: 0 0 0 1001".into(),
        "privileges: NoNewPrivs: 1".into(),
        "no links".into(),
        "file 666".into(),
        "tmpfs tmpfs".into(),
    ] {
        assert!(log.lines().any(|found| found.replace('\t', " ") == line), "{line:?} in\n{log}");
    }
    c.eventually("the other has looked", |c| c.get("pod user", "{.status.phase}") == "Succeeded");
    let log = c.kubectl(&["logs", "user"]);
    for line in ["id: 65534 2001 2001 3001", "hosts: 0", "read-only"] {
        assert!(log.lines().any(|found| found == line), "{line:?} in\n{log}");
    }
    assert!(log.contains("readable"), "{log}");
}

fn ends(c: &Cluster) {
    let phase = |c: &Cluster, pod: &str| c.get(&format!("pod {pod}"), "{.status.phase} {.status.reason}");
    c.eventually("a failed init container ends the pod", |c| phase(c, "init-never") == "Failed ");
    let waiting = c.get("pod init-never", "{.status.containerStatuses[0].state.waiting.reason}");
    assert_eq!(waiting, "PodInitializing");
    let initialized = "{.status.conditions[?(@.type=='Initialized')].status} {.status.conditions[?(@.type=='Initialized')].reason} {.status.conditions[?(@.type=='Initialized')].message}";
    assert_eq!(
        c.get("pod init-never", initialized),
        "False ContainersNotInitialized containers with incomplete status: [two]"
    );
    c.eventually("the deadline passes", |c| phase(c, "deadline") == "Failed DeadlineExceeded");
    c.eventually("an init container is tried again", |c| {
        let count = c.get("pod init-always", "{.status.initContainerStatuses[0].restartCount}");
        count.parse::<u32>().is_ok_and(|count| count >= 1)
    });
    assert_eq!(phase(c, "init-always"), "Pending ");
    assert_eq!(c.get("pod init-always", "{.status.containerStatuses[0].state.waiting.reason}"), "PodInitializing");
}

fn expansion(c: &Cluster) {
    let reason = "{.status.containerStatuses[0].state.waiting.reason}";
    for pod in ["expands", "dots"] {
        c.eventually("the expansion fails", |c| c.get(&format!("pod {pod}"), reason) == "CreateContainerConfigError");
    }
    c.kubectl(&["annotate", "pod", "expands", "mysubpath=mypath"]);
    c.kubectl(&["wait", "--for=condition=Ready", "pod/expands", "--timeout=120s"]);
    let seen = c.kubectl(&["exec", "expands", "--", "sh", "-c", "echo x >/sub/file; cat /data/mypath/inner/file"]);
    assert_eq!(seen, "x\n");
}

fn hooks(c: &Cluster) {
    let called = |c: &Cluster, what: &str| c.kubectl(&["logs", "handler"]).contains(what);
    c.kubectl(&["wait", "--for=condition=Ready", "pod/hooked", "--timeout=120s"]);
    c.eventually("both have called", |c| called(c, "/started") && called(c, "/executed"));
    assert!(!called(c, "/stopped"));
    c.kubectl(&["delete", "pod", "hooked", "--wait=false"]);
    c.eventually("the last hook has called", |c| called(c, "/stopped"));
}

/// As clients do that know nothing of kubectl: logs in pieces, a command by the oldest protocol.
fn websockets(c: &Cluster) {
    let kubeconfig = std::fs::read_to_string(c.kubeconfig()).unwrap();
    let server = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap().to_owned();
    c.kubectl(&["create", "serviceaccount", "streams"]);
    c.kubectl(&["create", "clusterrolebinding", "streams", "--clusterrole=admin", "--serviceaccount=default:streams"]);
    let token = c.kubectl(&["create", "token", "streams"]);
    let open = |path: &str, protocol: &str| {
        let header = format!("Authorization: Bearer {}", token.trim());
        let protocol = format!("Sec-WebSocket-Protocol: {protocol}");
        let url = format!("{server}/api/v1/namespaces/default/pods/{path}");
        let mut command = c.host.command("curl");
        command.args(["-sk", "--http1.1", "-m", "20", "-i", "--output", "-", "-H", &header, "-H", &protocol]);
        command.args(["-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13"]);
        let output = command.args(["-H", "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==", &url]).output().unwrap();
        output.stdout
    };
    let has = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    let log = open("message-file/log?container=log", "binary.k8s.io");
    assert!(log.starts_with(b"HTTP/1.1 101 ") && has(&log, b"binary.k8s.io"), "{}", String::from_utf8_lossy(&log));
    // An empty message, then the text, then the end.
    assert!(has(&log, b"\x82\x00\x82\x04DONE\x88"), "{log:?}");
    let encoded = open("message-file/log?container=log", "base64.binary.k8s.io");
    assert!(has(&encoded, b"RE9ORQ=="), "{encoded:?}");
    let exec = open("handler/exec?command=echo&command=remote&stdout=1&stderr=1", "channel.k8s.io");
    assert!(exec.starts_with(b"HTTP/1.1 101 ") && has(&exec, b"\x01remote\n"), "{}", String::from_utf8_lossy(&exec));
    // Both channels of a port tell its number; nobody listens there. A client may name no protocol at all.
    let plain = open("handler/portforward?ports=9", "");
    for part in [&b"\x82\x03\x00\x09\x00"[..], b"\x82\x03\x01\x09\x00", b"error forwarding port 9 to pod"] {
        assert!(has(&plain, part), "{plain:?}");
    }
    let encoded = open("handler/portforward?ports=9", "v4.base64.channel.k8s.io");
    assert!(has(&encoded, b"\x81\x050CQA=") && has(&encoded, b"\x81\x051CQA="), "{encoded:?}");
    let unknown = open("handler/portforward?ports=9", "v9.channel.k8s.io");
    assert!(unknown.starts_with(b"HTTP/1.1 403 "), "{}", String::from_utf8_lossy(&unknown));
}

fn probes(c: &Cluster) {
    let restarts = |c: &Cluster, container: &str| {
        c.get("pod probed", &format!("{{.status.containerStatuses[?(@.name=='{container}')].restartCount}}"))
    };
    c.eventually("the sick one is restarted", |c| restarts(c, "exec").parse::<u32>().is_ok_and(|count| count > 0));
    for container in ["http", "tcp", "never"] {
        assert_eq!(restarts(c, container), "0", "{container}");
    }
    let ready = c.get("pod probed", "{.status.containerStatuses[?(@.name=='never')].ready}");
    assert_eq!(ready, "false");
    assert_eq!(c.kubectl(&["logs", "probed", "-c", "exec", "--previous"]), "began\n");
    assert_eq!(c.get("pod probed", "{.status.conditions[?(@.type=='Ready')].status}"), "False");
}

/// What its volumes come from changes, comes and goes.
fn updates(c: &Cluster) {
    let read = |c: &Cluster, path: &str| {
        String::from_utf8_lossy(&c.try_kubectl(&["exec", "updated", "--", "cat", path]).stdout).into_owned()
    };
    assert_eq!(read(c, "/info/labels"), "l=\"one\"");
    c.kubectl(&["label", "pod", "updated", "l=two", "--overwrite"]);
    c.kubectl(&["create", "configmap", "late", "--from-literal=key=came"]);
    c.eventually("labels are updated", |c| read(c, "/info/labels") == "l=\"two\"");
    c.eventually("an optional object comes", |c| read(c, "/late/key") == "came");
    c.kubectl(&["patch", "configmap", "late", "-p", r#"{"data":{"key":"changed","more":"x"}}"#]);
    c.eventually("it is updated", |c| read(c, "/late/key") == "changed" && read(c, "/late/more") == "x");
    c.kubectl(&["delete", "configmap", "late"]);
    c.eventually("it goes", |c| read(c, "/late/key").is_empty());
}

fn generations(c: &Cluster) {
    let both =
        |c: &Cluster| c.get("pod updated", "{.metadata.generation} {.status.observedGeneration} {.status.qosClass}");
    c.eventually("it is observed", |c| both(c) == "1 1 Guaranteed");
    let patch = r#"[{"op":"replace","path":"/spec/activeDeadlineSeconds","value":3600}]"#;
    let patch = patch.replace("replace", "add");
    c.kubectl(&["patch", "pod", "updated", "--type=json", "-p", &patch]);
    c.eventually("the new one is observed", |c| both(c) == "2 2 Guaranteed");
    assert_eq!(c.get("pod handler", "{.status.qosClass}"), "BestEffort");
    many_generations(c);
}

/// Five hundred specifications of one pod, one after the other.
fn many_generations(c: &Cluster) {
    let kubeconfig = std::fs::read_to_string(c.kubeconfig()).unwrap();
    let server = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap().to_owned();
    let token = c.kubectl(&["create", "token", "streams"]);
    let request = |deadline: i32| {
        format!(
            "url = \"{server}/api/v1/namespaces/default/pods/handler\"\nrequest = PATCH\ninsecure\nsilent\n\
             header = \"Authorization: Bearer {}\"\nheader = \"Content-Type: application/merge-patch+json\"\n\
             data = \"{{\\\"spec\\\":{{\\\"activeDeadlineSeconds\\\":{deadline}}}}}\"\noutput = /dev/null\n\
             write-out = \"%{{http_code}}\\n\"\n",
            token.trim()
        )
    };
    let requests: Vec<String> = (4501..5000).rev().map(request).collect();
    let requests = requests.join("next\n");
    let file = c.host.dir.join("requests");
    std::fs::write(&file, requests).unwrap();
    let answers = String::from_utf8(c.host.sh(&format!("curl -K {}", file.display())).stdout).unwrap();
    assert!(answers.lines().count() == 499 && answers.lines().all(|line| line == "200"), "{answers}");
    let both = |c: &Cluster| c.get("pod handler", "{.metadata.generation} {.status.observedGeneration}");
    c.eventually("both are at the last", |c| both(c) == "500 500");
}

fn evictions(c: &Cluster) {
    let metrics = c.kubectl(&["get", "--raw", "/api/v1/nodes/node-a/proxy/metrics"]);
    for line in [
        "kubelet_node_name{node=\"node-a\"} 1",
        "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"} ",
        "kubelet_pod_worker_duration_seconds_count{operation_type=\"create\"} ",
        "kubelet_pod_start_duration_seconds_bucket{le=\"+Inf\"} ",
        "kubelet_cgroup_manager_duration_seconds_count{operation_type=\"update\"} ",
        "kubelet_certificate_manager_server_ttl_seconds ",
        "storage_operation_duration_seconds_count{operation_name=\"volume_mount\",status=\"success\",\
         volume_plugin=\"kubernetes.io/empty-dir\"} ",
        "volume_manager_total_volumes{plugin_name=\"kubernetes.io/projected\",state=\"actual_state_of_world\"} ",
        "rest_client_requests_total{code=\"200\",method=\"PATCH\",host=\"in-process\"} ",
        "kubeproxy_sync_proxy_rules_duration_seconds_count ",
        "kubeproxy_network_programming_duration_seconds_count ",
        "process_resident_memory_bytes ",
    ] {
        assert!(metrics.lines().any(|found| found.starts_with(line)), "{line} in\n{metrics}");
    }
    let page = c.host.sh("curl -s -m 20 http://127.0.0.1:10249/metrics http://127.0.0.1:10249/proxyMode").stdout;
    let page = String::from_utf8(page).unwrap();
    assert!(page.contains("kubeproxy_sync_proxy_rules_last_timestamp_seconds") && page.ends_with("nftables"), "{page}");
    for (pod, message, signal) in [
        ("greedy-volume", "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ", "emptydirfs.limit"),
        (
            "greedy-pod",
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
            "ephemeralpodfs.limit",
        ),
        (
            "greedy-container",
            "Container c exceeded its local ephemeral storage limit \"1Mi\". ",
            "ephemeralcontainerfs.limit",
        ),
    ] {
        let ends = "{.status.phase} {.status.reason} {.status.message}";
        c.eventually("it is evicted", |c| c.get(&format!("pod {pod}"), ends) == format!("Failed Evicted {message}"));
        let condition = "{.status.conditions[?(@.type=='DisruptionTarget')].reason}";
        assert_eq!(c.get(&format!("pod {pod}"), condition), "TerminationByKubelet");
        c.eventually("an event says so", |c| {
            let about = format!("events --field-selector involvedObject.name={pod},reason=Evicted");
            c.get(&about, "{.items[0].message}") == message
        });
        let metrics = c.kubectl(&["get", "--raw", "/api/v1/nodes/node-a/proxy/metrics"]);
        let line = format!("kubelet_evictions{{eviction_signal=\"{signal}\"}} 1");
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
    assert_eq!(c.get("pod modest", "{.status.phase}"), "Running");
}
