//! What is remembered of each pod: its address, and since when it is in which state.

use crate::rules::Rules;
use naru_client::projections::{NodeView, PodView};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The second restart waits so long, each further one twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LAST_WAIT: Duration = Duration::from_secs(300);

/// What a pod's containers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// They run.
    Running { ready: bool },
    /// They have ended, and wait to be started again.
    Waiting { code: i32 },
    /// They have ended for good.
    Ended { code: i32 },
}

/// One pod on its node.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) ip: Option<Ipv4Addr>,
    /// How often its containers were started again.
    pub(crate) restarts: i32,
    /// When the present run, or wait, began.
    began: Instant,
    waits: bool,
    stops: Option<Instant>,
    /// When the present run began, for readers; in seconds.
    pub(crate) started_at: i64,
    /// What was written last.
    pub(crate) shown: Option<Look>,
}

impl Life {
    fn of(pod: &PodView, now: Instant) -> Self {
        let restarts = pod.status.container_statuses.first().map_or(0, |status| status.restart_count);
        // After a restart of the server a run begins anew; nobody can tell the difference.
        let shown = (pod.status.phase == "Running").then(|| Look::Running { ready: pod.is_ready() });
        let started_at = jiff::Timestamp::now().as_second();
        Self { ip: None, restarts, began: now, waits: false, stops: None, started_at, shown }
    }

    /// What the containers do now, and when that changes by itself.
    pub(crate) fn look(&mut self, rules: &Rules, now: Instant) -> (Look, Option<Duration>) {
        loop {
            let age = now.saturating_duration_since(self.began);
            let until = |end: Duration| end.checked_sub(age).filter(|rest| !rest.is_zero());
            if self.waits {
                let wait = wait(self.restarts);
                let code = rules.exit.map_or(0, |(code, _)| code);
                if let Some(rest) = until(wait) {
                    return (Look::Waiting { code }, Some(rest));
                }
                (self.waits, self.began) = (false, now);
                (self.restarts, self.started_at) = (self.restarts + 1, jiff::Timestamp::now().as_second());
                continue;
            }
            let end = rules.exit.map(|(code, lasts)| (code, until(lasts)));
            if let Some((code, None)) = end {
                if !rules.restarts(code) {
                    return (Look::Ended { code }, None);
                }
                (self.waits, self.began) = (true, now);
                if wait(self.restarts).is_zero() {
                    // Said all the same: otherwise a run that ends at once would go round here for ever.
                    return (Look::Waiting { code }, Some(Duration::from_millis(100)));
                }
                continue;
            }
            let not_ready = rules.ready_after.map(until);
            let ready = not_ready == Some(None);
            let times = [end.and_then(|(_, rest)| rest), not_ready.flatten()];
            return (Look::Running { ready }, times.into_iter().flatten().min());
        }
    }

    /// How long the containers of a pod that is deleted still need.
    pub(crate) fn stopping(&mut self, rules: &Rules, grace: i64, now: Instant) -> Option<Duration> {
        let began = *self.stops.get_or_insert(now);
        let lasts = rules.stop_after.min(Duration::from_secs(grace.max(0).unsigned_abs()));
        lasts.checked_sub(now.saturating_duration_since(began)).filter(|rest| !rest.is_zero())
    }
}

/// How long containers that have been started again so often wait: the first time not at all.
fn wait(restarts: i32) -> Duration {
    match u32::try_from(restarts - 1) {
        Err(_) => Duration::ZERO,
        Ok(doublings) => FIRST_WAIT.saturating_mul(1 << doublings.min(10)).min(LAST_WAIT),
    }
}

/// All pods of all nodes, by uid, and the addresses that are taken.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lives: HashMap<String, Life>,
    taken: HashSet<Ipv4Addr>,
}

impl Lives {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on what is remembered of a pod.
    pub(crate) fn with<T>(&self, pod: &PodView, work: impl FnOnce(&mut Life) -> T) -> T {
        let mut inner = self.inner();
        let Inner { lives, taken } = &mut *inner;
        if !lives.contains_key(&pod.metadata.uid) {
            let mut life = Life::of(pod, Instant::now());
            life.ip = pod.status.pod_ip.parse().ok().filter(|_| !pod.spec.host_network);
            taken.extend(life.ip);
            lives.insert(pod.metadata.uid.clone(), life);
        }
        work(lives.get_mut(&pod.metadata.uid).expect("it was put there"))
    }

    /// The pod's address: the one that it has, or a free one of its node. `None`: the node has none to give.
    pub(crate) fn address(&self, pod: &PodView, node: &NodeView) -> Option<Ipv4Addr> {
        if let Some(ip) = self.with(pod, |life| life.ip) {
            return Some(ip);
        }
        let mut inner = self.inner();
        let ip = range(&node.spec.pod_cidr)?.find(|ip| !inner.taken.contains(ip))?;
        inner.taken.insert(ip);
        inner.lives.get_mut(&pod.metadata.uid)?.ip = Some(ip);
        Some(ip)
    }

    /// The pod is gone.
    pub(crate) fn end(&self, pod: &PodView) {
        let mut inner = self.inner();
        if let Some(ip) = inner.lives.remove(&pod.metadata.uid).and_then(|life| life.ip) {
            inner.taken.remove(&ip);
        }
    }
}

/// The addresses of a range that pods may have: not the first, which is the node's own, nor the last.
fn range(cidr: &str) -> Option<impl Iterator<Item = Ipv4Addr> + use<>> {
    let (base, bits) = cidr.split_once('/')?;
    let (base, bits): (Ipv4Addr, u32) = (base.parse().ok()?, bits.parse().ok()?);
    let size = 1_u32.checked_shl(32_u32.checked_sub(bits)?)?;
    Some((2..size.saturating_sub(1)).map(move |offset| Ipv4Addr::from(u32::from(base).wrapping_add(offset))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::rules::Restart;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules(ready_after: u32, exit: Option<(i32, u32)>, restart: Restart) -> Rules {
        Rules {
            ready_after: Some(SECOND * ready_after),
            exit: exit.map(|(code, lasts)| (code, SECOND * lasts)),
            stop_after: Duration::ZERO,
            restart,
        }
    }

    /// What a pod shows at so many seconds, with when the next change is.
    fn check(rules: Rules, expected: &[(u32, Look, Option<u32>)]) {
        let begin = Instant::now();
        let mut life = Life::of(&PodView::default(), begin);
        for (at, look, next) in expected {
            let seen = life.look(&rules, begin + SECOND * *at);
            assert_eq!(seen, (*look, next.map(|next| SECOND * next)), "at {at} s");
        }
    }

    #[test]
    fn pods_turn_ready_and_end() {
        let (unready, ready) = (Look::Running { ready: false }, Look::Running { ready: true });
        check(rules(0, None, Restart::Always), &[(0, ready, None), (99, ready, None)]);
        check(rules(3, None, Restart::Always), &[(0, unready, Some(3)), (2, unready, Some(1)), (3, ready, None)]);
        let ended = Look::Ended { code: 7 };
        check(rules(1, Some((7, 4)), Restart::Never), &[(0, unready, Some(1)), (1, ready, Some(3)), (4, ended, None)]);
        check(rules(0, Some((0, 0)), Restart::OnFailure), &[(0, Look::Ended { code: 0 }, None)]);
    }

    #[test]
    fn what_fails_is_started_again_later_and_later() {
        let (ready, waiting) = (Look::Running { ready: true }, Look::Waiting { code: 1 });
        let begin = Instant::now();
        let mut life = Life::of(&PodView::default(), begin);
        let rules = rules(0, Some((1, 2)), Restart::OnFailure);
        let mut now = begin;
        let mut waited = Vec::new();
        for _ in 0..4 {
            let (look, rest) = life.look(&rules, now);
            assert_eq!((look, rest), (ready, Some(2 * SECOND)));
            now += 2 * SECOND;
            let (look, rest) = life.look(&rules, now);
            assert_eq!(look, waiting);
            waited.push(rest.unwrap().as_secs());
            now += rest.unwrap();
        }
        assert_eq!(waited, [0, 10, 20, 40]);
        assert_eq!(life.restarts, 3);
    }

    #[test]
    fn the_grace_period_limits_how_long_stopping_takes() {
        let begin = Instant::now();
        let mut life = Life::of(&PodView::default(), begin);
        let rules = Rules { stop_after: 30 * SECOND, ..rules(0, None, Restart::Always) };
        assert_eq!(life.stopping(&rules, 5, begin), Some(5 * SECOND));
        assert_eq!(life.stopping(&rules, 5, begin + 4 * SECOND), Some(SECOND));
        assert_eq!(life.stopping(&rules, 5, begin + 5 * SECOND), None);
    }

    #[test]
    fn addresses_are_given_once_kept_and_given_back() {
        let lives = Lives::default();
        let mut node = NodeView::default();
        node.spec.pod_cidr = "10.42.1.0/29".into();
        let pod = |uid: &str, ip: &str| {
            let mut pod = PodView::default();
            pod.metadata.uid = uid.into();
            pod.status.pod_ip = ip.into();
            pod
        };
        let address = |pod: &PodView| lives.address(pod, &node).map(|ip| ip.to_string()).unwrap_or_default();
        assert_eq!(address(&pod("known", "10.42.1.2")), "10.42.1.2", "what it has already");
        assert_eq!(address(&pod("a", "")), "10.42.1.3");
        assert_eq!(address(&pod("a", "")), "10.42.1.3");
        lives.end(&pod("known", ""));
        for expected in ["10.42.1.2", "10.42.1.4", "10.42.1.5", "10.42.1.6", ""] {
            assert_eq!(address(&pod(&format!("b{expected}"), "")), expected);
        }
    }
}
