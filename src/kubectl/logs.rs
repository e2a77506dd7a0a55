//! `logs`.

use crate::cli::LogsArgs;
use crate::resources::by_word;
use crate::session::{Session, http_method};
use anyhow::{Context, bail};
use bytes::Bytes;
use futures::StreamExt;
use naru_client::{Query, Request};
use serde_json::Value;
use std::io::Write;

pub(crate) async fn run(session: &Session, args: &LogsArgs) -> anyhow::Result<()> {
    let (target, positional) = match args.target.as_slice() {
        [target] => (target, None),
        [target, container] => (target, Some(container.clone())),
        _ => bail!("expected 'logs [-p] (POD | TYPE/NAME) [-c CONTAINER]'"),
    };
    let pod = find_pod(session, target).await?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let container = match args.container.clone().or(positional) {
        Some(container) => container,
        None => default_container(&pod)?,
    };
    let pods = by_word(session, "pods").await?.remove(0);
    let mut query =
        Query::new(format!("{}/log", pods.path(Some(&session.namespace), Some(name)))).set("container", &container);
    for (flag, set) in [("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)] {
        if set {
            query = query.set(flag, "true");
        }
    }
    if args.tail >= 0 {
        query = query.set("tailLines", &args.tail.to_string());
    }
    if let Some(seconds) = args.since_seconds {
        query = query.set("sinceSeconds", &seconds.to_string());
    }
    let request = Request {
        method: http_method("GET"),
        uri: query.build(),
        content_type: "application/json",
        body: Bytes::new(),
    };
    let mut stream = session.transport.stream(request).await?;
    let mut out = std::io::stdout().lock();
    while let Some(chunk) = stream.next().await {
        out.write_all(&chunk?)?;
        out.flush()?;
    }
    Ok(())
}

/// The pod itself, or one of those that a workload selects.
async fn find_pod(session: &Session, target: &str) -> anyhow::Result<Value> {
    let (word, name) = target.split_once('/').unwrap_or(("pod", target));
    let kind = by_word(session, word).await?.remove(0);
    let object = session.get(kind.path(Some(&session.namespace), Some(name))).await?;
    if kind.kind == "Pod" {
        return Ok(object);
    }
    let selector =
        selector(&object).with_context(|| format!("cannot get the logs from {target}: it selects no pods"))?;
    let pods = by_word(session, "pods").await?.remove(0);
    let list = session.get(pods.list_uri(Some(&session.namespace), &selector, "")).await?;
    let mut found: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
    // Those that run have something to say.
    found.sort_by_key(|pod| pod["status"]["phase"] != "Running");
    let first = found.first().with_context(|| format!("no pods found for {target}"))?;
    if found.len() > 1 {
        let name = first["metadata"]["name"].as_str().unwrap_or_default();
        writeln!(std::io::stderr(), "Found {} pods, using pod/{name}", found.len())?;
    }
    Ok((*first).clone())
}

/// The label selector of a workload (`matchLabels`) or a Service (a plain map), as a query.
fn selector(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    let labels = selector.get("matchLabels").unwrap_or(selector).as_object()?;
    let pairs: Vec<String> =
        labels.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    (!pairs.is_empty()).then(|| pairs.join(","))
}

fn default_container(pod: &Value) -> anyhow::Result<String> {
    let names: Vec<&str> =
        pod["spec"]["containers"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
    let annotated = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    if let Some(name) = annotated.filter(|name| names.contains(name)) {
        return Ok(name.to_owned());
    }
    let first = names.first().context("the pod has no containers")?;
    if names.len() > 1 {
        writeln!(std::io::stderr(), "Defaulted container {first:?} out of: {}", names.join(", "))?;
    }
    Ok((*first).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_of_workloads_and_services() {
        let deployment = json!({"spec": {"selector": {"matchLabels": {"app": "web", "tier": "x"}}}});
        assert_eq!(selector(&deployment).as_deref(), Some("app=web,tier=x"));
        assert_eq!(selector(&json!({"spec": {"selector": {"app": "web"}}})).as_deref(), Some("app=web"));
        assert_eq!(selector(&json!({"spec": {}})), None);
    }
}
