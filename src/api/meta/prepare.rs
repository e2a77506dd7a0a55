//! What the server does to a new object and to a changed one whatever its kind: the status is its own, and it counts
//! generations.

use crate::tree;
use serde_json::Value;

/// A new object is at its first generation.
pub(crate) fn create(object: &mut Value) {
    tree::ensure(tree::object(object), "metadata").insert("generation".to_owned(), 1.into());
}

/// A new object is at its first generation and has this status, whatever was sent.
pub(crate) fn create_with(object: &mut Value, status: Value) {
    tree::object(object).insert("status".to_owned(), status);
    create(object);
}

/// An object without a status counts the changes of its spec.
pub(crate) fn update_spec(new: &mut Value, old: &Value) {
    tree::bump_generation(tree::object(new), old, tree::spec_differs);
}

/// An object without generations keeps its status.
pub(crate) fn keep_status(new: &mut Value, old: &Value) {
    tree::keep_status(tree::object(new), old);
}

/// The status stays, and changes of the spec are counted.
pub(crate) fn update(new: &mut Value, old: &Value) {
    keep_status(new, old);
    update_spec(new, old);
}

/// The field by which what runs so many pods is selected.
pub(crate) fn replicas(object: &Value) -> Vec<(&'static str, String)> {
    vec![("status.replicas", tree::int(&object["status"]["replicas"]).to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn generations_and_status_are_the_servers() {
        let mut object = json!({"spec": {"a": 1}, "status": {"sent": true}, "metadata": {"generation": 7}});
        create_with(&mut object, json!({}));
        assert_eq!(object, json!({"spec": {"a": 1}, "status": {}, "metadata": {"generation": 1}}));
        let mut same = json!({"spec": {"a": 1}, "status": {"sent": true}});
        update(&mut same, &object);
        assert_eq!(same, object);
        let mut other = json!({"spec": {"a": 2}});
        update(&mut other, &object);
        assert_eq!(other["metadata"]["generation"], 2);
    }
}
