//! The digest of a pod template: stands for the template wherever templates are only compared.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;

const HASH_LABEL: &str = "pod-template-hash";
/// Letters of generated names: no vowels, no look-alikes.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A digest of a pod template without its `pod-template-hash` label. Equal templates have equal
/// digests whatever the order of their fields, in every process and release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TemplateDigest(u128);

impl TemplateDigest {
    /// The digest of a template.
    pub fn of(template: &Value) -> Self {
        let mut hash = Fnv::new();
        hash.value(template, &mut Vec::new());
        Self(hash.0)
    }

    /// A short name for the template, for labels and object names. `collisions` leads to another one.
    pub fn name(self, collisions: i32) -> String {
        let mut hash = Fnv::new();
        hash.bytes(&self.0.to_be_bytes());
        if collisions != 0 {
            hash.bytes(&collisions.to_be_bytes());
        }
        let mut rest = hash.0 as u64 ^ (hash.0 >> 64) as u64;
        let mut name = String::with_capacity(10);
        for _ in 0..10 {
            name.push(char::from(ALPHABET[(rest % 27) as usize]));
            rest /= 27;
        }
        name
    }
}

/// What is kept of a pod template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateView {
    /// Stands for the whole template.
    pub digest: TemplateDigest,
    /// The labels of its pods.
    pub labels: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for TemplateView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let template = Value::deserialize(deserializer)?;
        let labels = template.pointer("/metadata/labels").cloned().unwrap_or_default();
        let labels = Option::deserialize(labels).unwrap_or_default().unwrap_or_default();
        Ok(Self { digest: TemplateDigest::of(&template), labels })
    }
}

/// FNV-1a of 128 bits.
struct Fnv(u128);

impl Fnv {
    fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u128::from(*byte);
            self.0 = self.0.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    fn text(&mut self, tag: u8, text: &str) {
        self.bytes(&[tag]);
        self.bytes(&(text.len() as u64).to_be_bytes());
        self.bytes(text.as_bytes());
    }

    /// Fields go in sorted order; empty and null ones do not count, as they mean absence. `path` is
    /// the way to `value`, to find the label that is left out.
    fn value<'a>(&mut self, value: &'a Value, path: &mut Vec<&'a str>) {
        match value {
            Value::Null => self.bytes(b"n"),
            Value::Bool(flag) => self.bytes(if *flag { b"t" } else { b"f" }),
            Value::Number(number) => self.text(b'#', &number.to_string()),
            Value::String(text) => self.text(b'"', text),
            Value::Array(items) => {
                self.bytes(b"[");
                for item in items {
                    self.value(item, path);
                }
                self.bytes(b"]");
            }
            Value::Object(map) => {
                let mut fields: Vec<_> = map
                    .iter()
                    .filter(|(key, value)| {
                        let own = key.as_str() == HASH_LABEL && path.as_slice() == ["metadata", "labels"];
                        let creation = key.as_str() == "creationTimestamp" && value.is_null();
                        !own && !creation
                    })
                    .collect();
                fields.sort_unstable_by_key(|(key, _)| key.as_str());
                self.bytes(b"{");
                for (key, value) in fields {
                    self.text(b':', key);
                    path.push(key);
                    self.value(value, path);
                    path.pop();
                }
                self.bytes(b"}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hash_label_and_the_order_do_not_count_but_all_else_does() {
        let plain = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"a": 1, "b": [1, 2]}});
        let labelled = json!({"spec": {"b": [1, 2], "a": 1},
            "metadata": {"creationTimestamp": null, "labels": {"app": "web", "pod-template-hash": "x"}}});
        let other = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"a": 1, "b": [2, 1]}});
        assert_eq!(TemplateDigest::of(&plain), TemplateDigest::of(&labelled));
        assert_ne!(TemplateDigest::of(&plain), TemplateDigest::of(&other));
    }

    #[test]
    fn names_are_the_same_for_ever() {
        let digest = TemplateDigest::of(&json!({"spec": {"containers": [{"name": "web"}]}}));
        assert_eq!(digest.name(0), "cz8kzgfw9d");
        assert_ne!(digest.name(1), digest.name(0));
    }
}
