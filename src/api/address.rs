//! IP addresses and ranges, read as leniently as stored objects need and judged as strictly as new ones are.

use crate::status::{BadValue, FieldErrors};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const BAD_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address as it was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    /// The address; one that was mapped into IPv6 is IPv4 here.
    pub(crate) ip: IpAddr,
    leading_zeros: bool,
    mapped: bool,
}

/// Decimal digits without sign, at most three significant.
fn decimal(text: &str, max: u16) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = text.trim_start_matches('0');
    if digits.len() > 3 {
        return None;
    }
    let value = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    (value <= max).then_some(value)
}

fn has_leading_zero(text: &str) -> bool {
    text.len() > 1 && text.starts_with('0')
}

fn v4(text: &str) -> Option<(Ipv4Addr, bool)> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    let mut zeros = false;
    for octet in &mut octets {
        let part = parts.next()?;
        zeros |= has_leading_zero(part);
        *octet = u8::try_from(decimal(part, 255)?).ok()?;
    }
    parts.next().is_none().then(|| (octets.into(), zeros))
}

fn v6(text: &str) -> Option<(Ipv6Addr, bool)> {
    let (head, tail) = text.rsplit_once(':')?;
    if !tail.contains('.') {
        return Some((text.parse().ok()?, false));
    }
    let (tail, zeros) = v4(tail)?;
    Some((format!("{head}:{tail}").parse().ok()?, zeros))
}

/// Reads an address; parts of IPv4 may have leading zeros.
pub(crate) fn parse(text: &str) -> Option<Address> {
    if !text.contains(':') {
        let (ip, leading_zeros) = v4(text)?;
        return Some(Address { ip: ip.into(), leading_zeros, mapped: false });
    }
    let (ip, leading_zeros) = v6(text)?;
    let mapped = ip.to_ipv4_mapped();
    Some(Address { ip: mapped.map_or(IpAddr::V6(ip), IpAddr::V4), leading_zeros, mapped: mapped.is_some() })
}

/// Adds what is wrong with an address of an older field: any spelling but ambiguous ones is fine.
pub(crate) fn check(text: &str, path: impl Display, errors: &mut FieldErrors) -> Option<IpAddr> {
    let Some(address) = parse(text) else {
        errors.invalid(path, text, BAD_IP);
        return None;
    };
    if address.leading_zeros {
        errors.invalid(&path, text, "must not have leading 0s");
    }
    if address.mapped {
        errors.invalid(&path, text, "must not be an IPv4-mapped IPv6 address");
    }
    Some(address.ip)
}

/// What is wrong with an address that must be spelled in the one canonical way.
pub(crate) fn canonical(text: &str) -> Vec<String> {
    let Some(address) = parse(text) else { return vec![BAD_IP.to_owned()] };
    let mut wrong = Vec::new();
    if address.leading_zeros {
        wrong.push("must not have leading 0s".to_owned());
    }
    if address.mapped {
        wrong.push("must not be an IPv4-mapped IPv6 address".to_owned());
    }
    if wrong.is_empty() && address.ip.to_string() != text {
        wrong.push(format!("must be in canonical form ({})", address.ip.to_string().show()));
    }
    wrong
}

/// Advice about an address that is right, but not spelled in the canonical way.
pub(crate) fn warning(text: &str, path: impl Display) -> Option<String> {
    let address = parse(text)?;
    let canonical = address.ip.to_string().show();
    if address.leading_zeros || address.mapped {
        let text = text.show();
        return Some(format!(
            "{path}: non-standard IP address {text} will be considered invalid in a future Kubernetes release: use {canonical}"
        ));
    }
    (text.show() != canonical)
        .then(|| format!("{path}: IPv6 address {} should be in RFC 5952 canonical format ({canonical})", text.show()))
}

/// Advice about a range that is right, but not spelled in the canonical way.
pub(crate) fn cidr_warning(text: &str, path: impl Display) -> Option<String> {
    let written = read_cidr(text)?;
    let canonical = written.cidr.to_string().show();
    (written.wrong.is_none() && text.show() != canonical).then(|| {
        format!("{path}: IPv6 CIDR value {} should be in RFC 5952 canonical format ({canonical})", text.show())
    })
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The first address.
    pub network: IpAddr,
    /// The length of the prefix.
    pub bits: u8,
}

impl Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into(),
    }
}

impl Cidr {
    /// Whether an address lies in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.network.is_ipv4() && masked(ip, self.bits) == self.network
    }
}

struct Written {
    cidr: Cidr,
    wrong: Option<&'static str>,
}

fn read_cidr(text: &str) -> Option<Written> {
    let (address, bits) = text.split_once('/')?;
    let parsed = parse(address)?;
    let max = if address.contains(':') { 128 } else { 32 };
    let length = u8::try_from(decimal(bits, max)?).ok()?;
    let ip = parsed.ip;
    // A mapped address has its prefix counted in IPv6.
    let length_here = if parsed.mapped { length.saturating_sub(96) } else { length };
    let cidr = Cidr { network: masked(ip, length_here), bits: length_here };
    let wrong = if parsed.leading_zeros || has_leading_zero(bits) {
        Some("must not have leading 0s in IP or prefix length")
    } else if parsed.mapped {
        Some("must not have an IPv4-mapped IPv6 address")
    } else if cidr.network != ip {
        Some("must not have bits set beyond the prefix length")
    } else {
        None
    };
    Some(Written { cidr, wrong })
}

/// Reads a range, however it is spelled.
pub fn parse_cidr(text: &str) -> Option<Cidr> {
    read_cidr(text).map(|w| w.cidr)
}

/// Adds what is wrong with a range of an older field: any spelling but ambiguous ones is fine.
pub(crate) fn check_cidr(text: &str, path: impl Display, errors: &mut FieldErrors) -> Option<Cidr> {
    let Some(written) = read_cidr(text) else {
        errors.invalid(path, text, BAD_CIDR);
        return None;
    };
    if let Some(why) = written.wrong {
        errors.invalid(path, text, why);
    }
    Some(written.cidr)
}

/// Adds what is wrong with a range that must be spelled in the one canonical way.
pub(crate) fn check_canonical_cidr(text: &str, path: impl Display, errors: &mut FieldErrors) {
    let before = errors.len();
    let Some(cidr) = check_cidr(text, &path, errors) else { return };
    if errors.len() == before && cidr.to_string() != text {
        errors.invalid(path, text, &format!("must be in canonical form ({})", cidr.to_string().show()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_leniently_and_judged_strictly() {
        let check = |text: &str, expect: &[&str]| {
            let mut errors = FieldErrors::default();
            super::check(text, "ip", &mut errors);
            let expect: Vec<String> =
                expect.iter().map(|e| format!("ip: Invalid value: {}: {e}", text.show())).collect();
            assert_eq!(errors.messages(), expect);
        };
        for good in ["10.0.0.1", "2001:db8::1", "2001:DB8:0::1", "::", "0.0.0.0"] {
            check(good, &[]);
        }
        for bad in ["", "x", "1.2.3", "1.2.3.4.5", "1.2.3.256", "+1.2.3.4", "1.2.3.4/8", "fe80::1%eth0", "::1::"] {
            check(bad, &[BAD_IP]);
        }
        check("010.0.0.1", &["must not have leading 0s"]);
        check("::ffff:1.2.3.4", &["must not be an IPv4-mapped IPv6 address"]);
        assert_eq!(canonical("2001:DB8::1"), ["must be in canonical form (\"2001:db8::1\")"]);
        assert!(canonical("2001:db8::1").is_empty());
    }

    #[test]
    fn ranges() {
        let check = |text: &str, expect: Option<&str>| {
            let mut errors = FieldErrors::default();
            check_canonical_cidr(text, "c", &mut errors);
            let expect = expect.map(|e| format!("c: Invalid value: {}: {e}", text.show()));
            assert_eq!(errors.messages(), Vec::from_iter(expect));
        };
        check("10.0.0.0/8", None);
        check("0.0.0.0/0", None);
        check("2001:db8::/64", None);
        check("10.0.0.0", Some(BAD_CIDR));
        check("10.0.0.0/33", Some(BAD_CIDR));
        check("10.0.0.0/-1", Some(BAD_CIDR));
        check("10.0.0.0/08", Some("must not have leading 0s in IP or prefix length"));
        check("010.0.0.0/8", Some("must not have leading 0s in IP or prefix length"));
        check("10.0.0.1/8", Some("must not have bits set beyond the prefix length"));
        check("::ffff:1.2.3.4/128", Some("must not have an IPv4-mapped IPv6 address"));
        check("2001:DB8::/64", Some("must be in canonical form (\"2001:db8::/64\")"));
        let range = parse_cidr("10.1.0.0/16").expect("a range");
        assert!(range.contains([10, 1, 2, 3].into()) && !range.contains([10, 2, 0, 0].into()));
    }
}
