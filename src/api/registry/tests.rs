//! The registry agrees with the facts, and no tree that a client could send makes a rule panic.

use super::*;
use crate::facts::{self, Kind, Shape, Type};
use crate::meta::validate;
use serde_json::{Map, json};

#[test]
fn every_resource_has_its_type() {
    for (i, resource) in RESOURCES.iter().enumerate() {
        let named = facts::type_by_name(resource.type_name).expect(resource.type_name);
        let by_kind = facts::type_by_gvk(resource.group, resource.version, resource.kind).expect(resource.kind);
        assert_eq!(named.name, by_kind.name);
        assert!(std::ptr::eq(
            find(resource.group, resource.version, resource.plural).expect(resource.plural),
            *resource
        ));
        let same =
            |r: &&&Resource| (r.group, r.version, r.plural) == (resource.group, resource.version, resource.plural);
        assert!(!RESOURCES[..i].iter().any(|r| same(&r)));
        let stored =
            RESOURCES.iter().filter(|r| r.is_storage() && (r.group, r.plural) == (resource.group, resource.plural));
        assert!(stored.count() <= 1, "{}", resource.plural);
        for subresource in resource.subresources {
            let (group, version, kind) = subresource.gvk;
            assert!(facts::type_by_gvk(group, version, kind).is_some() || kind.ends_with("Options"), "{kind}");
        }
        assert!(resource.subresources.is_sorted_by_key(|s| s.name), "{}", resource.plural);
    }
}

#[test]
fn a_status_is_written_by_itself_alone() {
    for resource in RESOURCES.iter().filter(|r| r.is_storage() && r.subresources.iter().any(|s| s.name == "status")) {
        let object = |mark: &str| json!({"metadata": {"name": "a", "uid": "u"}, "spec": {}, "status": {"mark": mark}});
        let (old, mut new) = (object("old"), object("new"));
        (resource.rules.prepare_update)(&mut new, &old);
        assert_eq!(new["status"]["mark"], "old", "{}", resource.kind);
        let mut made = object("sent");
        (resource.rules.prepare_create)(&mut made);
        // Whoever registers a node tells what it is like.
        let sent = resource.kind == "Node";
        assert_eq!(made["status"]["mark"] == "sent", sent, "{}", resource.kind);
    }
}

/// Trees of a type in which each leaf is one odd value. What a decoder lets through is less odd.
fn odd_tree(ty: &'static Type, odd: &Value, depth: usize) -> Value {
    if depth == 0 || ty.shape != Shape::Object {
        return odd.clone();
    }
    ty.fields.iter().map(|f| (f.name.to_owned(), odd_value(&f.kind, odd, depth - 1))).collect::<Map<_, _>>().into()
}

fn odd_value(kind: &Kind, odd: &Value, depth: usize) -> Value {
    match kind {
        Kind::Object(ty) => odd_tree(ty, odd, depth),
        Kind::List(item) => {
            let item = odd_value(item, odd, depth);
            json!([item, item])
        }
        Kind::Map(item) => json!({"k": odd_value(item, odd, depth), "example.com/ä": odd_value(item, odd, depth)}),
        _ => odd.clone(),
    }
}

#[test]
fn rules_survive_odd_trees_and_defaults_settle() {
    let long = "x".repeat(300);
    let odds = [
        Value::Null,
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(1.5),
        json!(true),
        json!(""),
        json!("ä/../\0'"),
        json!("100%"),
        json!("-1"),
        json!("['"),
        json!(long),
        json!([]),
        json!([null, 1]),
        json!({}),
        json!({"": null}),
    ];
    for resource in RESOURCES {
        let ty = facts::type_by_name(resource.type_name).expect(resource.type_name);
        for odd in &odds {
            for depth in 0..8 {
                exercise(resource, odd_tree(ty, odd, depth));
            }
        }
    }
}

fn exercise(resource: &Resource, mut tree: Value) {
    let rules = &resource.rules;
    resource.to_stored(&mut tree);
    resource.from_stored(&mut tree.clone());
    let mut object = tree.clone();
    (rules.default)(&mut object);
    let once = object.clone();
    (rules.default)(&mut object);
    assert_eq!(object, once, "{}: defaults of {tree}", resource.plural);
    (rules.prepare_create)(&mut object);
    let mut errors = FieldErrors::default();
    validate::metadata(resource, &object, &mut errors);
    (rules.validate)(&object, &mut errors);
    (rules.validate_create)(&object, &mut errors);
    for (new, old) in [(&tree, &object), (&object, &tree)] {
        let mut new = new.clone();
        (rules.prepare_update)(&mut new, old);
        validate::metadata_update(&new, old, &mut errors);
        (rules.validate_update)(&new, old, &mut errors);
        (rules.validate_status)(&new, old, &mut errors);
    }
    (rules.warnings)(&object);
    (rules.fields)(&tree);
    assert_eq!((rules.row)(&tree, 0).len(), resource.columns.len().max(1), "{}", resource.plural);
}

/// The columns of a resource as the facts write them.
fn columns_of(resource: &Resource) -> String {
    let one = |c: &Column| {
        let format = if c.format.is_empty() { String::new() } else { format!("/{}", c.format) };
        let wide = if c.priority > 0 { " wide" } else { "" };
        format!("{}:{}{format}{wide}", c.name, c.kind)
    };
    resource.columns.iter().map(one).collect::<Vec<_>>().join(" | ")
}

#[test]
fn columns_are_those_of_the_facts() {
    let facts = include_str!("../facts/table-columns.txt");
    for line in facts.lines() {
        let Some((place, columns)) = line.split_once(": ") else { continue };
        let Some((api, plural)) = place.split_once(' ') else { continue };
        let (group, version) = api.split_once('/').unwrap_or(("", api));
        let group = if group == "core" { "" } else { group };
        if let Some(resource) = find(group, version, plural) {
            assert_eq!(columns_of(resource), columns, "{place}");
        }
    }
}

/// A line of the facts about a resource or, indented, its subresource.
fn described(resource: &Resource) -> Vec<String> {
    let verbs = |verbs: &[crate::meta::Verb]| {
        let names: Vec<&str> = verbs.iter().map(|v| v.as_str()).collect();
        format!("verbs={}", names.join(","))
    };
    let mut line = format!(
        "{} {} {:?} singular={} {}",
        resource.plural,
        resource.kind,
        resource.scope,
        resource.singular,
        verbs(resource.verbs)
    );
    for (word, names) in [("short", resource.short_names), ("categories", resource.categories)] {
        if !names.is_empty() {
            line.push_str(&format!(" {word}={}", names.join(",")));
        }
    }
    let mut lines = vec![line];
    for one in resource.subresources {
        let (group, version, kind) = one.gvk;
        let same = (group, version) == (resource.group, resource.version);
        let kind = if same { kind.to_owned() } else { format!("{group}/{version}/{kind}") };
        lines.push(format!("  /{} {kind} {}", one.name, verbs(one.verbs)));
    }
    lines
}

#[test]
fn discovery_is_that_of_the_facts() {
    let facts = include_str!("../facts/api-resources.txt");
    let (mut group, mut version) = ("", "");
    let mut lines = facts.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(api) = line.strip_prefix("GV ") {
            (group, version) = api.split_once('/').unwrap_or(("", api));
            continue;
        }
        let mut known = Vec::new();
        while let Some(sub) = lines.next_if(|l| l.starts_with(' ')) {
            known.push(sub.trim_end());
        }
        let plural = line.split(' ').next().unwrap_or("");
        let Some(resource) = find(group, version, plural) else { continue };
        let described = described(resource);
        assert_eq!(described[0], line, "{group}/{version}");
        for sub in &described[1..] {
            assert!(known.contains(&sub.as_str()), "{plural}:{sub} is not in {known:?}");
        }
    }
}
