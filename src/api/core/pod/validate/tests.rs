//! The texts of what can be wrong with a pod.

use super::*;
use serde_json::json;

/// A change, and the error that it has to bring.
type Case<'a> = (&'a dyn Fn(&mut Value), &'a str);

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
            "spec.containers[1].name: Duplicate value: \"a\"",
            "spec.containers[1].image: Invalid value: \" x\": must not have leading or trailing whitespace",
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
            "spec.containers[0].env[3].valueFrom.configMapKeyRef.name: Invalid value: \"\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
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
            "spec.volumes[2].configMap.name: Required value",
            "spec.volumes[2].configMap.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
            "spec.volumes[3].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes",
            "spec.volumes[3].projected.path: Invalid value: \"../t\": must not contain '..'",
            "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"/x/..\": must be a relative path",
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"/x/..\": must not contain '..'",
            "spec.volumes[3].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
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
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: Required value: can not be empty",
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: Invalid value: \"\": name part must be non-empty",
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.hostname: Invalid value: \"a.b\": must not contain dots",
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
            "spec.containers[0].securityContext: Invalid value: {\"Capabilities\":null,\"Privileged\":true,\"SELinuxOptions\":null,\"WindowsOptions\":null,\"RunAsUser\":null,\"RunAsGroup\":null,\"RunAsNonRoot\":null,\"ReadOnlyRootFilesystem\":null,\"AllowPrivilegeEscalation\":false,\"ProcMount\":null,\"SeccompProfile\":null,\"AppArmorProfile\":null}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
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
    assert!(moved[0].contains("\n- \"NodeName\": \"n\",\n+ \"NodeName\": \"m\",\n"), "{moved:?}");
}

#[test]
fn gated_pods_narrow_where_they_may_run() {
    let old = json!({"spec": {"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "1"},
        "containers": [{"name": "a", "image": "x:1"}]}});
    let errors_of = |change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new["spec"]);
        let mut errors = FieldErrors::default();
        pod_update(&new, &old, &mut errors);
        errors.messages()
    };
    assert_eq!(errors_of(&|s| s["nodeSelector"]["b"] = "2".into()), [""; 0]);
    assert_eq!(
        errors_of(&|s| s["nodeSelector"] = json!({"b": "2"})),
        [
            "spec.nodeSelector: Invalid value: {\"b\":\"2\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)"
        ]
    );
    assert_eq!(
        errors_of(&|s| s["schedulingGates"] = json!([{"name": "h"}])),
        ["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'h'"]
    );
}

#[test]
fn only_new_pods() {
    let mut errors = FieldErrors::default();
    let pod =
        json!({"spec": {"ephemeralContainers": [{"name": "d"}], "nodeName": "n", "schedulingGates": [{"name": "g"}]}});
    pod_create(&pod, &mut errors);
    assert_eq!(
        errors.messages(),
        [
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ]
    );
}

#[test]
fn containers_for_debugging_only_come() {
    let old = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}],
        "ephemeralContainers": [{"name": "d", "image": "x"}]}});
    let mut new =
        json!({"metadata": {"name": "q"}, "spec": {"containers": [], "ephemeralContainers": [{"name": "e"}]}});
    prepare_ephemeral_containers(&mut new, &old);
    assert_eq!(new["metadata"]["name"], "p");
    assert_eq!(new["spec"]["containers"], old["spec"]["containers"]);
    let mut errors = FieldErrors::default();
    ephemeral_containers(&new, &old, &mut errors);
    assert_eq!(
        errors.messages(),
        ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be removed\n"]
    );
    check(
        |s| {
            s["ephemeralContainers"] = json!([{"name": "a", "image": "x", "targetContainerName": "b",
                "ports": [{"containerPort": 1}], "resources": {"limits": {"cpu": "1"}}}]);
        },
        &[
            "spec.ephemeralContainers[0].name: Duplicate value: \"a\"",
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"b\"",
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers[0].resources: Forbidden: cannot be set for an Ephemeral Container",
        ],
    );
}

#[test]
fn resizes() {
    let old = json!({"metadata": {"name": "p"}, "status": {"qosClass": "Burstable"}, "spec": {"containers": [
        {"name": "a", "image": "x", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
        "initContainers": [{"name": "i", "image": "x", "resources": {}}]}});
    let errors_of = |change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new["spec"]);
        prepare_resize(&mut new, &old);
        let mut errors = FieldErrors::default();
        resize(&new, &old, &mut errors);
        errors.messages()
    };
    assert_eq!(errors_of(&|s| s["containers"][0]["resources"]["requests"]["cpu"] = "2".into()), [""; 0]);
    assert_eq!(errors_of(&|s| s["containers"][0]["image"] = "y".into()), [""; 0], "all else is left as it is");
    let cases: &[Case<'_>] = &[
        (
            &|s| s["containers"][0]["resources"]["requests"] = json!({"cpu": "1"}),
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
        ),
        (
            &|s| s["containers"][0]["resources"]["requests"]["ephemeral-storage"] = "1Gi".into(),
            "spec: Forbidden: only cpu and memory resources are mutable",
        ),
        (
            &|s| s["initContainers"][0]["resources"] = json!({"requests": {"cpu": "1"}}),
            "spec: Forbidden: resources for non-sidecar init containers are immutable",
        ),
        (
            &|s| s["containers"][0]["resources"] = json!({}),
            "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
        ),
        (
            &|s| s["containers"][0]["name"] = "b".into(),
            "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize",
        ),
        (
            &|s| s["containers"] = json!([]),
            "spec.containers: Forbidden: containers may not be added or removed on resize",
        ),
    ];
    for (change, expect) in cases {
        let found = errors_of(change);
        assert!(found.iter().any(|e| e == expect), "{found:?} has not {expect:?}");
    }
}

#[test]
fn statuses() {
    let ended = |code: i64| json!([{"name": "a", "state": {"terminated": {"exitCode": code}}}]);
    let old = json!({"spec": {"nodeName": "n", "restartPolicy": "OnFailure", "containers": [{"name": "a"}]},
        "status": {"qosClass": "Burstable", "containerStatuses": ended(0)}});
    let errors_of = |change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new["status"]);
        let mut errors = FieldErrors::default();
        pod_status(&new, &old, &mut errors);
        errors.messages()
    };
    assert_eq!(errors_of(&|_| ()), [""; 0]);
    let cases: &[Case<'_>] = &[
        (
            &|s| s["qosClass"] = "Guaranteed".into(),
            "status.qosClass: Invalid value: \"Guaranteed\": field is immutable",
        ),
        (
            &|s| s["containerStatuses"] = json!([{"name": "a", "state": {"running": {}}}]),
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
        ),
        (
            &|s| s["nominatedNodeName"] = "m".into(),
            "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node",
        ),
        (
            &|s| s["observedGeneration"] = (-1).into(),
            "status.observedGeneration: Invalid value: -1: must be a non-negative integer",
        ),
        (
            &|s| s["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]),
            "status.podIPs: Invalid value: [{\"IP\":\"10.0.0.1\"},{\"IP\":\"10.0.0.2\"}]: may specify no more than one IP for each IP family",
        ),
        (
            &|s| s["resourceClaimStatuses"] = json!([{"name": "c"}]),
            "status.resourceClaimStatuses[0].name: Invalid value: \"c\": must match the name of an entry in `spec.resourceClaims`",
        ),
    ];
    for (change, expect) in cases {
        assert_eq!(errors_of(change), [*expect]);
    }
}

#[test]
fn fields_of_an_operating_system() {
    check(
        |s| {
            s["os"] = json!({"name": "windows"});
            s["hostPID"] = true.into();
            s["containers"][0]["securityContext"] = json!({"runAsUser": 1});
        },
        &[
            "spec.hostPID: Forbidden: cannot be set for a windows pod",
            "spec.containers[0].securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
        ],
    );
    check(
        |s| s["os"] = json!({"name": "plan9"}),
        &["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
    );
}

#[test]
fn users_of_its_own_and_the_host() {
    check(
        |s| {
            s["hostUsers"] = false.into();
            s["hostNetwork"] = true.into();
            s["hostPID"] = true.into();
        },
        &[
            "spec.hostNetwork: Forbidden: when `hostUsers` is false",
            "spec.HostPID: Forbidden: when `hostUsers` is false",
        ],
    );
    check(
        |s| s["containers"][0]["securityContext"] = json!({"procMount": "Unmasked"}),
        &[
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
        ],
    );
}

#[test]
fn the_whole_pods_resources() {
    check(
        |s| {
            s["resources"] = json!({"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}, "limits": {"cpu": "1"}});
            s["containers"][0]["resources"] = json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2"}});
        },
        &[
            "spec.resources.requests[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
            "spec.resources.containers[0][cpu].limits: Invalid value: \"2\": must be less than or equal to pod limits of 1",
        ],
    );
    check(
        |s| s["containers"][0]["resources"] = json!({"limits": {"hugepages-2Mi": "3Mi", "cpu": "1"}}),
        &[
            "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
            "spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
        ],
    );
}

#[test]
fn restarts_of_containers() {
    check(
        |s| s["containers"][0]["restartPolicyRules"] = json!([{"action": "Stop", "exitCodes": {"operator": "Eq"}}]),
        &[
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"Stop\": supported values: \"Restart\"",
            "spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Eq\": supported values: \"In\", \"NotIn\"",
        ],
    );
}
