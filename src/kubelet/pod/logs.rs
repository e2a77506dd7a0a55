//! Which log files of a container are kept.

use std::path::Path;

/// Removes the logs of runs before the one before `current`; that one is shown by `--previous`.
pub(crate) fn prune(dir: &Path, current: i32) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.split('.').next()).and_then(|n| n.parse::<i32>().ok());
        if number.is_some_and(|n| n < current - 1) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_last_two_runs_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "1.log", "2.log", "other"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        prune(dir.path(), 3);
        let mut left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["2.log", "other"]);
    }
}
