//! Endpoints: the older form of a Service's backends.

use crate::address;
use crate::checks::{self, complain};
use crate::meta::names;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, int, list, text};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Objects of endpoints.
pub static ENDPOINTS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["ep"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.Endpoints",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Endpoints", "string"), Column::new("Age", "string")],
    rules: Rules { default, canonicalize, warnings, row, validate, ..Rules::NONE },
};

/// So many addresses are named; the others are counted.
const SHOWN: usize = 3;

fn default(endpoints: &mut Value) {
    for subset in tree::items(tree::object(endpoints), "subsets") {
        for port in tree::items(subset, "ports") {
            tree::default_zero(port, "protocol", "TCP");
        }
    }
}

/// An endpoint among others: its address, and the uid of what it stands for.
type Key = (IpAddr, String);
/// One endpoint as subsets list it.
type Address = (Key, Value);
/// Name, protocol, number and application protocol; none for endpoints without ports.
type PortKey = Option<(String, String, i64, String)>;

fn address_of(address: &Value) -> Option<Address> {
    let ip = address::parse(text(&address["ip"]))?.ip;
    Some(((ip, text(&address["targetRef"]["uid"]).to_owned()), address.clone()))
}

fn port_key(port: &Value) -> PortKey {
    let words = |field: &str| text(&port[field]).to_owned();
    Some((words("name"), words("protocol"), int(&port["port"]), words("appProtocol")))
}

/// The addresses that offer a port, each ready or not; an address that is unready anywhere is so altogether.
type Offered = BTreeMap<Key, (bool, Value)>;
/// A set of endpoints, each ready or not.
type Who = Vec<(Key, bool)>;

/// The one layout of all that say the same: each set of addresses once, with all ports that exactly these
/// offer, everything sorted. `None` where an address cannot be read.
pub fn repack(subsets: &[Value]) -> Option<Vec<Value>> {
    let mut by_port: BTreeMap<PortKey, (Value, Offered)> = BTreeMap::new();
    for subset in subsets {
        let ports = list(&subset["ports"]);
        let keys: Vec<_> = match ports {
            [] => vec![(None, Value::Null)],
            all => all.iter().map(|port| (port_key(port), port.clone())).collect(),
        };
        for (key, port) in keys {
            let (_, offered) = by_port.entry(key).or_insert_with(|| (port, Offered::new()));
            for (field, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                for (key, value) in list(&subset[field]).iter().map(address_of).collect::<Option<Vec<_>>>()? {
                    let entry = offered.entry(key).or_insert((ready, value));
                    entry.0 &= ready;
                }
            }
        }
    }
    let mut by_addresses: BTreeMap<Who, (Vec<Value>, Offered)> = BTreeMap::new();
    for (key, (port, offered)) in by_port {
        let who = offered.iter().map(|(key, (ready, _))| (key.clone(), *ready)).collect();
        let (ports, _) = by_addresses.entry(who).or_insert_with(|| (Vec::new(), offered));
        ports.extend(key.map(|_| port));
    }
    let subsets = by_addresses.into_values().filter(|(_, offered)| !offered.is_empty()).map(|(ports, offered)| {
        let mut subset = Map::new();
        for (field, wanted) in [("addresses", true), ("notReadyAddresses", false)] {
            let all: Vec<Value> =
                offered.values().filter(|(ready, _)| *ready == wanted).map(|(_, value)| value.clone()).collect();
            if !all.is_empty() {
                subset.insert(field.to_owned(), all.into());
            }
        }
        if !ports.is_empty() {
            subset.insert("ports".to_owned(), ports.into());
        }
        Value::Object(subset)
    });
    Some(subsets.collect())
}

fn canonicalize(endpoints: &mut Value) {
    if let Some(subsets) = repack(list(&endpoints["subsets"])).filter(|all| !all.is_empty()) {
        endpoints["subsets"] = json!(subsets);
    }
}

/// Advice about addresses; the controller's own are fine.
fn warnings(endpoints: &Value) -> Vec<String> {
    if endpoints["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"] == "endpoint-controller" {
        return Vec::new();
    }
    let (path, mut all) = (Path::root("subsets"), Vec::new());
    for (i, subset) in list(&endpoints["subsets"]).iter().enumerate() {
        let item = path.index(i);
        for field in ["addresses", "notReadyAddresses"] {
            let at = item.child(field);
            for (n, address) in list(&subset[field]).iter().enumerate() {
                all.extend(address::warning(text(&address["ip"]), at.index(n).child("ip")));
            }
        }
    }
    all
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn summary(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(&endpoints["subsets"]) {
        let ports = list(&subset["ports"]);
        for address in list(&subset["addresses"]) {
            if ports.is_empty() {
                all.push(text(&address["ip"]).to_owned());
            }
        }
        for port in ports {
            for address in list(&subset["addresses"]) {
                all.push(host_port(text(&address["ip"]), int(&port["port"])));
            }
        }
    }
    if all.is_empty() {
        return "<none>".to_owned();
    }
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let shown = all.join(",");
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}

fn row(endpoints: &Value, now: i64) -> Vec<Value> {
    vec![table::name(endpoints), summary(endpoints).into(), table::created(endpoints, now)]
}

fn validate(endpoints: &Value, errors: &mut FieldErrors) {
    let path = Path::root("subsets");
    for (i, subset) in list(&endpoints["subsets"]).iter().enumerate() {
        let item = path.index(i);
        if tree::is_empty(&subset["addresses"]) && tree::is_empty(&subset["notReadyAddresses"]) {
            errors.required(item, "must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            let at = item.child(field);
            for (n, address) in list(&subset[field]).iter().enumerate() {
                one_address(address, at.index(n), errors);
            }
        }
        let ports = list(&subset["ports"]);
        let at = item.child("ports");
        for (n, port) in ports.iter().enumerate() {
            let one = at.index(n);
            match tree::some_text(&port["name"]) {
                None if ports.len() > 1 => errors.required(one.child("name"), ""),
                None => {}
                Some(name) => complain(names::dns_label(name), name, one.child("name"), errors),
            }
            checks::port_number(&port["port"], one.child("port"), errors);
            checks::protocol(&port["protocol"], one.child("protocol"), errors);
            if let Some(protocol) = port["appProtocol"].as_str() {
                complain(names::qualified_name(protocol), protocol, one.child("appProtocol"), errors);
            }
        }
    }
}

fn one_address(address: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let parsed = checks::ip(&address["ip"], path.child("ip"), errors);
    if let Some(host) = tree::some_text(&address["hostname"]) {
        complain(names::dns_label(host), host, path.child("hostname"), errors);
    }
    if let Some(node) = address["nodeName"].as_str() {
        complain(names::dns_subdomain(node), node, path.child("nodeName"), errors);
    }
    if let Some(parsed) = parsed {
        checks::ordinary_ip(parsed, &address["ip"], path.child("ip"), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn three_addresses_are_named() {
        let ips = |n: usize| (1..=n).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect::<Value>();
        let endpoints = |n| json!({"subsets": [{"addresses": ips(n), "ports": [{"port": 80}]}]});
        assert_eq!(summary(&json!({})), "<none>");
        assert_eq!(summary(&endpoints(2)), "10.0.0.1:80,10.0.0.2:80");
        assert_eq!(summary(&endpoints(5)), "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
    }

    #[test]
    fn subsets_that_say_the_same_look_the_same() {
        let ips = |ips: &[&str]| ips.iter().map(|ip| json!({ "ip": ip })).collect::<Value>();
        let port = |number: i64| json!({"port": number, "protocol": "TCP"});
        let check = |given: Value, expect: Value| {
            let mut endpoints = json!({ "subsets": given });
            canonicalize(&mut endpoints);
            assert_eq!(endpoints["subsets"], expect);
        };
        // Addresses in order, and as one subset what offers the same.
        check(
            json!([{"addresses": ips(&["10.0.0.10", "10.0.0.9"]), "ports": [port(80)]},
                {"addresses": ips(&["10.0.0.9", "10.0.0.10"]), "ports": [port(443)]}]),
            json!([{"addresses": ips(&["10.0.0.9", "10.0.0.10"]), "ports": [port(80), port(443)]}]),
        );
        check(
            json!([{"addresses": ips(&["10.0.0.1"]), "ports": [port(80)]},
                {"notReadyAddresses": ips(&["10.0.0.1"]), "ports": [port(80)]}]),
            json!([{"notReadyAddresses": ips(&["10.0.0.1"]), "ports": [port(80)]}]),
        );
        check(json!([{"addresses": ips(&["10.0.0.1"])}]), json!([{"addresses": ips(&["10.0.0.1"])}]));
        check(json!([]), json!([]));
    }

    #[test]
    fn advice_about_addresses() {
        let endpoints = json!({"subsets": [{"addresses": [{"ip": "2001:DB8::1"}]}]});
        assert_eq!(
            warnings(&endpoints),
            [
                "subsets[0].addresses[0].ip: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")"
            ]
        );
    }

    #[test]
    fn addresses_and_ports_are_checked() {
        let mut errors = FieldErrors::default();
        validate(
            &json!({"subsets": [{}, {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 0, "protocol": "TCP"}]}]}),
            &mut errors,
        );
        assert_eq!(
            errors.messages(),
            [
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
                "subsets[1].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[1].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ]
        );
    }
}
