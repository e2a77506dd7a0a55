//! Connection tracking of UDP. There are no connections to end: a client that goes on sending keeps the endpoint it
//! once had, even one that is gone, until the kernel forgets about it. So it is made to.

use super::ruleset::{Backend, Frontend, Protocol, Ruleset};
use crate::nft::{self, Error, Family, attribute};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const UDP: u8 = 17;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;
/// The source's address in a tuple; the destination's number follows.
const SOURCE_V4: u16 = 1;
const SOURCE_V6: u16 = 3;
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const GET: u16 = 1;
const DELETE: u16 = 2;

/// What has to be forgotten after a change of the ruleset.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stale {
    /// Frontends whose endpoints have changed, and the endpoints that they have now.
    services: BTreeMap<(IpAddr, u16), BTreeSet<Backend>>,
    /// Ports of the node, and the endpoints that they no longer have.
    node_ports: BTreeMap<(Family, u16), BTreeSet<Backend>>,
}

impl Stale {
    /// Compares two rulesets.
    pub(super) fn between(old: &Ruleset, new: &Ruleset) -> Self {
        let mut stale = Self::default();
        let of = |ruleset: &Ruleset, frontend: &Frontend| -> BTreeSet<Backend> {
            let targets = [&ruleset.frontends, &ruleset.inside].into_iter().filter_map(|map| map.get(frontend));
            targets.flat_map(|target| target.backends.iter().copied()).collect()
        };
        let all = old.frontends.keys().chain(new.frontends.keys());
        for frontend in all.filter(|frontend| frontend.protocol == Protocol::Udp) {
            let (before, now) = (of(old, frontend), of(new, frontend));
            let first = before.is_empty() && !now.is_empty();
            if before.is_subset(&now) && !first {
                continue;
            }
            if frontend.is_node_port() {
                let gone = before.difference(&now).copied().collect();
                stale.node_ports.insert((frontend.family(), frontend.port), gone);
            } else {
                stale.services.insert((frontend.address, frontend.port), now);
            }
        }
        stale
    }

    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty() && self.node_ports.is_empty()
    }

    fn has(&self, flow: &Flow<'_>) -> bool {
        let service = self.services.get(&(flow.asked, flow.asked_port));
        let node_port = self.node_ports.get(&(Family::of(flow.asked), flow.asked_port));
        service.is_some_and(|now| !now.contains(&flow.answers))
            || node_port.is_some_and(|gone| gone.contains(&flow.answers))
    }

    /// Makes the kernel forget. Blocks.
    pub(super) fn forget(&self) -> Result<usize, Error> {
        const ALL_FAMILIES: u8 = 0;
        let mut found: Vec<(Family, Vec<u8>)> = Vec::new();
        nft::dump(&request(GET, ALL_FAMILIES, &[]), &mut |body| {
            if let Some(flow) = Flow::read(body).filter(|flow| self.has(flow)) {
                found.push((Family::of(flow.asked), flow.original.to_vec()));
            }
        })?;
        let mut forgotten = 0;
        for (family, original) in &found {
            let mut attribute = Vec::with_capacity(original.len() + 4);
            let length = u16::try_from(original.len() + 4).unwrap_or(u16::MAX);
            attribute.extend_from_slice(&length.to_ne_bytes());
            attribute.extend_from_slice(&(ORIGINAL | 0x8000).to_ne_bytes());
            attribute.extend_from_slice(original);
            match nft::exchange(Some(rustix::net::netlink::NETFILTER), &request(DELETE, family.number(), &attribute)) {
                Ok(()) => forgotten += 1,
                // It has ended meanwhile.
                Err(Error::Refused(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(forgotten)
    }
}

/// One tracked flow of UDP.
#[derive(Debug)]
struct Flow<'a> {
    /// The attribute by which the kernel knows it.
    original: &'a [u8],
    asked: IpAddr,
    asked_port: u16,
    answers: Backend,
}

impl<'a> Flow<'a> {
    /// Reads a message's attributes.
    fn read(body: &'a [u8]) -> Option<Self> {
        let original = attribute(body, ORIGINAL)?;
        let reply = attribute(body, REPLY)?;
        let protocol = attribute(original, PROTOCOL)?;
        if attribute(protocol, NUMBER)?.first() != Some(&UDP) {
            return None;
        }
        let address = |tuple: &'a [u8], which: u16| -> Option<IpAddr> {
            let addresses = attribute(tuple, ADDRESSES)?;
            match attribute(addresses, SOURCE_V4 + which) {
                Some(octets) => Some(<[u8; 4]>::try_from(octets).ok()?.into()),
                None => Some(<[u8; 16]>::try_from(attribute(addresses, SOURCE_V6 + which)?).ok()?.into()),
            }
        };
        let port = |tuple: &'a [u8], which: u16| -> Option<u16> {
            let bytes = attribute(attribute(tuple, PROTOCOL)?, which)?;
            Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
        };
        Some(Self {
            original,
            asked: address(original, 1)?,
            asked_port: port(original, DESTINATION_PORT)?,
            answers: Backend { address: address(reply, 0)?, port: port(reply, SOURCE_PORT)? },
        })
    }
}

/// A message to the connection tracking of a family.
fn request(kind: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    const SUBSYSTEM: u16 = 1;
    const REQUEST_DUMP: u16 = 1 | 0x300;
    const REQUEST_ACK: u16 = 1 | 4;
    let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(20 + attributes.len());
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&((SUBSYSTEM << 8) | kind).to_ne_bytes());
    message.extend_from_slice(&if kind == GET { REQUEST_DUMP } else { REQUEST_ACK }.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[family, 0, 0, 0]);
    message.extend_from_slice(attributes);
    message
}

#[cfg(test)]
mod tests {
    use super::super::ruleset::{Masquerade, Target};
    use super::*;

    fn ruleset(protocol: Protocol, address: IpAddr, pods: &[u8]) -> Ruleset {
        let backends = pods.iter().map(|last| Backend { address: [10, 42, 0, *last].into(), port: 53 }).collect();
        let target =
            Target { backends, sticky: None, masquerade: Masquerade::Always, elsewhere: false, sources: Vec::new() };
        let frontends = [(Frontend { address, protocol, port: 53 }, target)].into();
        Ruleset { frontends, ..Ruleset::default() }
    }

    #[test]
    fn what_lost_an_endpoint_or_got_its_first_is_stale() {
        let service = IpAddr::from([10, 43, 0, 10]);
        let check = |protocol, old: &[u8], new: &[u8], expect: bool| {
            let stale = Stale::between(&ruleset(protocol, service, old), &ruleset(protocol, service, new));
            assert_eq!(!stale.is_empty(), expect, "{old:?} {new:?}");
        };
        check(Protocol::Udp, &[2, 3], &[3], true);
        check(Protocol::Udp, &[2], &[2, 3], false);
        check(Protocol::Udp, &[], &[2], true);
        check(Protocol::Udp, &[], &[], false);
        check(Protocol::Tcp, &[2, 3], &[3], false);
        let gone = Stale::between(&ruleset(Protocol::Udp, Family::V4.unspecified(), &[2, 3]), &Ruleset::default());
        assert_eq!(gone.node_ports[&(Family::V4, 53)].len(), 2);
    }

    #[test]
    fn attributes_are_found_among_others() {
        let bytes = [6, 0, 9, 0, 1, 2, 0, 0, 8, 0, 2, 0x80, 10, 0, 0, 1];
        assert_eq!(attribute(&bytes, 9), Some(&[1, 2][..]));
        assert_eq!(attribute(&bytes, 2), Some(&[10, 0, 0, 1][..]));
        assert_eq!(attribute(&bytes, 3), None);
        assert_eq!(attribute(&[2, 0, 1, 0], 5), None);
        assert!(Flow::read(&bytes).is_none());
    }
}
