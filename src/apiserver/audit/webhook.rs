//! Audit events sent to somebody else over HTTPS, in batches; one batch is on its way at a time.

use super::queue::{Entry, Mode, Outlet, Queue, queue};
use crate::flags::AuditWebhookFlags;
use crate::outbound::{Reviewer, SetupError};
use bytes::Bytes;
use std::path::Path;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Events that may wait, unless the flags say otherwise.
const QUEUE: usize = 10_000;
/// Events of one batch.
const BATCH: usize = 400;
/// How long an event waits for its batch to fill.
const WAIT: Duration = Duration::from_secs(30);
/// Before the first attempt that follows a failed one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// How long the webhook may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How every event begins; those of a list do not say what they are.
const HEAD: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","#;
const LIST: &[u8] = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#;

struct Sending {
    reviewer: Reviewer,
    batch: usize,
    wait: Duration,
    first_pause: Duration,
}

/// Events that go together, and who waits for them.
#[derive(Default)]
struct Batch {
    lines: Vec<Vec<u8>>,
    written: Vec<oneshot::Sender<bool>>,
    flushed: Vec<oneshot::Sender<()>>,
}

/// Starts to send what comes into the queue.
pub(super) fn start(kubeconfig: &Path, flags: &AuditWebhookFlags) -> Result<Queue, SetupError> {
    let mode = Mode::parse(flags.mode.as_deref(), Mode::Batch);
    let (queue, outlet) = queue(flags.batch_buffer_size.unwrap_or(QUEUE), mode);
    let sending = Sending {
        reviewer: Reviewer::from_kubeconfig(kubeconfig, TIMEOUT)?,
        batch: if mode == Mode::Batch { flags.batch_max_size.unwrap_or(BATCH).max(1) } else { 1 },
        wait: flags.batch_max_wait.unwrap_or(WAIT),
        first_pause: flags.initial_backoff.unwrap_or(FIRST_PAUSE),
    };
    naru_base::spawn("audit-webhook", sending.run(outlet));
    Ok(queue)
}

impl Sending {
    async fn run(self, mut outlet: Outlet) {
        while let Some(batch) = self.collect(&mut outlet).await {
            let sent = batch.lines.is_empty() || self.send(&batch.lines).await;
            for written in batch.written {
                let _ = written.send(sent);
            }
            for flushed in batch.flushed {
                let _ = flushed.send(());
            }
        }
    }

    /// The next events: as many as go together, or those that came in time, or those before a flush.
    async fn collect(&self, outlet: &mut Outlet) -> Option<Batch> {
        let mut batch = Batch::default();
        let mut entry = outlet.entries.recv().await?;
        let deadline = Instant::now() + self.wait;
        loop {
            match entry {
                Entry::Event { line, written } => {
                    outlet.taken(&line);
                    batch.lines.push(line);
                    batch.written.extend(written);
                }
                Entry::Flush(flushed) => {
                    batch.flushed.push(flushed);
                    return Some(batch);
                }
            }
            if batch.lines.len() >= self.batch {
                return Some(batch);
            }
            match tokio::time::timeout_at(deadline, outlet.entries.recv()).await {
                Ok(Some(next)) => entry = next,
                _ => return Some(batch),
            }
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
