//! A route to the Services' addresses for hosts that have none: the kernel looks for one before the
//! destination is rewritten, and fails the connection without it.

use super::config::Ipv4Cidr;
use crate::nft::{self, Error};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};

const ADD: u16 = 24;
const DELETE: u16 = 25;
/// Who made the route, so that only ours is ever deleted.
const ORIGIN: u8 = 110;

/// Makes the route unless there is a way already.
pub(super) fn ensure(cidr: Ipv4Cidr) -> Result<(), Error> {
    if is_routed(cidr) {
        return Ok(());
    }
    nft::exchange(None, &message(ADD, cidr))
}

/// Deletes every route that `ensure` made.
pub(super) fn remove_all() -> Result<(), Error> {
    const NO_SUCH_ROUTE: i32 = 3;
    let routes = std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    for cidr in routes.lines().filter_map(loopback_route) {
        match nft::exchange(None, &message(DELETE, cidr)) {
            // Somebody else's: the origin differs.
            Err(Error::Refused(error)) if error.raw_os_error() == Some(NO_SUCH_ROUTE) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Reads a line of the kernel's routing table, if it is of a route through the loopback device.
fn loopback_route(line: &str) -> Option<Ipv4Cidr> {
    let mut words = line.split_whitespace();
    let device = words.next().filter(|device| *device == "lo");
    // Addresses are printed as numbers in the machine's order.
    let mut number = |word: usize| u32::from_str_radix(words.nth(word)?, 16).ok().map(u32::from_be);
    let (address, mask) = (number(0)?, number(5)?);
    device.map(|_| Ipv4Cidr { address: Ipv4Addr::from_bits(address), prefix: mask.leading_ones() as u8 })
}

/// Connecting a datagram socket looks for a route, and sends nothing.
fn is_routed(cidr: Ipv4Cidr) -> bool {
    let address = Ipv4Addr::from_bits(cidr.address.to_bits() + 1);
    let connect = || -> io::Result<()> { UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.connect((address, 9)) };
    connect().is_ok()
}

/// The range through the loopback device, which exists everywhere; no packet gets that far.
fn message(kind: u16, cidr: Ipv4Cidr) -> Vec<u8> {
    const REQUEST_ACK_CREATE_REPLACE: u16 = 1 | 4 | 0x400 | 0x100;
    const REQUEST_ACK: u16 = 1 | 4;
    const IPV4: u8 = 2;
    const MAIN_TABLE: u8 = 254;
    const SCOPE_LINK: u8 = 253;
    const UNICAST: u8 = 1;
    const LOOPBACK_INDEX: u32 = 1;
    let flags = if kind == ADD { REQUEST_ACK_CREATE_REPLACE } else { REQUEST_ACK };
    let mut message = Vec::with_capacity(44);
    message.extend_from_slice(&44_u32.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[IPV4, cidr.prefix, 0, 0, MAIN_TABLE, ORIGIN, SCOPE_LINK, UNICAST, 0, 0, 0, 0]);
    // The destination (1) and the device (4).
    message.extend_from_slice(&[8_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat());
    message.extend_from_slice(&cidr.address.octets());
    message.extend_from_slice(&[8_u16.to_ne_bytes(), 4_u16.to_ne_bytes()].concat());
    message.extend_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    message
}
