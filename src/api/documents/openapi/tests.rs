//! What kubectl reads in the documents.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::registry::RESOURCES;

#[test]
fn every_reference_resolves() {
    fn walk(value: &Value, schemas: &Value, path: &str) {
        match value {
            Value::Object(map) => {
                if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                    let name = name.strip_prefix("#/components/schemas/").unwrap();
                    assert!(schemas.get(name).is_some(), "{path} refers to {name}");
                }
                map.iter().for_each(|(k, v)| walk(v, schemas, &format!("{path}/{k}")));
            }
            Value::Array(list) => list.iter().for_each(|v| walk(v, schemas, path)),
            _ => {}
        }
    }
    for (group, version) in served(RESOURCES) {
        let document = v3(RESOURCES, group, version, "v1.36.0").unwrap();
        walk(&document, &document["components"]["schemas"], group);
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
    let index = v3_index(RESOURCES, |_, _| "H".into());
    assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], "/openapi/v3/apis/apps/v1?hash=H");
    assert!(index["paths"].get("api/v1").is_some());
    assert!(v3(RESOURCES, "nope", "v1", "v1.36.0").is_none());
}
