//! ConfigMap: strings and bytes for containers to read.

use super::data;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::{table, tree};
use serde_json::Value;

/// ConfigMaps.
pub static CONFIG_MAPS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["cm"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.ConfigMap",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Data", "string"), Column::new("Age", "string")],
    rules: Rules { row, validate, validate_update, ..Rules::NONE },
};

fn row(object: &Value, now: i64) -> Vec<Value> {
    let count = tree::entries(&object["data"]).count() + tree::entries(&object["binaryData"]).count();
    vec![table::name(object), count.into(), table::created(object, now)]
}

fn validate(map: &Value, errors: &mut FieldErrors) {
    for field in ["data", "binaryData"] {
        data::keys(&map[field], Path::root(field), errors);
    }
    for (key, _) in tree::entries(&map["data"]).filter(|(k, _)| !map["binaryData"][*k].is_null()) {
        errors.invalid(Path::root("data").key(key), key, "duplicate of key present in binaryData");
    }
    let text: usize = tree::entries(&map["data"]).map(|(_, v)| tree::text(v).len()).sum();
    let binary: usize = tree::entries(&map["binaryData"]).map(|(_, v)| data::decoded_len(v)).sum();
    if text + binary > data::MAX_BYTES {
        errors.too_long("", data::MAX_BYTES);
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    data::immutable(new, old, &["data", "binaryData"], errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_size_and_immutability() {
        let mut errors = FieldErrors::default();
        validate(&json!({"data": {"a/b": "x", "c": "y"}, "binaryData": {"c": "eA=="}}), &mut errors);
        let messages = errors.messages();
        assert!(messages[0].starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key must"), "{messages:?}");
        assert_eq!(messages[1], "data[c]: Invalid value: \"c\": duplicate of key present in binaryData");

        let mut errors = FieldErrors::default();
        validate(&json!({"data": {"a": "x".repeat(data::MAX_BYTES + 1)}}), &mut errors);
        assert_eq!(errors.messages(), [": Too long: may not be more than 1048576 bytes"]);

        let mut errors = FieldErrors::default();
        let old = json!({"immutable": true, "data": {"a": "b"}});
        validate_update(&json!({"data": {"a": "c"}}), &old, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
    }
}
