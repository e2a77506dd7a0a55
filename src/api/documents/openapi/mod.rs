//! OpenAPI: version 3 per group-version, and its index; version 2 from those, as JSON and protobuf.

mod gnostic;
mod operation;
mod paths;
mod schema;
mod v2;

use super::{resources_of, served};
use crate::facts;
use crate::meta::join_api_version;
use crate::registry::Resource;
use serde_json::{Map, Value, json};

pub use gnostic::encode_v2;
pub use v2::v2;

/// The media type of a version 3 document.
pub const CONTENT_TYPE: &str = "application/json";

/// `/openapi/v3`: where each group-version's document is. `hash` gives the hash of a path's document, by which
/// clients cache it.
pub fn v3_index(resources: &[&Resource], hash: impl Fn(&str, &str) -> String) -> Value {
    let mut paths = Map::new();
    for (group, version) in served(resources) {
        let path = v3_path(group, version);
        let url = format!("/openapi/v3/{path}?hash={}", hash(group, version));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// `api/v1` or `apis/GROUP/VERSION`.
pub fn v3_path(group: &str, version: &str) -> String {
    let root = if group.is_empty() { "api" } else { "apis" };
    format!("{root}/{}", join_api_version(group, version))
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
    let scheme = json!({
        "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer Token authentication",
    });
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": server_version},
        "paths": paths::of(&list, group, version),
        "components": {"schemas": schemas.render(), "securitySchemes": {"BearerToken": scheme}},
    }))
}

#[cfg(test)]
mod tests;
