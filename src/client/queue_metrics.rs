//! What is counted about work queues: a few atomic numbers for each, nothing is allocated for an event.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Workers of a queue whose runs are timed while they go on; more share a place.
const PLACES: usize = 16;

/// Upper bounds of the durations that are told apart, in seconds.
pub const QUEUE_DURATIONS: &[f64; 12] = &[1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0];

/// The queues of a process that are counted, by name. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct QueueMetrics {
    queues: Arc<Mutex<BTreeMap<&'static str, Arc<QueueStats>>>>,
}

impl QueueMetrics {
    /// What is counted under a name; queues of one name are counted together.
    pub fn queue(&self, name: &'static str) -> Arc<QueueStats> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(queues.entry(name).or_default())
    }

    /// All queues, by name.
    pub fn all(&self) -> Vec<(&'static str, Arc<QueueStats>)> {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.iter().map(|(name, stats)| (*name, Arc::clone(stats))).collect()
    }
}

/// What is counted about one queue.
#[derive(Debug)]
pub struct QueueStats {
    began: Instant,
    depth: AtomicI64,
    adds: AtomicU64,
    retries: AtomicU64,
    waited: Durations,
    worked: Durations,
    /// When each worker's present run began, in nanoseconds after `began`; 0 between runs.
    running: [AtomicU64; PLACES],
}

impl Default for QueueStats {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            depth: AtomicI64::new(0),
            adds: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            waited: Durations::default(),
            worked: Durations::default(),
            running: Default::default(),
        }
    }
}

/// How often durations were at most so long.
#[derive(Debug, Default)]
pub struct Durations {
    counts: [AtomicU64; QUEUE_DURATIONS.len() + 1],
    sum_ns: AtomicU64,
}

impl Durations {
    fn add(&self, duration: Duration) {
        let at = QUEUE_DURATIONS.partition_point(|bound| *bound < duration.as_secs_f64());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(nanoseconds(duration), Ordering::Relaxed);
    }

    /// How many there are up to each bound and not up to the one before, and beyond the last.
    pub fn counts(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl QueueStats {
    /// Keys that wait at present.
    pub fn depth(&self) -> i64 {
        self.depth.load(Ordering::Relaxed)
    }

    /// Keys that were queued.
    pub fn adds(&self) -> u64 {
        self.adds.load(Ordering::Relaxed)
    }

    /// Keys that were queued again because a run had failed.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// How long keys waited.
    pub fn waited(&self) -> &Durations {
        &self.waited
    }

    /// How long runs took.
    pub fn worked(&self) -> &Durations {
        &self.worked
    }

    /// How long the present runs have gone on: all together, and the longest.
    pub fn unfinished(&self) -> (Duration, Duration) {
        let now = nanoseconds(self.began.elapsed());
        let started = self.running.iter().map(|at| at.load(Ordering::Relaxed)).filter(|at| *at != 0);
        let (all, longest) = started
            .map(|at| now.saturating_sub(at))
            .fold((0_u64, 0_u64), |(all, longest), took| (all.saturating_add(took), longest.max(took)));
        (Duration::from_nanos(all), Duration::from_nanos(longest))
    }

    pub(crate) fn added(&self) {
        self.adds.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn waits(&self) {
        self.depth.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn taken(&self, waited: Duration) {
        self.depth.fetch_sub(1, Ordering::Relaxed);
        self.waited.add(waited);
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// A worker begins a run; it is over when this is dropped.
    pub(crate) fn run(&self, worker: usize) -> Run<'_> {
        let place = &self.running[worker % PLACES];
        place.store(nanoseconds(self.began.elapsed()).max(1), Ordering::Relaxed);
        Run { stats: self, place, started: Instant::now() }
    }
}

/// A run that goes on.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    stats: &'a QueueStats,
    place: &'a AtomicU64,
    started: Instant,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.place.store(0, Ordering::Relaxed);
        self.stats.worked.add(self.started.elapsed());
    }
}
