//! CronJobs: a Job at each time of a schedule, in the schedule's time zone.

use crate::metrics::CRON_JOB_SKEW;
use crate::objects::{self, now, seconds};
use crate::pods::is_namespace_terminating;
use crate::{Context, ownership};
use naru_api::batch::schedule::{Schedule, Zone};
use naru_api::meta::time::format_seconds;
use naru_api::registry::{self, CRON_JOBS, JOBS};
use naru_client::projections::{ActiveJob, CronJobStatusView, CronJobView, JobView};
use naru_client::{
    Change, DeleteOptions, Error, EventRecorder, IndexId, Informer, ListParams, Next, ObjectKey, ObjectReference,
    Propagation, WorkQueue, is_already_exists, is_not_found,
};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 4;
/// When a Job was due, noted on it.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are worth a word.
const MANY_MISSED: usize = 100;

struct CronJobs {
    context: Context,
    recorder: EventRecorder,
    crons: Informer<CronJobView>,
    jobs: Informer<JobView>,
    jobs_by_controller: IndexId,
    queue: WorkQueue<ObjectKey>,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let crons: Informer<CronJobView> = context.informers.start(&CRON_JOBS, ListParams::all());
    let (jobs, jobs_by_controller) = context.informers.jobs_by_controller();
    let controller = Arc::new(CronJobs {
        context: context.clone(),
        recorder: context.recorder("cronjob-controller"),
        crons: crons.clone(),
        jobs: jobs.clone(),
        jobs_by_controller,
        queue: WorkQueue::new(),
    });
    let queue = controller.queue.clone();
    crons.subscribe(move |change| queue.add(change.key.clone()));
    let queue = controller.queue.clone();
    jobs.subscribe(move |change| job_changed(change, &queue));
    let synced = async move {
        crons.synced().await;
        jobs.synced().await;
    };
    let runner = controller.clone();
    context.run(&controller.queue, WORKERS, synced, move |key| {
        let controller = runner.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn job_changed(change: &Change<JobView>, queue: &WorkQueue<ObjectKey>) {
    for job in change.old.iter().chain(&change.new) {
        if let Some(owner) = job.metadata.controller().filter(|owner| owner.kind == CRON_JOBS.kind) {
            queue.add(ObjectKey::new(&job.metadata.namespace, &owner.name));
        }
    }
}

/// When Jobs are due.
struct Plan {
    schedule: Schedule,
    zone: Zone,
}

impl CronJobs {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(cron) = self.crons.get_key(key) else { return Ok(Next::Done) };
        let jobs = self.jobs.indexed(self.jobs_by_controller, &cron.metadata.uid);
        let mut status = cron.status.clone();
        self.look_after(&cron, &jobs, &mut status).await?;
        let outcome = match cron.metadata.is_deleting() {
            true => Ok(Next::Done),
            false => self.schedule(&cron, &mut status).await,
        };
        self.prune(&cron, &jobs, &mut status).await?;
        if status != cron.status {
            let (client, meta) = (&self.context.client, &cron.metadata);
            objects::replace_status(client, &CRON_JOBS, meta, &meta.resource_version, &status).await?;
        }
        outcome
    }

    fn about(cron: &CronJobView) -> ObjectReference {
        ObjectReference::of(&CRON_JOBS, &cron.metadata)
    }

    /// Which Jobs are active, and when the last one succeeded.
    async fn look_after(
        &self,
        cron: &CronJobView,
        jobs: &[Arc<JobView>],
        status: &mut CronJobStatusView,
    ) -> Result<(), Error> {
        let about = Self::about(cron);
        for job in jobs {
            let (name, known) = (&job.metadata.name, status.active.iter().any(|a| a.uid == job.metadata.uid));
            match job.end() {
                None if !known && !self.knows(cron, job).await? => {
                    let message = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.recorder.warning(&about, "UnexpectedJob", message);
                }
                Some(end) if known => {
                    status.active.retain(|active| active.uid != job.metadata.uid);
                    let message = format!("Saw completed job: {name}, condition: {}", end.kind);
                    self.recorder.normal(&about, "SawCompletedJob", message);
                }
                _ => {}
            }
            let completed = &job.status.completion_time;
            let complete = job.end().is_some_and(|end| end.kind == "Complete");
            if complete && seconds(completed) > seconds(&status.last_successful_time) {
                status.last_successful_time.clone_from(completed);
            }
        }
        let absent = |active: &ActiveJob| jobs.iter().all(|job| job.metadata.uid != active.uid);
        let missing: Vec<ActiveJob> = status.active.iter().filter(|active| absent(active)).cloned().collect();
        for active in missing {
            // The cache may be behind.
            let found: Result<JobView, Error> =
                self.context.client.get(&JOBS, Some(&active.namespace), &active.name).await;
            match found {
                Ok(job) if job.metadata.uid == active.uid => {}
                Err(error) if !is_not_found(&error) => return Err(error),
                _ => {
                    status.active.retain(|other| other.uid != active.uid);
                    self.recorder.normal(&about, "MissingJob", format!("Active job went missing: {}", active.name));
                }
            }
        }
        Ok(())
    }

    /// Whether the live object knows of a Job that the cached one does not.
    async fn knows(&self, cron: &CronJobView, job: &JobView) -> Result<bool, Error> {
        let meta = &cron.metadata;
        let live: CronJobView = self.context.client.get(&CRON_JOBS, meta.namespace(), &meta.name).await?;
        Ok(live.status.active.iter().any(|active| active.uid == job.metadata.uid))
    }

    fn plan(&self, cron: &CronJobView) -> Option<Plan> {
        let (spec, about) = (&cron.spec, Self::about(cron));
        let zone = match spec.time_zone.as_deref() {
            None => Zone::UTC,
            Some(name) => match Zone::find(name) {
                Some(zone) => zone,
                None => {
                    let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
                    self.recorder.warning(&about, "UnknownTimeZone", message);
                    return None;
                }
            },
        };
        if spec.suspend {
            return None;
        }
        match Schedule::parse(&spec.schedule) {
            Ok(schedule) => Some(Plan { schedule, zone }),
            Err(error) => {
                let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
                self.recorder.warning(&about, "UnparseableSchedule", message);
                None
            }
        }
    }

    /// Starts a Job if one is due, and tells when the next one is.
    async fn schedule(&self, cron: &CronJobView, status: &mut CronJobStatusView) -> Result<Next, Error> {
        let Some(plan) = self.plan(cron) else { return Ok(Next::Done) };
        let (time, about) = (now(), Self::about(cron));
        let last = Some(seconds(&status.last_schedule_time)).filter(|last| *last > 0);
        let mut since = last.unwrap_or_else(|| seconds(&cron.metadata.creation_timestamp));
        if let Some(deadline) = cron.spec.starting_deadline_seconds {
            since = since.max(time.saturating_sub(deadline).saturating_sub(1));
        }
        let next = plan.next(since, time);
        let Some(due) = plan.schedule.last(since, time, &plan.zone) else { return Ok(next) };
        if plan.has_missed_many(since, time) {
            let message =
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.recorder.warning(&about, "TooManyMissedTimes", message);
        }
        if cron.spec.starting_deadline_seconds.is_some_and(|deadline| due.saturating_add(deadline) < time) {
            let message = format!("Missed scheduled time to start a job: {}", rfc1123(due));
            self.recorder.warning(&about, "MissSchedule", message);
            return Ok(next);
        }
        let name = format!("{}-{}", cron.metadata.name, due / 60);
        if last == Some(due) || status.active.iter().any(|active| active.name == name) {
            return Ok(next);
        }
        match cron.spec.concurrency_policy.as_str() {
            "Forbid" if !status.active.is_empty() => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.recorder.normal(&about, "JobAlreadyActive", message);
                return Ok(next);
            }
            "Replace" => {
                for active in std::mem::take(&mut status.active) {
                    if let Err(error) = self.delete(cron, &active.name, &active.uid).await {
                        status.active.push(active);
                        return Err(error);
                    }
                }
            }
            _ => {}
        }
        if let Some(job) = self.start(cron, &plan.zone, &name, due).await? {
            status.active.push(job);
            status.last_schedule_time = format_seconds(due);
        }
        Ok(next)
    }

    /// Makes the Job of one time. Its name is the same whoever makes it, so there is one.
    async fn start(&self, cron: &CronJobView, zone: &Zone, name: &str, due: i64) -> Result<Option<ActiveJob>, Error> {
        let (client, meta, about) = (&self.context.client, &cron.metadata, Self::about(cron));
        let full: Value = client.get(&CRON_JOBS, meta.namespace(), &meta.name).await?;
        let job = job(cron, &full["spec"]["jobTemplate"], name, &zone.rfc3339(due));
        let made: JobView = match client.create(&JOBS, meta.namespace(), &job).await {
            Ok(made) => {
                let late = u64::try_from(now() - due).unwrap_or_default();
                self.context.config.metrics.observe(&CRON_JOB_SKEW, &[], Duration::from_secs(late));
                self.recorder.normal(&about, "SuccessfulCreate", format!("Created job {name}"));
                made
            }
            Err(error) if is_already_exists(&error) => {
                let present: JobView = client.get(&JOBS, meta.namespace(), name).await?;
                let ours = present.metadata.controller().is_some_and(|owner| owner.uid == meta.uid);
                if !ours {
                    return Ok(None);
                }
                present
            }
            Err(error) if is_namespace_terminating(&error) => return Ok(None),
            Err(error) => {
                self.recorder.warning(&about, "FailedCreate", format!("Error creating job: {error}"));
                return Err(error);
            }
        };
        let reference = ObjectReference::of(&JOBS, &made.metadata);
        Ok(Some(ActiveJob {
            kind: reference.kind,
            namespace: reference.namespace,
            name: reference.name,
            uid: reference.uid,
            api_version: reference.api_version,
            resource_version: reference.resource_version,
        }))
    }

    /// Deletes finished Jobs beyond those that are kept, the oldest first.
    async fn prune(
        &self,
        cron: &CronJobView,
        jobs: &[Arc<JobView>],
        status: &mut CronJobStatusView,
    ) -> Result<(), Error> {
        let spec = &cron.spec;
        let limits = [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
        for (kind, limit) in limits {
            let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
            let of_kind = jobs.iter().filter(|job| job.end().is_some_and(|end| end.kind == kind));
            let mut old: Vec<_> = of_kind.filter(|job| !job.metadata.is_deleting()).collect();
            old.sort_by_key(|job| (seconds(&job.status.start_time), job.metadata.name.clone()));
            let surplus = old.len().saturating_sub(limit);
            for job in old.into_iter().take(surplus) {
                self.delete(cron, &job.metadata.name, &job.metadata.uid).await?;
                status.active.retain(|active| active.uid != job.metadata.uid);
            }
        }
        Ok(())
    }

    async fn delete(&self, cron: &CronJobView, name: &str, uid: &str) -> Result<(), Error> {
        let about = Self::about(cron);
        let options = DeleteOptions::default().uid(uid).propagation(Propagation::Background);
        match self.context.client.delete(&JOBS, cron.metadata.namespace(), name, &options).await {
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => {
                self.recorder.warning(&about, "FailedDelete", format!("Deleted job: {error}"));
                Err(error)
            }
            Ok(()) => {
                self.recorder.normal(&about, "SuccessfulDelete", format!("Deleted job {name}"));
                Ok(())
            }
        }
    }
}

impl Plan {
    /// When to look again.
    fn next(&self, since: i64, now: i64) -> Next {
        let from = self.schedule.last(since, now, &self.zone).unwrap_or(since);
        let from = if matches!(self.schedule, Schedule::Every(_)) { from } else { now };
        match self.schedule.next(from, &self.zone) {
            None => Next::Done,
            Some(next) => Next::After(Duration::from_secs(u64::try_from(next - now).unwrap_or_default().max(1))),
        }
    }

    fn has_missed_many(&self, since: i64, now: i64) -> bool {
        let moments = std::iter::successors(Some(since), |moment| self.schedule.next(*moment, &self.zone));
        moments.skip(1).take_while(|moment| *moment <= now).nth(MANY_MISSED).is_some()
    }
}

fn job(cron: &CronJobView, template: &Value, name: &str, due: &str) -> Value {
    let mut meta = Map::new();
    let map = |field: &str| template["metadata"][field].as_object().cloned().unwrap_or_default();
    let mut annotations = map("annotations");
    annotations.insert(SCHEDULED.to_owned(), due.into());
    meta.insert("name".to_owned(), name.into());
    meta.insert("namespace".to_owned(), cron.metadata.namespace.as_str().into());
    meta.insert("annotations".to_owned(), annotations.into());
    meta.insert("labels".to_owned(), map("labels").into());
    let owner = ownership::controller_reference(&registry::CRON_JOBS, &cron.metadata);
    meta.insert("ownerReferences".to_owned(), json!([owner]));
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": template["spec"]})
}

/// `Mon, 02 Jan 2006 15:04:05 +0000`.
fn rfc1123(seconds: i64) -> String {
    let moment = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    moment.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_made_from_the_template() {
        let cron: CronJobView =
            serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}})).unwrap();
        let template =
            json!({"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": {"backoffLimit": 1}});
        let job = job(&cron, &template, "c-1", "1970-01-01T00:01:00Z");
        assert_eq!(job["metadata"]["annotations"], json!({"c": "d", SCHEDULED: "1970-01-01T00:01:00Z"}));
        assert_eq!(job["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(job["spec"], json!({"backoffLimit": 1}));
        assert_eq!(rfc1123(0), "Thu, 01 Jan 1970 00:00:00 +0000");
    }

    #[test]
    fn missed_times_are_counted() {
        let plan = |text: &str| Plan { schedule: Schedule::parse(text).unwrap(), zone: Zone::UTC };
        assert!(plan("* * * * *").has_missed_many(0, 101 * 60));
        assert!(!plan("* * * * *").has_missed_many(0, 100 * 60));
        assert_eq!(plan("0 * * * *").next(0, 3000), Next::After(Duration::from_secs(600)));
        assert_eq!(plan("@every 1h").next(600, 5000), Next::After(Duration::from_secs(2800)));
    }
}
