//! A Job's pods as they count: which have ended and how, which indexes are done, what to make of it.

use super::backoff::{self, Backoff};
use super::policy::{self, Verdict};
use crate::objects::seconds;
use naru_api::batch::indexes::Indexes;
use naru_client::projections::{JobView, PodView};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// How a Job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) success: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

impl End {
    fn failure(reason: &str, message: &str) -> Self {
        Self { success: false, reason: reason.to_owned(), message: message.to_owned() }
    }

    pub(super) fn success(reason: &str, message: &str) -> Self {
        Self { success: true, reason: reason.to_owned(), message: message.to_owned() }
    }
}

/// Whether a pod is still tracked by its Job.
pub(super) fn is_tracked(pod: &PodView) -> bool {
    pod.metadata.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// The index that a pod works on.
pub(super) fn index_of(pod: &PodView) -> Option<i64> {
    pod.metadata.annotations.get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// How often pods have failed at the index before this one: those that count, and those that do not.
pub(super) fn failures_before(pod: &PodView) -> (i64, i64) {
    let number = |key: &str| pod.metadata.annotations.get(key).and_then(|n| n.parse().ok()).unwrap_or(0);
    (number(FAILURES), number(IGNORED))
}

/// Whether only pods that have really ended are replaced.
pub(super) fn replaces_failed_only(job: &JobView) -> bool {
    job.spec.pod_replacement_policy == "Failed" || job.spec.pod_failure_policy.is_some()
}

/// Whether a pod counts as failed.
pub(super) fn is_failed(job: &JobView, pod: &PodView) -> bool {
    let gone = pod.metadata.is_deleting() && pod.status.phase != "Succeeded";
    pod.status.phase == "Failed" || (gone && !replaces_failed_only(job))
}

/// When a pod ended, as well as is known.
pub(super) fn finished_at(pod: &PodView, now: i64) -> i64 {
    let ends = pod.status.container_statuses.iter().filter_map(|status| status.state.terminated.as_ref());
    let last = ends.map(|end| seconds(&end.finished_at)).max().filter(|time| *time > 0);
    let deleted = pod.metadata.deletion_timestamp.as_deref().map(seconds);
    last.or(deleted).unwrap_or(now).min(now)
}

/// A Job, its pods, and all that follows from them.
#[derive(Debug)]
pub(super) struct Count<'a> {
    pub(super) job: &'a JobView,
    /// All pods, by index.
    pub(super) pods: Vec<Arc<PodView>>,
    /// Pods whose finalizer is gone although the cache still shows it.
    pub(super) released: HashSet<String>,
    pub(super) active: Vec<Arc<PodView>>,
    pub(super) ready: i32,
    pub(super) terminating: i32,
    pub(super) succeeded: i64,
    pub(super) backoff: Backoff,
    /// Indexes that had succeeded by the status, and by the pods, too.
    pub(super) before: Indexes,
    pub(super) done: Indexes,
    /// Failed indexes, where each has a limit of its own.
    pub(super) failed_indexes: Option<Indexes>,
    /// The last failed pod of each index that is not replaced yet: it knows how often it has failed.
    pub(super) delayed: BTreeMap<i64, Arc<PodView>>,
    pub(super) end: Option<End>,
}

impl<'a> Count<'a> {
    /// Counts the pods of a Job that is not finished.
    pub(super) fn of(
        job: &'a JobView,
        mut pods: Vec<Arc<PodView>>,
        released: HashSet<String>,
        backoff: Backoff,
        now: i64,
    ) -> Self {
        pods.sort_by_key(|pod| (index_of(pod), pod.metadata.name.clone()));
        let active: Vec<Arc<PodView>> = pods.iter().filter(|pod| pod.is_active()).cloned().collect();
        let terminating = pods.iter().filter(|pod| pod.metadata.is_deleting() && !pod.is_finished()).count();
        let mut count = Self {
            job,
            ready: number(active.iter().filter(|pod| pod.is_ready()).count()),
            terminating: number(terminating),
            pods,
            released,
            active,
            succeeded: 0,
            backoff,
            before: Indexes::default(),
            done: Indexes::default(),
            failed_indexes: None,
            delayed: BTreeMap::new(),
            end: None,
        };
        count.end = count.decide(now);
        count
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.job.spec.completion_mode == "Indexed"
    }

    pub(super) fn completions(&self) -> i64 {
        self.job.spec.completions.map_or(i64::MAX, i64::from)
    }

    /// Whether the Job's finalizer on a pod is still to be dealt with.
    pub(super) fn holds(&self, pod: &PodView) -> bool {
        is_tracked(pod) && !self.released.contains(&pod.metadata.uid)
    }

    /// A pod's index where it is one of the Job's.
    pub(super) fn valid_index(&self, pod: &PodView) -> Option<i64> {
        index_of(pod).filter(|index| *index < self.completions())
    }

    fn counts(&self, pod: &PodView) -> bool {
        self.holds(pod) && (!self.is_indexed() || self.valid_index(pod).is_some())
    }

    fn decide(&mut self, now: i64) -> Option<End> {
        let job = self.job;
        let uncounted = job.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let fresh = |pod: &&Arc<PodView>, known: &[String]| self.counts(pod) && !known.contains(&pod.metadata.uid);
        let done = self.pods.iter().filter(|pod| pod.status.phase == "Succeeded");
        let done: Vec<_> = done.filter(|pod| fresh(pod, &uncounted.succeeded)).cloned().collect();
        let lost = self.pods.iter().filter(|pod| is_failed(job, pod));
        let lost: Vec<_> = lost.filter(|pod| fresh(pod, &uncounted.failed)).cloned().collect();
        let counted = lost.iter().filter(|pod| policy::verdict(job, pod) != Verdict::Ignore).count();
        self.succeeded = i64::from(job.status.succeeded) + long(done.len() + uncounted.succeeded.len());
        let failed = i64::from(job.status.failed) + long(counted + uncounted.failed.len());
        let times = |pods: &[Arc<PodView>]| pods.iter().map(|pod| finished_at(pod, now)).collect::<Vec<_>>();
        self.backoff = self.backoff.with(&times(&done), &times(&lost));
        self.count_indexes();
        self.known_end().or_else(|| self.new_end(failed, now))
    }

    fn count_indexes(&mut self) {
        if !self.is_indexed() {
            return;
        }
        let (job, completions) = (self.job, self.completions());
        self.before = Indexes::parse_below(&job.status.completed_indexes, completions);
        let succeeded = self.pods.iter().filter(|pod| pod.status.phase == "Succeeded" && is_tracked(pod));
        let mut fresh: Vec<i64> = succeeded.filter_map(|pod| self.valid_index(pod)).collect();
        fresh.sort_unstable();
        self.done = self.before.with(&fresh);
        self.succeeded = self.done.total();
        let Some(limit) = job.spec.backoff_limit_per_index else { return };
        let before = Indexes::parse_below(job.status.failed_indexes.as_deref().unwrap_or_default(), completions);
        let failed =
            self.pods.iter().filter(|pod| is_tracked(pod) && is_failed(job, pod) && self.has_failed(pod, limit));
        let mut failed: Vec<i64> = failed.filter_map(|pod| self.valid_index(pod)).collect();
        failed.retain(|index| !self.done.contains(*index));
        failed.sort_unstable();
        let failed = before.with(&failed);
        self.delayed = self.delayed(&failed);
        self.failed_indexes = Some(failed);
    }

    /// Whether a failed pod is one too many for its index.
    fn has_failed(&self, pod: &PodView, limit: i32) -> bool {
        match policy::verdict(self.job, pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            Verdict::Count | Verdict::FailJob(_) => failures_before(pod).0 >= i64::from(limit),
        }
    }

    fn delayed(&self, failed: &Indexes) -> BTreeMap<i64, Arc<PodView>> {
        let age = |pod: &PodView| failures_before(pod).0 + failures_before(pod).1;
        let (mut last, mut replaced) = (BTreeMap::<i64, Arc<PodView>>::new(), BTreeMap::<i64, i64>::new());
        for pod in &self.pods {
            let Some(index) = self.valid_index(pod).filter(|i| !failed.contains(*i) && !self.done.contains(*i)) else {
                continue;
            };
            if !is_failed(self.job, pod) {
                let newest = replaced.entry(index).or_insert(i64::MIN);
                *newest = age(pod).max(*newest);
            } else if self.holds(pod) && last.get(&index).is_none_or(|other| age(other) < age(pod)) {
                last.insert(index, pod.clone());
            }
        }
        last.retain(|index, pod| replaced.get(index).is_none_or(|newest| *newest <= age(pod)));
        last
    }

    /// An end that the status tells of already.
    fn known_end(&self) -> Option<End> {
        let of = |kind: &str| {
            self.job.status.conditions.iter().find(|condition| condition.kind == kind && condition.status == "True")
        };
        let end = |success: bool| {
            let condition = of(if success { "SuccessCriteriaMet" } else { "FailureTarget" })?;
            Some(End { success, reason: condition.reason.clone(), message: condition.message.clone() })
        };
        end(true).or_else(|| end(false))
    }

    fn new_end(&self, failed: i64, now: i64) -> Option<End> {
        let (job, spec) = (self.job, &self.job.spec);
        let lost = self.pods.iter().filter(|pod| is_failed(job, pod));
        let verdicts = lost.map(|pod| policy::verdict(job, pod));
        let fatal = verdicts.filter_map(|verdict| match verdict {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        });
        if let Some(message) = fatal.into_iter().next() {
            return Some(End::failure("PodFailurePolicy", &message));
        }
        let limit = spec.backoff_limit.map_or(6, i64::from);
        if failed > limit || self.restarted_too_often(limit) {
            return Some(End::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        if self.seconds_left(now).is_some_and(|left| left <= 0) {
            return Some(End::failure("DeadlineExceeded", "Job was active longer than specified deadline"));
        }
        if let Some(failed) = &self.failed_indexes {
            if spec.max_failed_indexes.is_some_and(|max| failed.total() > i64::from(max)) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return Some(End::failure("MaxFailedIndexesExceeded", message));
            }
            if !failed.is_empty() && failed.total() + self.done.total() >= self.completions() {
                return Some(End::failure("FailedIndexes", "Job has failed indexes"));
            }
        }
        let policy = spec.success_policy.as_ref().filter(|_| self.is_indexed());
        let met = policy::success(policy, self.completions(), &self.done)?;
        Some(End::success("SuccessPolicy", &met))
    }

    /// Containers that are started again in their pods count, too.
    fn restarted_too_often(&self, limit: i64) -> bool {
        if self.job.spec.template.spec.restart_policy != "OnFailure" {
            return false;
        }
        let running = self.pods.iter().filter(|pod| matches!(pod.status.phase.as_str(), "Running" | "Pending"));
        let statuses =
            running.flat_map(|pod| pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses));
        let restarts: i64 = statuses.map(|status| i64::from(status.restart_count)).sum();
        restarts > 0 && restarts >= limit
    }

    /// Seconds until the deadline.
    pub(super) fn seconds_left(&self, now: i64) -> Option<i64> {
        let spec = &self.job.spec;
        let start = Some(seconds(&self.job.status.start_time)).filter(|start| *start > 0 && !spec.suspend);
        Some(start? + spec.active_deadline_seconds? - now)
    }

    /// Whether enough pods have succeeded, with so many still active.
    pub(super) fn is_complete(&self, active: usize) -> bool {
        let enough = match self.job.spec.completions {
            None => self.succeeded > 0,
            Some(completions) => self.succeeded >= i64::from(completions),
        };
        enough && active == 0
    }

    /// How many pods should be active.
    pub(super) fn wanted(&self) -> usize {
        let parallelism = self.job.spec.parallelism.map_or(1, i64::from);
        let wanted = match self.job.spec.completions {
            None if self.succeeded > 0 => long(self.active.len()),
            None => parallelism,
            Some(completions) => (i64::from(completions) - self.succeeded).min(parallelism),
        };
        usize::try_from(wanted).unwrap_or_default()
    }

    /// Active pods without an index of the Job's, or with one that another has or that is done.
    pub(super) fn superfluous(&self) -> Vec<Arc<PodView>> {
        let mut seen = HashSet::new();
        let keeps = |pod: &PodView| self.valid_index(pod).filter(|index| !self.done.contains(*index));
        let wrong = |pod: &&Arc<PodView>| self.is_indexed() && !keeps(pod).is_some_and(|index| seen.insert(index));
        self.active.iter().filter(wrong).cloned().collect()
    }

    /// The first indexes that nobody works on, and those of them that may be worked on now, or the
    /// seconds until one may.
    pub(super) fn pending(&self, count: usize, now: i64) -> Result<Vec<i64>, i64> {
        let only_failed = replaces_failed_only(self.job);
        let busy = self
            .pods
            .iter()
            .filter(|pod| pod.is_active() || (only_failed && pod.metadata.is_deleting() && !pod.is_finished()));
        let busy: Indexes = busy.filter_map(|pod| self.valid_index(pod)).collect();
        let failed = self.failed_indexes.clone().unwrap_or_default();
        let free = |index: &i64| !self.done.contains(*index) && !busy.contains(*index) && !failed.contains(*index);
        let free: Vec<i64> = (0..self.completions()).filter(free).take(count).collect();
        if self.failed_indexes.is_none() {
            return Ok(free);
        }
        let wait = |index: &i64| self.delayed.get(index).map_or(0, |pod| self.wait_of(pod, now));
        let ready: Vec<i64> = free.iter().copied().filter(|index| wait(index) <= 0).collect();
        match free.iter().map(wait).min() {
            Some(wait) if ready.is_empty() => Err(wait),
            _ => Ok(ready),
        }
    }

    /// Seconds until a failed pod of an index may be replaced.
    fn wait_of(&self, pod: &PodView, now: i64) -> i64 {
        let (counted, ignored) = failures_before(pod);
        backoff::wait(counted + ignored + 1, finished_at(pod, now), now)
    }
}

fn long(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A count of pods.
pub(super) fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
