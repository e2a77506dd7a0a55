//! The service network: proxy over nftables by netlink.

#![allow(unsafe_code, reason = "netlink sockets need the kernel directly")]
