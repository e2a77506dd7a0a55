//! Discovery: the documents per group and group-version, and the aggregated one.

use super::{resources_of, served};
use crate::meta::{Verb, join_api_version};
use crate::registry::{Resource, Scope, Subresource};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// The media type parameters of the aggregated document.
pub const AGGREGATED_CONTENT_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether an `Accept` header asks for the aggregated document before the plain one.
pub fn accepts_aggregated(accept: &str) -> bool {
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or("");
        let mut parameters = (None, None, None);
        for (name, value) in parts.filter_map(|p| p.split_once('=')) {
            match name {
                "g" => parameters.0 = Some(value),
                "v" => parameters.1 = Some(value),
                "as" => parameters.2 = Some(value),
                _ => {}
            }
        }
        match (media, parameters) {
            ("application/json", (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList"))) => {
                return true;
            }
            ("application/json" | "*/*" | "application/*", (None, None, None)) => return false,
            _ => {}
        }
    }
    false
}

/// `/api`: the versions of the core group. `server` is the address (host and port) that clients use.
pub fn api_versions(server: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
    })
}

/// `/apis`: the groups.
pub fn api_group_list(resources: &[&Resource]) -> Value {
    let mut names: Vec<&str> = Vec::new();
    for (group, _) in served(resources) {
        if !group.is_empty() && !names.contains(&group) {
            names.push(group);
        }
    }
    let groups: Vec<Value> = names.into_iter().map(|name| group_body(resources, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub fn api_group(resources: &[&Resource], group: &str) -> Option<Value> {
    if group.is_empty() || !resources.iter().any(|r| r.group == group) {
        return None;
    }
    let mut body = group_body(resources, group);
    body["kind"] = Value::from("APIGroup");
    body["apiVersion"] = Value::from("v1");
    Some(body)
}

fn group_body(resources: &[&Resource], group: &str) -> Value {
    let versions: Vec<Value> = served(resources)
        .into_iter()
        .filter(|(g, _)| *g == group)
        .map(|(g, v)| json!({"groupVersion": join_api_version(g, v), "version": v}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// `/api/v1` and `/apis/GROUP/VERSION`: the resources.
pub fn api_resource_list(resources: &[&Resource], group: &str, version: &str) -> Option<Value> {
    let list = resources_of(resources, group, version);
    if list.is_empty() {
        return None;
    }
    let mut rows = Vec::new();
    for resource in list {
        rows.push(resource_row(resource));
        let mut subresources: Vec<_> = resource.subresources.iter().collect();
        subresources.sort_by_key(|s| s.name);
        rows.extend(subresources.into_iter().map(|s| subresource_row(resource, s)));
    }
    let mut body = json!({
        "kind": "APIResourceList",
        "groupVersion": join_api_version(group, version),
        "resources": rows,
    });
    if !group.is_empty() {
        body["apiVersion"] = Value::from("v1");
    }
    Some(body)
}

fn verbs(list: &[Verb]) -> Vec<&'static str> {
    list.iter().map(|verb| verb.as_str()).collect()
}

fn names(row: &mut Map<String, Value>, key: &str, list: &[&str]) {
    if !list.is_empty() {
        row.insert(key.to_owned(), Value::from(list.to_vec()));
    }
}

fn resource_row(resource: &Resource) -> Value {
    let mut row = Map::new();
    row.insert("name".into(), Value::from(resource.plural));
    row.insert("singularName".into(), Value::from(resource.singular));
    row.insert("namespaced".into(), Value::from(resource.scope == Scope::Namespaced));
    row.insert("kind".into(), Value::from(resource.kind));
    row.insert("verbs".into(), Value::from(verbs(resource.verbs)));
    names(&mut row, "shortNames", resource.short_names);
    names(&mut row, "categories", resource.categories);
    if resource.is_stored() {
        row.insert("storageVersionHash".into(), Value::from(storage_version_hash(resource)));
    }
    Value::Object(row)
}

/// What changes when objects are stored in another version: the stored one's group, version and kind,
/// hashed. The core group's name is empty here, so that its texts begin with a slash.
fn storage_version_hash(resource: &Resource) -> String {
    let stored = resource.rules.view.map_or(resource, |view| view.of);
    let digest = Sha256::digest(format!("{}/{}/{}", stored.group, stored.version, stored.kind));
    STANDARD.encode(&digest[..8])
}

fn subresource_row(resource: &Resource, subresource: &Subresource) -> Value {
    let (group, version, kind) = subresource.gvk;
    let mut row = Map::new();
    row.insert("name".into(), Value::from(format!("{}/{}", resource.plural, subresource.name)));
    row.insert("singularName".into(), Value::from(""));
    row.insert("namespaced".into(), Value::from(resource.scope == Scope::Namespaced));
    if (group, version) != (resource.group, resource.version) {
        row.insert("group".into(), Value::from(group));
        row.insert("version".into(), Value::from(version));
    }
    row.insert("kind".into(), Value::from(kind));
    row.insert("verbs".into(), Value::from(verbs(subresource.verbs)));
    Value::Object(row)
}

/// The aggregated document of `/api` (`core`) or `/apis`.
pub fn aggregated(resources: &[&Resource], core: bool) -> Value {
    let mut items: Vec<(&str, Vec<Value>)> = Vec::new();
    for (group, version) in served(resources).into_iter().filter(|(group, _)| group.is_empty() == core) {
        let rows: Vec<Value> = resources_of(resources, group, version).into_iter().map(aggregated_resource).collect();
        let version = json!({"version": version, "resources": rows, "freshness": "Current"});
        match items.iter_mut().find(|(name, _)| *name == group) {
            Some((_, versions)) => versions.push(version),
            None => items.push((group, vec![version])),
        }
    }
    let items: Vec<Value> = items
        .into_iter()
        .map(|(group, versions)| {
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn response_kind((group, version, kind): (&str, &str, &str)) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut row = Map::new();
    row.insert("resource".into(), Value::from(resource.plural));
    row.insert("responseKind".into(), response_kind((resource.group, resource.version, resource.kind)));
    let scope = if resource.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
    row.insert("scope".into(), Value::from(scope));
    row.insert("singularResource".into(), Value::from(resource.singular));
    row.insert("verbs".into(), Value::from(verbs(resource.verbs)));
    names(&mut row, "shortNames", resource.short_names);
    names(&mut row, "categories", resource.categories);
    if !resource.subresources.is_empty() {
        let mut subresources: Vec<_> = resource.subresources.iter().collect();
        subresources.sort_by_key(|s| s.name);
        let rows: Vec<Value> = subresources
            .into_iter()
            .map(|s| json!({"subresource": s.name, "responseKind": response_kind(s.gvk), "verbs": verbs(s.verbs)}))
            .collect();
        row.insert("subresources".into(), Value::from(rows));
    }
    Value::Object(row)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::registry::RESOURCES;

    #[test]
    fn groups_come_in_upstreams_order() {
        let list = api_group_list(RESOURCES);
        let groups: Vec<&str> =
            list["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
        assert_eq!(groups[0], "apps");
        assert!(groups.contains(&"rbac.authorization.k8s.io"));
        let apps = api_group(RESOURCES, "apps").unwrap();
        assert_eq!(apps["preferredVersion"]["groupVersion"], "apps/v1");
        assert!(api_group(RESOURCES, "nope").is_none());
    }

    #[test]
    fn resources_list_their_subresources() {
        let core = api_resource_list(RESOURCES, "", "v1").unwrap();
        assert_eq!(core["groupVersion"], "v1");
        let rows = core["resources"].as_array().unwrap();
        let row = |name: &str| rows.iter().find(|r| r["name"] == name).unwrap();
        assert_eq!(row("pods")["shortNames"], json!(["po"]));
        assert_eq!(row("pods/log")["kind"], "Pod");
        assert_eq!(row("pods")["storageVersionHash"], "xPOwRZ+Yhw8=");
        assert_eq!(row("configmaps")["storageVersionHash"], "qFsyl6wFWjQ=");
        assert!(row("pods/log").get("storageVersionHash").is_none());
        assert_eq!(row("serviceaccounts/token")["group"], "authentication.k8s.io");
        assert!(api_resource_list(RESOURCES, "apps", "v9").is_none());
    }

    #[test]
    fn the_aggregated_document_has_everything() {
        let groups = aggregated(RESOURCES, false);
        let apps = groups["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps").unwrap();
        let resources = apps["versions"][0]["resources"].as_array().unwrap();
        let deployments = resources.iter().find(|r| r["resource"] == "deployments").unwrap();
        assert_eq!(deployments["scope"], "Namespaced");
        assert_eq!(deployments["subresources"][0]["responseKind"]["kind"], "Scale");
        let core = aggregated(RESOURCES, true);
        assert_eq!(core["items"].as_array().unwrap().len(), 1);
        assert_eq!(core["items"][0]["metadata"], json!({}));
    }

    #[test]
    fn the_accept_header_decides() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        assert!(accepts_aggregated(&format!(
            "{v2},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
        )));
        assert!(!accepts_aggregated("application/json"));
        assert!(!accepts_aggregated("*/*"));
        assert!(!accepts_aggregated(&format!("application/json, {v2}")));
    }
}
