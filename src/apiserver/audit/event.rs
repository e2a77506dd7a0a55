//! One request's record: collected while it is served, written as an event at each stage.

use super::policy::{Applied, Level};
use super::{Audit, Sink, Stage};
use crate::admission::Notes;
use crate::authn::User;
use crate::authz::Attributes;
use crate::clock;
use crate::negotiate::{self, BodyFormat};
use crate::request_info::RequestInfo;
use crate::response::{Outcome, Reply};
use http::HeaderMap;
use naru_api::registry::{self, Resource};
use naru_api::status::Status;
use naru_api::{codec, facts};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Longer names of programs are cut.
const MAX_USER_AGENT: usize = 1024;

/// An event as it is written; the fields in upstream's order.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: String,
    verb: String,
    user: UserInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<UserInfo>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<Value>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Serialize)]
struct UserInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    fn of(user: &User) -> Self {
        Self {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        }
    }
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectReference {
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

/// What is seen of a request when it arrives.
pub(crate) struct Seen<'a> {
    /// `None` when it could not be told who asks.
    pub(crate) user: Option<&'a User>,
    pub(crate) info: &'a RequestInfo,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    /// Whose connection it came by; `None` inside the process.
    pub(crate) client: Option<IpAddr>,
    pub(crate) audit_id: &'a str,
}

impl Seen<'_> {
    /// Who asks, as far as proxies tell, and the connection last.
    fn source_ips(&self) -> Vec<String> {
        let values = |name: &str| {
            let values: Vec<&str> = self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
            values.join(",")
        };
        let forwarded = values("x-forwarded-for");
        let mut found: Vec<IpAddr> = forwarded.split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
        if found.is_empty() {
            found.extend(values("x-real-ip").parse::<IpAddr>().ok());
        }
        // What comes from inside the process comes from this machine.
        let client = self.client.unwrap_or(IpAddr::from([127, 0, 0, 1])).to_canonical();
        if found.last() != Some(&client) {
            found.push(client);
        }
        found.iter().map(IpAddr::to_string).collect()
    }

    fn user_agent(&self) -> String {
        let agent =
            self.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match agent.get(..MAX_USER_AGENT) {
            Some(cut) if agent.len() > MAX_USER_AGENT => format!("{cut}...TRUNCATED"),
            _ => agent.to_owned(),
        }
    }
}

impl Audit {
    /// Begins a request's record, if the policy wants one.
    pub(crate) fn begin(self: &Arc<Self>, seen: &Seen<'_>) -> Option<Record> {
        let user = seen.user.map(|user| (user.name.as_str(), user.groups.as_slice()));
        let applied = self.policy.applied(user, &Attributes::of(seen.info));
        if applied.level == Level::None {
            return None;
        }
        let info = seen.info;
        let now = clock::micros(clock::now_micros());
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: applied.level.name(),
            audit_id: seen.audit_id.to_owned(),
            stage: Stage::RequestReceived.name(),
            request_uri: if seen.query.is_empty() {
                info.path.clone()
            } else {
                format!("{}?{}", info.path, seen.query)
            },
            verb: info.verb.to_owned(),
            user: seen.user.map(UserInfo::of).unwrap_or_default(),
            impersonated_user: None,
            source_ips: seen.source_ips(),
            user_agent: seen.user_agent(),
            object_ref: info.is_resource.then(|| ObjectReference {
                resource: info.resource.clone(),
                namespace: info.namespace.clone(),
                name: info.name.clone(),
                api_group: info.group.clone(),
                api_version: info.version.clone(),
                subresource: info.subresource.clone(),
                ..ObjectReference::default()
            }),
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: now.clone(),
            stage_timestamp: now,
            annotations: BTreeMap::new(),
        };
        Some(Record { audit: self.clone(), applied, event, done: false })
    }
}

/// A request's record. One that is dropped before its end was told tells it then.
pub(crate) struct Record {
    audit: Arc<Audit>,
    applied: Applied,
    event: Event,
    done: bool,
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.done || !self.enter(Stage::ResponseComplete) {
            return;
        }
        for sink in &self.audit.sinks {
            if let Some(line) = self.line(sink) {
                sink.queue.write_later(line);
            }
        }
    }
}

impl Record {
    /// The request is here; `Err` when that had to be written and could not be.
    pub(crate) async fn received(&mut self) -> Result<(), Box<Status>> {
        if self.tell(Stage::RequestReceived).await {
            return Ok(());
        }
        Err(Box::new(Status::internal("failed to store audit event")))
    }

    /// Who the request acts as.
    pub(crate) fn impersonates(&mut self, user: &User) {
        self.event.impersonated_user = Some(UserInfo::of(user));
    }

    /// What the authorizers said.
    pub(crate) fn authorized(&mut self, allowed: Option<bool>, reason: &str) {
        let mut annotate = |key: &str, text: &str| self.event.annotations.insert(key.to_owned(), text.to_owned());
        match allowed {
            Some(allowed) => {
                annotate("authorization.k8s.io/decision", if allowed { "allow" } else { "forbid" });
                annotate("authorization.k8s.io/reason", reason)
            }
            None => annotate("authorization.k8s.io/reason", "internal error"),
        };
    }

    /// The request's body: what it is about, and at the levels that tell of it, the object.
    pub(crate) fn asks(&mut self, info: &RequestInfo, headers: &HeaderMap, body: &[u8]) {
        if body.is_empty()
            || !info.is_resource
            || !matches!(info.verb, "create" | "update" | "patch" | "delete" | "deletecollection")
        {
            return;
        }
        let full = self.applied.level >= Level::Request;
        let format = negotiate::body_format(headers).unwrap_or(BodyFormat::Json);
        if !full && format == BodyFormat::Json && info.verb != "patch" {
            if let Ok(Head { metadata }) = serde_json::from_slice(body) {
                self.refer(&metadata);
            }
            return;
        }
        let value = match format {
            // A patch is told as it came; that it has the form of an object is nobody's promise.
            BodyFormat::Json => codec::parse_yaml(body).ok(),
            BodyFormat::Yaml => codec::parse_yaml(body).ok(),
            BodyFormat::Protobuf => codec::decode_protobuf(body).ok().map(|decoded| decoded.value),
        };
        let Some(mut value) = value else { return };
        if info.verb != "patch" {
            if let Ok(Head { metadata }) = Head::deserialize(&value) {
                self.refer(&metadata);
            }
            let resource = registry::find(&info.group, &info.version, &info.resource);
            let is_whole = matches!(info.subresource.as_str(), "" | "status") && !info.verb.starts_with("delete");
            if let Some(resource) = resource.filter(|_| full && is_whole) {
                complete(resource, &mut value);
            }
        }
        if full {
            self.without_managed_fields(&mut value);
            self.event.request_object = Some(value);
        }
    }

    fn refer(&mut self, metadata: &Metadata) {
        let Some(reference) = &mut self.event.object_ref else { return };
        for (field, value) in [
            (&mut reference.namespace, &metadata.namespace),
            (&mut reference.name, &metadata.name),
            (&mut reference.uid, &metadata.uid),
            (&mut reference.resource_version, &metadata.resource_version),
        ] {
            if field.is_empty() {
                value.clone_into(field);
            }
        }
    }

    fn without_managed_fields(&self, value: &mut Value) {
        if !self.applied.omit_managed_fields {
            return;
        }
        let strip = |object: &mut Value| {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        };
        strip(value);
        for list in ["items", "rows"] {
            for item in value.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                strip(if list == "rows" { &mut item["object"] } else { item });
            }
        }
    }

    /// What admission noted.
    pub(crate) fn notes(&mut self, notes: &Notes) {
        for (key, text) in notes.annotations() {
            self.event.annotations.entry(key.to_owned()).or_insert(text);
        }
    }

    /// What came of it.
    pub(crate) fn answers(&mut self, outcome: &Outcome) {
        let whole = self.applied.level == Level::RequestResponse;
        let (status, object) = match outcome {
            Ok(Reply::Bytes(complete)) => {
                let object: Option<Value> = (complete.object && (whole || is_status(&complete.body)))
                    .then(|| serde_json::from_slice(&complete.body).ok())
                    .flatten();
                let status = match &object {
                    Some(object) if object["kind"] == "Status" => response_status(object, complete.code),
                    _ => code_alone(complete.code),
                };
                (status, object)
            }
            Ok(Reply::Watch(_)) => (code_alone(200), None),
            Ok(Reply::Http(response)) => (code_alone(response.status().as_u16()), None),
            Err(status) => {
                let object = serde_json::to_value(&**status).unwrap_or_default();
                (response_status(&object, status.code), Some(object))
            }
        };
        self.event.response_status = Some(status);
        self.event.response_object = object.filter(|_| whole).map(|mut object| {
            self.without_managed_fields(&mut object);
            object
        });
    }

    /// The handler panicked.
    pub(crate) fn panicked(&mut self, status: &Status) {
        let object = serde_json::to_value(status).unwrap_or_default();
        self.event.response_status = Some(response_status(&object, 500));
    }

    /// Tells of a stage that is not the last one; `false` when it had to be written and could not be.
    pub(crate) async fn tell(&mut self, stage: Stage) -> bool {
        if !self.enter(stage) {
            return true;
        }
        let mut good = true;
        for sink in &self.audit.sinks {
            let Some(line) = self.line(sink) else { continue };
            good &= sink.queue.write(line).await || !sink.queue.is_strict();
        }
        good
    }

    /// Tells of the last stage.
    pub(crate) async fn end(mut self, stage: Stage) {
        self.done = true;
        self.tell(stage).await;
    }

    /// Goes on to a stage; `false` when nothing is told of it.
    fn enter(&mut self, stage: Stage) -> bool {
        self.event.stage = stage.name();
        if stage != Stage::RequestReceived {
            self.event.stage_timestamp = clock::micros(clock::now_micros());
        }
        !self.applied.omits(stage)
    }

    /// The event as it is written there; `None` when it is too large even without its objects.
    fn line(&self, sink: &Sink) -> Option<Vec<u8>> {
        let whole = json(&self.event);
        let cut = sink.limit.filter(|limit| whole.len() > *limit).map(|limit| {
            let mut event = self.event.clone();
            if self.applied.level >= Level::Request {
                (event.request_object, event.response_object) = (None, None);
                event.annotations.insert("audit.k8s.io/truncated".to_owned(), "true".to_owned());
            }
            let line = json(&event);
            (line.len() <= limit).then_some((line, event))
        });
        let (mut line, event) = match cut {
            None => (whole, None),
            Some(Some((line, event))) => (line, Some(event)),
            Some(None) => {
                tracing::warn!(uri = self.event.request_uri, "an audit event is too large even after truncating");
                return None;
            }
        };
        if sink.legacy {
            line = legacy(event.as_ref().unwrap_or(&self.event)).into_bytes();
        }
        line.push(b'\n');
        Some(line)
    }
}

fn json(event: &Event) -> Vec<u8> {
    serde_json::to_vec(event).unwrap_or_default()
}

/// Fills in what the kind's defaults are: events tell of objects as they were understood.
fn complete(resource: &Resource, value: &mut Value) {
    if let Some(ty) = facts::type_by_name(resource.type_name) {
        codec::apply_constant_defaults(value, ty);
    }
    match resource.rules.view {
        None => (resource.rules.default)(value),
        Some(view) => {
            (view.to_stored)(value);
            (view.of.rules.default)(value);
            (view.from_stored)(value);
        }
    }
}

/// What a body says of its object.
#[derive(Default, Deserialize)]
struct Head {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
}

fn is_status(body: &[u8]) -> bool {
    body.get(..64.min(body.len())).is_some_and(|head| head.windows(15).any(|text| text == br#""kind":"Status""#))
}

fn code_alone(code: u16) -> Value {
    serde_json::json!({ "metadata": {}, "code": code })
}

/// The bounded fields of a Status.
fn response_status(object: &Value, code: u16) -> Value {
    let mut status = code_alone(code);
    for field in ["status", "message", "reason", "details"] {
        if let Some(value) = object.get(field).filter(|value| value.as_str() != Some("")) {
            status[field] = value.clone();
        }
    }
    status
}

/// The line that upstream wrote before its events were JSON.
fn legacy(event: &Event) -> String {
    let quote = |text: &str| crate::authz::go_quote(text);
    let groups = |list: &[String]| list.iter().map(|group| quote(group)).collect::<Vec<_>>().join(",");
    let or = |text: &str, other: &str| quote(if text.is_empty() { other } else { text });
    let user = &event.user;
    let known = !user.username.is_empty() && !user.groups.is_empty();
    let acting = event.impersonated_user.as_ref();
    let response = event.response_status.as_ref().and_then(|status| status["code"].as_u64());
    format!(
        "{} AUDIT: id={} stage={} ip={} method={} user={} groups={} as={} asgroups={} user-agent={} namespace={} uri={} response=\"{}\"",
        event.request_received_timestamp,
        quote(&event.audit_id),
        quote(event.stage),
        or(event.source_ips.first().map_or("", String::as_str), "<unknown>"),
        quote(&event.verb),
        or(&user.username, "<none>"),
        quote(&if known { groups(&user.groups) } else { "<none>".to_owned() }),
        quote(acting.map_or("<self>", |user| &user.username)),
        quote(
            &acting.filter(|user| !user.groups.is_empty()).map_or("<lookup>".to_owned(), |user| groups(&user.groups))
        ),
        quote(&event.user_agent),
        or(event.object_ref.as_ref().map_or("", |object| &object.namespace), "<none>"),
        quote(&event.request_uri),
        response.map_or("<deferred>".to_owned(), |code| code.to_string()),
    )
}
