//! Every field of every kind, written by us and read by an independent implementation.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::super::super::{canonical, decode_message, decode_protobuf, open_envelope};
use super::*;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as metav1;
use prost::Message;
use serde_json::{Map, Value, json};

/// An object with a value in every field; a type inside itself is left out.
fn specimen(ty: &'static Type, path: &mut Vec<&'static str>) -> Value {
    let number = path.len();
    match ty.shape {
        Shape::Quantity => return "100m".into(),
        Shape::IntOrString if number.is_multiple_of(2) => return 8080.into(),
        Shape::IntOrString => return "http".into(),
        Shape::Time => return "2006-01-02T15:04:05Z".into(),
        Shape::MicroTime => return "2006-01-02T15:04:05.000006Z".into(),
        Shape::FieldsV1 | Shape::RawExtension => return json!({"f:metadata": {}}),
        Shape::Json => return json!({"any": [1, "x"]}),
        Shape::SchemaOrBool => return Value::Bool(true),
        Shape::SchemaOrArray => return json!({"type": "string"}),
        Shape::SchemaOrStrings => return json!(["a", "b"]),
        Shape::Object => {}
    }
    path.push(ty.name);
    // A field without a tag is flattened from a struct, or JSON's alone.
    let on_wire = |field: &&Field| field.tag != 0 || ty.inline.is_some();
    let fields = ty.fields.iter().filter(|field| !field.disabled() && !matches!(field.name, "kind" | "apiVersion"));
    let fields = fields.filter(on_wire);
    let members = fields.filter_map(|field| Some((field.name.to_owned(), of_kind(field.kind, field.name, path)?)));
    let object = Value::Object(members.collect::<Map<_, _>>());
    path.pop();
    object
}

fn of_kind(kind: Kind, name: &str, path: &mut Vec<&'static str>) -> Option<Value> {
    Some(match kind {
        Kind::Str => format!("{name} \u{e9}\"\\").into(),
        Kind::I32 => (-3).into(),
        Kind::I64 => 5_000_000_000_i64.into(),
        Kind::F64 => 2.5.into(),
        Kind::Bool => true.into(),
        Kind::Bytes => "AAEC".into(),
        Kind::Object(ty) if path.contains(&ty.name) => return None,
        Kind::Object(ty) => specimen(ty, path),
        Kind::List(inner) => {
            let item = of_kind(*inner, name, path)?;
            json!([item, item])
        }
        Kind::Map(inner) => json!({"key": of_kind(*inner, name, path)?, "other": of_kind(*inner, name, path)?}),
    })
}

/// Written by us, read and written again by the other, read by us: nothing is lost or changed.
fn round_trip<T: Message + Default>(api_version: &str, kind: &str) {
    let (group, version) = meta::split_api_version(api_version);
    let ty = facts::type_by_gvk(group, version, kind).unwrap();
    let mut object = specimen(ty, &mut Vec::new());
    object["kind"] = kind.into();
    object["apiVersion"] = api_version.into();
    let body = encode_protobuf(&canonical(&object)).unwrap();
    assert_eq!(decode_protobuf(&body).unwrap().value, object, "{api_version} {kind}");
    let raw = open_envelope(&body).unwrap().raw;
    let theirs = T::decode(raw).unwrap_or_else(|error| panic!("{api_version} {kind}: {error}"));
    let mut again = decode_message(&theirs.encode_to_vec(), ty).unwrap();
    again["kind"] = kind.into();
    again["apiVersion"] = api_version.into();
    let mut lost = std::collections::BTreeSet::new();
    differences(&object, &again, "", &mut lost);
    // Fields newer than the other implementation.
    lost.retain(|path| !NEWER.iter().any(|newer| path.ends_with(newer)));
    assert!(lost.is_empty(), "{api_version} {kind}: {lost:?}");
}

const NEWER: &[&str] =
    &[".stubPKCS10Request", ".allocatedResourcesStatus.resources.message", ".volumeMounts.volumeStatus"];

fn differences(ours: &Value, theirs: &Value, path: &str, lost: &mut std::collections::BTreeSet<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                differences(value, b.get(key).unwrap_or(&Value::Null), &format!("{path}.{key}"), lost);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| differences(a, b, path, lost));
        }
        (a, b) if a == b => {}
        _ => {
            lost.insert(path.to_owned());
        }
    }
}

fn resource<T: Message + Default + k8s_pb::Resource>() {
    round_trip::<T>(T::API_VERSION, T::KIND);
}

macro_rules! check_all {
    ($($kind:ty),+) => { $(resource::<$kind>();)+ };
}

#[test]
fn every_field_of_every_kind() {
    check_all!(
        k8s_pb::api::admissionregistration::v1::MutatingWebhookConfiguration,
        k8s_pb::api::admissionregistration::v1::ValidatingAdmissionPolicy,
        k8s_pb::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        k8s_pb::api::admissionregistration::v1::ValidatingWebhookConfiguration
    );
    check_all!(
        k8s_pb::api::admissionregistration::v1alpha1::MutatingAdmissionPolicy,
        k8s_pb::api::admissionregistration::v1alpha1::MutatingAdmissionPolicyBinding
    );
    check_all!(
        k8s_pb::api::admissionregistration::v1beta1::MutatingAdmissionPolicy,
        k8s_pb::api::admissionregistration::v1beta1::MutatingAdmissionPolicyBinding
    );
    check_all!(k8s_pb::api::apiserverinternal::v1alpha1::StorageVersion);
    check_all!(
        k8s_pb::api::apps::v1::ControllerRevision,
        k8s_pb::api::apps::v1::DaemonSet,
        k8s_pb::api::apps::v1::Deployment,
        k8s_pb::api::apps::v1::ReplicaSet,
        k8s_pb::api::apps::v1::StatefulSet
    );
    check_all!(k8s_pb::api::authentication::v1::SelfSubjectReview, k8s_pb::api::authentication::v1::TokenReview);
    check_all!(
        k8s_pb::api::authorization::v1::LocalSubjectAccessReview,
        k8s_pb::api::authorization::v1::SelfSubjectAccessReview,
        k8s_pb::api::authorization::v1::SelfSubjectRulesReview,
        k8s_pb::api::authorization::v1::SubjectAccessReview
    );
    check_all!(k8s_pb::api::autoscaling::v1::HorizontalPodAutoscaler);
    check_all!(k8s_pb::api::autoscaling::v2::HorizontalPodAutoscaler);
    check_all!(k8s_pb::api::batch::v1::CronJob, k8s_pb::api::batch::v1::Job);
    check_all!(k8s_pb::api::certificates::v1::CertificateSigningRequest);
    check_all!(
        k8s_pb::api::certificates::v1beta1::ClusterTrustBundle,
        k8s_pb::api::certificates::v1beta1::PodCertificateRequest
    );
    check_all!(k8s_pb::api::coordination::v1::Lease);
    check_all!(k8s_pb::api::coordination::v1alpha2::LeaseCandidate);
    check_all!(k8s_pb::api::coordination::v1beta1::LeaseCandidate);
    check_all!(
        k8s_pb::api::core::v1::Binding,
        k8s_pb::api::core::v1::ComponentStatus,
        k8s_pb::api::core::v1::ConfigMap,
        k8s_pb::api::core::v1::Endpoints,
        k8s_pb::api::core::v1::Event,
        k8s_pb::api::core::v1::LimitRange,
        k8s_pb::api::core::v1::Namespace,
        k8s_pb::api::core::v1::Node,
        k8s_pb::api::core::v1::PersistentVolume,
        k8s_pb::api::core::v1::PersistentVolumeClaim,
        k8s_pb::api::core::v1::Pod,
        k8s_pb::api::core::v1::PodTemplate,
        k8s_pb::api::core::v1::ReplicationController,
        k8s_pb::api::core::v1::ResourceQuota,
        k8s_pb::api::core::v1::Secret,
        k8s_pb::api::core::v1::Service,
        k8s_pb::api::core::v1::ServiceAccount
    );
    check_all!(k8s_pb::api::discovery::v1::EndpointSlice);
    check_all!(k8s_pb::api::events::v1::Event);
    check_all!(k8s_pb::api::flowcontrol::v1::FlowSchema, k8s_pb::api::flowcontrol::v1::PriorityLevelConfiguration);
    check_all!(
        k8s_pb::api::networking::v1::IPAddress,
        k8s_pb::api::networking::v1::Ingress,
        k8s_pb::api::networking::v1::IngressClass,
        k8s_pb::api::networking::v1::NetworkPolicy,
        k8s_pb::api::networking::v1::ServiceCIDR
    );
    check_all!(k8s_pb::api::node::v1::RuntimeClass);
    check_all!(k8s_pb::api::policy::v1::PodDisruptionBudget);
    check_all!(
        k8s_pb::api::rbac::v1::ClusterRole,
        k8s_pb::api::rbac::v1::ClusterRoleBinding,
        k8s_pb::api::rbac::v1::Role,
        k8s_pb::api::rbac::v1::RoleBinding
    );
    check_all!(
        k8s_pb::api::resource::v1::DeviceClass,
        k8s_pb::api::resource::v1::ResourceClaim,
        k8s_pb::api::resource::v1::ResourceClaimTemplate,
        k8s_pb::api::resource::v1::ResourceSlice
    );
    check_all!(k8s_pb::api::resource::v1alpha3::DeviceTaintRule);
    check_all!(
        k8s_pb::api::resource::v1beta1::DeviceClass,
        k8s_pb::api::resource::v1beta1::ResourceClaim,
        k8s_pb::api::resource::v1beta1::ResourceClaimTemplate,
        k8s_pb::api::resource::v1beta1::ResourceSlice
    );
    check_all!(
        k8s_pb::api::resource::v1beta2::DeviceClass,
        k8s_pb::api::resource::v1beta2::ResourceClaim,
        k8s_pb::api::resource::v1beta2::ResourceClaimTemplate,
        k8s_pb::api::resource::v1beta2::ResourceSlice
    );
    check_all!(k8s_pb::api::scheduling::v1::PriorityClass);
    check_all!(
        k8s_pb::api::storage::v1::CSIDriver,
        k8s_pb::api::storage::v1::CSINode,
        k8s_pb::api::storage::v1::CSIStorageCapacity,
        k8s_pb::api::storage::v1::StorageClass,
        k8s_pb::api::storage::v1::VolumeAttachment,
        k8s_pb::api::storage::v1::VolumeAttributesClass
    );
    check_all!(k8s_pb::api::storagemigration::v1beta1::StorageVersionMigration);
    check_all!(k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition);
    check_all!(k8s_pb::kube_aggregator::pkg::apis::apiregistration::v1::APIService);
}

#[test]
fn the_kinds_of_meta() {
    round_trip::<metav1::Status>("v1", "Status");
    round_trip::<metav1::DeleteOptions>("v1", "DeleteOptions");
    round_trip::<metav1::APIVersions>("v1", "APIVersions");
    round_trip::<metav1::APIGroup>("v1", "APIGroup");
    round_trip::<metav1::APIGroupList>("v1", "APIGroupList");
    round_trip::<metav1::APIResourceList>("v1", "APIResourceList");
    round_trip::<metav1::PartialObjectMetadata>("meta.k8s.io/v1", "PartialObjectMetadata");
    round_trip::<metav1::PartialObjectMetadataList>("meta.k8s.io/v1", "PartialObjectMetadataList");
    round_trip::<k8s_pb::api::apidiscovery::v2::APIGroupDiscoveryList>(
        "apidiscovery.k8s.io/v2",
        "APIGroupDiscoveryList",
    );
    round_trip::<k8s_pb::api::core::v1::PodList>("v1", "PodList");
    round_trip::<k8s_pb::api::autoscaling::v1::Scale>("autoscaling/v1", "Scale");
    round_trip::<k8s_pb::api::authentication::v1::TokenRequest>("authentication.k8s.io/v1", "TokenRequest");
}

#[test]
fn kinds_without_a_message_say_so() {
    let error = encode_protobuf(br#"{"rows":[],"kind":"Table","apiVersion":"meta.k8s.io/v1"}"#).unwrap_err();
    assert_eq!(
        error.to_string(),
        "object *v1.Table does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
    );
    assert!(matches!(encode_protobuf(b"{}"), Err(EncodeError::Malformed(_))));
    assert!(encode_protobuf(br#"{"kind":"Pod","apiVersion":"v1","spec":3}"#).is_err());
}

#[test]
fn nulls_are_absent_and_lengths_grow() {
    let long = "x".repeat(300);
    let object = json!({"kind": "ConfigMap", "apiVersion": "v1",
        "metadata": {"name": "c", "creationTimestamp": null}, "data": {"k": long, "e": ""}});
    let body = encode_protobuf(&canonical(&object)).unwrap();
    let theirs = k8s_pb::api::core::v1::ConfigMap::decode(open_envelope(&body).unwrap().raw).unwrap();
    assert_eq!(theirs.data["k"], long);
    assert_eq!(theirs.data["e"], "");
    assert!(theirs.metadata.unwrap().creation_timestamp.is_none());
}

#[test]
fn watch_frames_carry_their_length() {
    let object = encode_protobuf(br#"{"kind":"Status","apiVersion":"v1","code":410}"#).unwrap();
    for object in [object, vec![7; 400]] {
        let frame = encode_watch_frame("ADDED", &object);
        let (length, event) = frame.split_at(4);
        assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, event.len());
        let event = metav1::WatchEvent::decode(event).unwrap();
        assert_eq!(event.r#type.as_deref(), Some("ADDED"));
        assert_eq!(event.object.unwrap().raw.unwrap(), object);
    }
}
