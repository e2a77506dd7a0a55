//! NetworkPolicy: who may talk to the pods that it selects, and whom they may talk to.

use crate::address::{self, Cidr};
use crate::checks::{complain, one_of};
use crate::meta::prepare::{create as prepare_create, update_spec as prepare_update};
use crate::meta::{names, validate as meta};
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::tree::{self, is_empty, list, text};
use crate::{checks, table};
use serde_json::{Value, json};

/// NetworkPolicies.
pub static NETWORK_POLICIES: Resource = Resource {
    group: "networking.k8s.io",
    version: "v1",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["netpol"],
    categories: &[],
    type_name: "io.k8s.api.networking.v1.NetworkPolicy",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Pod-Selector", "string"), Column::new("Age", "string")],
    rules: Rules { default, prepare_create, prepare_update, row, validate, warnings, ..Rules::NONE },
};

/// The lists of rules, and what the peers in each are called.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

fn default(policy: &mut Value) {
    let spec = tree::ensure(tree::object(policy), "spec");
    for (direction, _) in DIRECTIONS {
        for rule in tree::items(spec, direction) {
            for port in tree::items(rule, "ports") {
                tree::default(port, "protocol", "TCP");
            }
        }
    }
    if spec.get("policyTypes").is_none_or(is_empty) {
        let types: &[&str] =
            if spec.get("egress").is_some_and(|e| !list(e).is_empty()) { &["Ingress", "Egress"] } else { &["Ingress"] };
        spec.insert("policyTypes".to_owned(), json!(types));
    }
}

fn row(policy: &Value, now: i64) -> Vec<Value> {
    vec![table::name(policy), table::selector(&policy["spec"]["podSelector"]).into(), table::created(policy, now)]
}

fn validate(policy: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&policy["spec"], Path::root("spec"));
    meta::label_selector(&spec["podSelector"], &path.child("podSelector"), errors);
    for (direction, peers) in DIRECTIONS {
        let rules = path.child(direction);
        for (i, rule) in list(&spec[direction]).iter().enumerate() {
            let item = rules.index(i);
            let at = item.child("ports");
            for (n, one) in list(&rule["ports"]).iter().enumerate() {
                port(one, at.index(n), errors);
            }
            let at = item.child(peers);
            for (n, one) in list(&rule[peers]).iter().enumerate() {
                peer(one, at.index(n), errors);
            }
        }
    }
    let (types, at) = (list(&spec["policyTypes"]), path.child("policyTypes"));
    if types.len() > 2 {
        errors.invalid(at, &spec["policyTypes"], "may not specify more than two policyTypes");
        return;
    }
    for (i, one) in types.iter().enumerate() {
        one_of(one, at.index(i), &["Ingress", "Egress"], errors);
    }
}

fn port(port: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    one_of(&port["protocol"], path.child("protocol"), &["TCP", "UDP", "SCTP"], errors);
    let (number, end) = (&port["port"], &port["endPort"]);
    let (at, end_at) = (path.child("port"), path.child("endPort"));
    match (number, end.as_i64()) {
        (Value::Null, Some(end)) => {
            errors.invalid(end_at, end, "may not be specified when `port` is not specified");
        }
        (Value::Null, None) => {}
        (Value::String(name), end) => {
            if let Some(end) = end {
                errors.invalid(end_at, end, "may not be specified when `port` is non-numeric");
            }
            complain(names::port_name(name), name, at, errors);
        }
        (number, last) => {
            checks::port_number(number, at, errors);
            if let Some(last) = last {
                if last < tree::int(number) {
                    errors.invalid(end_at, last, "must be greater than or equal to `port`");
                }
                checks::port_number(end, end_at, errors);
            }
        }
    }
}

fn peer(peer: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let selectors = ["podSelector", "namespaceSelector"];
    for field in selectors {
        meta::label_selector(&peer[field], &path.child(field), errors);
    }
    let selects = selectors.iter().any(|f| peer[*f].is_object());
    let block = &peer["ipBlock"];
    if block.is_object() {
        ip_block(block, path.child("ipBlock"), errors);
    }
    match (selects, block.is_object()) {
        (false, false) => errors.required(path, "must specify a peer"),
        (true, true) => errors.forbidden(path, "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn ip_block(block: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if !checks::required(&block["cidr"], path.child("cidr"), errors) {
        return;
    }
    let Some(range) = address::check_cidr(text(&block["cidr"]), path.child("cidr"), errors) else { return };
    let at = path.child("except");
    for (i, except) in list(&block["except"]).iter().enumerate() {
        let Some(Cidr { network, bits }) = address::check_cidr(text(except), at.index(i), errors) else { continue };
        if !range.contains(network) || range.bits >= bits {
            errors.invalid(at.index(i), except, "must be a strict subset of `cidr`");
        }
    }
}

/// Ranges that are right, but not spelled in the canonical way.
fn warnings(policy: &Value) -> Vec<String> {
    let (spec, path) = (&policy["spec"], Path::root("spec"));
    let mut all = Vec::new();
    for (direction, peers) in DIRECTIONS {
        let rules = path.child(direction);
        for (i, rule) in list(&spec[direction]).iter().enumerate() {
            let (item, peers_of) = (rules.index(i), list(&rule[peers]));
            let at = item.child(peers);
            for (n, block) in peers_of.iter().enumerate().map(|(n, p)| (n, &p["ipBlock"])) {
                let one = at.index(n);
                let block_at = one.child("ipBlock");
                all.extend(address::cidr_warning(text(&block["cidr"]), block_at.child("cidr")));
                let except = block_at.child("except");
                for (e, cidr) in list(&block["except"]).iter().enumerate() {
                    all.extend(address::cidr_warning(text(cidr), except.index(e)));
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(&json!({ "spec": spec }), &mut errors);
        errors.messages()
    }

    #[test]
    fn a_minimal_policy_is_completed() {
        let mut policy =
            json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}});
        default(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
        assert_eq!(policy["spec"]["ingress"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(errors_of(policy["spec"].clone()), [""; 0]);
        let mut egress = json!({"spec": {"egress": [{}]}});
        default(&mut egress);
        assert_eq!(egress["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        prepare_create(&mut policy);
        let mut new = policy.clone();
        new["spec"]["policyTypes"] = json!(["Egress"]);
        prepare_update(&mut new, &policy);
        assert_eq!(new["metadata"]["generation"], 2);
    }

    #[test]
    fn ports() {
        let check = |port: Value, expect: &[&str]| {
            let expect: Vec<String> = expect.iter().map(|e| format!("spec.ingress[0].ports[0].{e}")).collect();
            assert_eq!(errors_of(json!({"ingress": [{"ports": [port]}]})), expect);
        };
        check(json!({"protocol": "UDP", "port": 1, "endPort": 2}), &[]);
        check(
            json!({"protocol": "X", "port": 0, "endPort": -1}),
            &[
                r#"protocol: Unsupported value: "X": supported values: "TCP", "UDP", "SCTP""#,
                "port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "endPort: Invalid value: -1: must be greater than or equal to `port`",
                "endPort: Invalid value: -1: must be between 1 and 65535, inclusive",
            ],
        );
        check(
            json!({"port": "http", "endPort": 5}),
            &["endPort: Invalid value: 5: may not be specified when `port` is non-numeric"],
        );
        check(json!({"endPort": 5}), &["endPort: Invalid value: 5: may not be specified when `port` is not specified"]);
    }

    #[test]
    fn peers() {
        let check = |peer: Value, expect: &[&str]| {
            let expect: Vec<String> = expect.iter().map(|e| format!("spec.egress[0].to[0]{e}")).collect();
            assert_eq!(errors_of(json!({"egress": [{"to": [peer]}]})), expect);
        };
        check(json!({"podSelector": {}, "namespaceSelector": {}}), &[]);
        check(json!({}), &[": Required value: must specify a peer"]);
        check(
            json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}),
            &[": Forbidden: may not specify both ipBlock and another peer"],
        );
        check(json!({"ipBlock": {"cidr": ""}}), &[".ipBlock.cidr: Required value"]);
        check(
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.0.0.0/8", "11.0.0.0/16", "x"]}}),
            &[
                r#".ipBlock.except[1]: Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`"#,
                r#".ipBlock.except[2]: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`"#,
                r#".ipBlock.except[3]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#,
            ],
        );
        assert_eq!(
            errors_of(json!({"policyTypes": ["Ingress", "X"]})),
            [r#"spec.policyTypes[1]: Unsupported value: "X": supported values: "Ingress", "Egress""#]
        );
        assert_eq!(
            errors_of(json!({"policyTypes": ["a", "b", "c"]})),
            [r#"spec.policyTypes: Invalid value: ["a","b","c"]: may not specify more than two policyTypes"#]
        );
    }

    #[test]
    fn rows_and_warnings() {
        let policy = json!({"metadata": {"name": "p"}, "spec": {"podSelector": {"matchLabels": {"a": "b"}},
            "egress": [{"to": [{"ipBlock": {"cidr": "2001:DB8::/64"}}]}]}});
        assert_eq!(row(&policy, 0), ["p", "a=b", "<unknown>"]);
        assert_eq!(
            warnings(&policy),
            [
                r#"spec.egress[0].to[0].ipBlock.cidr: IPv6 CIDR value "2001:DB8::/64" should be in RFC 5952 canonical format ("2001:db8::/64")"#
            ]
        );
    }
}
