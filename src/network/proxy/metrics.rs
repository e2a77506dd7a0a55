//! What the service proxy counts, under kube-proxy's names, and the small pages that it is asked for.

use crate::http;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use jiff::Timestamp;
use naru_base::metrics::{Histogram, Source, Text};
use naru_base::{Shutdown, spawn};
use naru_client::projections::EndpointSliceView;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

/// When the change was made that a slice tells of.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Changes that wait for the next program; those beyond are not measured.
const MAX_WAITING: usize = 4096;
const MAX_SCRAPERS: usize = 8;
/// From 1 ms, each twice the one before.
const SYNCS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
/// Fine below a minute, then by five seconds to two, then by half a minute to five.
const PROGRAMMING: &[f64] = &[
    0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 19.0,
    20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 26.0, 27.0, 28.0, 29.0, 30.0, 31.0, 32.0, 33.0, 34.0, 35.0, 36.0, 37.0, 38.0,
    39.0, 40.0, 41.0, 42.0, 43.0, 44.0, 45.0, 46.0, 47.0, 48.0, 49.0, 50.0, 51.0, 52.0, 53.0, 54.0, 55.0, 56.0, 57.0,
    58.0, 59.0, 60.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0, 100.0, 105.0, 110.0, 115.0, 120.0, 150.0, 180.0, 210.0,
    240.0, 270.0, 300.0,
];

/// What a proxy has counted.
#[derive(Debug)]
pub(super) struct Metrics {
    started: Timestamp,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    whole: Histogram,
    partial: Histogram,
    programming: Histogram,
    /// When changes were made that are not in the tables yet.
    waiting: Vec<Timestamp>,
    service_changes: u64,
    endpoint_changes: u64,
    failures: u64,
    queued: Option<Timestamp>,
    synced: Option<Timestamp>,
}

impl Default for Metrics {
    fn default() -> Self {
        let counts = Counts {
            whole: Histogram::new(SYNCS),
            partial: Histogram::new(SYNCS),
            programming: Histogram::new(PROGRAMMING),
            waiting: Vec::new(),
            service_changes: 0,
            endpoint_changes: 0,
            failures: 0,
            queued: None,
            synced: None,
        };
        Self { started: Timestamp::now(), counts: Mutex::new(counts) }
    }
}

fn triggered(slice: Option<&EndpointSliceView>) -> Option<&str> {
    slice?.metadata.annotations.get(TRIGGER).map(AsRef::as_ref)
}

impl Metrics {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A Service has changed.
    pub(super) fn service_changed(&self) {
        let mut counts = self.counts();
        counts.service_changes += 1;
        counts.queued = Some(Timestamp::now());
    }

    /// Endpoints have changed. What changed before this process began took longer for other reasons.
    pub(super) fn slice_changed(&self, old: Option<&EndpointSliceView>, new: Option<&EndpointSliceView>) {
        let at = triggered(new).filter(|at| Some(*at) != triggered(old)).and_then(|at| at.parse().ok());
        let at = at.filter(|at: &Timestamp| *at >= self.started);
        let mut counts = self.counts();
        counts.endpoint_changes += 1;
        counts.queued = Some(Timestamp::now());
        if counts.waiting.len() < MAX_WAITING {
            counts.waiting.extend(at);
        }
    }

    /// How many changes wait; those that come from now on are of the next program.
    pub(super) fn begin(&self) -> usize {
        self.counts().waiting.len()
    }

    /// The tables have been brought up to date with the first so many changes, wholly or in part.
    pub(super) fn synced(&self, whole: bool, took: Duration, changes: usize) {
        let mut counts = self.counts();
        if whole { &mut counts.whole } else { &mut counts.partial }.observe(took);
        counts.synced = Some(Timestamp::now());
        Self::programmed(&mut counts, changes);
    }

    /// There was nothing to be done for so many changes.
    pub(super) fn unchanged(&self, changes: usize) {
        Self::programmed(&mut self.counts(), changes);
    }

    fn programmed(counts: &mut Counts, changes: usize) {
        let now = Timestamp::now();
        let Counts { waiting, programming, .. } = counts;
        for at in waiting.drain(..changes.min(waiting.len())) {
            programming.observe(Duration::try_from(now.duration_since(at)).unwrap_or_default());
        }
    }

    /// The kernel has refused.
    pub(super) fn failed(&self) {
        self.counts().failures += 1;
    }
}

impl Source for Metrics {
    fn render(&self, out: &mut Text) {
        let counts = self.counts();
        let both = counts.whole.plus(&counts.partial);
        let families = [
            ("sync_proxy_rules", "SyncProxyRules latency in seconds", &both),
            ("sync_full_proxy_rules", "SyncProxyRules latency in seconds for full resyncs", &counts.whole),
            ("sync_partial_proxy_rules", "SyncProxyRules latency in seconds for partial resyncs", &counts.partial),
            ("network_programming", "In Cluster Network Programming Latency in seconds", &counts.programming),
        ];
        for (name, help, histogram) in families {
            let name = format!("kubeproxy_{name}_duration_seconds");
            out.family(&name, "histogram", &format!("[ALPHA] {help}"));
            out.histogram(&name, &[], histogram);
        }
        for (name, help, count) in [
            ("service_changes_total", "Cumulative proxy rules Service changes", counts.service_changes),
            ("endpoint_changes_total", "Cumulative proxy rules Endpoint changes", counts.endpoint_changes),
            ("nftables_sync_failures_total", "Cumulative proxy nftables sync failures", counts.failures),
        ] {
            out.single(&format!("kubeproxy_sync_proxy_rules_{name}"), "counter", &format!("[ALPHA] {help}"), count);
        }
        for (name, help, at) in [
            ("last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued", counts.queued),
            ("last_timestamp_seconds", "The last time proxy rules were successfully synced", counts.synced),
        ] {
            let seconds = at.map_or(0.0, |at| at.as_millisecond() as f64 / 1e3);
            out.single(&format!("kubeproxy_sync_proxy_rules_{name}"), "gauge", &format!("[ALPHA] {help}"), seconds);
        }
    }
}

/// Serves `/metrics`, `/proxyMode` and `/healthz` on this address, if nobody else has it, until the shutdown.
pub(super) async fn serve(address: SocketAddr, sources: Vec<Arc<dyn Source>>, shutdown: &Shutdown) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => return tracing::debug!(%error, %address, "the service proxy's metrics have no page of their own"),
    };
    let (stop, page) = (shutdown.clone(), move |request: &Request<Incoming>| answer(request.uri().path(), &sources));
    spawn("proxy-metrics", async move { stop.guard(http::serve(listener, MAX_SCRAPERS, page)).await });
}

fn answer(path: &str, sources: &[Arc<dyn Source>]) -> Response<Full<Bytes>> {
    let body = match path {
        "/metrics" => {
            let mut out = Text::default();
            sources.iter().for_each(|source| source.render(&mut out));
            out.into_string().into()
        }
        "/proxyMode" => Bytes::from_static(b"nftables"),
        "/healthz" => Bytes::from_static(b"ok"),
        _ => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
    };
    let mut response = Response::new(Full::new(body));
    let kind = if path == "/metrics" { "text/plain; version=0.0.4" } else { "text/plain; charset=utf-8" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn slice(at: Timestamp) -> EndpointSliceView {
        serde_json::from_value(json!({"metadata": {"name": "s", "annotations": {TRIGGER: at.to_string()}}})).unwrap()
    }

    #[test]
    fn changes_count_when_they_are_in_the_tables_and_only_once() {
        let metrics = Metrics::default();
        let now = metrics.started;
        let (old, new) = (slice(now - Duration::from_secs(3600)), slice(now));
        metrics.slice_changed(None, Some(&old));
        metrics.slice_changed(Some(&old), Some(&new));
        metrics.slice_changed(Some(&new), Some(&new));
        metrics.slice_changed(Some(&new), None);
        metrics.service_changed();
        let waiting = metrics.begin();
        assert_eq!(waiting, 1, "what is older than the process, or said already, is not measured");
        metrics.slice_changed(Some(&old), Some(&new));
        metrics.synced(true, Duration::from_millis(3), waiting);
        metrics.synced(false, Duration::from_millis(3), 0);
        metrics.failed();
        assert_eq!(metrics.begin(), 1, "the later change is of the next program");
        metrics.unchanged(1);
        let sources: Vec<Arc<dyn Source>> = vec![Arc::new(metrics)];
        let mut out = Text::default();
        sources[0].render(&mut out);
        let text = out.into_string();
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\"} 2",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count 1",
            "kubeproxy_network_programming_duration_seconds_count 2",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 5",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert_eq!(answer("/metrics", &sources).status(), StatusCode::OK);
        assert_eq!(answer("/other", &sources).status(), StatusCode::NOT_FOUND);
    }
}
