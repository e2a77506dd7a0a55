//! EndpointSlice: the backends of a Service.

use crate::address;
use crate::checks::{self, complain};
use crate::meta::names;
use crate::meta::prepare::create as prepare_create;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// EndpointSlices.
pub static ENDPOINT_SLICES: Resource = Resource {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.discovery.v1.EndpointSlice",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("AddressType", "string"),
        Column::new("Ports", "string"),
        Column::new("Endpoints", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules { default, prepare_create, prepare_update, row, validate, validate_update, warnings, ..Rules::NONE },
};

/// So many ports or addresses are named; the others are counted.
const SHOWN: usize = 3;

fn default(slice: &mut Value) {
    for port in tree::items(tree::object(slice), "ports") {
        tree::default(port, "name", "");
        tree::default_zero(port, "protocol", "TCP");
    }
}

/// Nodes and zones have fields of their own in this version.
fn drop_topology(slice: &mut Value) {
    for endpoint in tree::items(tree::object(slice), "endpoints") {
        endpoint.remove("deprecatedTopology");
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    if new["endpoints"] != old["endpoints"] {
        drop_topology(new);
    }
    tree::bump_generation(tree::object(new), old, |new, old| {
        let differs = |field: &str| new.get(field).unwrap_or(&Value::Null) != &old[field];
        let labels = new.get("metadata").is_some_and(|m| m["labels"] != old["metadata"]["labels"]);
        labels || ["addressType", "endpoints", "ports"].iter().any(|f| differs(f))
    });
}

fn shorten(all: Vec<String>) -> Value {
    if all.is_empty() {
        return "<unset>".into();
    }
    let more = all.len().saturating_sub(SHOWN);
    let shown = all[..all.len().min(SHOWN)].join(",");
    if more > 0 { format!("{shown} + {more} more...") } else { shown }.into()
}

fn port(port: &Value) -> String {
    match port["port"].as_i64() {
        Some(number) => number.to_string(),
        None => some_text(&port["name"]).unwrap_or("*").to_owned(),
    }
}

fn row(slice: &Value, now: i64) -> Vec<Value> {
    let addresses =
        list(&slice["endpoints"]).iter().flat_map(|e| list(&e["addresses"])).map(|a| text(a).to_owned()).collect();
    vec![
        table::name(slice),
        text(&slice["addressType"]).into(),
        shorten(list(&slice["ports"]).iter().map(port).collect()),
        shorten(addresses),
        table::created(slice, now),
    ]
}

const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;

fn validate(slice: &Value, errors: &mut FieldErrors) {
    let kind = text(&slice["addressType"]);
    checks::required_one_of(&slice["addressType"], Path::root("addressType"), &["FQDN", "IPv4", "IPv6"], errors);
    let (endpoints, path) = (list(&slice["endpoints"]), Path::root("endpoints"));
    if endpoints.len() > MAX_ENDPOINTS {
        errors.too_many(path, endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let item = path.index(i);
        let (addresses, at) = (list(&endpoint["addresses"]), item.child("addresses"));
        if addresses.is_empty() {
            errors.required(at, "must contain at least 1 address");
        } else if addresses.len() > MAX_ADDRESSES {
            errors.too_many(at, addresses.len(), MAX_ADDRESSES);
        }
        for (n, value) in addresses.iter().enumerate() {
            address(kind, value, at.index(n), errors);
        }
        if let Some(node) = endpoint["nodeName"].as_str() {
            complain(names::dns_subdomain(node), node, item.child("nodeName"), errors);
        }
        if let Some(host) = endpoint["hostname"].as_str() {
            complain(names::dns_label(host), host, item.child("hostname"), errors);
        }
        hints(&endpoint["hints"], item.child("hints"), errors);
    }
    ports(slice, errors);
}

/// A name of at least two labels; a dot may end it.
fn domain_name(name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let wrong = names::dns_subdomain(name);
    if !wrong.is_empty() {
        errors.invalid(path, name, &wrong.join(","));
    } else if !name.contains('.') {
        errors.invalid(path, name, "should be a domain with at least two segments separated by dots");
    } else {
        for label in name.split('.').filter(|l| l.len() > names::LABEL_MAX) {
            errors.invalid(path, label, &names::dns_label(label).join(","));
        }
    }
}

const MAX_HINTS: usize = 8;

/// Where an endpoint is best used from.
fn hints(hints: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (field, rule) in
        [("forZones", names::label_value as fn(&str) -> Vec<String>), ("forNodes", names::dns_subdomain)]
    {
        let (all, at) = (list(&hints[field]), path.child(field));
        if all.len() > MAX_HINTS {
            errors.too_many(at, all.len(), MAX_HINTS);
            continue;
        }
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for (i, name) in all.iter().map(|h| text(&h["name"])).enumerate() {
            let item = at.index(i);
            if !seen.insert(name) {
                errors.duplicate(item.child("name"), name);
            }
            complain(rule(name), name, item.child("name"), errors);
        }
    }
}

/// Advice about addresses that are right, but not spelled in the canonical way, and about names.
fn warnings(slice: &Value) -> Vec<String> {
    let spec = Path::root("spec");
    if slice["addressType"] == "FQDN" {
        return vec![format!("{}: FQDN endpoints are deprecated", spec.child("addressType"))];
    }
    let at = spec.child("endpoints");
    let mut all = Vec::new();
    for (i, endpoint) in list(&slice["endpoints"]).iter().enumerate() {
        let item = at.index(i);
        let addresses = item.child("addresses");
        for (n, address) in list(&endpoint["addresses"]).iter().enumerate() {
            all.extend(address::warning(text(address), addresses.index(n)));
        }
    }
    all
}

fn address(kind: &str, value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if kind == "FQDN" {
        domain_name(text(value), path, errors);
        return;
    }
    let Some(ip) = checks::ip(value, path, errors) else { return };
    match (kind, ip.is_ipv4()) {
        ("IPv4", false) => errors.invalid(path, value, "must be an IPv4 address"),
        ("IPv6", true) => errors.invalid(path, value, "must be an IPv6 address"),
        _ => checks::ordinary_ip(ip, value, path, errors),
    }
}

fn ports(slice: &Value, errors: &mut FieldErrors) {
    let (ports, path) = (list(&slice["ports"]), Path::root("ports"));
    if ports.len() > MAX_PORTS {
        errors.too_many(path, ports.len(), MAX_PORTS);
        return;
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let item = path.index(i);
        let name = text(&port["name"]);
        if !name.is_empty() {
            complain(names::dns_label(name), name, item.child("name"), errors);
        }
        if seen.contains(&name) {
            errors.duplicate(item.child("name"), name);
        }
        seen.insert(name);
        checks::protocol(&port["protocol"], item.child("protocol"), errors);
        if let Some(protocol) = port["appProtocol"].as_str() {
            complain(names::qualified_name(protocol), protocol, item.child("appProtocol"), errors);
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new["addressType"] != old["addressType"] {
        errors.immutable("addressType", &new["addressType"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_of_slices() {
        let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}],
            "endpoints": [{"addresses": ["1.1.1.1"]}, {"addresses": ["1.1.1.2"]}, {"addresses": ["1.1.1.3"]}, {"addresses": ["1.1.1.4"]}]});
        let expect = json!(["s", "IPv4", "80,x", "1.1.1.1,1.1.1.2,1.1.1.3 + 1 more...", "<unknown>"]);
        assert_eq!(Value::from(row(&slice, 0)), expect);
        assert_eq!(row(&json!({}), 0)[2], "<unset>");
    }

    #[test]
    fn generation_counts_changes_of_content() {
        let old = json!({"metadata": {"generation": 3}, "endpoints": []});
        let mut new = old.clone();
        prepare_update(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], 3);
        new["endpoints"] =
            json!([{"addresses": ["1.1.1.1"], "deprecatedTopology": {"topology.kubernetes.io/zone": "a"}}]);
        prepare_update(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], 4);
        assert_eq!(new["endpoints"], json!([{"addresses": ["1.1.1.1"]}]));
    }

    #[test]
    fn addresses_fit_the_family() {
        let mut errors = FieldErrors::default();
        validate(
            &json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}, {}], "ports": [{"name": "", "protocol": "TCP"}, {"name": "", "protocol": "TCP"}]}),
            &mut errors,
        );
        assert_eq!(
            errors.messages(),
            [
                "endpoints[0].addresses[0]: Invalid value: \"::1\": must be an IPv4 address",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
                "ports[1].name: Duplicate value: \"\"",
            ]
        );
    }

    #[test]
    fn names_hints_and_advice() {
        let slice = json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a"], "hints": {"forZones": [{"name": "z"}, {"name": "z"}]}}],
            "ports": [{"name": "", "protocol": "TCP", "appProtocol": "a/b/c"}]});
        let mut errors = FieldErrors::default();
        validate(&slice, &mut errors);
        let messages = errors.messages();
        assert_eq!(
            messages[..2],
            [
                "endpoints[0].addresses[0]: Invalid value: \"a\": should be a domain with at least two segments separated by dots",
                "endpoints[0].hints.forZones[1].name: Duplicate value: \"z\"",
            ]
        );
        assert!(messages[2].starts_with("ports[0].appProtocol: Invalid value: \"a/b/c\""), "{messages:?}");
        assert_eq!(warnings(&slice), ["spec.addressType: FQDN endpoints are deprecated"]);
        assert_eq!(
            warnings(&json!({"addressType": "IPv6", "endpoints": [{"addresses": ["2001:DB8::1"]}]})),
            [
                "spec.endpoints[0].addresses[0]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")"
            ]
        );
    }
}
