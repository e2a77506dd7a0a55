//! IP addresses and ranges of them.

use super::conversions::text;
use super::eval::{EvalError, Meter};
use super::opaque::Opaque;
use super::value::Value;
use crate::status::quote;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

type Result<T> = std::result::Result<T, EvalError>;

/// Reads an address as Go's `netip` does; the error is its text.
fn address(raw: &str) -> std::result::Result<IpAddr, String> {
    let failed = |why: &str| format!("ParseAddr({}): {why}", quote(raw));
    let first = raw.chars().find(|c| matches!(c, '.' | ':' | '%'));
    match first {
        Some('.') => raw.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| failed(why_not_v4(raw))),
        Some(':') => raw.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| failed("unable to parse IP")),
        Some(_) => Err(failed("missing IPv6 address")),
        None => Err(failed("unable to parse IP")),
    }
}

fn why_not_v4(raw: &str) -> &'static str {
    let fields: Vec<&str> = raw.split('.').collect();
    for field in &fields {
        if !field.bytes().all(|b| b.is_ascii_digit()) {
            return "unexpected character";
        }
        match field.len() {
            0 => return "IPv4 field must have at least one digit",
            2.. if field.starts_with('0') => return "IPv4 field has octet with leading zero",
            _ if field.parse::<u8>().is_err() => return "IPv4 field has value >255",
            _ => {}
        }
    }
    if fields.len() < 4 { "IPv4 address too short" } else { "IPv4 address too long" }
}

/// An address as the library takes it: without a zone, and no IPv4 address in IPv6's form.
fn parse_ip(raw: &str) -> std::result::Result<IpAddr, String> {
    let quoted = quote(raw);
    if let Some((before, zone)) = raw.split_once('%')
        && before.parse::<Ipv6Addr>().is_ok()
        && !zone.is_empty()
    {
        return Err(format!("IP address {quoted} with zone value is not allowed"));
    }
    let parsed = address(raw);
    let parsed =
        parsed.map_err(|why| format!("IP Address {quoted} parse error during conversion from string: {why}"))?;
    if is_mapped(parsed) {
        return Err(format!("IPv4-mapped IPv6 address {quoted} is not allowed"));
    }
    Ok(parsed)
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

fn parse_cidr(raw: &str) -> std::result::Result<(IpAddr, u8), String> {
    let context = "network address parse error during conversion from string";
    let failed = |why: &str| format!("{context}: netip.ParsePrefix({}): {why}", quote(raw));
    let (ip, length) = raw.rsplit_once('/').ok_or_else(|| failed("no '/'"))?;
    if ip.contains('%') {
        return Err(failed("IPv6 zones cannot be present in a prefix"));
    }
    let parsed = address(ip).map_err(|why| failed(&why))?;
    let digits = length.bytes().all(|b| b.is_ascii_digit()) && !length.is_empty();
    if !digits || (length.len() > 1 && length.starts_with('0')) {
        return Err(failed(&format!("bad bits after slash: {}", quote(length))));
    }
    let most = if parsed.is_ipv4() { 32 } else { 128 };
    let length = length.parse().ok().filter(|length| *length <= most);
    let length = length.ok_or_else(|| failed("prefix length out of range"))?;
    if is_mapped(parsed) {
        return Err(format!("IPv4-mapped IPv6 address {} is not allowed", quote(raw)));
    }
    Ok((parsed, length))
}

/// The bits of an address that a prefix of this length fixes.
fn masked_bits(address: IpAddr, length: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let host = width - u32::from(length).min(width);
    bits.checked_shr(host).and_then(|bits| bits.checked_shl(host)).unwrap_or(0)
}

fn within(address: IpAddr, length: u8, other: IpAddr) -> bool {
    address.is_ipv4() == other.is_ipv4() && masked_bits(address, length) == masked_bits(other, length)
}

fn an_ip(value: Option<&Value<'_>>) -> Result<IpAddr> {
    match value {
        Some(Value::String(raw)) => parse_ip(raw).map_err(EvalError::failed),
        Some(Value::Opaque(found)) => match **found {
            Opaque::Ip(address) => Ok(address),
            _ => Err(EvalError::Overload),
        },
        _ => Err(EvalError::Overload),
    }
}

fn a_cidr(value: Option<&Value<'_>>) -> Result<(IpAddr, u8)> {
    let outer =
        |why: String| EvalError::failed(format!("network address parse error during conversion from string: {why}"));
    match value {
        Some(Value::String(raw)) => parse_cidr(raw).map_err(outer),
        Some(Value::Opaque(found)) => match **found {
            Opaque::Cidr(address, length) => Ok((address, length)),
            _ => Err(EvalError::Overload),
        },
        _ => Err(EvalError::Overload),
    }
}

/// `ip(text)`, or a range's address.
pub(super) fn ip<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    if let Some(Value::Opaque(found)) = arguments.first() {
        let Opaque::Cidr(address, _) = **found else { return Err(EvalError::Overload) };
        return Ok(Value::opaque(Opaque::Ip(address)));
    }
    meter.traverse(text(arguments, 0)?.len())?;
    Ok(Value::opaque(Opaque::Ip(an_ip(arguments.first())?)))
}

pub(super) fn is_ip<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let raw = text(arguments, 0)?;
    meter.traverse(raw.len())?;
    Ok(Value::Bool(parse_ip(raw).is_ok()))
}

pub(super) fn is_canonical<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let raw = text(arguments, 0)?;
    meter.traverse(raw.len())?;
    let address = parse_ip(raw).map_err(EvalError::failed)?;
    Ok(Value::Bool(address.to_string() == **raw))
}

pub(super) fn family<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Int(if an_ip(arguments.first())?.is_ipv4() { 4 } else { 6 }))
}

pub(super) fn is_unspecified<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(an_ip(arguments.first())?.is_unspecified()))
}

pub(super) fn is_loopback<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(an_ip(arguments.first())?.is_loopback()))
}

pub(super) fn is_link_local_multicast<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(match an_ip(arguments.first())? {
        IpAddr::V4(address) => matches!(address.octets(), [224, 0, 0, _]),
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    }))
}

fn link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
    }
}

pub(super) fn is_link_local_unicast<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(link_local(an_ip(arguments.first())?)))
}

pub(super) fn is_global_unicast<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let address = an_ip(arguments.first())?;
    let other = address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local(address);
    Ok(Value::Bool(!other && address != IpAddr::V4(Ipv4Addr::BROADCAST)))
}

pub(super) fn cidr<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    meter.traverse(text(arguments, 0)?.len())?;
    let (address, length) = a_cidr(arguments.first())?;
    Ok(Value::opaque(Opaque::Cidr(address, length)))
}

pub(super) fn is_cidr<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let raw = text(arguments, 0)?;
    meter.traverse(raw.len())?;
    Ok(Value::Bool(parse_cidr(raw).is_ok()))
}

pub(super) fn contains_ip<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let (address, length) = a_cidr(arguments.first())?;
    Ok(Value::Bool(within(address, length, an_ip(arguments.get(1))?)))
}

pub(super) fn contains_cidr<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let ((address, length), (other, longer)) = (a_cidr(arguments.first())?, a_cidr(arguments.get(1))?);
    Ok(Value::Bool(length <= longer && within(address, length, other)))
}

pub(super) fn prefix_length<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Int(a_cidr(arguments.first())?.1.into()))
}

pub(super) fn masked<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let (address, length) = a_cidr(arguments.first())?;
    let bits = masked_bits(address, length);
    let address = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or_default())),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    };
    Ok(Value::opaque(Opaque::Cidr(address, length)))
}
