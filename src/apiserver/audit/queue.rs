//! The way of events from requests to who writes or sends them: bounded by number and by bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{mpsc, oneshot};

/// Bytes that may wait.
const QUEUE_BYTES: usize = 64 << 20;

/// What becomes of a request when its event cannot be written at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It goes on; the event waits for its turn.
    Batch,
    /// It waits until the event is written.
    Blocking,
    /// And is refused when its arrival cannot be written.
    BlockingStrict,
}

impl Mode {
    pub(super) fn parse(text: Option<&str>, usual: Self) -> Self {
        match text {
            Some("batch") => Mode::Batch,
            Some("blocking") => Mode::Blocking,
            Some("blocking-strict") => Mode::BlockingStrict,
            _ => usual,
        }
    }
}

/// What comes out of a queue.
pub(super) enum Entry {
    /// An event, and who waits for it to be written.
    Event { line: Vec<u8>, written: Option<oneshot::Sender<bool>> },
    /// Somebody wants to know when everything before this is written.
    Flush(oneshot::Sender<()>),
}

/// The way in.
pub(crate) struct Queue {
    entries: mpsc::Sender<Entry>,
    mode: Mode,
    bytes: Arc<AtomicUsize>,
    dropped: AtomicU64,
}

/// The way out.
pub(super) struct Outlet {
    pub(super) entries: mpsc::Receiver<Entry>,
    bytes: Arc<AtomicUsize>,
}

impl Outlet {
    /// An event no longer waits.
    pub(super) fn taken(&self, line: &[u8]) {
        self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
    }
}

/// A queue of so many events.
pub(super) fn queue(capacity: usize, mode: Mode) -> (Queue, Outlet) {
    let (entries, receiver) = mpsc::channel(capacity.max(1));
    let bytes = Arc::new(AtomicUsize::new(0));
    let queue = Queue { entries, mode, bytes: bytes.clone(), dropped: AtomicU64::new(0) };
    (queue, Outlet { entries: receiver, bytes })
}

impl Queue {
    /// Whether a request whose arrival cannot be written is refused.
    pub(super) fn is_strict(&self) -> bool {
        self.mode == Mode::BlockingStrict
    }

    /// Writes a line, or lets it wait, as the mode is. Tells whether it was (or will be) written.
    pub(super) async fn write(&self, line: Vec<u8>) -> bool {
        if self.mode == Mode::Batch {
            return self.write_later(line);
        }
        let (written, answer) = oneshot::channel();
        self.bytes.fetch_add(line.len(), Ordering::Relaxed);
        let sent = self.entries.send(Entry::Event { line, written: Some(written) }).await;
        sent.is_ok() && answer.await.unwrap_or(false)
    }

    /// Lets a line wait, if there is room.
    pub(super) fn write_later(&self, line: Vec<u8>) -> bool {
        let size = line.len();
        let room = self.bytes.fetch_add(size, Ordering::Relaxed) + size <= QUEUE_BYTES;
        if room && self.entries.try_send(Entry::Event { line, written: None }).is_ok() {
            return true;
        }
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        if dropped.is_power_of_two() {
            tracing::warn!(dropped, "audit events were dropped, they cannot be written fast enough");
        }
        false
    }

    /// Returns once everything that waits now is written, or given up.
    pub(super) async fn flush(&self) {
        let (done, answer) = oneshot::channel();
        if self.entries.send(Entry::Flush(done)).await.is_ok() {
            let _ = answer.await;
        }
    }
}
