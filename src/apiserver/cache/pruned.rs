//! A tree without what no object is ever selected by: most of an object, and most of the time to read it.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Members that are skipped, wherever they are.
const SKIPPED: [&str; 16] = [
    "annotations",
    "managedFields",
    "containers",
    "initContainers",
    "ephemeralContainers",
    "volumes",
    "affinity",
    "tolerations",
    "template",
    "containerStatuses",
    "initContainerStatuses",
    "conditions",
    "images",
    "data",
    "binaryData",
    "stringData",
];

/// What is left.
pub(super) struct Pruned(pub(super) Value);

impl<'de> Deserialize<'de> for Pruned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree).map(Self)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(Pruned(item)) = items.next_element()? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(Key(key)) = members.next_key()? {
            if SKIPPED.contains(&&*key) {
                members.next_value::<IgnoredAny>()?;
            } else {
                out.insert(key.into_owned(), members.next_value::<Pruned>()?.0);
            }
        }
        Ok(Value::Object(out))
    }
}

/// A member's name, borrowed where that is possible.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keeps_what_is_small_and_skips_what_is_large() {
        let text = r#"{"metadata":{"name":"a\n","annotations":{"x":"y"}},"spec":{"nodeName":"n","hostNetwork":true,
            "containers":[{"name":"c"}]},"status":{"podIPs":[{"ip":"10.0.0.1"}],"n":[1,-1,1.5,null]}}"#;
        let Pruned(tree) = serde_json::from_str(text).unwrap();
        let left = json!({"metadata": {"name": "a\n"}, "spec": {"nodeName": "n", "hostNetwork": true},
            "status": {"podIPs": [{"ip": "10.0.0.1"}], "n": [1, -1, 1.5, null]}});
        assert_eq!(tree, left);
    }
}
