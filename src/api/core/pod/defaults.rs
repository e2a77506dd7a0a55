//! Defaults of pods and of the pod templates inside other kinds.

use crate::quantity::Quantity;
use crate::tree::{self, default, default_zero, ensure, items, sub, text};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

type Object = Map<String, Value>;

/// Files in volumes are readable by all unless said otherwise (0644).
const DEFAULT_MODE: i64 = 0o644;

/// Volume sources of which exactly one is set, in the order in which upstream looks at them.
pub(crate) const VOLUME_SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Defaults of a pod; a template gets [`template`] alone.
pub(crate) fn pod(pod: &mut Value) {
    let pod = tree::object(pod);
    let spec = ensure(pod, "spec");
    pod_spec(spec);
    default(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork").is_some_and(tree::flag) {
        host_ports(spec);
    }
    for list in ["initContainers", "containers"] {
        items(spec, list).for_each(requests_from_limits);
    }
    pod_requests(spec);
    let Some(status) = sub(pod, "status") else { return };
    first_of(status, "podIP", "podIPs");
    first_of(status, "hostIP", "hostIPs");
}

/// Defaults of a pod template.
pub(crate) fn template(template: &mut Value) {
    pod_spec(ensure(tree::object(template), "spec"));
}

/// The older singular field and the first of the plural ones say the same.
fn first_of(status: &mut Object, single: &str, plural: &str) {
    let one = status.get(single).map_or("", text).to_owned();
    let first = status.get(plural).map_or("", |l| text(&l[0]["ip"])).to_owned();
    if !one.is_empty() && one != first {
        status.insert(plural.to_owned(), json!([{ "ip": one }]));
    } else if one.is_empty() && !first.is_empty() {
        status.insert(single.to_owned(), first.into());
    }
}

fn pod_spec(spec: &mut Object) {
    default_zero(spec, "dnsPolicy", "ClusterFirst");
    default_zero(spec, "restartPolicy", "Always");
    default_zero(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "securityContext", json!({}));
    service_account(spec);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        items(spec, list).for_each(container);
    }
    items(spec, "volumes").for_each(volume);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are always served alike.
pub(crate) fn service_account(spec: &mut Object) {
    let name = spec.get("serviceAccountName").and_then(tree::some_text);
    let Some(name) = name.or_else(|| spec.get("serviceAccount").and_then(tree::some_text)) else {
        return;
    };
    let name = Value::from(name);
    spec.insert("serviceAccountName".to_owned(), name.clone());
    spec.insert("serviceAccount".to_owned(), name);
}

fn host_ports(spec: &mut Object) {
    for list in ["initContainers", "containers"] {
        for container in items(spec, list) {
            for port in items(container, "ports") {
                let own = port.get("containerPort").cloned().unwrap_or_default();
                default_zero(port, "hostPort", own);
            }
        }
    }
}

fn container(container: &mut Object) {
    let image = container.get("image").map_or("", text);
    let policy = pull_policy(image);
    default_zero(container, "imagePullPolicy", policy);
    default_zero(container, "terminationMessagePath", "/dev/termination-log");
    default_zero(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    if let Some(resources) = sub(container, "resources") {
        resource_list(sub(resources, "limits"));
        resource_list(sub(resources, "requests"));
    }
    for port in items(container, "ports") {
        default_zero(port, "protocol", "TCP");
    }
    for env in items(container, "env") {
        let field = sub(env, "valueFrom").and_then(|v| sub(v, "fieldRef"));
        field_ref(field);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = sub(container, name) {
            default_zero(probe, "timeoutSeconds", 1);
            default_zero(probe, "periodSeconds", 10);
            default_zero(probe, "successThreshold", 1);
            default_zero(probe, "failureThreshold", 3);
            handler(probe);
        }
    }
    if let Some(lifecycle) = sub(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            sub(lifecycle, name).into_iter().for_each(handler);
        }
    }
}

fn handler(handler: &mut Object) {
    if let Some(get) = sub(handler, "httpGet") {
        default_zero(get, "path", "/");
        default_zero(get, "scheme", "HTTP");
    }
}

fn field_ref(field: Option<&mut Object>) {
    if let Some(field) = field {
        default_zero(field, "apiVersion", "v1");
    }
}

/// `Always` where the tag may move: `latest`, or no tag and no digest.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

/// Nothing finer than a thousandth can be asked for.
fn resource_list(list: Option<&mut Object>) {
    for quantity in list.into_iter().flat_map(|l| l.values_mut()) {
        let Ok(parsed) = Quantity::parse(text(quantity)) else { continue };
        if !parsed.is_milli() {
            *quantity = Quantity::from_milli(parsed.milli_value()).to_string().into();
        }
    }
}

fn requests_from_limits(container: &mut Object) {
    let Some(resources) = sub(container, "resources") else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = ensure(resources, "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
    if requests.is_empty() {
        resources.remove("requests");
    }
}

/// What the pod as a whole may use at most, it also asks for: as much as its containers do, or else
/// all of it.
fn pod_requests(spec: &mut Object) {
    let Some(limits) = spec.get("resources").and_then(|r| r["limits"].as_object()).cloned() else { return };
    let mut asked: BTreeMap<String, Quantity> = BTreeMap::new();
    for container in items(spec, "containers") {
        let requests = sub(container, "resources").and_then(|r| sub(r, "requests"));
        for (name, amount) in requests.into_iter().flatten() {
            let amount = Quantity::parse(text(amount)).unwrap_or(Quantity::ZERO);
            let sum = asked.entry(name.clone()).or_insert(Quantity::ZERO);
            *sum = *sum + amount;
        }
    }
    let requests = ensure(ensure(spec, "resources"), "requests");
    for (name, limit) in limits {
        let amount = asked.get(&name).map_or(limit, |sum| sum.to_string().into());
        requests.entry(name).or_insert(amount);
    }
    if requests.is_empty() {
        ensure(spec, "resources").remove("requests");
    }
}

fn volume(volume: &mut Object) {
    if !VOLUME_SOURCES.iter().any(|s| volume.get(*s).is_some_and(|v| !v.is_null())) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = sub(volume, source) {
            default(source, "defaultMode", DEFAULT_MODE);
        }
    }
    if let Some(downward) = sub(volume, "downwardAPI") {
        items(downward, "items").for_each(|i| field_ref(sub(i, "fieldRef")));
    }
    if let Some(projected) = sub(volume, "projected") {
        items(projected, "sources").for_each(projection);
    }
    if let Some(host_path) = sub(volume, "hostPath") {
        default(host_path, "type", "");
    }
    if let Some(disk) = sub(volume, "azureDisk") {
        default(disk, "cachingMode", "ReadWrite");
        default(disk, "kind", "Shared");
    }
    if let Some(disk) = sub(volume, "iscsi") {
        default_zero(disk, "iscsiInterface", "default");
    }
    if let Some(disk) = sub(volume, "rbd") {
        default_zero(disk, "pool", "rbd");
        default_zero(disk, "user", "admin");
        default_zero(disk, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = sub(volume, "scaleIO") {
        default_zero(disk, "storageMode", "ThinProvisioned");
        default_zero(disk, "fsType", "xfs");
    }
    if let Some(disk) = sub(volume, "azureDisk") {
        default(disk, "fsType", "ext4");
        default(disk, "readOnly", false);
    }
    if let Some(image) = sub(volume, "image") {
        let policy = pull_policy(image.get("reference").map_or("", text));
        default_zero(image, "pullPolicy", policy);
    }
    let claim = sub(volume, "ephemeral").and_then(|e| sub(e, "volumeClaimTemplate"));
    if let Some(claim) = claim {
        crate::core::persistent_volume_claim::default_spec(ensure(claim, "spec"));
    }
}

fn projection(source: &mut Object) {
    if let Some(token) = sub(source, "serviceAccountToken") {
        default(token, "expirationSeconds", 3600);
    }
    if let Some(downward) = sub(source, "downwardAPI") {
        items(downward, "items").for_each(|i| field_ref(sub(i, "fieldRef")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_pod_is_completed() {
        let mut value = json!({"spec": {"containers": [{"name": "a", "image": "nginx"}]}});
        pod(&mut value);
        let expect = json!({"spec": {
            "containers": [{"name": "a", "image": "nginx", "imagePullPolicy": "Always", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "terminationGracePeriodSeconds": 30, "securityContext": {}, "enableServiceLinks": true}});
        assert_eq!(value, expect);
        let once = value.clone();
        pod(&mut value);
        assert_eq!(value, once);
    }

    #[test]
    fn a_template_gets_no_pod_only_defaults() {
        let mut value = json!({"spec": {"hostNetwork": true, "containers": [{"name": "a", "image": "x:1",
            "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}]}});
        template(&mut value);
        let spec = &value["spec"];
        assert!(spec["enableServiceLinks"].is_null());
        assert!(spec["containers"][0]["ports"][0]["hostPort"].is_null());
        assert!(spec["containers"][0]["resources"]["requests"].is_null());
        pod(&mut value);
        assert_eq!(value["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
        assert_eq!(value["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "1"}));
    }

    #[test]
    fn requests_of_the_whole_pod() {
        let mut value = json!({"spec": {"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}, "containers": [
            {"name": "a", "image": "x:1", "resources": {"requests": {"cpu": "500m"}}},
            {"name": "b", "image": "x:1", "resources": {"requests": {"cpu": "250m"}}}]}});
        pod(&mut value);
        assert_eq!(value["spec"]["resources"]["requests"], json!({"cpu": "750m", "memory": "1Gi"}));
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        let cases = [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1.2", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
        ];
        for (image, expect) in cases {
            assert_eq!(pull_policy(image), expect, "{image}");
        }
    }

    #[test]
    fn volumes_and_probes() {
        let mut value = json!({"spec": {
            "volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "c"}},
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
            "containers": [{"name": "a", "image": "x:1", "readinessProbe": {"httpGet": {"port": 80}},
                "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}});
        template(&mut value);
        let spec = &value["spec"];
        assert_eq!(spec["volumes"][0], json!({"name": "a", "emptyDir": {}}));
        assert_eq!(spec["volumes"][1]["configMap"]["defaultMode"], 420);
        let token = &spec["volumes"][2]["projected"];
        assert_eq!(
            *token,
            json!({"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]})
        );
        let container = &spec["containers"][0];
        assert_eq!(
            container["readinessProbe"],
            json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
            "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    }
}
