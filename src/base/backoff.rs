//! Exponential back-off with jitter.

use std::time::Duration;

/// Delays that double from `initial` up to `max`, each spread by up to 20 % so that
/// many clients that failed together do not return together.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// A back-off whose first delay is `initial` and whose delays never exceed `max` (plus jitter).
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, next: initial }
    }

    /// The delay to wait now; the following one will be twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.max);
        delay.mul_f64(1.0 + rand::random::<f64>() * 0.2)
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_and_resets() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(3));
        let within = |d: Duration, secs: f64| d.as_secs_f64() >= secs && d.as_secs_f64() <= secs * 1.2;
        assert!(within(backoff.next_delay(), 1.0));
        assert!(within(backoff.next_delay(), 2.0));
        assert!(within(backoff.next_delay(), 3.0));
        assert!(within(backoff.next_delay(), 3.0));
        backoff.reset();
        assert!(within(backoff.next_delay(), 1.0));
    }
}
