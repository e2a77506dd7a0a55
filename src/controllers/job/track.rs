//! Counting pods that have ended: their uids go into the status, then their finalizers go, then they
//! become numbers. A server that is killed in between goes on from what it finds.

use super::count::{Count, End, is_failed};
use super::policy::{self, Verdict};
use super::{Jobs, mode, new_condition, set_condition};
use crate::metrics::{JOB_FAILURES_BY_POLICY, JOB_INDEXES_FINISHED, JOB_PODS_FINISHED, JOBS_FINISHED};
use crate::objects;
use naru_api::batch::indexes::Indexes;
use naru_api::registry;
use naru_client::projections::{JobStatusView, JobView, Meta, PodView};
use naru_client::{Error, ObjectReference};
use std::collections::HashSet;
use std::sync::Arc;

/// Pods counted in one run, so that the status stays small.
const MAX_UNCOUNTED: usize = 500;

/// A status on its way, and the revision that it is to replace.
struct Draft {
    status: JobStatusView,
    version: String,
}

impl Jobs {
    /// Writes the status and counts the pods that have ended.
    pub(super) async fn track(&self, count: &Count<'_>, status: JobStatusView) -> Result<(), Error> {
        let (job, key) = (count.job, count.job.metadata.key());
        let mut draft = Draft { status, version: job.metadata.resource_version.clone() };
        let held = count.pods.iter().filter(|pod| count.holds(pod));
        let mut held: HashSet<String> = held.map(|pod| pod.metadata.uid.clone()).collect();
        settle(&mut draft.status, &held);
        let Ended { pods: ended, all, actions } = note_ended(count, &mut draft.status);
        note_end(count.end.as_ref(), &mut draft.status);
        if draft.status != job.status && !self.flush(job, &mut draft).await? {
            return Ok(());
        }
        self.memory().backoffs.insert(key, count.backoff);
        actions.iter().for_each(|action| self.context.config.metrics.count(&JOB_FAILURES_BY_POLICY, &[action], 1));
        let releases = ended.iter().map(|pod| async move { (pod, self.release(pod).await) });
        let mut failure = None;
        for (pod, released) in futures::future::join_all(releases).await {
            match released {
                Ok(()) => drop(held.remove(&pod.metadata.uid)),
                Err(error) => failure = Some(error),
            }
        }
        let before = draft.status.clone();
        settle(&mut draft.status, &held);
        let finished = if all && failure.is_none() { finish(count, &mut draft.status) } else { None };
        if draft.status != before {
            if !self.flush(job, &mut draft).await? {
                return failure.map_or(Ok(()), Err);
            }
            if let Some(end) = finished {
                self.tell(job, &draft.status, end);
            }
        }
        self.count_ended(job, &draft.status);
        failure.map_or(Ok(()), Err)
    }

    /// Pods that have become numbers.
    fn count_ended(&self, job: &JobView, now: &JobStatusView) {
        let before = &job.status;
        for (result, more) in [("succeeded", now.succeeded - before.succeeded), ("failed", now.failed - before.failed)]
        {
            let more = usize::try_from(more).unwrap_or_default();
            self.context.config.metrics.count(&JOB_PODS_FINISHED, &[mode(job), result], more);
        }
        let limit = if job.spec.backoff_limit_per_index.is_some() { "perIndex" } else { "global" };
        let indexes = |status: &JobStatusView| {
            let total = |text: &str| Indexes::parse_below(text, i64::MAX).total();
            [total(&status.completed_indexes), total(status.failed_indexes.as_deref().unwrap_or_default())]
        };
        for (status, (now, before)) in ["succeeded", "failed"].iter().zip(indexes(now).into_iter().zip(indexes(before)))
        {
            let more = usize::try_from(now - before).unwrap_or_default();
            self.context.config.metrics.count(&JOB_INDEXES_FINISHED, &[status, limit], more);
        }
    }

    /// Writes the status unless somebody else has written meanwhile: then the next run sees to it.
    async fn flush(&self, job: &JobView, draft: &mut Draft) -> Result<bool, Error> {
        let (client, meta) = (&self.context.client, &job.metadata);
        let written = objects::replace_status(client, &registry::JOBS, meta, &draft.version, &draft.status).await?;
        let Some(version) = written else { return Ok(false) };
        if let Ok(version) = version.parse() {
            self.memory().written.insert(meta.key(), version);
        }
        draft.version = version;
        Ok(true)
    }

    fn tell(&self, job: &JobView, status: &JobStatusView, end: &End) {
        let about = ObjectReference::of(&registry::JOBS, &job.metadata);
        let result = if end.success { "succeeded" } else { "failed" };
        self.context.config.metrics.count(&JOBS_FINISHED, &[mode(job), result, &end.reason], 1);
        if !end.success {
            self.control.recorder.warning(&about, &end.reason, end.message.clone());
            return;
        }
        if job.spec.completions.is_some_and(|wanted| status.succeeded > wanted) {
            let message = "Too many succeeded pods running after completion count reached";
            self.control.recorder.warning(&about, "TooManySucceededPods", message);
        }
        self.control.recorder.normal(&about, "Completed", "Job completed");
    }
}

/// Uncounted pods that no longer have a finalizer become numbers.
fn settle(status: &mut JobStatusView, held: &HashSet<String>) {
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    for (uids, number) in
        [(&mut uncounted.succeeded, &mut status.succeeded), (&mut uncounted.failed, &mut status.failed)]
    {
        let before = uids.len();
        uids.retain(|uid| held.contains(uid));
        *number = number.saturating_add(super::count::number(before - uids.len()));
    }
}

/// Pods that may lose their finalizer, whether these are all, and what the policy has said of them.
struct Ended {
    pods: Vec<Arc<PodView>>,
    all: bool,
    actions: Vec<&'static str>,
}

/// Notes pods that have ended.
fn note_ended(count: &Count<'_>, status: &mut JobStatusView) -> Ended {
    let (job, indexed) = (count.job, count.is_indexed());
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let (mut ended, mut all, mut done, mut actions) = (Vec::new(), true, Vec::new(), Vec::new());
    let failing = count.end.as_ref().is_some_and(|end| !end.success);
    for pod in count.pods.iter().filter(|pod| count.holds(pod)) {
        let (uid, failed) = (&pod.metadata.uid, is_failed(job, pod));
        if !may_go(count, pod, failed) {
            continue;
        }
        ended.push(pod.clone());
        let index = count.valid_index(pod);
        if pod.status.phase == "Succeeded" && !uncounted.failed.contains(uid) {
            match index {
                Some(index) if indexed => done.push(index),
                None if indexed => {}
                _ if uncounted.succeeded.contains(uid) => {}
                _ => uncounted.succeeded.push(uid.clone()),
            }
        } else if failed || failing {
            let counts = !indexed || index.is_some();
            let verdict = policy::by_rule(job, pod);
            let ignored = verdict == Some(Verdict::Ignore);
            if !uncounted.failed.contains(uid) {
                actions.extend(verdict.as_ref().map(Verdict::action));
            }
            if counts && !ignored && !uncounted.failed.contains(uid) {
                uncounted.failed.push(uid.clone());
            }
        }
        if done.len() + uncounted.succeeded.len() + uncounted.failed.len() >= MAX_UNCOUNTED {
            all = false;
            break;
        }
    }
    if indexed {
        done.sort_unstable();
        let set = count.before.with(&done);
        status.succeeded = i32::try_from(set.total()).unwrap_or(i32::MAX);
        status.completed_indexes = set.to_string();
        status.failed_indexes = count.failed_indexes.as_ref().map(ToString::to_string);
    }
    Ended { pods: ended, all, actions }
}

/// Whether a pod needs its finalizer no longer.
fn may_go(count: &Count<'_>, pod: &PodView, failed: bool) -> bool {
    if count.job.metadata.is_deleting() || count.end.is_some() || pod.status.phase == "Succeeded" {
        return true;
    }
    // The last failed pod of an index says how often it has failed until another can.
    let waits = super::count::index_of(pod)
        .and_then(|index| count.delayed.get(&index))
        .is_some_and(|last| last.metadata.uid == pod.metadata.uid);
    failed && !waits
}

/// An end is announced before pods are let go.
fn note_end(end: Option<&End>, status: &mut JobStatusView) {
    let Some(end) = end else { return };
    let kind = if end.success { "SuccessCriteriaMet" } else { "FailureTarget" };
    if !status.conditions.iter().any(|condition| condition.kind == kind) {
        status.conditions.push(new_condition(kind, "True", &end.reason, &end.message));
    }
}

/// The last condition, once every pod is counted and gone.
fn finish<'a>(count: &'a Count<'_>, status: &mut JobStatusView) -> Option<&'a End> {
    let end = count.end.as_ref()?;
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let left = uncounted.map_or(0, |uncounted| uncounted.succeeded.len() + uncounted.failed.len());
    if left > 0 || count.terminating > 0 {
        return None;
    }
    let kind = if end.success { "Complete" } else { "Failed" };
    set_condition(&mut status.conditions, kind, "True", &end.reason, &end.message);
    if end.success {
        let time = status.conditions.iter().find(|condition| condition.kind == kind);
        status.completion_time = time.map(|condition| condition.last_transition_time.clone()).unwrap_or_default();
    }
    Some(end)
}

/// Whether an owner reference's Job is this one.
pub(super) fn is_owner(pod: &Meta, uid: &str) -> bool {
    pod.controller().is_some_and(|owner| owner.uid == uid)
}
