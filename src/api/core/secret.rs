//! Secret: bytes with a type. What is written as `stringData` is stored as `data`.

use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::{table, tree};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Secrets.
pub static SECRETS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.core.v1.Secret",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Type", "string"),
        Column::new("Data", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules { default, fields, row, ..Rules::NONE },
};

fn default(secret: &mut Value) {
    let secret = tree::object(secret);
    if let Some(Value::Object(plain)) = secret.remove("stringData") {
        let data = tree::ensure(secret, "data");
        for (key, value) in plain {
            let encoded = STANDARD.encode(value.as_str().unwrap_or(""));
            data.insert(key, encoded.into());
        }
    }
    tree::default_zero(secret, "type", "Opaque");
}

fn fields(secret: &Value) -> Vec<(&'static str, String)> {
    vec![("type", tree::text(&secret["type"]).to_owned())]
}

fn row(secret: &Value, now: i64) -> Vec<Value> {
    vec![
        table::name(secret),
        secret["type"].as_str().unwrap_or("").into(),
        tree::entries(&secret["data"]).count().into(),
        table::created(secret, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"data": {"a": "eA==", "b": "eQ=="}, "stringData": {"a": "hi"}});
        default(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "aGk=", "b": "eQ=="}}));
    }
}
