//! Checks that many kinds share: numbers, enumerations, addresses, ports.

use crate::address;
use crate::meta::names;
use crate::status::{BadValue, FieldErrors, Path};
use crate::tree::{int, list, text};
use serde_json::Value;
use std::net::IpAddr;

/// The detail for numbers that may not be negative.
pub(crate) const NEGATIVE: &str = "must be greater than or equal to 0";
pub(crate) const BAD_PATH: &str = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
const BAD_PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// The number under `field` may be absent, but not negative.
pub(crate) fn non_negative(object: &Value, field: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if int(&object[field]) < 0 {
        errors.invalid(path.child(field), int(&object[field]), NEGATIVE);
    }
}

/// The text must be one of those supported; empty is a missing value.
pub(crate) fn required_one_of(value: &Value, path: Path<'_>, supported: &[&str], errors: &mut FieldErrors) {
    if text(value).is_empty() {
        errors.required(path, "");
    } else {
        one_of(value, path, supported, errors);
    }
}

/// The text, where there is one, must be one of those supported.
pub(crate) fn one_of(value: &Value, path: Path<'_>, supported: &[&str], errors: &mut FieldErrors) {
    if !value.is_null() && !supported.contains(&text(value)) {
        errors.not_supported(path, value, supported);
    }
}

/// Adds each of the complaints about a value.
pub(crate) fn complain(
    complaints: impl IntoIterator<Item = impl AsRef<str>>,
    value: impl BadValue,
    path: Path<'_>,
    errors: &mut FieldErrors,
) {
    for why in complaints {
        errors.invalid(path, &value, why.as_ref());
    }
}

/// The text must not be empty.
pub(crate) fn required(value: &Value, path: Path<'_>, errors: &mut FieldErrors) -> bool {
    let missing = text(value).is_empty();
    if missing {
        errors.required(path, "");
    }
    !missing
}

/// A protocol of ports.
pub(crate) fn protocol(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    required_one_of(value, path, &["SCTP", "TCP", "UDP"], errors);
}

/// A port's number.
pub(crate) fn port_number(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    complain(names::port_number(int(value)), int(value), path, errors);
}

/// A port by number or by name.
pub(crate) fn port(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    match value.as_str() {
        Some(name) => complain(names::port_name(name), name, path, errors),
        None => port_number(value, path, errors),
    }
}

/// An IP address.
pub(crate) fn ip(value: &Value, path: Path<'_>, errors: &mut FieldErrors) -> Option<IpAddr> {
    address::check(text(value), path, errors)
}

/// An address that endpoints may have: nothing local or special.
pub(crate) fn ordinary_ip(address: IpAddr, value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_local_multicast = match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] == 0xff02,
    };
    let why = if address.is_unspecified() {
        "may not be unspecified (0.0.0.0 or ::)"
    } else if address.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    } else if link_local_multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    } else {
        return;
    };
    errors.invalid(path, value, why);
}

/// A range of addresses in CIDR notation.
pub(crate) fn cidr(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    address::check_cidr(text(value), path, errors);
}

/// A count or a percentage.
pub(crate) fn int_or_percent(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    match value.as_str() {
        Some(text) => {
            let digits = text.strip_suffix('%').unwrap_or("");
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                errors.invalid(path, text, BAD_PERCENT);
            }
        }
        None if int(value) < 0 => errors.invalid(path, int(value), NEGATIVE),
        None => {}
    }
}

/// A path with a domain before it, such as `acme.io/foo`.
pub(crate) fn domain_prefixed_path(text: &str, path: Path<'_>, errors: &mut FieldErrors) {
    match text.split_once('/') {
        None | Some(("", _) | (_, "")) => {
            errors.invalid(path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        }
        Some((host, rest)) => {
            complain(names::dns_subdomain(host), host, path, errors);
            let fine = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
            if !rest.bytes().all(fine) {
                errors.invalid(path, rest, BAD_PATH);
            }
        }
    }
}

/// A percentage of a part is not more than the whole.
pub(crate) fn at_most_all(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if percent(value).is_some_and(|p| p > 100) {
        errors.invalid(path, value, "must not be greater than 100%");
    }
}

/// Whether a count or percentage is zero; what is neither is not.
pub(crate) fn is_zero_part(value: &Value) -> bool {
    percent(value).unwrap_or_else(|| value.as_i64().unwrap_or(1)) == 0
}

/// The number of a percentage.
pub(crate) fn percent(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// Whether a selector matches labels; the selector is valid.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let has = |key: &str| labels[key].as_str();
    crate::tree::entries(&selector["matchLabels"]).all(|(k, v)| has(k) == Some(text(v)))
        && list(&selector["matchExpressions"]).iter().all(|e| {
            let value = has(text(&e["key"]));
            let among = value.is_some_and(|v| list(&e["values"]).iter().any(|x| x == v));
            match text(&e["operator"]) {
                "In" => among,
                "NotIn" => !among,
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses() {
        let check = |text: &str, expect: usize| {
            let (value, path, mut errors) = (json!(text), Path::root("ip"), FieldErrors::default());
            if let Some(address) = ip(&value, path, &mut errors) {
                ordinary_ip(address, &value, path, &mut errors);
            }
            assert_eq!(errors.len(), expect, "{text}");
        };
        check("10.0.0.1", 0);
        check("2001:db8::1", 0);
        for bad in ["", "x", "010.0.0.1", "127.0.0.1", "0.0.0.0", "::", "169.254.1.1", "fe80::1", "224.0.0.1"] {
            check(bad, 1);
        }
    }

    #[test]
    fn selectors_match() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["x"]}]});
        assert!(selects(&selector, &json!({"a": "1"})));
        assert!(!selects(&selector, &json!({"a": "1", "b": "x"})));
        assert!(!selects(&selector, &json!({"a": "2"})));
    }
}
