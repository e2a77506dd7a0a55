//! The audit log: what was asked of the API, by whom, and what came of it.
//!
//! A request has a record only while a policy is configured and a rule of it fits; without one, nothing here runs.

mod event;
mod log;
mod policy;

pub(crate) use event::{Record, Seen};

use crate::config::StartError;
use crate::flags::AuditFlags;
use log::{Log, Mode, Rotation};
use policy::Policy;
use std::sync::Arc;

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

/// The policy and the log.
pub(crate) struct Audit {
    policy: Policy,
    log: Log,
    /// Whether events are written as upstream's older text lines.
    legacy: bool,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Audit {
    /// As the flags say; `None` when nothing is to be told.
    pub(crate) fn new(flags: &AuditFlags) -> Result<Option<Arc<Self>>, StartError> {
        let (Some(policy_file), Some(path)) = (&flags.policy_file, &flags.log_path) else {
            match (&flags.policy_file, &flags.log_path) {
                (Some(_), None) => tracing::warn!("an audit policy without audit-log-path: no events are recorded"),
                (None, Some(_)) => tracing::warn!("an audit log without audit-policy-file: no events are recorded"),
                _ => {}
            }
            return Ok(None);
        };
        let wrong = |what: &'static str, path: &std::path::Path| {
            let path = path.display().to_string();
            move |reason: String| StartError::Config { what, reason: format!("{path}: {reason}") }
        };
        let text = std::fs::read(policy_file)
            .map_err(|error| error.to_string())
            .map_err(wrong("audit-policy-file", policy_file))?;
        let policy =
            Policy::parse(&text).map_err(|error| error.to_string()).map_err(wrong("audit-policy-file", policy_file))?;
        let rotation = Rotation {
            max_mib: flags.log_maxsize_mib,
            max_backups: flags.log_maxbackup.unwrap_or(0),
            max_age_days: flags.log_maxage_days.unwrap_or(0),
            compress: flags.log_compress.unwrap_or(false),
        };
        let log = Log::open(path, Mode::parse(flags.log_mode.as_deref()), rotation)
            .map_err(|error| error.to_string())
            .map_err(wrong("audit-log-path", path))?;
        Ok(Some(Arc::new(Self { policy, log, legacy: flags.log_format.as_deref() == Some("legacy") })))
    }
}
