//! The patch of `apply`: what the file says now, less what it said before and no longer says.

use naru_api::facts::{Field, Kind, Shape, Type};
use serde_json::{Map, Value};

/// How the members of a map are merged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Merge {
    /// By the strategic rules of a known type.
    Fields(&'static Type),
    /// A map whose values have a kind of their own.
    Values(Kind),
    /// As JSON merge patch does: maps merge, all else is replaced.
    Plain,
}

impl Merge {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Object(ty) if ty.shape == Shape::Object => Self::Fields(ty),
            Kind::Map(inner) => Self::Values(*inner),
            _ => Self::Plain,
        }
    }

    fn field(self, key: &str) -> Option<&'static Field> {
        match self {
            Self::Fields(ty) => ty.field(key),
            _ => None,
        }
    }

    fn member(self, key: &str) -> Self {
        match self {
            Self::Fields(ty) => ty.field(key).map_or(Self::Plain, |field| Self::of(field.kind)),
            Self::Values(kind) => Self::of(kind),
            Self::Plain => Self::Plain,
        }
    }
}

/// The patch that turns `current` into what `modified` says, and removes what only `original` says.
/// Empty if there is nothing to do.
pub(crate) fn patch(original: &Value, modified: &Value, current: &Value, merge: Merge) -> Map<String, Value> {
    let empty = Map::new();
    let map = |value: &'_ Value| value.as_object().cloned().unwrap_or_default();
    let (original, current) = (map(original), map(current));
    let modified = modified.as_object().unwrap_or(&empty);
    let mut patch = Map::new();
    for (key, wanted) in modified {
        // An explicit null says the same as nothing.
        if wanted.is_null() {
            if current.contains_key(key) {
                patch.insert(key.clone(), Value::Null);
            }
            continue;
        }
        member(key, original.get(key).unwrap_or(&Value::Null), wanted, current.get(key), merge, &mut patch);
    }
    for key in original.keys() {
        if !modified.contains_key(key) && current.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    patch
}

fn member(
    key: &str,
    original: &Value,
    wanted: &Value,
    current: Option<&Value>,
    merge: Merge,
    into: &mut Map<String, Value>,
) {
    let field = merge.field(key);
    match (wanted, current) {
        (Value::Object(_), Some(present @ Value::Object(_))) => {
            if field.is_some_and(|field| field.schema.replace) {
                if wanted != present {
                    into.insert(key.to_owned(), wanted.clone());
                }
                return;
            }
            let mut inner = patch(original, wanted, present, merge.member(key));
            if inner.is_empty() {
                return;
            }
            if let (Some(keys), true) = (wanted.as_object(), field.is_some_and(|field| field.schema.retain_keys)) {
                // Unions, such as a deployment's strategy: other members must go.
                inner.insert("$retainKeys".to_owned(), keys.keys().cloned().collect::<Vec<_>>().into());
            }
            into.insert(key.to_owned(), inner.into());
        }
        (Value::Array(wanted), Some(Value::Array(present))) if field.is_some_and(|field| field.schema.merge) => {
            let original = original.as_array().map_or(&[][..], Vec::as_slice);
            list(key, original, wanted, present, field, into);
        }
        (wanted, Some(present)) if wanted == present => {}
        (wanted, _) => {
            into.insert(key.to_owned(), wanted.clone());
        }
    }
}

/// A list whose elements merge by key, or whose scalars are a set.
fn list(
    key: &str,
    original: &[Value],
    wanted: &[Value],
    present: &[Value],
    field: Option<&'static Field>,
    into: &mut Map<String, Value>,
) {
    let Some(merge_key) = field.and_then(|field| field.schema.merge_key) else {
        let missing: Vec<Value> = wanted.iter().filter(|item| !present.contains(item)).cloned().collect();
        let gone: Vec<Value> =
            original.iter().filter(|item| !wanted.contains(item) && present.contains(item)).cloned().collect();
        if !missing.is_empty() {
            into.insert(key.to_owned(), missing.into());
        }
        if !gone.is_empty() {
            into.insert(format!("$deleteFromPrimitiveList/{key}"), gone.into());
        }
        return;
    };
    let find = |items: &[Value], value: &Value| items.iter().find(|item| item[merge_key] == *value).cloned();
    let element = match field.map(|field| field.kind) {
        Some(Kind::List(inner)) => Merge::of(*inner),
        _ => Merge::Plain,
    };
    let mut changes: Vec<Value> = Vec::new();
    for item in wanted {
        let id = &item[merge_key];
        let Some(existing) = find(present, id) else {
            changes.push(item.clone());
            continue;
        };
        let mut inner = patch(&find(original, id).unwrap_or(Value::Null), item, &existing, element);
        if !inner.is_empty() {
            inner.insert(merge_key.to_owned(), id.clone());
            changes.push(inner.into());
        }
    }
    for item in original {
        let id = &item[merge_key];
        if find(wanted, id).is_none() && find(present, id).is_some() {
            changes.push(serde_json::json!({"$patch": "delete", merge_key: id}));
        }
    }
    if !changes.is_empty() {
        into.insert(key.to_owned(), changes.into());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use naru_api::facts::type_by_gvk;
    use serde_json::json;

    /// The patch must lead to `expect` when the server's own code applies it.
    fn check(original: Value, modified: Value, current: Value, expect: Value) {
        let ty = type_by_gvk("apps", "v1", "Deployment").unwrap();
        let patch = patch(&original, &modified, &current, Merge::Fields(ty));
        let mut result = current;
        naru_api::patch::strategic(&mut result, &Value::Object(patch.clone()), ty).unwrap();
        assert_eq!(result, expect, "{patch:?}");
        let again = super::patch(&modified, &modified, &result, Merge::Fields(ty));
        assert!(again.is_empty(), "{again:?}");
    }

    fn containers(containers: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    }

    #[test]
    fn what_others_set_stays_and_what_the_file_dropped_goes() {
        check(
            json!({"metadata": {"labels": {"a": "1", "b": "1"}}, "spec": {"replicas": 1, "paused": true}}),
            json!({"metadata": {"labels": {"a": "2"}}, "spec": {"replicas": 1}}),
            json!({"metadata": {"labels": {"a": "1", "b": "1", "other": "x"}}, "spec": {"replicas": 3, "paused": true, "minReadySeconds": 0}}),
            json!({"metadata": {"labels": {"a": "2", "other": "x"}}, "spec": {"replicas": 1, "minReadySeconds": 0}}),
        );
    }

    #[test]
    fn list_elements_merge_by_their_key() {
        check(
            containers(
                json!([{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}]}, {"name": "gone", "image": "g"}]),
            ),
            containers(
                json!([{"name": "a", "image": "a:2", "env": [{"name": "X", "value": "1"}]}, {"name": "new", "image": "n"}]),
            ),
            containers(json!([
                {"name": "a", "image": "a:1", "imagePullPolicy": "Always", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}]},
                {"name": "gone", "image": "g"}, {"name": "injected", "image": "i"}])),
            containers(json!([
                {"name": "a", "image": "a:2", "imagePullPolicy": "Always", "env": [{"name": "X", "value": "1"}]},
                {"name": "new", "image": "n"}, {"name": "injected", "image": "i"}])),
        );
    }

    #[test]
    fn atomic_lists_are_replaced() {
        let command = |words: &[&str]| containers(json!([{"name": "a", "command": words}]));
        check(command(&["a", "b"]), command(&["c"]), command(&["a", "b"]), command(&["c"]));
    }

    #[test]
    fn nothing_to_do_is_an_empty_patch() {
        let object = json!({"spec": {"replicas": 1}});
        let current = json!({"spec": {"replicas": 1, "paused": false}, "status": {}});
        assert!(patch(&Value::Null, &object, &current, Merge::Plain).is_empty());
    }

    #[test]
    fn unknown_types_are_merged_plainly() {
        let found = patch(
            &json!({"a": 1, "b": [1]}),
            &json!({"b": [2], "c": {"d": 1}}),
            &json!({"a": 1, "b": [1]}),
            Merge::Plain,
        );
        assert_eq!(Value::Object(found), json!({"a": null, "b": [2], "c": {"d": 1}}));
    }
}
