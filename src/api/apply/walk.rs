//! Walks over trees by their type: the set of an object's places, and what differs between two objects.

use super::set::{Element, Node, Set};
use super::structure::{Form, Relation, Structure, Zero, is_leaf, item_element};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// The places that an object below a place has values for.
pub fn field_set<S: Structure>(value: &Value, place: S) -> Set {
    match (place.form(), value) {
        (Form::Struct { atomic: false }, Value::Object(map)) => Set::of(
            map.iter()
                .map(|(key, value)| match place.field(key) {
                    Some(member) => map_node(member.name, value, member.inner, true),
                    None => map_node(Cow::Owned(key.clone()), value, S::untyped(), false),
                })
                .collect(),
        ),
        (Form::Map { atomic: false, values }, Value::Object(map)) => {
            Set::of(map.iter().map(|(key, value)| map_node(Cow::Owned(key.clone()), value, values, false)).collect())
        }
        (Form::Untyped, Value::Object(map)) => Set::of(
            map.iter().map(|(key, value)| map_node(Cow::Owned(key.clone()), value, S::untyped(), false)).collect(),
        ),
        (Form::List { relation: relation @ (Relation::Set | Relation::Keyed), items }, Value::Array(list)) => {
            list_set(list, place, relation, items)
        }
        _ => Set::default(),
    }
}

/// A named field is in the set itself only when it has nothing below it.
fn map_node<S: Structure>(name: Cow<'static, str>, value: &Value, place: S, named: bool) -> Node {
    let form = place.form();
    let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
    let leaf = is_leaf(&form, value);
    let children = if leaf { Set::default() } else { field_set(value, place) };
    Node { element: Element::Field(name), member: leaf || empty || !named, children }
}

fn list_set<S: Structure>(list: &[Value], place: S, relation: Relation, items: S) -> Set {
    let found = elements(list, place, relation);
    let nodes = found.chunk_by(|a, b| a.0 == b.0).map(|same| {
        // Of duplicates only the place itself is in the set.
        let children = if same.len() == 1 { field_set(same[0].1, items) } else { Set::default() };
        Node { element: same[0].0.clone(), member: true, children }
    });
    Set::of(nodes.collect())
}

/// Items with their elements, sorted, duplicates in their order. What cannot be named is left out.
fn elements<S: Structure>(list: &[Value], place: S, relation: Relation) -> Vec<(Element, &Value)> {
    let mut found: Vec<(Element, &Value)> = list
        .iter()
        .filter_map(|item| item_element(place, relation, item).ok().map(|element| (element, item)))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// What differs between two objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// What the new one adds or changes.
    pub changed: Set,
    /// What it no longer has.
    pub removed: Set,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// What the new object changes of the old one. Without an old one, it is what a new object of the type holds
/// before anybody has written it.
pub fn compare<S: Structure>(old: Option<&Value>, new: &Value, place: S) -> Difference {
    let mut out = Below::default();
    let left = old.map_or(Left::Zero, Left::Here);
    descend(left, Some(new), place, &mut out);
    out.finish()
}

/// The old value of a place.
#[derive(Clone, Copy)]
enum Left<'a> {
    Absent,
    /// The null of an untouched field.
    Null,
    /// The zero value of an untouched field.
    Zero,
    Here(&'a Value),
}

impl<'a> Left<'a> {
    fn is_absent(self) -> bool {
        matches!(self, Left::Absent)
    }

    fn object(self) -> Option<&'a Map<String, Value>> {
        match self {
            Left::Here(value) => value.as_object(),
            _ => None,
        }
    }

    fn list(self) -> &'a [Value] {
        match self {
            Left::Here(Value::Array(list)) => list,
            _ => &[],
        }
    }

    fn equals(self, right: &Value) -> bool {
        match self {
            Left::Absent => false,
            Left::Null => right.is_null(),
            Left::Zero => match right {
                Value::Null => false,
                Value::Bool(b) => !b,
                Value::Number(n) => n.as_f64() == Some(0.0),
                Value::String(s) => s.is_empty(),
                Value::Object(map) => map.is_empty(),
                Value::Array(_) => false,
            },
            Left::Here(value) => value == right,
        }
    }
}

/// The nodes below a place, being collected.
#[derive(Default)]
struct Below {
    changed: Vec<Node>,
    removed: Vec<Node>,
}

impl Below {
    fn finish(self) -> Difference {
        Difference { changed: Set::of(self.changed), removed: Set::of(self.removed) }
    }
}

/// Compares one place below another.
fn visit<S: Structure>(element: Element, left: Left<'_>, right: Option<&Value>, place: S, out: &mut Below) {
    if left.is_absent() && right.is_none() {
        return;
    }
    let mut below = Below::default();
    let leaf = descend(left, right, place, &mut below);
    let Difference { changed, removed } = below.finish();
    let differs = leaf && right.is_some_and(|right| !left.equals(right));
    let (added, gone) = (left.is_absent(), right.is_none());
    let member = added || differs;
    if gone || !removed.is_empty() {
        out.removed.push(Node { element: element.clone(), member: gone, children: removed });
    }
    if member || !changed.is_empty() {
        out.changed.push(Node { element, member, children: changed });
    }
}

/// Compares what is below a place; whether the place is one value to compare by itself.
fn descend<S: Structure>(left: Left<'_>, right: Option<&Value>, place: S, out: &mut Below) -> bool {
    match place.form() {
        Form::Struct { atomic: false } => compare_struct(left, right, place, out),
        Form::Map { atomic: false, values } => compare_map(left, right, values, out),
        Form::List { relation: relation @ (Relation::Set | Relation::Keyed), items } => {
            compare_list(left, right, place, relation, items, out)
        }
        Form::Untyped => compare_untyped(left, right, place, out),
        _ => true,
    }
}

/// Whether neither side has anything below the place: then the difference of empty and null counts.
fn both_empty(left: Left<'_>, right: Option<&Value>) -> bool {
    left.object().is_none_or(Map::is_empty) && right.and_then(Value::as_object).is_none_or(Map::is_empty)
}

fn compare_struct<S: Structure>(left: Left<'_>, right: Option<&Value>, place: S, out: &mut Below) -> bool {
    if both_empty(left, right) {
        return !matches!(left, Left::Zero);
    }
    let old = left.object();
    for (key, value) in right.and_then(Value::as_object).into_iter().flatten() {
        let before = old.and_then(|map| map.get(key));
        match place.field(key) {
            Some(member) => {
                let before = match (before, left, member.zero) {
                    (Some(value), ..) => Left::Here(value),
                    (None, Left::Zero, Zero::Zero) => Left::Zero,
                    (None, Left::Zero, Zero::Null) => Left::Null,
                    _ => Left::Absent,
                };
                visit(Element::Field(member.name), before, Some(value), member.inner, out);
            }
            None => {
                let before = before.map_or(Left::Absent, Left::Here);
                visit(Element::Field(Cow::Owned(key.clone())), before, Some(value), S::untyped(), out);
            }
        }
    }
    for (key, value) in old.into_iter().flatten() {
        if right.is_some_and(|right| right.get(key).is_some()) {
            continue;
        }
        let (name, inner) = match place.field(key) {
            Some(member) => (member.name, member.inner),
            None => (Cow::Owned(key.clone()), S::untyped()),
        };
        visit(Element::Field(name), Left::Here(value), None, inner, out);
    }
    false
}

fn compare_map<S: Structure>(left: Left<'_>, right: Option<&Value>, values: S, out: &mut Below) -> bool {
    if both_empty(left, right) {
        return true;
    }
    let old = left.object();
    for (key, value) in right.and_then(Value::as_object).into_iter().flatten() {
        let before = old.and_then(|map| map.get(key)).map_or(Left::Absent, Left::Here);
        visit(Element::Field(Cow::Owned(key.clone())), before, Some(value), values, out);
    }
    for (key, value) in old.into_iter().flatten() {
        if right.is_none_or(|right| right.get(key).is_none()) {
            visit(Element::Field(Cow::Owned(key.clone())), Left::Here(value), None, values, out);
        }
    }
    false
}

/// Where the type is not known, each side is what it looks like.
fn compare_untyped<S: Structure>(left: Left<'_>, right: Option<&Value>, place: S, out: &mut Below) -> bool {
    let scalar = |value: &Value| !value.is_object() && !value.is_null();
    let left_is_leaf = matches!(left, Left::Here(value) if scalar(value));
    let right_is_leaf = right.is_some_and(scalar);
    if !left_is_leaf && !right_is_leaf {
        return compare_map(left, right, place, out);
    }
    // One of the two may have something below it that comes or goes.
    if !left_is_leaf && left.object().is_some() {
        compare_map(left, None, place, out);
    }
    if !right_is_leaf && right.is_some_and(Value::is_object) {
        compare_map(Left::Absent, right, place, out);
    }
    true
}

fn compare_list<S: Structure>(
    left: Left<'_>,
    right: Option<&Value>,
    place: S,
    relation: Relation,
    items: S,
    out: &mut Below,
) -> bool {
    let old = left.list();
    let new = right.and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
    if old.is_empty() && new.is_empty() {
        return true;
    }
    if old == new {
        return false;
    }
    let (old, new) = (elements(old, place, relation), elements(new, place, relation));
    let mut old = old.chunk_by(|a, b| a.0 == b.0).peekable();
    let mut new = new.chunk_by(|a, b| a.0 == b.0).peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return false,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a[0].0.cmp(&b[0].0),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        compare_items(before.unwrap_or_default(), after.unwrap_or_default(), items, out);
    }
}

/// Compares the items of one name. Duplicates are one value.
fn compare_items<S: Structure>(old: &[(Element, &Value)], new: &[(Element, &Value)], items: S, out: &mut Below) {
    let Some((element, _)) = old.first().or_else(|| new.first()) else { return };
    let marker = || Node { element: element.clone(), member: true, children: Set::default() };
    match (old, new) {
        ([] | [_], [] | [_]) => {
            let left = old.first().map_or(Left::Absent, |(_, value)| Left::Here(value));
            visit(element.clone(), left, new.first().map(|(_, value)| *value), items, out);
        }
        ([_, _, ..], [_, _, ..]) => {
            let same = old.len() == new.len() && old.iter().zip(new).all(|(a, b)| a.1 == b.1);
            if !same {
                out.changed.push(marker());
            }
        }
        ([_, _, ..], _) => match new.first() {
            // What was there several times is there once: as if added.
            Some((_, value)) => visit(element.clone(), Left::Absent, Some(value), items, out),
            None => out.removed.push(marker()),
        },
        _ => {
            if let Some((_, value)) = old.first() {
                visit(element.clone(), Left::Here(value), None, items, out);
            }
            out.changed.push(marker());
        }
    }
}
