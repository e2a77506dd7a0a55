//! The service network: proxy over nftables by netlink, and the cluster's DNS.

pub mod dns;
pub mod nft;
pub mod proxy;
