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
    Backoff(Instant),
    /// Since when.
    Unschedulable(Instant),
    /// Taken by the cycle.
    InFlight,
}

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
    sequence: u64,
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
            };
            self.pods.insert(uid.clone(), waiting);
            return self.move_to(&uid, Where::Active);
        };
        let changed =
            waiting.info.pod.spec != info.pod.spec || waiting.info.pod.metadata.labels != info.pod.metadata.labels;
        let state = waiting.state;
        self.leave(&uid);
        if let Some(waiting) = self.pods.get_mut(&uid) {
            waiting.info = info;
        }
        match state {
            Where::Unschedulable(_) if changed => self.retry(&uid),
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
        let (_, uid) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&uid)?;
        waiting.state = Where::InFlight;
        waiting.attempts += 1;
        waiting.last_tried = now;
        Some(waiting.info.clone())
    }

    /// When the next pod becomes active by itself.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The pod taken last fits nowhere: it waits for an event that helps.
    pub(crate) fn unschedulable(&mut self, uid: &str, by: Refusers, now: Instant) {
        if let Some(waiting) = self.pods.get_mut(uid).filter(|waiting| waiting.state == Where::InFlight) {
            waiting.refused_by = by;
            self.move_to(uid, Where::Unschedulable(now));
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
        self.retry(&uid);
    }

    /// Whether any pod fitted nowhere and waits for something to happen.
    pub(crate) fn has_unschedulable(&self) -> bool {
        !self.unschedulable.is_empty()
    }

    /// Something has happened: pods that fitted nowhere and for which `helps` holds are tried again.
    /// It is told whether the place of other pods had a part in their refusal.
    pub(crate) fn wake(&mut self, helps: impl Fn(&PodInfo, Refusers) -> bool) {
        let woken: Vec<_> = self
            .unschedulable
            .iter()
            .filter_map(|uid| Some((uid, self.pods.get(uid)?)))
            .filter(|(_, waiting)| helps(&waiting.info, waiting.refused_by))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in woken {
            self.leave(&uid);
            self.retry(&uid);
        }
    }

    /// How many pods are active, back off, and fitted nowhere.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        (self.active.len(), self.timers.len() - self.unschedulable.len(), self.unschedulable.len())
    }

    /// How often a pod has been tried, and when it came.
    pub(crate) fn history(&self, uid: &str) -> Option<(u32, Instant)> {
        self.pods.get(uid).map(|waiting| (waiting.attempts, waiting.came))
    }

    fn retry(&mut self, uid: &str) {
        let Some(waiting) = self.pods.get(uid) else { return };
        let doublings = waiting.attempts.saturating_sub(1).min(8);
        let until = waiting.last_tried + (FIRST_BACKOFF * (1 << doublings)).min(LAST_BACKOFF);
        if waiting.attempts == 0 || until <= Instant::now() {
            self.move_to(uid, Where::Active);
        } else {
            self.move_to(uid, Where::Backoff(until));
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some((at, uid)) = self.timers.first().cloned() {
            if at > now {
                return;
            }
            self.leave(&uid);
            self.move_to(&uid, Where::Active);
        }
    }

    fn leave(&mut self, uid: &str) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        match waiting.state {
            Where::Active => {
                self.active.remove(&(Reverse(waiting.info.priority()), waiting.sequence));
            }
            Where::Backoff(at) => {
                self.timers.remove(&(at, uid.to_owned()));
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
            Where::Backoff(at) => {
                self.timers.insert((at, uid.to_owned()));
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
        queue.unschedulable("uid-a", Refusers::default(), Instant::now());
        queue.wake(|_, _| false);
        assert_eq!(queue.next_timer(), Some(Instant::now() + LONGEST_WAIT));
        queue.wake(|_, _| true);
        assert_eq!(pop(&mut queue), "", "within its back-off");
        tokio::time::advance(FIRST_BACKOFF).await;
        assert_eq!(pop(&mut queue), "a");
        queue.unschedulable("uid-a", Refusers::default(), Instant::now());
        tokio::time::advance(LONGEST_WAIT).await;
        assert_eq!(pop(&mut queue), "a", "never forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn our_own_status_writes_do_not_wake_but_changes_of_the_spec_do() {
        let mut queue = Queue::default();
        queue.put(asking("a", "1", "1"));
        pop(&mut queue);
        queue.unschedulable("uid-a", Refusers::default(), Instant::now());
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
