//! What the proxy is told.

use crate::nft::{Compare, Expr, Reg};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ipv4Cidr {
    /// An address in it, usually the first.
    pub address: Ipv4Addr,
    /// How many leading bits its addresses share.
    pub prefix: u8,
}

/// A range that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 range such as 10.42.0.0/16")]
pub struct InvalidCidr(String);

impl FromStr for Ipv4Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let cidr =
            Self { address: address.parse().map_err(|_| invalid())?, prefix: prefix.parse().map_err(|_| invalid())? };
        (cidr.prefix <= 32).then_some(cidr).ok_or_else(invalid)
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Ipv4Cidr {
    /// Goes on if the address in the register is in the range, or is not.
    pub(super) fn check(self, register: Reg, compare: Compare) -> [Expr; 2] {
        Expr::in_range(register, compare, self.address, self.prefix)
    }
}

/// How the proxy works on this node.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// The name of the nftables table, which is the proxy's alone.
    pub table: String,
    /// Service addresses on which this host answers itself: the DNS'. The proxy leaves them alone.
    pub answered_here: Vec<IpAddr>,
    /// This node, for traffic policies.
    pub node_name: String,
    /// The addresses of all pods: what comes from elsewhere, or goes there, gets the node's address.
    pub cluster_cidr: Ipv4Cidr,
    /// The addresses of all Services. A host without a default route gets a route for them, since a packet
    /// is routed once before its destination is rewritten.
    pub service_cidr: Ipv4Cidr,
    /// Whether node ports are to answer on 127.0.0.1 too. Needs a sysctl, which is set; without it they do not.
    pub localhost_node_ports: bool,
}
