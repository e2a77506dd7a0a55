//! How a machine becomes a node of a cluster that runs elsewhere: what is asked and answered, on both sides.
//!
//! 1. The agent fetches the authority's certificate (`/cacerts`) and compares it with the hash in its token;
//!    nothing is sent or believed before they match.
//! 2. It makes keys, and asks for their certificates with the token (`/naru/v1/join`); later, for new ones,
//!    with the node's own certificate.

mod client;
mod server;
pub(crate) mod servers;
mod twins;

pub(crate) use client::{Asking, Joined, check, join, renew};
pub(crate) use server::{JoinConfig, Joining, roles};

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Where the authority's certificate is, for everybody.
const CA_PATH: &str = "/cacerts";
/// Where nodes get their certificates.
const JOIN_PATH: &str = "/naru/v1/join";
/// Group of the agents, as which they read what every node must know.
const AGENTS: &str = "naru:agents";
/// Says on a Node which machine it is.
pub(crate) const MACHINE: &str = "naru.io/machine";

/// What an agent asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JoinRequest {
    node_name: String,
    node_ip: IpAddr,
    /// Its address of the other family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more_ips: Vec<IpAddr>,
    /// Made by the machine on its first start.
    machine: String,
    /// Certificate requests (PEM); the names in them count for nothing.
    client_csr: String,
    serving_csr: String,
    agent_csr: String,
    /// Nothing is signed or changed: would it be?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// What it gets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JoinAnswer {
    client_certificate: String,
    serving_certificate: String,
    agent_certificate: String,
    cluster: Cluster,
}

/// What all nodes of a cluster have in common.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cluster {
    /// Certificates by which API servers identify themselves towards nodes lead to this one, PEM.
    pub(crate) client_ca: String,
    /// The API server's name in them.
    pub(crate) api_server_name: String,
    /// Addresses of pods.
    pub(crate) cluster_cidr: String,
    /// Addresses of Services.
    pub(crate) service_cidr: String,
    /// Addresses of the DNS, one of a family.
    pub(crate) cluster_dns: Vec<IpAddr>,
    /// Domain of the DNS.
    pub(crate) cluster_domain: String,
    /// How pods of different nodes reach one another.
    pub(crate) flannel_backend: String,
    /// Whether pods that leave the cluster by IPv6 get the node's address even where their own is known outside.
    #[serde(default)]
    pub(crate) flannel_ipv6_masq: bool,
}
