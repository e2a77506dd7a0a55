//! The service network: proxy over nftables by netlink, the nodes as load balancers, and the cluster's DNS.

pub mod balancer;
pub mod dns;
pub mod nft;
pub mod proxy;
