//! EndpointSlices: the endpoints of Services with a selector.

pub(crate) mod desired;
mod diff;
pub(crate) mod trigger_time;

use crate::expectations::Expectations;
use crate::metrics::{SLICE_CHANGES, SLICE_SYNCS};
use crate::pods::is_namespace_terminating;
use crate::{Context, ownership};
use desired::Family;
use diff::Content;
use naru_api::meta::generated_name;
use naru_api::registry;
use naru_client::projections::{EndpointSliceView, NodeView, PodView, ServiceView};
use naru_client::{
    Change, DeleteOptions, Error, EventRecorder, Informer, Next, ObjectKey, ObjectReference, WorkQueue, is_conflict,
    is_not_found,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use trigger_time::TriggerTimes;

const WORKERS: usize = 4;
const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Marks headless Services' slices and Endpoints.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

struct EndpointSlices {
    context: Context,
    recorder: EventRecorder,
    services: Informer<ServiceView>,
    slices: Informer<EndpointSliceView>,
    slices_by_service: naru_client::IndexId,
    pods: Informer<PodView>,
    nodes: Informer<NodeView>,
    expectations: Expectations,
    triggers: TriggerTimes,
    queue: WorkQueue<ObjectKey>,
}

pub(crate) fn start(context: &Context) {
    let (services, pods) = (context.informers.services(), context.informers.pods());
    let (slices, nodes) = (context.informers.endpoint_slices(), context.informers.nodes());
    let slices_by_service = slices.index(|slice| service_key(slice).map(|key| key.to_string()).into_iter().collect());
    let controller = Arc::new(EndpointSlices {
        context: context.clone(),
        recorder: context.recorder("endpoint-slice-controller"),
        services: services.clone(),
        slices: slices.clone(),
        slices_by_service,
        pods: pods.clone(),
        nodes: nodes.clone(),
        expectations: Expectations::default(),
        triggers: TriggerTimes::default(),
        queue: WorkQueue::new(),
    });
    let queue = controller.queue.clone();
    services.subscribe(move |change| queue.add(change.key.clone()));
    let taker = controller.clone();
    slices.subscribe(move |change| taker.slice_changed(change));
    let (queue, all) = (controller.queue.clone(), services.clone());
    pods.subscribe(move |change| queue_services(&queue, &all, change));
    let taker = controller.clone();
    nodes.subscribe(move |change| taker.node_changed(change));
    let synced = async move {
        services.synced().await;
        slices.synced().await;
        pods.synced().await;
        nodes.synced().await;
    };
    let queue = controller.queue.clone();
    context.run(&queue, WORKERS, synced, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

/// Queues the Services whose endpoints a pod's change can change.
pub(crate) fn queue_services(queue: &WorkQueue<ObjectKey>, services: &Informer<ServiceView>, change: &Change<PodView>) {
    if let (Some(old), Some(new)) = (&change.old, &change.new)
        && desired::is_same(old, new)
    {
        return;
    }
    for service in services.by_namespace(&change.key.namespace) {
        let selected = [&change.old, &change.new].into_iter().flatten();
        if selected.into_iter().any(|pod| desired::selects(&service, &pod.metadata.labels)) {
            queue.add(service.metadata.key());
        }
    }
}

impl EndpointSlices {
    fn slice_changed(&self, change: &Change<EndpointSliceView>) {
        let Some(service) = service_key(change.latest()) else { return };
        if change.new.is_some() {
            self.expectations.saw_created(&service, &change.key.name);
        } else {
            self.expectations.saw_deleted(&service, &change.latest().metadata.uid);
        }
        self.queue.add(service);
    }

    /// Only a node's zone matters here.
    fn node_changed(&self, change: &Change<NodeView>) {
        let zone =
            |node: &Option<Arc<NodeView>>| node.as_ref().and_then(|node| node.metadata.labels.get(ZONE).cloned());
        if zone(&change.old) != zone(&change.new) {
            for key in self.services.keys() {
                self.queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(service) = self.services.get_key(key) else {
            // The slices go with their owner.
            self.expectations.forget(key);
            self.triggers.forget(key);
            return Ok(Next::Done);
        };
        if !desired::is_ours(&service) || service.metadata.is_deleting() || !self.expectations.are_met(key) {
            return Ok(Next::Done);
        }
        let written = self.write(key, &service).await;
        let metrics = &self.context.config.metrics;
        metrics.count(&SLICE_SYNCS, &[if written.is_ok() { "success" } else { "error" }], 1);
        match written {
            Err(error) if is_namespace_terminating(&error) => {}
            Err(error) => {
                // One that somebody else has changed meanwhile is looked at again, as one that the cache is behind of.
                if !is_conflict(&error) {
                    let about = ObjectReference::of(&registry::SERVICES, &service.metadata);
                    let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
                    self.recorder.warning(&about, "FailedToUpdateEndpointSlices", message);
                }
                return Err(error);
            }
            Ok(()) => {}
        }
        Ok(Next::Done)
    }

    /// Makes the slices of a Service what they should be.
    async fn write(&self, key: &ObjectKey, service: &ServiceView) -> Result<(), Error> {
        let mut pods = self.pods.by_namespace(&key.namespace);
        pods.retain(|pod| desired::selects(service, &pod.metadata.labels));
        let trigger = self.triggers.next(service, &pods);
        let mut present = self.slices.indexed(self.slices_by_service, &key.to_string());
        present.retain(|slice| !slice.metadata.is_deleting());
        present.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let zone = |node: &str| self.nodes.get("", node)?.metadata.labels.get(ZONE).cloned();
        for family in desired::families(service) {
            let own: Vec<_> = present.extract_if(.., |slice| slice.address_type == family.as_str()).collect();
            let groups = desired::groups(service, &pods, family, zone);
            let labels = labels(service);
            let writes = diff::diff(groups, &own, |slice| slice.metadata.labels != labels);
            for content in writes.create {
                self.create(service, family, content, trigger.as_deref()).await?;
            }
            for (slice, content) in writes.update {
                self.update(service, &slice, content, trigger.as_deref()).await?;
            }
            for slice in writes.delete {
                self.delete(key, &slice).await?;
            }
        }
        // What is left is of a family that the Service does not have any more.
        for slice in present {
            self.delete(key, &slice).await?;
        }
        Ok(())
    }

    async fn create(
        &self,
        service: &ServiceView,
        family: Family,
        content: Content,
        trigger: Option<&str>,
    ) -> Result<(), Error> {
        let key = service.metadata.key();
        let name = generated_name(&format!("{}-", key.name), rand::random());
        let mut annotations = BTreeMap::new();
        trigger_time::note(&mut annotations, trigger);
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "annotations": annotations,
                "generateName": format!("{}-", key.name),
                "namespace": key.namespace,
                "labels": labels(service),
                "ownerReferences": [ownership::controller_reference(&registry::SERVICES, &service.metadata)],
            },
            "addressType": family.as_str(),
            "endpoints": content.endpoints,
            "ports": content.ports,
        });
        self.expectations.expect_created(&key, &name);
        let client = &self.context.client;
        let created = client.create::<Value>(&registry::ENDPOINT_SLICES, key.namespace(), &slice).await;
        match &created {
            Ok(_) => self.context.config.metrics.count(&SLICE_CHANGES, &["create"], 1),
            Err(_) => self.expectations.saw_created(&key, &name),
        }
        created.map(drop)
    }

    async fn update(
        &self,
        service: &ServiceView,
        slice: &EndpointSliceView,
        content: Content,
        trigger: Option<&str>,
    ) -> Result<(), Error> {
        let meta = &slice.metadata;
        let mut annotations = meta.annotations.clone();
        trigger_time::note(&mut annotations, trigger);
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": meta.name,
                "namespace": meta.namespace,
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
                "labels": labels(service),
                "annotations": annotations,
                "ownerReferences": [ownership::controller_reference(&registry::SERVICES, &service.metadata)],
                "finalizers": meta.finalizers,
            },
            "addressType": slice.address_type,
            "endpoints": content.endpoints,
            "ports": content.ports,
        });
        let (client, resource) = (&self.context.client, &registry::ENDPOINT_SLICES);
        client.update::<Value>(resource, meta.namespace(), &meta.name, &object).await?;
        self.context.config.metrics.count(&SLICE_CHANGES, &["update"], 1);
        Ok(())
    }

    async fn delete(&self, service: &ObjectKey, slice: &EndpointSliceView) -> Result<(), Error> {
        let (client, meta) = (&self.context.client, &slice.metadata);
        let options = DeleteOptions::default().uid(&meta.uid);
        self.expectations.expect_deleted(service, &meta.uid);
        match client.delete(&registry::ENDPOINT_SLICES, meta.namespace(), &meta.name, &options).await {
            Ok(()) => {
                self.context.config.metrics.count(&SLICE_CHANGES, &["delete"], 1);
                Ok(())
            }
            Err(error) => {
                self.expectations.saw_deleted(service, &meta.uid);
                if is_not_found(&error) { Ok(()) } else { Err(error) }
            }
        }
    }
}

/// The Service of a slice that this controller manages.
fn service_key(slice: &EndpointSliceView) -> Option<ObjectKey> {
    let ours = slice.metadata.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    let name = slice.service_name().filter(|_| ours)?;
    Some(ObjectKey::new(&slice.metadata.namespace, name))
}

/// The Service's labels, and what marks a slice as the Service's.
fn labels(service: &ServiceView) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone();
    labels.insert(SERVICE.to_owned(), service.metadata.name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service.is_headless() {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}
