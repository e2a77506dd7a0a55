//! The way of a request, in its order: limits, authentication, audit, impersonation, authorization, body, handler (decoding,
//! admission, the kind's rules, the store), answer.

use crate::admission::Notes;
use crate::audit::{self, Audit, Stage};
use crate::authn::{Authn, Issuer, LAST_USED, MASTERS, Peer, Remarks, User, day, impersonated, jwt::Signer};
use crate::authz::{Attributes, Authz};
use crate::cache::Cache;
use crate::config::{Config, StartError};
use crate::dialer::Backends;
use crate::documents::Documents;
use crate::encryption::{self, Keyring};
use crate::extension::{Caller, Extension, ExtensionRequest};
use crate::flowcontrol::{FlowControl, Permit, Schema};
use crate::handlers::{self, Call};
use crate::metrics::{LongRunning, Metrics};
use crate::negotiate;
use crate::objects;
use crate::request_info::{self, Query, RequestInfo};
use crate::response::{self, Body, Outcome, Presentation, Reply};
use crate::server::{MAX_BODY, read_body};
use crate::services::ServiceAllocator;
use crate::shares::{Share, Shares};
use crate::storage::Storage;
use crate::websocket;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use naru_api::registry;
use naru_api::selector::{FieldSelector, LabelSelector};
use naru_api::status::Status;
use naru_base::Shutdown;
use naru_client::transport::WatchStream;
use naru_client::{Client, PatchKind};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Headers that tell which objects of flow control a request was held against.
const FLOW_SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// Watches of one user at once. A busy operator has some hundreds.
const MOST_WATCHES: u32 = 5_000;
/// Longest path and query: a command to run in a container is a part of it, and some are whole scripts.
const MAX_URI: usize = 60 * 1024;
/// Under which name a request's audit events are found.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// How long a request may take that is neither a watch nor a stream, unless the flags say otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Everything that requests share.
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) store: Storage,
    pub(crate) cache: Cache,
    pub(crate) authn: Authn,
    pub(crate) authz: Authz,
    /// The admission plugins that run.
    pub(crate) plugins: Vec<&'static crate::admission::Plugin>,
    /// What they were told by files.
    pub(crate) admission: crate::admission::Configuration,
    pub(crate) quota_locks: crate::admission::QuotaLocks,
    pub(crate) services: ServiceAllocator,
    pub(crate) documents: Documents,
    pub(crate) backends: Backends,
    pub(crate) shutdown: Shutdown,
    pub(crate) ready: AtomicBool,
    /// Whether the server has been told to end, and is only finishing.
    pub(crate) stopping: AtomicBool,
    pub(crate) flow_control: FlowControl,
    pub(crate) metrics: Metrics,
    /// Watches that are open, by user.
    pub(crate) watchers: Shares<Arc<str>>,
    /// The audit log, if there is one.
    pub(crate) audit: Option<Arc<Audit>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl State {
    /// Builds the parts in their order and writes the bootstrap objects.
    pub(crate) async fn new(mut config: Config, shutdown: Shutdown) -> Result<Self, StartError> {
        config.resolve()?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(config.service_account_key_pem.as_bytes())
            .map_err(|error| StartError::Config { what: "service account key", reason: error.to_string() })?;
        let signer = Signer::from_pkcs8(key.secret_pkcs8_der())
            .map_err(|reason| StartError::Config { what: "service account key", reason })?;
        let issuer = Issuer::new(signer, &config)?;
        let storage = Storage::new(config.store.clone(), Keyring::default());
        let encryption = encryption::load(&config, &storage)?;
        let cache =
            Cache::start(storage.clone(), &shutdown).await.map_err(|error| StartError::Store(error.to_string()))?;
        let audit = Audit::new(&config.flags.audit)?;
        let flow_control = FlowControl::new(config.flags.seats());
        let state = Self {
            store: storage,
            authn: Authn::new(issuer, &config, &shutdown)?,
            authz: Authz::new(&config.flags, &shutdown)?,
            plugins: crate::admission::plugins(&config.flags)?,
            admission: crate::admission::Configuration::read(config.flags.admission_control_config_file.as_deref())
                .map_err(|reason| StartError::Config { what: "admission-control-config-file", reason })?,
            quota_locks: crate::admission::QuotaLocks::default(),
            services: ServiceAllocator::new(&config, &cache)?,
            documents: Documents::new(
                std::net::SocketAddr::new(config.advertise_address, config.advertise_port).to_string(),
            ),
            backends: Backends::new(&config)?,
            cache,
            config,
            shutdown,
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            flow_control,
            metrics: Metrics::default(),
            watchers: Shares::new(MOST_WATCHES),
            audit,
        };
        crate::bootstrap::write(&state).await?;
        if let Some(encryption) = encryption {
            encryption.start(&state);
        }
        state.ready.store(true, Ordering::Release);
        Ok(state)
    }
}

/// Where a request's body comes from.
pub(crate) enum Source {
    /// It is here.
    Bytes(Bytes),
    /// It is still on the connection.
    Connection(Incoming),
}

/// A request after authentication.
pub(crate) struct Authenticated {
    pub(crate) user: Arc<User>,
    /// What has been said so far, and what will be.
    pub(crate) notes: Arc<Notes>,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Source,
    pub(crate) upgrade: Option<OnUpgrade>,
}

/// An HTTP request from the network.
pub(crate) async fn serve_http(
    state: Arc<State>,
    peer: Arc<Peer>,
    client: Option<IpAddr>,
    request: Request<Incoming>,
) -> Response<Body> {
    let id = request.headers().get(AUDIT_ID).filter(|id| !id.is_empty()).cloned();
    let id = id.or_else(|| HeaderValue::from_str(&objects::new_uid()).ok());
    let id = id.unwrap_or(HeaderValue::from_static("unknown"));
    let audit_id = String::from_utf8_lossy(id.as_bytes()).into_owned();
    let marks = Marks { audit_id, client, ..Marks::default() };
    let head = request.method() == Method::HEAD;
    let mut response = identified(state, peer, request, marks).await;
    response.headers_mut().entry(AUDIT_ID).or_insert(id);
    if head { response::without_body(response) } else { response }
}

/// How much they take up. A connection of HTTP/1 reads ahead, and so may have read more than it would keep.
fn header_bytes(headers: &http::HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

async fn identified(
    state: Arc<State>,
    peer: Arc<Peer>,
    mut request: Request<Incoming>,
    mut marks: Marks,
) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let presentation = presentation(request.headers(), &query);
    if request.uri().path().len() + query.len() > MAX_URI {
        let status = Status::failure(414, "RequestURITooLong", "the request's path and query are too long");
        return response::into_http(Err(Box::new(status)), presentation);
    }
    if header_bytes(request.headers()) > crate::server::MAX_HEADERS as usize {
        let status = Status::failure(431, "RequestHeaderFieldsTooLarge", "the request's headers are too large");
        return response::into_http(Err(Box::new(status)), presentation);
    }
    let path = request.uri().path().to_owned();
    // What has been looked at is taken out: it goes into no log and to no proxied backend.
    let authenticated = state.authn.authenticate(&state.cache, &peer, request.headers_mut(), &path).await;
    let upgrade = request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    if let Some(extension) = state.config.extension.as_deref().filter(|extension| extension.serves(&path)) {
        let user = authenticated.ok().map(|(user, _)| user);
        return extended(extension, user, request, path, upgrade, presentation).await;
    }
    let Ok((user, remarks)) = authenticated else {
        unauthenticated(&state, &request, &path, &query, &marks).await;
        return response::into_http(Err(Box::new(Status::unauthorized())), presentation);
    };
    if let Some(expires) = peer.expires {
        state.metrics.certificate_used(expires - crate::clock::now_seconds());
    }
    let socket = upgrade
        .clone()
        .filter(|_| websocket::is_asked_for(request.method(), request.headers()))
        .map(|upgrade| websocket::Asked::new(upgrade, request.headers()));
    let (mut parts, body) = request.into_parts();
    if !parts.headers.contains_key(http::header::HOST)
        && let Some(host) = parts.uri.authority().and_then(|name| HeaderValue::from_str(name.as_str()).ok())
    {
        // HTTP/2 has it elsewhere.
        parts.headers.insert(http::header::HOST, host);
    }
    let notes = Arc::new(Notes::default());
    remark(&state, &remarks, &notes);
    let request = Authenticated {
        user,
        notes,
        method: parts.method,
        path,
        query,
        headers: parts.headers,
        body: Source::Connection(body),
        upgrade,
    };
    let outcome = marked(state, request, &mut marks).await;
    let mut response = match (marks.refused, outcome, socket) {
        (Some(seconds), ..) => response::too_many_requests(seconds),
        (None, Ok(Reply::Watch(events)), Some(socket)) => socket.watch(events, presentation.encoding),
        (None, outcome, _) => response::into_http(outcome, presentation),
    };
    if let Some(schema) = marks.schema {
        response.headers_mut().insert(FLOW_SCHEMA_UID, schema.uid.clone());
        response.headers_mut().insert(PRIORITY_LEVEL_UID, schema.level_uid.clone());
    }
    response
}

/// Passes on what there is to say about the use of a token.
fn remark(state: &Arc<State>, remarks: &Remarks, notes: &Notes) {
    if let Some(warning) = remarks.warning {
        notes.warn(warning);
    }
    for (key, text) in &remarks.audit {
        notes.audit(key, text.clone());
    }
    if let Some((namespace, secret)) = remarks.last_used.clone() {
        let client = Client::new(crate::in_process::transport(state.clone(), "system:apiserver", &[MASTERS]));
        naru_base::spawn("legacy-token-last-used", async move {
            let patch = json!({ "metadata": { "labels": { (LAST_USED): day(crate::clock::now_seconds()) } } });
            let set =
                client.patch::<Value>(&registry::SECRETS, Some(&namespace), &secret, None, PatchKind::Merge, &patch);
            if let Err(error) = set.await {
                tracing::warn!(namespace, secret, %error, "the day of a token's last use could not be noted");
            }
        });
    }
}

/// A path of the composition root's own.
async fn extended(
    extension: &dyn Extension,
    user: Option<Arc<User>>,
    request: Request<Incoming>,
    path: String,
    upgrade: Option<OnUpgrade>,
    presentation: Presentation,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = if upgrade.is_some() { Ok(Some(Bytes::new())) } else { read_body(body).await };
    let Ok(Some(body)) = body else {
        return response::into_http(Err(Box::new(Status::too_large(MAX_BODY))), presentation);
    };
    let caller = user.as_deref().map(Caller::of);
    let request = ExtensionRequest { caller, method: parts.method, path, body, upgrade };
    extension.answer(request).await.map(response::full)
}

fn presentation(headers: &HeaderMap, query: &str) -> Presentation {
    let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let pretty = match Query::parse(query).get("pretty") {
        Some(value) => matches!(value, "1" | "t" | "T" | "true" | "True" | "TRUE"),
        // People reading with a terminal or a browser get lines.
        None => agent.starts_with("curl") || agent.starts_with("Wget") || agent.starts_with("Mozilla/5.0"),
    };
    let encoding = negotiate::accepted(headers).map_or_else(|_| negotiate::encoding(headers), |a| a.encoding);
    Presentation { gzip: negotiate::accepts_gzip(headers), pretty, encoding }
}

/// What is to be known of a request beside its answer.
#[derive(Default)]
struct Marks {
    /// The flow that it was put into.
    schema: Option<Arc<Schema>>,
    /// It found no seat; when to try again.
    refused: Option<u32>,
    /// How long it waited for its seats.
    waited: Duration,
    /// The seats of a watch that has just begun.
    permit: Option<Permit>,
    /// The place among the user's watches.
    open: Option<Share<Arc<str>>>,
    /// Its name in the audit log.
    audit_id: String,
    /// Whose connection it came by; `None` inside the process.
    client: Option<IpAddr>,
    /// Its record, if the audit policy wants one.
    audit: Option<audit::Record>,
}

/// Everything after authentication; a panic in it ends this request alone.
pub(crate) async fn run(state: Arc<State>, request: Authenticated) -> Outcome {
    let mut marks = Marks::default();
    if state.audit.is_some() {
        marks.audit_id = objects::new_uid();
    }
    marked(state, request, &mut marks).await
}

/// A request that nobody was recognized in is told of as well.
async fn unauthenticated(state: &State, request: &Request<Incoming>, path: &str, query: &str, marks: &Marks) {
    let Some(audit) = &state.audit else { return };
    let info = request_info::parse(request.method(), path, &Query::parse(query));
    let (client, audit_id, headers) = (marks.client, marks.audit_id.as_str(), request.headers());
    let seen = audit::Seen { user: None, info: &info, query, headers, client, audit_id };
    if let Some(mut record) = audit.begin(&seen) {
        record.answers(&Err(Box::new(Status::unauthorized())));
        record.end(Stage::ResponseStarted).await;
    }
}

/// Begins the request's record in the audit log.
async fn begin_audit(
    state: &State,
    request: &Authenticated,
    info: &RequestInfo,
    marks: &mut Marks,
) -> Result<(), Box<Status>> {
    let Some(audit) = &state.audit else { return Ok(()) };
    let (client, audit_id) = (marks.client, marks.audit_id.as_str());
    let (query, headers) = (request.query.as_str(), &request.headers);
    let seen = audit::Seen { user: Some(&request.user), info, query, headers, client, audit_id };
    marks.audit = audit.begin(&seen);
    match &mut marks.audit {
        Some(record) => record.received().await,
        None => Ok(()),
    }
}

async fn marked(state: Arc<State>, request: Authenticated, marks: &mut Marks) -> Outcome {
    let started = Instant::now();
    let (method, path) = (request.method.clone(), request.path.clone());
    let (user, notes) = (request.user.clone(), request.notes.clone());
    let query = Query::parse(&request.query);
    let mut info = request_info::parse(&request.method, &request.path, &query);
    if websocket::is_asked_for(&request.method, &request.headers)
        && matches!(info.subresource.as_str(), "exec" | "attach" | "portforward")
    {
        // A WebSocket starts with a GET, but what it does is a create.
        info.verb = "create";
    }
    let long_running = is_long_running(&info);
    let applies = info.verb == "patch" && handlers::is_apply(&request.headers);
    let route = state.metrics.route(&info, query.get("dryRun") == Some("All"), applies);
    let inflight = (!long_running).then(|| state.metrics.begin(info.verb));
    let outcome = match AssertUnwindSafe(steps(state.clone(), request, info, query, marks)).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(_) => {
            tracing::error!(%method, path, "the handler panicked");
            let status = Box::new(Status::internal("the handler panicked; the server's log says where"));
            if let Some(mut record) = marks.audit.take() {
                record.panicked(&status);
                record.end(Stage::Panic).await;
            }
            Err(status)
        }
    };
    let mut record = marks.audit.take();
    if let Some(record) = &mut record {
        record.notes(&notes);
        record.answers(&outcome);
    }
    let goes_on = matches!(outcome, Ok(Reply::Watch(_) | Reply::Http(_)));
    let record = end_audit(record, long_running, goes_on).await;
    let code = match &outcome {
        Ok(Reply::Bytes(complete)) => complete.code,
        Ok(_) => 200,
        Err(status) => status.code,
    };
    tracing::debug!(%method, path, user = user.name, code, "request");
    drop(inflight);
    state.metrics.done(&route, &outcome, started, marks.waited);
    match outcome {
        Ok(Reply::Watch(events)) => {
            let running = state.metrics.long_running(route);
            Ok(Reply::Watch(
                Watched { events, permit: marks.permit.take(), running, _open: marks.open.take(), _record: record }
                    .boxed(),
            ))
        }
        Ok(Reply::Http(response)) if record.is_some() => {
            // The record ends with the body, or with the stream that takes its place.
            let kept = move |body: Body| body.map_frame(move |frame| (&record, frame).1).boxed_unsync();
            Ok(Reply::Http(Box::new(response.map(kept))))
        }
        outcome => {
            if marks.refused.is_some() || code == 504 {
                state.metrics.terminated(&route, code);
            }
            outcome
        }
    }
}

/// Tells the audit log of the answer. What goes on keeps its record, which ends when it is dropped.
async fn end_audit(record: Option<audit::Record>, long_running: bool, goes_on: bool) -> Option<audit::Record> {
    let mut record = record?;
    if long_running {
        record.tell(Stage::ResponseStarted).await;
    }
    if goes_on {
        return Some(record);
    }
    record.end(Stage::ResponseComplete).await;
    None
}

async fn steps(
    state: Arc<State>,
    mut request: Authenticated,
    info: RequestInfo,
    query: Query,
    marks: &mut Marks,
) -> Outcome {
    let started = Instant::now();
    begin_audit(&state, &request, &info, marks).await?;
    let limit = time_limit(&state, &info, &query)?;
    let selected = Selected::of(&info, &query);
    if let Some(user) = impersonated(&state, &request.user, &request.headers, &selected.attributes(&info)).await? {
        tracing::debug!(user = request.user.name, acting_as = user.name, "impersonation");
        if let Some(record) = &mut marks.audit {
            record.impersonates(&user);
        }
        request.user = Arc::new(user);
    }
    let Some(limit) = limit else { return seated(state, request, info, query, marks).await };
    let late = || Err(Box::new(Status::timeout("request did not complete within the allotted timeout", 0)));
    // The timer counts in milliseconds and lets work that is quicker pass.
    let Some(left) = limit.checked_sub(started.elapsed()) else { return late() };
    tokio::time::timeout(left, seated(state, request, info, query, marks)).await.unwrap_or_else(|_| late())
}

/// How long the request may take: what the client says, or what is usual. Watches and streams take as long as they do.
fn time_limit(state: &State, info: &RequestInfo, query: &Query) -> Result<Option<Duration>, Box<Status>> {
    if is_long_running(info) {
        return Ok(None);
    }
    let most = state.config.flags.request_timeout.unwrap_or(REQUEST_TIMEOUT);
    let asked = query.get("timeout").filter(|text| !text.is_empty()).map(|text| {
        naru_api::meta::duration::parse(text).ok_or_else(|| {
            let what = format!("invalid timeout specified in the request URL - time: invalid duration {text:?}");
            Box::new(Status::bad_request(what))
        })
    });
    let asked = asked.transpose()?.filter(|asked| !asked.is_zero());
    Ok(Some(asked.map_or(most, |asked| asked.min(most))))
}

/// Takes seats for the request, and lets it go on.
async fn seated(
    state: Arc<State>,
    request: Authenticated,
    info: RequestInfo,
    query: Query,
    marks: &mut Marks,
) -> Outcome {
    // Streams last for as long as somebody looks at them; of a watch its beginning counts.
    let exempt = is_long_running(&info) && info.verb != "watch";
    let schema = if exempt { None } else { state.flow_control.classify(&request.user, &info) };
    let mut permit = None;
    if let Some(schema) = schema {
        let since = Instant::now();
        let entered = state.flow_control.enter(&state, &schema, &request.user, &info, &query).await;
        marks.waited = since.elapsed();
        marks.schema = Some(schema);
        match entered {
            Ok(entered) => permit = Some(entered),
            Err(refusal) => {
                marks.refused = Some(refusal.retry_after_seconds);
                let seconds = i32::try_from(refusal.retry_after_seconds).unwrap_or(1);
                return Err(Box::new(Status::too_many_requests(response::TOO_MANY_REQUESTS, seconds)));
            }
        }
    }
    if info.verb == "watch" {
        marks.open = state.watchers.take(Arc::from(request.user.name.as_str()));
        if marks.open.is_none() {
            return Err(Box::new(Status::too_many_requests("this user has too many watches open", 1)));
        }
    }
    let outcome = answered(state, request, info, query, marks).await;
    if matches!(outcome, Ok(Reply::Watch(_))) {
        marks.permit = permit;
    }
    outcome
}

async fn answered(
    state: Arc<State>,
    request: Authenticated,
    info: RequestInfo,
    query: Query,
    marks: &mut Marks,
) -> Outcome {
    authorize(&state, &request.user, &info, &query, marks.audit.as_mut()).await?;
    let mut incoming = None;
    let body = match request.body {
        Source::Bytes(bytes) => bytes,
        Source::Connection(body) if info.subresource == "proxy" && request.upgrade.is_none() => {
            incoming = Some(body);
            Bytes::new()
        }
        Source::Connection(_) if request.upgrade.is_some() => Bytes::new(),
        Source::Connection(body) => read_body(body)
            .await
            .map_err(|error| Status::bad_request(format!("reading the body: {error}")))?
            .ok_or_else(|| Status::too_large(MAX_BODY))?,
    };
    if let Some(record) = &mut marks.audit {
        record.asks(&info, &request.headers, &body);
    }
    let notes = request.notes;
    let deprecation: Vec<String> = deprecation(&info).map(str::to_owned).into_iter().collect();
    let call = Call {
        state,
        user: request.user,
        method: request.method,
        info,
        query,
        raw_query: request.query,
        headers: request.headers,
        body,
        incoming,
        upgrade: request.upgrade,
        client: marks.client,
        notes: notes.clone(),
    };
    let outcome = handlers::dispatch(call).await;
    outcome.map(|reply| reply.with_warnings(deprecation).with_warnings(notes.warnings()))
}

/// A watch that gives its seats back once it has sent what there was at its beginning, and is counted.
struct Watched {
    events: WatchStream,
    permit: Option<Permit>,
    running: LongRunning,
    _open: Option<Share<Arc<str>>>,
    /// Told to have ended when the watch does.
    _record: Option<audit::Record>,
}

impl Stream for Watched {
    type Item = <WatchStream as Stream>::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.events.poll_next_unpin(cx);
        match &polled {
            Poll::Ready(Some(_)) => self.running.event(),
            Poll::Ready(None) | Poll::Pending => self.permit = None,
        }
        polled
    }
}

/// What is said about the resource whatever is done with it.
fn deprecation(info: &RequestInfo) -> Option<&'static str> {
    if !info.is_resource {
        return None;
    }
    naru_api::registry::find(&info.group, &info.version, &info.resource)?.deprecation()
}

fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch" || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// What the selectors of a request limit it to, as far as authorization is concerned.
struct Selected {
    fields: Option<FieldSelector>,
    labels: Option<LabelSelector>,
}

impl Selected {
    fn of(info: &RequestInfo, query: &Query) -> Self {
        let counts = info.is_resource && matches!(info.verb, "list" | "watch" | "deletecollection");
        // A selector that cannot be read limits nothing; the handler refuses it later.
        let text = |name: &str| query.get(name).filter(|_| counts);
        Self {
            fields: text("fieldSelector").and_then(|text| FieldSelector::parse(text).ok()),
            labels: text("labelSelector").and_then(|text| LabelSelector::parse(text).ok()),
        }
    }

    fn attributes<'a>(&'a self, info: &'a RequestInfo) -> Attributes<'a> {
        Attributes { fields: self.fields.as_ref(), labels: self.labels.as_ref(), ..Attributes::of(info) }
    }
}

async fn authorize(
    state: &State,
    user: &User,
    info: &RequestInfo,
    query: &Query,
    record: Option<&mut audit::Record>,
) -> Result<(), Box<Status>> {
    let selected = Selected::of(info, query);
    let attributes = selected.attributes(info);
    let decision = state.authz.authorize(&state.cache, user, &attributes).await;
    if let Some(record) = record {
        let failed = !decision.is_allowed() && decision.error().is_some();
        record.authorized((!failed).then(|| decision.is_allowed()), &decision.reason);
    }
    if decision.is_allowed() {
        return Ok(());
    }
    if let Some(error) = decision.error() {
        tracing::warn!(user = user.name, error, "a request could not be authorized");
        return Err(Box::new(Status::internal(error)));
    }
    Err(attributes.forbidden(user, &decision))
}
