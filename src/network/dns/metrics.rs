//! Figures under CoreDNS' names, so that its dashboards read them.

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Upper bounds of the histograms' buckets, in seconds.
const SECONDS: [f64; 8] = [0.000_25, 0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096];
/// The same of messages, in bytes.
const BYTES: [f64; 8] = [100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0];
/// Response codes with a counter of their own; the rest count under `other`.
const CODES: [&str; 7] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "other"];
/// Types with a counter of their own; the rest count under `other`.
const TYPES: [&str; 5] = ["A", "AAAA", "SRV", "PTR", "other"];
const TRANSPORTS: [&str; 2] = ["udp", "tcp"];

/// One question and its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    pub(super) tcp: bool,
    pub(super) v6: bool,
    /// The question's length.
    pub(super) asked: usize,
    pub(super) started: Instant,
}

/// What is counted of an answer: the indices of its type and code.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    kind: usize,
    code: usize,
}

impl Exchange {
    pub(super) fn about(response: &Message) -> About {
        let kind = match response.queries.first().map(|query| query.query_type) {
            Some(RecordType::A) => 0,
            Some(RecordType::AAAA) => 1,
            Some(RecordType::SRV) => 2,
            Some(RecordType::PTR) => 3,
            _ => 4,
        };
        let code = u16::from(response.metadata.response_code);
        About { kind, code: usize::from(code).min(CODES.len() - 1) }
    }
}

/// Buckets with these bounds; the sum is kept in millionths.
#[derive(Debug)]
struct Histogram {
    bounds: &'static [f64; 8],
    buckets: [AtomicU64; 8],
    count: AtomicU64,
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64; 8]) -> Self {
        Self { bounds, buckets: Default::default(), count: AtomicU64::default(), sum: AtomicU64::default() }
    }

    fn observe(&self, value: f64) {
        if let Some(index) = self.bounds.iter().position(|bound| value <= *bound)
            && let Some(bucket) = self.buckets.get(index)
        {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut below = 0;
        for (bucket, bound) in self.buckets.iter().zip(self.bounds) {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
        let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
    }
}

/// What has been counted since the start.
#[derive(Debug)]
pub(super) struct Metrics {
    /// By transport (UDP, TCP), family and type.
    requests: [[[AtomicU64; TYPES.len()]; 2]; 2],
    responses: [AtomicU64; CODES.len()],
    durations: Histogram,
    /// By transport.
    request_sizes: [Histogram; 2],
    response_sizes: [Histogram; 2],
    forwards: Histogram,
    hits: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
    shortened: AtomicU64,
    probes_returned: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let sizes = || [Histogram::new(&BYTES), Histogram::new(&BYTES)];
        Self {
            requests: Default::default(),
            responses: Default::default(),
            durations: Histogram::new(&SECONDS),
            request_sizes: sizes(),
            response_sizes: sizes(),
            forwards: Histogram::new(&SECONDS),
            hits: AtomicU64::default(),
            misses: AtomicU64::default(),
            stale: AtomicU64::default(),
            shortened: AtomicU64::default(),
            probes_returned: AtomicU64::default(),
        }
    }
}

impl Metrics {
    /// Counts an answered question.
    pub(super) fn answered(&self, exchange: Exchange, about: About, length: usize) {
        let transport = usize::from(exchange.tcp);
        self.requests[transport][usize::from(exchange.v6)][about.kind].fetch_add(1, Ordering::Relaxed);
        self.responses[about.code].fetch_add(1, Ordering::Relaxed);
        self.durations.observe(exchange.started.elapsed().as_secs_f64());
        self.request_sizes[transport].observe(exchange.asked as f64);
        self.response_sizes[transport].observe(length as f64);
    }

    /// Counts a look into the cache of others' answers.
    pub(super) fn looked_in_cache(&self, hit: bool) {
        if hit { &self.hits } else { &self.misses }.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer that was given past its time, since nobody had a newer one.
    pub(super) fn served_stale(&self) {
        self.stale.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a search list that was gone through for the client.
    pub(super) fn searched(&self) {
        self.shortened.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a question that others were asked.
    pub(super) fn forwarded(&self, took: Duration) {
        self.forwards.observe(took.as_secs_f64());
    }

    /// Counts a question of ours that came back to us.
    pub(super) fn probe_returned(&self) {
        self.probes_returned.fetch_add(1, Ordering::Relaxed);
    }

    /// How many came back.
    pub(super) fn probes_returned(&self) -> u64 {
        self.probes_returned.load(Ordering::Relaxed)
    }

    /// The Prometheus text format.
    pub(super) fn render(&self, remembered: usize) -> String {
        const SERVER: &str = "server=\"dns://:53\"";
        let mut out = String::with_capacity(8192);
        let _ = writeln!(out, "# TYPE coredns_dns_requests_total counter");
        for (families, transport) in self.requests.iter().zip(TRANSPORTS) {
            for (counters, family) in families.iter().zip(["1", "2"]) {
                for (counter, kind) in counters.iter().zip(TYPES) {
                    let count = counter.load(Ordering::Relaxed);
                    let _ = writeln!(
                        out,
                        "coredns_dns_requests_total{{{SERVER},zone=\".\",view=\"\",proto=\"{transport}\",\
                         family=\"{family}\",type=\"{kind}\"}} {count}"
                    );
                }
            }
        }
        let _ = writeln!(out, "# TYPE coredns_dns_responses_total counter");
        for (counter, code) in self.responses.iter().zip(CODES) {
            let count = counter.load(Ordering::Relaxed);
            let _ = writeln!(
                out,
                "coredns_dns_responses_total{{{SERVER},zone=\".\",view=\"\",rcode=\"{code}\",plugin=\"\"}} {count}"
            );
        }
        let zone = format!("{SERVER},zone=\".\",view=\"\"");
        let _ = writeln!(out, "# TYPE coredns_dns_request_duration_seconds histogram");
        self.durations.write(&mut out, "coredns_dns_request_duration_seconds", &zone);
        for (name, sizes) in [
            ("coredns_dns_request_size_bytes", &self.request_sizes),
            ("coredns_dns_response_size_bytes", &self.response_sizes),
        ] {
            let _ = writeln!(out, "# TYPE {name} histogram");
            for (histogram, transport) in sizes.iter().zip(TRANSPORTS) {
                histogram.write(&mut out, name, &format!("{zone},proto=\"{transport}\""));
            }
        }
        let _ = writeln!(out, "# TYPE coredns_proxy_request_duration_seconds histogram");
        self.forwards.write(&mut out, "coredns_proxy_request_duration_seconds", "proxy_name=\"forward\"");
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, kind, value) in [
            ("coredns_cache_entries", "gauge", remembered as u64),
            ("coredns_cache_requests_total", "counter", count(&self.hits) + count(&self.misses)),
            ("coredns_cache_hits_total", "counter", count(&self.hits)),
            ("coredns_cache_misses_total", "counter", count(&self.misses)),
            ("coredns_cache_served_stale_total", "counter", count(&self.stale)),
            ("coredns_autopath_success_total", "counter", count(&self.shortened)),
        ] {
            let _ = writeln!(out, "# TYPE {name} {kind}");
            let _ = writeln!(out, "{name}{{{SERVER},zones=\".\",view=\"\"}} {value}");
        }
        let _ = writeln!(out, "# TYPE coredns_panics_total counter\ncoredns_panics_total 0");
        out
    }
}
