//! `metrics.k8s.io/v1beta1`: what nodes and pods use at present, asked of the nodes; nothing is stored.

use super::{Call, node_proxy, read};
use crate::cache::{CachedObject, Selection};
use crate::dialer::Trust;
use crate::objects;
use crate::response::{Failure, Outcome, Reply, full};
use futures::{StreamExt, stream};
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use naru_api::meta::Verb;
use naru_api::registry::{Churn, NODES, PODS, RESOURCES, Resource, Rules, Scope};
use naru_api::selector::{FieldSelector, LabelSelector};
use naru_api::status::Status;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
/// How long a node may take to answer; it is left out then.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nodes asked at once.
const AT_ONCE: usize = 32;
/// Largest answer of a node.
const ANSWER: usize = 16 << 20;
/// Between two looks of a node at what is used.
const WINDOW: &str = "10s";

const fn resource(kind: &'static str, type_name: &'static str, plural: &'static str, scope: Scope) -> Resource {
    Resource {
        group: GROUP,
        version: VERSION,
        kind,
        plural,
        singular: "",
        scope,
        verbs: &[Verb::Get, Verb::List],
        short_names: &[],
        categories: &[],
        type_name,
        churn: Churn::Durable,
        subresources: &[],
        columns: &[],
        rules: Rules::NONE,
    }
}

static NODE_METRICS: Resource =
    resource("NodeMetrics", "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics", "nodes", Scope::Cluster);
static POD_METRICS: Resource =
    resource("PodMetrics", "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics", "pods", Scope::Namespaced);

/// Everything that discovery tells of: the registry, and what is computed here.
pub(crate) static DISCOVERED: LazyLock<Vec<&'static Resource>> =
    LazyLock::new(|| RESOURCES.iter().copied().chain([&NODE_METRICS, &POD_METRICS]).collect());

/// Whether a request is for this API.
pub(super) fn is_meant(call: &Call) -> bool {
    call.info.group == GROUP && call.info.version == VERSION
}

/// Answers a get or a list.
pub(super) async fn handle(call: &Call) -> Outcome {
    let info = &call.info;
    let pods = match info.resource.as_str() {
        "nodes" if info.namespace.is_empty() => false,
        "pods" if info.verb == "list" || !info.namespace.is_empty() => true,
        _ => return Err(Box::new(Status::no_such_resource())),
    };
    if !info.subresource.is_empty() {
        return Err(Box::new(Status::no_such_resource()));
    }
    let kind = if pods { "PodMetrics" } else { "NodeMetrics" };
    match info.verb {
        "list" => {
            let found = objects_of(call, if pods { &PODS } else { &NODES }).await?;
            let items = measure(call, &found, pods).await?;
            let list = json!({"kind": format!("{kind}List"), "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {}, "items": items});
            Ok(answer(&list))
        }
        "get" => {
            let namespace = pods.then_some(info.namespace.as_str());
            let found = call.state.cache.get(if pods { &PODS } else { &NODES }, namespace, &info.name);
            let items = measure(call, &found.into_iter().collect::<Vec<_>>(), pods).await?;
            let Some(mut item) = items.into_iter().next() else {
                let (plural, name) = match pods {
                    true => ("podmetrics", format!("{}/{}", info.namespace, info.name)),
                    false => ("nodemetrics", info.name.clone()),
                };
                return Err(Box::new(Status::not_found(GROUP, plural, &name)));
            };
            item["kind"] = kind.into();
            item["apiVersion"] = "metrics.k8s.io/v1beta1".into();
            Ok(answer(&item))
        }
        _ => Err(Box::new(Status::method_not_allowed())),
    }
}

/// JSON, whatever else the client would take: these kinds have no other form here.
fn answer(value: &Value) -> Reply {
    Reply::typed(200, "application/json", value.to_string().into_bytes())
}

/// The nodes or pods that a list is about.
async fn objects_of(call: &Call, resource: &'static Resource) -> Result<Vec<Arc<CachedObject>>, Failure> {
    let bad = |error: &dyn std::fmt::Display| Box::new(Status::bad_request(error.to_string()));
    let text = |name: &str| call.query.get(name).unwrap_or_default();
    let labels = LabelSelector::parse(text("labelSelector")).map_err(|error| bad(&error))?;
    let fields = FieldSelector::parse(text("fieldSelector")).map_err(|error| bad(&error))?;
    let selection = Selection::new(call.namespace(resource), labels, fields);
    let listing = call.state.cache.list(resource, &selection, 0, crate::cache::ListAt::Newest).await;
    Ok(listing.map_err(|error| read::cache_failure(&error))?.objects)
}

/// What the objects use; those that nothing is known of yet are left out.
async fn measure(call: &Call, found: &[Arc<CachedObject>], pods: bool) -> Result<Vec<Value>, Failure> {
    let trees = found.iter().map(|object| objects::tree(object)).collect::<Result<Vec<_>, _>>()?;
    let node_of = |tree: &Value| match pods {
        true => tree["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(),
        false => tree["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
    };
    let nodes: BTreeSet<String> = trees.iter().map(node_of).filter(|node| !node.is_empty()).collect();
    let answers: HashMap<String, Value> = stream::iter(nodes)
        .map(|node| async move {
            let asked = tokio::time::timeout(PATIENCE, summary(call, &node)).await;
            let answer = asked.unwrap_or_else(|_| Err("timed out".to_owned()));
            if let Err(error) = &answer {
                tracing::debug!(node, error, "usage not known");
            }
            Some((node, answer.ok()?))
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(|answer| async { answer })
        .collect()
        .await;
    let measured = trees.iter().filter_map(|tree| {
        let answer = answers.get(&node_of(tree))?;
        let mut item = if pods { pod_metrics(tree, answer)? } else { node_metrics(answer)? };
        let metadata = &tree["metadata"];
        item["metadata"] = json!({"name": metadata["name"], "creationTimestamp": metadata["creationTimestamp"]});
        for field in ["namespace", "labels"] {
            if !metadata[field].is_null() {
                item["metadata"][field] = metadata[field].clone();
            }
        }
        item["window"] = WINDOW.into();
        Some(item)
    });
    Ok(measured.collect())
}

/// A node's own account.
async fn summary(call: &Call, node: &str) -> Result<Value, String> {
    let to = node_proxy::kubelet_of(call, node).map_err(|failure| failure.message.clone())?;
    let host = to.to_string();
    let mut sender = call.state.backends.connect(to, Trust::Kubelet).await?;
    let request = Request::get("/stats/summary").header(HOST, host).body(full("")).map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("answered {}", response.status()));
    }
    let body = Limited::new(response.into_body(), ANSWER).collect().await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
}

/// Processor and memory as quantities; `None` as long as there is no rate.
fn usage(of: &Value) -> Option<Value> {
    let cores = of["cpu"]["usageNanoCores"].as_u64()?;
    let bytes = of["memory"]["workingSetBytes"].as_u64()?;
    Some(json!({"cpu": format!("{cores}n"), "memory": format!("{}Ki", bytes / 1024)}))
}

fn node_metrics(answer: &Value) -> Option<Value> {
    let node = &answer["node"];
    Some(json!({"timestamp": node["cpu"]["time"], "usage": usage(node)?}))
}

fn pod_metrics(tree: &Value, answer: &Value) -> Option<Value> {
    let pods = answer["pods"].as_array()?;
    let pod = pods.iter().find(|pod| pod["podRef"]["uid"] == tree["metadata"]["uid"])?;
    let containers = pod["containers"].as_array()?.iter();
    // A pod with a part that is not known yet would seem to use less than it does.
    let containers: Option<Vec<Value>> =
        containers.map(|c| Some(json!({"name": c["name"], "usage": usage(c)?}))).collect();
    Some(json!({"timestamp": pod["cpu"]["time"], "containers": containers?}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_becomes_quantities_once_there_is_a_rate() {
        let container = |cpu: Value| json!({"name": "c", "cpu": cpu, "memory": {"workingSetBytes": 2048}});
        let answer = |cpu: Value| json!({"pods": [{"podRef": {"uid": "u"}, "cpu": {"time": "T"}, "containers": [container(cpu)]}]});
        let tree = json!({"metadata": {"uid": "u"}});
        let known = pod_metrics(&tree, &answer(json!({"usageNanoCores": 5})));
        let expect = json!([{"name": "c", "usage": {"cpu": "5n", "memory": "2Ki"}}]);
        assert_eq!(known.unwrap_or_default()["containers"], expect);
        assert_eq!(pod_metrics(&tree, &answer(json!({}))), None);
    }

    #[test]
    fn the_group_is_no_resource_of_the_registry() {
        assert!(naru_api::registry::find(GROUP, VERSION, "pods").is_none());
        assert_eq!(DISCOVERED.len(), RESOURCES.len() + 2);
    }
}
