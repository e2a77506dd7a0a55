//! How events are taken from a queue: so many together, after so much time, and no more often than allowed.

use super::queue::{Entry, Mode, Outlet};
use crate::flags::AuditBatchFlags;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What the flags leave open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usual {
    pub(super) size: usize,
    pub(super) wait: Duration,
    pub(super) throttled: bool,
}

/// Batches in a second, and at once after a pause, unless the flags say otherwise.
const RATE: f64 = 10.0;
const BURST: f64 = 15.0;

/// Collects what goes together.
#[derive(Debug)]
pub(super) struct Batching {
    size: usize,
    wait: Duration,
    throttle: Option<Throttle>,
}

/// Events that go together, and who waits for them.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<Vec<u8>>,
    written: Vec<oneshot::Sender<bool>>,
    flushed: Vec<oneshot::Sender<()>>,
}

impl Batch {
    /// Tells those who wait what came of it.
    pub(super) fn done(self, good: bool) {
        for written in self.written {
            let _ = written.send(good);
        }
        for flushed in self.flushed {
            let _ = flushed.send(());
        }
    }
}

impl Batching {
    /// As the flags say. Where requests wait for their events, each goes by itself and at once.
    pub(super) fn new(flags: &AuditBatchFlags, mode: Mode, usual: Usual) -> Self {
        if mode != Mode::Batch {
            return Self { size: 1, wait: Duration::ZERO, throttle: None };
        }
        let throttle = flags.throttle_enable.unwrap_or(usual.throttled).then(|| {
            let burst = flags.throttle_burst.map_or(BURST, f64::from);
            Throttle { rate: flags.throttle_qps.unwrap_or(RATE), burst, tokens: burst, at: Instant::now() }
        });
        let (size, wait) = (flags.max_size.unwrap_or(usual.size), flags.max_wait.unwrap_or(usual.wait));
        Self { size: size.max(1), wait, throttle }
    }

    /// The next events: as many as go together, or those that came in time, or those before a flush.
    pub(super) async fn collect(&mut self, outlet: &mut Outlet) -> Option<Batch> {
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
                    break;
                }
            }
            if batch.lines.len() >= self.size {
                break;
            }
            match tokio::time::timeout_at(deadline, outlet.entries.recv()).await {
                Ok(Some(next)) => entry = next,
                _ => break,
            }
        }
        // The end is not put off.
        if let Some(throttle) = self.throttle.as_mut().filter(|_| batch.flushed.is_empty()) {
            let pause = throttle.take(Instant::now());
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        Some(batch)
    }
}

/// A bucket of tokens, one for each batch.
#[derive(Debug)]
struct Throttle {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Throttle {
    /// Takes a token; how long until there is one.
    fn take(&mut self, now: Instant) -> Duration {
        self.tokens = (self.tokens + now.duration_since(self.at).as_secs_f64() * self.rate).min(self.burst) - 1.0;
        self.at = now;
        Duration::try_from_secs_f64((-self.tokens).max(0.0) / self.rate).unwrap_or(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_beyond_the_burst_wait_for_their_turn() {
        let start = Instant::now();
        let mut throttle = Throttle { rate: 2.0, burst: 2.0, tokens: 2.0, at: start };
        let waits: Vec<u128> = (0..4).map(|_| throttle.take(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 500, 1000]);
        assert_eq!(throttle.take(start + Duration::from_secs(60)), Duration::ZERO);
    }
}
