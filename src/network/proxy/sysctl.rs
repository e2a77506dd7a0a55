//! The kernel settings that the proxy needs, in the network namespace of the calling thread.

use std::fs;

/// Turns on forwarding, and routing of loopback addresses if wanted. Returns whether that is on.
pub(super) fn prepare(loopback: bool) -> bool {
    if !set("net/ipv4/ip_forward", "1") {
        tracing::warn!("net.ipv4.ip_forward is 0 and cannot be set: pods reach nothing outside their node");
    }
    let on = loopback && set("net/ipv4/conf/all/route_localnet", "1");
    if loopback && !on {
        tracing::warn!("net.ipv4.conf.all.route_localnet cannot be set: node ports do not answer on 127.0.0.1");
    }
    on
}

/// Writes only what differs, since a read-only /proc/sys may well hold the right value.
fn set(name: &str, value: &str) -> bool {
    let path = format!("/proc/sys/{name}");
    fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) || fs::write(&path, value).is_ok()
}
