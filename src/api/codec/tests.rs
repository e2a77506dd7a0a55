//! Decoding as clients see it: strict paths, type errors, canonical form.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::facts::{Kind, Shape, type_by_gvk};
use proptest::prelude::*;
use serde_json::json;

fn pod(body: &str) -> Result<Decoded, DecodeError> {
    decode_json(body.as_bytes(), type_by_gvk("", "v1", "Pod").unwrap())
}

fn type_error(kind: (&str, &str, &str), body: &Value, expect: &str) {
    let error = decode_value(body, type_by_gvk(kind.0, kind.1, kind.2).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), expect);
}

#[test]
fn strict_errors_name_every_path() {
    let decoded = pod(
        r#"{"kind":"Pod","apiVersion":"v1","foo":{"a":[1]},"metadata":{"name":"a","name":"b","labels":{"x":"1","x":"2"}},
        "spec":{"bar":1,"containers":[{"name":"c"},{"name":"d","image":"i","baz":{}}]}}"#,
    )
    .unwrap();
    assert_eq!(
        decoded.strict_error().unwrap(),
        "strict decoding error: unknown field \"foo\", duplicate field \"metadata.name\", \
         duplicate field \"metadata.labels.x\", unknown field \"spec.bar\", unknown field \"spec.containers[1].baz\""
    );
    assert_eq!(
        decoded.value,
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "b", "labels": {"x": "2"}},
            "spec": {"containers": [{"name": "c"}, {"name": "d", "image": "i"}]}})
    );
}

#[test]
fn type_errors_name_the_go_struct() {
    let deployment = ("apps", "v1", "Deployment");
    type_error(
        deployment,
        &json!({"spec": {"replicas": "3"}}),
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    type_error(
        deployment,
        &json!({"spec": {"replicas": 1.5}}),
        "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    let pod = ("", "v1", "Pod");
    type_error(
        pod,
        &json!({"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}}),
        "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
    );
    type_error(
        pod,
        &json!({"metadata": {"labels": {"a": true}}}),
        "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
    );
    type_error(
        pod,
        &json!({"spec": {"containers": {}}}),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
    );
    type_error(
        pod,
        &json!({"spec": {"restartPolicy": 1}}),
        "json: cannot unmarshal number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
    );
    type_error(
        ("", "v1", "PersistentVolumeClaim"),
        &json!({"spec": {"accessModes": "x"}}),
        "json: cannot unmarshal string into Go struct field PersistentVolumeClaimSpec.spec.accessModes of type []v1.PersistentVolumeAccessMode",
    );
    type_error(
        ("certificates.k8s.io", "v1", "CertificateSigningRequest"),
        &json!({"spec": {"extra": {"a": "x"}}}),
        "json: cannot unmarshal string into Go struct field CertificateSigningRequestSpec.spec.extra of type v1.ExtraValue",
    );
    type_error(pod, &json!([]), "json: cannot unmarshal array into Go value of type v1.Pod");
    type_error(("", "v1", "Secret"), &json!({"data": {"a": "!!"}}), "illegal base64 data at input byte 0");
    type_error(
        pod,
        &json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}),
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
}

#[test]
fn syntax_comes_before_types() {
    let error = pod(r#"{"spec": 1, "#).unwrap_err();
    assert_eq!(error.to_string(), "couldn't get version/kind; json parse error: unexpected end of JSON input");
    assert_eq!(
        error.bad_request(Some(("Pod", "v1")), "Pod", br#"{"spec": 1, "#),
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; \
         json parse error: unexpected end of JSON input ({\"spec\": 1, )"
    );
    let error = pod(r#"{"spec": 1}"#).unwrap_err();
    assert_eq!(
        error.bad_request(Some(("Pod", "v1")), "Pod", b""),
        "Pod in version \"v1\" cannot be handled as a Pod: \
         json: cannot unmarshal number into Go struct field Pod.spec of type v1.PodSpec"
    );
}

#[test]
fn zeroes_that_mean_absence_are_dropped() {
    let decoded = pod(
        r#"{"metadata":{"name":"a","creationTimestamp":null,"labels":{},"annotations":{"k":null},"deletionGracePeriodSeconds":0},
        "spec":{"hostNetwork":false,"volumes":[],"terminationGracePeriodSeconds":0,"nodeName":"",
        "containers":[{"name":"","args":[""],"env":[{"name":"a","value":""}],"securityContext":{}}]}}"#,
    )
    .unwrap();
    assert_eq!(
        decoded.value,
        json!({"metadata": {"name": "a", "annotations": {"k": ""}, "deletionGracePeriodSeconds": 0},
            "spec": {"terminationGracePeriodSeconds": 0,
                "containers": [{"name": "", "args": [""], "env": [{"name": "a"}], "securityContext": {}}]}})
    );
}

#[test]
fn times_and_int_or_strings_are_normalised() {
    let decoded = pod(
        r#"{"metadata":{"creationTimestamp":"2026-01-02T03:04:05.9+01:00"},
        "spec":{"containers":[{"name":"a","readinessProbe":{"httpGet":{"port":"http"}},"livenessProbe":{"httpGet":{"port":80}}}]}}"#,
    )
    .unwrap();
    assert_eq!(decoded.value["metadata"]["creationTimestamp"], "2026-01-02T02:04:05Z");
    let container = &decoded.value["spec"]["containers"][0];
    assert_eq!(container["readinessProbe"]["httpGet"]["port"], "http");
    assert_eq!(container["livenessProbe"]["httpGet"]["port"], 80);
}

#[test]
fn schemas_of_custom_resources_are_kept() {
    let crd = json!({"spec": {"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
        "type": "object", "default": null, "enum": [null, 1, "a"],
        "properties": {"a": {"items": {"type": "string"}, "additionalProperties": true},
                       "b": {"items": [{"type": "string"}], "additionalProperties": {"type": "integer"}}},
    }}}]}});
    let decoded =
        decode_value(&crd, type_by_gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap()).unwrap();
    assert_eq!(decoded.strict, Vec::<String>::new());
    assert_eq!(decoded.value, crd);
}

#[test]
fn fields_of_features_that_are_off_are_dropped_silently() {
    let decoded = pod(r#"{"spec":{"schedulingGroup":{"podGroupName":"a"}}}"#).unwrap();
    assert_eq!(decoded.value, json!({"spec": {}}));
    assert!(decoded.strict.is_empty());
}

#[test]
fn canonical_puts_the_head_first() {
    let value = json!({"a": {"z": 1, "b": [true, null]}, "metadata": {"name": "x\n"}, "apiVersion": "v1", "kind": "K", "b": 1.5});
    let expect = r#"{"kind":"K","apiVersion":"v1","metadata":{"name":"x\n"},"a":{"b":[true,null],"z":1},"b":1.5}"#;
    assert_eq!(String::from_utf8(canonical(&value)).unwrap(), expect);
}

#[test]
fn no_type_has_more_fields_than_the_duplicate_mask() {
    let schema = crate::facts::type_by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
    assert!(schema.is_some());
    for (_, _, _, ty) in crate::facts::all_kinds() {
        assert!(ty.fields.len() <= 128, "{}", ty.name);
    }
}

#[test]
fn duplicates_are_found_without_a_type() {
    let decoded = parse_json_strict(br#"{"a":[{"b":1,"b":2}],"c":{"d":1},"c":null}"#).unwrap();
    assert_eq!(decoded.strict, ["duplicate field \"a[0].b\"", "duplicate field \"c\""]);
    assert_eq!(decoded.value, json!({"a": [{"b": 2}], "c": null}));
}

/// A value of a kind, made from a stream of numbers; what it makes is already in its normal form.
fn make(kind: Kind, numbers: &mut impl Iterator<Item = u32>, depth: u32) -> Value {
    let mut next = || numbers.next().unwrap_or(1);
    match kind {
        Kind::Str => Value::from(format!("s{}", next() % 7)),
        Kind::I32 | Kind::I64 | Kind::F64 => Value::from(next() % 100 + 1),
        Kind::Bool => Value::from(true),
        Kind::Bytes => Value::from("AAEC"),
        Kind::List(inner) => {
            let count = next() % 2 + 1;
            Value::from((0..count).map(|_| make(*inner, numbers, depth + 1)).collect::<Vec<_>>())
        }
        Kind::Map(inner) => Value::Object([("k".to_owned(), make(*inner, numbers, depth + 1))].into_iter().collect()),
        Kind::Object(ty) => match ty.shape {
            Shape::Object => {
                let mut map = Map::new();
                for field in ty.fields.iter().filter(|f| !f.disabled()) {
                    let pick = numbers.next().unwrap_or(0);
                    if depth < 7 && pick.is_multiple_of(3) {
                        map.insert(field.name.to_owned(), make(field.kind, numbers, depth + 1));
                    }
                }
                Value::Object(map)
            }
            Shape::Quantity => Value::from(["1", "100m", "1Gi", "2500Ki"][next() as usize % 4]),
            Shape::IntOrString => [Value::from(next() % 9), Value::from("25%")][next() as usize % 2].clone(),
            Shape::Time => Value::from("2026-11-21T10:00:00Z"),
            Shape::MicroTime => Value::from("2026-11-21T10:00:00.000001Z"),
            Shape::SchemaOrBool => Value::from(false),
            Shape::SchemaOrStrings => json!(["a"]),
            Shape::SchemaOrArray => json!([{"type": "string"}]),
            Shape::FieldsV1 | Shape::RawExtension | Shape::Json => json!({"x": [null, {"y": 1.5}]}),
        },
    }
}

proptest! {
    #[test]
    fn what_is_in_normal_form_stays(which in any::<prop::sample::Index>(), numbers in prop::collection::vec(any::<u32>(), 0..400)) {
        let kinds: Vec<_> = crate::facts::all_kinds().collect();
        let (_, _, _, ty) = kinds[which.index(kinds.len())];
        let value = make(Kind::Object(ty), &mut numbers.into_iter(), 0);
        let decoded = decode_json(&canonical(&value), ty).unwrap();
        prop_assert_eq!(&decoded.value, &value);
        prop_assert!(decoded.strict.is_empty());
        // Defaults are idempotent, and what they write decodes to itself plus what they wrote.
        let mut once = value;
        apply_constant_defaults(&mut once, ty);
        let mut twice = decode_json(&canonical(&once), ty).unwrap().value;
        apply_constant_defaults(&mut twice, ty);
        prop_assert_eq!(twice, once);
    }
}
