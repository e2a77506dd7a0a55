//! The texts of what can be wrong with a pod.

use super::*;
use serde_json::json;

fn errors_of(mut value: Value) -> Vec<String> {
    super::super::defaults::pod(&mut value);
    let mut errors = FieldErrors::default();
    pod(&value, &mut errors);
    errors.messages()
}

/// The errors of a pod with one good container, changed by `change`.
fn check(change: impl FnOnce(&mut Value), expect: &[&str]) {
    let mut value = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}]}});
    change(&mut value["spec"]);
    assert_eq!(errors_of(value), expect);
}

#[test]
fn a_good_pod_has_no_errors() {
    let good = json!({"spec": {
        "containers": [{"name": "web", "image": "nginx:1",
            "ports": [{"name": "http", "containerPort": 80}],
            "env": [{"name": "A", "value": "b"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}],
            "envFrom": [{"configMapRef": {"name": "c"}}],
            "resources": {"requests": {"cpu": "100m", "example.com/gpu": "1"}, "limits": {"cpu": "1", "memory": "1Gi", "example.com/gpu": "1"}},
            "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "a/b"}],
            "livenessProbe": {"exec": {"command": ["true"]}}, "readinessProbe": {"httpGet": {"port": "http"}},
            "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
            "securityContext": {"runAsUser": 1000, "allowPrivilegeEscalation": false}}],
        "initContainers": [{"name": "i", "image": "x"}, {"name": "s", "image": "x", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 1}}}],
        "volumes": [{"name": "v"}, {"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}],
        "tolerations": [{"operator": "Exists"}, {"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        "nodeSelector": {"kubernetes.io/os": "linux"}, "serviceAccountName": "default", "priority": 0}});
    assert_eq!(errors_of(good), [""; 0]);
}

#[test]
fn containers_and_images() {
    check(|s| s["containers"] = json!([]), &["spec.containers: Required value"]);
    check(
        |s| s["containers"][0] = json!({"name": "", "image": ""}),
        &["spec.containers[0].name: Required value", "spec.containers[0].image: Required value"],
    );
    check(
        |s| s["containers"] = json!([{"name": "a", "image": "x"}, {"name": "a", "image": " x"}]),
        &[
            "spec.containers[1].image: Invalid value: \" x\": must not have leading or trailing whitespace",
            "spec.containers[1].name: Duplicate value: \"a\"",
        ],
    );
    check(
        |s| s["containers"][0]["imagePullPolicy"] = "Sometimes".into(),
        &[
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ],
    );
    check(
        |s| s["initContainers"] = json!([{"name": "a", "image": "x", "livenessProbe": {"exec": {"command": ["a"]}}}]),
        &[
            "spec.initContainers[0].name: Duplicate value: \"a\"",
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
}

#[test]
fn ports() {
    check(
        |s| {
            s["containers"][0]["ports"] = json!([{"containerPort": 0}, {"containerPort": 70000, "name": "http"},
                {"containerPort": 1, "name": "http", "protocol": "ICMP"}, {"containerPort": 2, "hostPort": 9}, {"containerPort": 3, "hostPort": 9}])
        },
        &[
            "spec.containers[0].ports[0].containerPort: Required value",
            "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[2].name: Duplicate value: \"http\"",
            "spec.containers[0].ports[2].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            "spec.containers[0].ports[4].hostPort: Duplicate value: \"TCP//9\"",
        ],
    );
}

#[test]
fn environment() {
    check(
        |s| {
            s["containers"][0]["env"] = json!([{"name": ""}, {"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.foo"}}},
                {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "", "key": "a b"}}}])
        },
        &[
            "spec.containers[0].env[0].name: Required value",
            "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            "spec.containers[0].env[2].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.foo\": error converting fieldPath: field label not supported: metadata.foo",
            "spec.containers[0].env[3].valueFrom.configMapKeyRef.name: Required value",
            "spec.containers[0].env[3].valueFrom.configMapKeyRef.key: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ],
    );
}

#[test]
fn resources() {
    check(
        |s| {
            s["containers"][0]["resources"] = json!({"requests": {"cpu": "2", "foo": "1", "example.com/x": "1"}, "limits": {"cpu": "1", "memory": "-1"}})
        },
        &[
            "spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
            "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified",
            "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        ],
    );
}

#[test]
fn volumes_and_mounts() {
    check(
        |s| {
            s["volumes"] = json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}, {"name": "v"}, {"name": "c", "configMap": {"defaultMode": 1000}},
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "../t", "expirationSeconds": 10}}]}}]);
            s["containers"][0]["volumeMounts"] =
                json!([{"name": "w", "mountPath": "/a"}, {"name": "v", "mountPath": "/a", "subPath": "/x/.."}]);
        },
        &[
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[1].name: Duplicate value: \"v\"",
            "spec.volumes[2].configMap.name: Required value",
            "spec.volumes[2].configMap.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
            "spec.volumes[3].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes",
            "spec.volumes[3].projected.sources[0].serviceAccountToken.path: Invalid value: \"../t\": must not contain '..'",
            "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts[1].subPath: Invalid value: \"/x/..\": must be a relative path",
            "spec.containers[0].volumeMounts[1].subPath: Invalid value: \"/x/..\": must not contain '..'",
        ],
    );
}

#[test]
fn probes() {
    check(
        |s| {
            s["containers"][0]["livenessProbe"] = json!({"httpGet": {"port": 0, "scheme": "FTP"}, "exec": {"command": ["a"]}, "successThreshold": 2, "periodSeconds": -1});
            s["containers"][0]["readinessProbe"] = json!({"terminationGracePeriodSeconds": 5});
        },
        &[
            "spec.containers[0].livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
            "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes",
        ],
    );
}

#[test]
fn policies_and_scheduling() {
    check(
        |s| {
            s["restartPolicy"] = "Maybe".into();
            s["dnsPolicy"] = "None".into();
            s["activeDeadlineSeconds"] = 0.into();
            s["hostname"] = "a.b".into();
            s["tolerations"] = json!([{"key": "", "operator": "Equal"}, {"key": "k", "tolerationSeconds": 1}, {"key": "k", "operator": "Foo"}]);
            s["affinity"] = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "podAffinityTerm": {}}]}});
        },
        &[
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.hostname: Invalid value: \"a.b\": must not contain dots",
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: Required value: can not be empty",
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            "spec.tolerations[1].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            "spec.tolerations[2].operator: Unsupported value: \"Foo\": supported values: \"Equal\", \"Exists\"",
        ],
    );
}

#[test]
fn security() {
    check(
        |s| {
            s["securityContext"] = json!({"runAsUser": -1, "seccompProfile": {"type": "Localhost"}});
            s["containers"][0]["securityContext"] = json!({"privileged": true, "allowPrivilegeEscalation": false});
        },
        &[
            "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ],
    );
}

#[test]
fn updates() {
    let old = json!({"spec": {"nodeName": "n", "containers": [{"name": "a", "image": "x:1"}],
        "tolerations": [{"key": "k", "operator": "Exists"}]}});
    let errors_of = |change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new["spec"]);
        let mut errors = FieldErrors::default();
        pod_update(&new, &old, &mut errors);
        errors.messages()
    };
    assert_eq!(errors_of(&|s| s["containers"][0]["image"] = "x:2".into()), [""; 0]);
    assert_eq!(
        errors_of(
            &|s| s["tolerations"] = json!([{"key": "k", "operator": "Exists"}, {"key": "l", "operator": "Exists"}])
        ),
        [""; 0]
    );
    assert_eq!(
        errors_of(&|s| s["tolerations"] = json!([])),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
    assert_eq!(
        errors_of(&|s| s["containers"] = json!([])),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    let moved = errors_of(&|s| s["nodeName"] = "m".into());
    assert!(
        moved[0]
            .starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"),
        "{moved:?}"
    );
    assert!(moved[0].ends_with("\n  spec.nodeName: \"n\" -> \"m\""), "{moved:?}");
}
