//! Pods that still carry the finalizer of a Job that is gone, or that has let them go.

use super::count::is_tracked;
use super::{Jobs, is_ours, selects};
use crate::job::track::is_owner;
use naru_api::registry;
use naru_client::projections::{JobView, PodView};
use naru_client::{Error, Next, ObjectKey, is_not_found};

impl Jobs {
    /// Whether the cache knows the Job that counts the pod.
    pub(super) fn has_job(&self, pod: &PodView) -> bool {
        let owner = pod.metadata.controller().filter(|owner| owner.kind == registry::JOBS.kind);
        let Some(owner) = owner else {
            // One that selects it will adopt it.
            let jobs = self.jobs.by_namespace(&pod.metadata.namespace);
            return jobs.iter().any(|job| selects(job, pod) && !job.metadata.is_deleting() && job.end().is_none());
        };
        let job = self.jobs.get_key(&ObjectKey::new(&pod.metadata.namespace, &owner.name));
        job.is_some_and(|job| is_owner(&pod.metadata, &job.metadata.uid) && (job.end().is_none() || !is_ours(&job)))
    }

    /// Takes the finalizer off a pod that nobody will count.
    pub(super) async fn release_orphan(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(pod) = self.pods.get_key(key).filter(|pod| is_tracked(pod) && !self.has_job(pod)) else {
            return Ok(Next::Done);
        };
        // The cache of Jobs may be behind that of pods.
        if let Some(owner) = pod.metadata.controller().filter(|owner| owner.kind == registry::JOBS.kind) {
            let job: Result<JobView, Error> =
                self.context.client.get(&registry::JOBS, key.namespace(), &owner.name).await;
            match job {
                Ok(job) if is_owner(&pod.metadata, &job.metadata.uid) && job.end().is_none() => return Ok(Next::Done),
                Err(error) if !is_not_found(&error) => return Err(error),
                _ => {}
            }
        }
        self.release(&pod).await?;
        Ok(Next::Done)
    }
}
