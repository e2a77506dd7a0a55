//! What a controller has done that its caches do not show yet.
//!
//! Without this, a reconcile that runs before the caches have caught up would create its pods twice.

use naru_client::ObjectKey;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A change that has not shown up by then is no longer waited for.
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
struct Pending {
    /// Names of created objects.
    created: HashMap<String, Instant>,
    /// Uids of deleted objects.
    deleted: HashMap<String, Instant>,
}

/// Expected changes by owner.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    pending: Mutex<HashMap<ObjectKey, Pending>>,
}

impl Expectations {
    fn pending(&self) -> MutexGuard<'_, HashMap<ObjectKey, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object of this name is about to be created.
    pub(crate) fn expect_created(&self, owner: &ObjectKey, name: &str) {
        let mut pending = self.pending();
        let entry = pending.entry(owner.clone()).or_default();
        entry.created.insert(name.to_owned(), Instant::now());
    }

    /// The object of this uid is about to be deleted.
    pub(crate) fn expect_deleted(&self, owner: &ObjectKey, uid: &str) {
        let mut pending = self.pending();
        let entry = pending.entry(owner.clone()).or_default();
        entry.deleted.insert(uid.to_owned(), Instant::now());
    }

    /// The object is in the cache, or was not created after all.
    pub(crate) fn saw_created(&self, owner: &ObjectKey, name: &str) {
        if let Some(entry) = self.pending().get_mut(owner) {
            entry.created.remove(name);
        }
    }

    /// The object is gone or terminating, or was not deleted after all.
    pub(crate) fn saw_deleted(&self, owner: &ObjectKey, uid: &str) {
        if let Some(entry) = self.pending().get_mut(owner) {
            entry.deleted.remove(uid);
        }
    }

    /// Whether the caches show all that was done for this owner.
    pub(crate) fn are_met(&self, owner: &ObjectKey) -> bool {
        let mut pending = self.pending();
        let Some(entry) = pending.get_mut(owner) else { return true };
        entry.created.retain(|_, since| since.elapsed() < LONGEST);
        entry.deleted.retain(|_, since| since.elapsed() < LONGEST);
        let met = entry.created.is_empty() && entry.deleted.is_empty();
        if met {
            pending.remove(owner);
        }
        met
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &ObjectKey) {
        self.pending().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn met_when_all_is_seen_or_too_old() {
        let expectations = Expectations::default();
        let owner = ObjectKey::new("default", "web");
        assert!(expectations.are_met(&owner));
        expectations.expect_created(&owner, "web-1");
        expectations.expect_deleted(&owner, "uid-2");
        expectations.saw_created(&owner, "web-1");
        assert!(!expectations.are_met(&owner));
        expectations.saw_deleted(&owner, "uid-2");
        assert!(expectations.are_met(&owner));
        expectations.expect_created(&owner, "web-3");
        assert!(!expectations.are_met(&owner));
        tokio::time::advance(LONGEST).await;
        assert!(expectations.are_met(&owner));
    }
}
