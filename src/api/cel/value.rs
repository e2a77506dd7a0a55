//! Values while an expression is evaluated: what comes from a document is borrowed from it.

use super::ast::Literal;
use super::opaque::Opaque;
use jiff::{SignedDuration, Timestamp};
use regex::Regex;
use serde_json::{Map as JsonMap, Number, Value as Json};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A value.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names of the types")]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Cow<'a, str>),
    Bytes(Rc<[u8]>),
    Duration(SignedDuration),
    Timestamp(Timestamp),
    /// A type's name.
    Type(&'static str),
    /// A compiled pattern, which only functions that take patterns see.
    Pattern(&'a Regex),
    /// A document's list.
    Array(&'a [Json]),
    List(Rc<[Value<'a>]>),
    /// A document's map or object.
    Object(&'a JsonMap<String, Json>),
    Map(Rc<BTreeMap<Key, Value<'a>>>),
    Optional(Option<Rc<Value<'a>>>),
    /// Of Kubernetes' own libraries.
    Opaque(Rc<Opaque>),
}

/// A key of a map. Whole numbers of both kinds are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Number(i128),
    /// Text.
    String(String),
}

impl<'a> From<&'a Json> for Value<'a> {
    fn from(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => number.as_i64().map_or_else(|| Self::Double(double(number)), Self::Int),
            Json::String(text) => Self::String(Cow::Borrowed(text)),
            Json::Array(elements) => Self::Array(elements),
            Json::Object(fields) => Self::Object(fields),
        }
    }
}

fn double(number: &Number) -> f64 {
    number.as_f64().unwrap_or(f64::NAN)
}

impl<'a> Value<'a> {
    /// A constant of the program.
    pub(super) fn literal(literal: &'a Literal) -> Self {
        match literal {
            Literal::Null => Self::Null,
            Literal::Bool(value) => Self::Bool(*value),
            Literal::Int(value) => Self::Int(*value),
            Literal::Uint(value) => Self::Uint(*value),
            Literal::Double(value) => Self::Double(*value),
            Literal::String(value) => Self::String(Cow::Borrowed(value)),
            Literal::Bytes(value) => Self::Bytes(value.as_slice().into()),
            Literal::Pattern(value) => Self::Pattern(value),
        }
    }

    /// Text of its own.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::String(Cow::Owned(text.into()))
    }

    /// A list of its own.
    pub(super) fn list(elements: Vec<Self>) -> Self {
        Self::List(elements.into())
    }

    /// Something of a library's own.
    pub(super) fn opaque(value: Opaque) -> Self {
        Self::Opaque(Rc::new(value))
    }

    /// Something that is there.
    pub(super) fn some(value: Self) -> Self {
        Self::Optional(Some(Rc::new(value)))
    }

    /// The elements of a list.
    pub fn elements(&self) -> Option<Vec<Self>> {
        match self {
            Self::Array(elements) => Some(elements.iter().map(Self::from).collect()),
            Self::List(elements) => Some(elements.to_vec()),
            _ => None,
        }
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::Array(_) | Self::List(_))
    }

    /// How many elements, entries, characters or octets it has.
    pub(super) fn size(&self) -> Option<usize> {
        Some(match self {
            Self::String(text) => text.chars().count(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Array(elements) => elements.len(),
            Self::List(elements) => elements.len(),
            Self::Object(fields) => fields.len(),
            Self::Map(entries) => entries.len(),
            _ => return None,
        })
    }

    /// The keys of a map, in order.
    pub(super) fn keys(&self) -> Option<Vec<Self>> {
        match self {
            Self::Object(fields) => Some(fields.keys().map(|key| Self::String(Cow::Borrowed(key))).collect()),
            Self::Map(entries) => Some(entries.keys().map(Key::value).collect()),
            _ => None,
        }
    }

    /// The element at a key or an index; `None` when there is none, or nothing can be there.
    pub(super) fn at(&self, key: &Self) -> Option<Self> {
        match self {
            Self::Object(fields) => match key {
                Self::String(key) => fields.get(key.as_ref()).map(Self::from),
                _ => None,
            },
            Self::Map(entries) => entries.get(&Key::of(key)?).cloned(),
            Self::Array(elements) => elements.get(key.index()?).map(Self::from),
            Self::List(elements) => elements.get(key.index()?).cloned(),
            _ => None,
        }
    }

    fn index(&self) -> Option<usize> {
        match Key::of(self)? {
            Key::Number(number) => usize::try_from(number).ok(),
            _ => None,
        }
    }

    /// The name of its type, for `type()` and errors.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) | Self::Pattern(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Type(_) => "type",
            Self::Array(_) | Self::List(_) => "list",
            Self::Object(_) | Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Opaque(value) => value.type_name(),
        }
    }

    /// Whether it is what its type has when nothing is said.
    pub(super) fn is_zero(&self) -> bool {
        match self {
            Self::Null | Self::Optional(None) => true,
            Self::Bool(value) => !value,
            Self::Int(value) => *value == 0,
            Self::Uint(value) => *value == 0,
            Self::Double(value) => *value == 0.0,
            Self::Duration(value) => value.is_zero(),
            Self::Timestamp(_) | Self::Type(_) | Self::Pattern(_) | Self::Optional(Some(_)) | Self::Opaque(_) => false,
            other => other.size() == Some(0),
        }
    }

    /// Whether both are the same; numbers are compared by value, whatever their kind.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.same(b),
                _ => false,
            },
            (Self::Array(_) | Self::List(_), Self::Array(_) | Self::List(_)) => {
                let (Some(a), Some(b)) = (self.elements(), other.elements()) else { return false };
                a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.same(b))
            }
            (Self::Object(_) | Self::Map(_), Self::Object(_) | Self::Map(_)) => {
                let Some(keys) = self.keys().filter(|_| self.size() == other.size()) else { return false };
                keys.iter().all(|key| match (self.at(key), other.at(key)) {
                    (Some(a), Some(b)) => a.same(&b),
                    _ => false,
                })
            }
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// Which comes first, where that can be said.
    #[allow(clippy::cast_precision_loss, reason = "whole numbers are compared with fractions as fractions")]
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        let whole = |value: &Self| match value {
            Self::Int(value) => Some(i128::from(*value)),
            Self::Uint(value) => Some(i128::from(*value)),
            _ => None,
        };
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::String(a), Self::String(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Double(a), b) => a.partial_cmp(&(whole(b)? as f64)),
            (a, Self::Double(b)) => (whole(a)? as f64).partial_cmp(b),
            (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
        }
    }
}

impl Key {
    /// A value as a key. A fraction that is none is a whole number.
    pub(super) fn of(value: &Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Number((*value).into()),
            Value::Uint(value) => Self::Number((*value).into()),
            #[allow(clippy::cast_possible_truncation, reason = "looked at before")]
            Value::Double(value) if value.fract() == 0.0 && value.abs() < 1e18 => Self::Number(*value as i128),
            Value::String(text) => Self::String(text.clone().into_owned()),
            _ => return None,
        })
    }

    fn value<'a>(&self) -> Value<'a> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(number) => match i64::try_from(*number) {
                Ok(number) => Value::Int(number),
                Err(_) => Value::Uint(u64::try_from(*number).unwrap_or(u64::MAX)),
            },
            Self::String(text) => Value::text(text.as_str()),
        }
    }
}
