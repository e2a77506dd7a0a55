//! Merges an applied configuration into an object, and takes out what its applier no longer wants.

use super::set::{Element, Set};
use super::structure::{Form, Relation, Structure, is_leaf, item_element};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Merges `config` into `live`: what it names is set, what merges by key merges, the rest stays.
pub fn merge<S: Structure>(live: &mut Value, config: &Value, place: S) {
    let form = place.form();
    if is_leaf(&form, config) && !(matches!(form, Form::Untyped) && config.is_null() && live.is_object()) {
        live.clone_from(config);
        return;
    }
    match (form, &mut *live, config) {
        (Form::List { relation, items }, Value::Array(present), Value::Array(wanted)) if !present.is_empty() => {
            merge_list(present, wanted, place, relation, items);
        }
        (_, Value::Object(present), Value::Object(wanted)) if !present.is_empty() => {
            for (key, value) in wanted {
                match present.get_mut(key) {
                    Some(slot) => merge(slot, value, below(place, &form, key)),
                    None => {
                        present.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        // Null takes nothing away from what merges.
        (_, Value::Array(present), Value::Null) if !present.is_empty() => {}
        (_, Value::Object(present), Value::Null) if !present.is_empty() => {}
        _ => live.clone_from(config),
    }
}

fn below<S: Structure>(place: S, form: &Form<S>, key: &str) -> S {
    match form {
        Form::Struct { .. } => place.field(key).map_or_else(S::untyped, |member| member.inner),
        Form::Map { values, .. } => *values,
        _ => S::untyped(),
    }
}

/// Items that both have come in the applied order; those that only the object has stay where they are
/// between them.
fn merge_list<S: Structure>(present: &mut Vec<Value>, wanted: &[Value], place: S, relation: Relation, items: S) {
    let name = |item: &Value| item_element(place, relation, item).ok();
    let live_names: Vec<Option<Element>> = present.iter().map(name).collect();
    let mut live: Vec<Option<Value>> = std::mem::take(present).into_iter().map(Some).collect();
    let mut where_live: BTreeMap<&Element, Vec<usize>> = BTreeMap::new();
    for (at, element) in live_names.iter().enumerate() {
        if let Some(element) = element {
            where_live.entry(element).or_default().push(at);
        }
    }
    let places: Vec<Option<&Vec<usize>>> =
        wanted.iter().map(|item| name(item).and_then(|element| where_live.get(&element))).collect();
    let mut shared = vec![false; live.len()];
    for at in places.iter().flatten().flat_map(|places| places.iter()) {
        shared[*at] = true;
    }
    let mut next_shared = places.iter().flatten().map(|places| places[0]);
    let mut expected = next_shared.next();
    let mut head = 0;
    for (item, places) in wanted.iter().zip(&places) {
        // What only the object has and comes before; what is shared comes in the applied order.
        while head < live.len() && !(shared[head] && expected == Some(head)) {
            if !shared[head]
                && let Some(own) = live[head].take()
            {
                present.push(own);
            }
            head += 1;
        }
        match places {
            Some(places) => {
                let mut merged = match places.as_slice() {
                    [one] => live[*one].take().unwrap_or(Value::Null),
                    // Duplicates do not merge: the applied item takes their place.
                    _ => Value::Null,
                };
                merge(&mut merged, item, items);
                present.push(merged);
                if expected == Some(places[0]) {
                    expected = next_shared.next();
                }
            }
            None => present.push(item.clone()),
        }
    }
    for (at, own) in live.into_iter().enumerate().skip(head) {
        if !shared[at]
            && let Some(own) = own
        {
            present.push(own);
        }
    }
}

/// Takes the places of a set out of a tree. Atomic values stay whole.
pub fn remove<S: Structure>(value: &mut Value, gone: &Set, place: S) {
    let form = place.form();
    match (form, &mut *value) {
        (Form::List { relation: relation @ (Relation::Set | Relation::Keyed), items }, Value::Array(list)) => {
            list.retain_mut(|item| {
                let Ok(element) = item_element(place, relation, item) else { return true };
                match gone.node(&element) {
                    Some(node) if node.member => false,
                    Some(node) => {
                        remove(item, &node.children, items);
                        true
                    }
                    None => true,
                }
            });
            if list.is_empty() {
                *value = Value::Null;
            }
        }
        (Form::Struct { atomic: true } | Form::Map { atomic: true, .. }, _) => {}
        (_, Value::Object(map)) => {
            remove_fields(map, gone, place, &form);
            if map.is_empty() {
                *value = Value::Null;
            }
        }
        _ => {}
    }
}

fn remove_fields<S: Structure>(map: &mut Map<String, Value>, gone: &Set, place: S, form: &Form<S>) {
    for node in gone.nodes() {
        let Element::Field(name) = &node.element else { continue };
        if node.member {
            map.remove(name.as_ref());
        } else if let Some(value) = map.get_mut(name.as_ref()) {
            let inner = below(place, form, name);
            if !is_leaf(&inner.form(), value) && !value.is_null() && *value != Value::Object(Map::new()) {
                remove(value, &node.children, inner);
            }
        }
    }
}

/// The set with the structs on the way to its places: who owns a field of a struct has a claim on the struct.
pub fn with_structs<S: Structure>(set: &Set, place: S) -> Set {
    let nodes = set.nodes().iter().map(|node| {
        let mut node = node.clone();
        if !node.children.is_empty() {
            let named = match (&node.element, place.form()) {
                (Element::Field(name), Form::Struct { .. }) => place.field(name).is_some(),
                _ => false,
            };
            node.member |= named;
            node.children = with_structs(&node.children, place.below(&node.element));
        }
        node
    });
    Set::of(nodes.collect())
}
