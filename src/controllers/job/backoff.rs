//! How long a Job waits after failed pods: ten seconds, doubling to ten minutes.

const FIRST_SECONDS: i64 = 10;
const LONGEST_SECONDS: i64 = 600;

/// Failures since the last success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: i64,
    last: i64,
}

impl Backoff {
    /// With pods that have succeeded and failed at these times, too.
    pub(super) fn with(self, succeeded: &[i64], failed: &[i64]) -> Self {
        let since = succeeded.iter().max();
        let counted = failed.iter().filter(|time| since.is_none_or(|since| *time > since));
        let (known, last) = if since.is_some() { (0, 0) } else { (self.failures, self.last) };
        let (more, last) = counted.fold((0, last), |(n, last), time| (n + 1, last.max(*time)));
        Self { failures: known + more, last }
    }

    /// Seconds until pods may be made again; none are left at 0.
    pub(super) fn wait(self, now: i64) -> i64 {
        wait(self.failures, self.last, now)
    }
}

/// Seconds until the next try after so many failures.
pub(super) fn wait(failures: i64, last: i64, now: i64) -> i64 {
    if failures <= 0 {
        return 0;
    }
    let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(16);
    let pause = (FIRST_SECONDS << doublings).min(LONGEST_SECONDS);
    (last + pause - now).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end_with_a_success() {
        let none = Backoff::default();
        assert_eq!(none.wait(100), 0);
        let one = none.with(&[], &[100]);
        assert_eq!((one.wait(100), one.wait(107), one.wait(111)), (10, 3, 0));
        let three = one.with(&[], &[120, 130]);
        assert_eq!(three.wait(130), 40);
        assert_eq!(three.with(&[125], &[120, 130]).wait(130), 10);
        assert_eq!(three.with(&[140], &[]).wait(140), 0);
        assert_eq!(wait(50, 0, 0), 600);
    }
}
