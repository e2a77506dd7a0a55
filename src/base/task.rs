//! Named tasks and the signal that ends them.

use std::future::Future;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Asks a tree of tasks to end. Cloning shares the signal; `child` makes one that can end alone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A signal that has not been given yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A signal given together with this one, or earlier by itself.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Gives the signal. Idempotent.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether the signal has been given.
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Completes once the signal is given.
    pub async fn triggered(&self) {
        self.0.cancelled().await;
    }

    /// Runs `future` until it completes (`Some`) or the signal is given (`None`).
    pub async fn guard<F: Future>(&self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.0.cancelled() => None,
            output = future => Some(output),
        }
    }
}

/// Spawns a task under a name that its log lines carry. A panic ends this task alone and is logged
/// by the panic hook.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    tokio::spawn(future.instrument(tracing::debug_span!("task", name)))
}
