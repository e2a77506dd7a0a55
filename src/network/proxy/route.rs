//! A route to the Services' addresses for hosts that have none: the kernel looks for one before the
//! destination is rewritten, and fails the connection without it.

use crate::nft::{self, Error, Family, octets};
use naru_api::address::Cidr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

const ADD: u16 = 24;
const DELETE: u16 = 25;
/// Who made the route, so that only ours is ever deleted.
const ORIGIN: u8 = 110;

/// Makes the route unless there is a way already.
pub(super) fn ensure(range: Cidr) -> Result<(), Error> {
    if is_routed(range) {
        return Ok(());
    }
    nft::exchange(None, &message(ADD, range))
}

/// Deletes every route that `ensure` made.
pub(super) fn remove_all() -> Result<(), Error> {
    const NO_SUCH_ROUTE: i32 = 3;
    let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let (v4, v6) = (read("route"), read("ipv6_route"));
    for range in v4.lines().filter_map(loopback_route).chain(v6.lines().filter_map(loopback_route_v6)) {
        match nft::exchange(None, &message(DELETE, range)) {
            // Somebody else's: the origin differs.
            Err(Error::Refused(error)) if error.raw_os_error() == Some(NO_SUCH_ROUTE) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Reads a line of the kernel's routing table, if it is of a route through the loopback device.
fn loopback_route(line: &str) -> Option<Cidr> {
    let mut words = line.split_whitespace();
    let device = words.next().filter(|device| *device == "lo");
    // Addresses are printed as numbers in the machine's order.
    let mut number = |word: usize| u32::from_str_radix(words.nth(word)?, 16).ok().map(u32::from_be);
    let (address, mask) = (number(0)?, number(5)?);
    device.map(|_| Cidr { network: Ipv4Addr::from_bits(address).into(), bits: mask.leading_ones() as u8 })
}

/// The same for IPv6: address and prefix come first, the device last.
fn loopback_route_v6(line: &str) -> Option<Cidr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [address, prefix, .., "lo"] = words.as_slice() else { return None };
    let network = Ipv6Addr::from_bits(u128::from_str_radix(address, 16).ok()?).into();
    Some(Cidr { network, bits: u8::from_str_radix(prefix, 16).ok()? })
}

/// Connecting a datagram socket looks for a route, and sends nothing.
fn is_routed(range: Cidr) -> bool {
    let (any, address): (IpAddr, IpAddr) = match range.network {
        IpAddr::V4(first) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::from_bits(first.to_bits() + 1).into()),
        IpAddr::V6(first) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from_bits(first.to_bits() + 1).into()),
    };
    let connect = || -> io::Result<()> { UdpSocket::bind((any, 0))?.connect((address, 9)) };
    connect().is_ok()
}

/// The range through the loopback device, which exists everywhere; no packet gets that far.
fn message(kind: u16, range: Cidr) -> Vec<u8> {
    const REQUEST_ACK_CREATE_REPLACE: u16 = 1 | 4 | 0x400 | 0x100;
    const REQUEST_ACK: u16 = 1 | 4;
    const MAIN_TABLE: u8 = 254;
    const SCOPE_LINK: u8 = 253;
    const SCOPE_UNIVERSE: u8 = 0;
    const UNICAST: u8 = 1;
    const LOOPBACK_INDEX: u32 = 1;
    const DESTINATION: u16 = 1;
    const DEVICE: u16 = 4;
    let flags = if kind == ADD { REQUEST_ACK_CREATE_REPLACE } else { REQUEST_ACK };
    let family = Family::of(range.network);
    let scope = if family == Family::V4 { SCOPE_LINK } else { SCOPE_UNIVERSE };
    let destination = octets(range.network);
    let length = 28 + 4 + destination.len() + 8;
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&u32::try_from(length).unwrap_or_default().to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[family.number(), range.bits, 0, 0, MAIN_TABLE, ORIGIN, scope, UNICAST, 0, 0, 0, 0]);
    for (kind, value) in [(DESTINATION, &destination[..]), (DEVICE, &LOOPBACK_INDEX.to_ne_bytes())] {
        let length = u16::try_from(value.len() + 4).unwrap_or_default();
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(value);
    }
    message
}
