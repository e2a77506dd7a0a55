//! What the proxy is told.

use naru_api::address::Cidr;
use std::net::IpAddr;

/// How the proxy works on this node.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// The name of the nftables tables, which are the proxy's alone.
    pub table: String,
    /// Service addresses on which this host answers itself: the DNS'. The proxy leaves them alone.
    pub answered_here: Vec<IpAddr>,
    /// This node, for traffic policies.
    pub node_name: String,
    /// The addresses of all pods, one range of a family: what comes from elsewhere, or goes there, gets the node's
    /// address. Services are served in these families.
    pub cluster_cidrs: Vec<Cidr>,
    /// The addresses of all Services. A host without a default route gets a route for them, since a packet
    /// is routed once before its destination is rewritten.
    pub service_cidrs: Vec<Cidr>,
    /// Whether node ports are to answer on 127.0.0.1 too. Needs a sysctl, which is set; without it they do not.
    pub localhost_node_ports: bool,
    /// Whether pods keep their addresses of IPv6 when they leave the cluster: the network outside knows the way back.
    pub routed_v6: bool,
}
