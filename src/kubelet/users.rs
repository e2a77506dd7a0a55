//! Ranges of the host's ids for pods that have users of their own (`hostUsers: false`). No two pods share one, and a
//! pod keeps its own for life: it stands in the pod's directory.

use naru_runtime::idmap::IDS;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// In the pod's directory: the first id, as text.
const FILE: &str = "userns";

/// Which pod has which range.
#[derive(Debug)]
pub(crate) struct UserRanges {
    /// Where the pods' directories are.
    pods: PathBuf,
    /// As many as the node takes pods, from the first after the host's own users.
    count: u32,
    /// The number of the range by the pod's uid.
    taken: Mutex<BTreeMap<String, u32>>,
}

impl UserRanges {
    /// Reads what the pods below `pods` have.
    pub(crate) fn read(pods: PathBuf, count: u32) -> Self {
        // The last range that fits is the one before the highest.
        let count = count.min(u32::MAX / IDS - 1);
        let mut taken = BTreeMap::new();
        for entry in std::fs::read_dir(&pods).into_iter().flatten().flatten() {
            let (Ok(uid), Some(range)) = (entry.file_name().into_string(), recorded(&entry.path())) else { continue };
            taken.insert(uid, range);
        }
        Self { pods, count, taken: Mutex::new(taken) }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's id that is root in the pod.
    pub(crate) fn of(&self, uid: &str) -> io::Result<u32> {
        let mut taken = self.taken();
        if let Some(range) = taken.get(uid) {
            return Ok(range * IDS);
        }
        let free = (1..=self.count).find(|range| taken.values().all(|other| other != range));
        let range = free.ok_or_else(|| {
            io::Error::other(format!(
                "all {} ranges of user ids are taken by other pods with users of their own",
                self.count
            ))
        })?;
        // On disk first: a range is never given twice.
        let dir = self.pods.join(uid);
        std::fs::create_dir_all(&dir)?;
        let new = dir.join("userns.new");
        std::fs::write(&new, (range * IDS).to_string())?;
        std::fs::rename(new, dir.join(FILE))?;
        taken.insert(uid.to_owned(), range);
        Ok(range * IDS)
    }

    /// Gives back the ranges of pods whose directories have gone.
    pub(crate) fn release_gone(&self) {
        self.taken().retain(|uid, _| self.pods.join(uid).join(FILE).exists());
    }
}

fn recorded(dir: &Path) -> Option<u32> {
    let first: u32 = std::fs::read_to_string(dir.join(FILE)).ok()?.trim().parse().ok()?;
    (first >= IDS && first.is_multiple_of(IDS)).then_some(first / IDS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn no_range_is_shared_and_none_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let open = || UserRanges::read(dir.path().to_owned(), 2);
        let ranges = open();
        assert_eq!((ranges.of("a").unwrap(), ranges.of("b").unwrap()), (IDS, 2 * IDS));
        assert_eq!(ranges.of("a").unwrap(), IDS);
        assert!(ranges.of("c").unwrap_err().to_string().contains("all 2 ranges"));

        // After a restart, whatever order they come in.
        let ranges = open();
        assert_eq!((ranges.of("b").unwrap(), ranges.of("a").unwrap()), (2 * IDS, IDS));
        std::fs::remove_dir_all(dir.path().join("a")).unwrap();
        ranges.release_gone();
        assert_eq!(ranges.of("c").unwrap(), IDS);
        assert_eq!(open().of("b").unwrap(), 2 * IDS);
    }

    #[test]
    fn nonsense_on_disk_is_no_range() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "0", "65537", "-1", "x"] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            assert_eq!(recorded(dir.path()), None, "{text:?}");
        }
    }
}
