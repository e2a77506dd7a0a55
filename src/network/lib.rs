//! The service network: proxy over nftables by netlink.

pub mod nft;
pub mod proxy;
