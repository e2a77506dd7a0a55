//! Answers remembered for a while: a bounded map whose entries end by themselves.

use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What an answer is found by: a digest, so that no secret is kept.
pub(crate) type Key = [u8; 32];

/// The digest of something.
pub(crate) fn key(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

/// Answers with an end.
#[derive(Debug)]
pub(crate) struct Expiring<T> {
    most: usize,
    /// Leaf lock, never held across an await.
    entries: Mutex<HashMap<Key, (Instant, T)>>,
}

impl<T: Clone> Expiring<T> {
    /// Room for this many answers.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, entries: Mutex::default() }
    }

    /// An answer that has not ended.
    pub(crate) fn get(&self, key: &Key) -> Option<T> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).filter(|(end, _)| Instant::now() < *end).map(|(_, answer)| answer.clone())
    }

    /// Remembers an answer. When there is no room, what has ended goes, and if that is not enough, everything.
    pub(crate) fn put(&self, key: Key, answer: T, life: Duration) {
        let now = Instant::now();
        let Some(end) = now.checked_add(life).filter(|_| !life.is_zero()) else { return };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.most {
            entries.retain(|_, (end, _)| now < *end);
        }
        if entries.len() >= self.most {
            entries.clear();
        }
        entries.insert(key, (end, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_end_and_make_room() {
        let answers = Expiring::new(2);
        let life = Duration::from_secs(10);
        answers.put(key(b"a"), 1, life);
        answers.put(key(b"never"), 0, Duration::ZERO);
        assert_eq!((answers.get(&key(b"a")), answers.get(&key(b"never"))), (Some(1), None));
        tokio::time::advance(Duration::from_secs(5)).await;
        answers.put(key(b"b"), 2, life);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!((answers.get(&key(b"a")), answers.get(&key(b"b"))), (None, Some(2)));
        answers.put(key(b"c"), 3, life);
        assert_eq!((answers.get(&key(b"b")), answers.get(&key(b"c"))), (Some(2), Some(3)));
        answers.put(key(b"d"), 4, life);
        assert_eq!((answers.get(&key(b"b")), answers.get(&key(b"d"))), (None, Some(4)));
    }
}
