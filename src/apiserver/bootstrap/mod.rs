//! What exists before anyone writes: the first namespaces, the default roles and bindings, the
//! priority classes of the system, and the `kubernetes` Service.
//!
//! Written in one pass at start, and only where it is missing, so that a start with a full store
//! writes nothing.

mod config_maps;
mod rbac;

use crate::authz::PolicyRule;
use crate::clock;
use crate::config::StartError;
use crate::objects;
use crate::pipeline::State;
use crate::services;
use bytes::Bytes;
use futures::future::try_join_all;
use naru_api::apply::{self, BuiltIn, Ignored, Writer};
use naru_api::codec;
use naru_api::facts;
use naru_api::meta;
use naru_api::registry::{self, Resource};
use naru_store::{Durability, Expect, Write, WriteError};
use serde_json::{Value, json};

/// Roles and bindings, one JSON object a line; kind and name inside, metadata implied.
const RBAC: &str = include_str!("rbac.jsonl");

const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Writes what is missing and waits until the cache shows it.
pub(crate) async fn write(state: &State) -> Result<(), StartError> {
    let mut writes = Vec::new();
    for name in NAMESPACES {
        let namespace = json!({ "metadata": { "name": name } });
        writes.extend(missing(state, &registry::NAMESPACES, namespace)?);
    }
    for line in RBAC.lines().filter(|line| !line.is_empty()) {
        let (resource, object) = rbac_object(line)?;
        writes.extend(rbac::reconciled(state, resource, object)?);
    }
    writes.extend(rbac::retired(state));
    writes.extend(config_maps::wanted(state)?);
    for class in priority_classes() {
        writes.extend(missing(state, &registry::PRIORITY_CLASSES, class)?);
    }
    writes.extend(crate::flowcontrol::writes(state)?);
    writes.extend(service_ranges(state)?);
    writes.extend(kubernetes_service(state)?);
    let results = try_join_all(writes.into_iter().map(|write| async {
        match state.store.write(write).await {
            Ok(revision) => Ok(revision),
            // Another server was faster with the same.
            Err(WriteError::Conflict { .. }) => Ok(0),
            Err(error) => Err(StartError::Store(error.to_string())),
        }
    }));
    let newest = results.await?.into_iter().max().unwrap_or(0);
    state.cache.wait_for(newest).await.map_err(|error| StartError::Store(error.to_string()))
}

/// The rules of the ClusterRole `system:node` as shipped: what the Node authorizer allows every node.
pub(crate) fn node_rules() -> Vec<PolicyRule> {
    let objects = RBAC.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut roles = objects.filter(|object| object["kind"] == "ClusterRole" && object["name"] == "system:node");
    let rules = roles.next().map(|role| role["rules"].clone()).unwrap_or_default();
    serde_json::from_value(rules).unwrap_or_default()
}

/// A create of this object, unless it is there.
fn missing(state: &State, resource: &'static Resource, object: Value) -> Result<Option<Write>, StartError> {
    let namespace = Some(meta::namespace(&object)).filter(|namespace| !namespace.is_empty());
    if state.cache.get(resource, namespace, meta::name(&object)).is_some() {
        return Ok(None);
    }
    creation(resource, object).map(Some)
}

fn creation(resource: &'static Resource, object: Value) -> Result<Write, StartError> {
    let object = prepared(resource, object)?;
    Ok(put(resource, &object, Expect::Absent, objects::encode(object.clone())))
}

/// An object as it is when it has just been created.
pub(crate) fn prepared(resource: &'static Resource, mut object: Value) -> Result<Value, StartError> {
    let ty = facts::type_by_name(resource.type_name)
        .ok_or(StartError::Config { what: "built-in types", reason: format!("no type {}", resource.type_name) })?;
    object["kind"] = resource.kind.into();
    object["apiVersion"] = resource.api_version().into();
    objects::stamp_new(&mut object);
    codec::apply_constant_defaults(&mut object, ty);
    (resource.rules.default)(&mut object);
    let (api_version, now) = (resource.api_version(), clock::now_rfc3339());
    let writer = Writer {
        manager: manager(resource),
        api_version: &api_version,
        subresource: "",
        now: &now,
        ignored: Ignored::of(resource, ""),
    };
    apply::update(&BuiltIn(resource), None, &mut object, &writer);
    (resource.rules.prepare_create)(&mut object);
    Ok(object)
}

/// Who owns what is there from the start, under upstream's names.
fn manager(resource: &Resource) -> &'static str {
    match resource.group {
        "flowcontrol.apiserver.k8s.io" => "api-priority-and-fairness-config-producer-v1",
        _ => "kube-apiserver",
    }
}

/// A write of an object.
pub(crate) fn put(resource: &Resource, object: &Value, expect: Expect, bytes: Bytes) -> Write {
    let namespace = Some(meta::namespace(object)).filter(|namespace| !namespace.is_empty());
    let key = crate::cache::storage_key(resource, namespace, meta::name(object)).into();
    Write { key, expect, value: Some(bytes), durability: Durability::Sync }
}

/// A line of the RBAC table as an object.
fn rbac_object(line: &str) -> Result<(&'static Resource, Value), StartError> {
    let wrong = |reason: String| StartError::Config { what: "bootstrap roles", reason };
    let mut object: Value = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
    let resource = registry::by_kind("rbac.authorization.k8s.io", "v1", meta::kind(&object))
        .ok_or_else(|| wrong(format!("unknown kind {:?}", meta::kind(&object))))?;
    let mut metadata = json!({ "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" } });
    if let Some(fields) = object.as_object_mut() {
        for field in ["name", "namespace", "labels"] {
            if let Some(value) = fields.remove(field) {
                metadata[field] = value;
            }
        }
    }
    metadata["labels"]["kubernetes.io/bootstrapping"] = "rbac-defaults".into();
    object["metadata"] = metadata;
    Ok((resource, object))
}

fn priority_classes() -> [Value; 2] {
    [("system-cluster-critical", 2_000_000_000_i64, "cluster"), ("system-node-critical", 2_000_001_000, "node")].map(
        |(name, value, scope)| {
            let what = match scope {
                "cluster" => "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
                _ => "Used for system critical pods that must not be moved from their current node.",
            };
            json!({
                "metadata": { "name": name },
                "value": value,
                "preemptionPolicy": "PreemptLowerPriority",
                "description": what,
            })
        },
    )
}

/// The ranges that the server was started with, as the first ServiceCIDR. A second family may join later.
fn service_ranges(state: &State) -> Result<Option<Write>, StartError> {
    let ranges = state.services.ranges();
    let stored = state.cache.get(&registry::SERVICE_CIDRS, None, "kubernetes");
    let stored = stored.and_then(|range| serde_json::from_slice::<Value>(&range.json()).ok());
    let present: Option<Vec<&str>> = stored.as_ref().map(|stored| {
        let cidrs = stored["spec"]["cidrs"].as_array().into_iter().flatten();
        cidrs.filter_map(Value::as_str).collect()
    });
    if let Some(present) = present
        && !(present.len() == 1 && ranges.len() == 2 && present[0] == ranges[0])
    {
        if present != ranges {
            tracing::warn!(
                "Services get addresses of {}, as the ServiceCIDR kubernetes says, and not of {}: add another \
                 ServiceCIDR for those",
                present.join(","),
                ranges.join(",")
            );
        }
        return Ok(None);
    }
    let object = json!({ "metadata": { "name": "kubernetes" }, "spec": { "cidrs": ranges } });
    current(state, &registry::SERVICE_CIDRS, object, &["spec"])
}

/// The Service by which pods reach this server, and its endpoints, which follow the advertised address.
fn kubernetes_service(state: &State) -> Result<Vec<Write>, StartError> {
    let (address, port) = (state.config.advertise_address.to_string(), state.config.advertise_port);
    let mut writes = Vec::new();
    let mut written = Vec::new();
    if state.cache.get(&registry::SERVICES, Some("default"), "kubernetes").is_none() {
        let own = state.services.first_address();
        let service = json!({
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": { "component": "apiserver", "provider": "kubernetes" },
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": own.to_string(),
                "clusterIPs": [own.to_string()],
                "ipFamilies": [services::family(own)],
                "ipFamilyPolicy": "SingleStack",
                "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
                "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": port }],
            },
        });
        writes.push(creation(&registry::SERVICES, service.clone())?);
        written.push(service);
    }
    writes.extend(services::repair(&state.cache, &written));
    let endpoints = json!({
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
        },
        "subsets": [{
            "addresses": [{ "ip": address }],
            "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
        }],
    });
    writes.extend(current(state, &registry::ENDPOINTS, endpoints, &["subsets"])?);
    let slice = json!({
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": if state.config.advertise_address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    });
    writes.extend(current(state, &registry::ENDPOINT_SLICES, slice, &["endpoints", "ports"])?);
    Ok(writes)
}

/// A create, or an update where these fields differ from what is stored.
fn current(
    state: &State,
    resource: &'static Resource,
    object: Value,
    fields: &[&str],
) -> Result<Option<Write>, StartError> {
    let namespace = Some(meta::namespace(&object)).filter(|namespace| !namespace.is_empty());
    let Some(found) = state.cache.get(resource, namespace, meta::name(&object)) else {
        return creation(resource, object).map(Some);
    };
    let mut stored: Value =
        serde_json::from_slice(&found.json()).map_err(|error| StartError::Store(error.to_string()))?;
    if fields.iter().all(|field| stored[*field] == object[*field]) {
        return Ok(None);
    }
    for field in fields {
        stored[*field] = object[*field].clone();
    }
    let expect = Expect::Revision(found.revision());
    Ok(Some(put(resource, &object, expect, objects::encode(stored))))
}
