//! Jobs: pods until enough of them have succeeded. Each pod carries a finalizer until it is counted, so
//! that none is counted twice or not at all, whenever the server is killed.

mod backoff;
mod count;
mod orphans;
mod pods;
mod policy;
mod track;

use crate::Context;
use crate::metrics::{JOB_PODS_TRACKED, JOB_SYNC_TIMES, JOB_SYNCS, JOBS_OF_OTHERS};
use crate::objects::{now, now_text};
use crate::ownership::Claimant;
use crate::pods::PodControl;
use backoff::Backoff;
use count::{Count, End};
use naru_api::registry;
use naru_client::projections::{Condition, JobStatusView, JobView, PodView};
use naru_client::{Change, Error, IndexId, Informer, Next, ObjectKey, ObjectReference, WorkQueue};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const WORKERS: usize = 4;
/// The name that `managedBy` gives this controller.
const NAME: &str = "kubernetes.io/job-controller";

struct Jobs {
    context: Context,
    control: PodControl,
    jobs: Informer<JobView>,
    pods: Informer<PodView>,
    pods_by_controller: IndexId,
    queue: WorkQueue<ObjectKey>,
    /// Pods whose Job may be gone.
    orphans: WorkQueue<ObjectKey>,
    memory: Mutex<Memory>,
}

/// What the caches do not show, or not yet.
#[derive(Debug, Default)]
struct Memory {
    backoffs: HashMap<ObjectKey, Backoff>,
    /// The revision of each Job's last status: older states are not acted upon.
    written: HashMap<ObjectKey, u64>,
    /// Uids of pods whose finalizer has been removed.
    released: HashSet<String>,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let (jobs, _) = context.informers.jobs_by_controller();
    let (pods, pods_by_controller) = context.informers.pods_by_controller();
    let controller = Arc::new(Jobs {
        context: context.clone(),
        control: PodControl::new(context, &registry::JOBS, "job-controller"),
        jobs: jobs.clone(),
        pods: pods.clone(),
        pods_by_controller,
        queue: WorkQueue::new(),
        orphans: WorkQueue::new(),
        memory: Mutex::default(),
    });
    let taker = controller.clone();
    jobs.subscribe(move |change| taker.job_changed(change));
    let taker = controller.clone();
    pods.subscribe(move |change| taker.pod_changed(change));
    let synced = |(jobs, pods): (Informer<JobView>, Informer<PodView>)| async move {
        jobs.synced().await;
        pods.synced().await;
    };
    let runner = controller.clone();
    context.run(&controller.queue, WORKERS, synced((jobs.clone(), pods.clone())), move |key| {
        let controller = runner.clone();
        async move { controller.reconcile(&key).await }
    });
    let runner = controller.clone();
    context.run(&controller.orphans, 1, synced((jobs, pods)), move |key| {
        let controller = runner.clone();
        async move { controller.release_orphan(&key).await }
    });
}

/// How a Job completes, as metrics name it.
fn mode(job: &JobView) -> &'static str {
    if job.spec.completion_mode == "Indexed" { "Indexed" } else { "NonIndexed" }
}

fn is_ours(job: &JobView) -> bool {
    job.spec.managed_by.as_deref().is_none_or(|name| name == NAME)
}

fn selects(job: &JobView, pod: &PodView) -> bool {
    !job.spec.selector.is_empty() && job.spec.selector.matches(&pod.metadata.labels)
}

impl Jobs {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job_changed(&self, change: &Change<JobView>) {
        if let (None, Some(job)) = (&change.old, &change.new)
            && !is_ours(job)
        {
            let other = job.spec.managed_by.as_deref().unwrap_or_default();
            self.context.config.metrics.count(&JOBS_OF_OTHERS, &[other], 1);
        }
        self.queue.add(change.key.clone());
        let gone = change
            .old
            .as_ref()
            .filter(|old| change.new.as_ref().is_none_or(|new| new.metadata.uid != old.metadata.uid));
        if let Some(old) = gone {
            for pod in self.pods.indexed(self.pods_by_controller, &old.metadata.uid) {
                self.orphans.add(pod.metadata.key());
            }
        }
    }

    fn pod_changed(&self, change: &Change<PodView>) {
        let held =
            |pod: &Option<Arc<PodView>>| pod.as_ref().is_some_and(|pod| pod.is_finished() && count::is_tracked(pod));
        let event = match (held(&change.old), held(&change.new)) {
            (false, true) => Some("add"),
            (true, false) => Some("delete"),
            _ => None,
        };
        if let Some(event) = event {
            self.context.config.metrics.count(&JOB_PODS_TRACKED, &[event], 1);
        }
        if let Some(old) = &change.old
            && change.new.as_ref().is_none_or(|new| !count::is_tracked(new) || new.metadata.uid != old.metadata.uid)
        {
            self.memory().released.remove(&old.metadata.uid);
        }
        if let Some(orphan) = self.control.observe(change, &self.queue) {
            for job in self.jobs.by_namespace(&orphan.metadata.namespace) {
                if selects(&job, orphan) {
                    self.queue.add(job.metadata.key());
                }
            }
        }
        if let Some(pod) = change.new.as_ref().filter(|pod| count::is_tracked(pod) && !self.has_job(pod)) {
            self.orphans.add(pod.metadata.key());
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(job) = self.jobs.get_key(key) else {
            self.control.expectations.forget(key);
            let mut memory = self.memory();
            memory.backoffs.remove(key);
            memory.written.remove(key);
            return Ok(Next::Done);
        };
        if !is_ours(&job) || self.is_stale(&job) {
            return Ok(Next::Done);
        }
        if job.end().is_some() {
            self.memory().backoffs.remove(key);
            return Ok(Next::Done);
        }
        let begun = Instant::now();
        // Before the pods are looked at: a pod may appear in between, but none is missed.
        let caught_up = self.control.expectations.are_met(key);
        let pods = self.claim(&job).await?;
        let (released, backoff) = {
            let memory = self.memory();
            let known = pods.iter().map(|pod| &pod.metadata.uid).filter(|uid| memory.released.contains(*uid));
            (known.cloned().collect(), memory.backoffs.get(key).copied().unwrap_or_default())
        };
        let mut count = Count::of(&job, pods, released, backoff, now());
        let before = count::number(count.active.len());
        let (status, next, outcome) = self.act(&mut count, caught_up).await;
        let action = match status.active.cmp(&before) {
            _ if !caught_up => "reconciling",
            Ordering::Greater => "pods_created",
            Ordering::Less => "pods_deleted",
            Ordering::Equal => "tracking",
        };
        let outcome = self.track(&count, status).await.and(outcome);
        let labels = [mode(&job), if outcome.is_ok() { "success" } else { "error" }, action];
        let metrics = &self.context.config.metrics;
        metrics.count(&JOB_SYNCS, &labels, 1);
        metrics.observe(&JOB_SYNC_TIMES, &labels, begun.elapsed());
        outcome.map(|()| next)
    }

    /// Whether the cache does not show what was written last.
    fn is_stale(&self, job: &JobView) -> bool {
        let version: u64 = job.metadata.resource_version.parse().unwrap_or(u64::MAX);
        self.memory().written.get(&job.metadata.key()).is_some_and(|written| version < *written)
    }

    async fn claim(&self, job: &JobView) -> Result<Vec<Arc<PodView>>, Error> {
        let claimant = Claimant {
            client: &self.context.client,
            resource: &registry::PODS,
            cache: &self.pods,
            by_controller: self.pods_by_controller,
            meta: |pod| &pod.metadata,
            kind: &registry::JOBS,
            owner: &job.metadata,
        };
        claimant.claim(|pod| selects(job, pod), |pod| count::is_tracked(pod) || pod.is_active()).await
    }

    /// Creates and deletes pods. Tells the status that follows, but for what has ended.
    async fn act(&self, count: &mut Count<'_>, caught_up: bool) -> (JobStatusView, Next, Result<(), Error>) {
        let (job, time) = (count.job, now());
        let mut status = job.status.clone();
        status.uncounted_terminated_pods.get_or_insert_default();
        if status.start_time.is_empty() && !job.spec.suspend {
            status.start_time = now_text();
        }
        let mut next = match count.seconds_left(time).filter(|_| count.end.is_none()) {
            Some(left) => after(left),
            None => Next::Done,
        };
        let mut active = count.active.len();
        let outcome = if count.end.is_some() {
            let outcome = self.stop(count).await;
            if outcome.is_err() || !caught_up {
                // Pods may be left that must not be forgotten.
                count.end = None;
            } else {
                active = 0;
            }
            outcome
        } else {
            let managed = caught_up && !job.metadata.is_deleting();
            let (now_active, wait, outcome) = if managed { self.manage(count).await } else { (active, None, Ok(())) };
            active = now_active;
            if let Some(wait) = wait {
                next = sooner(next, after(wait));
            }
            if count.is_complete(active) {
                count.end = Some(End::success("CompletionsReached", "Reached expected number of succeeded pods"));
            } else if managed {
                self.suspend(job, &mut status);
            }
            outcome
        };
        status.active = count::number(active);
        status.ready = Some(count.ready.min(status.active));
        status.terminating = Some(count.terminating);
        (status, next, outcome)
    }

    /// A Job that has come to its end needs no pods.
    async fn stop(&self, count: &mut Count<'_>) -> Result<(), Error> {
        let active = std::mem::take(&mut count.active);
        let outcome = self.control.delete(&count.job.metadata, &active).await;
        if outcome.is_ok() {
            count.terminating += count::number(active.len());
            count.ready = 0;
        }
        outcome
    }

    /// The condition about suspension, and the start that goes with it.
    fn suspend(&self, job: &JobView, status: &mut JobStatusView) {
        let about = ObjectReference::of(&registry::JOBS, &job.metadata);
        if job.spec.suspend {
            status.start_time.clear();
            if set_condition(&mut status.conditions, "Suspended", "True", "JobSuspended", "Job suspended") {
                self.control.recorder.normal(&about, "Suspended", "Job suspended");
            }
        } else if set_condition(&mut status.conditions, "Suspended", "False", "JobResumed", "Job resumed") {
            status.start_time = now_text();
            self.control.recorder.normal(&about, "Resumed", "Job resumed");
        }
    }
}

fn after(seconds: i64) -> Next {
    Next::After(Duration::from_secs(u64::try_from(seconds).unwrap_or_default().max(1)))
}

fn sooner(one: Next, other: Next) -> Next {
    match (one, other) {
        (Next::After(one), Next::After(other)) => Next::After(one.min(other)),
        (Next::Done, next) | (next, Next::Done) => next,
    }
}

fn new_condition(kind: &str, status: &str, reason: &str, message: &str) -> Condition {
    let now = now_text();
    Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_probe_time: now.clone(),
        last_transition_time: now,
        ..Condition::default()
    }
}

/// Sets a condition; one that is false and was never there stays away. Tells whether anything changed.
fn set_condition(conditions: &mut Vec<Condition>, kind: &str, status: &str, reason: &str, message: &str) -> bool {
    match conditions.iter_mut().find(|condition| condition.kind == kind) {
        Some(present) if present.status == status && present.reason == reason && present.message == message => false,
        Some(present) => {
            *present = new_condition(kind, status, reason, message);
            true
        }
        None if status == "False" => false,
        None => {
            conditions.push(new_condition(kind, status, reason, message));
            true
        }
    }
}
