//! What the two kinds of bindings share.

use crate::table;
use crate::tree::{self, list, text};
use serde_json::Value;

/// The group of roles, users and groups.
pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn default(binding: &mut Value) {
    let binding = tree::object(binding);
    if let Some(role) = tree::sub(binding, "roleRef") {
        tree::default_zero(role, "apiGroup", GROUP);
    }
    for subject in tree::items(binding, "subjects") {
        if matches!(subject.get("kind").map_or("", text), "User" | "Group") {
            tree::default_zero(subject, "apiGroup", GROUP);
        }
    }
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let names: Vec<String> = list(&binding["subjects"])
        .iter()
        .filter(|s| s["kind"] == kind)
        .map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", text(&s["namespace"]), text(&s["name"])),
            _ => text(&s["name"]).to_owned(),
        })
        .collect();
    names.join(", ").into()
}

pub(super) fn row(binding: &Value, now: i64) -> Vec<Value> {
    let role = &binding["roleRef"];
    vec![
        table::name(binding),
        format!("{}/{}", text(&role["kind"]), text(&role["name"])).into(),
        table::created(binding, now),
        subjects(binding, "User"),
        subjects(binding, "Group"),
        subjects(binding, "ServiceAccount"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn groups_are_filled_in_and_subjects_listed() {
        let mut binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "Group", "name": "g"}, {"kind": "Group", "name": "h"},
            {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]});
        default(&mut binding);
        assert_eq!(binding["roleRef"]["apiGroup"], GROUP);
        assert_eq!(binding["subjects"][0]["apiGroup"], GROUP);
        assert!(binding["subjects"][3]["apiGroup"].is_null());
        let expect = json!(["b", "ClusterRole/view", "<unknown>", "u", "g, h", "n/s"]);
        assert_eq!(Value::from(row(&binding, 0)), expect);
    }
}
