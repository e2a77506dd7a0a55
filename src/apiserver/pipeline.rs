//! The way of a request, in its order: limits, authentication, impersonation, authorization, body, handler (decoding,
//! admission, the kind's rules, the store), answer.

use crate::admission::Notes;
use crate::authn::{Authn, Issuer, Peer, StaticTokens, User, impersonated, jwt::Signer};
use crate::authz::{Attributes, Authz};
use crate::cache::Cache;
use crate::config::{Config, StartError};
use crate::documents::Documents;
use crate::handlers::{self, Call, node_proxy::KubeletDialer};
use crate::negotiate;
use crate::request_info::{self, Query, RequestInfo};
use crate::response::{self, Body, Outcome, Presentation};
use crate::server::{MAX_BODY, read_body};
use crate::services::ServiceAllocator;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use naru_api::selector::{FieldSelector, LabelSelector};
use naru_api::status::Status;
use naru_base::Shutdown;
use naru_store::Store;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Longest path and query.
const MAX_URI: usize = 16 * 1024;
/// How long a request may take that is neither a watch nor a stream, unless the flags say otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Everything that requests share.
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) cache: Cache,
    pub(crate) authn: Authn,
    pub(crate) authz: Authz,
    /// The admission plugins that run.
    pub(crate) plugins: Vec<&'static crate::admission::Plugin>,
    pub(crate) quota_locks: crate::admission::QuotaLocks,
    pub(crate) services: ServiceAllocator,
    pub(crate) documents: Documents,
    pub(crate) kubelets: KubeletDialer,
    pub(crate) shutdown: Shutdown,
    pub(crate) ready: AtomicBool,
    pub(crate) requests: AtomicU64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl State {
    /// Builds the parts in their order and writes the bootstrap objects.
    pub(crate) async fn new(config: Config, shutdown: Shutdown) -> Result<Self, StartError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(config.service_account_key_pem.as_bytes())
            .map_err(|error| StartError::Config { what: "service account key", reason: error.to_string() })?;
        let signer = Signer::from_pkcs8(key.secret_pkcs8_der())
            .map_err(|reason| StartError::Config { what: "service account key", reason })?;
        let issuer = Issuer::new(signer, &config);
        let tokens = StaticTokens::new(&config.static_tokens);
        let cache = Cache::start(config.store.clone(), &shutdown)
            .await
            .map_err(|error| StartError::Store(error.to_string()))?;
        let state = Self {
            store: config.store.clone(),
            authn: Authn { issuer, tokens, anonymous: config.flags.anonymous_auth },
            authz: Authz::new(),
            plugins: crate::admission::plugins(&config.flags)?,
            quota_locks: crate::admission::QuotaLocks::default(),
            services: ServiceAllocator::new(&config, &cache)?,
            documents: Documents::new(
                std::net::SocketAddr::new(config.advertise_address, config.advertise_port).to_string(),
            ),
            kubelets: KubeletDialer::new(&config)?,
            cache,
            config,
            shutdown,
            ready: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        };
        crate::bootstrap::write(&state).await?;
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
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Source,
    pub(crate) upgrade: Option<OnUpgrade>,
}

/// An HTTP request from the network.
pub(crate) async fn serve_http(state: Arc<State>, peer: Arc<Peer>, mut request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let presentation = presentation(request.headers(), &query);
    if request.uri().path().len() + query.len() > MAX_URI {
        let status = Status::failure(414, "RequestURITooLong", "the request's path and query are too long");
        return response::into_http(Err(Box::new(status)), presentation);
    }
    let authorization = request.headers().get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let Ok(user) = state.authn.authenticate(&state.cache, &peer, authorization, request.uri().path()) else {
        return response::into_http(Err(Box::new(Status::unauthorized())), presentation);
    };
    let upgrade = request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    // What has been looked at goes no further, into no log and to no proxied backend.
    parts.headers.remove(http::header::AUTHORIZATION);
    let request = Authenticated {
        user,
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query,
        headers: parts.headers,
        body: Source::Connection(body),
        upgrade,
    };
    response::into_http(run(state, request).await, presentation)
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

/// Everything after authentication; a panic in it ends this request alone.
pub(crate) async fn run(state: Arc<State>, request: Authenticated) -> Outcome {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let (method, path) = (request.method.clone(), request.path.clone());
    let user = request.user.clone();
    let outcome = match AssertUnwindSafe(steps(state, request)).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(_) => {
            tracing::error!(%method, path, "the handler panicked");
            Err(Box::new(Status::internal("the handler panicked; the server's log says where")))
        }
    };
    let code = match &outcome {
        Ok(_) => 200,
        Err(status) => status.code,
    };
    tracing::debug!(%method, path, user = user.name, code, "request");
    outcome
}

async fn steps(state: Arc<State>, request: Authenticated) -> Outcome {
    let query = Query::parse(&request.query);
    let mut info = request_info::parse(&request.method, &request.path, &query);
    if is_websocket(&request) && matches!(info.subresource.as_str(), "exec" | "attach" | "portforward") {
        // A WebSocket starts with a GET, but what it does is a create.
        info.verb = "create";
    }
    let user = match impersonated(&state, &request.user, &request.headers).await? {
        Some(user) => {
            tracing::debug!(user = request.user.name, acting_as = user.name, "impersonation");
            Arc::new(user)
        }
        None => request.user,
    };
    authorize(&state, &user, &info, &query).await?;
    let long_running = is_long_running(&info);
    let body = match request.body {
        Source::Bytes(bytes) => bytes,
        Source::Connection(_) if request.upgrade.is_some() => Bytes::new(),
        Source::Connection(body) => read_body(body)
            .await
            .map_err(|error| Status::bad_request(format!("reading the body: {error}")))?
            .ok_or_else(|| Status::too_large(MAX_BODY))?,
    };
    let notes = Arc::new(Notes::default());
    let call = Call {
        state,
        user,
        method: request.method,
        info,
        query,
        raw_query: request.query,
        headers: request.headers,
        body,
        upgrade: request.upgrade,
        notes: notes.clone(),
    };
    let timeout = call.state.config.flags.request_timeout.unwrap_or(REQUEST_TIMEOUT);
    let deprecation: Vec<String> = deprecation(&call.info).map(str::to_owned).into_iter().collect();
    if long_running {
        return handlers::dispatch(call).await.map(|reply| reply.with_warnings(deprecation));
    }
    match tokio::time::timeout(timeout, handlers::dispatch(call)).await {
        Ok(outcome) => outcome.map(|reply| reply.with_warnings(deprecation).with_warnings(notes.warnings())),
        Err(_) => Err(Box::new(Status::timeout("request did not complete within the allotted timeout", 0))),
    }
}

/// What is said about the resource whatever is done with it.
fn deprecation(info: &RequestInfo) -> Option<&'static str> {
    if !info.is_resource {
        return None;
    }
    naru_api::registry::find(&info.group, &info.version, &info.resource)?.deprecation()
}

fn is_websocket(request: &Authenticated) -> bool {
    request.method == Method::GET
        && request
            .headers
            .get(http::header::UPGRADE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch" || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

async fn authorize(state: &State, user: &User, info: &RequestInfo, query: &Query) -> Result<(), Box<Status>> {
    let selected = info.is_resource && matches!(info.verb, "list" | "watch" | "deletecollection");
    // A selector that cannot be read limits nothing; the handler refuses it later.
    let fields = query.get("fieldSelector").filter(|_| selected).and_then(|text| FieldSelector::parse(text).ok());
    let labels = query.get("labelSelector").filter(|_| selected).and_then(|text| LabelSelector::parse(text).ok());
    let attributes = Attributes { fields: fields.as_ref(), labels: labels.as_ref(), ..Attributes::of(info) };
    let decision = state.authz.authorize(&state.cache, user, &attributes).await;
    if decision.is_allowed() {
        return Ok(());
    }
    if let Some(error) = decision.error() {
        tracing::warn!(user = user.name, error, "a request could not be authorized");
        return Err(Box::new(Status::internal(error)));
    }
    Err(attributes.forbidden(user, &decision))
}
