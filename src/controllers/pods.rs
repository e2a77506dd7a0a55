//! What the controllers of pods share: pods made from templates, created and deleted in batches with
//! events, and when they count.

use crate::expectations::Expectations;
use crate::objects::seconds;
use crate::{Context, ownership};
use naru_api::meta::generated_name;
use naru_api::registry::{self, Resource};
use naru_client::projections::{Meta, PodView, condition};
use naru_client::{
    Change, Client, DeleteOptions, Error, EventRecorder, ListParams, ObjectKey, ObjectReference, WorkQueue,
    is_already_exists, is_not_found,
};
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Pods created or deleted in one run.
pub(crate) const BURST: usize = 500;
/// How often it is asked whether a pod was created, and the time between.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// Creates and deletes the pods of all owners of one kind, and knows what the caches do not show yet.
#[derive(Debug)]
pub(crate) struct PodControl {
    client: Client,
    pub(crate) recorder: EventRecorder,
    kind: &'static Resource,
    pub(crate) expectations: Expectations,
}

impl PodControl {
    /// Events come from `component`.
    pub(crate) fn new(context: &Context, kind: &'static Resource, component: &str) -> Self {
        Self {
            client: context.client.clone(),
            recorder: context.recorder(component),
            kind,
            expectations: Expectations::default(),
        }
    }

    fn owner_key(&self, pod: &Meta) -> Option<ObjectKey> {
        let owner = pod.controller().filter(|owner| owner.kind == self.kind.kind)?;
        Some(ObjectKey::new(&pod.namespace, &owner.name))
    }

    /// Takes note of a pod's change and queues its owners. Hands back a pod that has no owner.
    pub(crate) fn observe<'a>(
        &self,
        change: &'a Change<PodView>,
        queue: &WorkQueue<ObjectKey>,
    ) -> Option<&'a Arc<PodView>> {
        let owner = |pod: &Arc<PodView>| self.owner_key(&pod.metadata);
        if let Some(old) = &change.old
            && let Some(owner) = owner(old)
        {
            let uid = &old.metadata.uid;
            let replaced = change.new.as_ref().is_none_or(|new| new.metadata.uid != *uid);
            if replaced || change.latest().metadata.is_deleting() {
                self.expectations.saw_deleted(&owner, uid);
            }
            queue.add(owner);
        }
        if let Some(owner) = change.new.as_ref().and_then(owner) {
            self.expectations.saw_created(&owner, &change.key.name);
            queue.add(owner);
        }
        change.new.as_ref().filter(|pod| pod.metadata.controller().is_none())
    }

    /// Creates pods in growing batches, so that an error that hits all of them is not made 500 times.
    pub(crate) async fn create(&self, owner: &Meta, pods: Vec<Value>) -> Result<(), Error> {
        let (mut pods, mut batch) = (pods.into_iter(), 1);
        loop {
            let now: Vec<_> = pods.by_ref().take(batch).map(|pod| self.create_one(owner, pod)).collect();
            if now.is_empty() {
                return Ok(());
            }
            futures::future::join_all(now).await.into_iter().collect::<Result<Vec<()>, _>>()?;
            batch *= 2;
        }
    }

    async fn create_one(&self, owner: &Meta, mut pod: Value) -> Result<(), Error> {
        let key = owner.key();
        let base = pod["metadata"]["generateName"].as_str().unwrap_or_default();
        let name = generated_name(base, rand::random());
        pod["metadata"]["name"] = name.as_str().into();
        self.expectations.expect_created(&key, &name);
        let created = self.client.create::<IgnoredAny>(&registry::PODS, key.namespace(), &pod).await.map(drop);
        let created = match created {
            Err(error) if is_open(&error) => self.find_out(&key, &name, error).await,
            other => other,
        };
        let about = ObjectReference::of(self.kind, owner);
        match created {
            Ok(()) => {
                self.recorder.normal(&about, "SuccessfulCreate", format!("Created pod: {name}"));
                Ok(())
            }
            Err(error) => {
                self.expectations.saw_created(&key, &name);
                if is_namespace_terminating(&error) {
                    // All later ones would fail as well, and nobody wants them.
                    return Ok(());
                }
                if !is_already_exists(&error) {
                    self.recorder.warning(&about, "FailedCreate", format!("Error creating: {error}"));
                }
                Err(error)
            }
        }
    }

    /// Whether a pod whose creation was not answered is there. While that cannot be told it is expected
    /// to show up: a second one in its place would be one too many.
    async fn find_out(&self, owner: &ObjectKey, name: &str, unanswered: Error) -> Result<(), Error> {
        let params = ListParams::namespace(&owner.namespace).fields(format!("metadata.name={name}"));
        for _ in 0..ATTEMPTS {
            match self.client.list::<Value>(&registry::PODS, &params).await {
                Ok(found) if found.items.is_empty() => return Err(unanswered),
                Ok(_) => return Ok(()),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        Ok(())
    }

    pub(crate) async fn delete(&self, owner: &Meta, pods: &[Arc<PodView>]) -> Result<(), Error> {
        let deleted = pods.iter().map(|pod| self.delete_one(owner, &pod.metadata));
        futures::future::join_all(deleted).await.into_iter().collect()
    }

    async fn delete_one(&self, owner: &Meta, pod: &Meta) -> Result<(), Error> {
        let key = owner.key();
        self.expectations.expect_deleted(&key, &pod.uid);
        let options = DeleteOptions::default().uid(&pod.uid);
        let deleted = self.client.delete(&registry::PODS, pod.namespace(), &pod.name, &options).await;
        let about = ObjectReference::of(self.kind, owner);
        match deleted {
            Ok(()) => {
                self.recorder.normal(&about, "SuccessfulDelete", format!("Deleted pod: {}", pod.name));
                Ok(())
            }
            Err(error) => {
                self.expectations.saw_deleted(&key, &pod.uid);
                if is_not_found(&error) {
                    return Ok(());
                }
                self.recorder.warning(&about, "FailedDelete", format!("Error deleting: {error}"));
                Err(error)
            }
        }
    }
}

/// Whether a request may have been carried out although it failed.
fn is_open(error: &Error) -> bool {
    !matches!(error, Error::Status(status) if status.code < 500)
}

/// Whether something was not created because its namespace is going.
pub(crate) fn is_namespace_terminating(error: &Error) -> bool {
    let Error::Status(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// A pod from an owner's template, but for its name.
pub(crate) fn from_template(kind: &Resource, owner: &Meta, template: &Value) -> Value {
    let mut meta = Map::new();
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{field}")).filter(|value| !value.is_null()) {
            meta.insert(field.to_owned(), value.clone());
        }
    }
    meta.insert("generateName".to_owned(), format!("{}-", owner.name).into());
    meta.insert("namespace".to_owned(), owner.namespace.as_str().into());
    let owner = ownership::controller_reference(kind, owner);
    meta.insert("ownerReferences".to_owned(), json!([owner]));
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})
}

/// Seconds until a ready pod counts as available; none are left at 0.
pub(crate) fn until_available(pod: &PodView, min_ready_seconds: i32, now: i64) -> i64 {
    if min_ready_seconds == 0 {
        return 0;
    }
    let ready = condition(&pod.status.conditions, "Ready");
    ready.map_or(0, |ready| seconds(&ready.last_transition_time)) + i64::from(min_ready_seconds) - now
}

/// Whether a pod has been ready for long enough.
pub(crate) fn is_available(pod: &PodView, min_ready_seconds: i32, now: i64) -> bool {
    pod.is_ready() && until_available(pod, min_ready_seconds, now) <= 0
}
