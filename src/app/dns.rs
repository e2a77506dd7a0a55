//! The Service under which the cluster's DNS is known.

use naru_api::registry;
use naru_base::Backoff;
use naru_client::{Client, DeleteOptions, is_not_found};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

/// Namespace of the Service.
const NAMESPACE: &str = "kube-system";
/// Name that tools look for.
const NAME: &str = "kube-dns";
/// Says that we made an object, and may replace it.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "naru");

/// Makes the Service and its EndpointSlice, unless they are there. Every node answers on the Service's address
/// itself, so that address is the only endpoint.
pub(crate) async fn publish(client: Client, address: IpAddr) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
    while let Err(error) = ensure(&client, address).await {
        tracing::warn!("the Service {NAMESPACE}/{NAME} could not be made, trying again: {error}");
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn ensure(client: &Client, address: IpAddr) -> Result<(), naru_client::Error> {
    let (service, slice) = objects(address);
    for (resource, object, name) in
        [(&registry::SERVICES, service, NAME), (&registry::ENDPOINT_SLICES, slice, "kube-dns-naru")]
    {
        match client.get::<Value>(resource, Some(NAMESPACE), name).await {
            Ok(found) if is_current(&found, &object) || !is_ours(&found) => continue,
            Ok(_) => {
                // A cluster address cannot be changed.
                client.delete(resource, Some(NAMESPACE), name, &DeleteOptions::default()).await?;
            }
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
        client.create::<Value>(resource, Some(NAMESPACE), &object).await?;
    }
    Ok(())
}

fn is_ours(found: &Value) -> bool {
    found["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1
}

fn is_current(found: &Value, wanted: &Value) -> bool {
    found["spec"]["clusterIP"] == wanted["spec"]["clusterIP"]
        && found["endpoints"][0]["addresses"] == wanted["endpoints"][0]["addresses"]
}

fn objects(address: IpAddr) -> (Value, Value) {
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
                (MANAGED_BY.0): MANAGED_BY.1,
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
                (MANAGED_BY.0): MANAGED_BY.1,
            },
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{ "addresses": [address.to_string()], "conditions": { "ready": true } }],
        "ports": of_slice,
    });
    (service, slice)
}
