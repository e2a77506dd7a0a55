//! Strategic merge patch: lists merge by the keys that the facts name, directives steer the rest.

use super::PatchError;
use crate::apply::GoValue;
use crate::facts::{Field, Kind, Shape, Type};
use serde_json::{Map, Value};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList";

type Result<T> = std::result::Result<T, PatchError>;

/// What is known about the members of a map.
#[derive(Clone, Copy)]
enum Context {
    Fields(&'static Type),
    Values(Kind),
    Unknown,
}

impl Context {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Object(ty) => match ty.shape {
                Shape::Object => Context::Fields(ty),
                Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings => crate::facts::type_by_name(
                    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
                )
                .map_or(Context::Unknown, Context::Fields),
                _ => Context::Unknown,
            },
            Kind::Map(inner) => Context::Values(*inner),
            _ => Context::Unknown,
        }
    }

    fn field(self, key: &str) -> Option<&'static Field> {
        match self {
            Context::Fields(ty) => ty.field(key),
            _ => None,
        }
    }

    /// The context inside the member `key`.
    fn member(self, key: &str) -> Context {
        match self {
            Context::Fields(ty) => ty.field(key).map_or(Context::Unknown, |f| Context::of(f.kind)),
            Context::Values(kind) => Context::of(kind),
            Context::Unknown => Context::Unknown,
        }
    }
}

/// Applies a strategic merge patch to an object of the type; on error the target may be half changed.
pub fn strategic(target: &mut Value, patch: &Value, ty: &'static Type) -> Result<()> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed(
            "cannot unmarshal the patch into Go value of type map[string]interface {}".into(),
        ));
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let map = target.as_object_mut().expect("made an object above");
    merge_map(map, patch, Context::Fields(ty))
}

fn merge_map(target: &mut Map<String, Value>, patch: &Map<String, Value>, context: Context) -> Result<()> {
    if let Some(directive) = patch.get(PATCH) {
        match directive.as_str() {
            Some("replace") => {
                target.clear();
                *target = without_directives(patch);
                return Ok(());
            }
            Some("delete") => {
                target.clear();
                return Ok(());
            }
            _ => return Err(unknown_directive(directive, patch)),
        }
    }
    retain_keys(target, patch)?;
    check_orders(target, patch, context)?;
    for (key, value) in patch {
        if let Some(list) = list_of(key, DELETE_PRIMITIVES, "primitive list")? {
            delete_primitives(target, list, value);
        } else if key == PATCH || key == RETAIN_KEYS || key.starts_with(SET_ORDER) {
            // Handled before or after the members.
        } else if value.is_null() {
            target.remove(key);
        } else {
            merge_member(target, key, value, patch, context)?;
        }
    }
    // An order may come without a change to the list itself.
    for (key, order) in patch {
        let Some(list) = list_of(key, SET_ORDER, ORDER_LIST)? else { continue };
        if !patch.contains_key(list)
            && let Some(Value::Array(items)) = target.get_mut(list)
        {
            let field = context.field(list);
            let before = identities(items, field);
            order_by(items, &before, a_list(order)?, field);
        }
    }
    Ok(())
}

/// How errors name the list that goes with a list.
const ORDER_LIST: &str = "setElementOrder list";

/// The list that a directive of this name is about.
fn list_of<'a>(key: &'a str, directive: &str, what: &str) -> Result<Option<&'a str>> {
    let Some(rest) = key.strip_prefix(directive) else { return Ok(None) };
    let list =
        rest.strip_prefix('/').ok_or_else(|| PatchError::Malformed(format!("invalid patch format of {what}")))?;
    Ok(Some(list))
}

/// Orders are about lists, and have to fit what the patch says of these.
fn check_orders(target: &Map<String, Value>, patch: &Map<String, Value>, context: Context) -> Result<()> {
    for (key, order) in patch {
        let Some(list) = list_of(key, SET_ORDER, ORDER_LIST)? else { continue };
        let order = a_list(order)?;
        target.get(list).map(a_list).transpose()?;
        if let Some(change) = patch.get(list) {
            check_order(a_list(change)?, order, context.field(list))?;
        }
    }
    Ok(())
}

fn a_list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().ok_or_else(|| unexpected("[]interface {}", value))
}

fn unexpected(expected: &str, found: &Value) -> PatchError {
    PatchError::Failed(format!("expected a {expected}, but received a {}", GoValue(found).type_name()))
}

fn unknown_directive(directive: &Value, map: &Map<String, Value>) -> PatchError {
    let map = Value::Object(map.clone());
    PatchError::Failed(format!("unknown patch type: {} in map: {}", GoValue(directive), GoValue(&map)))
}

fn no_merge_key(item: &Value, merge_key: &str) -> PatchError {
    PatchError::Failed(format!("map: {} does not contain declared merge key: {merge_key}", GoValue(item)))
}

fn merge_member(
    target: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    patch: &Map<String, Value>,
    context: Context,
) -> Result<()> {
    let field = context.field(key);
    let order = patch.get(&format!("{SET_ORDER}/{key}")).and_then(Value::as_array);
    match (target.get_mut(key), value) {
        (Some(Value::Object(inner)), Value::Object(change)) => {
            if field.is_some_and(|f| f.schema.replace) {
                *inner = without_directives(change);
                Ok(())
            } else {
                merge_map(inner, change, context.member(key))
            }
        }
        (Some(Value::Array(items)), Value::Array(change)) if field.is_some_and(|f| f.schema.merge) => {
            let before = identities(items, field);
            merge_list(items, change, field.expect("checked by the guard"))?;
            if let Some(order) = order {
                order_by(items, &before, order, field);
            }
            Ok(())
        }
        (_, Value::Object(change)) => {
            if change.contains_key(PATCH) {
                // A directive about what is not there leaves nothing behind, whatever comes with it.
                target.remove(key);
            } else {
                target.insert(key.to_owned(), Value::Object(without_directives(change)));
            }
            Ok(())
        }
        (_, Value::Array(change)) => {
            target.insert(key.to_owned(), Value::Array(elements_without_directives(change)));
            Ok(())
        }
        _ => {
            target.insert(key.to_owned(), value.clone());
            Ok(())
        }
    }
}

/// `$retainKeys` clears the members that it does not name.
fn retain_keys(target: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<()> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else {
        return Err(PatchError::Malformed("invalid patch format of retainKeys".into()));
    };
    let named = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    let stray = patch.iter().find(|(key, value)| !key.starts_with('$') && !value.is_null() && !named(key));
    if stray.is_some() {
        return Err(PatchError::Malformed("invalid patch format of retainKeys".into()));
    }
    target.retain(|key, _| named(key));
    Ok(())
}

fn delete_primitives(target: &mut Map<String, Value>, list: &str, values: &Value) {
    match (target.get_mut(list), values) {
        (Some(Value::Array(items)), Value::Array(values)) => items.retain(|item| !values.contains(item)),
        (Some(_), Value::Null) => {
            target.remove(list);
        }
        // What is no list has none of them.
        _ => {}
    }
}

fn merge_list(items: &mut Vec<Value>, change: &[Value], field: &'static Field) -> Result<()> {
    same_types(items, change)?;
    let Some(merge_key) = field.schema.merge_key else {
        let before = identities(items, Some(field));
        for value in change {
            if !items.contains(value) {
                items.push(value.clone());
            }
        }
        order_by(items, &before, change, Some(field));
        return Ok(());
    };
    let named = |item: &Value| item.get(merge_key).cloned().ok_or_else(|| no_merge_key(item, merge_key));
    let mut replace = false;
    for value in change.iter().filter(|value| value.get(PATCH).is_some()) {
        match value[PATCH].as_str() {
            Some("delete") => {
                let key = named(value)?;
                items.retain(|item| !item.get(merge_key).is_some_and(|k| same_key(k, &key)));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(PatchError::Failed("merging lists cannot yet be specified in the patch".to_owned()));
            }
            _ => return Err(unknown_directive(&value[PATCH], value.as_object().unwrap_or(&Map::new()))),
        }
    }
    let kept: Vec<Value> = change.iter().filter(|value| value.get(PATCH).is_none()).cloned().collect();
    if replace {
        // One element that says so makes the others the whole list.
        kept.iter().map(named).collect::<Result<Vec<_>>>()?;
        *items = elements_without_directives(&kept);
        return Ok(());
    }
    let before = identities(items, Some(field));
    let inner = match field.kind {
        Kind::List(kind) => Context::of(*kind),
        _ => Context::Unknown,
    };
    for value in &kept {
        let key = named(value)?;
        let Value::Object(map) = value else { return Err(unexpected("map[string]interface {}", value)) };
        let same = |item: &&mut Value| item.get(merge_key).is_some_and(|k| same_key(k, &key));
        match items.iter_mut().find(same) {
            Some(Value::Object(existing)) => merge_map(existing, map, inner)?,
            _ => items.push(Value::Object(without_directives(map))),
        }
    }
    order_by(items, &before, &kept, Some(field));
    Ok(())
}

/// A list and what is merged into it have elements of one type, which is no list.
fn same_types(items: &[Value], change: &[Value]) -> Result<()> {
    let mut all = items.iter().chain(change);
    let Some(first) = all.next() else { return Ok(()) };
    if first.is_array() {
        return Err(PatchError::Malformed("lists of lists are not supported".to_owned()));
    }
    let ty = GoValue(first).type_name();
    if all.any(|item| GoValue(item).type_name() != ty) {
        let both = Value::from(vec![Value::from(items), Value::from(change)]);
        return Err(PatchError::Failed(format!("list element types are not identical: {}", GoValue(&both))));
    }
    Ok(())
}

/// The elements of a list must come in the order that goes with it, and be named by it.
fn check_order(change: &[Value], wanted: &[Value], field: Option<&'static Field>) -> Result<()> {
    if wanted.is_empty() || change.is_empty() {
        return Ok(());
    }
    let merge_key = field.and_then(|f| f.schema.merge_key);
    let named = |item: &Value| match merge_key {
        Some(_) if !item.is_object() => Err(unexpected("map[string]interface {}", item)),
        Some(key) => item.get(key).cloned().ok_or_else(|| no_merge_key(item, key)),
        None => Ok(item.clone()),
    };
    if merge_key.is_some()
        && let Some(stray) = change.iter().find(|item| !item.is_object())
    {
        return Err(unexpected("map[string]interface {}", stray));
    }
    let mut rest = wanted.iter();
    for item in change.iter().filter(|item| item.get(PATCH).is_none()) {
        let name = named(item)?;
        let mut found = false;
        for candidate in rest.by_ref() {
            if same_key(&named(candidate)?, &name) {
                found = true;
                break;
            }
        }
        if !found {
            return Err(PatchError::Failed(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                GoValue(&Value::Array(change.to_vec())),
                GoValue(&Value::from(wanted))
            )));
        }
    }
    Ok(())
}

/// Keys compare by their text: clients write ports as numbers or strings.
fn same_key(a: &Value, b: &Value) -> bool {
    a == b || text(a) == text(b)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn identity(value: &Value, field: Option<&'static Field>) -> String {
    match field.and_then(|f| f.schema.merge_key) {
        Some(key) => value.get(key).map(text).unwrap_or_default(),
        None => text(value),
    }
}

fn identities(items: &[Value], field: Option<&'static Field>) -> Vec<String> {
    items.iter().map(|item| identity(item, field)).collect()
}

/// Elements that the order names come in its order; those that only the server knows keep their place relative
/// to their old neighbours.
fn order_by(items: &mut Vec<Value>, before: &[String], order: &[Value], field: Option<&'static Field>) {
    let wanted = identities(order, field);
    let position = |list: &[String], id: &str| list.iter().position(|x| x == id);
    let mut named: Vec<(usize, Option<usize>, Value)> = Vec::new();
    let mut rest: Vec<(Option<usize>, Value)> = Vec::new();
    for item in items.drain(..) {
        let id = identity(&item, field);
        let old = position(before, &id);
        match position(&wanted, &id) {
            Some(at) => named.push((at, old, item)),
            None => rest.push((old, item)),
        }
    }
    named.sort_by_key(|(at, ..)| *at);
    let mut rest = rest.into_iter().peekable();
    for (_, here, item) in named {
        if let Some(here) = here {
            while let Some((_, server)) = rest.next_if(|(at, _)| at.is_some_and(|at| at < here)) {
                items.push(server);
            }
        }
        items.push(item);
    }
    items.extend(rest.map(|(_, item)| item));
}

/// A copy of new content: nulls and directives have nothing to act on, and what a directive stands in goes with it.
fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter()
        .filter(|(key, value)| {
            !value.is_null()
                && value.get(PATCH).is_none()
                && *key != PATCH
                && *key != RETAIN_KEYS
                && !key.starts_with(SET_ORDER)
                && !key.starts_with(DELETE_PRIMITIVES)
        })
        .map(|(key, value)| (key.clone(), clean(value)))
        .collect()
}

fn clean(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(list) => Value::Array(elements_without_directives(list)),
        scalar => scalar.clone(),
    }
}

fn elements_without_directives(list: &[Value]) -> Vec<Value> {
    list.iter().filter(|value| value.get(PATCH).is_none()).map(clean).collect()
}

#[cfg(test)]
mod tests;
