//! How many of a thing each has (watches of a user, connections of an address), so that none can have them all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is taken, by who took it.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    most: u32,
    taken: Arc<Mutex<HashMap<K, u32>>>,
}

/// One taken. It is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Share<K: Eq + Hash> {
    taken: Arc<Mutex<HashMap<K, u32>>>,
    who: K,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// Nobody has any; each may have so many.
    pub(crate) fn new(most: u32) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// Takes one, unless this one has too many.
    pub(crate) fn take(&self, who: K) -> Option<Share<K>> {
        let mut taken = locked(&self.taken);
        let count = taken.entry(who.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Share { taken: Arc::clone(&self.taken), who })
    }
}

fn locked<K>(taken: &Mutex<HashMap<K, u32>>) -> MutexGuard<'_, HashMap<K, u32>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = locked(&self.taken);
        if let Some(count) = taken.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cannot_have_them_all() {
        let shares = Shares::new(3);
        let mut greedy: Vec<_> = (0..5).filter_map(|_| shares.take("greedy")).collect();
        assert_eq!(greedy.len(), 3);
        assert!(shares.take("greedy").is_none());
        assert!(shares.take("modest").is_some());
        greedy.pop();
        assert!(shares.take("greedy").is_some());
        drop(greedy);
        assert!(locked(&shares.taken).is_empty());
    }
}
