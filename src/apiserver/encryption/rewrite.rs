//! Brings what is stored in line with the configuration: values written before encryption was switched on,
//! with another key, or after it was switched off again, are written anew in the background.
//!
//! Each row tells by its prefix whether it has been done, so that the work goes on after a restart where it
//! was. It takes at most half of the time, and never overwrites a newer value.

use super::Keyring;
use crate::storage::Storage;
use naru_base::Shutdown;
use naru_store::{Durability, Expect, ReadError, Record, Write, WriteError};
use std::time::Duration;
use tokio::time::Instant;

/// Rows looked at at a time.
const PAGE: usize = 100;
/// How often progress is logged.
const REPORT: Duration = Duration::from_secs(10);
/// How long to wait after a failure of the disk.
const RETRY: Duration = Duration::from_secs(30);
/// How often to look whether the versions before have been compacted away.
const COMPACTION_CHECK: Duration = Duration::from_secs(30);

/// Why a pass could not be finished.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{0} values cannot be read with the configured keys")]
    Unreadable(usize),
}

/// The task that rewrites.
pub(crate) struct Rewriter {
    storage: Storage,
    shutdown: Shutdown,
}

impl Rewriter {
    pub(crate) fn new(storage: Storage, shutdown: Shutdown) -> Self {
        Self { storage, shutdown }
    }

    /// Runs until the shutdown: once at the start, and again whenever the keys change.
    pub(crate) async fn run(self) {
        let mut changes = self.storage.keyring_changes();
        let shutdown = self.shutdown.clone();
        let mut changed = true;
        let mut stale_until = None;
        loop {
            if changed {
                changes.mark_unchanged();
                if let Some(rewritten) = shutdown.guard(self.until_done()).await.flatten() {
                    stale_until = Some(rewritten).filter(|_| self.storage.keyring().encrypts()).or(stale_until);
                }
            }
            let erase = async {
                match stale_until {
                    Some(revision) => self.erase(revision).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.triggered() => return,
                seen = changes.changed() => {
                    if seen.is_err() {
                        return;
                    }
                    changed = true;
                }
                () = erase => (changed, stale_until) = (false, None),
            }
        }
    }

    /// Passes over the rows until one finds nothing to do. Returns the revision of the last row that was
    /// rewritten, if any was.
    async fn until_done(&self) -> Option<i64> {
        let started = Instant::now();
        let (mut total, mut last) = (0, None);
        loop {
            let keyring = self.storage.keyring();
            let mut progress = Progress { rewritten: 0, last: None, reported: Instant::now() };
            let result = self.pass(&keyring, &mut progress).await;
            total += progress.rewritten;
            last = progress.last.or(last);
            match result {
                Ok(()) if progress.rewritten > 0 => {}
                Ok(()) => break,
                Err(PassError::Write(WriteError::Closed)) => return last,
                Err(PassError::Unreadable(count)) => {
                    tracing::error!(
                        "encryption at rest: {count} values cannot be read with the configured keys, and stay as they are"
                    );
                    break;
                }
                Err(error) => {
                    tracing::warn!("encryption at rest: rewriting goes on in {} s: {error}", RETRY.as_secs());
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        if total > 0 {
            let seconds = started.elapsed().as_secs_f64();
            tracing::info!(
                "encryption at rest: {total} objects rewritten in {seconds:.1} s, all are as configured now"
            );
        }
        last
    }

    async fn pass(&self, keyring: &Keyring, progress: &mut Progress) -> Result<(), PassError> {
        let mut unreadable = 0;
        for prefix in keyring.prefixes() {
            let mut after: Option<std::sync::Arc<str>> = None;
            loop {
                let began = Instant::now();
                let page = self.storage.raw().list(&prefix, after.as_deref(), PAGE, None).await?;
                after = page.records.last().map(|record| record.key.clone());
                for record in page.records.iter().filter(|record| !keyring.is_current(&record.key, &record.value)) {
                    match self.rewrite(record).await? {
                        Rewritten::At(revision) => progress.done(&prefix, revision),
                        Rewritten::Changed => {}
                        Rewritten::Unreadable => unreadable += 1,
                    }
                }
                if !page.more {
                    break;
                }
                // Half of the time belongs to others.
                tokio::time::sleep(began.elapsed()).await;
            }
        }
        if unreadable > 0 && progress.rewritten == 0 { Err(PassError::Unreadable(unreadable)) } else { Ok(()) }
    }

    async fn rewrite(&self, record: &Record) -> Result<Rewritten, PassError> {
        let Ok(plain) = self.storage.open(&record.key, &record.value) else { return Ok(Rewritten::Unreadable) };
        let write = Write {
            key: record.key.clone(),
            expect: Expect::Revision(record.mod_revision),
            value: Some(plain),
            durability: Durability::Sync,
        };
        match self.storage.write(write).await {
            Ok(revision) => Ok(Rewritten::At(revision)),
            // Whoever was faster wrote it as it is to be.
            Err(WriteError::Conflict { .. }) => Ok(Rewritten::Changed),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until compaction has removed what was written before `revision`, and wipes the file of it.
    async fn erase(&self, revision: i64) {
        while self.storage.raw().oldest_revision() < revision {
            tokio::time::sleep(COMPACTION_CHECK).await;
        }
        match self.storage.raw().rewrite().await {
            Ok(true) => tracing::info!("encryption at rest: the database holds nothing any more of what was plain"),
            Ok(false) => tracing::warn!(
                "encryption at rest: the database is too large to be rewritten while it serves; freed parts of the \
                 file may hold plain values until they are used again"
            ),
            Err(error) => tracing::warn!(
                "encryption at rest: freed parts of the database may hold plain values until they are used again: {error}"
            ),
        }
    }
}

enum Rewritten {
    At(i64),
    Changed,
    Unreadable,
}

struct Progress {
    rewritten: usize,
    last: Option<i64>,
    reported: Instant,
}

impl Progress {
    fn done(&mut self, prefix: &str, revision: i64) {
        self.rewritten += 1;
        self.last = Some(revision);
        if self.reported.elapsed() >= REPORT {
            self.reported = Instant::now();
            tracing::info!("encryption at rest: {} objects rewritten so far, now at {prefix}", self.rewritten);
        }
    }
}
