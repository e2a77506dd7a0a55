//! A queue of keys: each waits at most once, runs at most once at a time, and backs off on its own.

use crate::queue_metrics::QueueStats;
use futures::FutureExt;
use naru_base::{Shutdown, spawn};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// What a reconciler wants next for its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Done,
    /// Another look after this time.
    After(Duration),
}

/// The queue. Clones share it. Its size is bounded by the number of distinct keys.
#[derive(Debug)]
pub struct WorkQueue<K> {
    inner: Arc<Inner<K>>,
}

#[derive(Debug)]
struct Inner<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<K> {
    /// With the time since when each waits.
    ready: VecDeque<(K, Instant)>,
    /// Keys in `ready`, and keys to be queued again once their run is over.
    dirty: HashSet<K>,
    running: HashSet<K>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The keys of `delayed` by sequence number, so that keys need no order.
    delayed_keys: HashMap<u64, K>,
    /// The earliest pending delay of each key.
    due: HashMap<K, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<K, u32>,
    stats: Option<Arc<QueueStats>>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            running: HashSet::new(),
            delayed: BinaryHeap::new(),
            delayed_keys: HashMap::new(),
            due: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            stats: None,
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), wake: Notify::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the queue is counted; what waits already counts as added.
    pub fn measure(&self, stats: Arc<QueueStats>) {
        let mut state = self.state();
        for _ in &state.ready {
            stats.added();
            stats.waits();
        }
        state.stats = Some(stats);
    }

    /// Queues a key now. While it runs, it is remembered and queued again afterwards.
    pub fn add(&self, key: K) {
        if self.state().add(key) {
            self.inner.wake.notify_one();
        }
    }

    /// Queues a key after a delay. Of several delays of one key the earliest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        let mut state = self.state();
        if state.due.get(&key).is_some_and(|(due, _)| *due <= at) {
            return;
        }
        state.sequence += 1;
        let sequence = state.sequence;
        if let Some((_, old)) = state.due.insert(key.clone(), (at, sequence)) {
            state.delayed_keys.remove(&old);
        }
        state.delayed_keys.insert(sequence, key);
        state.delayed.push(Reverse((at, sequence)));
        drop(state);
        self.inner.wake.notify_one();
    }

    /// Queues a key after its own back-off, which doubles with each call until `forget`.
    pub fn add_rate_limited(&self, key: K) {
        let failures = {
            let mut state = self.state();
            if let Some(stats) = &state.stats {
                stats.retried();
            }
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            *failures
        };
        let delay = FIRST_RETRY.saturating_mul(1 << (failures - 1).min(20)).min(LAST_RETRY);
        self.add_after(key, delay);
    }

    /// Ends a key's back-off.
    pub fn forget(&self, key: &K) {
        self.state().failures.remove(key);
    }

    /// How many keys wait now, without those delayed.
    pub fn len(&self) -> usize {
        self.state().ready.len()
    }

    /// Whether no key waits now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for the next key and marks it as running; `done` must follow.
    pub async fn next(&self) -> K {
        loop {
            let wake = self.inner.wake.notified();
            let due = {
                let mut state = self.state();
                let due = state.promote(Instant::now());
                if let Some((key, since)) = state.ready.pop_front() {
                    if let Some(stats) = &state.stats {
                        stats.taken(since.elapsed());
                    }
                    state.dirty.remove(&key);
                    state.running.insert(key.clone());
                    if !state.ready.is_empty() || due.is_some() {
                        // Another worker takes the next one, or the watch over the delays.
                        self.inner.wake.notify_one();
                    }
                    return key;
                }
                due
            };
            match due {
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, wake).await;
                }
                None => wake.await,
            }
        }
    }

    /// Ends the run of a key.
    pub fn done(&self, key: &K) {
        let mut state = self.state();
        state.running.remove(key);
        if state.dirty.contains(key) {
            state.wait(key.clone());
            drop(state);
            self.inner.wake.notify_one();
        }
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Returns whether a worker has something new to take.
    fn add(&mut self, key: K) -> bool {
        if !self.dirty.insert(key.clone()) {
            return false;
        }
        if let Some(stats) = &self.stats {
            stats.added();
        }
        if self.running.contains(&key) {
            return false;
        }
        self.wait(key);
        true
    }

    fn wait(&mut self, key: K) {
        if let Some(stats) = &self.stats {
            stats.waits();
        }
        self.ready.push_back((key, Instant::now()));
    }

    /// Queues what is due and returns when the next delayed key will be.
    fn promote(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse((at, sequence))) = self.delayed.peek().copied() {
            if at > now && self.delayed_keys.contains_key(&sequence) {
                return Some(at);
            }
            self.delayed.pop();
            if let Some(key) = self.delayed_keys.remove(&sequence) {
                self.due.remove(&key);
                self.add(key);
            }
        }
        None
    }
}

/// Runs `count` workers that reconcile keys until shutdown. A failing or panicking run is retried
/// with the key's back-off. The handles complete when the running reconciles have been dropped.
pub fn run_workers<K, F, Fut, E>(
    name: &'static str,
    queue: &WorkQueue<K>,
    count: usize,
    shutdown: &Shutdown,
    reconcile: F,
) -> Vec<JoinHandle<()>>
where
    K: Clone + Eq + Hash + Debug + Send + Sync + 'static,
    F: Fn(K) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    let worker = |worker| {
        let (queue, shutdown, reconcile) = (queue.clone(), shutdown.clone(), reconcile.clone());
        spawn(name, async move {
            while let Some(key) = shutdown.guard(queue.next()).await {
                let run = AssertUnwindSafe(async { reconcile(key.clone()).await }).catch_unwind();
                let stats = queue.state().stats.clone();
                let timed = stats.as_ref().map(|stats| stats.run(worker));
                let outcome = shutdown.guard(run).await;
                drop(timed);
                match outcome {
                    None => return,
                    Some(outcome) => settle(name, &queue, key, outcome),
                }
            }
        })
    };
    (0..count).map(worker).collect()
}

fn settle<K, E, P>(name: &str, queue: &WorkQueue<K>, key: K, outcome: Result<Result<Next, E>, P>)
where
    K: Clone + Eq + Hash + Debug,
    E: Display,
{
    match outcome {
        Ok(Ok(next)) => {
            queue.forget(&key);
            if let Next::After(delay) = next {
                queue.add_after(key.clone(), delay);
            }
        }
        Ok(Err(error)) => {
            tracing::debug!(reconciler = name, ?key, %error, "reconcile failed, will retry");
            queue.add_rate_limited(key.clone());
        }
        Err(_) => {
            tracing::error!(reconciler = name, ?key, "reconcile panicked, will retry");
            queue.add_rate_limited(key.clone());
        }
    }
    queue.done(&key);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_waits_once_and_runs_alone() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        assert!(queue.is_empty(), "a runs, so it is not handed out again");
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        queue.done(&"b");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_counts() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(9));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("b", Duration::from_secs(4));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 3);
        assert_eq!(queue.next().await, "b");
        assert_eq!(start.elapsed().as_secs(), 4);
        queue.done(&"a");
        let more = tokio::time::timeout(Duration::from_secs(60), queue.next()).await;
        assert!(more.is_err(), "the later delays of a were superseded");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_success_forgets() {
        let queue = WorkQueue::new();
        let shutdown = Shutdown::new();
        let times = Arc::new(Mutex::new(Vec::new()));
        let start = Instant::now();
        queue.add(1);
        let seen = times.clone();
        let (done, mut finished) = tokio::sync::mpsc::channel(1);
        let handles = run_workers("test", &queue, 2, &shutdown, move |_| {
            seen.lock().unwrap().push(start.elapsed());
            let (run, done) = (seen.lock().unwrap().len(), done.clone());
            async move {
                match run {
                    1 => Err("no"),
                    2 => panic!("boom"),
                    3 => Ok(Next::After(Duration::from_secs(7))),
                    _ => {
                        done.send(()).await.unwrap();
                        Ok(Next::Done)
                    }
                }
            }
        });
        finished.recv().await.unwrap();
        shutdown.trigger();
        for handle in handles {
            handle.await.unwrap();
        }
        let times = times.lock().unwrap();
        assert_eq!(times.len(), 4);
        assert!(times[1] - times[0] >= FIRST_RETRY);
        assert!(times[2] - times[1] >= FIRST_RETRY * 2);
        assert_eq!((times[3] - times[2]).as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_counted() {
        let metrics = crate::QueueMetrics::default();
        let queue = WorkQueue::new();
        queue.add("early");
        queue.measure(metrics.queue("q"));
        let stats = metrics.queue("q");
        queue.add("a");
        queue.add("a");
        assert_eq!((stats.depth(), stats.adds(), stats.retries()), (2, 2, 0));
        tokio::time::advance(Duration::from_secs(5)).await;
        let shutdown = Shutdown::new();
        let (began, mut begun) = tokio::sync::mpsc::channel(4);
        let handles = run_workers("test", &queue, 1, &shutdown, move |key| {
            let began = began.clone();
            async move {
                began.send(key).await.unwrap();
                tokio::time::sleep(Duration::from_secs(30)).await;
                if key == "early" { Err("no") } else { Ok(Next::Done) }
            }
        });
        assert_eq!(begun.recv().await, Some("early"));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(stats.unfinished(), (Duration::from_secs(10), Duration::from_secs(10)));
        assert_eq!((stats.depth(), stats.waited().sum()), (1, Duration::from_secs(5)));
        assert_eq!(begun.recv().await, Some("a"));
        assert_eq!((stats.retries(), stats.worked().sum()), (1, Duration::from_secs(30)));
        assert_eq!(stats.worked().counts().iter().sum::<u64>(), 1);
        shutdown.trigger();
        for handle in handles {
            handle.await.unwrap();
        }
    }
}
