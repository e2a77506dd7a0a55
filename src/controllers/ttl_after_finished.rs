//! Deletes Jobs some time after they have finished, if they say so.

use crate::Context;
use crate::metrics::TTL_DELAYS;
use crate::objects::{now, seconds};
use naru_api::registry;
use naru_client::projections::JobView;
use naru_client::{DeleteOptions, Error, Informer, Next, ObjectKey, Propagation, WorkQueue, is_not_found};
use std::time::Duration;

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let (jobs, _) = context.informers.jobs_by_controller();
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let adder = queue.clone();
    jobs.subscribe(move |change| {
        if change.new.as_ref().is_some_and(|job| expires(job).is_some()) {
            adder.add(change.key.clone());
        }
    });
    let (informer, context_of_runs) = (jobs.clone(), context.clone());
    context.run(&queue, 1, async move { jobs.synced().await }, move |key| {
        let (jobs, context) = (informer.clone(), context_of_runs.clone());
        async move { reconcile(&context, &jobs, &key).await }
    });
}

/// When a finished Job is to go, in seconds since the epoch.
fn expires(job: &JobView) -> Option<i64> {
    let kept = job.spec.ttl_seconds_after_finished?;
    let end = job.end().filter(|_| !job.metadata.is_deleting())?;
    Some(seconds(&end.last_transition_time) + i64::from(kept))
}

async fn reconcile(context: &Context, jobs: &Informer<JobView>, key: &ObjectKey) -> Result<Next, Error> {
    let Some(expiry) = jobs.get_key(key).and_then(|job| expires(&job)) else { return Ok(Next::Done) };
    let left = expiry - now();
    if left > 0 {
        return Ok(Next::After(Duration::from_secs(u64::try_from(left).unwrap_or_default())));
    }
    // It may have been given more time, which the cache does not show yet.
    let job: Result<JobView, Error> = context.client.get(&registry::JOBS, key.namespace(), &key.name).await;
    let job = match job {
        Err(error) if is_not_found(&error) => return Ok(Next::Done),
        other => other?,
    };
    if expires(&job).is_none_or(|expiry| expiry > now()) {
        return Ok(Next::Done);
    }
    let mut options = DeleteOptions::default().uid(&job.metadata.uid).propagation(Propagation::Foreground);
    options.preconditions.get_or_insert_default().resource_version = Some(job.metadata.resource_version.clone());
    match context.client.delete(&registry::JOBS, key.namespace(), &key.name, &options).await {
        // Somebody changed it, which brings it back here.
        Err(error) if is_not_found(&error) => Ok(Next::Done),
        Err(error) => Err(error),
        Ok(()) => {
            let late = u64::try_from(now() - expires(&job).unwrap_or_default()).unwrap_or_default();
            context.config.metrics.observe(&TTL_DELAYS, &[], Duration::from_secs(late));
            Ok(Next::Done)
        }
    }
}
