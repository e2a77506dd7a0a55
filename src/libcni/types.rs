//! The result types of CNI 1.1.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What an ADD answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CniResult {
    /// Version of the specification.
    pub cni_version: String,
    /// Interfaces that were made, on the host and in the pod.
    pub interfaces: Vec<Interface>,
    /// Addresses that were given.
    pub ips: Vec<IpConfig>,
    /// Routes that were set in the pod.
    pub routes: Vec<Route>,
    /// Name servers; not used by Kubernetes.
    pub dns: serde_json::Map<String, serde_json::Value>,
}

impl CniResult {
    /// The pod's addresses in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.ips.iter().filter_map(|ip| ip.address.split('/').next()?.parse().ok())
    }
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its MTU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The network namespace it is in; empty on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// One address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpConfig {
    /// Index of its interface in the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// Address with prefix length.
    pub address: String,
    /// Gateway of its subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// One route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Destination with prefix length.
    pub dst: String,
    /// Next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}
