//! What `scripts/bench control` asks of controllers, scheduler and simulated nodes.

use super::{Failure, JSON, Session, Target, whole};
use http_body_util::BodyExt;
use hyper::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
/// How often lists are read again while something is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// Which kind of pods a Deployment is to have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// Apart from each other, and spread over the zones.
    Apart,
}

fn deployment(name: &str, replicas: usize, kind: Kind) -> Value {
    let labels = json!({ "app": name });
    let selector = json!({ "matchLabels": labels });
    let mut spec = json!({"containers": [
        {"name": "c", "image": "example.com/i:1", "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]});
    if kind == Kind::Apart {
        let term = json!({"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"});
        spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        spec["topologySpreadConstraints"] = json!([{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]);
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": selector, "template": {"metadata": {"labels": labels}, "spec": spec}},
    })
}

/// Seconds from the creation of a Deployment until all of its pods are Ready.
pub(super) async fn deploy(target: &Target, name: &str, replicas: usize, kind: Kind) -> Result<f64, Failure> {
    let mut session = target.connect().await?;
    let begin = Instant::now();
    session.call(Method::POST, DEPLOYMENTS, JSON, deployment(name, replicas, kind).to_string()).await?;
    done(target, name, replicas).await?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Seconds from a change of the template until all pods are of the new one.
pub(super) async fn roll(target: &Target, name: &str, replicas: usize) -> Result<f64, Failure> {
    let mut session = target.connect().await?;
    let begin = Instant::now();
    let container = json!({"name": "c", "image": "example.com/i:2"});
    let patch = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    let media = "application/strategic-merge-patch+json";
    session.call(Method::PATCH, &format!("{DEPLOYMENTS}/{name}"), media, patch.to_string()).await?;
    done(target, name, replicas).await?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Waits until a Deployment says that it is complete.
async fn done(target: &Target, name: &str, replicas: usize) -> Result<(), Failure> {
    let mut session = target.connect().await?;
    let path = format!(
        "{DEPLOYMENTS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=metadata.name%3D{name}"
    );
    let mut body = session.send(Method::GET, &path, (JSON, JSON), String::new()).await?.into_body();
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        pending.extend_from_slice(&frame?.into_data().unwrap_or_default());
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            if is_complete(&event["object"], replicas) {
                return Ok(());
            }
        }
    }
    Err(format!("the watch of {name} has ended").into())
}

fn is_complete(deployment: &Value, replicas: usize) -> bool {
    let status = &deployment["status"];
    let fields = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && fields.iter().all(|field| status[field].as_u64() == Some(replicas as u64))
}

/// Seconds until so many nodes are Ready and without taints.
pub(super) async fn nodes(target: &Target, wanted: usize) -> Result<f64, Failure> {
    let mut session = target.connect().await?;
    let begin = Instant::now();
    loop {
        let list = session.call(Method::GET, "/api/v1/nodes", JSON, String::new()).await?;
        let list: Value = serde_json::from_slice(&list)?;
        let usable = |node: &&Value| {
            let conditions = node["status"]["conditions"].as_array();
            let ready = conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
            ready && node["spec"].get("taints").is_none() && node["spec"].get("podCIDR").is_some()
        };
        if list["items"].as_array().map_or(0, |all| all.iter().filter(usable).count()) >= wanted {
            return Ok(begin.elapsed().as_secs_f64());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Fills a namespace with so many objects, and returns the seconds from its deletion until it is gone.
pub(super) async fn namespace(target: &Target, objects: usize) -> Result<f64, Failure> {
    let mut session = target.connect().await?;
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "crowded"}});
    session.call(Method::POST, "/api/v1/namespaces", JSON, body.to_string()).await?;
    for number in 0..objects {
        let name = format!("o-{number}");
        let (path, body) = match number % 2 {
            0 => ("configmaps", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})),
            _ => ("secrets", json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}})),
        };
        let path = format!("/api/v1/namespaces/crowded/{path}");
        session.call(Method::POST, &path, JSON, body.to_string()).await?;
    }
    let begin = Instant::now();
    session.call(Method::DELETE, "/api/v1/namespaces/crowded", JSON, String::new()).await?;
    loop {
        let answer = session.send(Method::GET, "/api/v1/namespaces/crowded", (JSON, JSON), String::new()).await?;
        if answer.status() == hyper::StatusCode::NOT_FOUND {
            return Ok(begin.elapsed().as_secs_f64());
        }
        whole(answer).await?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Deletes a Deployment and returns the seconds until no pod is left.
pub(super) async fn remove(target: &Target, name: &str) -> Result<f64, Failure> {
    let mut session = target.connect().await?;
    let begin = Instant::now();
    session.call(Method::DELETE, &format!("{DEPLOYMENTS}/{name}"), JSON, String::new()).await?;
    let pods = format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{name}&limit=1");
    loop {
        let list: Value = serde_json::from_slice(&session.call(Method::GET, &pods, JSON, String::new()).await?)?;
        if list["items"].as_array().is_none_or(Vec::is_empty) {
            return Ok(begin.elapsed().as_secs_f64());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The sum of all samples of the server's metrics that `counts` accepts by name and labels.
async fn sum(session: &mut Session, counts: impl Fn(&str) -> bool) -> Result<f64, Failure> {
    let text = session.call(Method::GET, "/metrics", JSON, String::new()).await?;
    let samples = String::from_utf8_lossy(&text);
    let samples = samples.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(name, _)| counts(name));
    Ok(samples.filter_map(|(_, value)| value.parse::<f64>().ok()).sum())
}

/// Writes to the store so far, without leases and events.
pub(super) async fn writes(target: &Target) -> Result<f64, Failure> {
    let churn = |name: &str| name.contains("resource=\"leases\"") || name.contains("resource=\"events\"");
    let mut session = target.connect().await?;
    sum(&mut session, |name| name.starts_with("etcd_request_duration_seconds_count") && !churn(name)).await
}

/// What all choices of a node have taken so far, in milliseconds.
pub(super) async fn choosing(target: &Target) -> Result<f64, Failure> {
    let mut session = target.connect().await?;
    Ok(1e3 * sum(&mut session, |name| name == "scheduler_scheduling_algorithm_duration_seconds_sum").await?)
}

/// How many choices there were.
pub(super) async fn choices(target: &Target) -> Result<f64, Failure> {
    let mut session = target.connect().await?;
    sum(&mut session, |name| name == "scheduler_scheduling_algorithm_duration_seconds_count").await
}
