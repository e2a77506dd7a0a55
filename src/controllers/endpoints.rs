//! Endpoints: the older form of a Service's endpoints, one object for each Service with a selector.

use crate::Context;
use crate::endpointslice::desired::{self, Group};
use crate::endpointslice::trigger_time::{self, TriggerTimes};
use crate::endpointslice::{HEADLESS, queue_services};
use crate::pods::is_namespace_terminating;
use naru_api::core::endpoints::repack;
use naru_api::registry;
use naru_client::projections::{Endpoint, EndpointPort, Meta, PodView, ServiceView};
use naru_client::{
    DeleteOptions, Error, EventRecorder, Informer, ListParams, Next, ObjectKey, ObjectReference, WorkQueue,
    is_already_exists, is_not_found,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const WORKERS: usize = 2;
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses of one object; more are left out.
const MOST: usize = 1000;

/// What is kept of an Endpoints object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct EndpointsView {
    metadata: Meta,
    subsets: Value,
}

struct EndpointsController {
    context: Context,
    recorder: EventRecorder,
    services: Informer<ServiceView>,
    endpoints: Informer<EndpointsView>,
    pods: Informer<PodView>,
    triggers: TriggerTimes,
}

pub(crate) fn start(context: &Context) {
    let (services, pods) = (context.informers.services(), context.informers.pods());
    let endpoints: Informer<EndpointsView> = context.informers.start(&registry::ENDPOINTS, ListParams::all());
    let queue = WorkQueue::new();
    let controller = Arc::new(EndpointsController {
        context: context.clone(),
        recorder: context.recorder("endpoint-controller"),
        services: services.clone(),
        endpoints: endpoints.clone(),
        pods: pods.clone(),
        triggers: TriggerTimes::default(),
    });
    let adder = queue.clone();
    services.subscribe(move |change| adder.add(change.key.clone()));
    let adder = queue.clone();
    endpoints.subscribe(move |change| adder.add(change.key.clone()));
    let (adder, all) = (queue.clone(), services.clone());
    pods.subscribe(move |change| queue_services(&adder, &all, change));
    let synced = async move {
        services.synced().await;
        endpoints.synced().await;
        pods.synced().await;
    };
    context.run(&queue, WORKERS, synced, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl EndpointsController {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let present = self.endpoints.get_key(key);
        let Some(service) = self.services.get_key(key) else {
            self.triggers.forget(key);
            if let Some(present) = present.filter(|present| present.metadata.labels.contains_key(MANAGED_BY)) {
                self.delete(&present.metadata).await?;
            }
            return Ok(Next::Done);
        };
        if !desired::is_ours(&service) || service.metadata.is_deleting() {
            return Ok(Next::Done);
        }
        let mut pods = self.pods.by_namespace(&key.namespace);
        pods.retain(|pod| desired::selects(&service, &pod.metadata.labels));
        pods.retain(|pod| !pod.metadata.is_deleting() || service.spec.publish_not_ready_addresses);
        let trigger = self.triggers.next(&service, &pods);
        let family = desired::families(&service)[0];
        let (subsets, capped) = subsets(desired::groups(&service, &pods, family, |_| None));
        let labels = labels(&service);
        let current = present.as_ref().filter(|present| {
            let was_capped = present.metadata.annotations.contains_key(OVER_CAPACITY);
            present.metadata.labels == labels && is_same(&present.subsets, &subsets) && was_capped == capped
        });
        if current.is_none() {
            let mut annotations =
                present.as_ref().map(|present| present.metadata.annotations.clone()).unwrap_or_default();
            trigger_time::note(&mut annotations, trigger.as_deref());
            annotations.remove(OVER_CAPACITY);
            if capped {
                annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
            }
            self.write(&service, present.as_deref(), &labels, &annotations, &subsets).await?;
        }
        Ok(Next::Done)
    }

    async fn write(
        &self,
        service: &ServiceView,
        present: Option<&EndpointsView>,
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
        subsets: &Value,
    ) -> Result<(), Error> {
        let (client, resource, meta) = (&self.context.client, &registry::ENDPOINTS, &service.metadata);
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": meta.name, "namespace": meta.namespace, "labels": labels, "annotations": annotations,
            },
            "subsets": subsets,
        });
        let Some(present) = present else {
            let created = client.create::<Value>(resource, meta.namespace(), &object).await;
            let about = Meta { name: meta.name.clone(), namespace: meta.namespace.clone(), ..Meta::default() };
            return match created {
                // The cache is behind; its news will bring another run.
                Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => Ok(()),
                other => self.tell(&about, "FailedToCreateEndpoint", "create endpoint for service", other),
            };
        };
        object["metadata"]["resourceVersion"] = present.metadata.resource_version.as_str().into();
        let updated = client.update::<Value>(resource, meta.namespace(), &meta.name, &object).await;
        self.tell(&present.metadata, "FailedToUpdateEndpoint", "update endpoint", updated)
    }

    /// A failure becomes an event, too.
    fn tell(&self, about: &Meta, reason: &str, what: &str, outcome: Result<Value, Error>) -> Result<(), Error> {
        let Err(error) = outcome else { return Ok(()) };
        let message = format!("Failed to {what} {}/{}: {error}", about.namespace, about.name);
        self.recorder.warning(&ObjectReference::of(&registry::ENDPOINTS, about), reason, message);
        Err(error)
    }

    async fn delete(&self, meta: &Meta) -> Result<(), Error> {
        let options = DeleteOptions::default().uid(&meta.uid);
        match self.context.client.delete(&registry::ENDPOINTS, meta.namespace(), &meta.name, &options).await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other,
        }
    }
}

/// An absent list is an empty one.
fn is_same(present: &Value, wanted: &Value) -> bool {
    let empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    present == wanted || (empty(present) && empty(wanted))
}

/// The Service's labels, and what marks the object as this controller's.
fn labels(service: &ServiceView) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service.is_headless() {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

/// The subsets, and whether some addresses had to be left out.
fn subsets(groups: Vec<Group>) -> (Value, bool) {
    let mut subsets = Vec::new();
    for mut group in groups {
        // A pod without any of the ports has no place here, unless the Service has no ports.
        group.endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let (ready, unready): (Vec<_>, Vec<_>) =
            group.endpoints.iter().partition(|endpoint| endpoint.conditions.is_ready());
        let mut subset = Map::new();
        let mut put = |field: &str, values: Vec<Value>| {
            if !values.is_empty() {
                subset.insert(field.to_owned(), values.into());
            }
        };
        put("addresses", ready.into_iter().map(address).collect());
        put("notReadyAddresses", unready.into_iter().map(address).collect());
        put("ports", group.ports.iter().map(port).collect());
        if subset.contains_key("addresses") || subset.contains_key("notReadyAddresses") {
            subsets.push(Value::Object(subset));
        }
    }
    // As the server keeps them, so that they compare.
    let mut subsets = repack(&subsets).unwrap_or(subsets);
    let capped = truncate(&mut subsets, MOST);
    (subsets.into(), capped)
}

/// Leaves addresses out beyond the most: first those that are not ready, from each subset its share. Tells whether
/// any had to go.
fn truncate(subsets: &mut Vec<Value>, most: usize) -> bool {
    const READY: &str = "addresses";
    const UNREADY: &str = "notReadyAddresses";
    let count = |subset: &Value, field: &str| subset[field].as_array().map_or(0, Vec::len);
    let total = |field: &str| subsets.iter().map(|subset| count(subset, field)).sum::<usize>();
    let (ready, unready) = (total(READY), total(UNREADY));
    if ready + unready <= most {
        return false;
    }
    let (field, of, room) = if ready > most { (READY, ready, most) } else { (UNREADY, unready, most - ready) };
    let mut left = room;
    for subset in subsets.iter_mut() {
        // Rounded up, so that the last one may get less than its share.
        let share = (count(subset, field) * room).div_ceil(of).min(left);
        if let Some(addresses) = subset.get_mut(field).and_then(Value::as_array_mut) {
            addresses.truncate(share);
            left -= addresses.len();
        }
        let Some(fields) = subset.as_object_mut() else { continue };
        if field == READY {
            fields.remove(UNREADY);
        }
        fields.retain(|_, value| value.as_array().is_none_or(|values| !values.is_empty()));
    }
    subsets.retain(|subset| count(subset, READY) + count(subset, UNREADY) > 0);
    true
}

fn address(endpoint: &Endpoint) -> Value {
    let mut address = Map::new();
    let mut put = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            address.insert(field.to_owned(), value);
        }
    };
    put("ip", endpoint.addresses.first().map(|ip| ip.as_str().into()));
    put("hostname", endpoint.hostname.as_deref().map(Value::from));
    put("nodeName", endpoint.node_name.as_deref().map(Value::from));
    put("targetRef", endpoint.target_ref.as_ref().map(|target| json!(target)));
    Value::Object(address)
}

fn port(port: &EndpointPort) -> Value {
    let mut value = json!({"port": port.port, "protocol": port.protocol});
    if !port.name.is_empty() {
        value["name"] = port.name.as_str().into();
    }
    if let Some(protocol) = &port.app_protocol {
        value["appProtocol"] = protocol.as_str().into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpointslice::desired::tests::{pod, service};
    use crate::endpointslice::desired::{Family, groups};

    #[test]
    fn ready_and_unready_addresses_are_told_apart() {
        let service = service(json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}));
        let pods = [Arc::new(pod("b", "10.0.0.2", true)), Arc::new(pod("a", "10.0.0.1", false))];
        let (subsets, capped) = subsets(groups(&service, &pods, Family::V4, |_| None));
        let address = |name: &str, ip: &str| {
            json!({"ip": ip, "nodeName": "n1",
                "targetRef": {"kind": "Pod", "namespace": "default", "name": name, "uid": name}})
        };
        let expected = json!([{
            "addresses": [address("b", "10.0.0.2")],
            "notReadyAddresses": [address("a", "10.0.0.1")],
            "ports": [{"port": 8080, "protocol": "TCP"}],
        }]);
        assert_eq!((subsets, capped), (expected, false));
        let two = || vec![json!({"addresses": [1, 2, 3], "notReadyAddresses": [4]}), json!({"addresses": [5]})];
        let cut = |most: usize| {
            let mut subsets = two();
            (truncate(&mut subsets, most), Value::from(subsets))
        };
        assert_eq!(cut(5), (false, two().into()));
        assert_eq!(cut(4), (true, json!([{"addresses": [1, 2, 3]}, {"addresses": [5]}])), "unready ones go first");
        assert_eq!(cut(3), (true, json!([{"addresses": [1, 2, 3]}])), "shares are rounded up");
        assert!(is_same(&Value::Null, &json!([])));
    }
}
