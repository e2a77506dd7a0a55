//! The kernel settings that the proxy needs, in the network namespace of the calling thread.

use std::fs;

/// What is to be set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Node ports on 127.0.0.1.
    pub(super) loopback: bool,
    pub(super) v4: bool,
    pub(super) v6: bool,
}

/// Turns on forwarding, and routing of loopback addresses if wanted. Returns whether that is on.
pub(super) fn prepare(wanted: Wanted) -> bool {
    if wanted.v4 && !set("net/ipv4/ip_forward", "1") {
        tracing::warn!("net.ipv4.ip_forward is 0 and cannot be set: pods reach nothing outside their node");
    }
    if wanted.v6 {
        keep_router_advertisements();
        if !set("net/ipv6/conf/all/forwarding", "1") {
            tracing::warn!(
                "net.ipv6.conf.all.forwarding is 0 and cannot be set: pods reach nothing outside their node by IPv6"
            );
        }
    }
    let on = wanted.loopback && wanted.v4 && set("net/ipv4/conf/all/route_localnet", "1");
    if wanted.loopback && wanted.v4 && !on {
        tracing::warn!("net.ipv4.conf.all.route_localnet cannot be set: node ports do not answer on 127.0.0.1");
    }
    on
}

/// How the kernel follows connections, with upstream's limits: many of them, for a day when nothing is said, and an hour
/// when only one side has ended. What cannot be set (in a namespace the number cannot) stays as it is.
pub(super) fn follow_connections(processors: usize) {
    const LEAST: usize = 131_072;
    const EACH: usize = 32_768;
    let most = LEAST.max(EACH * processors);
    let present = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max");
    let enough = present.is_ok_and(|present| present.trim().parse().is_ok_and(|present: usize| present >= most));
    let settings = [
        ("max", most.to_string(), enough),
        ("tcp_timeout_established", "86400".to_owned(), false),
        ("tcp_timeout_close_wait", "3600".to_owned(), false),
    ];
    for (name, value, _) in settings.iter().filter(|(.., enough)| !enough) {
        if !set(&format!("net/netfilter/nf_conntrack_{name}"), value) {
            tracing::debug!("net.netfilter.nf_conntrack_{name} cannot be set to {value}");
        }
    }
}

/// A host that forwards stops listening to routers, and would lose its own default route, unless it is told to.
fn keep_router_advertisements() {
    let interfaces = fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten();
    for interface in interfaces {
        let path = interface.path().join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1")
            && let Err(error) = fs::write(&path, "2")
        {
            tracing::debug!(%error, "{} stays 1: routes that a router announces may go", path.display());
        }
    }
}

/// Writes only what differs, since a read-only /proc/sys may well hold the right value.
fn set(name: &str, value: &str) -> bool {
    let path = format!("/proc/sys/{name}");
    fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) || fs::write(&path, value).is_ok()
}
