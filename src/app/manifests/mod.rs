//! Objects from the files under `server/manifests`: applied when a file changes, deleted when they leave it.
//!
//! What each file has brought is recorded in a ConfigMap before anything else is done, so that nothing is
//! forgotten when the process ends half-way. A file that is removed leaves its objects, as with k3s; so does
//! one that has a neighbour of its name with `.skip` at the end.

mod apply;
mod files;
mod record;
#[cfg(test)]
mod tests;

use anyhow::Result;
use apply::{Applier, Id};
use files::{Found, Stamp};
use naru_api::registry;
use naru_base::{Backoff, DirectoryWatch, Shutdown, spawn};
use naru_client::{Client, EventRecorder, ObjectReference};
use record::{Entry, Record};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

/// How long to wait for what failed, at first and at most.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(300);
/// Editors write files in steps.
const QUIET: Duration = Duration::from_millis(200);

/// Follows the directory until shutdown.
pub(crate) fn start(dir: PathBuf, client: Client, shutdown: &Shutdown) {
    let recorder = EventRecorder::start(client.clone(), &registry::EVENTS, "manifests", None, shutdown);
    let stop = shutdown.clone();
    spawn("manifests", async move {
        let mut manifests = Manifests::new(dir, client, recorder);
        if let Some(Err(error)) = stop.guard(manifests.run()).await {
            tracing::error!("manifests are not followed any more: {error:#}");
        }
    });
}

/// What one round has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Something failed that may do better later.
    Again,
}

struct Manifests {
    dir: PathBuf,
    applier: Applier,
    recorder: EventRecorder,
    /// Files as they were when they were last applied.
    seen: HashMap<String, Stamp>,
}

/// A file whose objects are applied in this round.
struct Job {
    name: String,
    stamp: Stamp,
    checksum: String,
    objects: Vec<serde_json::Value>,
}

impl Manifests {
    fn new(dir: PathBuf, client: Client, recorder: EventRecorder) -> Self {
        Self { dir, applier: Applier::new(client), recorder, seen: HashMap::new() }
    }

    async fn run(&mut self) -> Result<()> {
        let watch = DirectoryWatch::new()?;
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            // Watched before it is looked at, so that nothing comes between.
            for dir in files::directories(&self.dir) {
                watch.add(&dir)?;
            }
            let again = match self.round().await {
                Ok(Outcome::Done) => None,
                Ok(Outcome::Again) => Some(backoff.next_delay()),
                Err(error) => {
                    tracing::warn!("manifests could not be applied, trying again: {error:#}");
                    Some(backoff.next_delay())
                }
            };
            let Some(delay) = again else {
                backoff.reset();
                watch.changed().await?;
                tokio::time::sleep(QUIET).await;
                continue;
            };
            match tokio::time::timeout(delay, watch.changed()).await {
                Ok(changed) => {
                    changed?;
                    tokio::time::sleep(QUIET).await;
                }
                Err(_) => tracing::debug!("manifests are tried again"),
            }
        }
    }

    /// Applies what has changed.
    async fn round(&mut self) -> Result<Outcome> {
        let found = files::scan(&self.dir)?;
        self.seen.retain(|name, _| found.iter().any(|file| file.name == *name));
        let changed: Vec<Found> =
            found.into_iter().filter(|file| self.seen.get(&file.name) != Some(&file.stamp)).collect();
        if changed.is_empty() {
            return Ok(Outcome::Done);
        }
        let mut record = Record::load(self.applier.client()).await?;
        let mut outcome = Outcome::Done;
        let mut jobs = Vec::new();
        for file in changed {
            match files::read(&file) {
                Ok((objects, checksum)) => jobs.push(Job { name: file.name, stamp: file.stamp, checksum, objects }),
                Err(error) => {
                    // It has to change before it can be read.
                    self.tell(&record, "ParseManifestFailed", &file.name, Some(&error));
                    self.seen.insert(file.name, file.stamp);
                }
            }
        }
        for job in &jobs {
            record.entry(&job.name).add(job.objects.iter().map(Id::of));
        }
        record.save(self.applier.client()).await?;
        let mut applied = Vec::new();
        for job in jobs {
            let news = record.entry(&job.name).checksum != job.checksum;
            match self.apply(&job).await {
                Ok(()) => {
                    if news {
                        self.tell(&record, "AppliedManifest", &job.name, None);
                    }
                    applied.push(job);
                }
                Err(error) => {
                    self.tell(&record, "ApplyManifestFailed", &job.name, Some(&error));
                    outcome = Outcome::Again;
                }
            }
        }
        // After all have been applied: an object may have gone from one file to another.
        for job in applied {
            match self.prune(&job, record.entry(&job.name)).await {
                Ok(()) => drop(self.seen.insert(job.name, job.stamp)),
                Err(error) => {
                    self.tell(&record, "ApplyManifestFailed", &job.name, Some(&error));
                    outcome = Outcome::Again;
                }
            }
        }
        record.save(self.applier.client()).await?;
        Ok(outcome)
    }

    /// Namespaces and definitions first: others need them.
    async fn apply(&self, job: &Job) -> Result<()> {
        let is_first = |object: &&serde_json::Value| {
            matches!(object["kind"].as_str(), Some("Namespace" | "CustomResourceDefinition"))
        };
        let (first, rest): (Vec<_>, Vec<_>) = job.objects.iter().partition(is_first);
        for object in first.into_iter().chain(rest) {
            self.applier.apply(object, &job.name).await?;
        }
        Ok(())
    }

    /// Deletes what the file had brought and brings no more.
    async fn prune(&self, job: &Job, entry: &mut Entry) -> Result<()> {
        let wanted: Vec<Id> = job.objects.iter().map(Id::of).collect();
        for id in entry.objects.iter().filter(|id| !wanted.contains(id)) {
            self.applier.delete(id, &job.name).await?;
        }
        entry.objects = wanted;
        entry.checksum.clone_from(&job.checksum);
        Ok(())
    }

    fn tell(&self, record: &Record, reason: &str, file: &str, error: Option<&anyhow::Error>) {
        let about: ObjectReference = record.reference();
        match error {
            None => self.recorder.normal(&about, reason, format!("Applied manifest at {file:?}")),
            Some(error) => {
                tracing::warn!("manifest {file}: {error:#}");
                self.recorder.warning(&about, reason, format!("Applying manifest at {file:?} failed: {error:#}"));
            }
        }
    }
}
