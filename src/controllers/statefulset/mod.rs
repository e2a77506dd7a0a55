//! StatefulSets: pods with names, order and claims of their own.

mod claims;
mod plan;
mod status;

use crate::objects::{self, now};
use crate::ownership::Claimant;
use crate::revisions::{self, History};
use crate::{Context, pods};
use naru_api::registry;
use naru_client::projections::{ClaimView, Meta, PodView, RevisionView, StatefulSetView};
use naru_client::{
    Change, DeleteOptions, Error, EventRecorder, IndexId, Informer, ListParams, Next, ObjectKey, ObjectReference,
    PatchKind, WorkQueue, is_already_exists, is_not_found,
};
use plan::{Revisions, Step};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 4;
/// Label of a revision: its hash.
const HASH: &str = "controller.kubernetes.io/hash";
/// Label of a pod: the name of its revision.
const REVISION: &str = "controller-revision-hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Api(#[from] Error),
    #[error("failed to create PVC {claim}: {source}")]
    Claim { claim: String, source: Error },
    #[error("pvc {0} is being deleted")]
    ClaimIsDeleting(String),
}

struct StatefulSets {
    context: Context,
    recorder: EventRecorder,
    sets: Informer<StatefulSetView>,
    pods: Informer<PodView>,
    pods_by_controller: IndexId,
    claims: Informer<ClaimView>,
    history: History,
    queue: WorkQueue<ObjectKey>,
}

pub(crate) fn start(context: &Context) {
    let informers = &context.informers;
    let (pods, pods_by_controller) = informers.pods_by_controller();
    let sets: Informer<StatefulSetView> = informers.start(&registry::STATEFUL_SETS, ListParams::all());
    let claims: Informer<ClaimView> = informers.start(&registry::PERSISTENT_VOLUME_CLAIMS, ListParams::all());
    let history = History::new(&context.client, informers, &registry::STATEFUL_SETS, HASH);
    let controller = Arc::new(StatefulSets {
        context: context.clone(),
        recorder: context.recorder("statefulset-controller"),
        sets: sets.clone(),
        pods: pods.clone(),
        pods_by_controller,
        claims: claims.clone(),
        history: history.clone(),
        queue: WorkQueue::new(),
    });
    history.wake(&controller.queue);
    let queue = controller.queue.clone();
    sets.subscribe(move |change| queue.add(change.key.clone()));
    let taker = controller.clone();
    pods.subscribe(move |change| taker.pod_changed(change));
    let taker = controller.clone();
    claims.subscribe(move |change| taker.claim_changed(change));
    let synced = async move {
        sets.synced().await;
        pods.synced().await;
        claims.synced().await;
        history.synced().await;
    };
    let queue = controller.queue.clone();
    context.run(&queue, WORKERS, synced, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl StatefulSets {
    fn pod_changed(&self, change: &Change<PodView>) {
        for pod in [&change.old, &change.new].into_iter().flatten() {
            let meta = &pod.metadata;
            match meta.controller() {
                Some(owner) if owner.kind == registry::STATEFUL_SETS.kind => {
                    self.queue.add(ObjectKey::new(&meta.namespace, &owner.name));
                }
                Some(_) => {}
                None => {
                    let sets = self.sets.by_namespace(&meta.namespace);
                    for set in sets.iter().filter(|set| is_member(set, meta)) {
                        self.queue.add(set.metadata.key());
                    }
                }
            }
        }
    }

    /// A pod may wait for a claim of its name to go.
    fn claim_changed(&self, change: &Change<ClaimView>) {
        if change.old.is_none() || change.new.is_some() {
            return;
        }
        for set in self.sets.by_namespace(&change.key.namespace) {
            if claims::may_be_of(&set, &change.key.name) {
                self.queue.add(set.metadata.key());
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Fault> {
        let Some(set) = self.sets.get_key(key) else { return Ok(Next::Done) };
        let pods = self.claim(&set).await?;
        let history = self.history.of(&set.metadata, &set.spec.selector).await?;
        let Some(revisions) = self.revisions(&set, &history).await? else { return Ok(Next::Done) };
        let now = now();
        let acted = if set.metadata.is_deleting() {
            Ok(())
        } else {
            self.act(&set, &revisions, &plan::plan(&set, &revisions, &pods, now)).await
        };
        let (status, wait) = status::observe(&set, &revisions, &pods, now);
        if status != set.status {
            let client = &self.context.client;
            match objects::write_status(client, &registry::STATEFUL_SETS, &set.metadata, &status).await {
                Err(error) if is_not_found(&error) => {}
                other => other?,
            }
        }
        acted?;
        let in_use = |revision: &RevisionView| {
            let name = &revision.metadata.name;
            [&revisions.current, &revisions.update].iter().any(|used| used.metadata.name == *name)
                || pods.iter().any(|pod| pod.metadata.labels.get(REVISION) == Some(name))
        };
        let unused = history.iter().filter(|revision| !in_use(revision)).count();
        let surplus = revisions::surplus(unused, set.spec.revision_history_limit);
        self.history.trim(&history, surplus, in_use).await?;
        Ok(wait.map_or(Next::Done, |seconds| Next::After(Duration::from_secs(seconds))))
    }

    async fn claim(&self, set: &StatefulSetView) -> Result<Vec<Arc<PodView>>, Error> {
        let claimant = Claimant {
            client: &self.context.client,
            resource: &registry::PODS,
            cache: &self.pods,
            by_controller: self.pods_by_controller,
            meta: |pod| &pod.metadata,
            kind: &registry::STATEFUL_SETS,
            owner: &set.metadata,
        };
        claimant.claim(|pod| is_member(set, &pod.metadata), |_| true).await
    }

    /// Where the set comes from and where it goes.
    async fn revisions(
        &self,
        set: &StatefulSetView,
        history: &[Arc<RevisionView>],
    ) -> Result<Option<Revisions>, Error> {
        let mut collisions = set.status.collision_count.unwrap_or_default();
        let update = self.history.newest(&set.metadata, &set.spec.template, history, &mut collisions).await?;
        let Some(update) = update else { return Ok(None) };
        let current = history.iter().find(|known| known.metadata.name == set.status.current_revision);
        Ok(Some(Revisions { current: current.unwrap_or(&update).clone(), update, collisions }))
    }

    /// Works the stages off; what fails keeps the later ones from being begun. Within a stage, steps
    /// run in growing batches, so that an error that hits all of them is not made 500 times.
    async fn act(&self, set: &StatefulSetView, revisions: &Revisions, stages: &[Vec<Step>]) -> Result<(), Fault> {
        for stage in stages {
            let (mut rest, mut batch) = (stage.as_slice(), 1);
            while !rest.is_empty() {
                let (now, later) = rest.split_at(batch.min(rest.len()));
                let done = futures::future::join_all(now.iter().map(|step| self.take(set, revisions, step))).await;
                done.into_iter().collect::<Result<Vec<()>, _>>()?;
                (rest, batch) = (later, batch * 2);
            }
        }
        Ok(())
    }

    async fn take(&self, set: &StatefulSetView, revisions: &Revisions, step: &Step) -> Result<(), Fault> {
        match step {
            Step::Create { ordinal, current } => {
                let revision = if *current { &revisions.current } else { &revisions.update };
                self.create(set, revision, *ordinal).await
            }
            Step::Delete(pod) => {
                self.tell_recreation(set, pod);
                self.delete(set, &pod.metadata).await
            }
            Step::Keep(pod) => self.keep(set, pod).await,
            Step::Release(pod) => self.own_claims(set, &pod.metadata, false).await,
        }
    }

    async fn create(&self, set: &StatefulSetView, revision: &RevisionView, ordinal: i32) -> Result<(), Fault> {
        let key = set.metadata.key();
        let name = format!("{}-{ordinal}", key.name);
        if self.has_stale_claim(set, ordinal) {
            // The garbage collector is about to take it; its end brings another run.
            return Ok(());
        }
        let made = async {
            self.make_claims(set, ordinal).await?;
            let template = self.history.template(&revision.metadata).await?;
            let pod = pod(set, &template, &revision.metadata.name, ordinal);
            self.context.client.create::<Value>(&registry::PODS, key.namespace(), &pod).await?;
            Ok(())
        };
        let made = made.await;
        match &made {
            Err(Fault::Api(error)) if is_already_exists(error) => {}
            outcome => self.tell_pod(set, &name, ["create", "Create"], outcome),
        }
        made
    }

    async fn delete(&self, set: &StatefulSetView, pod: &Meta) -> Result<(), Fault> {
        let options = DeleteOptions::default().uid(&pod.uid);
        let deleted = self.context.client.delete(&registry::PODS, pod.namespace(), &pod.name, &options).await;
        let deleted = match deleted {
            Err(error) if is_not_found(&error) => return Ok(()),
            other => other.map_err(Fault::from),
        };
        self.tell_pod(set, &pod.name, ["delete", "Delete"], &deleted);
        deleted
    }

    /// Claims that are missing are made while the pod waits for them; claims' owners and the labels that
    /// stand for the pod's identity are put right.
    async fn keep(&self, set: &StatefulSetView, pod: &PodView) -> Result<(), Fault> {
        let meta = &pod.metadata;
        if pod.status.phase == "Pending"
            && let Some(ordinal) = plan::ordinal(set, &meta.name)
        {
            self.make_claims(set, ordinal).await?;
        }
        self.own_claims(set, meta, true).await?;
        let ordinal = plan::ordinal(set, &meta.name).map(|ordinal| ordinal.to_string());
        if meta.labels.get(POD_NAME) == Some(&meta.name) && meta.labels.get(POD_INDEX) == ordinal.as_ref() {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": meta.uid, "labels": {POD_NAME: meta.name, POD_INDEX: ordinal}}});
        let (client, kind) = (&self.context.client, PatchKind::Strategic);
        let patched = client.patch::<Value>(&registry::PODS, meta.namespace(), &meta.name, None, kind, &patch).await;
        let patched = patched.map(drop).map_err(Fault::from);
        self.tell_pod(set, &meta.name, ["update", "Update"], &patched);
        patched
    }

    /// A pod that has ended makes room for another of its name.
    fn tell_recreation(&self, set: &StatefulSetView, pod: &PodView) {
        if !pod.is_finished() || !plan::wants(set, &pod.metadata.name) {
            return;
        }
        let about = ObjectReference::of(&registry::STATEFUL_SETS, &set.metadata);
        let (namespace, name, pod_name) = (&set.metadata.namespace, &set.metadata.name, &pod.metadata.name);
        let what = |how: &str| format!("StatefulSet {namespace}/{name} is recreating {how} Pod {pod_name}");
        if pod.status.phase == "Failed" {
            self.recorder.warning(&about, "RecreatingFailedPod", what("failed"));
        } else {
            self.recorder.normal(&about, "RecreatingTerminatedPod", what("terminated"));
        }
    }

    fn tell_pod(&self, set: &StatefulSetView, pod: &str, [verb, reason]: [&str; 2], outcome: &Result<(), Fault>) {
        let about = ObjectReference::of(&registry::STATEFUL_SETS, &set.metadata);
        let what = format!("{verb} Pod {pod} in StatefulSet {}", set.metadata.name);
        match outcome {
            Ok(()) => self.recorder.normal(&about, &format!("Successful{reason}"), format!("{what} successful")),
            Err(error) => {
                self.recorder.warning(&about, &format!("Failed{reason}"), format!("{what} failed error: {error}"));
            }
        }
    }
}

/// Whether a pod is one of the set's by its labels and its name.
fn is_member(set: &StatefulSetView, pod: &Meta) -> bool {
    !set.spec.selector.is_empty() && set.spec.selector.matches(&pod.labels) && plan::ordinal(set, &pod.name).is_some()
}

/// The set's pod of that number.
fn pod(set: &StatefulSetView, template: &Value, revision: &str, ordinal: i32) -> Value {
    let name = format!("{}-{ordinal}", set.metadata.name);
    let mut pod = pods::from_template(&registry::STATEFUL_SETS, &set.metadata, template);
    pod["metadata"]["name"] = name.as_str().into();
    let labels = &mut pod["metadata"]["labels"];
    labels[REVISION] = revision.into();
    labels[POD_NAME] = name.as_str().into();
    labels[POD_INDEX] = ordinal.to_string().into();
    let spec = &mut pod["spec"];
    spec["hostname"] = name.into();
    if !set.spec.service_name.is_empty() {
        spec["subdomain"] = set.spec.service_name.as_str().into();
    }
    let claims: Vec<_> = claims::names(set, ordinal).collect();
    if !claims.is_empty() {
        let mut volumes: Vec<Value> = claims
            .iter()
            .map(|(volume, claim)| json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}}))
            .collect();
        let others = spec["volumes"].as_array().into_iter().flatten();
        volumes.extend(others.filter(|other| !claims.iter().any(|(volume, _)| other["name"] == *volume)).cloned());
        spec["volumes"] = volumes.into();
    }
    pod
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_the_identity_of_its_number() {
        let set: StatefulSetView = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"serviceName": "nginx", "volumeClaimTemplates": [{"metadata": {"name": "data"}}]},
        }))
        .unwrap();
        let template = json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]},
        });
        let pod = pod(&set, &template, "web-abc", 7);
        assert_eq!(
            pod["metadata"]["labels"],
            json!({"app": "web", REVISION: "web-abc", POD_NAME: "web-7", POD_INDEX: "7"})
        );
        assert_eq!((&pod["metadata"]["name"], &pod["metadata"]["generateName"]), (&json!("web-7"), &json!("web-")));
        assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("web-7"), &json!("nginx")));
        assert_eq!(
            pod["spec"]["volumes"],
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-7"}},
                {"name": "tmp", "emptyDir": {}}])
        );
        assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "StatefulSet");
    }
}
