//! What pods mount and whose images they are: images as volumes, parts of volumes, variables from files, archives
//! that were there from the start, registries that want a password; and that nothing of it stays behind.

use crate::cluster::Cluster;
use std::process::{Child, Command};

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: air}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: 'example.test/air/busybox:1', imagePullPolicy: Never, command: [sleep, '36000']}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {one: first, two: second}
---
apiVersion: v1
kind: Pod
metadata: {name: vols}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 4242}
  volumes:
  - {name: web, image: {reference: 'REGISTRY/nginx:1', pullPolicy: IfNotPresent}}
  - {name: data, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: settings, configMap: {name: settings}}
  initContainers:
  - name: prepare
    image: REGISTRY/busybox:1
    command: [sh, -c, \"mkdir /data/part && echo inside >/data/part/f && echo \\\"GREETING='hello world'\\\" >/data/vars.env\"]
    volumeMounts: [{name: data, mountPath: /data}]
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c]
    args:
    - |
      echo web: $(cat /web/index.html)
      /whole/bin/busybox true || echo nothing runs from an image
      touch /whole/x || echo nothing is written to an image
      echo greeting: $GREETING $MISSING
      echo part: $(cat /part/f)
      echo one: $(cat /one)
      touch /own/f && ls /data
      ls -ld /data
      grep ' /memory ' /proc/mounts
      echo done
      exec sleep 36000
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: GREETING, valueFrom: {fileKeyRef: {volumeName: data, path: vars.env, key: GREETING}}}
    - {name: MISSING, valueFrom: {fileKeyRef: {volumeName: data, path: vars.env, key: MISSING, optional: true}}}
    volumeMounts:
    - {name: web, mountPath: /web, subPath: var/www/html}
    - {name: web, mountPath: /whole}
    - {name: data, mountPath: /data}
    - {name: data, mountPath: /part, subPath: part}
    - {name: data, mountPath: /own, subPathExpr: of-$(POD)}
    - {name: memory, mountPath: /memory}
    - {name: settings, mountPath: /one, subPath: one, readOnly: true}
---
apiVersion: v1
kind: Pod
metadata: {name: escape}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: data, emptyDir: {}}]
  initContainers:
  - name: prepare
    image: REGISTRY/busybox:1
    command: [sh, -c, 'mkdir /data/d && cd /data && echo | cat >f && busybox ln -s / out']
    volumeMounts: [{name: data, mountPath: /data}]
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sleep, '36000']
    volumeMounts: [{name: data, mountPath: /stolen, subPath: out}]
";

const PRIVATE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 0
  SECRETS
  containers:
  - {name: c, image: '127.0.0.1:5001/busybox:1', imagePullPolicy: IfNotPresent, command: [sleep, '36000']}
";

/// `me` with the password `secret`.
const HTPASSWD: &str = "me:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

/// A process that ends with the test.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn volumes_and_images_of_all_kinds_serve_pods_and_go_with_them() {
    let mut c = Cluster::prepare("volumes", &[]);
    credential_provider(&mut c);
    archive(&c);
    c.up();
    let registry = c.registry();
    let _private = private_registry(&c);
    c.apply(&PODS.replace("REGISTRY", registry));
    let imported = |c: &Cluster| c.log().matches("imported from the air-gap directory").count();
    c.kubectl(&["wait", "--for=condition=Ready", "pod/air", "pod/vols", "--timeout=120s"]);
    mounted(&c);
    c.eventually("the way out of the volume is refused", |c| {
        let text = c.get("pod escape", "{.status.containerStatuses[0].state.waiting.message}");
        text == "failed to prepare subPath for volumeMount \"data\" of container \"c\""
    });
    passwords(&c);
    accounts(&c);
    many(&c, registry);
    assert_eq!(imported(&c), 1, "{}", c.log());
    // A new server leaves what is mounted alone, and imports nothing again.
    c.down("-KILL");
    c.up();
    c.eventually("the pod is known again", |c| {
        let look = c.try_kubectl(&["exec", "vols", "-c", "c", "--", "cat", "/web/index.html"]);
        look.stdout == b"Welcome to nginx!\n"
    });
    assert_eq!(imported(&c), 1, "{}", c.log());
    c.kubectl(&["delete", "pod", "--all", "--timeout=90s"]);
    c.eventually("nothing is left", |c| {
        let data = c.data_dir();
        let data = data.display();
        let look = format!(
            "grep -cE '/agent/pods/|/run/rootfs/' /proc/self/mountinfo; ls {data}/agent/pods {data}/agent/images.d/snapshots"
        );
        let text = String::from_utf8(c.host.sh(&look).stdout).unwrap();
        text.lines().all(|line| line.is_empty() || line == "0" || line.ends_with(':'))
    });
    c.remove();
}

/// An archive of an image, put where it is found at the start.
fn archive(c: &Cluster) {
    let images = std::env::var("NARU_TEST_IMAGES").expect("scripts/test sets NARU_TEST_IMAGES");
    let dir = c.data_dir().join("agent/images");
    std::fs::create_dir_all(&dir).unwrap();
    let scratch = c.host.dir.join("air");
    std::fs::create_dir(&scratch).unwrap();
    let list = r#"[{"Config":"config.json","RepoTags":["example.test/air/busybox:1"],"Layers":["layer.tar.gz"]}]"#;
    std::fs::write(scratch.join("manifest.json"), list).unwrap();
    let script = format!(
        "cp {images}/busybox/config.json {images}/busybox/layer.tar.gz {0} && tar -C {0} -cf {1}/air.tar .",
        scratch.display(),
        dir.display()
    );
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
}

/// Debian's registry with the same images as the open one, for those who know the password.
fn private_registry(c: &Cluster) -> Ending {
    let dir = c.host.dir.display();
    std::fs::write(c.host.dir.join("htpasswd"), HTPASSWD).unwrap();
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {dir}/registry}}}}\n\
         http: {{addr: '127.0.0.1:5001'}}\nauth: {{htpasswd: {{realm: r, path: {dir}/htpasswd}}}}\n"
    );
    std::fs::write(c.host.dir.join("private.yml"), text).unwrap();
    let log = std::fs::File::create(c.host.dir.join("private.log")).unwrap();
    let mut command = c.host.command("docker-registry");
    command.arg("serve").arg(c.host.dir.join("private.yml"));
    let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
    let child = Ending(child.unwrap());
    c.eventually("the registry asks for a password", |c| {
        let answer = c.host.sh("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:5001/v2/").stdout;
        answer == b"401"
    });
    child
}

/// A program of the node that gives a registry's password to pods whose account may have it, and writes down what it
/// was asked.
fn credential_provider(c: &mut Cluster) {
    use std::os::unix::fs::PermissionsExt;
    let dir = c.host.dir.clone();
    let programs = dir.join("credentials");
    std::fs::create_dir(&programs).unwrap();
    let answer = r#"{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","cacheDuration":"0s","auth":{"127.0.0.1:5001":{"username":"me","password":"secret"}}}"#;
    let script = format!("#!/bin/sh\ncat >{}/asked.json\necho '{answer}'\n", dir.display());
    std::fs::write(programs.join("by-account"), script).unwrap();
    std::fs::set_permissions(programs.join("by-account"), PermissionsExt::from_mode(0o755)).unwrap();
    let config = "
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: by-account
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ['127.0.0.1:5001']
  defaultCacheDuration: 0s
  tokenAttributes:
    serviceAccountTokenAudience: images.example
    cacheType: Token
    requireServiceAccount: true
    requiredServiceAccountAnnotationKeys: [images.example/role]
";
    std::fs::write(dir.join("credentials.yaml"), config).unwrap();
    c.flags.push(format!("--image-credential-provider-config={}", dir.join("credentials.yaml").display()));
    c.flags.push(format!("--image-credential-provider-bin-dir={}", programs.display()));
}

/// A provider is told as whom a pod pulls, by a token that the API server made for it and knows again.
fn accounts(c: &Cluster) {
    c.apply(
        "
apiVersion: v1
kind: ServiceAccount
metadata: {name: puller, annotations: {images.example/role: reader, images.example/other: unasked}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: images}
rules: [{apiGroups: [''], resources: [images.example], verbs: [request-serviceaccounts-token-audience], resourceNames: [puller]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: images}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: images}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:nodes'}]
",
    );
    c.apply(&PRIVATE.replace("NAME", "puller").replace("SECRETS", "serviceAccountName: puller"));
    c.kubectl(&["wait", "--for=condition=Ready", "pod/puller", "--timeout=120s"]);
    let asked: serde_json::Value =
        serde_json::from_slice(&std::fs::read(c.host.dir.join("asked.json")).unwrap()).unwrap();
    assert_eq!(asked["kind"], "CredentialProviderRequest");
    assert_eq!(asked["image"], "127.0.0.1:5001/busybox");
    assert_eq!(asked["serviceAccountAnnotations"], serde_json::json!({"images.example/role": "reader"}));
    let token = asked["serviceAccountToken"].as_str().unwrap();
    let review = serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["images.example"]}});
    let review = c.feed(&["create", "-f", "-", "-o", "json"], &review.to_string());
    let review: serde_json::Value = serde_json::from_slice(&review.stdout).unwrap();
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:default:puller", "{review}");
    let pod = &review["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"];
    assert_eq!(*pod, serde_json::json!(["puller"]));
    assert_eq!(review["status"]["audiences"], serde_json::json!(["images.example"]));
}

/// Fifty ConfigMaps in each of five pods that start together.
fn many(c: &Cluster, registry: &str) {
    use serde_json::{Value, json};
    let name = |index: usize| format!("racey-{index}");
    let map = |index: usize| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name(index)}, "data": {"data-1": name(index)}});
    let volumes: Vec<Value> = (0..50).map(|i| json!({"name": name(i), "configMap": {"name": name(i), "items": [{"key": "data-1", "path": "data-1"}]}})).collect();
    let mounts: Vec<Value> =
        (0..50).map(|i| json!({"name": name(i), "mountPath": format!("/etc/config-{i}")})).collect();
    let pod = |index: usize| {
        let container = json!({"name": "c", "image": format!("{registry}/busybox:1"), "command": ["sh", "-c", "cat /etc/config-*/data-1 && sleep 36000"], "volumeMounts": mounts});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name(index), "labels": {"racey": "1"}}, "spec": {"terminationGracePeriodSeconds": 0, "volumes": volumes, "containers": [container]}})
    };
    let items: Vec<Value> = (0..50).map(map).chain((0..5).map(pod)).collect();
    c.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string());
    c.kubectl(&["wait", "--for=condition=Ready", "pod", "-l", "racey=1", "--timeout=120s"]);
    let restarts = c.get("pod -l racey=1", "{.items[*].status.containerStatuses[*].restartCount}");
    assert_eq!(restarts, "0 0 0 0 0");
    c.kubectl(&["delete", "pod", "-l", "racey=1", "--timeout=60s"]);
}

fn mounted(c: &Cluster) {
    c.eventually("the container has looked around", |c| c.kubectl(&["logs", "vols", "-c", "c"]).contains("done"));
    let log = c.kubectl(&["logs", "vols", "-c", "c"]);
    for line in [
        "web: Welcome to nginx!",
        "nothing runs from an image",
        "nothing is written to an image",
        "greeting: hello world",
        "part: inside",
        "one: first",
        "of-vols",
    ] {
        assert!(log.lines().any(|found| found.trim() == line), "{line:?} in\n{log}");
    }
    assert!(log.lines().any(|line| line.starts_with("drwxrwsrwx") && line.contains(" 4242 ")), "{log}");
    assert!(log.lines().any(|line| line.starts_with("tmpfs /memory ") && line.contains("size=1024k")), "{log}");
}

/// An image that took a password is for pods that have one, also once it is there.
fn passwords(c: &Cluster) {
    let auth = r#"{"auths":{"127.0.0.1:5001":{"username":"me","password":"secret"}}}"#;
    let literal = format!("--from-literal=.dockerconfigjson={auth}");
    c.kubectl(&["create", "secret", "generic", "pass", "--type=kubernetes.io/dockerconfigjson", &literal]);
    let refused = |c: &Cluster, name: &str| {
        c.eventually("the pod without a password is refused", |c| {
            let text = c.get(&format!("pod {name}"), "{.status.containerStatuses[0].state.waiting.message}");
            text.contains("pull access denied, repository does not exist or may require authorization")
        });
    };
    c.apply(&PRIVATE.replace("NAME", "without").replace("SECRETS", "restartPolicy: Always"));
    refused(c, "without");
    c.apply(&PRIVATE.replace("NAME", "with").replace("SECRETS", "imagePullSecrets: [{name: pass}]"));
    c.kubectl(&["wait", "--for=condition=Ready", "pod/with", "--timeout=120s"]);
    c.apply(&PRIVATE.replace("NAME", "later").replace("SECRETS", "restartPolicy: Always"));
    refused(c, "later");
    // By the service account.
    c.kubectl(&["patch", "serviceaccount", "default", "-p", r#"{"imagePullSecrets":[{"name":"pass"}]}"#]);
    c.apply(&PRIVATE.replace("NAME", "account").replace("SECRETS", "restartPolicy: Always"));
    c.kubectl(&["wait", "--for=condition=Ready", "pod/account", "--timeout=120s"]);
}
