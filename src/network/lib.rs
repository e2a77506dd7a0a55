//! The service network: proxy over nftables by netlink, the nodes as load balancers, the way between nodes, and DNS.

pub mod addresses;
pub mod balancer;
pub mod diagnose;
pub mod dns;
mod http;
pub mod nft;
pub mod overlay;
pub mod proxy;
