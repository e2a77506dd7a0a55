//! Figures under CoreDNS' names, so that its dashboards read them.

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the histograms' buckets, in seconds.
const BOUNDS: [f64; 8] = [0.000_25, 0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096];
/// Response codes with a counter of their own; the rest count under `other`.
const CODES: [&str; 7] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "other"];
/// Types with a counter of their own; the rest count under `other`.
const TYPES: [&str; 5] = ["A", "AAAA", "SRV", "PTR", "other"];

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(index) = BOUNDS.iter().position(|bound| seconds <= *bound)
            && let Some(bucket) = self.buckets.get(index)
        {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(took.as_micros().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str) {
        let _ = writeln!(out, "# TYPE {name} histogram");
        let mut below = 0;
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{server=\"dns://:53\",zone=\".\",le=\"{bound}\"}} {below}");
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(out, "{name}_bucket{{server=\"dns://:53\",zone=\".\",le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{{server=\"dns://:53\",zone=\".\"}} {sum}");
        let _ = writeln!(out, "{name}_count{{server=\"dns://:53\",zone=\".\"}} {count}");
    }
}

/// What has been counted since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// By transport (UDP, TCP) and type.
    requests: [[AtomicU64; TYPES.len()]; 2],
    responses: [AtomicU64; CODES.len()],
    durations: Histogram,
    forwards: Histogram,
    hits: AtomicU64,
    misses: AtomicU64,
    probes_returned: AtomicU64,
}

impl Metrics {
    /// Counts an answered question.
    pub(super) fn answered(&self, tcp: bool, response: &Message, took: Duration) {
        let kind = match response.queries.first().map(|query| query.query_type) {
            Some(RecordType::A) => 0,
            Some(RecordType::AAAA) => 1,
            Some(RecordType::SRV) => 2,
            Some(RecordType::PTR) => 3,
            _ => 4,
        };
        self.requests[usize::from(tcp)][kind].fetch_add(1, Ordering::Relaxed);
        let code = u16::from(response.metadata.response_code);
        let code = usize::from(code).min(CODES.len() - 1);
        self.responses[code].fetch_add(1, Ordering::Relaxed);
        self.durations.observe(took);
    }

    /// Counts a look into the cache of others' answers.
    pub(super) fn looked_in_cache(&self, hit: bool) {
        if hit { &self.hits } else { &self.misses }.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a question that others were asked.
    pub(super) fn forwarded(&self, took: Duration) {
        self.forwards.observe(took);
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
        let mut out = String::with_capacity(4096);
        let _ = writeln!(out, "# TYPE coredns_dns_requests_total counter");
        for (counters, transport) in self.requests.iter().zip(["udp", "tcp"]) {
            for (counter, kind) in counters.iter().zip(TYPES) {
                let count = counter.load(Ordering::Relaxed);
                let _ = writeln!(
                    out,
                    "coredns_dns_requests_total{{server=\"dns://:53\",zone=\".\",view=\"\",proto=\"{transport}\",\
                     family=\"1\",type=\"{kind}\"}} {count}"
                );
            }
        }
        let _ = writeln!(out, "# TYPE coredns_dns_responses_total counter");
        for (counter, code) in self.responses.iter().zip(CODES) {
            let count = counter.load(Ordering::Relaxed);
            let _ = writeln!(
                out,
                "coredns_dns_responses_total{{server=\"dns://:53\",zone=\".\",view=\"\",rcode=\"{code}\",plugin=\"\"}} \
                 {count}"
            );
        }
        self.durations.write(&mut out, "coredns_dns_request_duration_seconds");
        self.forwards.write(&mut out, "coredns_forward_request_duration_seconds");
        for (name, kind, value) in [
            ("coredns_cache_entries", "gauge", remembered as u64),
            ("coredns_cache_hits_total", "counter", self.hits.load(Ordering::Relaxed)),
            ("coredns_cache_misses_total", "counter", self.misses.load(Ordering::Relaxed)),
        ] {
            let _ = writeln!(out, "# TYPE {name} {kind}");
            let _ = writeln!(out, "{name}{{server=\"dns://:53\",zones=\".\",view=\"\"}} {value}");
        }
        out
    }
}
