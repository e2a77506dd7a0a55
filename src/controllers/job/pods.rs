//! A Job's pods, made and unmade.

use super::Jobs;
use super::count::{Count, FAILURES, FINALIZER, IGNORED, INDEX, failures_before, replaces_failed_only};
use super::policy::{self, Verdict};
use crate::metrics::JOB_PODS_CREATED;
use crate::objects::now;
use crate::pods::{BURST, from_template};
use naru_api::meta::MAX_GENERATED_BASE;
use naru_api::registry;
use naru_client::projections::{JobView, PodView};
use naru_client::{Error, PatchKind, is_not_found};
use serde_json::{Value, json};
use std::sync::Arc;

impl Jobs {
    /// Brings the number of active pods nearer to what it should be. Tells how many there are then, and
    /// the seconds until more may be made.
    pub(super) async fn manage(&self, count: &mut Count<'_>) -> (usize, Option<i64>, Result<(), Error>) {
        let active = count.active.len();
        let wanted = if count.job.spec.suspend { 0 } else { count.wanted() };
        let mut surplus = if count.job.spec.suspend { Vec::new() } else { count.superfluous() };
        let at_least = active.saturating_sub(wanted);
        if surplus.len() < at_least {
            let mut others: Vec<_> = count.active.iter().filter(|pod| !surplus.contains(pod)).cloned().collect();
            others.sort_by_key(|pod| rank(pod));
            others.truncate(at_least - surplus.len());
            surplus.extend(others);
        }
        surplus.truncate(BURST);
        if !surplus.is_empty() {
            let removed = self.remove(count.job, &surplus).await;
            if removed.is_ok() {
                count.terminating += super::count::number(surplus.len());
                count.ready -= super::count::number(surplus.iter().filter(|pod| pod.is_ready()).count());
            }
            return (active - if removed.is_ok() { surplus.len() } else { 0 }, None, removed);
        }
        let occupied = match replaces_failed_only(count.job) {
            true => active + usize::try_from(count.terminating).unwrap_or_default(),
            false => active,
        };
        let missing = wanted.saturating_sub(occupied).min(BURST);
        if missing == 0 || count.job.spec.suspend {
            return (active, None, Ok(()));
        }
        match self.places(count, missing) {
            Err(wait) => (active, Some(wait), Ok(())),
            Ok(indexes) => {
                let made = self.create(count, &indexes).await;
                (active + if made.is_ok() { indexes.len() } else { 0 }, None, made)
            }
        }
    }

    /// What is to be made: an index, or none, for each pod. Or the seconds until something may be.
    fn places(&self, count: &Count<'_>, missing: usize) -> Result<Vec<Option<i64>>, i64> {
        let time = now();
        let per_index = count.job.spec.backoff_limit_per_index.is_some();
        let wait = if per_index { 0 } else { count.backoff.wait(time) };
        if wait > 0 {
            return Err(wait);
        }
        match count.is_indexed() {
            true => Ok(count.pending(missing, time)?.into_iter().map(Some).collect()),
            false => Ok(vec![None; missing]),
        }
    }

    async fn create(&self, count: &Count<'_>, indexes: &[Option<i64>]) -> Result<(), Error> {
        let meta = &count.job.metadata;
        let full: Value = self.context.client.get(&registry::JOBS, meta.namespace(), &meta.name).await?;
        let template = &full["spec"]["template"];
        let pods = indexes.iter().map(|index| pod(count, template, *index)).collect();
        let made = self.control.create(meta, pods).await;
        let again = count.terminating > 0 || count.job.status.failed > 0;
        let reason = match (again, replaces_failed_only(count.job)) {
            (false, _) => "new",
            (true, true) => "recreate_failed",
            (true, false) => "recreate_terminating_or_failed",
        };
        let status = if made.is_ok() { "succeeded" } else { "failed" };
        self.context.config.metrics.count(&JOB_PODS_CREATED, &[reason, status], indexes.len());
        made
    }

    /// Deletes pods that are not needed, which do not count.
    async fn remove(&self, job: &JobView, pods: &[Arc<PodView>]) -> Result<(), Error> {
        let releases = pods.iter().map(|pod| self.release(pod));
        futures::future::join_all(releases).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        self.control.delete(&job.metadata, pods).await
    }

    /// Takes the finalizer off a pod.
    pub(super) async fn release(&self, pod: &PodView) -> Result<(), Error> {
        let meta = &pod.metadata;
        if !super::count::is_tracked(pod) {
            return Ok(());
        }
        self.memory().released.insert(meta.uid.clone());
        let patch = json!({"metadata": {"uid": meta.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        let (client, kind) = (&self.context.client, PatchKind::Strategic);
        let patched = client.patch::<Value>(&registry::PODS, meta.namespace(), &meta.name, None, kind, &patch).await;
        match patched {
            Ok(_) => {}
            Err(error) if is_not_found(&error) => {}
            // A conflict, too: it may be another pod by now, or the same one that others write to.
            Err(error) => {
                self.memory().released.remove(&meta.uid);
                return Err(error);
            }
        }
        // The cache may have shown it already, and will not again.
        let shown = self
            .pods
            .get_key(&meta.key())
            .is_none_or(|now| now.metadata.uid != meta.uid || !super::count::is_tracked(&now));
        if shown {
            self.memory().released.remove(&meta.uid);
        }
        Ok(())
    }
}

/// Smaller goes first: unassigned, pending, not ready, new.
fn rank(pod: &PodView) -> impl Ord + use<> {
    let running = pod.status.phase == "Running";
    let born = std::cmp::Reverse(pod.metadata.creation_timestamp.clone());
    (!pod.spec.node_name.is_empty(), running, pod.is_ready(), born, pod.metadata.uid.clone())
}

fn pod(count: &Count<'_>, template: &Value, index: Option<i64>) -> Value {
    let job = count.job;
    let mut pod = from_template(&registry::JOBS, &job.metadata, template);
    let metadata = &mut pod["metadata"];
    let mut finalizers = metadata["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    metadata["finalizers"] = finalizers.into();
    let Some(index) = index else { return pod };
    let text = index.to_string();
    metadata["labels"][INDEX] = text.as_str().into();
    metadata["annotations"][INDEX] = text.as_str().into();
    if job.spec.backoff_limit_per_index.is_some() {
        let (counted, ignored) = failures(job, count.delayed.get(&index).map(|pod| &**pod));
        metadata["annotations"][FAILURES] = counted.to_string().into();
        if ignored > 0 {
            metadata["annotations"][IGNORED] = ignored.to_string().into();
        }
    }
    let name = &job.metadata.name;
    let suffix = format!("-{index}-");
    let kept = name.len().min(MAX_GENERATED_BASE - suffix.len());
    metadata["generateName"] = format!("{}{suffix}", &name[..kept]).into();
    pod["spec"]["hostname"] = format!("{name}-{index}").into();
    for kind in ["initContainers", "containers"] {
        for container in pod["spec"][kind].as_array_mut().into_iter().flatten() {
            tell_index(container);
        }
    }
    pod
}

/// Failures at an index that count, and that do not, once this pod has failed, too.
fn failures(job: &JobView, failed: Option<&PodView>) -> (i64, i64) {
    let Some(failed) = failed else { return (0, 0) };
    let (counted, ignored) = failures_before(failed);
    match policy::verdict(job, failed) {
        Verdict::Ignore => (counted, ignored + 1),
        _ => (counted + 1, ignored),
    }
}

/// The variable by which a program knows its index.
fn tell_index(container: &mut Value) {
    const VARIABLE: &str = "JOB_COMPLETION_INDEX";
    let env = &mut container["env"];
    if !env.is_array() {
        *env = json!([]);
    }
    let Some(env) = env.as_array_mut() else { return };
    if !env.iter().any(|variable| variable["name"] == VARIABLE) {
        let path = format!("metadata.labels['{INDEX}']");
        env.push(json!({"name": VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    }
}
