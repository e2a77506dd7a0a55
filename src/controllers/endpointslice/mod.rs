//! EndpointSlices: the endpoints of Services with a selector.

pub(crate) mod desired;
mod diff;
mod topology;
mod totals;
pub(crate) mod trigger_time;

use crate::expectations::Expectations;
use crate::metrics::{SLICE_CHANGES, SLICE_ENDPOINTS_ADDED, SLICE_ENDPOINTS_REMOVED, SLICE_SYNCS, SLICES_CHANGED};
use crate::pods::is_namespace_terminating;
use crate::{Context, ownership};
use desired::Family;
use diff::{Content, FULL, Writes};
use naru_api::meta::generated_name;
use naru_api::registry;
use naru_client::projections::{EndpointSliceView, NodeView, PodView, ServiceView};
use naru_client::{
    Change, DeleteOptions, Error, EventRecorder, Informer, Next, ObjectKey, ObjectReference, WorkQueue, is_conflict,
    is_not_found,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use totals::{Part, Totals};
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
    totals: Totals,
    /// Services whose endpoints have hints by annotation. A leaf lock.
    hinted: Mutex<HashSet<ObjectKey>>,
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
        totals: Totals::default(),
        hinted: Mutex::default(),
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

    /// Only a node's zone matters here, and to those that share by zones whether it is ready.
    fn node_changed(&self, change: &Change<NodeView>) {
        let (old, new) = (change.old.as_deref().map(topology::counted), change.new.as_deref().map(topology::counted));
        if old.map(|(_, zone)| zone) != new.map(|(_, zone)| zone) {
            self.services.keys().into_iter().for_each(|key| self.queue.add(key));
        } else if old != new {
            let wanting = self.services.list().into_iter().filter(|service| topology::is_wanted(service));
            wanting.for_each(|service| self.queue.add(service.metadata.key()));
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(service) = self.services.get_key(key) else {
            // The slices go with their owner.
            self.expectations.forget(key);
            self.triggers.forget(key);
            self.totals.note(&self.context.config.metrics, key, None);
            self.note_hinted(key, false);
            return Ok(Next::Done);
        };
        let metrics = &self.context.config.metrics;
        if !desired::is_ours(&service) || service.metadata.is_deleting() {
            return Ok(Next::Done);
        }
        if !self.expectations.are_met(key) {
            metrics.count(&SLICE_SYNCS, &["stale"], 1);
            return Ok(Next::Done);
        }
        let written = self.write(key, &service).await;
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
        self.leave_out_lost(service, &mut pods);
        let mut present = self.slices.indexed(self.slices_by_service, &key.to_string());
        present.retain(|slice| !slice.metadata.is_deleting());
        present.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let zone = |node: &str| self.nodes.get("", node)?.metadata.labels.get(ZONE).cloned();
        let mut part = Part::default();
        for family in desired::families(service) {
            let own: Vec<_> = present.extract_if(.., |slice| slice.address_type == family.as_str()).collect();
            let groups = desired::groups(service, &pods, family, zone);
            for group in &groups {
                part.endpoints += group.endpoints.len();
                part.needed += group.endpoints.len().div_ceil(FULL);
            }
            let writes = self.writes(key, service, groups, &own, family);
            part.slices += own.len() + writes.create.len() - writes.delete.len();
            self.measure(service, &writes);
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
        part.needed = part.needed.max(1);
        self.totals.note(&self.context.config.metrics, key, Some((part, desired::wish(service))));
        // What is left is of a family that the Service does not have any more.
        for slice in present {
            self.delete(key, &slice).await?;
        }
        Ok(())
    }

    /// Pods on nodes that are not there have no endpoints, unless the Service asks for all.
    fn leave_out_lost(&self, service: &ServiceView, pods: &mut Vec<Arc<PodView>>) {
        if service.spec.publish_not_ready_addresses {
            return;
        }
        let is_lost = |pod: &Arc<PodView>| {
            !pod.status.pod_ip.is_empty() && !pod.is_finished() && self.nodes.get("", &pod.spec.node_name).is_none()
        };
        let key = service.metadata.key();
        let lost = pods.extract_if(.., |pod| is_lost(pod)).map(|pod| {
            let (name, node) = (&pod.metadata.name, &pod.spec.node_name);
            format!("skipping Pod {name} for Service {key}: Node {node} Not Found")
        });
        let lost: Vec<String> = lost.collect();
        if !lost.is_empty() {
            // The node's coming leads back here.
            let what = if let [one] = lost.as_slice() { one.clone() } else { format!("[{}]", lost.join(", ")) };
            let message = format!("Error updating Endpoint Slices for Service {key}: {what}");
            let about = ObjectReference::of(&registry::SERVICES, &service.metadata);
            self.recorder.warning(&about, "FailedToUpdateEndpointSlices", message);
        }
    }

    /// What is to be written of one family, with hints if the Service has the annotation for them.
    fn writes(
        &self,
        key: &ObjectKey,
        service: &ServiceView,
        groups: Vec<desired::Group>,
        own: &[Arc<EndpointSliceView>],
        family: Family,
    ) -> Writes {
        let labels = labels(service);
        let stale = |slice: &EndpointSliceView| slice.metadata.labels != labels;
        let about = ObjectReference::of(&registry::SERVICES, &service.metadata);
        if !topology::is_wanted(service) {
            if self.note_hinted(key, false) {
                let message = format!("Topology Aware Hints has been disabled, addressType: {}", family.as_str());
                self.recorder.warning(&about, "TopologyAwareHintsDisabled", message);
            }
            return diff::diff(groups, own, stale);
        }
        let bare: Vec<_> = own.iter().map(|slice| Arc::new(topology::without_hints(slice))).collect();
        let mut writes = diff::diff(groups, &bare, stale);
        let is_touched = |name: &str| {
            let updated = writes.update.iter().map(|(slice, _)| slice);
            updated.chain(&writes.delete).any(|slice| slice.metadata.name == name)
        };
        let unchanged = own.iter().filter(|slice| !is_touched(&slice.metadata.name)).cloned().collect();
        let shares = topology::shares(&self.nodes.list());
        match topology::hint(shares.as_ref(), &mut writes, unchanged, family) {
            Err(why) => {
                self.note_hinted(key, false);
                self.recorder.warning(&about, "TopologyAwareHintsDisabled", why);
            }
            Ok(()) => {
                let known = own.iter().flat_map(|slice| &slice.endpoints).any(|endpoint| endpoint.hints.is_some());
                if !self.note_hinted(key, true) && !known {
                    let message = format!("Topology Aware Hints has been enabled, addressType: {}", family.as_str());
                    self.recorder.normal(&about, "TopologyAwareHintsEnabled", message);
                }
            }
        }
        writes
    }

    /// Whether a Service's endpoints have hints by annotation; tells whether they had them.
    fn note_hinted(&self, service: &ObjectKey, hinted: bool) -> bool {
        let mut all = self.hinted.lock().unwrap_or_else(PoisonError::into_inner);
        if hinted { !all.insert(service.clone()) } else { all.remove(service) }
    }

    fn measure(&self, service: &ServiceView, writes: &Writes) {
        let metrics = &self.context.config.metrics;
        metrics.observe_value(&SLICE_ENDPOINTS_ADDED, &[], writes.added as f64);
        metrics.observe_value(&SLICE_ENDPOINTS_REMOVED, &[], writes.removed as f64);
        let changed = writes.create.len() + writes.update.len() + writes.delete.len();
        let topology = if topology::is_wanted(service) { "Auto" } else { "Disabled" };
        metrics.observe_value(&SLICES_CHANGED, &[topology, desired::wish(service)], changed as f64);
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
