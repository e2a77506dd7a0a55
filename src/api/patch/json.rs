//! JSON patch (RFC 6902).

use super::PatchError;
use serde_json::Value;

/// More operations than this are refused.
const MAX_OPERATIONS: usize = 10_000;
/// More values than this are never copied by one patch: copies of copies grow without bound.
const MAX_COPIED: usize = 200_000;

type Result<T> = std::result::Result<T, PatchError>;

/// Applies a JSON patch document; on error the target may be half changed.
pub fn json(target: &mut Value, operations: &[u8]) -> Result<()> {
    let malformed = |error: &dyn std::fmt::Display| PatchError::Malformed(error.to_string());
    let document: Value = serde_json::from_slice(operations).map_err(|e| malformed(&e))?;
    let operations = match document {
        Value::Array(operations) => operations,
        Value::Null => Vec::new(),
        _ => return Err(malformed(&"json: cannot unmarshal object into Go value of type jsonpatch.Patch")),
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut copied = 0;
    for operation in &operations {
        apply(target, operation, &mut copied)?;
    }
    Ok(())
}

fn apply(target: &mut Value, operation: &Value, copied: &mut usize) -> Result<()> {
    let text = |field: &str| operation.get(field).and_then(Value::as_str);
    let name = text("op").unwrap_or("");
    let path = text("path").ok_or_else(|| {
        PatchError::DoesNotApply(format!("{name} operation failed: unable to decode path: missing value"))
    })?;
    let value = || {
        operation.get("value").cloned().ok_or_else(|| {
            PatchError::DoesNotApply(format!("{name} operation does not apply: missing value for path: {path:?}"))
        })
    };
    let from = || {
        text("from").ok_or_else(|| {
            PatchError::DoesNotApply(format!("{name} operation failed: unable to decode from: missing value"))
        })
    };
    match name {
        "add" => add(target, path, value()?, name),
        "remove" => remove(target, path, name).map(drop),
        "replace" => {
            let slot = find(target, path).ok_or_else(|| missing(name, path))?;
            *slot = value()?;
            Ok(())
        }
        "move" => {
            let moved = remove(target, from()?, name)?;
            add(target, path, moved, name)
        }
        "copy" => {
            let from = from()?;
            let copy = find(target, from).ok_or_else(|| missing(name, from))?.clone();
            *copied += count(&copy);
            if *copied > MAX_COPIED {
                return Err(PatchError::DoesNotApply("copies of copies grow too large".into()));
            }
            add(target, path, copy, name)
        }
        "test" => {
            let expected = operation.get("value").unwrap_or(&Value::Null);
            let found = find(target, path);
            if found.as_deref().unwrap_or(&Value::Null) == expected {
                Ok(())
            } else {
                Err(PatchError::DoesNotApply(format!("testing value {path} failed: test failed")))
            }
        }
        other => Err(PatchError::DoesNotApply(format!("Unexpected kind: {other}"))),
    }
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(count).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(count).sum::<usize>(),
        Value::String(s) => 1 + s.len() / 16,
        _ => 1,
    }
}

fn missing(operation: &str, path: &str) -> PatchError {
    PatchError::DoesNotApply(format!(
        "{operation} operation does not apply: doc is missing path: {path:?}: missing value"
    ))
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// An index into a list of that length; negative ones count from the end.
fn index(token: &str, length: usize) -> Option<usize> {
    if let Some(back) = token.strip_prefix('-') {
        return length.checked_sub(back.parse::<usize>().ok()?).filter(|i| *i < length);
    }
    token.parse().ok()
}

fn find<'a>(target: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    if path.is_empty() {
        return Some(target);
    }
    path.strip_prefix('/')?.split('/').try_fold(target, |at, token| match at {
        Value::Object(map) => map.get_mut(&unescape(token)),
        Value::Array(list) => {
            let at = index(token, list.len())?;
            list.get_mut(at)
        }
        _ => None,
    })
}

/// The parent of a path and the path's last token.
fn parent<'a>(target: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (before, last) = path.rsplit_once('/')?;
    Some((find(target, before)?, unescape(last)))
}

fn add(target: &mut Value, path: &str, value: Value, operation: &str) -> Result<()> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = parent(target, path).ok_or_else(|| missing(operation, path))?;
    match parent {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let at = index(&last, list.len() + 1).filter(|at| *at <= list.len()).ok_or_else(|| {
                PatchError::DoesNotApply(format!(
                    "{operation} operation does not apply: doc is missing path: {path:?}: Unable to access invalid index: {last}: invalid index referenced"
                ))
            })?;
            list.insert(at, value);
        }
        _ => return Err(missing(operation, path)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str, operation: &str) -> Result<Value> {
    let (parent, last) = parent(target, path).ok_or_else(|| missing(operation, path))?;
    let removed = match parent {
        Value::Object(map) => map.remove(&last),
        Value::Array(list) => index(&last, list.len()).filter(|at| *at < list.len()).map(|at| list.remove(at)),
        _ => None,
    };
    removed.ok_or_else(|| missing(operation, path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn check(target: &Value, operations: &Value, expect: std::result::Result<Value, &str>) {
        let mut result = target.clone();
        let outcome = json(&mut result, operations.to_string().as_bytes()).map(|()| result).map_err(|e| e.to_string());
        assert_eq!(outcome, expect.map_err(str::to_owned), "{target} patched by {operations}");
    }

    #[test]
    fn operations_apply_in_order() {
        let doc = json!({"a": [1, 2], "b": {"x/y": 1}});
        check(&doc, &json!([{"op": "add", "path": "/a/1", "value": 9}]), Ok(json!({"a": [1, 9, 2], "b": {"x/y": 1}})));
        check(&doc, &json!([{"op": "add", "path": "/a/-", "value": 9}]), Ok(json!({"a": [1, 2, 9], "b": {"x/y": 1}})));
        check(&doc, &json!([{"op": "remove", "path": "/b/x~1y"}]), Ok(json!({"a": [1, 2], "b": {}})));
        check(
            &doc,
            &json!([{"op": "move", "from": "/a/0", "path": "/c"}]),
            Ok(json!({"a": [2], "b": {"x/y": 1}, "c": 1})),
        );
        check(
            &doc,
            &json!([{"op": "copy", "from": "/b", "path": "/c"}, {"op": "replace", "path": "/b", "value": 1}]),
            Ok(json!({"a": [1, 2], "b": 1, "c": {"x/y": 1}})),
        );
        check(
            &doc,
            &json!([{"op": "test", "path": "/a/0", "value": 1}, {"op": "test", "path": "/z", "value": null}]),
            Ok(doc.clone()),
        );
    }

    #[test]
    fn what_does_not_apply_says_why() {
        let doc = json!({"a": [1]});
        check(
            &doc,
            &json!([{"op": "test", "path": "/a/0", "value": 2}]),
            Err("testing value /a/0 failed: test failed"),
        );
        check(
            &doc,
            &json!([{"op": "remove", "path": "/x"}]),
            Err("remove operation does not apply: doc is missing path: \"/x\": missing value"),
        );
        check(
            &doc,
            &json!([{"op": "replace", "path": "/x/y", "value": 1}]),
            Err("replace operation does not apply: doc is missing path: \"/x/y\": missing value"),
        );
        check(&doc, &json!([{"op": "frob", "path": "/a"}]), Err("Unexpected kind: frob"));
        let mut target = doc;
        assert!(matches!(json(&mut target, b"{"), Err(PatchError::Malformed(_))));
    }

    #[test]
    fn copies_of_copies_are_bounded() {
        let operations: Vec<Value> = (0..64).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
        let mut target = json!({"a": [[0, 1, 2, 3]]});
        let result = json(&mut target, Value::Array(operations).to_string().as_bytes());
        assert!(matches!(result, Err(PatchError::DoesNotApply(_))));
    }
}
