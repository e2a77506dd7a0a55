//! Records events about objects: counted, rate-limited, never in the way of the one who reports.

use crate::client::{Client, PatchKind, is_not_found};
use crate::projections::Meta;
use crate::transport::Error;
use naru_api::registry::Resource;
use naru_base::{Shutdown, spawn};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Events waiting to be sent; more are dropped.
const QUEUE: usize = 512;
/// Events remembered for counting.
const REMEMBERED: usize = 4096;
/// Events about one object at once, and how often one more is let through.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);

/// The `type` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// All goes well.
    Normal,
    /// Somebody may want to act.
    Warning,
}

/// core/v1 ObjectReference: what an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    /// Kind.
    pub kind: String,
    /// Namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Group and version.
    pub api_version: String,
    /// Revision.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Part of the object, such as `spec.containers{web}`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field_path: String,
}

impl ObjectReference {
    /// Refers to an object of `resource`.
    pub fn of(resource: &Resource, meta: &Meta) -> Self {
        let api_version = match resource.group {
            "" => resource.version.to_owned(),
            group => format!("{group}/{}", resource.version),
        };
        Self {
            kind: resource.kind.to_owned(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            api_version,
            resource_version: meta.resource_version.clone(),
            field_path: String::new(),
        }
    }

    /// Refers to a part of the object.
    pub fn field(mut self, path: impl Into<String>) -> Self {
        self.field_path = path.into();
        self
    }
}

#[derive(Debug)]
struct Occurrence {
    about: ObjectReference,
    kind: EventKind,
    reason: String,
    message: String,
    at: jiff::Timestamp,
}

/// Hands events to a task that sends them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventRecorder {
    sender: mpsc::Sender<Occurrence>,
}

impl EventRecorder {
    /// Starts the sending task; `component` is the events' source, `host` the node's name if any.
    /// `events` is the Event resource.
    pub fn start(
        client: Client,
        events: &'static Resource,
        component: &str,
        host: Option<&str>,
        shutdown: &Shutdown,
    ) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Occurrence>(QUEUE);
        let mut sink = Sink {
            client,
            events,
            component: component.to_owned(),
            host: host.map(str::to_owned),
            known: HashMap::new(),
            tokens: HashMap::new(),
        };
        let shutdown = shutdown.clone();
        spawn("events", async move {
            while let Some(Some(occurrence)) = shutdown.guard(receiver.recv()).await {
                let what = format!("{} {}", occurrence.about.kind, occurrence.about.name);
                if let Some(Err(error)) = shutdown.guard(sink.send(occurrence)).await {
                    tracing::debug!(about = what, %error, "event not recorded");
                }
            }
        });
        Self { sender }
    }

    /// A recorder that drops everything.
    pub fn discard() -> Self {
        Self { sender: mpsc::channel(1).0 }
    }

    /// Reports something about an object. Never waits; when too much is waiting the event is dropped.
    pub fn event(&self, about: &ObjectReference, kind: EventKind, reason: &str, message: impl Into<String>) {
        let occurrence = Occurrence {
            about: about.clone(),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            at: jiff::Timestamp::now(),
        };
        let _ = self.sender.try_send(occurrence);
    }

    /// Reports that all goes well.
    pub fn normal(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.event(about, EventKind::Normal, reason, message);
    }

    /// Reports what somebody may want to act upon.
    pub fn warning(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.event(about, EventKind::Warning, reason, message);
    }
}

/// What makes two events the same.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Identity {
    about: String,
    kind: EventKind,
    reason: String,
    message: String,
}

struct Stored {
    namespace: String,
    name: String,
    count: u32,
}

struct Sink {
    client: Client,
    events: &'static Resource,
    component: String,
    host: Option<String>,
    known: HashMap<Identity, Stored>,
    /// Tokens left for each object, and since when they have been refilling.
    tokens: HashMap<String, (f64, Instant)>,
}

impl Sink {
    async fn send(&mut self, occurrence: Occurrence) -> Result<(), Error> {
        let about = occurrence.about.clone();
        let object = format!("{}/{}/{}/{}", about.kind, about.namespace, about.name, about.uid);
        if !self.take_token(&object) {
            return Ok(());
        }
        let identity = Identity {
            about: format!("{object}/{}", about.field_path),
            kind: occurrence.kind,
            reason: occurrence.reason.clone(),
            message: occurrence.message.clone(),
        };
        if let Some(stored) = self.known.get_mut(&identity) {
            stored.count += 1;
            let patch = json!({"count": stored.count, "lastTimestamp": seconds(occurrence.at)});
            let (namespace, name) = (stored.namespace.clone(), stored.name.clone());
            let patched =
                self.client.patch::<Value>(self.events, Some(&namespace), &name, None, PatchKind::Merge, &patch).await;
            match patched {
                Err(error) if is_not_found(&error) => {}
                other => return other.map(drop),
            }
        }
        let stored = self.create(&occurrence).await?;
        if self.known.len() >= REMEMBERED {
            // Forgetting only starts some counts anew.
            self.known.clear();
        }
        self.known.insert(identity, stored);
        Ok(())
    }

    async fn create(&self, occurrence: &Occurrence) -> Result<Stored, Error> {
        let about = &occurrence.about;
        let namespace = match about.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        };
        let name = format!("{}.{:x}", about.name, occurrence.at.as_nanosecond());
        let mut source = json!({"component": self.component});
        if let Some(host) = &self.host {
            source["host"] = host.as_str().into();
        }
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": about,
            "reason": occurrence.reason,
            "message": occurrence.message,
            "type": match occurrence.kind {
                EventKind::Normal => "Normal",
                EventKind::Warning => "Warning",
            },
            "source": source,
            "firstTimestamp": seconds(occurrence.at),
            "lastTimestamp": seconds(occurrence.at),
            "count": 1,
            "reportingComponent": self.component,
            "reportingInstance": self.host.as_deref().unwrap_or_default(),
        });
        self.client.create::<Value>(self.events, Some(namespace), &event).await?;
        Ok(Stored { namespace: namespace.to_owned(), name, count: 1 })
    }

    fn take_token(&mut self, object: &str) -> bool {
        let now = Instant::now();
        if self.tokens.len() >= REMEMBERED {
            self.tokens.clear();
        }
        let (tokens, since) = self.tokens.entry(object.to_owned()).or_insert((BURST, now));
        let refilled = now.duration_since(*since).as_secs_f64() / REFILL.as_secs_f64();
        *tokens = (*tokens + refilled).min(BURST);
        *since = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

fn seconds(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::fake::{Fake, PODS, status};
    use std::sync::Arc;

    fn sink(fake: Arc<Fake>) -> Sink {
        Sink {
            client: Client::new(fake),
            events: &PODS,
            component: "test".into(),
            host: None,
            known: HashMap::new(),
            tokens: HashMap::new(),
        }
    }

    fn occurrence(message: &str) -> Occurrence {
        let about = ObjectReference { kind: "Node".into(), name: "n".into(), ..Default::default() };
        Occurrence {
            about,
            kind: EventKind::Normal,
            reason: "Ready".into(),
            message: message.into(),
            at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[tokio::test]
    async fn the_same_event_again_is_counted_and_made_anew_when_gone() {
        let fake = Fake::new();
        let mut sink = sink(fake.clone());
        fake.answer(Ok(json!({})));
        fake.answer(Ok(json!({})));
        fake.answer(Err(status(404, "NotFound")));
        fake.answer(Ok(json!({})));
        for _ in 0..3 {
            sink.send(occurrence("up")).await.unwrap();
        }
        let seen = fake.seen();
        let methods: Vec<_> = seen.iter().map(|request| request.method.as_str()).collect();
        assert_eq!(methods, ["POST", "PATCH", "PATCH", "POST"]);
        assert_eq!(seen[0].uri, "/api/v1/namespaces/default/pods");
        let patch: Value = serde_json::from_slice(&seen[1].body).unwrap();
        assert_eq!(patch["count"], 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_object_cannot_flood() {
        let fake = Fake::new();
        let mut sink = sink(fake.clone());
        for index in 0..40 {
            fake.answer(Ok(json!({})));
            sink.send(occurrence(&index.to_string())).await.unwrap();
        }
        assert_eq!(fake.seen().len(), 25);
        tokio::time::advance(REFILL).await;
        sink.send(occurrence("later")).await.unwrap();
        assert_eq!(fake.seen().len(), 26);
    }
}
