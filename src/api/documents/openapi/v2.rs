//! OpenAPI version 2: one document of all group-versions, made from those of version 3.

use super::{plain, v3_at, v3_path};
use crate::documents::served;
use crate::registry::Resource;
use serde_json::{Map, Value, json};

/// `/openapi/v2`.
pub fn v2(resources: &[&Resource], server_version: &str) -> Value {
    let mut paths = Map::new();
    let mut definitions = Map::new();
    let mut security = Value::Null;
    let versions = served(resources).into_iter().map(|(group, version)| v3_path(group, version));
    for path in versions.chain(plain::paths(resources)) {
        let Some(mut document) = v3_at(resources, &path, server_version) else { continue };
        for (path, item) in taken(&mut document["paths"]) {
            paths.insert(path, path_item(item));
        }
        for (name, schema) in taken(&mut document["components"]["schemas"]) {
            definitions.entry(name).or_insert_with(|| self::schema(schema));
        }
        security = document["components"]["securitySchemes"].take();
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": server_version},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": security,
        "security": [{"BearerToken": []}],
    })
}

/// The members of an object, moved out of it.
fn taken(value: &mut Value) -> Map<String, Value> {
    match value.take() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn path_item(mut item: Value) -> Value {
    let members = taken(&mut item).into_iter().map(|(key, value)| {
        let value = if key == "parameters" { parameters(value) } else { operation(value) };
        (key, value)
    });
    Value::Object(members.collect())
}

/// Version 2 has a parameter's type beside its name.
fn parameters(list: Value) -> Value {
    let Value::Array(mut list) = list else { return list };
    for parameter in &mut list {
        let schema = taken(&mut parameter["schema"]);
        if let Value::Object(parameter) = parameter {
            parameter.remove("schema");
            parameter.extend(schema);
        }
    }
    Value::Array(list)
}

/// The body becomes a parameter, and the media types leave the bodies for the operation.
fn operation(mut value: Value) -> Value {
    let mut out = taken(&mut value);
    out.insert("schemes".into(), json!(["https"]));
    let mut list = match out.remove("parameters").map(parameters) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let mut consumes = vec![Value::from("*/*")];
    if let Some(mut body) = out.remove("requestBody") {
        let (types, schema) = content(&mut body);
        consumes = types;
        let mut parameter = json!({"in": "body", "name": "body", "schema": schema});
        if body["required"] == true {
            parameter["required"] = Value::from(true);
        }
        list.push(parameter);
    }
    out.insert("consumes".into(), Value::from(consumes));
    list.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    if !list.is_empty() {
        out.insert("parameters".into(), Value::from(list));
    }
    let mut produces = Vec::new();
    if let Some(answers) = out.get_mut("responses").and_then(Value::as_object_mut) {
        for answer in answers.values_mut() {
            let (types, schema) = content(answer);
            if let Value::Object(answer) = answer {
                answer.remove("content");
                if !schema.is_null() {
                    answer.insert("schema".into(), schema);
                }
            }
            if produces.is_empty() {
                produces = types;
            }
        }
    }
    if out.get("x-kubernetes-action").is_none() {
        out.insert("consumes".into(), Value::from(produces.clone()));
    }
    out.insert("produces".into(), Value::from(produces));
    Value::Object(out)
}

/// The media types of a body, and its schema, which is the same in all of them.
fn content(body: &mut Value) -> (Vec<Value>, Value) {
    let mut found = Value::Null;
    let mut types = Vec::new();
    for (media, mut value) in taken(&mut body["content"]) {
        types.push(Value::from(media));
        if found.is_null() {
            found = schema(value["schema"].take());
        }
    }
    types.sort_by_key(|media| MEDIA.iter().position(|known| media == known));
    (types, found)
}

/// Media types in the order in which operations name them.
const MEDIA: [&str; 10] = [
    "text/plain",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// Version 2 has neither `oneOf` nor defaults here, and a reference stands beside its description.
fn schema(mut value: Value) -> Value {
    let mut out = taken(&mut value);
    out.remove("default");
    if out.remove("oneOf").is_some() {
        // What is a number or a string is a string to clients of version 2.
        out.insert("type".into(), Value::from("string"));
    }
    if let Some(all) = out.remove("allOf").as_mut().and_then(Value::as_array_mut) {
        out.extend(all.iter_mut().flat_map(taken));
    }
    if let Some(Value::String(target)) = out.get_mut("$ref") {
        *target = target.replacen("#/components/schemas/", "#/definitions/", 1);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = out.get_mut(key) {
            *inner = schema(inner.take());
        }
    }
    if let Some(properties) = out.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|property| *property = schema(property.take()));
    }
    Value::Object(out)
}
