//! Every field of every kind with a value of each wrong type, an unknown neighbour and twice: the answer names it.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::decode_json;
use crate::facts::{Kind, Shape, Type, type_by_name};
use crate::registry::RESOURCES;
use std::collections::BTreeSet;

/// How to get from an object to what is looked at.
#[derive(Clone, Copy)]
enum Step {
    Field(&'static str),
    Item,
    Member,
}

/// The document that has `inner` at the end of the way.
fn document(way: &[Step], inner: &str) -> String {
    way.iter().rev().fold(inner.to_owned(), |text, step| match step {
        Step::Field(name) => format!("{{{name:?}:{text}}}"),
        Step::Item => format!("[{text}]"),
        Step::Member => format!("{{\"k\":{text}}}"),
    })
}

/// As errors about types write it: without places in lists and keys.
fn of_types(way: &[Step]) -> String {
    let names = way.iter().filter_map(|step| if let Step::Field(name) = step { Some(*name) } else { None });
    names.collect::<Vec<_>>().join(".")
}

/// As strict decoding writes it.
fn of_strict(way: &[Step]) -> String {
    let text = way.iter().fold(String::new(), |text, step| match step {
        Step::Field(name) => format!("{text}.{name}"),
        Step::Item => text + "[0]",
        Step::Member => text + ".k",
    });
    text.trim_start_matches('.').to_owned()
}

/// Values that a field of this kind cannot have.
fn wrong(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Str => &["7", "1e400", "true", "[]", "{}"],
        Kind::I32 => &["\"x\"", "true", "[]", "{}", "1.5", "2147483648", "1e400", "-99999999999999999999"],
        Kind::I64 => &["\"x\"", "true", "[]", "{}", "1.5", "9223372036854775808", "1e400"],
        Kind::F64 => &["\"x\"", "true", "[]", "{}"],
        Kind::Bool => &["\"x\"", "7", "[]", "{}"],
        Kind::Bytes => &["7", "true", "{}"],
        Kind::List(_) => &["\"x\"", "7", "true", "{}"],
        Kind::Map(_) => &["\"x\"", "7", "true", "[]"],
        Kind::Object(ty) if ty.shape == Shape::Object => &["\"x\"", "7", "true", "[]"],
        Kind::Object(_) => &[],
    }
}

/// What these values are to types that read themselves, which name no field.
fn odd(ty: &Type) -> &'static [&'static str] {
    match ty.shape {
        Shape::Quantity => &["\"x\"", "true", "[]", "{}"],
        Shape::IntOrString => &["true", "[]", "{}", "1.5"],
        Shape::Time | Shape::MicroTime => &["\"x\"", "7", "true", "[]", "{}"],
        _ => &[],
    }
}

struct Walk {
    root: &'static Type,
    way: Vec<Step>,
    inside: Vec<&'static str>,
    fields: usize,
}

impl Walk {
    fn refused(&self, value: &str) -> String {
        let body = document(&self.way, value);
        match decode_json(body.as_bytes(), self.root) {
            Ok(_) => panic!("{}: taken: {body}", self.root.name),
            Err(error) => error.to_string(),
        }
    }

    fn value(&mut self, kind: Kind) {
        let named = format!(".{} of type ", of_types(&self.way));
        for value in wrong(kind) {
            let error = self.refused(value);
            assert!(error.contains(&named), "{} {value}: {error}", self.root.name);
        }
        match kind {
            Kind::Object(ty) if ty.shape == Shape::Object => self.object(ty),
            Kind::Object(ty) => odd(ty).iter().for_each(|value| assert!(!self.refused(value).is_empty())),
            Kind::List(inner) => self.within(Step::Item, *inner),
            Kind::Map(inner) => self.within(Step::Member, *inner),
            _ => {}
        }
    }

    fn within(&mut self, step: Step, kind: Kind) {
        self.way.push(step);
        self.value(kind);
        self.way.pop();
    }

    fn strict(&self, inner: &str) -> String {
        let body = document(&self.way, inner);
        decode_json(body.as_bytes(), self.root).unwrap().strict_error().unwrap_or_default()
    }

    fn object(&mut self, ty: &'static Type) {
        if self.inside.contains(&ty.name) {
            return;
        }
        self.inside.push(ty.name);
        let dot = if self.way.is_empty() { "" } else { "." };
        let unknown = self.strict(r#"{"zzz":null}"#);
        let path = format!("{}{dot}zzz", of_strict(&self.way));
        assert_eq!(unknown, format!("strict decoding error: unknown field {path:?}"), "{}", self.root.name);
        // What says which type it is has been read before.
        let of_root = self.way.is_empty();
        let own = |name: &str| !(of_root && matches!(name, "kind" | "apiVersion"));
        for field in ty.fields.iter().filter(|field| own(field.name)) {
            self.fields += 1;
            let twice = self.strict(&format!("{{{0:?}:null,{0:?}:null}}", field.name));
            let path = format!("{}{dot}{}", of_strict(&self.way), field.name);
            assert_eq!(twice, format!("strict decoding error: duplicate field {path:?}"), "{}", self.root.name);
            self.within(Step::Field(field.name), field.kind);
        }
        self.inside.pop();
    }
}

#[test]
fn every_field_of_every_kind_is_named_when_it_is_wrong() {
    let types: BTreeSet<&str> = RESOURCES.iter().map(|resource| resource.type_name).collect();
    let mut fields = 0;
    for name in types {
        let mut walk = Walk { root: type_by_name(name).unwrap(), way: Vec::new(), inside: Vec::new(), fields: 0 };
        walk.object(walk.root);
        assert!(walk.fields > 0, "{name}");
        fields += walk.fields;
    }
    assert!(fields > 5_000, "{fields}");
}
