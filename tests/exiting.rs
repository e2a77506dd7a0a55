//! What becomes of containers that end by each restart policy, what they run when they say so in part only, and what
//! they find in their environment and their image volumes. Played on the cluster of another test.

use crate::cluster::Cluster;

/// Each counts its runs in a volume: the first fails, the second succeeds, the third stays.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: ends-always}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Always
  containers: [COUNTS]
  volumes: [{name: runs, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: ends-onfailure}
spec:
  restartPolicy: OnFailure
  containers: [COUNTS]
  volumes: [{name: runs, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: ends-never}
spec:
  restartPolicy: Never
  containers: [COUNTS]
  volumes: [{name: runs, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: says-arguments}
spec:
  restartPolicy: Never
  containers: [{name: c, image: 'REGISTRY/busybox:1', args: [echo, 'override arguments']}]
---
apiVersion: v1
kind: Pod
metadata: {name: says-command}
spec:
  restartPolicy: Never
  containers: [{name: c, image: 'REGISTRY/busybox:1', command: [echo, override, command]}]
---
apiVersion: v1
kind: Pod
metadata: {name: says-both}
spec:
  restartPolicy: Never
  containers: [{name: c, image: 'REGISTRY/busybox:1', command: [echo], args: [override, all, $(WHO)], env: [{name: WHO, value: expanded}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: fails}
spec:
  containers: [{name: c, image: 'REGISTRY/busybox:1', command: ['false']}]
---
apiVersion: v1
kind: Service
metadata: {name: fooservice}
spec: {ports: [{port: 8765, targetPort: 8080}], selector: {name: nobody}}
---
apiVersion: v1
kind: Pod
metadata: {name: shares}
spec:
  restartPolicy: Never
  volumes:
  - {name: data, emptyDir: {}}
  - {name: image, image: {reference: 'REGISTRY/nginx:1', pullPolicy: Always}}
  - name: about
    downwardAPI:
      defaultMode: 256
      items:
      - {path: name, fieldRef: {fieldPath: metadata.name}}
      - {path: cpu, mode: 292, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}
      - {path: memory, resourceFieldRef: {containerName: main, resource: limits.memory, divisor: 1Mi}}
  containers:
  - name: main
    image: REGISTRY/busybox:1
    command: [sh, -c]
    args:
    - |
      echo hello >/data/file; while ! test -e /data/seen; do sleep 0.1; done
      echo image: $(cat /image/var/www/html/index.html)
      echo about: $(cat /about/name /about/cpu /about/memory) $(busybox stat -L -c %a /about/name /about/cpu)
      echo services: $FOOSERVICE_SERVICE_HOST $FOOSERVICE_SERVICE_PORT $FOOSERVICE_PORT_8765_TCP_PROTO $FOOSERVICE_PORT
      echo api: $KUBERNETES_SERVICE_PORT
      busybox id -u; touch /writable && echo wrote; busybox ip link add d0 type dummy 2>/dev/null || echo unprivileged
    securityContext: {privileged: false, readOnlyRootFilesystem: false}
    resources: {limits: {cpu: 1250m, memory: 64Mi}}
    volumeMounts: [{name: data, mountPath: /data}, {name: image, mountPath: /image}, {name: about, mountPath: /about}]
  - name: sub
    image: REGISTRY/busybox:1
    command: [sh, -c, 'while ! test -e /data/file; do sleep 0.1; done; cat /data/file; echo x >/data/seen']
    volumeMounts: [{name: data, mountPath: /data}]
"#;

const COUNTS: &str = "{name: c, image: 'REGISTRY/busybox:1', command: [sh, -c, 'echo x >>/runs/f; n=$(busybox wc -l </runs/f); test $n = 1 && exit 1; test $n = 2 && exit 0; exec sleep 36000'], volumeMounts: [{name: runs, mountPath: /runs}]}";

/// Begins; the results are looked at later, since backing off takes its time.
pub(crate) fn begin(c: &Cluster, registry: &str) {
    c.apply(&PODS.replace("COUNTS", COUNTS).replace("REGISTRY", registry));
}

/// Looks at the results.
pub(crate) fn end(c: &Cluster) {
    let status =
        "{.status.phase} {.status.containerStatuses[0].restartCount} {.status.conditions[?(@.type=='Ready')].status}";
    for (pod, wanted) in
        [("ends-never", "Failed 0 False"), ("ends-onfailure", "Succeeded 1 False"), ("ends-always", "Running 2 True")]
    {
        c.eventually("it has come to its end", |c| c.get(&format!("pod {pod}"), status) == wanted);
    }
    let exit = "{.status.containerStatuses[0].state.terminated.exitCode} {.status.containerStatuses[0].state.terminated.reason}";
    assert_eq!(c.get("pod ends-never", exit), "1 Error");
    assert_eq!(c.get("pod ends-onfailure", exit), "0 Completed");
    for (pod, said) in [
        ("says-arguments", "override arguments\n"),
        ("says-command", "override command\n"),
        ("says-both", "override all expanded\n"),
    ] {
        c.eventually("it has spoken", |c| c.get(&format!("pod {pod}"), "{.status.phase}") == "Succeeded");
        assert_eq!(c.kubectl(&["logs", pod]), said);
    }
    c.eventually("what always fails has a reason", |c| {
        let of =
            |state: &str| c.get("pod fails", &format!("{{.status.containerStatuses[0].{state}.terminated.reason}}"));
        of("lastState") == "Error" || of("state") == "Error"
    });
    c.kubectl(&["delete", "pod", "fails", "--timeout=60s"]);
    c.eventually("both containers have ended", |c| c.get("pod shares", "{.status.phase}") == "Succeeded");
    assert_eq!(c.kubectl(&["logs", "shares", "-c", "sub"]), "hello\n");
    let log = c.kubectl(&["logs", "shares", "-c", "main"]);
    let host = c.get("service fooservice", "{.spec.clusterIP}");
    for line in [
        "image: Welcome to nginx!",
        "about: shares125064 400 444",
        &format!("services: {host} 8765 tcp tcp://{host}:8765"),
        "api: 443",
        "0",
        "wrote",
        "unprivileged",
    ] {
        assert!(log.lines().any(|found| found == line), "{line:?} in\n{log}");
    }
}
