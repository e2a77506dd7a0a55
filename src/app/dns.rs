//! The Service under which the cluster's DNS is known.

use naru_api::registry::{self, Resource};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Namespace of the Service.
const NAMESPACE: &str = "kube-system";
/// Name that tools look for.
const NAME: &str = "kube-dns";

/// The Service and its EndpointSlice. Every node answers on the Service's address itself, so that address is the
/// only endpoint.
pub(crate) fn objects(address: IpAddr) -> Vec<(&'static Resource, Value)> {
    let ports = [("dns", "UDP", 53), ("dns-tcp", "TCP", 53), ("metrics", "TCP", 9153)];
    let of_service: Vec<Value> = ports
        .iter()
        .map(|(name, protocol, port)| json!({ "name": name, "protocol": protocol, "port": port, "targetPort": port }))
        .collect();
    let of_slice: Vec<Value> = ports
        .iter()
        .map(|(name, protocol, port)| json!({ "name": name, "protocol": protocol, "port": port }))
        .collect();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {
                "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
            },
            "annotations": { "prometheus.io/port": "9153", "prometheus.io/scrape": "true" },
        },
        "spec": { "clusterIP": address.to_string(), "ports": of_service },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-naru", "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": NAME, "endpointslice.kubernetes.io/managed-by": "naru",
            },
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{ "addresses": [address.to_string()], "conditions": { "ready": true } }],
        "ports": of_slice,
    });
    vec![(&registry::SERVICES, service), (&registry::ENDPOINT_SLICES, slice)]
}
