//! How many watches each user has open, so that none can have them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Watches of one user at once. A busy operator has some hundreds.
const MOST: u32 = 5_000;

type Open = HashMap<Arc<str>, u32>;

/// The watches that are open, by user.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watchers(Arc<Mutex<Open>>);

/// A watch being open. It is over when this is dropped.
#[derive(Debug)]
pub(crate) struct OpenWatch {
    watchers: Watchers,
    user: Arc<str>,
}

impl Watchers {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a watch, unless the user has too many.
    pub(crate) fn enter(&self, user: &str) -> Option<OpenWatch> {
        let mut open = self.open();
        let user = open.get_key_value(user).map_or_else(|| Arc::from(user), |(user, _)| Arc::clone(user));
        let count = open.entry(Arc::clone(&user)).or_default();
        if *count >= MOST {
            return None;
        }
        *count += 1;
        drop(open);
        Some(OpenWatch { watchers: self.clone(), user })
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        let mut open = self.watchers.open();
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_have_them_all() {
        let watchers = Watchers::default();
        let mut greedy: Vec<_> = (0..MOST).filter_map(|_| watchers.enter("greedy")).collect();
        assert_eq!(greedy.len(), MOST as usize);
        assert!(watchers.enter("greedy").is_none());
        assert!(watchers.enter("modest").is_some());
        greedy.pop();
        assert!(watchers.enter("greedy").is_some());
        drop(greedy);
        assert!(watchers.open().is_empty());
    }
}
