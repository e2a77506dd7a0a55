//! The ruleset as nftables, one table for each family: base chains, maps, and a chain for each number of endpoints.
//!
//! A Service is elements in maps, never a chain of its own: its address, protocol and port lead to the
//! chain that draws one of N, and that number together with the key leads to the endpoint.

mod rules;

use super::ruleset::{Backend, Frontend, Masquerade, Ruleset, Target};
use crate::nft::{Batch, Compare, Error, Expr, Family, Field, Reg, SetKind, SetSpec, Value, Verdict, octets};
use naru_api::address::Cidr;
use rules::{add_base, from_cluster};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

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
const SLOTS: &str = "slots";
/// Where the endpoints for clients within the cluster are counted from, in the same map as all others.
const INSIDE: u32 = 0x8000_0000;
/// Numbers by which endpoints are remembered, in the same map as those by which they are counted.
const SLOT: u32 = 0x4000_0000;
/// Clients whose endpoints are remembered; further ones are drawn one each time.
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
    // By which number a client's endpoint is known: one that is gone is drawn anew. And the numbers of those that can be
    // drawn, which stay the same while others come and go.
    SetSpec {
        name: AFFINITY,
        key: &[Field::Address, Field::Protocol, Field::Port, Field::Address],
        kind: SetKind::Memory(&[Field::Number], MOST_REMEMBERED),
    },
    SetSpec {
        name: SLOTS,
        key: &[Field::Address, Field::Protocol, Field::Port, Field::Number],
        kind: SetKind::DataMap(&[Field::Number]),
    },
    // The endpoints, each paired with itself: who reaches itself through a Service.
    SetSpec { name: HAIRPIN, key: &[Field::Address, Field::Address], kind: SetKind::Set },
];

/// Marks packets whose source is to be rewritten when they leave; the bit that Kubernetes uses for it.
const MARK: u32 = 0x4000;
const R0: Reg = Reg(0);

/// Where the parts of a key are: an address of IPv6 takes four registers.
impl Family {
    /// A second address, or the protocol.
    fn second(self) -> Reg {
        Reg(self.words())
    }

    /// The port, after address and protocol.
    fn port(self) -> Reg {
        Reg(self.words() + 1)
    }

    /// What follows address, protocol and port.
    fn fourth(self) -> Reg {
        Reg(self.words() + 2)
    }

    /// What follows an address there.
    fn fifth(self) -> Reg {
        Reg(2 * self.words() + 2)
    }

    /// What follows a number there.
    fn sixth(self) -> Reg {
        Reg(2 * self.words() + 3)
    }
}

/// What the tables depend on beside the Services.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub(super) table: String,
    /// The addresses of all pods, of one or both families; the others have no table.
    pub(super) pods: Vec<Cidr>,
    /// Whether node ports are served on 127.0.0.0/8 as well.
    pub(super) loopback: bool,
    /// Whether pods leave the cluster with their own addresses of IPv6.
    pub(super) routed_v6: bool,
}

impl Base {
    fn families(&self) -> impl Iterator<Item = OneBase> {
        self.pods.iter().map(|pods| {
            let family = Family::of(pods.network);
            let hidden = family == Family::V4 || !self.routed_v6;
            OneBase { family, pods: *pods, loopback: self.loopback && family == Family::V4, hidden }
        })
    }
}

/// The same, of one family.
#[derive(Debug, Clone, Copy)]
struct OneBase {
    family: Family,
    pods: Cidr,
    loopback: bool,
    /// Whether pods that leave the cluster get the node's address.
    hidden: bool,
}

/// A chain that draws an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Draw {
    family: Family,
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
        let (family, node_port) = (frontend.family(), frontend.is_node_port());
        Some(Self { family, node_port, inside, sticky, masquerade, count })
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

    fn add(self, batch: &mut Batch, base: &OneBase) {
        let name = self.name();
        batch.add_chain(&name);
        match self.masquerade {
            Masquerade::Always => batch.add_rule(&name, &set_mark(true)),
            Masquerade::Outside => {
                let mut rule = from_cluster(base, Compare::NotEqual);
                rule.extend(set_mark(true));
                batch.add_rule(&name, &rule);
            }
            Masquerade::Never => {}
        }
        let offset = if self.inside { INSIDE } else { 0 };
        let family = self.family;
        let (number, address, port) = (family.fourth(), Reg(family.fourth().0 + 1), Reg(family.fifth().0 + 1));
        let any = Expr::Random(number, self.count, offset);
        if self.sticky.is_some() {
            return self.add_sticky(batch, any);
        }
        let mut draw = self.key();
        draw.extend([any, Expr::Map(ENDPOINTS, R0, address), Expr::RewriteDestination(address, port)]);
        batch.add_rule(&name, &draw);
    }

    fn key(self) -> Vec<Expr> {
        let address = match self.node_port {
            true => Expr::Load(R0, octets(self.family.unspecified())),
            false => Expr::LoadDestination(R0),
        };
        vec![address, Expr::LoadProtocol(self.family.second()), Expr::LoadDestinationPort(self.family.port())]
    }

    fn add_sticky(self, batch: &mut Batch, any: Expr) {
        let (name, family, seconds) = (self.name(), self.family, self.sticky.unwrap_or_default());
        let (client, number, endpoint) = (family.fourth(), family.fifth(), family.sixth());
        let port = Reg(endpoint.0 + family.words());
        // The endpoint that the client has, if the Service still has it: its number takes the client's place in the key.
        let mut known = self.key();
        known.extend([Expr::LoadSource(client), Expr::Map(AFFINITY, R0, client)]);
        known.extend(plain_number(client, number, port));
        known.extend([Expr::Map(ENDPOINTS, R0, endpoint), Expr::LoadSource(client)]);
        known.extend([Expr::Remember(AFFINITY, R0, number, seconds), Expr::RewriteDestination(endpoint, port)]);
        batch.add_rule(&name, &known);
        // One that is gone is forgotten: what is there cannot be changed, only kept longer.
        let mut gone = self.key();
        gone.extend([Expr::LoadSource(client), Expr::Load(number, vec![0; 4]), Expr::Forget(AFFINITY, R0, number)]);
        batch.add_rule(&name, &gone);
        // A client that nobody remembers, or not any more, gets any. Clients beyond what is remembered do each time.
        let mut draw = self.key();
        draw.extend([any, Expr::Map(SLOTS, R0, client)]);
        draw.extend(plain_number(client, number, port));
        draw.push(Expr::Map(ENDPOINTS, R0, endpoint));
        let mut remembered = draw.clone();
        remembered.extend([Expr::LoadSource(client), Expr::Remember(AFFINITY, R0, number, seconds)]);
        for mut rule in [remembered, draw] {
            rule.push(Expr::RewriteDestination(endpoint, port));
            batch.add_rule(&name, &rule);
        }
    }
}

/// Turns a number that comes out of a map into one that may stand in keys and values: releases of the program `nft`
/// abort over the former, and with them whatever is built on its library. The detour by the packet's priority, which
/// gets back what it was, gives it a length that they know. The number is left in `to` as well; `free` is overwritten.
fn plain_number(number: Reg, to: Reg, free: Reg) -> [Expr; 5] {
    [
        Expr::LoadPriority(free),
        Expr::StorePriority(number),
        Expr::LoadPriority(number),
        Expr::LoadPriority(to),
        Expr::StorePriority(free),
    ]
}

/// The number by which an endpoint is remembered, whatever others there are.
fn slot(backend: &Backend, inside: bool) -> u32 {
    let octets = [&octets(backend.address)[..], &backend.port.to_be_bytes()].concat();
    let hash = hash(&octets);
    let folded = (hash ^ (hash >> 32)) as u32;
    (folded & (SLOT - 1)) | SLOT | if inside { INSIDE } else { 0 }
}

/// FNV-1a.
fn hash(octets: &[u8]) -> u64 {
    octets.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The clients that may reach a guarded frontend: a chain that drops all others.
fn guard_name(sources: &[Cidr]) -> String {
    let octets: Vec<u8> = sources.iter().flat_map(|range| [octets(range.network), vec![range.bits]].concat()).collect();
    format!("only-from-{:016x}", hash(&octets))
}

fn add_guard(batch: &mut Batch, sources: &[Cidr]) {
    let name = guard_name(sources);
    batch.add_chain(&name);
    for range in sources {
        let mut rule = vec![Expr::LoadSource(R0)];
        rule.extend(Expr::in_range(R0, Compare::Equal, *range));
        rule.push(Expr::Verdict(Verdict::Return));
        batch.add_rule(&name, &rule);
    }
    batch.add_rule(&name, &[Expr::Verdict(Verdict::Drop)]);
}

fn guards<'a>(targets: impl Iterator<Item = &'a Target>) -> BTreeSet<Vec<Cidr>> {
    targets.filter(|target| !target.sources.is_empty()).map(|target| target.sources.clone()).collect()
}

/// Sets or clears the mark.
fn set_mark(on: bool) -> [Expr; 3] {
    let xor = if on { MARK } else { 0 };
    let (mask, xor) = ((!MARK).to_ne_bytes().to_vec(), u32::to_ne_bytes(xor).to_vec());
    [Expr::LoadMark(R0), Expr::Bits(R0, mask, xor), Expr::StoreMark(R0)]
}

/// The elements of all sets, by family, set and key.
type Elements = BTreeMap<(Family, &'static str, Vec<u8>), Value>;

fn port_key(frontend: &Frontend) -> Vec<u8> {
    let [high, low] = frontend.port.to_be_bytes();
    vec![frontend.protocol as u8, 0, 0, 0, high, low, 0, 0]
}

fn service_key(frontend: &Frontend) -> Vec<u8> {
    [octets(frontend.address), port_key(frontend)].concat()
}

/// What one frontend is in the sets.
fn add_elements(elements: &mut Elements, ruleset: &Ruleset, frontend: &Frontend) {
    let Some(target) = ruleset.frontends.get(frontend) else { return };
    let inside = ruleset.inside.get(frontend);
    let family = frontend.family();
    let has_inside = inside.is_some_and(|inside| !inside.backends.is_empty());
    let (map, refused, silent, key) = match (frontend.is_node_port(), has_inside) {
        (false, false) => (SERVICES, REFUSED, SILENT, service_key(frontend)),
        (false, true) => (SERVICES, REFUSED, SILENT_OUTSIDE, service_key(frontend)),
        (true, false) => (NODE_PORTS, REFUSED_PORTS, SILENT_PORTS, port_key(frontend)),
        (true, true) => (NODE_PORTS, REFUSED_PORTS, SILENT_PORTS_OUTSIDE, port_key(frontend)),
    };
    if !frontend.is_node_port() && !target.sources.is_empty() {
        let guard = Verdict::Jump(guard_name(&target.sources));
        elements.insert((family, GUARDED, key.clone()), Value::Verdict(guard));
    }
    match Draw::of(frontend, target, false) {
        Some(draw) => draw_elements(elements, draw, map, frontend, target),
        None => {
            let set = if target.elsewhere { silent } else { refused };
            elements.insert((family, set, key), Value::None);
        }
    }
    if let Some(inside) = inside
        && let Some(draw) = Draw::of(frontend, inside, true)
    {
        let map = if frontend.is_node_port() { NODE_PORTS_INSIDE } else { SERVICES_INSIDE };
        draw_elements(elements, draw, map, frontend, inside);
    }
}

/// The frontends that are not the same in both.
fn changed(old: &Ruleset, new: &Ruleset) -> Vec<Frontend> {
    let differs = |frontend: &&Frontend| {
        old.frontends.get(frontend) != new.frontends.get(frontend)
            || old.inside.get(frontend) != new.inside.get(frontend)
    };
    let gone = old.frontends.keys().filter(|frontend| !new.frontends.contains_key(frontend));
    new.frontends.keys().filter(differs).chain(gone).copied().collect()
}

/// How many frontends lead to each address.
pub(super) type Addresses = BTreeMap<IpAddr, usize>;

fn pair(address: IpAddr) -> (Family, &'static str, Vec<u8>) {
    (Family::of(address), HAIRPIN, [octets(address), octets(address)].concat())
}

/// The way from a frontend to its endpoints.
fn draw_elements(elements: &mut Elements, draw: Draw, map: &'static str, frontend: &Frontend, target: &Target) {
    let (family, whole) = (draw.family, service_key(frontend));
    let key = if frontend.is_node_port() { port_key(frontend) } else { whole.clone() };
    elements.insert((family, map, key), Value::Verdict(Verdict::Goto(draw.name())));
    let first = if draw.inside { INSIDE } else { 0 };
    for (index, backend) in (first..).zip(&target.backends) {
        let numbered = |number: u32| [&whole[..], &number.to_ne_bytes()].concat();
        let [high, low] = backend.port.to_be_bytes();
        let value = [&octets(backend.address)[..], &[high, low, 0, 0]].concat();
        let mut number = index;
        if draw.sticky.is_some() {
            number = slot(backend, draw.inside);
            let data = number.to_ne_bytes().to_vec();
            elements.insert((family, SLOTS, numbered(index)), Value::Data(data));
        }
        elements.insert((family, ENDPOINTS, numbered(number)), Value::Data(value));
    }
}

fn draws<'a>(ruleset: &'a Ruleset, frontends: impl Iterator<Item = &'a Frontend>) -> BTreeSet<Draw> {
    let of_one = |frontend: &'a Frontend| {
        let outside = ruleset.frontends.get(frontend).and_then(|target| Draw::of(frontend, target, false));
        let inside = ruleset.inside.get(frontend).and_then(|target| Draw::of(frontend, target, true));
        outside.into_iter().chain(inside)
    };
    frontends.flat_map(of_one).collect()
}

/// The tables as they are in the kernel.
#[derive(Debug)]
pub(super) struct Program {
    base: Base,
    ruleset: Ruleset,
    addresses: Addresses,
    draws: BTreeSet<Draw>,
    guards: BTreeSet<Vec<Cidr>>,
}

impl Program {
    /// Puts whole tables in place of whatever was there under their name, both families in one step.
    pub(super) fn replace(base: Base, ruleset: Ruleset) -> Result<Self, Error> {
        let mut addresses = Addresses::new();
        let mut elements = Elements::new();
        for frontend in ruleset.frontends.keys() {
            add_elements(&mut elements, &ruleset, frontend);
            for address in ruleset.addresses_of(frontend) {
                *addresses.entry(address).or_default() += 1;
            }
        }
        elements.extend(addresses.keys().map(|address| (pair(*address), Value::None)));
        let draws = draws(&ruleset, ruleset.frontends.keys());
        let guards = guards(ruleset.frontends.values());
        let mut batch = Batch::new(&base.table);
        delete(&mut batch);
        for base in base.families() {
            batch.turn_to(base.family);
            batch.add_table();
            for set in &SETS {
                batch.add_set(set);
            }
            add_base(&mut batch, &base);
            for draw in draws.iter().filter(|draw| draw.family == base.family) {
                draw.add(&mut batch, &base);
            }
            for sources in of_family(&guards, base.family) {
                add_guard(&mut batch, sources);
            }
            for set in &SETS {
                batch.add_elements(set.name, &of_set(&elements, base.family, set.name, |_, _| true));
            }
        }
        batch.commit()?;
        Ok(Self { base, ruleset, addresses, draws, guards })
    }

    /// Changes what differs, and looks at nothing else. After an error the kernel has what it had.
    pub(super) fn update(&mut self, wanted: Ruleset) -> Result<(), Error> {
        let changed = changed(&self.ruleset, &wanted);
        let (mut old, mut new) = (Elements::new(), Elements::new());
        let mut counts = BTreeMap::<IpAddr, isize>::new();
        for frontend in &changed {
            add_elements(&mut old, &self.ruleset, frontend);
            add_elements(&mut new, &wanted, frontend);
            for address in self.ruleset.addresses_of(frontend) {
                *counts.entry(address).or_default() -= 1;
            }
            for address in wanted.addresses_of(frontend) {
                *counts.entry(address).or_default() += 1;
            }
        }
        for (address, change) in &counts {
            let before = self.addresses.get(address).copied().unwrap_or_default();
            match (before, before.saturating_add_signed(*change)) {
                (0, 1..) => drop(new.insert(pair(*address), Value::None)),
                (1.., 0) => drop(old.insert(pair(*address), Value::None)),
                _ => {}
            }
        }
        let draws = draws(&wanted, changed.iter());
        let guards = guards(changed.iter().filter_map(|frontend| wanted.frontends.get(frontend)));
        let mut batch = Batch::new(&self.base.table);
        for base in self.base.families() {
            let family = base.family;
            batch.turn_to(family);
            // Chains that are not needed any more stay: there are few, and they may be needed again.
            for draw in draws.difference(&self.draws).filter(|draw| draw.family == family) {
                draw.add(&mut batch, &base);
            }
            for sources in of_family(&guards, family).filter(|sources| !self.guards.contains(*sources)) {
                add_guard(&mut batch, sources);
            }
            for set in &SETS {
                let gone = of_set(&old, family, set.name, |key, value| new.get(key) != Some(value));
                batch.delete_elements(set.name, &gone);
            }
            for set in &SETS {
                let come = of_set(&new, family, set.name, |key, value| old.get(key) != Some(value));
                batch.add_elements(set.name, &come);
            }
        }
        batch.commit()?;
        for (address, change) in counts {
            let count = self.addresses.entry(address).or_default();
            *count = count.saturating_add_signed(change);
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
        self.ruleset = wanted;
        self.draws.extend(draws);
        self.guards.extend(guards);
        Ok(())
    }

    /// What it was made from.
    pub(super) fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// The addresses of all endpoints.
    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

fn of_family(guards: &BTreeSet<Vec<Cidr>>, family: Family) -> impl Iterator<Item = &Vec<Cidr>> {
    guards.iter().filter(move |sources| sources.iter().any(|range| Family::of(range.network) == family))
}

/// Deletes the tables of both families, whether they are there or not: adding first makes deleting possible.
fn delete(batch: &mut Batch) {
    let families: &[Family] = if has_ipv6() { &[Family::V4, Family::V6] } else { &[Family::V4] };
    for family in families {
        batch.turn_to(*family);
        batch.add_table();
        batch.delete_table();
    }
}

/// Whether the kernel knows IPv6 at all.
fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// Deletes the tables, if they are there.
pub(super) fn remove(table: &str) -> Result<(), Error> {
    let mut batch = Batch::new(table);
    delete(&mut batch);
    batch.commit()
}

fn of_set(
    elements: &Elements,
    family: Family,
    set: &'static str,
    choose: impl Fn(&(Family, &'static str, Vec<u8>), &Value) -> bool,
) -> Vec<(Vec<u8>, Value)> {
    elements
        .range((family, set, Vec::new())..)
        .take_while(|((of, name, _), _)| *of == family && *name == set)
        .filter(|(key, value)| choose(key, value))
        .map(|((_, _, key), value)| (key.clone(), value.clone()))
        .collect()
}
