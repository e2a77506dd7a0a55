//! Pods that wait: active ones by priority, those backing off, and those that fitted nowhere.

use crate::plugins::Refusers;
use crate::pod_info::PodInfo;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A pod that nothing has woken for so long is tried again, in case an event was missed.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Active,
    /// Until when. One that could not be tried for a reason outside it waits that long in any case.
    Backoff(Instant, Patience),
    /// Since when.
    Unschedulable(Instant),
    /// Taken by the cycle.
    InFlight,
}

/// Whether a pod that backs off is taken before its time when there is nothing else to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    None,
    Full,
}

/// What brought a pod into a queue, as metrics name it.
pub(crate) const CAME: &str = "UnschedulablePodAdd";
const CHANGED: &str = "UnschedulablePodUpdate";
const REFUSED: &str = "ScheduleAttemptFailure";
const BACKED_OFF: &str = "BackoffComplete";
const TAKEN_EARLY: &str = "PopFromBackoffQ";
const WAITED_LONG: &str = "UnschedulableTimeout";

/// How many pods came into which queue by which event.
pub(crate) type Incoming = BTreeMap<(&'static str, &'static str), u64>;

#[derive(Debug)]
struct Waiting {
    info: Arc<PodInfo>,
    /// Order of arrival.
    sequence: u64,
    came: Instant,
    attempts: u32,
    state: Where,
    last_tried: Instant,
    /// Whether the place of other pods had a part in the last refusal.
    refused_by: Refusers,
    /// The plugins that gave the reasons of it.
    plugins: Vec<&'static str>,
}

type ActiveKey = (Reverse<i32>, u64);

/// The queue. All pods are known by uid.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pods: HashMap<String, Waiting>,
    /// Those that fitted nowhere.
    unschedulable: HashSet<String>,
    active: BTreeMap<ActiveKey, String>,
    timers: BTreeSet<(Instant, String)>,
    /// Those of them that may be taken before their time.
    early: BTreeSet<(Instant, String)>,
    sequence: u64,
    incoming: Incoming,
}

impl Queue {
    /// Takes in a new pod, or a new state of one that waits. A changed pod that fitted nowhere is
    /// tried again.
    pub(crate) fn put(&mut self, info: Arc<PodInfo>) {
        let uid = info.uid().to_owned();
        let Some(waiting) = self.pods.get_mut(&uid) else {
            self.sequence += 1;
            let waiting = Waiting {
                info,
                sequence: self.sequence,
                attempts: 0,
                state: Where::InFlight,
                came: Instant::now(),
                last_tried: Instant::now(),
                refused_by: Refusers::default(),
                plugins: Vec::new(),
            };
            self.pods.insert(uid.clone(), waiting);
            return self.enter(&uid, Where::Active, CAME);
        };
        let changed =
            waiting.info.pod.spec != info.pod.spec || waiting.info.pod.metadata.labels != info.pod.metadata.labels;
        let state = waiting.state;
        self.leave(&uid);
        if let Some(waiting) = self.pods.get_mut(&uid) {
            waiting.info = info;
        }
        match state {
            Where::Unschedulable(_) if changed => self.retry(&uid, Patience::None, CHANGED),
            state => self.move_to(&uid, state),
        }
    }

    /// Drops a pod wherever it waits.
    pub(crate) fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.pods.remove(uid);
    }

    /// The next pod to be tried. It stays known until `remove` (scheduled) or `failed`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.promote(now);
        if self.active.is_empty() {
            self.take_early();
        }
        let (_, uid) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&uid)?;
        waiting.state = Where::InFlight;
        waiting.plugins.clear();
        waiting.attempts += 1;
        waiting.last_tried = now;
        Some(waiting.info.clone())
    }

    /// When the next pod becomes active by itself.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The pod taken last fits nowhere: it waits for an event that helps.
    pub(crate) fn unschedulable(&mut self, uid: &str, by: Refusers, plugins: &[&'static str], now: Instant) {
        if let Some(waiting) = self.pods.get_mut(uid).filter(|waiting| waiting.state == Where::InFlight) {
            waiting.refused_by = by;
            waiting.plugins = plugins.to_vec();
            self.enter(uid, Where::Unschedulable(now), REFUSED);
        }
    }

    /// Trying the pod failed for a reason outside it: it is tried again after its back-off.
    pub(crate) fn failed(&mut self, info: Arc<PodInfo>, now: Instant) {
        let uid = info.uid().to_owned();
        if !self.pods.contains_key(&uid) {
            self.put(info);
            self.leave(&uid);
            if let Some(waiting) = self.pods.get_mut(&uid) {
                (waiting.attempts, waiting.last_tried) = (1, now);
            }
        }
        self.retry(&uid, Patience::Full, REFUSED);
    }

    /// Whether any pod fitted nowhere and waits for something to happen.
    pub(crate) fn has_unschedulable(&self) -> bool {
        !self.unschedulable.is_empty()
    }

    /// Something has happened: pods that fitted nowhere and for which `helps` holds are tried again.
    /// It is told whether the place of other pods had a part in their refusal. `event` is its name.
    pub(crate) fn wake(&mut self, event: &'static str, helps: impl Fn(&PodInfo, Refusers) -> bool) {
        let woken: Vec<_> = self
            .unschedulable
            .iter()
            .filter_map(|uid| Some((uid, self.pods.get(uid)?)))
            .filter(|(_, waiting)| helps(&waiting.info, waiting.refused_by))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in woken {
            self.leave(&uid);
            self.retry(&uid, Patience::None, event);
        }
    }

    /// A pod came that somebody keeps from being tried.
    pub(crate) fn note_gated(&mut self) {
        *self.incoming.entry(("unschedulable", CAME)).or_default() += 1;
    }

    /// How many pods came into the queues so far.
    pub(crate) fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    /// How many pods wait because of each plugin.
    pub(crate) fn refused_by_plugin(&self) -> BTreeMap<&'static str, usize> {
        let mut all = BTreeMap::new();
        let waiting = self.pods.values().filter(|waiting| waiting.state != Where::InFlight);
        waiting.flat_map(|waiting| &waiting.plugins).for_each(|plugin| *all.entry(*plugin).or_default() += 1);
        all
    }

    /// How many pods are active, back off, and fitted nowhere.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        (self.active.len(), self.timers.len() - self.unschedulable.len(), self.unschedulable.len())
    }

    /// How often a pod has been tried, and when it came.
    pub(crate) fn history(&self, uid: &str) -> Option<(u32, Instant)> {
        self.pods.get(uid).map(|waiting| (waiting.attempts, waiting.came))
    }

    fn retry(&mut self, uid: &str, patience: Patience, event: &'static str) {
        let Some(waiting) = self.pods.get(uid) else { return };
        let doublings = waiting.attempts.saturating_sub(1).min(8);
        let until = waiting.last_tried + (FIRST_BACKOFF * (1 << doublings)).min(LAST_BACKOFF);
        if waiting.attempts == 0 || until <= Instant::now() {
            self.enter(uid, Where::Active, event);
        } else {
            self.enter(uid, Where::Backoff(until, patience), event);
        }
    }

    /// Comes into a queue by an event.
    fn enter(&mut self, uid: &str, state: Where, event: &'static str) {
        let queue = match state {
            Where::Active => "active",
            Where::Backoff(..) => "backoff",
            Where::Unschedulable(_) => "unschedulable",
            Where::InFlight => return,
        };
        *self.incoming.entry((queue, event)).or_default() += 1;
        self.move_to(uid, state);
    }

    /// With nothing else to do, a pod that an event could have helped need not wait for its time.
    fn take_early(&mut self) {
        if let Some((_, uid)) = self.early.first().cloned() {
            self.leave(&uid);
            self.enter(&uid, Where::Active, TAKEN_EARLY);
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some((at, uid)) = self.timers.first().cloned() {
            if at > now {
                return;
            }
            let state = self.pods.get(&uid).map(|waiting| waiting.state);
            let event = if matches!(state, Some(Where::Backoff(..))) { BACKED_OFF } else { WAITED_LONG };
            self.leave(&uid);
            self.enter(&uid, Where::Active, event);
        }
    }

    fn leave(&mut self, uid: &str) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        match waiting.state {
            Where::Active => {
                self.active.remove(&(Reverse(waiting.info.priority()), waiting.sequence));
            }
            Where::Backoff(at, _) => {
                self.timers.remove(&(at, uid.to_owned()));
                self.early.remove(&(at, uid.to_owned()));
            }
            Where::Unschedulable(since) => {
                self.timers.remove(&(since + LONGEST_WAIT, uid.to_owned()));
                self.unschedulable.remove(uid);
            }
            Where::InFlight => {}
        }
        waiting.state = Where::InFlight;
    }

    fn move_to(&mut self, uid: &str, state: Where) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.state = state;
        match state {
            Where::Active => {
                let key = (Reverse(waiting.info.priority()), waiting.sequence);
                self.active.insert(key, uid.to_owned());
            }
            Where::Backoff(at, patience) => {
                self.timers.insert((at, uid.to_owned()));
                if patience == Patience::None {
                    self.early.insert((at, uid.to_owned()));
                }
            }
            Where::Unschedulable(since) => {
                self.timers.insert((since + LONGEST_WAIT, uid.to_owned()));
                self.unschedulable.insert(uid.to_owned());
            }
            Where::InFlight => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::testing::{asking, pod};
    use serde_json::json;

    fn name(info: Option<Arc<PodInfo>>) -> String {
        info.map_or_else(String::new, |info| info.pod.metadata.name.clone())
    }

    fn pop(queue: &mut Queue) -> String {
        name(queue.pop(Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn priority_goes_before_arrival() {
        let mut queue = Queue::default();
        queue.put(asking("a", "1", "1"));
        queue.put(Arc::new(PodInfo::new(Arc::new(pod("b", json!({"priority": 10}))))));
        queue.put(asking("c", "1", "1"));
        assert_eq!((pop(&mut queue), pop(&mut queue), pop(&mut queue)), ("b".into(), "a".into(), "c".into()));
        assert_eq!(pop(&mut queue), "");
    }

    #[tokio::test(start_paused = true)]
    async fn only_events_that_help_wake_and_the_backoff_is_kept() {
        let mut queue = Queue::default();
        queue.put(asking("a", "1", "1"));
        assert_eq!(pop(&mut queue), "a");
        queue.unschedulable("uid-a", Refusers::default(), &["NodeAffinity"], Instant::now());
        assert_eq!(queue.refused_by_plugin(), BTreeMap::from([("NodeAffinity", 1)]));
        queue.wake("NodeAdd", |_, _| false);
        assert_eq!(queue.next_timer(), Some(Instant::now() + LONGEST_WAIT));
        queue.wake("NodeAdd", |_, _| true);
        assert_eq!(queue.sizes(), (0, 1, 0), "within its back-off");
        queue.put(asking("b", "1", "1"));
        assert_eq!(pop(&mut queue), "b", "it does not come before those that need not wait");
        queue.put(asking("c", "1", "1"));
        tokio::time::advance(FIRST_BACKOFF).await;
        assert_eq!(pop(&mut queue), "a");
        assert!(queue.refused_by_plugin().is_empty());
        queue.unschedulable("uid-a", Refusers::default(), &[], Instant::now());
        assert_eq!(pop(&mut queue), "c");
        tokio::time::advance(LONGEST_WAIT).await;
        assert_eq!(pop(&mut queue), "a", "never forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn with_nothing_else_to_do_a_pod_does_not_wait_for_its_time_but_after_an_error() {
        let mut queue = Queue::default();
        queue.put(asking("a", "1", "1"));
        queue.put(asking("b", "1", "1"));
        assert_eq!((pop(&mut queue), pop(&mut queue)), ("a".into(), "b".into()));
        queue.failed(asking("a", "1", "1"), Instant::now());
        queue.unschedulable("uid-b", Refusers::default(), &[], Instant::now());
        assert_eq!(pop(&mut queue), "", "nothing has happened");
        queue.wake("NodeAdd", |_, _| true);
        assert_eq!(pop(&mut queue), "b");
        assert_eq!(pop(&mut queue), "", "what failed waits");
        tokio::time::advance(FIRST_BACKOFF).await;
        assert_eq!(pop(&mut queue), "a");
        let told = [
            (("active", "BackoffComplete"), 1),
            (("active", "PopFromBackoffQ"), 1),
            (("active", "UnschedulablePodAdd"), 2),
            (("backoff", "NodeAdd"), 1),
            (("backoff", "ScheduleAttemptFailure"), 1),
            (("unschedulable", "ScheduleAttemptFailure"), 1),
        ];
        assert_eq!(*queue.incoming(), BTreeMap::from(told));
    }

    #[tokio::test(start_paused = true)]
    async fn our_own_status_writes_do_not_wake_but_changes_of_the_spec_do() {
        let mut queue = Queue::default();
        queue.put(asking("a", "1", "1"));
        pop(&mut queue);
        queue.unschedulable("uid-a", Refusers::default(), &[], Instant::now());
        tokio::time::advance(LAST_BACKOFF).await;
        queue.put(asking("a", "1", "1"));
        assert_eq!(pop(&mut queue), "");
        queue.put(asking("a", "500m", "1"));
        assert_eq!(pop(&mut queue), "a");
        queue.remove("uid-a");
        queue.failed(asking("a", "1", "1"), Instant::now());
        assert_eq!(pop(&mut queue), "");
        tokio::time::advance(FIRST_BACKOFF).await;
        assert_eq!(pop(&mut queue), "a");
    }
}
