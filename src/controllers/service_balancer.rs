//! Services of type LoadBalancer: the nodes' addresses are the balancer. A node says in an annotation whose
//! ports it can serve; the addresses of those nodes become the Service's.

use crate::Context;
use naru_api::registry;
use naru_client::projections::{
    BALANCER_ANNOTATION, BALANCER_CLASS, EndpointSliceView, NodeView, ServiceView, balancer_claim,
};
use naru_client::{Client, Error, Informer, Next, ObjectKey, PatchKind, WorkQueue, is_not_found};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

const WORKERS: usize = 2;
/// Upstream's label of nodes that are no balancers.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

struct Controller {
    client: Client,
    services: Informer<ServiceView>,
    nodes: Informer<NodeView>,
    slices: Informer<EndpointSliceView>,
}

pub(crate) fn start(context: &Context) {
    let (services, nodes) = (context.informers.services(), context.informers.nodes());
    let slices = context.informers.endpoint_slices();
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let wake = queue.clone();
    services.subscribe(move |change| wake.add(change.key.clone()));
    let (wake, all) = (queue.clone(), services.clone());
    nodes.subscribe(move |change| {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && is_same_balancer(old, new)
        {
            return;
        }
        for service in all.list().iter().filter(|service| is_ours(service)) {
            wake.add(service.metadata.key());
        }
    });
    let (wake, all) = (queue.clone(), services.clone());
    slices.subscribe(move |change| {
        let slice = change.latest();
        if let Some(service) = slice.service_name().and_then(|name| all.get(&slice.metadata.namespace, name))
            && is_ours(&service)
            && service.spec.external_traffic_policy == "Local"
        {
            wake.add(service.metadata.key());
        }
    });
    let controller = Arc::new(Controller { client: context.client.clone(), services, nodes, slices });
    let waiting = controller.clone();
    let synced = async move {
        waiting.services.synced().await;
        waiting.nodes.synced().await;
        waiting.slices.synced().await;
    };
    context.run(&queue, WORKERS, synced, move |key: ObjectKey| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

/// Whether a node that has changed balances what it did before.
fn is_same_balancer(old: &NodeView, new: &NodeView) -> bool {
    node_addresses(old) == node_addresses(new)
        && old.metadata.annotations.get(BALANCER_ANNOTATION) == new.metadata.annotations.get(BALANCER_ANNOTATION)
        && old.metadata.labels.contains_key(EXCLUDED) == new.metadata.labels.contains_key(EXCLUDED)
        && old.metadata.is_deleting() == new.metadata.is_deleting()
}

/// A Service without a class, or with the nodes' own; others are somebody else's.
fn is_ours(service: &ServiceView) -> bool {
    service.spec.kind == "LoadBalancer" && matches!(service.spec.load_balancer_class.as_str(), "" | BALANCER_CLASS)
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(service) = self.services.get_key(key) else { return Ok(Next::Done) };
        if !is_ours(&service) || service.metadata.is_deleting() {
            return Ok(Next::Done);
        }
        let local = service.spec.external_traffic_policy == "Local";
        let with_endpoints = local.then(|| self.nodes_with_endpoints(&service));
        let wanted = addresses(&service, &self.nodes.list(), with_endpoints.as_ref());
        let present: Vec<&str> = service.status.load_balancer.ingress.iter().map(|i| i.ip.as_str()).collect();
        if present == wanted {
            return Ok(Next::Done);
        }
        let ingress: Vec<Value> = wanted.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
        let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        let (services, kind) = (&registry::SERVICES, PatchKind::Merge);
        let patched = self.client.patch::<Value>(services, key.namespace(), &key.name, Some("status"), kind, &patch);
        match patched.await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(Next::Done),
        }
    }

    fn nodes_with_endpoints(&self, service: &ServiceView) -> BTreeSet<String> {
        let slices = self.slices.by_namespace(&service.metadata.namespace);
        let own = slices.iter().filter(|slice| slice.service_name() == Some(&service.metadata.name));
        let endpoints = own.flat_map(|slice| &slice.endpoints);
        endpoints.filter(|endpoint| endpoint.conditions.is_ready()).filter_map(|e| e.node_name.clone()).collect()
    }
}

/// Addresses by which a node is reached from outside, or from inside where it has no others.
fn node_addresses(node: &NodeView) -> Vec<IpAddr> {
    let of = |kind: &str| -> Vec<IpAddr> {
        let all = node.status.addresses.iter().filter(|address| address.kind == kind);
        all.filter_map(|address| address.address.parse().ok()).collect()
    };
    let outside = of("ExternalIP");
    if outside.is_empty() { of("InternalIP") } else { outside }
}

/// The addresses that balance, sorted, in the Service's families.
fn addresses(service: &ServiceView, nodes: &[Arc<NodeView>], only: Option<&BTreeSet<String>>) -> Vec<String> {
    let claim = balancer_claim(service);
    let serves = |node: &&Arc<NodeView>| {
        let said = node.metadata.annotations.get(BALANCER_ANNOTATION);
        said.is_some_and(|said| said.split(';').any(|entry| entry == claim))
            && !node.metadata.labels.contains_key(EXCLUDED)
            && !node.metadata.is_deleting()
            && only.is_none_or(|only| only.contains(&node.metadata.name))
    };
    let families = &service.spec.ip_families;
    let fits = |address: &IpAddr| {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        families.is_empty() || families.iter().any(|wanted| wanted == family)
    };
    let found: BTreeSet<IpAddr> =
        nodes.iter().filter(serves).flat_map(|node| node_addresses(node)).filter(fits).collect();
    found.iter().map(IpAddr::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ip: &str, claims: &str, labels: Value) -> Arc<NodeView> {
        let value = json!({"metadata": {"name": name, "labels": labels, "annotations": {BALANCER_ANNOTATION: claims}},
            "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]}});
        Arc::new(serde_json::from_value(value).expect("a node"))
    }

    #[test]
    fn nodes_that_can_serve_are_the_balancer() {
        let service: ServiceView = serde_json::from_value(json!({"metadata": {"namespace": "d", "name": "web"},
            "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}}))
        .expect("a service");
        let claim = "d/web=80/TCP,53/UDP";
        assert_eq!(balancer_claim(&service), claim);
        let nodes = [
            node("b", "192.0.2.2", &format!("x/y=1/TCP;{claim}"), json!({})),
            node("a", "192.0.2.1", claim, json!({})),
            node("busy", "192.0.2.3", "x/y=1/TCP", json!({})),
            node("out", "192.0.2.4", claim, json!({EXCLUDED: ""})),
            node("six", "fd00::1", claim, json!({})),
        ];
        assert_eq!(addresses(&service, &nodes, None), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(addresses(&service, &nodes, Some(&["b".to_owned()].into())), ["192.0.2.2"]);
        assert!(is_ours(&service));
        let [first, second, third, excluded, _] = &nodes;
        assert!(is_same_balancer(first, &node("b", "192.0.2.2", &format!("x/y=1/TCP;{claim}"), json!({"z": "1"}))));
        assert!(!is_same_balancer(second, third) && !is_same_balancer(second, first));
        let let_in = node("out", "192.0.2.4", claim, json!({}));
        assert!(!is_same_balancer(excluded, &let_in) && !is_same_balancer(&let_in, excluded));
    }
}
