//! The Service under which the cluster's DNS is known.

use naru_api::registry::{self, Resource};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Namespace of the Service.
const NAMESPACE: &str = "kube-system";
/// Name that tools look for.
const NAME: &str = "kube-dns";
const PORTS: [(&str, &str, u16); 3] = [("dns", "UDP", 53), ("dns-tcp", "TCP", 53), ("metrics", "TCP", 9153)];

/// The Service and its EndpointSlices. Every node answers on the Service's addresses itself, so those are the only
/// endpoints.
pub(crate) fn objects(addresses: &[IpAddr]) -> Vec<(&'static Resource, Value)> {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let of_service: Vec<Value> = PORTS
        .iter()
        .map(|(name, protocol, port)| json!({ "name": name, "protocol": protocol, "port": port, "targetPort": port }))
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
        "spec": {
            "clusterIP": texts.first(), "clusterIPs": texts, "ports": of_service,
            "ipFamilyPolicy": if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" },
        },
    });
    let mut objects = vec![(&registry::SERVICES, service)];
    objects.extend(addresses.iter().map(|address| (&registry::ENDPOINT_SLICES, slice(*address))));
    objects
}

fn slice(address: IpAddr) -> Value {
    let ports: Vec<Value> = PORTS
        .iter()
        .map(|(name, protocol, port)| json!({ "name": name, "protocol": protocol, "port": port }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": if address.is_ipv4() { "kube-dns-naru" } else { "kube-dns-naru-ipv6" }, "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": NAME, "endpointslice.kubernetes.io/managed-by": "naru",
            },
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{ "addresses": [address.to_string()], "conditions": { "ready": true } }],
        "ports": ports,
    })
}
