//! A scripted transport and a few resources, for this crate's tests.

use crate::transport::{Error, EventType, Request, Transport, WatchEvent, WatchStream};
use async_trait::async_trait;
use bytes::Bytes;
use naru_api::registry::{Churn, Resource, Rules, Scope};
use naru_api::status::Status;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, mpsc};

const fn resource(group: &'static str, kind: &'static str, plural: &'static str, scope: Scope) -> Resource {
    Resource {
        group,
        version: "v1",
        kind,
        plural,
        singular: "",
        scope,
        verbs: &[],
        short_names: &[],
        categories: &[],
        type_name: "",
        churn: Churn::Durable,
        subresources: &[],
        columns: &[],
        rules: Rules::NONE,
    }
}

pub(crate) static PODS: Resource = resource("", "Pod", "pods", Scope::Namespaced);
pub(crate) static NODES: Resource = resource("", "Node", "nodes", Scope::Cluster);
pub(crate) static WIDGETS: Resource = resource("apps.example", "Widget", "widgets", Scope::Namespaced);

/// A watch that the test feeds.
pub(crate) type Feed = mpsc::Receiver<Result<WatchEvent, Error>>;

#[derive(Default)]
struct Script {
    answers: VecDeque<Result<Value, Error>>,
    watches: VecDeque<Result<Feed, Error>>,
    seen: Vec<Request>,
}

/// Answers requests in the order that the test has scripted; an unscripted request waits.
#[derive(Default)]
pub(crate) struct Fake {
    script: Mutex<Script>,
    changed: Notify,
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn answer(&self, answer: Result<Value, Error>) {
        self.script.lock().unwrap().answers.push_back(answer);
        self.changed.notify_waiters();
    }

    pub(crate) fn watch_fails(&self, error: Error) {
        self.script.lock().unwrap().watches.push_back(Err(error));
        self.changed.notify_waiters();
    }

    pub(crate) fn feed(&self) -> mpsc::Sender<Result<WatchEvent, Error>> {
        let (sender, receiver) = mpsc::channel(16);
        self.script.lock().unwrap().watches.push_back(Ok(receiver));
        self.changed.notify_waiters();
        sender
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.script.lock().unwrap().seen.clone()
    }

    async fn wait_for<T>(&self, request: Request, take: impl Fn(&mut Script) -> Option<T>) -> T {
        self.script.lock().unwrap().seen.push(request);
        loop {
            let changed = self.changed.notified();
            if let Some(answer) = take(&mut self.script.lock().unwrap()) {
                return answer;
            }
            changed.await;
        }
    }
}

#[async_trait]
impl Transport for Fake {
    async fn send(&self, request: Request) -> Result<Bytes, Error> {
        let answer = self.wait_for(request, |script| script.answers.pop_front()).await?;
        Ok(Bytes::from(answer.to_string()))
    }

    async fn watch(&self, request: Request) -> Result<WatchStream, Error> {
        let feed = self.wait_for(request, |script| script.watches.pop_front()).await?;
        Ok(Box::pin(futures::stream::unfold(
            feed,
            |mut feed| async move { feed.recv().await.map(|event| (event, feed)) },
        )))
    }
}

pub(crate) fn status(code: u16, reason: &str) -> Error {
    let status: Status = serde_json::from_value(json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
    }))
    .unwrap();
    Error::Status(Box::new(status))
}

pub(crate) fn event(kind: EventType, object: &Value) -> Result<WatchEvent, Error> {
    Ok(WatchEvent { kind, object: Bytes::from(object.to_string()) })
}

pub(crate) fn pod(name: &str, version: u32, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "resourceVersion": version.to_string()},
        "spec": {"nodeName": node},
    })
}

pub(crate) fn pod_list(version: u32, items: &[Value]) -> Value {
    json!({"kind": "PodList", "metadata": {"resourceVersion": version.to_string()}, "items": items})
}
