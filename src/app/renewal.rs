//! When certificates are renewed: between 70 and 90 % of their life, at random, so that machines that were started
//! together do not all come at the same time.

use crate::pki::{self, RENEWAL};
use anyhow::Result;
use naru_apiserver::CurrentCertificate;
use naru_base::metrics::{Source, Text};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
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

/// When a node's certificates expire, as its metrics tell it.
#[derive(Debug)]
pub(crate) struct Expiry {
    serving: Arc<CurrentCertificate>,
    /// In seconds since 1970; `None` for a node that needs none, within its server.
    client: Option<AtomicI64>,
    failures: AtomicU64,
}

impl Expiry {
    /// Of these: the one that is served with, and the one (PEM) that the node comes to its server with.
    pub(crate) fn new(serving: Arc<CurrentCertificate>, client: Option<&str>) -> Result<Arc<Self>> {
        let client = client.map(|pem| pki::at_share(pem, 1.0)).transpose()?.map(AtomicI64::new);
        Ok(Arc::new(Self { serving, client, failures: AtomicU64::new(0) }))
    }

    /// Both were renewed.
    pub(crate) fn renewed(&self, client: &str) -> Result<()> {
        let at = pki::at_share(client, 1.0)?;
        if let Some(expires) = &self.client {
            expires.store(at, Ordering::Relaxed);
        }
        Ok(())
    }

    /// They could not be renewed.
    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

impl Source for Expiry {
    fn render(&self, out: &mut Text) {
        let client = self.client.as_ref().map(|at| at.load(Ordering::Relaxed));
        for (name, of, at) in [("client", "client", client), ("server", "serving", self.serving.expires())] {
            let help = format!(
                "[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's {of} certificate, in seconds; \
                 negative if it has expired, +Inf if there is none."
            );
            let name = format!("kubelet_certificate_manager_{name}_ttl_seconds");
            out.family(&name, "gauge", &help);
            match at {
                Some(at) => out.sample(&name, &[], at - now()),
                None => out.sample(&name, &[], "+Inf"),
            }
        }
        // They are renewed together.
        let failures = self.failures.load(Ordering::Relaxed);
        for name in ["certificate_manager_client_expiration_renew_errors", "server_expiration_renew_errors"] {
            let help = "[ALPHA] Counter of certificate renewal errors.";
            out.single(&format!("kubelet_{name}"), "counter", help, failures);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, LeafSpec};

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
