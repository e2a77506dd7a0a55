//! The audit log: what was asked of the API, by whom, and what came of it.
//!
//! A request has a record only while a policy is configured and a rule of it fits; without one, nothing here runs.

mod batch;
mod event;
mod log;
mod policy;
mod queue;
mod webhook;

pub(crate) use event::{Record, Seen};

use crate::config::StartError;
use crate::flags::AuditFlags;
use log::Rotation;
use policy::Policy;
use queue::Queue;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// When an event is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The request is here.
    RequestReceived,
    /// The answer's head is sent; only of requests that take long.
    ResponseStarted,
    /// Nothing more is sent.
    ResponseComplete,
    /// The handler panicked.
    Panic,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// How long events may take to be written when the process ends.
const FLUSH: Duration = Duration::from_secs(10);

/// The policy and where events go.
pub(crate) struct Audit {
    policy: Policy,
    sinks: Vec<Sink>,
}

/// One of the places where events go.
struct Sink {
    queue: Queue,
    /// Whether events are written as upstream's older text lines.
    legacy: bool,
    /// Bytes that an event may have; a larger one goes without its objects.
    limit: Option<usize>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Audit {
    /// As the flags say; `None` when nothing is to be told.
    pub(crate) fn new(flags: &AuditFlags) -> Result<Option<Arc<Self>>, StartError> {
        let webhook_file = &flags.webhook.config_file;
        let somewhere = flags.log_path.is_some() || webhook_file.is_some();
        let Some(policy_file) = flags.policy_file.as_ref().filter(|_| somewhere) else {
            if flags.policy_file.is_some() {
                tracing::warn!(
                    "an audit policy without audit-log-path or audit-webhook-config-file: no events are recorded"
                );
            } else if somewhere {
                tracing::warn!("an audit log or webhook without audit-policy-file: no events are recorded");
            }
            return Ok(None);
        };
        let wrong = |what: &'static str, path: &Path, reason: String| StartError::Config {
            what,
            reason: format!("{}: {reason}", path.display()),
        };
        let text =
            std::fs::read(policy_file).map_err(|error| wrong("audit-policy-file", policy_file, error.to_string()))?;
        let policy =
            Policy::parse(&text).map_err(|error| wrong("audit-policy-file", policy_file, error.to_string()))?;
        let mut sinks = Vec::new();
        if let Some(path) = &flags.log_path {
            let rotation = Rotation {
                max_mib: flags.log_maxsize_mib,
                max_backups: flags.log_maxbackup.unwrap_or(0),
                max_age_days: flags.log_maxage_days.unwrap_or(0),
                compress: flags.log_compress.unwrap_or(false),
            };
            let queue = log::open(path, &flags.log_batch, rotation)
                .map_err(|error| wrong("audit-log-path", path, error.to_string()))?;
            let legacy = flags.log_format.as_deref() == Some("legacy");
            sinks.push(Sink { queue, legacy, limit: flags.log_truncate.limit() });
        }
        if let Some(path) = webhook_file {
            let queue = webhook::start(path, &flags.webhook)
                .map_err(|error| wrong("audit-webhook-config-file", path, error.to_string()))?;
            sinks.push(Sink { queue, legacy: false, limit: flags.webhook.truncate.limit() });
        }
        Ok(Some(Arc::new(Self { policy, sinks })))
    }

    /// Returns once everything told so far is written and sent, or that has taken too long.
    pub(crate) async fn flush(&self) {
        let all = async {
            for sink in &self.sinks {
                sink.queue.flush().await;
            }
        };
        if tokio::time::timeout(FLUSH, all).await.is_err() {
            tracing::warn!("not all audit events could be written before the end");
        }
    }
}
