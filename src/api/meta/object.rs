//! Accessors of an object's metadata.

use serde_json::{Map, Value};
use std::collections::HashSet;

/// One owner reference, borrowed from the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerRef<'a> {
    /// `apiVersion` of the owner.
    pub api_version: &'a str,
    /// Kind of the owner.
    pub kind: &'a str,
    /// Name of the owner.
    pub name: &'a str,
    /// Uid of the owner.
    pub uid: &'a str,
    /// Whether it is the managing controller.
    pub controller: bool,
    /// Whether it holds up the owner's deletion in the foreground.
    pub block_owner_deletion: bool,
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    metadata(object).and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or("")
}

/// `metadata`, if there.
pub fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata").and_then(Value::as_object)
}

/// `metadata` for changes; made an object if it is none. `object` must be an object.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let map = object.as_object_mut().expect("made an object above");
    let slot = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("made an object above")
}

/// Sets a text of `metadata`, or removes it when empty.
pub fn set(object: &mut Value, field: &str, value: &str) {
    let map = metadata_mut(object);
    if value.is_empty() {
        map.remove(field);
    } else {
        map.insert(field.to_owned(), Value::from(value));
    }
}

/// `kind`.
pub fn kind(object: &Value) -> &str {
    object.get("kind").and_then(Value::as_str).unwrap_or("")
}

/// `apiVersion`.
pub fn api_version(object: &Value) -> &str {
    object.get("apiVersion").and_then(Value::as_str).unwrap_or("")
}

/// Splits an `apiVersion` into group (empty for core) and version.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// Joins group and version into an `apiVersion`.
pub fn join_api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.generateName`.
pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

/// `metadata.namespace`, empty if there is none.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`, empty if there is none.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// `metadata.generation`, 0 if there is none.
pub fn generation(object: &Value) -> i64 {
    metadata(object).and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0)
}

/// `metadata.creationTimestamp`, as written.
pub fn creation_timestamp(object: &Value) -> Option<&str> {
    Some(text(object, "creationTimestamp")).filter(|s| !s.is_empty())
}

/// `metadata.deletionTimestamp`, as written.
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    Some(text(object, "deletionTimestamp")).filter(|s| !s.is_empty())
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    metadata(object).and_then(|m| m.get("deletionGracePeriodSeconds")).and_then(Value::as_i64)
}

fn pairs<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    let map = metadata(object).and_then(|m| m.get(field)).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(k, v)| v.as_str().map(|v| (k.as_str(), v)))
}

/// `metadata.labels`.
pub fn labels(object: &Value) -> impl Iterator<Item = (&str, &str)> {
    pairs(object, "labels")
}

/// One label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    metadata(object).and_then(|m| m.get("labels")).and_then(|l| l.get(key)).and_then(Value::as_str)
}

/// `metadata.annotations`.
pub fn annotations(object: &Value) -> impl Iterator<Item = (&str, &str)> {
    pairs(object, "annotations")
}

/// One annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    metadata(object).and_then(|m| m.get("annotations")).and_then(|l| l.get(key)).and_then(Value::as_str)
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    let list = metadata(object).and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// Sets `metadata.finalizers`, or removes it when empty.
pub fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    let map = metadata_mut(object);
    if finalizers.is_empty() {
        map.remove("finalizers");
    } else {
        map.insert("finalizers".to_owned(), Value::from(finalizers.to_vec()));
    }
}

/// `metadata.ownerReferences`.
pub fn owner_references(object: &Value) -> impl Iterator<Item = OwnerRef<'_>> {
    fn part<'a>(reference: &'a Value, field: &str) -> &'a str {
        reference.get(field).and_then(Value::as_str).unwrap_or("")
    }
    fn flag(reference: &Value, field: &str) -> bool {
        reference.get(field).and_then(Value::as_bool).unwrap_or(false)
    }
    let list = metadata(object).and_then(|m| m.get("ownerReferences")).and_then(Value::as_array);
    list.into_iter().flatten().map(|reference| OwnerRef {
        api_version: part(reference, "apiVersion"),
        kind: part(reference, "kind"),
        name: part(reference, "name"),
        uid: part(reference, "uid"),
        controller: flag(reference, "controller"),
        block_owner_deletion: flag(reference, "blockOwnerDeletion"),
    })
}

/// The owner reference of the managing controller.
pub fn controller_of(object: &Value) -> Option<OwnerRef<'_>> {
    owner_references(object).find(|owner| owner.controller)
}

/// The characters of generated names: no vowels, so no words.
pub const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// How many characters a generated name gets.
pub const NAME_SUFFIX_LENGTH: usize = 5;

/// The longest base that a generated name keeps.
pub const MAX_GENERATED_BASE: usize = 63 - NAME_SUFFIX_LENGTH;

/// A name from `generateName` and random bytes.
pub fn generated_name(base: &str, random: [u8; NAME_SUFFIX_LENGTH]) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    name.extend(random.iter().map(|byte| char::from(NAME_ALPHABET[usize::from(*byte) % NAME_ALPHABET.len()])));
    name
}

/// Takes owner references out that are there already, and says whose (their uids, one for each).
pub fn drop_repeated_owners(object: &mut Value) -> Vec<String> {
    let list = object.get_mut("metadata").and_then(|m| m.get_mut("ownerReferences")).and_then(Value::as_array_mut);
    let Some(list) = list.filter(|list| list.len() > 1) else { return Vec::new() };
    const FIELDS: [&str; 6] = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let mut repeated = Vec::new();
    let mut seen: HashSet<[String; 6]> = HashSet::with_capacity(list.len());
    list.retain(|owner| {
        let first = seen.insert(FIELDS.map(|field| owner[field].to_string()));
        if !first {
            repeated.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        }
        first
    });
    repeated
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_reads_and_changes() {
        let mut object = json!({"metadata": {
            "name": "a", "labels": {"x": "y"}, "finalizers": ["f"],
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}],
        }});
        assert_eq!((name(&object), namespace(&object)), ("a", ""));
        assert_eq!(labels(&object).collect::<Vec<_>>(), [("x", "y")]);
        assert_eq!(controller_of(&object).unwrap().uid, "u");
        set_finalizers(&mut object, &[]);
        set(&mut object, "namespace", "n");
        assert_eq!(finalizers(&object).count(), 0);
        assert_eq!(namespace(&object), "n");
    }

    #[test]
    fn generated_names_fit_a_label() {
        let name = generated_name(&"a".repeat(100), [0, 26, 27, 255, 1]);
        assert_eq!(name.len(), 63);
        assert!(name.ends_with("b9bqc"), "{name}");
    }

    #[test]
    fn owners_are_named_once() {
        let owner = |uid: &str, name: &str| json!({"kind": "Pod", "name": name, "uid": uid});
        let (a, b, other) = (owner("1", "a"), owner("2", "b"), owner("1", "b"));
        let mut object = json!({"metadata": {"ownerReferences": [a, b, a, other, b, a]}});
        assert_eq!(drop_repeated_owners(&mut object), ["1", "2", "1"]);
        assert_eq!(object["metadata"]["ownerReferences"], json!([a, b, other]));
        assert!(drop_repeated_owners(&mut object).is_empty());
        assert!(drop_repeated_owners(&mut json!({"metadata": {}})).is_empty());
    }
}
