//! The rules that all packets pass, whatever Services there are.

use super::{
    GUARDED, HAIRPIN, MARK, NODE_PORTS, NODE_PORTS_INSIDE, OneBase, R0, REFUSED, REFUSED_PORTS, SERVICES,
    SERVICES_INSIDE, SILENT, SILENT_OUTSIDE, SILENT_PORTS, SILENT_PORTS_OUTSIDE, set_mark,
};
use crate::nft::{Batch, ChainType, Compare, Expr, Family, Hook, Reg, Verdict};
use naru_api::address::Cidr;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Refusing comes just before address translation at -100, while packets still carry the Service's address.
const REFUSE_PRIORITY: i32 = -110;
const TRANSLATE_PRIORITY: i32 = -100;
const LEAVE_PRIORITY: i32 = 100;
const FORWARD_PRIORITY: i32 = 0;

const R1: Reg = Reg(1);

/// Addresses of the host alone.
fn loopback(family: Family) -> Cidr {
    match family {
        Family::V4 => Cidr { network: Ipv4Addr::new(127, 0, 0, 0).into(), bits: 8 },
        Family::V6 => Cidr { network: Ipv6Addr::LOCALHOST.into(), bits: 128 },
    }
}

/// Addresses of many.
fn multicast(family: Family) -> Cidr {
    match family {
        Family::V4 => Cidr { network: Ipv4Addr::new(224, 0, 0, 0).into(), bits: 4 },
        Family::V6 => Cidr { network: Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), bits: 8 },
    }
}

/// Adds the base chains with their rules.
pub(super) fn add_base(batch: &mut Batch, base: &OneBase) {
    const LOOPBACK_INDEX: u32 = 1;
    for (chain, hook) in [("refuse-arriving", Hook::Prerouting), ("refuse-local", Hook::Output)] {
        batch.add_base_chain(chain, ChainType::Filter, hook, REFUSE_PRIORITY);
        if hook == Hook::Prerouting && base.loopback {
            // Routing of 127.0.0.0/8 is on for node ports; nobody else may reach it.
            let mut rule = vec![
                Expr::LoadInputInterface(R0),
                Expr::Compare(R0, Compare::NotEqual, LOOPBACK_INDEX.to_ne_bytes().to_vec()),
                Expr::LoadDestination(R0),
            ];
            rule.extend(Expr::in_range(R0, Compare::Equal, loopback(base.family)));
            rule.push(Expr::Verdict(Verdict::Drop));
            batch.add_rule(chain, &rule);
        }
        if hook == Hook::Prerouting {
            let mut rule = new_connections().to_vec();
            rule.extend(load_service(base));
            rule.push(Expr::VerdictMap(GUARDED, R0));
            batch.add_rule(chain, &rule);
        }
        let mut silence = vec![(SILENT, SILENT_PORTS, Vec::new())];
        if hook == Hook::Prerouting {
            silence.push((SILENT_OUTSIDE, SILENT_PORTS_OUTSIDE, from_cluster(base, Compare::NotEqual)));
        }
        for (services, ports, from) in silence {
            for (load, set) in [(load_service(base).to_vec(), services), (load_node_port(base), ports)] {
                let mut rule = new_connections().to_vec();
                rule.extend(from.clone());
                rule.extend(load);
                rule.extend([Expr::Contains(set, R0), Expr::Verdict(Verdict::Drop)]);
                batch.add_rule(chain, &rule);
            }
        }
        refuse(batch, chain, &load_service(base), Expr::Contains(REFUSED, R0), base.family.second());
        refuse(batch, chain, &load_node_port(base), Expr::Contains(REFUSED_PORTS, R0), R0);
    }
    for (chain, hook) in [("translate-arriving", Hook::Prerouting), ("translate-local", Hook::Output)] {
        batch.add_base_chain(chain, ChainType::Nat, hook, TRANSLATE_PRIORITY);
        // What the host sends is from inside whatever its address.
        let from = if hook == Hook::Prerouting { from_cluster(base, Compare::Equal) } else { Vec::new() };
        for (load, map) in [(load_service(base).to_vec(), SERVICES_INSIDE), (load_node_port(base), NODE_PORTS_INSIDE)] {
            let mut rule = from.clone();
            rule.extend(load);
            rule.push(Expr::VerdictMap(map, R0));
            batch.add_rule(chain, &rule);
        }
        let mut rule = load_service(base).to_vec();
        rule.push(Expr::VerdictMap(SERVICES, R0));
        batch.add_rule(chain, &rule);
        let mut rule = load_node_port(base);
        rule.push(Expr::VerdictMap(NODE_PORTS, R0));
        batch.add_rule(chain, &rule);
    }
    drop_invalid(batch);
    add_leaving(batch, base);
}

/// What connection tracking cannot place in a connection (a window that was left, for instance) would pass with the
/// endpoint's own address, and the client would reset the connection.
fn drop_invalid(batch: &mut Batch) {
    const INVALID: u32 = 1;
    let chain = "invalid";
    batch.add_base_chain(chain, ChainType::Filter, Hook::Forward, FORWARD_PRIORITY);
    let mut rule = in_state(INVALID).to_vec();
    rule.push(Expr::Verdict(Verdict::Drop));
    batch.add_rule(chain, &rule);
}

/// Refuses new connections whose key, loaded by `load`, is in a set; `protocol` is where that holds the protocol.
/// TCP gets a reset: the kernel sends no ICMP to its own processes over the loopback device's route.
fn refuse(batch: &mut Batch, chain: &str, load: &[Expr], contains: Expr, protocol: Reg) {
    const TCP: u8 = 6;
    for (compare, refusal) in [(Compare::Equal, Expr::Reset), (Compare::NotEqual, Expr::Reject)] {
        let mut rule = new_connections().to_vec();
        rule.extend_from_slice(load);
        rule.extend([Expr::Compare(protocol, compare, vec![TCP]), contains.clone(), refusal]);
        batch.add_rule(chain, &rule);
    }
}

fn add_leaving(batch: &mut Batch, base: &OneBase) {
    let chain = "leaving";
    batch.add_base_chain(chain, ChainType::Nat, Hook::Postrouting, LEAVE_PRIORITY);
    let second = base.family.second();
    let hairpin = [Expr::LoadSource(R0), Expr::LoadDestination(second), Expr::Contains(HAIRPIN, R0), Expr::Masquerade];
    batch.add_rule(chain, &hairpin);
    let mut marked = vec![
        Expr::LoadMark(R0),
        Expr::Bits(R0, MARK.to_ne_bytes().to_vec(), vec![0; 4]),
        Expr::Compare(R0, Compare::NotEqual, vec![0; 4]),
    ];
    marked.extend(set_mark(false));
    marked.push(Expr::Masquerade);
    batch.add_rule(chain, &marked);
    if !base.hidden {
        return;
    }
    // Pods that leave the cluster.
    let mut egress = from_cluster(base, Compare::Equal);
    for range in [base.pods, multicast(base.family)] {
        egress.push(Expr::LoadDestination(R0));
        egress.extend(Expr::in_range(R0, Compare::NotEqual, range));
    }
    egress.push(Expr::Masquerade);
    batch.add_rule(chain, &egress);
}

/// Goes on for packets of pods, or for all others.
pub(super) fn from_cluster(base: &OneBase, compare: Compare) -> Vec<Expr> {
    let mut rule = vec![Expr::LoadSource(R0)];
    rule.extend(Expr::in_range(R0, compare, base.pods));
    rule
}

fn load_service(base: &OneBase) -> [Expr; 3] {
    let (protocol, port) = (base.family.second(), base.family.port());
    [Expr::LoadDestination(R0), Expr::LoadProtocol(protocol), Expr::LoadDestinationPort(port)]
}

/// Goes on for packets to the node itself, with protocol and port loaded.
fn load_node_port(base: &OneBase) -> Vec<Expr> {
    const LOCAL: u32 = 2;
    let mut rule = vec![Expr::LoadDestinationType(R0), Expr::Compare(R0, Compare::Equal, LOCAL.to_ne_bytes().to_vec())];
    if !base.loopback {
        rule.push(Expr::LoadDestination(R0));
        rule.extend(Expr::in_range(R0, Compare::NotEqual, loopback(base.family)));
    }
    rule.extend([Expr::LoadProtocol(R0), Expr::LoadDestinationPort(R1)]);
    rule
}

/// Connections that exist keep what they have, even when a Service loses its last endpoint.
fn new_connections() -> [Expr; 3] {
    const NEW: u32 = 8;
    in_state(NEW)
}

fn in_state(state: u32) -> [Expr; 3] {
    [
        Expr::LoadConnectionState(R0),
        Expr::Bits(R0, state.to_ne_bytes().to_vec(), vec![0; 4]),
        Expr::Compare(R0, Compare::NotEqual, vec![0; 4]),
    ]
}
