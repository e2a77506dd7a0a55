//! EndpointSlices of Endpoints that somebody else writes: of Services without a selector.

use crate::Context;
use crate::endpointslice::desired::Family;
use crate::metrics::{MIRROR_CHANGES, MIRROR_SKIPPED, MIRROR_TIMES, Metrics};
use crate::pods::is_namespace_terminating;
use naru_api::meta::generated_name;
use naru_api::registry;
use naru_client::projections::{Meta, ServiceView};
use naru_client::{
    Client, DeleteOptions, Error, EventRecorder, Informer, ListParams, Next, ObjectKey, ObjectReference, WorkQueue,
    is_already_exists, is_conflict, is_not_found,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::time::Instant;

const WORKERS: usize = 2;
const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that hold no endpoints, but who leads.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that say something of the Endpoints object alone.
const OWN_ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Addresses of one subset; more are left out.
const MOST: usize = 1000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Source {
    metadata: Meta,
    subsets: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Slice {
    metadata: Meta,
    address_type: String,
    endpoints: Value,
    ports: Value,
}

struct Controller {
    client: Client,
    metrics: Arc<Metrics>,
    recorder: EventRecorder,
    services: Informer<ServiceView>,
    sources: Informer<Source>,
    slices: Informer<Slice>,
}

pub(crate) fn start(context: &Context) {
    let services = context.informers.services();
    let sources: Informer<Source> = context.informers.start(&registry::ENDPOINTS, ListParams::all());
    let ours = ListParams::all().labels(format!("{MANAGED_BY}={MANAGER}"));
    let slices: Informer<Slice> = context.informers.start(&registry::ENDPOINT_SLICES, ours);
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let wake = queue.clone();
    services.subscribe(move |change| wake.add(change.key.clone()));
    let wake = queue.clone();
    sources.subscribe(move |change| wake.add(change.key.clone()));
    let wake = queue.clone();
    slices.subscribe(move |change| {
        let meta = &change.latest().metadata;
        if let Some(service) = meta.labels.get(SERVICE) {
            wake.add(ObjectKey::new(&meta.namespace, service));
        }
    });
    let recorder = context.recorder("endpoint-slice-mirroring-controller");
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        metrics: context.config.metrics.clone(),
        recorder,
        services,
        sources,
        slices,
    });
    let waiting = controller.clone();
    let synced = async move {
        waiting.services.synced().await;
        waiting.sources.synced().await;
        waiting.slices.synced().await;
    };
    context.run(&queue, WORKERS, synced, move |key: ObjectKey| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

/// Whether the Endpoints are to be mirrored.
fn is_mirrored(source: &Source, service: Option<&ServiceView>) -> bool {
    let (labels, annotations) = (&source.metadata.labels, &source.metadata.annotations);
    let unselected = |service: &ServiceView| service.spec.selector.as_ref().is_none_or(|s| s.is_empty());
    service.is_some_and(unselected)
        && labels.get(SKIP).is_none_or(|skip| skip != "true")
        && !annotations.contains_key(LEADER)
        && !source.metadata.is_deleting()
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let service = self.services.get_key(key);
        let source = self.sources.get_key(key).filter(|source| is_mirrored(source, service.as_deref()));
        let about = source.as_ref().map(|source| ObjectReference::of(&registry::ENDPOINTS, &source.metadata));
        let begun = Instant::now();
        let mirrored = self.mirror(key, source.as_deref()).await;
        self.metrics.observe(&MIRROR_TIMES, &[], begun.elapsed());
        match mirrored {
            Err(error) if is_namespace_terminating(&error) => {}
            Err(error) => {
                if let Some(about) = about.filter(|_| !is_conflict(&error)) {
                    let message = format!("Error updating Endpoint Slices for Endpoints {key}: {error}");
                    self.recorder.warning(&about, "FailedToUpdateEndpointSlices", message);
                }
                return Err(error);
            }
            Ok(()) => {
                let skipped = source.as_ref().map_or(0, |source| skipped(&source.subsets));
                if source.is_some() {
                    self.metrics.observe_value(&MIRROR_SKIPPED, &[], skipped as f64);
                }
                if let Some(about) = about.filter(|_| skipped > 0) {
                    let message = format!(
                        "A max of {MOST} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} \
                         addresses were skipped"
                    );
                    self.recorder.warning(&about, "TooManyAddressesToMirror", message);
                }
            }
        }
        Ok(Next::Done)
    }

    /// Makes the slices of one Endpoints object what they should be.
    async fn mirror(&self, key: &ObjectKey, source: Option<&Source>) -> Result<(), Error> {
        let mut present = self.slices.by_namespace(&key.namespace);
        present.retain(|slice| slice.metadata.labels.get(SERVICE) == Some(&key.name));
        let wanted = source.map(wanted).unwrap_or_default();
        let mut unmatched = present;
        for slice in wanted {
            let same = |have: &Arc<Slice>| have.address_type == slice["addressType"] && have.ports == slice["ports"];
            match unmatched.iter().position(same) {
                Some(at) => self.update(&unmatched.swap_remove(at), slice).await?,
                None => self.create(slice).await?,
            }
        }
        for slice in unmatched {
            self.delete(&slice.metadata).await?;
        }
        Ok(())
    }

    async fn create(&self, mut slice: Value) -> Result<(), Error> {
        let namespace = slice["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let base = format!("{}-", slice["metadata"]["labels"][SERVICE].as_str().unwrap_or_default());
        slice["metadata"]["name"] = generated_name(&base, rand::random()).into();
        let created = self.client.create::<Value>(&registry::ENDPOINT_SLICES, Some(&namespace), &slice).await;
        match created {
            Err(error) if is_already_exists(&error) => Ok(()),
            other => other.map(|_| self.metrics.count(&MIRROR_CHANGES, &["create"], 1)),
        }
    }

    async fn update(&self, have: &Slice, mut slice: Value) -> Result<(), Error> {
        let labels: BTreeMap<String, String> =
            serde_json::from_value(slice["metadata"]["labels"].clone()).unwrap_or_default();
        let wanted = slice.pointer("/metadata/annotations").cloned().unwrap_or_default();
        let annotations: BTreeMap<String, String> = serde_json::from_value(wanted).unwrap_or_default();
        if have.endpoints == slice["endpoints"]
            && have.metadata.labels == labels
            && have.metadata.annotations == annotations
        {
            return Ok(());
        }
        let meta = &have.metadata;
        slice["metadata"]["name"] = meta.name.as_str().into();
        slice["metadata"]["resourceVersion"] = meta.resource_version.as_str().into();
        self.client.update::<Value>(&registry::ENDPOINT_SLICES, meta.namespace(), &meta.name, &slice).await?;
        self.metrics.count(&MIRROR_CHANGES, &["update"], 1);
        Ok(())
    }

    async fn delete(&self, meta: &Meta) -> Result<(), Error> {
        let options = DeleteOptions::default().uid(&meta.uid);
        match self.client.delete(&registry::ENDPOINT_SLICES, meta.namespace(), &meta.name, &options).await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other.map(|()| self.metrics.count(&MIRROR_CHANGES, &["delete"], 1)),
        }
    }
}

/// The slices that say what the Endpoints say: one for each subset and family.
fn wanted(source: &Source) -> Vec<Value> {
    let meta = &source.metadata;
    let mut labels = meta.labels.clone();
    labels.remove("endpoints.kubernetes.io/managed-by");
    labels.insert(SERVICE.to_owned(), meta.name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = meta.annotations.clone();
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    let owner = json!({"apiVersion": "v1", "kind": "Endpoints", "name": meta.name, "uid": meta.uid,
        "controller": true, "blockOwnerDeletion": true});
    let mut slices = Vec::new();
    for subset in source.subsets.as_array().into_iter().flatten() {
        for family in [Family::V4, Family::V6] {
            let endpoints = endpoints(subset, family);
            if endpoints.is_empty() {
                continue;
            }
            let mut slice = json!({
                "apiVersion": registry::ENDPOINT_SLICES.api_version(),
                "kind": registry::ENDPOINT_SLICES.kind,
                "metadata": {"namespace": meta.namespace, "labels": labels, "ownerReferences": [owner]},
                "addressType": family.as_str(),
                "endpoints": endpoints,
                "ports": ports(subset),
            });
            if !annotations.is_empty() {
                slice["metadata"]["annotations"] = json!(annotations);
            }
            slices.push(slice);
        }
    }
    slices
}

/// Both lists of a subset, and whether what is in them is ready.
const LISTS: [(&str, bool); 2] = [("addresses", true), ("notReadyAddresses", false)];

fn addresses(subset: &Value) -> impl Iterator<Item = (&Value, bool)> {
    let list = |(field, ready): (&str, bool)| subset[field].as_array().into_iter().flatten().map(move |ip| (ip, ready));
    LISTS.into_iter().flat_map(list)
}

/// Addresses that are too many for their subset.
fn skipped(subsets: &Value) -> usize {
    let subsets = subsets.as_array().into_iter().flatten();
    subsets.map(|subset| addresses(subset).count().saturating_sub(MOST)).sum()
}

fn endpoints(subset: &Value, family: Family) -> Vec<Value> {
    let mut all = Vec::new();
    for (address, ready) in addresses(subset).take(MOST) {
        let ip = address["ip"].as_str().unwrap_or_default();
        let fits = match ip.parse() {
            Ok(IpAddr::V4(_)) => family == Family::V4,
            Ok(IpAddr::V6(_)) => family == Family::V6,
            Err(_) => false,
        };
        if !fits {
            continue;
        }
        let mut endpoint = Map::new();
        endpoint.insert("addresses".to_owned(), json!([ip]));
        endpoint.insert("conditions".to_owned(), json!({ "ready": ready }));
        for name in ["hostname", "nodeName", "targetRef"] {
            if let Some(value) = address.get(name).filter(|value| **value != "") {
                endpoint.insert(name.to_owned(), value.clone());
            }
        }
        all.push(Value::Object(endpoint));
    }
    all
}

fn ports(subset: &Value) -> Vec<Value> {
    let ports = subset["ports"].as_array().into_iter().flatten();
    ports
        .map(|port| {
            let mut own = json!({"name": port["name"].as_str().unwrap_or_default(), "port": port["port"],
                "protocol": port["protocol"].as_str().unwrap_or("TCP")});
            if let Some(protocol) = port["appProtocol"].as_str() {
                own["appProtocol"] = protocol.into();
            }
            own
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn source(metadata: Value) -> Source {
        serde_json::from_value(json!({"metadata": metadata, "subsets": [{
            "addresses": [{"ip": "10.0.0.1", "hostname": "a"}, {"ip": "fd00::1"}],
            "notReadyAddresses": [{"ip": "10.0.0.2"}],
            "ports": [{"port": 80, "protocol": "TCP"}]}]}))
        .unwrap()
    }

    #[test]
    fn each_family_of_a_subset_is_a_slice() {
        let slices = wanted(&source(json!({"namespace": "d", "name": "x", "uid": "u", "labels": {"own": "1"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}})));
        assert_eq!(slices.len(), 2);
        assert_eq!(
            slices[0]["endpoints"],
            json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "hostname": "a"},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}])
        );
        assert_eq!(slices[0]["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
        assert_eq!(slices[1]["addressType"], "IPv6");
        assert_eq!(slices[0]["metadata"]["labels"], json!({"own": "1", SERVICE: "x", MANAGED_BY: MANAGER}));
        assert!(slices[0]["metadata"]["annotations"].is_null());
    }

    #[test]
    fn a_subset_has_a_thousand_addresses_at_most_ready_ones_first() {
        let ips = |count: usize| (0..count).map(|n| json!({"ip": format!("10.0.{}.{}", n / 256, n % 256)})).collect();
        let subset = |ready: usize, unready: usize| {
            let lists: [Vec<Value>; 2] = [ips(ready), ips(unready)];
            json!({"addresses": lists[0], "notReadyAddresses": lists[1]})
        };
        let full = subset(990, 30);
        let all = endpoints(&full, Family::V4);
        let ready = all.iter().filter(|endpoint| endpoint["conditions"]["ready"] == true).count();
        assert_eq!((all.len(), ready), (1000, 990));
        assert_eq!(skipped(&json!([full, subset(1000, 0)])), 20);
    }

    #[test]
    fn only_endpoints_of_others_are_mirrored() {
        let service = |spec: Value| -> ServiceView { serde_json::from_value(json!({ "spec": spec })).unwrap() };
        let (plain, selecting) = (service(json!({})), service(json!({"selector": {"a": "b"}})));
        let own = source(json!({"name": "x"}));
        assert!(is_mirrored(&own, Some(&plain)));
        assert!(!is_mirrored(&own, Some(&selecting)) && !is_mirrored(&own, None));
        assert!(!is_mirrored(&source(json!({"labels": {SKIP: "true"}})), Some(&plain)));
        assert!(!is_mirrored(&source(json!({"annotations": {LEADER: "x"}})), Some(&plain)));
    }
}
