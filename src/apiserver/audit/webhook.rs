//! Audit events sent to somebody else over HTTPS, in batches; one batch is on its way at a time.

use super::batch::{Batching, Usual};
use super::queue::{Mode, Outlet, Queue, queue};
use crate::flags::AuditWebhookFlags;
use crate::outbound::{Reviewer, SetupError};
use bytes::Bytes;
use std::path::Path;
use std::time::Duration;

/// Events that may wait, unless the flags say otherwise.
const QUEUE: usize = 10_000;
/// Events of one batch, and how long one waits for its batch to fill.
const USUAL: Usual = Usual { size: 400, wait: Duration::from_secs(30), throttled: true };
/// Before the first attempt that follows a failed one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// How long the webhook may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How every event begins; those of a list do not say what they are.
const HEAD: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","#;
const LIST: &[u8] = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#;

struct Sending {
    reviewer: Reviewer,
    first_pause: Duration,
}

/// Starts to send what comes into the queue.
pub(super) fn start(kubeconfig: &Path, flags: &AuditWebhookFlags) -> Result<Queue, SetupError> {
    let mode = Mode::parse(flags.batch.mode.as_deref(), Mode::Batch);
    let (queue, outlet) = queue(flags.batch.buffer_size.unwrap_or(QUEUE), mode);
    let sending = Sending {
        reviewer: Reviewer::from_kubeconfig(kubeconfig, TIMEOUT)?,
        first_pause: flags.initial_backoff.unwrap_or(FIRST_PAUSE),
    };
    naru_base::spawn("audit-webhook", sending.run(Batching::new(&flags.batch, mode, USUAL), outlet));
    Ok(queue)
}

impl Sending {
    async fn run(self, mut batching: Batching, mut outlet: Outlet) {
        while let Some(batch) = batching.collect(&mut outlet).await {
            let sent = batch.lines.is_empty() || self.send(&batch.lines).await;
            batch.done(sent);
        }
    }

    async fn send(&self, lines: &[Vec<u8>]) -> bool {
        let result = self.reviewer.deliver(list(lines), self.first_pause).await;
        if let Err(error) = &result {
            tracing::error!(%error, events = lines.len(), "audit events could not be sent");
        }
        result.is_ok()
    }
}

fn list(lines: &[Vec<u8>]) -> Bytes {
    let mut body = LIST.to_vec();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        match line.strip_prefix(HEAD) {
            Some(rest) => {
                body.push(b'{');
                body.extend_from_slice(rest.trim_ascii_end());
            }
            None => body.extend_from_slice(line.trim_ascii_end()),
        }
    }
    body.extend_from_slice(b"]}");
    body.into()
}
