//! Rotates the logs of running containers by size, and keeps a number of the old ones.

use crate::pod::slot::labels;
use crate::shared::Shared;
use jiff::Timestamp;
use naru_base::{Shutdown, spawn};
use naru_runtime::ContainerState;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks, as upstream's.
const INTERVAL: Duration = Duration::from_secs(10);

/// How large a log grows, and how many files there are of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes after which a log is put aside.
    pub max_size: u64,
    /// Files of one container, the one that is written to included.
    pub max_files: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 5 }
    }
}

/// Looks at all logs now and then until shutdown.
pub(crate) fn start(shared: Arc<Shared>, shutdown: &Shutdown) {
    let shutdown = shutdown.clone();
    spawn("log-rotation", async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.guard(ticks.tick()).await.is_some() {
            look(&shared).await;
        }
    });
}

async fn look(shared: &Shared) {
    let limits = shared.config.log_limits;
    let runtime = &shared.config.runtime;
    for container in runtime.sandboxes().iter().flat_map(|s| &s.containers) {
        if container.state != ContainerState::Running {
            continue;
        }
        let Some(path) = container.labels.get(labels::LOG).map(PathBuf::from) else { continue };
        if !fs::metadata(&path).is_ok_and(|meta| meta.len() >= limits.max_size) {
            continue;
        }
        let aside = match put_aside(&path, limits.max_files, Timestamp::now()) {
            Ok(aside) => aside,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "log not rotated");
                continue;
            }
        };
        if let Err(error) = runtime.reopen_log(&container.id).await {
            tracing::warn!(path = %path.display(), %error, "log not reopened after its rotation");
            // What is written goes on into the same file: let it have its name again.
            let _ = fs::rename(&aside, &path);
            continue;
        }
        let squeezed = tokio::task::spawn_blocking(move || compress_older(&path).map_err(|error| (path, error))).await;
        if let Ok(Err((path, error))) = squeezed {
            tracing::warn!(path = %path.display(), %error, "older logs not compressed");
        }
    }
}

/// Compresses the earlier files of a log, but not the newest of them: somebody may still be reading it.
fn compress_older(path: &Path) -> io::Result<()> {
    let mut files = rotated(path)?;
    files.pop();
    for file in files {
        match file.extension().and_then(|end| end.to_str()) {
            Some("gz") => {}
            // Left half-way by an earlier agent.
            Some("tmp") => fs::remove_file(file)?,
            _ => compress(&file)?,
        }
    }
    Ok(())
}

fn compress(file: &Path) -> io::Result<()> {
    let beside = |end: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let half = beside(".tmp");
    let mut encoder = flate2::write::GzEncoder::new(fs::File::create(&half)?, flate2::Compression::default());
    io::copy(&mut fs::File::open(file)?, &mut encoder)?;
    encoder.finish()?;
    fs::rename(&half, beside(".gz"))?;
    fs::remove_file(file)
}

/// Renames the log and removes the oldest ones; says what it is called now.
fn put_aside(path: &Path, max_files: usize, now: Timestamp) -> io::Result<PathBuf> {
    let stamp = now.strftime("%Y%m%d-%H%M%S");
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{stamp}"));
    let aside = PathBuf::from(name);
    let mut old = rotated(path)?;
    // The log itself and the one put aside now are among those that stay.
    while old.len() + 2 > max_files.max(2) {
        fs::remove_file(old.remove(0))?;
    }
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// The earlier files of a log, oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let mut prefix: OsString = name.to_owned();
    prefix.push(".");
    let prefix = prefix.to_string_lossy().into_owned();
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn all_but_the_newest_are_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for second in 0..3 {
            fs::write(&log, format!("{second}")).unwrap();
            put_aside(&log, 5, Timestamp::from_second(1_700_000_000 + second).unwrap()).unwrap();
        }
        fs::write(dir.path().join("0.log.20200101-000000.tmp"), "half").unwrap();
        compress_older(&log).unwrap();
        let files = rotated(&log).unwrap();
        let ends: Vec<bool> = files.iter().map(|file| file.extension().is_some_and(|end| end == "gz")).collect();
        assert_eq!(ends, [true, true, false]);
        let mut text = String::new();
        let mut first = flate2::read::GzDecoder::new(fs::File::open(&files[0]).unwrap());
        io::Read::read_to_string(&mut first, &mut text).unwrap();
        assert_eq!(text, "0");
    }

    #[test]
    fn the_newest_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for second in 0..5 {
            fs::write(&log, format!("{second}")).unwrap();
            put_aside(&log, 3, Timestamp::from_second(1_700_000_000 + second).unwrap()).unwrap();
        }
        fs::write(&log, "5").unwrap();
        let texts: Vec<String> = rotated(&log).unwrap().iter().map(|p| fs::read_to_string(p).unwrap()).collect();
        assert_eq!(texts, ["3", "4"]);
    }
}
