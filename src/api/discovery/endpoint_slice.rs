//! EndpointSlice: the backends of a Service.

use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::table;
use crate::tree::{self, list, some_text, text};
use serde_json::Value;

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
    rules: Rules { default, prepare_create, prepare_update, row, ..Rules::NONE },
};

/// So many ports or addresses are named; the others are counted.
const SHOWN: usize = 3;

fn default(slice: &mut Value) {
    for port in tree::items(tree::object(slice), "ports") {
        tree::default(port, "name", "");
        tree::default_zero(port, "protocol", "TCP");
    }
}

fn prepare_create(slice: &mut Value) {
    tree::ensure(tree::object(slice), "metadata").insert("generation".to_owned(), 1.into());
}

fn prepare_update(new: &mut Value, old: &Value) {
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
        new["endpoints"] = json!([{"addresses": ["1.1.1.1"]}]);
        prepare_update(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], 4);
    }
}
