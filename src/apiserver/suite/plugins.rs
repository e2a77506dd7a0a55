//! Admission plugins, one or two cases each, and what flags make of the list.

use super::*;
use crate::flags::Flags;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn jane() -> User {
    User::authenticated("jane", [])
}

async fn start(arguments: &[&str]) -> Server {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Server::start_with(|config| config.flags = Flags::parse(&arguments).unwrap()).await
}

#[tokio::test]
async fn nothing_is_put_into_a_namespace_that_goes() {
    let server = Server::start().await;
    let account = json!({ "metadata": { "name": "default" } });
    server.post("/api/v1/namespaces", json!({ "metadata": { "name": "going" } })).await.ok();
    server.post("/api/v1/namespaces/going/serviceaccounts", account).await.ok();
    server.post("/api/v1/namespaces/going/pods", pod("p")).await.ok();
    server.delete("/api/v1/namespaces/going").await.ok();
    let why = "unable to create new content in namespace going because it is being terminated";
    let refused = server.post("/api/v1/namespaces/going/configmaps", config_map("c")).await;
    let body = refused.refused(403, &format!("configmaps \"c\" is forbidden: {why}"));
    assert_eq!(body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let token = server.post("/api/v1/namespaces/going/serviceaccounts/default/token", json!({ "spec": {} })).await;
    token.refused(403, &format!("serviceaccounts \"default\" is forbidden: {why}"));
    // What is there may still change.
    server.merge("/api/v1/namespaces/going/pods/p", json!({ "metadata": { "labels": { "a": "b" } } })).await.ok();
    server
        .delete("/api/v1/namespaces/kube-system")
        .await
        .refused(403, "namespaces \"kube-system\" is forbidden: this namespace may not be deleted");
    server
        .post("/api/v1/namespaces/nowhere/configmaps", config_map("c"))
        .await
        .refused(404, "namespaces \"nowhere\" not found");
}

#[tokio::test]
async fn claims_get_a_class_a_finalizer_and_room_to_grow() {
    let server = Server::start().await;
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    let default = json!({ "storageclass.kubernetes.io/is-default-class": "true" });
    let class = |name: &str, grows: bool, annotations: Value| json!({ "metadata": { "name": name, "annotations": annotations }, "provisioner": "example.com/x", "allowVolumeExpansion": grows });
    server.post(classes, class("grows", true, default)).await.ok();
    server.post(classes, class("fixed", false, json!({}))).await.ok();
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str, class: Value| {
        json!({ "metadata": { "name": name }, "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "volumeName": format!("v-{name}"), "resources": { "requests": { "storage": "1Gi" } } } })
    };
    let mut unnamed = claim("a", Value::Null);
    unnamed["spec"].as_object_mut().unwrap().remove("storageClassName");
    let created = server.post(claims, unnamed).await.ok();
    assert_eq!(created["spec"]["storageClassName"], "grows");
    assert_eq!(created["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    server.post(claims, claim("b", "fixed".into())).await.ok();
    let larger = json!({ "spec": { "resources": { "requests": { "storage": "2Gi" } } } });
    let grown = async |name: &str| server.merge(&format!("{claims}/{name}"), larger.clone()).await;
    assert_eq!(grown("a").await.code / 100, 4, "not bound yet");
    for name in ["a", "b"] {
        let bound = json!({ "status": { "phase": "Bound", "capacity": { "storage": "1Gi" } } });
        server.merge(&format!("{claims}/{name}/status"), bound).await.ok();
    }
    grown("a").await.ok();
    grown("b").await.refused(
        403,
        "persistentvolumeclaims \"b\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    );
}

#[tokio::test]
async fn a_runtime_class_brings_its_overhead() {
    let server = Server::start().await;
    let class = json!({ "metadata": { "name": "heavy" }, "handler": "heavy", "overhead": { "podFixed": { "cpu": "250m" } },
        "scheduling": { "nodeSelector": { "kind": "vm" } } });
    server.post("/apis/node.k8s.io/v1/runtimeclasses", class).await.ok();
    let mut pod = pod("p");
    pod["spec"]["runtimeClassName"] = "heavy".into();
    let created = server.post(PODS, pod.clone()).await.ok();
    assert_eq!(created["spec"]["overhead"], json!({ "cpu": "250m" }));
    assert_eq!(created["spec"]["nodeSelector"], json!({ "kind": "vm" }));
    pod["spec"]["runtimeClassName"] = "none".into();
    assert_eq!(server.post(PODS, pod).await.code, 403);
}

#[tokio::test]
async fn certificates_are_issued_by_those_who_may_sign() {
    let server = Server::start().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    server.post(requests, super::admission::request("r", "example.com/x")).await.ok();
    let rule = |resource: &str, verbs: Value, names: Value| json!({ "apiGroups": ["certificates.k8s.io"], "resources": [resource], "verbs": verbs, "resourceNames": names });
    let grant = async |name: &str, rules: Value| {
        let role = json!({ "metadata": { "name": name }, "rules": rules });
        server.post(&format!("{RBAC}/clusterroles"), role).await.ok();
        let binding = json!({ "metadata": { "name": name }, "subjects": [{ "kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io" }],
            "roleRef": { "kind": "ClusterRole", "name": name, "apiGroup": "rbac.authorization.k8s.io" } });
        server.post(&format!("{RBAC}/clusterrolebindings"), binding).await.ok();
    };
    grant("status", json!([rule("certificatesigningrequests/status", json!(["patch"]), json!([]))])).await;
    let failed = json!({ "status": { "conditions": [{ "type": "Failed", "status": "True", "reason": "Because" }] } })
        .to_string();
    let uri = format!("{requests}/r/status");
    let headers = [("content-type", "application/merge-patch+json")];
    server.call_as(jane(), Method::PATCH, &uri, &headers, failed.as_bytes()).await.refused(
        403,
        "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to sign requests with signerName \"example.com/x\"",
    );
    // The right for a whole domain will do.
    grant("sign", json!([rule("signers", json!(["sign"]), json!(["example.com/*"]))])).await;
    server.call_as(jane(), Method::PATCH, &uri, &headers, failed.as_bytes()).await.ok();
}

#[tokio::test]
async fn only_declared_features_are_used_on_a_node() {
    let server = Server::start().await;
    server.post("/api/v1/nodes", json!({ "metadata": { "name": "n" } })).await.ok();
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = "n".into();
    bound["spec"]["resources"] = json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "1" } });
    server.post(PODS, bound).await.ok();
    let more = json!({ "spec": { "resources": { "requests": { "cpu": "2" }, "limits": { "cpu": "2" } } } });
    let resize = format!("{PODS}/p/resize");
    let answer = server.merge(&resize, more).await;
    let text = answer.body["message"].as_str().unwrap_or_default();
    assert!(
        answer.code / 100 == 4 && !text.is_empty(),
        "a node that declares nothing resizes no pod as a whole: {} {}",
        answer.code,
        answer.body
    );
}

#[tokio::test]
async fn pod_security_has_defaults_and_exemptions_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("admission.yaml");
    let configuration = "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\n\
        defaults: {enforce: baseline, warn: restricted}\n\
        exemptions: {usernames: [jane], namespaces: [free], runtimeClasses: [vm]}\n";
    std::fs::write(dir.path().join("pods.yaml"), configuration).unwrap();
    let plugins = "plugins: [{name: PodSecurity, path: pods.yaml}]";
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";
    std::fs::write(&file, format!("{head}{plugins}\n")).unwrap();
    let server = start(&[&format!("admission-control-config-file={}", file.display())]).await;
    let mut privileged = pod("p");
    privileged["spec"]["hostNetwork"] = true.into();
    let answer = server.post(PODS, privileged.clone()).await;
    assert_eq!(answer.code, 403);
    let message = answer.body["message"].as_str().unwrap();
    assert!(
        message.contains("violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"),
        "{message}"
    );
    // A label counts more than the default.
    let labels =
        json!({ "metadata": { "name": "free", "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
    let made = server.post("/api/v1/namespaces", labels).await;
    let policy = "enforce=restricted:latest";
    assert_eq!(
        made.warnings,
        [format!("namespace \"free\" is exempt from Pod Security, and the policy ({policy}) will be ignored")]
    );
    server.post("/api/v1/namespaces/free/serviceaccounts", json!({ "metadata": { "name": "default" } })).await.ok();
    let answer = server.post("/api/v1/namespaces/free/pods", privileged.clone()).await;
    assert!(answer.warnings.is_empty(), "{:?}", answer.warnings);
    answer.ok();
    let masters = User::authenticated("jane", ["system:masters".to_owned()]);
    let body = privileged.to_string();
    server.call_as(masters, Method::POST, PODS, &[("content-type", "application/json")], body.as_bytes()).await.ok();
    server
        .post("/apis/node.k8s.io/v1/runtimeclasses", json!({ "metadata": { "name": "vm" }, "handler": "vm" }))
        .await
        .ok();
    privileged["metadata"]["name"] = "q".into();
    privileged["spec"]["runtimeClassName"] = "vm".into();
    server.post(PODS, privileged).await.ok();
    let wrong = format!("{head}plugins: [{{name: EventRateLimit, configuration: {{}}}}]\n");
    std::fs::write(&file, wrong).unwrap();
    let error = crate::admission::Configuration::read(Some(&file)).unwrap_err();
    assert_eq!(error, format!("{}: plugin \"EventRateLimit\" cannot be configured here", file.display()));
}

#[tokio::test]
async fn accounts_may_limit_the_secrets_of_their_pods() {
    let server = Server::start().await;
    let annotations = json!({ "kubernetes.io/enforce-mountable-secrets": "true" });
    let account =
        json!({ "metadata": { "name": "strict", "annotations": annotations }, "secrets": [{ "name": "known" }] });
    server.post("/api/v1/namespaces/default/serviceaccounts", account).await.ok();
    let with = |spec: Value| {
        let mut pod = pod("p");
        pod["spec"]["serviceAccountName"] = "strict".into();
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        pod
    };
    let container = |rest: Value| {
        let mut container = json!({ "name": "c", "image": "i" });
        for (key, value) in rest.as_object().unwrap() {
            container[key] = value.clone();
        }
        with(json!({ "containers": [container] }))
    };
    let why = "is not allowed because service account strict does not reference that";
    let cases = [
        (
            with(json!({ "volumes": [{ "name": "v", "secret": { "secretName": "other" } }] })),
            format!("volume with secret.secretName=\"other\" {why} secret"),
        ),
        (
            container(
                json!({ "env": [{ "name": "E", "valueFrom": { "secretKeyRef": { "name": "other", "key": "k" } } }] }),
            ),
            format!("container c with envVar E referencing secret.secretName=\"other\" {why} secret"),
        ),
        (
            container(json!({ "envFrom": [{ "secretRef": { "name": "other" } }] })),
            format!("container c with envFrom referencing secret.secretName=\"other\" {why} secret"),
        ),
        (
            with(json!({ "imagePullSecrets": [{ "name": "other" }] })),
            format!("imagePullSecrets[0].name=\"other\" {why} imagePullSecret"),
        ),
    ];
    for (pod, why) in cases {
        server.post(PODS, pod).await.refused(403, &format!("pods \"p\" is forbidden: {why}"));
    }
    server.post(PODS, with(json!({ "volumes": [{ "name": "v", "secret": { "secretName": "known" } }] }))).await.ok();
}

#[tokio::test]
async fn what_admission_computed_survives_a_manifest_written_again() {
    let server = Server::start().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = json!({ "metadata": { "name": "high" }, "value": 7, "preemptionPolicy": "Never" });
    server.post(classes, class).await.ok();
    let mut high = pod("p");
    high["spec"]["priorityClassName"] = "high".into();
    let mut wrong = high.clone();
    wrong["spec"]["preemptionPolicy"] = "PreemptLowerPriority".into();
    server.post(PODS, wrong).await.refused(
        403,
        "pods \"p\" is forbidden: the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority admission controller computed Never from the given PriorityClass name",
    );
    let mut made = server.post(PODS, high).await.ok();
    let tolerations = made["spec"]["tolerations"].clone();
    for field in ["priority", "preemptionPolicy", "tolerations"] {
        made["spec"].as_object_mut().unwrap().remove(field);
    }
    let again = server.put(&format!("{PODS}/p"), made).await.ok();
    assert_eq!(
        (again["spec"]["priority"].as_i64(), again["spec"]["preemptionPolicy"].as_str()),
        (Some(7), Some("Never"))
    );
    assert_eq!(again["spec"]["tolerations"], tolerations);
}

#[tokio::test]
async fn plugins_that_flags_add() {
    let server = start(&[
        "enable-admission-plugins=AlwaysPullImages,DenyServiceExternalIPs",
        "enable-admission-plugins=LimitPodHardAntiAffinityTopology,ExtendedResourceToleration",
    ])
    .await;
    let mut wants = pod("p");
    wants["spec"]["containers"][0]["imagePullPolicy"] = "Never".into();
    wants["spec"]["containers"][0]["resources"] = json!({ "limits": { "example.com/gpu": "1" } });
    let created = server.post(PODS, wants).await.ok();
    assert_eq!(created["spec"]["containers"][0]["imagePullPolicy"], "Always");
    let tolerations = created["spec"]["tolerations"].as_array().unwrap();
    assert!(tolerations.contains(&json!({ "key": "example.com/gpu", "operator": "Exists" })), "{tolerations:?}");
    let service =
        json!({ "metadata": { "name": "s" }, "spec": { "externalIPs": ["192.0.2.9"], "ports": [{ "port": 80 }] } });
    server
        .post("/api/v1/namespaces/default/services", service)
        .await
        .refused(403, "services \"s\" is forbidden: Use of external IPs is denied by admission control.");
    let mut alone = pod("alone");
    let term = json!({ "labelSelector": {}, "topologyKey": "zone" });
    alone["spec"]["affinity"] =
        json!({ "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [term] } });
    server.post(PODS, alone).await.refused(
        403,
        "pods \"alone\" is forbidden: affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key kubernetes.io/hostname is allowed",
    );
}

#[tokio::test]
async fn plugins_that_nobody_knows_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("db"), Options::default()).unwrap();
    let mut config = Config::new(store, key_pem(), [192, 0, 2, 1].into());
    config.flags = Flags::parse(&["enable-admission-plugins=Magic".to_owned()]).unwrap();
    let error = ApiServer::new(config, Shutdown::new()).await.err().unwrap().to_string();
    assert_eq!(error, "admission plugins: enable-admission-plugins plugin \"Magic\" is unknown");
}

#[tokio::test]
async fn events_go_when_they_are_old() {
    let server = Server::start().await;
    let events = "/api/v1/namespaces/default/events";
    let event = json!({ "metadata": { "name": "e", "namespace": "default" }, "reason": "R", "type": "Normal",
        "involvedObject": { "kind": "Pod", "namespace": "default", "name": "p" }, "lastTimestamp": "2001-01-01T00:00:00Z" });
    server.post(events, event).await.ok();
    let (now, hour) = (crate::clock::now_seconds(), std::time::Duration::from_secs(3600));
    crate::event_expiry::sweep(server.state(), now, hour).await;
    server.get(&format!("{events}/e")).await.ok();
    crate::event_expiry::sweep(server.state(), now + 3700, hour).await;
    assert_eq!(server.get(&format!("{events}/e")).await.code, 404);
}
