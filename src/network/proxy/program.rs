//! The ruleset as one nftables table: base chains, maps, and a chain for each number of endpoints.
//!
//! A Service is elements in maps, never a chain of its own: its address, protocol and port lead to the
//! chain that draws one of N, and that number together with the key leads to the endpoint.

use super::config::Ipv4Cidr;
use super::ruleset::{Frontend, Masquerade, Ruleset, Target};
use crate::nft::{Batch, ChainType, Compare, Error, Expr, Field, Hook, Reg, SetKind, SetSpec, Value, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

const SERVICES: &str = "services";
const NODE_PORTS: &str = "node-ports";
const ENDPOINTS: &str = "endpoints";
const REFUSED: &str = "refused";
const REFUSED_PORTS: &str = "refused-node-ports";
const HAIRPIN: &str = "hairpin";
const SILENT: &str = "silent";
const SILENT_PORTS: &str = "silent-node-ports";
/// The same, and what clients inside the cluster get instead.
const SILENT_OUTSIDE: &str = "silent-outside";
const SILENT_PORTS_OUTSIDE: &str = "silent-node-ports-outside";
const SERVICES_INSIDE: &str = "services-inside";
const NODE_PORTS_INSIDE: &str = "node-ports-inside";
const GUARDED: &str = "guarded";
const AFFINITY: &str = "affinity";
const CURRENT: &str = "current";
/// Where the endpoints for clients within the cluster are counted from, in the same map as all others.
const INSIDE: u32 = 0x8000_0000;
/// Clients whose endpoints are remembered; further ones get theirs by a hash.
const MOST_REMEMBERED: u32 = 65_536;

const SERVICE_KEY: &[Field] = &[Field::Address, Field::Protocol, Field::Port];
const PORT_KEY: &[Field] = &[Field::Protocol, Field::Port];

const SETS: [SetSpec; 15] = [
    SetSpec { name: SERVICES, key: SERVICE_KEY, kind: SetKind::VerdictMap },
    SetSpec { name: NODE_PORTS, key: PORT_KEY, kind: SetKind::VerdictMap },
    SetSpec {
        name: ENDPOINTS,
        key: &[Field::Address, Field::Protocol, Field::Port, Field::Number],
        kind: SetKind::DataMap(&[Field::Address, Field::Port]),
    },
    SetSpec { name: REFUSED, key: SERVICE_KEY, kind: SetKind::Set },
    SetSpec { name: REFUSED_PORTS, key: PORT_KEY, kind: SetKind::Set },
    // What has endpoints on other nodes only, though nobody else's may be used: nothing is said.
    SetSpec { name: SILENT, key: SERVICE_KEY, kind: SetKind::Set },
    SetSpec { name: SILENT_PORTS, key: PORT_KEY, kind: SetKind::Set },
    // The same for clients from outside; those within the cluster are sent to any node's endpoints.
    SetSpec { name: SILENT_OUTSIDE, key: SERVICE_KEY, kind: SetKind::Set },
    SetSpec { name: SILENT_PORTS_OUTSIDE, key: PORT_KEY, kind: SetKind::Set },
    SetSpec { name: SERVICES_INSIDE, key: SERVICE_KEY, kind: SetKind::VerdictMap },
    SetSpec { name: NODE_PORTS_INSIDE, key: PORT_KEY, kind: SetKind::VerdictMap },
    // What only some clients may reach, and the chain that knows them.
    SetSpec { name: GUARDED, key: SERVICE_KEY, kind: SetKind::VerdictMap },
    // Which endpoint a client has, and which endpoints a Service has: one that is gone is drawn anew.
    SetSpec {
        name: AFFINITY,
        key: &[Field::Address, Field::Protocol, Field::Port, Field::Address],
        kind: SetKind::Memory(&[Field::Address, Field::Port], MOST_REMEMBERED),
    },
    SetSpec {
        name: CURRENT,
        key: &[Field::Address, Field::Protocol, Field::Port, Field::Address, Field::Port],
        kind: SetKind::Set,
    },
    // The endpoints, each paired with itself: who reaches itself through a Service.
    SetSpec { name: HAIRPIN, key: &[Field::Address, Field::Address], kind: SetKind::Set },
];

/// Marks packets whose source is to be rewritten when they leave; the bit that Kubernetes uses for it.
const MARK: u32 = 0x4000;
/// Refusing comes just before address translation at -100, while packets still carry the Service's address.
const REFUSE_PRIORITY: i32 = -110;
const TRANSLATE_PRIORITY: i32 = -100;
const LEAVE_PRIORITY: i32 = 100;
const LOOPBACK: Ipv4Cidr = Ipv4Cidr { address: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 };
const MULTICAST: Ipv4Cidr = Ipv4Cidr { address: Ipv4Addr::new(224, 0, 0, 0), prefix: 4 };

const R0: Reg = Reg(0);
const R1: Reg = Reg(1);
const R2: Reg = Reg(2);
const R3: Reg = Reg(3);
const R4: Reg = Reg(4);
const R5: Reg = Reg(5);
const R6: Reg = Reg(6);

/// What the table depends on beside the Services.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub(super) table: String,
    /// The addresses of all pods.
    pub(super) cluster_cidr: Ipv4Cidr,
    /// Whether node ports are served on 127.0.0.0/8 as well.
    pub(super) loopback: bool,
}

/// A chain that draws an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Draw {
    node_port: bool,
    inside: bool,
    sticky: Option<u32>,
    masquerade: Masquerade,
    count: u32,
}

impl Draw {
    fn of(frontend: &Frontend, target: &Target, inside: bool) -> Option<Self> {
        let count = u32::try_from(target.backends.len()).ok().filter(|count| *count > 0)?;
        let (sticky, masquerade) = (target.sticky, target.masquerade);
        Some(Self { node_port: frontend.address.is_none(), inside, sticky, masquerade, count })
    }

    fn name(self) -> String {
        let place = match (self.node_port, self.inside) {
            (true, false) => "node-port",
            (false, false) => "service",
            (true, true) => "node-port-inside",
            (false, true) => "service-inside",
        };
        let how = self.sticky.map_or("any".to_owned(), |seconds| format!("sticky-{seconds}"));
        let masquerade = match self.masquerade {
            Masquerade::Always => "masquerade",
            Masquerade::Outside => "masquerade-outside",
            Masquerade::Never => "direct",
        };
        format!("{place}-{masquerade}-{how}-of-{}", self.count)
    }

    fn add(self, batch: &mut Batch, base: &Base) {
        let name = self.name();
        batch.add_chain(&name);
        match self.masquerade {
            Masquerade::Always => batch.add_rule(&name, &set_mark(true)),
            Masquerade::Outside => {
                let mut rule = vec![Expr::LoadSource(R0)];
                rule.extend(base.cluster_cidr.check(R0, Compare::NotEqual));
                rule.extend(set_mark(true));
                batch.add_rule(&name, &rule);
            }
            Masquerade::Never => {}
        }
        let key = || {
            let address = if self.node_port {
                Expr::Load(R0, Ipv4Addr::UNSPECIFIED.octets().to_vec())
            } else {
                Expr::LoadDestination(R0)
            };
            vec![address, Expr::LoadProtocol(R1), Expr::LoadDestinationPort(R2)]
        };
        let offset = if self.inside { INSIDE } else { 0 };
        let any = Expr::Random(R3, self.count, offset);
        let mut draw = key();
        let Some(seconds) = self.sticky else {
            draw.extend([any, Expr::Map(ENDPOINTS, R0, R4), Expr::RewriteDestination(R4, R5)]);
            return batch.add_rule(&name, &draw);
        };
        // The endpoint that the client has, if the Service still has it: it takes the client's place in the key.
        let mut known = key();
        known.extend([Expr::LoadSource(R3), Expr::Map(AFFINITY, R0, R3), Expr::Contains(CURRENT, R0)]);
        known.extend([Expr::LoadSource(R3), Expr::Map(AFFINITY, R0, R5), Expr::Remember(AFFINITY, R0, R5, seconds)]);
        known.push(Expr::RewriteDestination(R5, R6));
        batch.add_rule(&name, &known);
        // One that is gone is forgotten: what is there cannot be changed, only kept longer.
        let mut gone = key();
        gone.extend([Expr::LoadSource(R3), Expr::Load(R5, vec![0; 8]), Expr::Forget(AFFINITY, R0, R5)]);
        batch.add_rule(&name, &gone);
        // The choice of a client that nobody remembers is the same every time, too.
        // A hash of one is refused by the kernel, and the same as any draw of one.
        let choice = if self.count > 1 { Expr::Hash(R3, R4, self.count, offset) } else { any };
        draw.extend([Expr::LoadSource(R4), choice, Expr::Map(ENDPOINTS, R0, R5)]);
        let mut remembered = draw.clone();
        remembered.extend([Expr::LoadSource(R3), Expr::Remember(AFFINITY, R0, R5, seconds)]);
        for mut rule in [remembered, draw] {
            rule.push(Expr::RewriteDestination(R5, R6));
            batch.add_rule(&name, &rule);
        }
    }
}

/// The clients that may reach a guarded frontend: a chain that drops all others.
fn guard_name(sources: &[Ipv4Cidr]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in sources.iter().flat_map(|range| [&range.address.octets()[..], &[range.prefix]].concat()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("only-from-{hash:016x}")
}

fn add_guard(batch: &mut Batch, sources: &[Ipv4Cidr]) {
    let name = guard_name(sources);
    batch.add_chain(&name);
    for range in sources {
        let mut rule = vec![Expr::LoadSource(R0)];
        rule.extend(range.check(R0, Compare::Equal));
        rule.push(Expr::Verdict(Verdict::Return));
        batch.add_rule(&name, &rule);
    }
    batch.add_rule(&name, &[Expr::Verdict(Verdict::Drop)]);
}

fn guards(ruleset: &Ruleset) -> BTreeSet<Vec<Ipv4Cidr>> {
    ruleset.frontends.values().filter(|target| !target.sources.is_empty()).map(|t| t.sources.clone()).collect()
}

/// Sets or clears the mark.
fn set_mark(on: bool) -> [Expr; 3] {
    let xor = if on { MARK } else { 0 };
    [Expr::LoadMark(R0), Expr::Bits(R0, (!MARK).to_ne_bytes(), xor.to_ne_bytes()), Expr::StoreMark(R0)]
}

/// The elements of all sets, by set and key.
type Elements = BTreeMap<(&'static str, Vec<u8>), Value>;

fn port_key(frontend: &Frontend) -> Vec<u8> {
    let [high, low] = frontend.port.to_be_bytes();
    vec![frontend.protocol as u8, 0, 0, 0, high, low, 0, 0]
}

fn service_key(frontend: &Frontend) -> Vec<u8> {
    let address = frontend.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
    [&address.octets()[..], &port_key(frontend)].concat()
}

fn elements(ruleset: &Ruleset) -> Elements {
    let mut elements = Elements::new();
    for (frontend, target) in &ruleset.frontends {
        let has_inside = ruleset.inside.get(frontend).is_some_and(|inside| !inside.backends.is_empty());
        let (map, refused, silent, key) = match (frontend.address, has_inside) {
            (Some(_), false) => (SERVICES, REFUSED, SILENT, service_key(frontend)),
            (Some(_), true) => (SERVICES, REFUSED, SILENT_OUTSIDE, service_key(frontend)),
            (None, false) => (NODE_PORTS, REFUSED_PORTS, SILENT_PORTS, port_key(frontend)),
            (None, true) => (NODE_PORTS, REFUSED_PORTS, SILENT_PORTS_OUTSIDE, port_key(frontend)),
        };
        if frontend.address.is_some() && !target.sources.is_empty() {
            let guard = Verdict::Jump(guard_name(&target.sources));
            elements.insert((GUARDED, key.clone()), Value::Verdict(guard));
        }
        match Draw::of(frontend, target, false) {
            Some(draw) => draw_elements(&mut elements, draw, map, frontend, target),
            None => drop(elements.insert((if target.elsewhere { silent } else { refused }, key), Value::None)),
        }
    }
    for (frontend, target) in &ruleset.inside {
        let map = if frontend.address.is_some() { SERVICES_INSIDE } else { NODE_PORTS_INSIDE };
        if let Some(draw) = Draw::of(frontend, target, true) {
            draw_elements(&mut elements, draw, map, frontend, target);
        }
    }
    for address in ruleset.addresses() {
        elements.insert((HAIRPIN, [address.octets(), address.octets()].concat()), Value::None);
    }
    elements
}

/// The way from a frontend to its endpoints.
fn draw_elements(elements: &mut Elements, draw: Draw, map: &'static str, frontend: &Frontend, target: &Target) {
    let key = if frontend.address.is_some() { service_key(frontend) } else { port_key(frontend) };
    elements.insert((map, key), Value::Verdict(Verdict::Goto(draw.name())));
    let first = if draw.inside { INSIDE } else { 0 };
    for (index, backend) in (first..).zip(&target.backends) {
        let key = [&service_key(frontend)[..], &index.to_ne_bytes()].concat();
        let [high, low] = backend.port.to_be_bytes();
        let value = [&backend.address.octets()[..], &[high, low, 0, 0]].concat();
        if draw.sticky.is_some() {
            elements.insert((CURRENT, [&service_key(frontend)[..], &value].concat()), Value::None);
        }
        elements.insert((ENDPOINTS, key), Value::Data(value));
    }
}

fn draws(ruleset: &Ruleset) -> BTreeSet<Draw> {
    let outside = ruleset.frontends.iter().filter_map(|(frontend, target)| Draw::of(frontend, target, false));
    outside.chain(ruleset.inside.iter().filter_map(|(frontend, target)| Draw::of(frontend, target, true))).collect()
}

/// The table as it is in the kernel.
#[derive(Debug)]
pub(super) struct Program {
    base: Base,
    elements: Elements,
    draws: BTreeSet<Draw>,
    guards: BTreeSet<Vec<Ipv4Cidr>>,
}

impl Program {
    /// Puts the whole table in place of whatever was there under its name.
    pub(super) fn replace(base: Base, ruleset: &Ruleset) -> Result<Self, Error> {
        let program = Self { base, elements: elements(ruleset), draws: draws(ruleset), guards: guards(ruleset) };
        let mut batch = Batch::new(&program.base.table);
        // Adding first makes deleting possible where there was nothing.
        batch.add_table();
        batch.delete_table();
        batch.add_table();
        for set in &SETS {
            batch.add_set(set);
        }
        add_base(&mut batch, &program.base);
        for draw in &program.draws {
            draw.add(&mut batch, &program.base);
        }
        for sources in &program.guards {
            add_guard(&mut batch, sources);
        }
        for set in &SETS {
            batch.add_elements(set.name, &of_set(&program.elements, set.name, |_, _| true));
        }
        batch.commit()?;
        Ok(program)
    }

    /// Changes what differs. After an error the kernel has what it had.
    pub(super) fn update(&mut self, ruleset: &Ruleset) -> Result<(), Error> {
        let (new, draws, guards) = (elements(ruleset), draws(ruleset), guards(ruleset));
        let mut batch = Batch::new(&self.base.table);
        // Chains that are not needed any more stay: there are few, and they may be needed again.
        for draw in draws.difference(&self.draws) {
            draw.add(&mut batch, &self.base);
        }
        for sources in guards.difference(&self.guards) {
            add_guard(&mut batch, sources);
        }
        for set in &SETS {
            let gone = of_set(&self.elements, set.name, |key, value| new.get(key) != Some(value));
            batch.delete_elements(set.name, &gone);
        }
        for set in &SETS {
            let come = of_set(&new, set.name, |key, value| self.elements.get(key) != Some(value));
            batch.add_elements(set.name, &come);
        }
        batch.commit()?;
        self.elements = new;
        self.draws.extend(draws);
        self.guards.extend(guards);
        Ok(())
    }
}

/// Deletes the table, if it is there.
pub(super) fn remove(table: &str) -> Result<(), Error> {
    let mut batch = Batch::new(table);
    batch.add_table();
    batch.delete_table();
    batch.commit()
}

fn of_set(
    elements: &Elements,
    set: &'static str,
    choose: impl Fn(&(&'static str, Vec<u8>), &Value) -> bool,
) -> Vec<(Vec<u8>, Value)> {
    elements
        .range((set, Vec::new())..)
        .take_while(|((name, _), _)| *name == set)
        .filter(|(key, value)| choose(key, value))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect()
}

/// The rules that all packets pass, whatever Services there are.
fn add_base(batch: &mut Batch, base: &Base) {
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
            rule.extend(LOOPBACK.check(R0, Compare::Equal));
            rule.push(Expr::Verdict(Verdict::Drop));
            batch.add_rule(chain, &rule);
        }
        if hook == Hook::Prerouting {
            let mut rule = new_connections().to_vec();
            rule.extend(load_service());
            rule.push(Expr::VerdictMap(GUARDED, R0));
            batch.add_rule(chain, &rule);
        }
        let mut silence = vec![(SILENT, SILENT_PORTS, Vec::new())];
        if hook == Hook::Prerouting {
            silence.push((SILENT_OUTSIDE, SILENT_PORTS_OUTSIDE, from_cluster(base, Compare::NotEqual)));
        }
        for (services, ports, from) in silence {
            for (load, set) in [(load_service().to_vec(), services), (load_node_port(base), ports)] {
                let mut rule = new_connections().to_vec();
                rule.extend(from.clone());
                rule.extend(load);
                rule.extend([Expr::Contains(set, R0), Expr::Verdict(Verdict::Drop)]);
                batch.add_rule(chain, &rule);
            }
        }
        refuse(batch, chain, &load_service(), Expr::Contains(REFUSED, R0), R1);
        refuse(batch, chain, &load_node_port(base), Expr::Contains(REFUSED_PORTS, R0), R0);
    }
    for (chain, hook) in [("translate-arriving", Hook::Prerouting), ("translate-local", Hook::Output)] {
        batch.add_base_chain(chain, ChainType::Nat, hook, TRANSLATE_PRIORITY);
        // What the host sends is from inside whatever its address.
        let from = if hook == Hook::Prerouting { from_cluster(base, Compare::Equal) } else { Vec::new() };
        for (load, map) in [(load_service().to_vec(), SERVICES_INSIDE), (load_node_port(base), NODE_PORTS_INSIDE)] {
            let mut rule = from.clone();
            rule.extend(load);
            rule.push(Expr::VerdictMap(map, R0));
            batch.add_rule(chain, &rule);
        }
        let mut rule = load_service().to_vec();
        rule.push(Expr::VerdictMap(SERVICES, R0));
        batch.add_rule(chain, &rule);
        let mut rule = load_node_port(base);
        rule.push(Expr::VerdictMap(NODE_PORTS, R0));
        batch.add_rule(chain, &rule);
    }
    add_leaving(batch, base);
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

fn add_leaving(batch: &mut Batch, base: &Base) {
    let chain = "leaving";
    batch.add_base_chain(chain, ChainType::Nat, Hook::Postrouting, LEAVE_PRIORITY);
    let hairpin = [Expr::LoadSource(R0), Expr::LoadDestination(R1), Expr::Contains(HAIRPIN, R0), Expr::Masquerade];
    batch.add_rule(chain, &hairpin);
    let mut marked = vec![
        Expr::LoadMark(R0),
        Expr::Bits(R0, MARK.to_ne_bytes(), [0; 4]),
        Expr::Compare(R0, Compare::NotEqual, vec![0; 4]),
    ];
    marked.extend(set_mark(false));
    marked.push(Expr::Masquerade);
    batch.add_rule(chain, &marked);
    // Pods that leave the cluster.
    let mut egress = vec![Expr::LoadSource(R0)];
    egress.extend(base.cluster_cidr.check(R0, Compare::Equal));
    egress.push(Expr::LoadDestination(R0));
    egress.extend(base.cluster_cidr.check(R0, Compare::NotEqual));
    egress.push(Expr::LoadDestination(R0));
    egress.extend(MULTICAST.check(R0, Compare::NotEqual));
    egress.push(Expr::Masquerade);
    batch.add_rule(chain, &egress);
}

/// Goes on for packets of pods, or for all others.
fn from_cluster(base: &Base, compare: Compare) -> Vec<Expr> {
    let mut rule = vec![Expr::LoadSource(R0)];
    rule.extend(base.cluster_cidr.check(R0, compare));
    rule
}

fn load_service() -> [Expr; 3] {
    [Expr::LoadDestination(R0), Expr::LoadProtocol(R1), Expr::LoadDestinationPort(R2)]
}

/// Goes on for packets to the node itself, with protocol and port loaded.
fn load_node_port(base: &Base) -> Vec<Expr> {
    const LOCAL: u32 = 2;
    let mut rule = vec![Expr::LoadDestinationType(R0), Expr::Compare(R0, Compare::Equal, LOCAL.to_ne_bytes().to_vec())];
    if !base.loopback {
        rule.push(Expr::LoadDestination(R0));
        rule.extend(LOOPBACK.check(R0, Compare::NotEqual));
    }
    rule.extend([Expr::LoadProtocol(R0), Expr::LoadDestinationPort(R1)]);
    rule
}

/// Connections that exist keep what they have, even when a Service loses its last endpoint.
fn new_connections() -> [Expr; 3] {
    const NEW: u32 = 8;
    [
        Expr::LoadConnectionState(R0),
        Expr::Bits(R0, NEW.to_ne_bytes(), [0; 4]),
        Expr::Compare(R0, Compare::NotEqual, vec![0; 4]),
    ]
}
