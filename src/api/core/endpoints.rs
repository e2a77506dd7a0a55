//! Endpoints: the older form of a Service's backends.

use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
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
    rules: Rules { default, row, ..Rules::NONE },
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
}
