//! What is counted of the requests that parts of this process make of the API server, under client-go's names.

use crate::transport::{Error, Request, Transport, WatchStream};
use async_trait::async_trait;
use bytes::Bytes;
use naru_base::metrics::{Histogram, Source, Text};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const DURATIONS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
const SIZES: &[f64] =
    &[256.0, 512.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];
/// The host of those who need no network.
const IN_PROCESS: &str = "in-process";

/// Counts of requests to one host.
#[derive(Debug)]
pub struct Calls {
    host: String,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    /// By code, of which those that got no answer have none, and method.
    codes: BTreeMap<(Option<u16>, &'static str), u64>,
    /// By method.
    methods: BTreeMap<&'static str, Sizes>,
}

#[derive(Debug)]
struct Sizes {
    durations: Histogram,
    asked: Histogram,
    answered: Histogram,
}

impl Default for Sizes {
    fn default() -> Self {
        let sizes = || Histogram::new(SIZES);
        Self { durations: Histogram::new(DURATIONS), asked: sizes(), answered: sizes() }
    }
}

/// Calls within the process.
impl Default for Calls {
    fn default() -> Self {
        Self::to(IN_PROCESS)
    }
}

impl Calls {
    /// Calls to this host.
    pub fn to(host: impl Into<String>) -> Self {
        Self { host: host.into(), counted: Mutex::default() }
    }

    /// Counts one: its answer's code, if there was one, and the sizes of both bodies.
    pub fn count(&self, method: &http::Method, code: Option<u16>, (asked, answered): (usize, usize), took: Duration) {
        let method = name_of(method);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        *counted.codes.entry((code, method)).or_default() += 1;
        let of = counted.methods.entry(method).or_default();
        of.durations.observe(took);
        of.asked.add(asked as f64);
        of.answered.add(answered as f64);
    }
}

impl Source for Calls {
    fn render(&self, out: &mut Text) {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let name = "rest_client_requests_total";
        out.family(name, "counter", "Requests of this process's own parts.");
        for ((code, method), count) in &counted.codes {
            let code = code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
            out.sample(name, &[("code", &*code), ("method", *method), ("host", &*self.host)], count);
        }
        type Part = fn(&Sizes) -> &Histogram;
        let families: [(&str, &str, Part); 3] = [
            ("rest_client_request_duration_seconds", "How long these requests took.", |c| &c.durations),
            ("rest_client_request_size_bytes", "Sizes of their bodies.", |c| &c.asked),
            ("rest_client_response_size_bytes", "Sizes of their answers.", |c| &c.answered),
        ];
        for (name, help, part) in families {
            out.family(name, "histogram", help);
            for (method, of) in &counted.methods {
                out.histogram(name, &[("host", &*self.host), ("verb", method)], part(of));
            }
        }
    }
}

fn name_of(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// A transport whose requests are counted.
pub(crate) struct Counting {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) calls: Arc<Calls>,
}

impl Counting {
    fn code(error: &Error) -> (Option<u16>, usize) {
        match error {
            Error::Status(status) => (Some(status.code), status.message.len()),
            Error::Connection(_) | Error::Decode { .. } => (None, 0),
        }
    }
}

#[async_trait]
impl Transport for Counting {
    async fn send(&self, request: Request) -> Result<Bytes, Error> {
        let (method, asked, begun) = (request.method.clone(), request.body.len(), Instant::now());
        let outcome = self.transport.send(request).await;
        let (code, answered) = outcome.as_ref().map_or_else(Self::code, |body| (Some(200), body.len()));
        self.calls.count(&method, code, (asked, answered), begun.elapsed());
        outcome
    }

    async fn watch(&self, request: Request) -> Result<WatchStream, Error> {
        let (method, begun) = (request.method.clone(), Instant::now());
        let outcome = self.transport.watch(request).await;
        let (code, answered) = outcome.as_ref().map_or_else(Self::code, |_| (Some(200), 0));
        self.calls.count(&method, code, (0, answered), begun.elapsed());
        outcome
    }
}
