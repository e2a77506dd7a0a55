//! What is counted about requests, under the names that the usual dashboards read. The number of series is
//! bounded: labels come from known resources and closed sets, never from what a client makes up.

mod queues;

pub(crate) use naru_base::metrics::{Histogram, Text};

use crate::request_info::RequestInfo;
use crate::response::{Outcome, Reply};
use naru_api::registry;
use naru_base::metrics::Source;
use naru_client::{Calls, QueueMetrics};
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Routes that are counted apart; more are counted together.
const MAX_ROUTES: usize = 4096;
/// Plain paths that are told by name.
const PATHS: [&str; 8] = ["/healthz", "/livez", "/readyz", "/metrics", "/version", "/openapi", "/apis", "/api"];
const DURATIONS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
const SLI_DURATIONS: &[f64] =
    &[0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const STORE_DURATIONS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

/// From half an hour to a year, in seconds.
const REMAINING: &[f64] = &[
    0.0,
    1800.0,
    3600.0,
    7200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
];
/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    hasher: RandomState,
    routes: RwLock<HashMap<u64, Arc<Route>>>,
    /// Requests that are neither watches nor streams, being worked on: reading, writing.
    inflight: [Inflight; 2],
    /// Writes to the store, by operation, group and resource.
    store: Mutex<BTreeMap<(&'static str, &'static str, &'static str), Histogram>>,
    pub(crate) tls_handshake_errors: AtomicU64,
    /// How long the client certificates of requests are still valid.
    certificates: Mutex<Option<Histogram>>,
    /// Requests of the server's own parts.
    pub(crate) calls: Calls,
    /// The work queues of this process.
    pub(crate) queues: QueueMetrics,
}

/// How many there are, and the most that there were in this second.
#[derive(Debug, Default)]
struct Inflight {
    now: AtomicI64,
    peak: Mutex<(u64, i64, i64)>,
}

/// A request being counted as in flight.
pub(crate) struct InflightGuard<'a>(&'a Inflight);

impl Drop for InflightGuard<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a series of requests has in common.
#[derive(Debug)]
pub(crate) struct Route {
    verb: &'static str,
    dry_run: &'static str,
    group: Box<str>,
    version: Box<str>,
    resource: Box<str>,
    subresource: Box<str>,
    scope: &'static str,
    counts: Mutex<Counts>,
    long_running: AtomicI64,
    watch_events: AtomicU64,
}

#[derive(Debug)]
struct Counts {
    codes: BTreeMap<u16, u64>,
    terminated: BTreeMap<u16, u64>,
    durations: Histogram,
    /// Without what was spent waiting for seats.
    sli: Histogram,
    sizes: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            codes: BTreeMap::new(),
            terminated: BTreeMap::new(),
            durations: Histogram::new(DURATIONS),
            sli: Histogram::new(SLI_DURATIONS),
            sizes: Histogram::new(SIZES),
        }
    }
}

/// A watch or stream being counted; it is over when this is dropped.
#[derive(Debug)]
pub(crate) struct LongRunning {
    route: Arc<Route>,
    started: Instant,
}

impl LongRunning {
    /// Counts an event that is sent.
    pub(crate) fn event(&self) {
        self.route.watch_events.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        self.route.long_running.fetch_sub(1, Ordering::Relaxed);
        self.route.done(200, self.started.elapsed(), Duration::ZERO, 0);
    }
}

impl Route {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self, code: u16, took: Duration, waited: Duration, size: usize) {
        let mut counts = self.counts();
        *counts.codes.entry(code).or_default() += 1;
        counts.durations.observe(took);
        counts.sli.observe(took.saturating_sub(waited));
        counts.sizes.add(size as f64);
    }

    fn labels(&self) -> [(&'static str, &str); 7] {
        [
            ("verb", self.verb),
            ("group", &self.group),
            ("version", &self.version),
            ("resource", &self.resource),
            ("subresource", &self.subresource),
            ("scope", self.scope),
            ("component", "apiserver"),
        ]
    }
}

/// The verb as metrics name it.
fn verb(info: &RequestInfo, applies: bool) -> &'static str {
    if matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy") {
        return "CONNECT";
    }
    match info.verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if applies => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "head" => "HEAD",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    if !info.is_resource {
        ""
    } else if !info.name.is_empty() || info.verb == "create" {
        "resource"
    } else if !info.namespace.is_empty() {
        "namespace"
    } else {
        "cluster"
    }
}

/// Whether labels may say what the request names.
fn is_known(info: &RequestInfo) -> bool {
    registry::find(&info.group, &info.version, &info.resource).is_some_and(|resource| {
        info.subresource.is_empty() || info.subresource == "proxy" || resource.subresource(&info.subresource).is_some()
    })
}

impl Metrics {
    /// The series that a request belongs to.
    pub(crate) fn route(&self, info: &RequestInfo, dry_run: bool, applies: bool) -> Arc<Route> {
        let (verb, scope) = (verb(info, applies), scope(info));
        let dry_run = if dry_run { "All" } else { "" };
        let path = PATHS.into_iter().find(|path| !info.is_resource && info.path.starts_with(path)).unwrap_or_default();
        let hash = |parts: [&str; 5]| self.hasher.hash_one((verb, dry_run, scope, parts));
        let subresource = if info.is_resource { info.subresource.as_str() } else { path };
        let parts = [info.group.as_str(), &info.version, &info.resource, subresource, ""];
        let key = hash(parts);
        if let Some(route) = self.routes().get(&key) {
            return Arc::clone(route);
        }
        let plain = !info.is_resource;
        if (plain || is_known(info)) && self.routes().len() < MAX_ROUTES {
            return self.add(key, Self::new_route(verb, dry_run, scope, parts));
        }
        let parts = [""; 5];
        self.add(hash(parts), Self::new_route(verb, dry_run, scope, parts))
    }

    fn routes(&self) -> std::sync::RwLockReadGuard<'_, HashMap<u64, Arc<Route>>> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: u64, route: Route) -> Arc<Route> {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(routes.entry(key).or_insert_with(|| Arc::new(route)))
    }

    fn new_route(verb: &'static str, dry_run: &'static str, scope: &'static str, parts: [&str; 5]) -> Route {
        let [group, version, resource, subresource, _] = parts.map(Box::from);
        Route {
            verb,
            dry_run,
            group,
            version,
            resource,
            subresource,
            scope,
            counts: Mutex::default(),
            long_running: AtomicI64::new(0),
            watch_events: AtomicU64::new(0),
        }
    }

    /// Counts a request as in flight until the guard is dropped.
    pub(crate) fn begin(&self, verb: &str) -> InflightGuard<'_> {
        let inflight = &self.inflight[usize::from(!matches!(verb, "get" | "list" | "watch"))];
        let now = inflight.now.fetch_add(1, Ordering::Relaxed) + 1;
        let second = crate::clock::now_seconds().unsigned_abs();
        let mut peak = inflight.peak.lock().unwrap_or_else(PoisonError::into_inner);
        if peak.0 != second {
            let last = if peak.0 + 1 == second { peak.1 } else { 0 };
            *peak = (second, now, last);
        }
        peak.1 = peak.1.max(now);
        InflightGuard(inflight)
    }

    /// Requests being worked on, watches and streams not among them.
    pub(crate) fn inflight(&self) -> i64 {
        self.inflight.iter().map(|inflight| inflight.now.load(Ordering::Relaxed)).sum()
    }

    /// Counts an answer.
    pub(crate) fn done(&self, route: &Arc<Route>, outcome: &Outcome, started: Instant, waited: Duration) {
        let (code, size) = match outcome {
            // Counted when it ends.
            Ok(Reply::Watch(_)) => return,
            Ok(Reply::Bytes(complete)) => (complete.code, complete.body.len()),
            Ok(Reply::Http(response)) => (response.status().as_u16(), 0),
            Err(status) => (status.code, status.message.len()),
        };
        route.done(code, started.elapsed(), waited, size);
    }

    /// Counts a request that was ended to protect the server.
    pub(crate) fn terminated(&self, route: &Route, code: u16) {
        *route.counts().terminated.entry(code).or_default() += 1;
    }

    /// Counts a watch until the guard is dropped.
    pub(crate) fn long_running(&self, route: Arc<Route>) -> LongRunning {
        route.long_running.fetch_add(1, Ordering::Relaxed);
        LongRunning { route, started: Instant::now() }
    }

    /// Counts a write to the store.
    pub(crate) fn stored(&self, operation: &'static str, group: &'static str, resource: &'static str, took: Duration) {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.entry((operation, group, resource)).or_insert_with(|| Histogram::new(STORE_DURATIONS)).observe(took);
    }

    /// Counts a request of somebody whose certificate is valid for so many seconds.
    pub(crate) fn certificate_used(&self, remaining_seconds: i64) {
        let mut certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        certificates.get_or_insert_with(|| Histogram::new(REMAINING)).add(remaining_seconds as f64);
    }

    /// Counts a request of a part of this process.
    pub(crate) fn called(&self, method: &http::Method, asked: usize, outcome: &Outcome, took: Duration) {
        let (code, answered) = match outcome {
            Ok(Reply::Bytes(complete)) => (complete.code, complete.body.len()),
            Ok(_) => (200, 0),
            Err(status) => (status.code, status.message.len()),
        };
        self.calls.count(method, Some(code), (asked, answered), took);
    }

    /// Writes everything.
    pub(crate) fn render(&self, out: &mut Text) {
        let mut routes: Vec<Arc<Route>> = self.routes().values().cloned().collect();
        routes.sort_by(|a, b| (a.labels(), a.dry_run).cmp(&(b.labels(), b.dry_run)));
        render_requests(&routes, out);
        self.render_inflight(out);
        out.family("etcd_request_duration_seconds", "histogram", "How long writes to the store took.");
        for ((operation, group, resource), histogram) in
            self.store.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            let labels = [("operation", *operation), ("group", *group), ("resource", *resource)];
            out.histogram("etcd_request_duration_seconds", &labels, histogram);
        }
        Source::render(&self.calls, out);
        queues::render(&self.queues, out);
        let errors = self.tls_handshake_errors.load(Ordering::Relaxed);
        out.single("apiserver_tls_handshake_errors_total", "counter", "TLS handshakes that failed.", errors);
        if let Some(certificates) = &*self.certificates.lock().unwrap_or_else(PoisonError::into_inner) {
            let name = "apiserver_client_certificate_expiration_seconds";
            out.family(name, "histogram", "How long the client certificates of requests are still valid.");
            out.histogram(name, &[], certificates);
        }
        Source::render(&naru_base::Process, out);
    }

    fn render_inflight(&self, out: &mut Text) {
        let name = "apiserver_current_inflight_requests";
        out.family(name, "gauge", "The most requests at once in the last second, by kind.");
        let second = crate::clock::now_seconds().unsigned_abs();
        for (kind, inflight) in ["readOnly", "mutating"].into_iter().zip(&self.inflight) {
            let now = inflight.now.load(Ordering::Relaxed);
            let peak = *inflight.peak.lock().unwrap_or_else(PoisonError::into_inner);
            let recent = match second.saturating_sub(peak.0) {
                0 => peak.1.max(peak.2),
                1 => peak.1,
                _ => 0,
            };
            out.sample(name, &[("request_kind", kind)], now.max(recent));
        }
    }
}

type Part = fn(&Counts) -> &Histogram;

fn render_requests(routes: &[Arc<Route>], out: &mut Text) {
    let name = "apiserver_request_total";
    out.family(name, "counter", "Requests by verb, dry run, group, version, resource, scope, component and code.");
    for route in routes {
        for (code, count) in &route.counts().codes {
            out.sample(name, &with(&route.labels(), &[("dry_run", route.dry_run), ("code", &code.to_string())]), count);
        }
    }
    let name = "apiserver_request_duration_seconds";
    out.family(name, "histogram", "How long requests took, in seconds.");
    for route in routes {
        let counts = route.counts();
        if !counts.codes.is_empty() {
            out.histogram(name, &with(&route.labels(), &[("dry_run", route.dry_run)]), &counts.durations);
        }
    }
    // Dry runs would appear twice in families without a label for them.
    let routes: Vec<&Arc<Route>> = routes.iter().filter(|route| route.dry_run.is_empty()).collect();
    let families: [(&str, &str, Part); 3] = [
        ("apiserver_request_sli_duration_seconds", "How long requests took without waiting for seats.", |c| &c.sli),
        ("apiserver_request_slo_duration_seconds", "The same, under its former name.", |c| &c.sli),
        ("apiserver_response_sizes", "Sizes of answers in bytes.", |c| &c.sizes),
    ];
    for (name, help, part) in families {
        out.family(name, "histogram", help);
        for route in &routes {
            let counts = route.counts();
            if !counts.codes.is_empty() {
                out.histogram(name, &route.labels(), part(&counts));
            }
        }
    }
    let name = "apiserver_request_terminations_total";
    out.family(name, "counter", "Requests that were ended to protect the server.");
    for route in &routes {
        for (code, count) in &route.counts().terminated {
            out.sample(name, &with(&route.labels(), &[("code", &code.to_string())]), count);
        }
    }
    let name = "apiserver_longrunning_requests";
    out.family(name, "gauge", "Watches that are open.");
    for route in routes.iter().filter(|route| route.verb == "WATCH") {
        out.sample(name, &route.labels(), route.long_running.load(Ordering::Relaxed));
    }
    let name = "apiserver_watch_events_total";
    out.family(name, "counter", "Events sent to watchers.");
    let mut events: BTreeMap<[&str; 3], u64> = BTreeMap::new();
    for route in routes.iter().filter(|route| route.verb == "WATCH") {
        let count = route.watch_events.load(Ordering::Relaxed);
        *events.entry([&route.group, &route.version, &route.resource]).or_default() += count;
    }
    for ([group, version, resource], count) in events {
        out.sample(name, &[("group", group), ("version", version), ("resource", resource)], count);
    }
}

fn with<'a>(labels: &[(&'static str, &'a str)], more: &[(&'static str, &'a str)]) -> Vec<(&'static str, &'a str)> {
    labels.iter().chain(more).copied().collect()
}
