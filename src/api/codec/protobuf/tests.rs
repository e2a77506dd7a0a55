//! Protobuf bodies as other implementations write them: the messages come from an independent encoder.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::super::{decode_json, decode_value};
use super::*;
use k8s_pb::api::apps::v1 as apps;
use k8s_pb::api::authorization::v1 as authorization;
use k8s_pb::api::coordination::v1 as coordination;
use k8s_pb::api::core::v1 as core;
use k8s_pb::apimachinery::pkg::api::resource::Quantity;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as metav1;
use k8s_pb::apimachinery::pkg::runtime::{TypeMeta, Unknown};
use k8s_pb::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;
use prost::Message;
use serde_json::json;

fn s(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn body(api_version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(TypeMeta { api_version: s(api_version), kind: s(kind) }),
        raw: Some(message.encode_to_vec()),
        content_encoding: s(""),
        content_type: s(""),
    };
    [b"k8s\0".as_slice(), &unknown.encode_to_vec()].concat()
}

fn check(api_version: &str, kind: &str, message: &impl Message, expect: &Value) {
    let decoded = decode_protobuf(&body(api_version, kind, message)).unwrap();
    let mut expect = expect.clone();
    expect["kind"] = Value::from(kind);
    expect["apiVersion"] = Value::from(api_version);
    assert_eq!(decoded.value, expect);
    // What came over protobuf is what JSON would have given.
    let (group, version) = meta::split_api_version(api_version);
    let again = decode_value(&decoded.value, facts::type_by_gvk(group, version, kind).unwrap()).unwrap();
    assert_eq!((again.value, again.strict), (decoded.value, Vec::new()));
}

fn http_probe(port: IntOrString) -> core::Probe {
    core::Probe {
        handler: Some(core::ProbeHandler {
            http_get: Some(core::HttpGetAction { path: s("/ok"), port: Some(port), ..Default::default() }),
            ..Default::default()
        }),
        period_seconds: Some(5),
        ..Default::default()
    }
}

fn container() -> core::Container {
    core::Container {
        name: s("c"),
        image: s(""),
        args: vec!["a".into(), String::new()],
        stdin: Some(false),
        tty: Some(true),
        ports: vec![core::ContainerPort { container_port: Some(80), host_port: Some(0), ..Default::default() }],
        env: vec![core::EnvVar {
            name: s("E"),
            value: s(""),
            value_from: Some(core::EnvVarSource {
                secret_key_ref: Some(core::SecretKeySelector {
                    local_object_reference: Some(core::LocalObjectReference { name: s("sec") }),
                    key: s("k"),
                    optional: Some(false),
                }),
                ..Default::default()
            }),
        }],
        resources: Some(core::ResourceRequirements {
            limits: [("cpu".to_owned(), Quantity { string: s("100m") })].into(),
            ..Default::default()
        }),
        readiness_probe: Some(http_probe(IntOrString { r#type: Some(0), int_val: Some(8080), str_val: s("") })),
        liveness_probe: Some(http_probe(IntOrString { r#type: Some(1), int_val: Some(0), str_val: s("web") })),
        ..Default::default()
    }
}

#[test]
fn a_pod_with_inlined_structs() {
    let pod = core::Pod {
        metadata: Some(metav1::ObjectMeta {
            name: s("p"),
            namespace: s(""),
            labels: [("a".to_owned(), "b".to_owned()), ("empty".to_owned(), String::new())].into(),
            creation_timestamp: Some(metav1::Time { seconds: Some(1_234_567_890), nanos: Some(0) }),
            deletion_timestamp: Some(metav1::Time::default()),
            deletion_grace_period_seconds: Some(0),
            owner_references: vec![metav1::OwnerReference {
                uid: s("u"),
                controller: Some(false),
                ..Default::default()
            }],
            ..Default::default()
        }),
        spec: Some(core::PodSpec {
            containers: vec![container()],
            volumes: vec![core::Volume {
                name: s("v"),
                volume_source: Some(core::VolumeSource {
                    empty_dir: Some(core::EmptyDirVolumeSource { medium: s(""), size_limit: None }),
                    ..Default::default()
                }),
            }],
            priority: Some(-5),
            termination_grace_period_seconds: Some(-1),
            host_network: Some(false),
            ..Default::default()
        }),
        status: Some(core::PodStatus::default()),
    };
    let probe = |port: Value| json!({"httpGet": {"path": "/ok", "port": port}, "periodSeconds": 5});
    check(
        "v1",
        "Pod",
        &pod,
        &json!({
            "metadata": {"name": "p", "labels": {"a": "b", "empty": ""}, "creationTimestamp": "2009-02-13T23:31:30Z",
                "deletionGracePeriodSeconds": 0, "ownerReferences": [{"uid": "u", "controller": false}]},
            "spec": {"containers": [{
                "name": "c", "args": ["a", ""], "tty": true, "ports": [{"containerPort": 80}],
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "k", "optional": false}}}],
                "resources": {"limits": {"cpu": "100m"}},
                "readinessProbe": probe(json!(8080)), "livenessProbe": probe(json!("web")),
            }], "volumes": [{"name": "v", "emptyDir": {}}], "priority": -5, "terminationGracePeriodSeconds": -1},
            "status": {},
        }),
    );
}

#[test]
fn ephemeral_containers_are_flattened() {
    let pod = core::Pod {
        spec: Some(core::PodSpec {
            ephemeral_containers: vec![core::EphemeralContainer {
                ephemeral_container_common: Some(core::EphemeralContainerCommon {
                    name: s("d"),
                    stdin: Some(true),
                    ports: vec![core::ContainerPort { container_port: Some(1), ..Default::default() }],
                    ..Default::default()
                }),
                target_container_name: s("c"),
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let expect = json!({"spec": {"ephemeralContainers": [
        {"name": "d", "stdin": true, "ports": [{"containerPort": 1}], "targetContainerName": "c"}]}});
    check("v1", "Pod", &pod, &expect);
}

#[test]
fn bytes_are_base64_and_options_decode() {
    let secret = core::Secret {
        data: [("k".to_owned(), vec![0, 255, 1]), ("e".to_owned(), Vec::new())].into(),
        immutable: Some(false),
        ..Default::default()
    };
    check("v1", "Secret", &secret, &json!({"data": {"k": "AP8B", "e": ""}, "immutable": false}));
    let options = metav1::DeleteOptions {
        grace_period_seconds: Some(0),
        preconditions: Some(metav1::Preconditions { uid: s("u"), ..Default::default() }),
        propagation_policy: s("Background"),
        ..Default::default()
    };
    let expect = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}, "propagationPolicy": "Background"});
    check("v1", "DeleteOptions", &options, &expect);
    check("apps/v1", "DeleteOptions", &options, &expect);
}

#[test]
fn maps_of_lists_times_and_deployments() {
    let review = authorization::SubjectAccessReview {
        spec: Some(authorization::SubjectAccessReviewSpec {
            user: s("u"),
            groups: vec!["g".into()],
            extra: [("x".to_owned(), authorization::ExtraValue { items: vec!["1".into(), "2".into()] })].into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    check(
        "authorization.k8s.io/v1",
        "SubjectAccessReview",
        &review,
        &json!({"spec": {"user": "u", "groups": ["g"], "extra": {"x": ["1", "2"]}}}),
    );
    let lease = coordination::Lease {
        spec: Some(coordination::LeaseSpec {
            renew_time: Some(metav1::MicroTime { seconds: Some(0), nanos: Some(123_456_789) }),
            lease_transitions: Some(0),
            ..Default::default()
        }),
        ..Default::default()
    };
    let expect = json!({"spec": {"renewTime": "1970-01-01T00:00:00.123456Z", "leaseTransitions": 0}});
    check("coordination.k8s.io/v1", "Lease", &lease, &expect);
    let deployment = apps::Deployment {
        spec: Some(apps::DeploymentSpec {
            replicas: Some(0),
            min_ready_seconds: Some(0),
            paused: Some(false),
            template: Some(core::PodTemplateSpec::default()),
            strategy: Some(apps::DeploymentStrategy {
                r#type: s("RollingUpdate"),
                rolling_update: Some(apps::RollingUpdateDeployment {
                    max_surge: Some(IntOrString { r#type: Some(1), int_val: None, str_val: s("25%") }),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let expect = json!({"spec": {"replicas": 0, "template": {},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}}}});
    check("apps/v1", "Deployment", &deployment, &expect);
}

#[test]
fn json_inside_messages_is_kept() {
    use k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1 as crd;
    let raw = |text: &str| crd::Json { raw: Some(text.as_bytes().to_vec()) };
    let schema = crd::JsonSchemaProps {
        r#type: s("object"),
        default: Some(raw("{\"a\":1}")),
        r#enum: vec![raw("null"), raw("\"x\"")],
        additional_properties: Some(Box::new(crd::JsonSchemaPropsOrBool { allows: Some(true), schema: None })),
        items: Some(Box::new(crd::JsonSchemaPropsOrArray {
            schema: Some(Box::new(crd::JsonSchemaProps { r#type: s("string"), ..Default::default() })),
            j_son_schemas: Vec::new(),
        })),
        ..Default::default()
    };
    let ty = super::super::typed::schema_type();
    let expect = json!({"type": "object", "default": {"a": 1}, "enum": [null, "x"], "additionalProperties": true,
        "items": {"type": "string"}});
    assert_eq!(decode_message(&schema.encode_to_vec(), ty).unwrap(), expect);
}

#[test]
fn what_is_no_envelope_says_so() {
    let error = decode_protobuf(b"{}").unwrap_err().to_string();
    assert!(error.contains("does not appear to be a protobuf message"), "{error}");
    let error = decode_protobuf(&body("v9", "Pod", &core::Pod::default())).unwrap_err().to_string();
    let scheme = "pkg/api/legacyscheme/scheme.go:30";
    assert_eq!(error, format!("no kind \"Pod\" is registered for version \"v9\" in scheme {scheme:?}"));
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let pod = facts::type_by_gvk("", "v1", "Pod").unwrap();
        let _ = decode_message(&bytes, pod);
        let _ = decode_protobuf(&[b"k8s\0".as_slice(), &bytes].concat());
        let _ = decode_json(&bytes, pod);
    }

    #[test]
    fn a_damaged_pod_never_panics(at in 0usize..200, byte in any::<u8>()) {
        let pod = core::Pod { spec: Some(core::PodSpec { containers: vec![container()], ..Default::default() }), ..Default::default() };
        let mut bytes = body("v1", "Pod", &pod);
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = decode_protobuf(&bytes);
        bytes.truncate(at);
        let _ = decode_protobuf(&bytes);
    }
}
