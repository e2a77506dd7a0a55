//! Reading and completing JSON trees without ceremony: what is absent reads as empty.

use serde_json::{Map, Value};

/// The string, or the empty one.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// The string if it is there and not empty.
pub(crate) fn some_text(value: &Value) -> Option<&str> {
    value.as_str().filter(|s| !s.is_empty())
}

/// The items, or none.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The entries, or none.
pub(crate) fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The integer, or zero.
pub(crate) fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// The boolean, or false.
pub(crate) fn flag(value: &Value) -> bool {
    value.as_bool().unwrap_or(false)
}

/// Whether there is nothing: absent, an empty string, list or object.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

/// The object itself, made one if it was absent.
pub(crate) fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object just above")
}

/// Sets a field that is absent.
pub(crate) fn default(object: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if object.get(key).is_none_or(Value::is_null) {
        object.insert(key.to_owned(), value.into());
    }
}

/// Sets a field that is absent, or zero in a sense that the wire cannot tell from absent: the
/// empty string, 0.
pub(crate) fn default_zero(object: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let zero = match object.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Number(n)) => n.as_i64() == Some(0),
        _ => false,
    };
    if zero {
        object.insert(key.to_owned(), value.into());
    }
}

/// The object under a key if it is there.
pub(crate) fn sub<'a>(object: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(key).and_then(Value::as_object_mut)
}

/// The object under a key, made if absent.
pub(crate) fn ensure<'a>(object: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    self::object(object.entry(key).or_insert(Value::Null))
}

/// The objects in the list under a key.
pub(crate) fn items<'a>(
    object: &'a mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// An update through the main resource cannot change the status.
pub(crate) fn keep_status(new: &mut Map<String, Value>, old: &Value) {
    match old.get("status") {
        Some(status) => new.insert("status".to_owned(), status.clone()),
        None => new.remove("status"),
    };
}

/// A field that an update leaves empty keeps its old value.
pub(crate) fn keep_zero(new: &mut Map<String, Value>, old: &Value, key: &str) {
    if let Some(value) = old.get(key).filter(|value| !value.is_null()) {
        default_zero(new, key, value.clone());
    }
}

/// The generation is the old one, or one more when `changed`.
pub(crate) fn bump_generation(
    new: &mut Map<String, Value>,
    old: &Value,
    changed: impl Fn(&Map<String, Value>, &Value) -> bool,
) {
    let generation = int(&old["metadata"]["generation"]).saturating_add(i64::from(changed(new, old)));
    let metadata = ensure(new, "metadata");
    if generation == 0 {
        metadata.remove("generation");
    } else {
        metadata.insert("generation".to_owned(), generation.into());
    }
}

/// Whether the spec was changed.
pub(crate) fn spec_differs(new: &Map<String, Value>, old: &Value) -> bool {
    new.get("spec").unwrap_or(&Value::Null) != &old["spec"]
}
