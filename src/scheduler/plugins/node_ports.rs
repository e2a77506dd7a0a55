//! NodePorts: no two pods take the same port of a node.

use super::{Plugin, Unfit};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "NodePorts",
    filter: Some(|context, info, _| {
        let pod = context.pod;
        if pod.ports.is_empty() {
            return Ok(());
        }
        let mut taken = info.pods.values().flat_map(|other| &other.ports);
        if !taken.any(|port| pod.ports.iter().any(|wanted| wanted.collides(port))) {
            return Ok(());
        }
        Err(Unfit::for_now("node(s) didn't have free ports for the requested pod ports"))
    }),
    score: None,
};

#[cfg(test)]
mod tests {
    use crate::pod_info::HostPort;

    #[test]
    fn ports_collide_on_the_same_address_or_all_addresses() {
        let port = |ip: &str, protocol: &str, port| HostPort { ip: ip.into(), protocol: protocol.into(), port };
        let check = |a: &HostPort, b: &HostPort, expected| {
            assert_eq!(a.collides(b), expected);
            assert_eq!(b.collides(a), expected);
        };
        check(&port("", "TCP", 80), &port("10.0.0.1", "TCP", 80), true);
        check(&port("10.0.0.2", "TCP", 80), &port("10.0.0.1", "TCP", 80), false);
        check(&port("", "TCP", 80), &port("", "UDP", 80), false);
        check(&port("", "TCP", 80), &port("", "TCP", 81), false);
    }
}
