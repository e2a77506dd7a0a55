//! FlowSchema: which requests go to which priority level, and how they are told apart there.

use crate::checks::complain;
use crate::meta::names;
use crate::meta::prepare::{create_with, update as prepare_update};
use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, flag, int, is_empty, list, text};
use serde_json::{Value, json};

/// FlowSchemas.
pub static FLOW_SCHEMAS: Resource = Resource {
    group: "flowcontrol.apiserver.k8s.io",
    version: "v1",
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.flowcontrol.v1.FlowSchema",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "status",
        gvk: ("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema"),
        verbs: verbs::GET_PATCH_UPDATE,
        action: Action::Status,
    }],
    columns: &[
        Column::NAME,
        Column::new("PriorityLevel", "string"),
        Column::new("MatchingPrecedence", "string"),
        Column::new("DistinguisherMethod", "string"),
        Column::new("Age", "string"),
        Column::new("MissingPL", "string"),
    ],
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        row,
        validate,
        validate_status: |new, _, errors| super::conditions(new, errors),
        ..Rules::NONE
    },
};

const DEFAULT_PRECEDENCE: i64 = 1000;
const MAX_PRECEDENCE: i64 = 10_000;
const EXEMPT: &str = "exempt";

fn default(schema: &mut Value) {
    let spec = tree::ensure(tree::object(schema), "spec");
    tree::default_zero(spec, "matchingPrecedence", DEFAULT_PRECEDENCE);
}

fn prepare_create(schema: &mut Value) {
    create_with(schema, json!({}));
}

fn row(schema: &Value, now: i64) -> Vec<Value> {
    let spec = &schema["spec"];
    let dangling = list(&schema["status"]["conditions"]).iter().find(|condition| condition["type"] == "Dangling");
    vec![
        table::name(schema),
        text(&spec["priorityLevelConfiguration"]["name"]).into(),
        int(&spec["matchingPrecedence"]).into(),
        match spec["distinguisherMethod"].is_object() {
            true => text(&spec["distinguisherMethod"]["type"]).into(),
            false => "<none>".into(),
        },
        table::created(schema, now),
        dangling.map_or("?", |condition| text(&condition["status"])).into(),
    ]
}

fn validate(schema: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&schema["spec"], Path::root("spec"));
    let name = text(&schema["metadata"]["name"]);
    precedence(int(&spec["matchingPrecedence"]), name, path.child("matchingPrecedence"), errors);
    let (method, methods) = (&spec["distinguisherMethod"], ["ByNamespace", "ByUser"]);
    if method.is_object() && !methods.contains(&text(&method["type"])) {
        errors.not_supported(path.child("distinguisherMethod").child("type"), method, &methods);
    }
    let level = text(&spec["priorityLevelConfiguration"]["name"]);
    let (at, rules) = (path.child("priorityLevelConfiguration"), path.child("rules"));
    if level.is_empty() {
        errors.required(at.child("name"), "must reference a priority level");
    } else {
        complain(names::dns_subdomain(level), level, at.child("name"), errors);
    }
    for (i, rule) in list(&spec["rules"]).iter().enumerate() {
        policy(rule, rules.index(i), errors);
    }
    if let Some(mandatory) = mandatory(name).filter(|mandatory| mandatory != spec) {
        drop(mandatory);
        errors.invalid(path, spec, &format!("spec of '{name}' must equal the fixed value"));
    }
    super::conditions(schema, errors);
}

fn precedence(precedence: i64, name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    if precedence <= 0 {
        errors.invalid(path, precedence, "must be a positive value");
    }
    if precedence > MAX_PRECEDENCE {
        errors.invalid(path, precedence, &format!("must not be greater than {MAX_PRECEDENCE}"));
    }
    if precedence == 1 && name != EXEMPT {
        errors.invalid(path, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
}

/// The specification that a schema of this name must have.
fn mandatory(name: &str) -> Option<Value> {
    let everything = |groups: &[&str]| {
        let subjects: Vec<Value> = groups.iter().map(|g| json!({"kind": "Group", "group": {"name": g}})).collect();
        json!([{
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }])
    };
    match name {
        EXEMPT => Some(json!({
            "priorityLevelConfiguration": {"name": EXEMPT},
            "matchingPrecedence": 1,
            "rules": everything(&["system:masters"]),
        })),
        "catch-all" => Some(json!({
            "priorityLevelConfiguration": {"name": "catch-all"},
            "matchingPrecedence": MAX_PRECEDENCE,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": everything(&["system:unauthenticated", "system:authenticated"]),
        })),
        _ => None,
    }
}

fn policy(rule: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (subjects, resources, others) =
        (path.child("subjects"), path.child("resourceRules"), path.child("nonResourceRules"));
    if is_empty(&rule["subjects"]) {
        errors.required(subjects, "subjects must contain at least one value");
    }
    for (i, item) in list(&rule["subjects"]).iter().enumerate() {
        subject(item, subjects.index(i), errors);
    }
    if is_empty(&rule["resourceRules"]) && is_empty(&rule["nonResourceRules"]) {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, item) in list(&rule["resourceRules"]).iter().enumerate() {
        resource_rule(item, resources.index(i), errors);
    }
    for (i, item) in list(&rule["nonResourceRules"]).iter().enumerate() {
        non_resource_rule(item, others.index(i), errors);
    }
}

/// The kinds of subjects, each with its field, in the order in which they are complained about.
const SUBJECTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn subject(subject: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let kind = text(&subject["kind"]);
    let Some((_, field)) = SUBJECTS.iter().find(|(k, _)| *k == kind) else {
        return errors.not_supported(path.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
    };
    let (who, at) = (&subject[field], path.child(field));
    if !who.is_object() {
        errors.required(at, &format!("{field} is required when subject kind is '{kind}'"));
    } else {
        let name = text(&who["name"]);
        if name.is_empty() {
            errors.required(at.child("name"), "");
        }
        if kind == "ServiceAccount" {
            if !name.is_empty() && name != "*" {
                complain(names::dns_subdomain(name), name, at.child("name"), errors);
            }
            let namespace = text(&who["namespace"]);
            if namespace.is_empty() {
                errors.required(at.child("namespace"), "must specify namespace for service account");
            } else {
                complain(names::dns_label(namespace), namespace, at.child("namespace"), errors);
            }
        }
    }
    for (other, field) in SUBJECTS.iter().filter(|(other, _)| *other != kind) {
        if subject[field].is_object() {
            errors.forbidden(path.child(field), &format!("{field} is forbidden when subject kind is not '{other}'"));
        }
    }
}

const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

fn has_wildcard(values: &Value) -> bool {
    list(values).iter().any(|value| value == "*")
}

/// A list that must not be empty, and in which `*` stands alone; whether its items are worth a look.
fn one_or_all(values: &Value, missing: &str, others: &str, path: Path<'_>, errors: &mut FieldErrors) -> bool {
    if is_empty(values) {
        errors.required(path, missing);
        return false;
    }
    if has_wildcard(values) && list(values).len() > 1 {
        errors.invalid(path, values, &format!("if '*' is present, must not specify other {others}"));
    }
    !has_wildcard(values)
}

fn verb_list(verbs: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let listed = one_or_all(verbs, "verbs must contain at least one value", "verbs", path, errors);
    if listed && !list(verbs).iter().all(|verb| VERBS.contains(&text(verb))) {
        errors.not_supported(path, verbs, &VERBS);
    }
}

fn resource_rule(rule: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    verb_list(&rule["verbs"], path.child("verbs"), errors);
    let missing = "resource rules must supply at least one api group";
    one_or_all(&rule["apiGroups"], missing, "api groups", path.child("apiGroups"), errors);
    let missing = "resource rules must supply at least one resource";
    one_or_all(&rule["resources"], missing, "resources", path.child("resources"), errors);
    let at = path.child("namespaces");
    if is_empty(&rule["namespaces"]) && flag(&rule["clusterScope"]) {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    if one_or_all(&rule["namespaces"], missing, "namespaces", at, errors) {
        for (i, namespace) in list(&rule["namespaces"]).iter().enumerate() {
            for why in names::dns_label(text(namespace)) {
                let why = format!("each member of this list must be '*' or a DNS-1123 label; {why}");
                errors.invalid(at.index(i), namespace, &why);
            }
        }
    }
}

fn non_resource_rule(rule: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    verb_list(&rule["verbs"], path.child("verbs"), errors);
    let at = path.child("nonResourceURLs");
    let missing = "nonResourceURLs must contain at least one value";
    if one_or_all(&rule["nonResourceURLs"], missing, "non-resource URLs", at, errors) {
        for (i, url) in list(&rule["nonResourceURLs"]).iter().map(text).enumerate() {
            if let Some(why) = wrong_url(url) {
                errors.invalid(at.index(i), url, why);
            }
        }
    }
}

fn wrong_url(url: &str) -> Option<&'static str> {
    let wildcards = url.matches('*').count();
    if url.is_empty() {
        Some("must not be empty")
    } else if url == "/" {
        None
    } else if !url.starts_with('/') {
        Some("must start with slash")
    } else if url.contains(' ') {
        Some("must not contain white-space")
    } else if url.contains("//") {
        Some("must not contain double slash")
    } else if wildcards > 1 || (wildcards == 1 && !url.ends_with("/*")) {
        Some("wildcard can only do suffix matching")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(name: &str, spec: Value) -> Vec<String> {
        let mut schema = json!({"metadata": {"name": name}, "spec": spec});
        default(&mut schema);
        let mut errors = FieldErrors::default();
        validate(&schema, &mut errors);
        errors.messages()
    }

    #[test]
    fn mandatory_schemas_are_fixed() {
        for name in ["exempt", "catch-all"] {
            let mut spec = mandatory(name).expect("mandatory");
            assert_eq!(errors_of(name, spec.clone()), [""; 0]);
            spec["rules"][0]["subjects"] = json!([{"kind": "User", "user": {"name": "x"}}]);
            let expect = format!("spec: Invalid value: {spec}: spec of '{name}' must equal the fixed value");
            assert_eq!(errors_of(name, spec), [expect]);
        }
    }

    #[test]
    fn what_can_be_wrong() {
        assert_eq!(
            errors_of("x", json!({"matchingPrecedence": 1, "distinguisherMethod": {"type": "ByX"}, "rules": [{}]})),
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.distinguisherMethod.type: Unsupported value: {\"type\":\"ByX\"}: supported values: \"ByNamespace\", \"ByUser\"",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                "spec.rules[0].subjects: Required value: subjects must contain at least one value",
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ]
        );
        let rule = json!({
            "subjects": [{"kind": "User", "group": {"name": "g"}}, {"kind": "ServiceAccount", "serviceAccount": {"name": "*"}}, {"kind": "x"}],
            "resourceRules": [{"verbs": ["get", "*"], "apiGroups": [""], "resources": ["pods"]}, {"verbs": ["fly"], "apiGroups": ["a", "*"], "namespaces": ["A"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["x", "/a*", "/ok/*"]}],
        });
        let found = errors_of("x", json!({"priorityLevelConfiguration": {"name": "p"}, "rules": [rule]}));
        assert_eq!(
            found[..8],
            [
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0].subjects[1].serviceAccount.namespace: Required value: must specify namespace for service account",
                "spec.rules[0].subjects[2].kind: Unsupported value: \"x\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
                "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"get\",\"*\"]: if '*' is present, must not specify other verbs",
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
                "spec.rules[0].resourceRules[1].verbs: Unsupported value: [\"fly\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
                "spec.rules[0].resourceRules[1].apiGroups: Invalid value: [\"a\",\"*\"]: if '*' is present, must not specify other api groups",
            ]
        );
        assert_eq!(
            found[10..],
            [
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"x\": must start with slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a*\": wildcard can only do suffix matching",
            ]
        );
    }

    #[test]
    fn rows_show_a_missing_level() {
        let schema = json!({"metadata": {"name": "s"}, "spec": {"priorityLevelConfiguration": {"name": "p"}, "matchingPrecedence": 5},
            "status": {"conditions": [{"type": "Dangling", "status": "False"}]}});
        assert_eq!(Value::from(row(&schema, 0)), json!(["s", "p", 5, "<none>", "<unknown>", "False"]));
    }
}
