//! Checks an applied configuration against its type, in the words that clients know, and writes scalars of a
//! special form as the server does.

use super::structure::{Form, Relation, ScalarKind, Structure, item_element};
use crate::codec;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// More complaints than this are not collected.
const MAX_COMPLAINTS: usize = 50;

/// Checks the configuration; on error the text lists what is wrong with it.
pub fn check<S: Structure>(config: &mut Value, place: S) -> Result<(), String> {
    let mut walk = Walk { path: String::new(), complaints: Vec::new() };
    walk.value(config, place);
    match walk.complaints.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

struct Walk {
    path: String,
    complaints: Vec<String>,
}

impl Walk {
    fn complain(&mut self, what: &str) {
        if self.complaints.len() < MAX_COMPLAINTS {
            let at = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
            self.complaints.push(format!("{at}{what}"));
        }
    }

    fn value<S: Structure>(&mut self, value: &mut Value, place: S) {
        if value.is_null() {
            return;
        }
        match place.form() {
            Form::Scalar(kind) => self.scalar(value, kind),
            Form::Struct { .. } => match value {
                Value::Object(map) => self.fields(map, place),
                other => self.complain(&format!("expected map, got &{{{}}}", GoValue(other))),
            },
            Form::Map { values, .. } => match value {
                Value::Object(map) => {
                    for (key, value) in map {
                        self.inside(&format_args!(".{key}"), |walk| walk.value(value, values));
                    }
                }
                other => self.complain(&format!("expected map, got &{{{}}}", GoValue(other))),
            },
            Form::List { relation, items } => match value {
                Value::Array(list) => self.list(list, place, relation, items),
                other => self.complain(&format!("expected list, got &{{{}}}", GoValue(other))),
            },
            Form::Untyped => {}
        }
    }

    fn inside(&mut self, step: &std::fmt::Arguments<'_>, walk: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        // Writing to a string cannot fail.
        let _ = self.path.write_fmt(*step);
        walk(self);
        self.path.truncate(length);
    }

    fn fields<S: Structure>(&mut self, map: &mut Map<String, Value>, place: S) {
        for (key, value) in map {
            match place.field(key) {
                Some(member) => self.inside(&format_args!(".{key}"), |walk| walk.value(value, member.inner)),
                None => {
                    self.inside(&format_args!(".{key}"), |walk| walk.complain("field not declared in schema"));
                    return;
                }
            }
        }
    }

    fn list<S: Structure>(&mut self, list: &mut [Value], place: S, relation: Relation, items: S) {
        if relation == Relation::Atomic {
            for (index, item) in list.iter_mut().enumerate() {
                self.inside(&format_args!("[{index}]"), |walk| walk.value(item, items));
            }
            return;
        }
        let mut seen = BTreeSet::new();
        for (index, item) in list.iter_mut().enumerate() {
            match item_element(place, relation, item) {
                Err(why) => return self.complain(&format!("element {index}: {why}")),
                Ok(element) => {
                    if seen.contains(&element) {
                        self.complain(&format!("duplicate entries for key {element}"));
                    }
                    self.inside(&format_args!("{element}"), |walk| walk.value(item, items));
                    seen.insert(element);
                }
            }
        }
    }

    fn scalar(&mut self, value: &mut Value, kind: ScalarKind) {
        match (kind, &mut *value) {
            (ScalarKind::Text, Value::String(_))
            | (ScalarKind::Number, Value::Number(_))
            | (ScalarKind::Bool, Value::Bool(_))
            | (ScalarKind::Any, Value::String(_) | Value::Number(_) | Value::Bool(_)) => {}
            // What does not parse is refused when the merged object is decoded.
            (ScalarKind::Quantity, Value::String(_) | Value::Number(_)) => {
                if let Some(canonical) = codec::canonical_quantity(value) {
                    *value = canonical;
                }
            }
            (ScalarKind::Time | ScalarKind::MicroTime, Value::String(_)) => {
                if let Some(canonical) = codec::canonical_time(value, kind == ScalarKind::MicroTime) {
                    *value = canonical;
                }
            }
            (ScalarKind::Text | ScalarKind::Time | ScalarKind::MicroTime, other) => {
                let text = format!("expected string, got &value.valueUnstructured{{Value:{}}}", GoSyntax(other));
                self.complain(&text);
            }
            (ScalarKind::Number, other) => {
                let text = format!("expected numeric (int or float), got {}", GoValue(other).type_name());
                self.complain(&text);
            }
            (ScalarKind::Bool, other) => {
                let text = format!("expected boolean, got &{{{}}}", GoValue(other));
                self.complain(&text);
            }
            (ScalarKind::Any | ScalarKind::Quantity, other) => {
                let text = format!("expected any scalar, got &{{{}}}", GoValue(other));
                self.complain(&text);
            }
        }
    }
}

/// A value as Go's `%v` shows it, which error texts do: `map[a:1 b:[x y]]`.
#[derive(Debug)]
pub struct GoValue<'a>(pub &'a Value);

impl GoValue<'_> {
    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self.0 {
            Value::Null => "<nil>",
            Value::Bool(_) => "bool",
            Value::Number(n) if n.is_f64() => "float64",
            Value::Number(_) => "int64",
            Value::String(_) => "string",
            Value::Array(_) => "[]interface {}",
            Value::Object(_) => "map[string]interface {}",
        }
    }
}

impl std::fmt::Display for GoValue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Value::Null => f.write_str("<nil>"),
            Value::String(text) => f.write_str(text),
            Value::Array(list) => {
                f.write_char('[')?;
                for (i, item) in list.iter().enumerate() {
                    write!(f, "{}{}", if i == 0 { "" } else { " " }, GoValue(item))?;
                }
                f.write_char(']')
            }
            Value::Object(map) => {
                f.write_str("map[")?;
                let mut members: Vec<_> = map.iter().collect();
                members.sort_by(|a, b| a.0.cmp(b.0));
                for (i, (key, value)) in members.into_iter().enumerate() {
                    write!(f, "{}{key}:{}", if i == 0 { "" } else { " " }, GoValue(value))?;
                }
                f.write_char(']')
            }
            scalar => write!(f, "{scalar}"),
        }
    }
}

/// A value in Go's syntax.
struct GoSyntax<'a>(&'a Value);

impl std::fmt::Display for GoSyntax<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Value::Array(list) => {
                f.write_str("[]interface {}{")?;
                for (i, item) in list.iter().enumerate() {
                    write!(f, "{}{}", if i == 0 { "" } else { ", " }, GoSyntax(item))?;
                }
                f.write_char('}')
            }
            Value::Object(map) => {
                f.write_str("map[string]interface {}{")?;
                for (i, (key, value)) in map.iter().enumerate() {
                    write!(f, "{}{key:?}:{}", if i == 0 { "" } else { ", " }, GoSyntax(value))?;
                }
                f.write_char('}')
            }
            Value::Null => f.write_str("interface {}(nil)"),
            scalar => write!(f, "{scalar}"),
        }
    }
}
