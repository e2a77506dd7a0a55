//! What the two kinds of bindings share.

use crate::checks::{self, complain};
use crate::meta::names;
use crate::status::{FieldErrors, Path};
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

/// Errors of a binding to a role of one of these kinds. In a namespace, accounts that name none are of the same.
pub(super) fn validate(binding: &Value, kinds: &[&str], errors: &mut FieldErrors) {
    let (role, path) = (&binding["roleRef"], Path::root("roleRef"));
    if text(&role["apiGroup"]) != GROUP {
        errors.not_supported(path.child("apiGroup"), text(&role["apiGroup"]), &[GROUP]);
    }
    if !kinds.contains(&text(&role["kind"])) {
        errors.not_supported(path.child("kind"), text(&role["kind"]), kinds);
    }
    if checks::required(&role["name"], path.child("name"), errors) {
        let name = text(&role["name"]);
        complain(names::path_segment(name), name, path.child("name"), errors);
    }
    let path = Path::root("subjects");
    let everywhere = !kinds.contains(&"Role");
    for (i, one) in list(&binding["subjects"]).iter().enumerate() {
        subject(one, path.index(i), errors);
        if everywhere && one["kind"] == "ServiceAccount" {
            let at = path.index(i);
            checks::required(&one["namespace"], at.child("namespace"), errors);
        }
    }
}

fn subject(subject: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let name = text(&subject["name"]);
    checks::required(&subject["name"], path.child("name"), errors);
    let group = match text(&subject["kind"]) {
        "ServiceAccount" => {
            if !name.is_empty() {
                complain(names::dns_subdomain(name), name, path.child("name"), errors);
            }
            ""
        }
        "User" | "Group" => GROUP,
        other => {
            errors.not_supported(path.child("kind"), other, &["ServiceAccount", "User", "Group"]);
            return;
        }
    };
    if text(&subject["apiGroup"]) != group {
        errors.not_supported(path.child("apiGroup"), text(&subject["apiGroup"]), &[group]);
    }
}

/// A binding is to one role for ever.
pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new["roleRef"] != old["roleRef"] {
        errors.invalid("roleRef", &new["roleRef"], "cannot change roleRef");
    }
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

    #[test]
    fn roles_and_subjects_are_checked() {
        let binding = json!({"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": ""}, "subjects": [
            {"kind": "ServiceAccount", "name": "s"}, {"kind": "Robot", "name": "r"}]});
        let mut errors = FieldErrors::default();
        validate(&binding, &["ClusterRole"], &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "roleRef.name: Required value",
                "subjects[0].namespace: Required value",
                "subjects[1].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ]
        );
        // Within a namespace an account may leave it out: it is the binding's own.
        let near = json!({"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "r"}, "subjects": [
            {"kind": "ServiceAccount", "name": "s"}, {"kind": "ServiceAccount", "name": "s", "apiGroup": "x"}]});
        let mut errors = FieldErrors::default();
        validate(&near, &["Role", "ClusterRole"], &mut errors);
        assert_eq!(errors.messages(), ["subjects[1].apiGroup: Unsupported value: \"x\": supported values: \"\""]);
        let mut errors = FieldErrors::default();
        validate_update(&json!({"roleRef": {"name": "b"}}), &json!({"roleRef": {"name": "a"}}), &mut errors);
        assert_eq!(errors.messages(), ["roleRef: Invalid value: {\"name\":\"b\"}: cannot change roleRef"]);
    }
}
