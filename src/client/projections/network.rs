//! Views of Services and EndpointSlices.

use super::{Meta, Strings, nullable};
use serde::Deserialize;

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceView {
    /// Metadata.
    pub metadata: Meta,
    /// Desired state.
    pub spec: ServiceSpecView,
    /// Observed state.
    #[serde(deserialize_with = "nullable")]
    pub status: ServiceStatusView,
}

impl ServiceView {
    /// Whether it has no cluster address of its own.
    pub fn is_headless(&self) -> bool {
        self.spec.cluster_ip == "None"
    }
}

/// A Service's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpecView {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// First cluster address, or `None`.
    #[serde(rename = "clusterIP", deserialize_with = "nullable")]
    pub cluster_ip: String,
    /// All cluster addresses.
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Vec<String>,
    /// Addresses that somebody else routes here.
    #[serde(rename = "externalIPs", deserialize_with = "nullable")]
    pub external_ips: Vec<String>,
    /// DNS name of an ExternalName Service.
    #[serde(deserialize_with = "nullable")]
    pub external_name: String,
    /// Pods behind it; absent when endpoints are made by others.
    pub selector: Option<Strings>,
    /// Ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
    /// `None` or `ClientIP`.
    #[serde(deserialize_with = "nullable")]
    pub session_affinity: String,
    /// Affinity's settings.
    #[serde(deserialize_with = "nullable")]
    pub session_affinity_config: SessionAffinityConfig,
    /// `Cluster` or `Local`.
    #[serde(deserialize_with = "nullable")]
    pub external_traffic_policy: String,
    /// `Cluster` or `Local`.
    #[serde(deserialize_with = "nullable")]
    pub internal_traffic_policy: String,
    /// Health check port of Local Services.
    #[serde(deserialize_with = "nullable")]
    pub health_check_node_port: u16,
    /// Whether unready pods count.
    #[serde(deserialize_with = "nullable")]
    pub publish_not_ready_addresses: bool,
    /// Address families.
    #[serde(deserialize_with = "nullable")]
    pub ip_families: Vec<String>,
    /// Client ranges that a load balancer admits.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer_source_ranges: Vec<String>,
    /// Class of the load balancer.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer_class: String,
    /// Preference among endpoints.
    #[serde(deserialize_with = "nullable")]
    pub traffic_distribution: String,
}

/// Settings of the session affinity.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinityConfig {
    /// By client address.
    #[serde(rename = "clientIP", deserialize_with = "nullable")]
    pub client_ip: ClientIpConfig,
}

/// Settings of the affinity by client address.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// Seconds.
    pub timeout_seconds: Option<u32>,
}

/// A Service's port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Name, empty for the only one.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`; empty means TCP.
    #[serde(deserialize_with = "nullable")]
    pub protocol: String,
    /// `http`, `kubernetes.io/h2c`, ...
    pub app_protocol: Option<String>,
    /// Port.
    pub port: u16,
    /// Port of the pods, by number or by name.
    pub target_port: Option<PortRef>,
    /// Port on every node, or 0.
    #[serde(deserialize_with = "nullable")]
    pub node_port: u16,
}

/// IntOrString, of a port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(untagged)]
pub enum PortRef {
    /// A number.
    Number(i32),
    /// The name of a container's port.
    Name(String),
}

/// A Service's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatusView {
    /// Load balancer.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer: LoadBalancerView,
}

/// A load balancer's addresses.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerView {
    /// Addresses.
    #[serde(deserialize_with = "nullable")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One address of a load balancer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// Address.
    #[serde(deserialize_with = "nullable")]
    pub ip: String,
    /// `VIP`, or `Proxy` where the balancer itself must see the connections.
    #[serde(deserialize_with = "nullable")]
    pub ip_mode: String,
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub hostname: String,
}

/// Where a node says which Services of type LoadBalancer it can serve: what [`balancer_claim`] gives for each, with
/// semicolons between them.
pub const BALANCER_ANNOTATION: &str = "naru.io/balancer";

/// The class of Services that the nodes themselves balance, beside those without any.
pub const BALANCER_CLASS: &str = "naru.io/nodes";

/// A Service and its ports, as nodes name them: `default/web=80/TCP,443/TCP`.
pub fn balancer_claim(service: &ServiceView) -> String {
    let protocol = |port: &ServicePort| if port.protocol.is_empty() { "TCP".to_owned() } else { port.protocol.clone() };
    let ports: Vec<String> =
        service.spec.ports.iter().map(|port| format!("{}/{}", port.port, protocol(port))).collect();
    format!("{}/{}={}", service.metadata.namespace, service.metadata.name, ports.join(","))
}

/// An EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSliceView {
    /// Metadata.
    pub metadata: Meta,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// Endpoints.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
    /// Ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<EndpointPort>,
}

impl EndpointSliceView {
    /// The Service that the slice belongs to.
    pub fn service_name(&self) -> Option<&str> {
        self.metadata.labels.get("kubernetes.io/service-name").map(String::as_str)
    }
}

/// One endpoint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Addresses; the first counts.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: EndpointConditions,
    /// Hostname for DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// Where it is best used from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<EndpointHints>,
}

/// Where an endpoint is best used from.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    /// Zones.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<HintFor>,
    /// Nodes.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub for_nodes: Vec<HintFor>,
}

/// One zone or node of a hint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(default)]
pub struct HintFor {
    /// Its name.
    pub name: String,
}

/// What an endpoint stands for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetRef {
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// An endpoint's conditions; absent ones have the meanings of the methods.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    /// Ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Serving.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// Terminating.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

impl EndpointConditions {
    /// Takes new connections. Unknown counts as ready.
    pub fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Ready but for being terminated. Unknown counts as `ready`.
    pub fn is_serving(&self) -> bool {
        self.serving.unwrap_or_else(|| self.is_ready())
    }

    /// Being terminated.
    pub fn is_terminating(&self) -> bool {
        self.terminating.unwrap_or(false)
    }
}

/// An endpoint's port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// Name of the Service's port.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(deserialize_with = "nullable")]
    pub protocol: String,
    /// Number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `http`, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}
