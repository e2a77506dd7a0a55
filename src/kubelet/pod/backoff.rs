//! When a container that ended may start again.

use jiff::{SignedDuration, Timestamp};

/// First delay after the free first restart.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// Longest delay between two starts.
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

/// Back-off of one container (or one image): the first retry is immediate, then 10 s doubling to 300 s;
/// a quiet time of twice the maximum starts it over.
#[derive(Debug, Clone, Default)]
pub struct CrashBackoff {
    delay: Option<SignedDuration>,
    last_update: Option<Timestamp>,
}

impl CrashBackoff {
    fn expired(&self, at: Timestamp) -> bool {
        self.last_update.is_none_or(|last| at.duration_since(last) > MAX * 2)
    }

    /// The delay in force, if any.
    pub fn delay(&self) -> Option<SignedDuration> {
        self.delay
    }

    /// How long to wait still, for a failure at `failed_at`; `None`: go ahead.
    pub fn remaining(&self, failed_at: Timestamp, now: Timestamp) -> Option<SignedDuration> {
        let delay = self.delay?;
        if self.expired(failed_at) {
            return None;
        }
        let left = delay - now.duration_since(failed_at);
        left.is_positive().then_some(left)
    }

    /// Notes that a retry happens now for a failure at `failed_at`; the next one will wait longer.
    pub fn advance(&mut self, failed_at: Timestamp, now: Timestamp) {
        self.delay = Some(match self.delay {
            Some(delay) if !self.expired(failed_at) => (delay * 2).min(MAX),
            _ => INITIAL,
        });
        self.last_update = Some(now);
    }

    /// Forgets everything after a success.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// A duration as Go prints whole seconds: `10s`, `1m20s`, `5m0s`.
pub fn go_seconds(duration: SignedDuration) -> String {
    let secs = duration.as_secs();
    if secs >= 60 { format!("{}m{}s", secs / 60, secs % 60) } else { format!("{secs}s") }
}

/// A duration as Go prints it with milliseconds: `532ms`, `1.532s`, `1m1.5s`.
pub fn go_millis(duration: std::time::Duration) -> String {
    let ms = duration.as_millis();
    if ms == 0 {
        return "0s".into();
    }
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let fraction = |ms: u128| {
        let text = format!("{}.{:03}", ms / 1000, ms % 1000);
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    if ms < 60_000 { format!("{}s", fraction(ms)) } else { format!("{}m{}s", ms / 60_000, fraction(ms % 60_000)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + secs).expect("in range")
    }

    #[test]
    fn first_restart_is_free_then_doubles_to_the_limit() {
        let mut backoff = CrashBackoff::default();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let left = backoff.remaining(at(now), at(now)).map_or(0, |d| d.as_secs());
            waits.push(left);
            now += left;
            backoff.advance(at(now), at(now));
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_long_good_run_starts_over() {
        let mut backoff = CrashBackoff::default();
        backoff.advance(at(0), at(0));
        backoff.advance(at(10), at(20));
        assert_eq!(backoff.delay().map(|d| d.as_secs()), Some(20));
        assert_eq!(backoff.remaining(at(700), at(700)), None);
        backoff.advance(at(700), at(700));
        assert_eq!(backoff.delay().map(|d| d.as_secs()), Some(10));
    }

    #[test]
    fn durations_print_like_go() {
        assert_eq!(go_seconds(SignedDuration::from_secs(10)), "10s");
        assert_eq!(go_seconds(SignedDuration::from_secs(80)), "1m20s");
        assert_eq!(go_seconds(SignedDuration::from_secs(300)), "5m0s");
        assert_eq!(go_millis(std::time::Duration::from_millis(532)), "532ms");
        assert_eq!(go_millis(std::time::Duration::from_millis(1530)), "1.53s");
        assert_eq!(go_millis(std::time::Duration::from_millis(61_000)), "1m1s");
    }
}
