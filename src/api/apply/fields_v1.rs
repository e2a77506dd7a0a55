//! `fieldsV1`: how field sets are written in `managedFields`.

use super::set::{Element, Node, Scalar, Set};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt::Write as _;

/// Deeper sets are refused.
const MAX_DEPTH: usize = 200;

/// The JSON form of a set.
pub fn encode(set: &Set) -> Value {
    Value::Object(encode_nodes(set, false))
}

fn encode_nodes(set: &Set, itself: bool) -> Map<String, Value> {
    let mut map = Map::new();
    // A place with nothing below it is `{}`; one that is itself in the set beside what is below it says `.`.
    if itself && !set.is_empty() {
        map.insert(".".to_owned(), Value::Object(Map::new()));
    }
    for node in set.nodes() {
        map.insert(element_text(&node.element), Value::Object(encode_nodes(&node.children, node.member)));
    }
    map
}

fn element_text(element: &Element) -> String {
    match element {
        Element::Field(name) => {
            let mut text = String::with_capacity(name.len() + 2);
            text.push_str("f:");
            text.push_str(name);
            text
        }
        Element::Key(keys) => {
            let mut text = String::from("k:{");
            for (i, (name, value)) in keys.iter().enumerate() {
                let comma = if i == 0 { "" } else { "," };
                // Writing to a string cannot fail.
                let _ = write!(text, "{comma}{}:{value}", Value::from(name.as_ref()));
            }
            text.push('}');
            text
        }
        Element::Value(value) => format!("v:{value}"),
        Element::Index(index) => format!("i:{index}"),
    }
}

/// Reads the JSON form of a set.
pub fn decode(fields: &Value) -> Result<Set, String> {
    match fields {
        Value::Null => Ok(Set::default()),
        Value::Object(map) => decode_nodes(map, 0).map(|(set, _)| set),
        _ => Err("fieldsV1 must be an object".to_owned()),
    }
}

fn decode_nodes(map: &Map<String, Value>, depth: usize) -> Result<(Set, bool), String> {
    if depth > MAX_DEPTH {
        return Err("fieldsV1 is nested too deeply".to_owned());
    }
    let mut nodes = Vec::with_capacity(map.len());
    let mut itself = false;
    for (text, below) in map {
        if text == "." {
            itself = true;
            continue;
        }
        let Value::Object(below) = below else {
            return Err(format!("fieldsV1: {text:?} must be an object"));
        };
        let element = read_element(text)?;
        let (children, member) = decode_nodes(below, depth + 1)?;
        // `{}` means the place itself.
        let member = member || children.is_empty();
        nodes.push(Node { element, member, children });
    }
    Ok((Set::of(nodes), itself))
}

fn read_element(text: &str) -> Result<Element, String> {
    let Some((kind, rest)) = text.split_at_checked(2) else {
        return Err("key must be 2 characters long:".to_owned());
    };
    match kind {
        "f:" => Ok(Element::Field(Cow::Owned(rest.to_owned()))),
        "v:" => {
            let value: Value = serde_json::from_str(rest).map_err(|error| error.to_string())?;
            Scalar::of(&value).map(Element::Value).ok_or_else(|| format!("{text:?} is no scalar"))
        }
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).map_err(|error| error.to_string())?;
            let mut keys = keys
                .into_iter()
                .map(|(name, value)| Some((Cow::Owned(name), Scalar::of(&value)?)))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| format!("{text:?} has a key that is no scalar"))?;
            keys.sort();
            Ok(Element::Key(keys))
        }
        "i:" => rest.parse().map(Element::Index).map_err(|_| format!("{text:?} is no index")),
        _ if !kind.ends_with(':') => Err(format!("missing colon: {text}")),
        _ => Err("unknown path element type".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sets_are_read_and_written() {
        let fields = json!({
            "f:metadata": {"f:finalizers": {".": {}, "v:\"a/b\"": {}}},
            "f:spec": {
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}, "i:3": {}},
                "f:replicas": {},
            },
        });
        let set = decode(&fields).expect("well-formed");
        assert_eq!(
            set.paths(),
            [
                ".metadata.finalizers",
                ".metadata.finalizers[=\"a/b\"]",
                ".spec.ports[containerPort=80,protocol=\"TCP\"]",
                ".spec.ports[containerPort=80,protocol=\"TCP\"].name",
                ".spec.ports[3]",
                ".spec.replicas",
            ]
        );
        assert_eq!(encode(&set), fields);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for bad in
            [json!([]), json!({"x": {}}), json!({"f:a": 1}), json!({"k:{": {}}), json!({"q:a": {}}), json!({"fa": {}})]
        {
            assert!(decode(&bad).is_err(), "{bad}");
        }
    }
}
