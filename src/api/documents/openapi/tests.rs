//! What kubectl reads in the documents.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::registry::RESOURCES;

fn references(value: &Value, schemas: &Value, root: &str, path: &str) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                let name = name.strip_prefix(root).unwrap();
                assert!(schemas.get(name).is_some(), "{path} refers to {name}");
            }
            map.iter().for_each(|(k, v)| references(v, schemas, root, &format!("{path}/{k}")));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, schemas, root, path)),
        _ => {}
    }
}

#[test]
fn every_reference_resolves() {
    for (group, version) in served(RESOURCES) {
        let document = v3(RESOURCES, group, version, "v1.36.0").unwrap();
        references(&document, &document["components"]["schemas"], "#/components/schemas/", group);
        let mut ids = std::collections::BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values().filter_map(|o| o.get("operationId")) {
                assert!(ids.insert(operation.to_string()), "{path}: {operation} is there twice");
            }
        }
    }
}

#[test]
fn pods_have_what_kubectl_looks_for() {
    let document = v3(RESOURCES, "", "v1", "v1.36.0").unwrap();
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(patch["operationId"], "patchCoreV1NamespacedPod");
    let named = |p: &Value| p["name"] == "fieldValidation" && p["in"] == "query";
    assert!(patch["parameters"].as_array().unwrap().iter().any(named));
    assert_eq!(document["paths"]["/api/v1/pods"]["get"]["operationId"], "listCoreV1PodForAllNamespaces");
    let exec = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"]["get"];
    assert_eq!(exec["x-kubernetes-action"], "connect");

    let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"];
    let containers = &spec["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert!(containers["description"].as_str().unwrap().starts_with("List of containers belonging to the pod."));
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(containers["items"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
    assert_eq!(spec["required"], json!(["containers"]));
    assert_eq!(spec["properties"]["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    let pod = &document["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["x-kubernetes-group-version-kind"], json!([{"group": "", "version": "v1", "kind": "Pod"}]));
}

#[test]
fn the_index_names_each_group_version() {
    let index = v3_index(RESOURCES, |_| "H".into());
    assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], "/openapi/v3/apis/apps/v1?hash=H");
    assert!(index["paths"].get("api/v1").is_some());
    assert!(v3(RESOURCES, "nope", "v1", "v1.36.0").is_none());
}

#[test]
fn version_2_has_every_kind_and_its_references_resolve() {
    let document = v2(RESOURCES, "v1.36.0");
    assert_eq!(document["swagger"], "2.0");
    let definitions = &document["definitions"];
    references(&document, definitions, "#/definitions/", "");
    for resource in RESOURCES {
        let kinds = definitions[resource.type_name]["x-kubernetes-group-version-kind"].as_array();
        let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
        assert!(kinds.is_some_and(|kinds| kinds.contains(&kind)), "{}", resource.type_name);
    }
    let containers = &definitions["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["items"], json!({"$ref": "#/definitions/io.k8s.api.core.v1.Container"}));
    assert_eq!(definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"], "string");
    let pods = &document["paths"]["/api/v1/namespaces/{namespace}/pods"];
    assert_eq!(pods["parameters"][0]["type"], "string");
    let parameters = pods["post"]["parameters"].as_array().unwrap();
    let schema = json!({"$ref": "#/definitions/io.k8s.api.core.v1.Pod"});
    let body = json!({"in": "body", "name": "body", "required": true, "schema": schema});
    assert_eq!(parameters.first(), Some(&body));
    assert_eq!(pods["post"]["responses"]["201"]["schema"], schema);
    assert_eq!(pods["post"]["x-kubernetes-action"], "post");
}

/// The fields of a message with their bytes; all that the test looks at is length-delimited.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let varint = |bytes: &mut &[u8]| {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (byte, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    };
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        if tag & 7 == 0 {
            varint(&mut bytes);
            continue;
        }
        assert_eq!(tag & 7, 2);
        let length = usize::try_from(varint(&mut bytes)).unwrap();
        let (value, rest) = bytes.split_at(length);
        found.push((tag >> 3, value));
        bytes = rest;
    }
    found
}

#[test]
fn the_protobuf_form_says_the_same() {
    let schema = json!({"type": "object", "properties": {"a": {"$ref": "#/definitions/B"}}, "x-kubernetes-k": "v"});
    let parameters = json!([{"in": "query", "name": "q", "type": "string", "uniqueItems": true}]);
    let paths = json!({"/p": {"get": {"operationId": "o", "parameters": parameters}}});
    let bytes = encode_v2(&json!({"swagger": "2.0", "paths": paths, "definitions": {"A": schema}}));
    let one = |bytes, number: u64| fields(bytes).into_iter().find(|(n, _)| *n == number).unwrap().1;
    assert_eq!(one(&bytes, 1), b"2.0");
    let entry = one(one(&bytes, 9), 1);
    assert_eq!(one(entry, 1), b"A");
    let schema = one(entry, 2);
    assert_eq!(one(one(schema, 22), 1), b"object");
    let property = one(one(schema, 25), 1);
    assert_eq!((one(property, 1), one(one(property, 2), 1)), (&b"a"[..], &b"#/definitions/B"[..]));
    let extension = one(schema, 31);
    assert_eq!((one(extension, 1), one(one(extension, 2), 2)), (&b"x-kubernetes-k"[..], &b"\"v\""[..]));
    let operation = one(one(one(one(&bytes, 8), 2), 2), 2);
    assert_eq!(one(operation, 5), b"o");
    let query = one(one(one(one(operation, 8), 1), 2), 3);
    assert_eq!((one(query, 4), one(query, 6)), (&b"q"[..], &b"string"[..]));
}

#[test]
fn the_protobuf_form_of_version_3_refers_as_the_json_does() {
    let schema = json!({
        "type": "object",
        "properties": {"a": {"allOf": [{"$ref": "#/components/schemas/B"}], "default": {}}, "n": {"default": 1}},
    });
    let bytes = encode_v3(&json!({
        "openapi": "3.0.0",
        "paths": {"/p": {"get": {"operationId": "o", "responses": {"200": {"description": "OK"}}}}},
        "components": {"schemas": {"A": schema}},
    }));
    let one = |bytes, number: u64| fields(bytes).into_iter().find(|(n, _)| *n == number).unwrap().1;
    assert_eq!(one(&bytes, 1), b"3.0.0");
    let entry = one(one(one(&bytes, 5), 1), 1);
    assert_eq!(one(entry, 1), b"A");
    let schema = one(one(entry, 2), 1);
    assert_eq!(one(schema, 25), b"object");
    let property = one(one(one(schema, 31), 1), 2);
    let all_of = one(one(property, 1), 26);
    assert_eq!(one(one(all_of, 2), 1), b"#/components/schemas/B");
    let operation = one(one(one(one(&bytes, 4), 1), 2), 4);
    assert_eq!(one(operation, 5), b"o");
    let response = one(one(operation, 8), 2);
    assert_eq!((one(response, 1), one(one(one(response, 2), 1), 1)), (&b"200"[..], &b"OK"[..]));
}

#[test]
fn every_operation_says_what_it_does_and_what_it_takes() {
    let document = v3(RESOURCES, "", "v1", "v1.36.0").unwrap();
    let pods = &document["paths"]["/api/v1/namespaces/{namespace}/pods"];
    assert_eq!(pods["get"]["description"], "list or watch objects of kind Pod");
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect()
    };
    // What all operations of a path take is said once.
    assert_eq!(names(&pods["parameters"]), ["namespace", "pretty"]);
    assert_eq!(names(&pods["post"]["parameters"]), ["dryRun", "fieldManager", "fieldValidation"]);
    let watch = &document["paths"]["/api/v1/watch/namespaces/{namespace}/pods/{name}"]["get"];
    assert_eq!(watch["operationId"], "watchCoreV1NamespacedPod");
    let exec = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"];
    assert!(names(&exec["parameters"]).contains(&"command".to_owned()));
    let every = |value: &Value| value.get("operationId").is_none() || value["description"].is_string();
    for path in v3_index(RESOURCES, |_| String::new())["paths"].as_object().unwrap().keys() {
        let document = v3_at(RESOURCES, path, "v1.36.0").unwrap();
        let items = document["paths"].as_object().unwrap();
        assert!(items.values().flat_map(|item| item.as_object().unwrap().values()).all(every), "{path}");
    }
}
