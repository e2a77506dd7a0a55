//! When certificates are renewed: between 70 and 90 % of their life, at random, so that machines that were started
//! together do not all come at the same time.

use crate::pki::{self, RENEWAL};
use std::time::Duration;
use time::OffsetDateTime;

/// It is looked at the clock again after this time: machines sleep, and clocks are set.
const LOOK: Duration = Duration::from_secs(3600);

/// Seconds since 1970 by the machine's clock.
pub(crate) fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// Completes when the first of these certificates (PEM) is to be renewed by that clock. One that cannot be read is to
/// be renewed now.
pub(crate) async fn due(certificates: &[String], clock: impl Fn() -> i64) {
    let share = rand::random_range(RENEWAL);
    let at = certificates.iter().map(|pem| pki::at_share(pem, share).unwrap_or(i64::MIN)).min().unwrap_or(i64::MAX);
    loop {
        let left = at.saturating_sub(clock());
        match u64::try_from(left) {
            Ok(seconds @ 1..) => tokio::time::sleep(LOOK.min(Duration::from_secs(seconds))).await,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, LeafSpec};
    use anyhow::Result;

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_due_between_70_and_90_percent_of_its_life() -> Result<()> {
        const LIFE: i64 = 365 * 24 * 3600;
        let dir = tempfile::tempdir()?;
        let ca = Authority::load_or_create(dir.path(), "client-ca", "ca")?
            .with_leaf_life(Duration::from_secs(LIFE.unsigned_abs()));
        let (from, begun) = (now(), tokio::time::Instant::now());
        let pem = ca.sign(&LeafSpec { common_name: "a".into(), ..LeafSpec::default() })?.cert_pem;
        let clock = || from + i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
        due(std::slice::from_ref(&pem), clock).await;
        let age = clock() - from;
        // The certificate may be some seconds younger than `from`.
        assert!((LIFE * 7 / 10..LIFE * 9 / 10 + 600).contains(&age), "{age}");
        due(&["nonsense".to_owned()], clock).await;
        // A clock that was set forward, or a machine that slept, makes no difference.
        due(&[pem], || clock() + LIFE).await;
        assert!(clock() - from - age <= 3600);
        Ok(())
    }
}
