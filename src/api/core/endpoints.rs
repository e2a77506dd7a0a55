//! Endpoints: the older form of a Service's backends.

use crate::checks::{self, complain};
use crate::meta::names;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, int, list, text};
use serde_json::Value;

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
    rules: Rules { default, row, validate, ..Rules::NONE },
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
