//! OpenAPI: version 3 per group-version, and its index; version 2 from those, as JSON and protobuf.

mod gnostic;
mod gnostic_v3;
mod metrics;
mod operation;
mod parameters;
mod paths;
mod plain;
mod schema;
mod v2;

use super::{resources_of, served};
use crate::facts;
use crate::meta::join_api_version;
use crate::registry::Resource;
use serde_json::{Map, Value, json};

pub use gnostic::encode_v2;
pub use gnostic_v3::encode_v3;
pub use v2::v2;

/// The media type of a version 3 document.
pub const CONTENT_TYPE: &str = "application/json";

/// `/openapi/v3`: where each document is. `hash` gives the hash of a path's document, by which clients cache it.
pub fn v3_index(resources: &[&Resource], hash: impl Fn(&str) -> String) -> Value {
    let versions = served(resources).into_iter().map(|(group, version)| v3_path(group, version));
    let url = |path: String| {
        let url = format!("/openapi/v3/{path}?hash={}", hash(&path));
        (path, json!({"serverRelativeURL": url}))
    };
    let paths: Map<String, Value> = versions.chain(plain::paths(resources)).map(url).collect();
    json!({"paths": paths})
}

/// `api/v1` or `apis/GROUP/VERSION`.
pub fn v3_path(group: &str, version: &str) -> String {
    let root = if group.is_empty() { "api" } else { "apis" };
    format!("{root}/{}", join_api_version(group, version))
}

/// The document at a path of the index: of a group-version, or of one of the plain paths.
pub fn v3_at(resources: &[&Resource], path: &str, server_version: &str) -> Option<Value> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["api", version] => v3(resources, "", version, server_version),
        ["apis", group, version] => v3(resources, group, version, server_version),
        _ => v3_plain(resources, path, server_version),
    }
}

fn v3_plain(resources: &[&Resource], path: &str, server_version: &str) -> Option<Value> {
    let (item, ty) = plain::item(resources, path)?;
    let mut schemas = schema::Schemas::default();
    if let Some(ty) = ty.and_then(|name| facts::type_by_name(&format!("{}{name}", schema::META))) {
        schemas.add(ty);
    }
    let mut schemas = schemas.render();
    if path == "version" {
        schemas.insert(plain::VERSION.to_owned(), plain::version_schema());
    }
    Some(document(json!({format!("/{path}/"): item}), schemas.into(), server_version))
}

/// `/openapi/v3/api/v1` or `/openapi/v3/apis/GROUP/VERSION`.
pub fn v3(resources: &[&Resource], group: &str, version: &str, server_version: &str) -> Option<Value> {
    let list = resources_of(resources, group, version);
    if list.is_empty() {
        return None;
    }
    let mut schemas = schema::Schemas::default();
    for resource in &list {
        if let Some(ty) = facts::type_by_name(resource.type_name) {
            schemas.add(ty);
        }
        if let Some(ty) = facts::type_by_gvk(group, version, &format!("{}List", resource.kind)) {
            schemas.add(ty);
        }
        for (group, version, kind) in resource.subresources.iter().map(|s| s.gvk) {
            if let Some(ty) = facts::type_by_gvk(group, version, kind) {
                schemas.add(ty);
            }
        }
    }
    for name in ["DeleteOptions", "Status", "WatchEvent", "APIResourceList"] {
        if let Some(ty) = facts::type_by_name(&format!("{}{name}", schema::META)) {
            schemas.add(ty);
        }
    }
    let measured = metrics::schemas(group);
    if !measured.is_empty() {
        let meta = ["ObjectMeta", "ListMeta"].map(|name| format!("{}{name}", schema::META));
        let used = meta.iter().map(String::as_str).chain(["io.k8s.apimachinery.pkg.api.resource.Quantity"]);
        used.filter_map(facts::type_by_name).for_each(|ty| schemas.add(ty));
    }
    let mut schemas = schemas.render();
    schemas.extend(measured);
    Some(document(paths::of(&list, group, version), schemas.into(), server_version))
}

fn document(paths: Value, schemas: Value, server_version: &str) -> Value {
    let scheme = json!({
        "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer Token authentication",
    });
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": server_version},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"BearerToken": scheme}},
    })
}

#[cfg(test)]
mod tests;
