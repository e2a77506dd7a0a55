//! What apply has to know of a type: which parts merge, and by what.

use super::set::{Element, Scalar};
use crate::facts::{Constant, Field, Kind, ListType, Presence, Shape, Type};
use serde_json::Value;
use std::borrow::Cow;

/// How a place holds its value.
#[derive(Debug, Clone, Copy)]
pub enum Form<S> {
    /// A scalar.
    Scalar(ScalarKind),
    /// A struct with named fields; an atomic one is one value.
    Struct {
        /// Whether it is replaced as a whole.
        atomic: bool,
    },
    /// A map from strings.
    Map {
        /// Whether it is replaced as a whole.
        atomic: bool,
        /// The type of the values.
        values: S,
    },
    /// A list.
    List {
        /// How it merges.
        relation: Relation,
        /// The type of the items.
        items: S,
    },
    /// Anything: objects merge by key, lists are replaced.
    Untyped,
}

/// How a list merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Not at all: it is replaced.
    Atomic,
    /// As a set of scalars.
    Set,
    /// By the keys of its items.
    Keyed,
}

/// What a scalar may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarKind {
    /// A string.
    Text,
    /// A number.
    Number,
    /// A bool.
    Bool,
    /// A string or a number, written as a quantity.
    Quantity,
    /// A time stamp in seconds.
    Time,
    /// A time stamp in microseconds.
    MicroTime,
    /// Any scalar.
    Any,
}

/// A field of a struct.
#[derive(Debug, Clone)]
pub struct Member<S> {
    /// The field's name.
    pub name: Cow<'static, str>,
    /// The type of its value.
    pub inner: S,
    /// What an object has there before anybody wrote it.
    pub zero: Zero,
}

/// What an untouched field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zero {
    /// Nothing.
    Absent,
    /// Null.
    Null,
    /// The zero value.
    Zero,
}

/// The type of a place. The built-in kinds' is `FactsPlace`; schemas of custom resources have their own.
pub trait Structure: Copy {
    /// How the place holds its value.
    fn form(self) -> Form<Self>;
    /// The field of a struct.
    fn field(self, name: &str) -> Option<Member<Self>>;
    /// The keys of a keyed list's items, each with its default.
    fn keys(self, each: &mut dyn FnMut(Cow<'static, str>, Option<Scalar>));
    /// The type of what is below a place whose type is not known.
    fn untyped() -> Self;
    /// The type below an element of this place.
    fn below(self, element: &Element) -> Self {
        match (self.form(), element) {
            (Form::Struct { .. }, Element::Field(name)) => self.field(name).map_or_else(Self::untyped, |m| m.inner),
            (Form::Map { values, .. }, Element::Field(_)) => values,
            (Form::List { items, .. }, _) => items,
            _ => Self::untyped(),
        }
    }
}

/// A place in an object of a built-in kind.
#[derive(Debug, Clone, Copy)]
pub struct FactsPlace {
    kind: Option<Kind>,
    relation: Relation,
    keys: &'static [&'static str],
    /// What the field says of its map or struct, before the type is asked.
    atomic_map: Option<bool>,
}

impl FactsPlace {
    /// The root of an object of the type.
    pub fn root(ty: &'static Type) -> Self {
        Self::plain(Kind::Object(ty))
    }

    fn plain(kind: Kind) -> Self {
        Self { kind: Some(kind), relation: Relation::Atomic, keys: &[], atomic_map: None }
    }

    fn of_field(field: &'static Field) -> Self {
        let relation = match field.schema.list_type {
            Some(ListType::Set) => Relation::Set,
            Some(ListType::Map) => Relation::Keyed,
            Some(ListType::Atomic) | None => Relation::Atomic,
        };
        let atomic_map = match field.schema {
            schema if schema.map_granular => Some(false),
            schema if schema.map_atomic => Some(true),
            _ => None,
        };
        Self { kind: Some(field.kind), relation, keys: field.schema.list_keys, atomic_map }
    }

    fn type_of(self) -> Option<&'static Type> {
        match self.kind? {
            Kind::Object(ty) => Some(ty),
            _ => None,
        }
    }
}

impl Structure for FactsPlace {
    fn form(self) -> Form<Self> {
        match self.kind {
            None => Form::Untyped,
            Some(Kind::Str | Kind::Bytes) => Form::Scalar(ScalarKind::Text),
            Some(Kind::I32 | Kind::I64 | Kind::F64) => Form::Scalar(ScalarKind::Number),
            Some(Kind::Bool) => Form::Scalar(ScalarKind::Bool),
            Some(Kind::List(items)) => Form::List { relation: self.relation, items: Self::plain(*items) },
            Some(Kind::Map(values)) => {
                Form::Map { atomic: self.atomic_map == Some(true), values: Self::plain(*values) }
            }
            Some(Kind::Object(ty)) => match ty.shape {
                Shape::Object => Form::Struct { atomic: self.atomic_map.unwrap_or(ty.map_atomic) },
                Shape::Quantity => Form::Scalar(ScalarKind::Quantity),
                Shape::IntOrString => Form::Scalar(ScalarKind::Any),
                Shape::Time => Form::Scalar(ScalarKind::Time),
                Shape::MicroTime => Form::Scalar(ScalarKind::MicroTime),
                Shape::FieldsV1
                | Shape::RawExtension
                | Shape::Json
                | Shape::SchemaOrArray
                | Shape::SchemaOrBool
                | Shape::SchemaOrStrings => Form::Untyped,
            },
        }
    }

    fn field(self, name: &str) -> Option<Member<Self>> {
        let field = self.type_of()?.field(name)?;
        let scalar = !matches!(field.kind, Kind::List(_) | Kind::Map(_));
        let zero = match field.presence {
            Presence::Always if scalar => Zero::Zero,
            _ if field.required || field.presence == Presence::Always => Zero::Null,
            _ => Zero::Absent,
        };
        Some(Member { name: Cow::Borrowed(field.name), inner: Self::of_field(field), zero })
    }

    fn keys(self, each: &mut dyn FnMut(Cow<'static, str>, Option<Scalar>)) {
        let item = match self.kind {
            Some(Kind::List(Kind::Object(ty))) => Some(*ty),
            _ => None,
        };
        for key in self.keys {
            let constant = item.and_then(|ty| ty.field(key)).and_then(|field| field.schema.default);
            let default = constant.map(|constant| match constant {
                Constant::Str(text) => Scalar::Text(Cow::Borrowed(text)),
                Constant::Int(int) => Scalar::Int(int),
                Constant::Bool(bool) => Scalar::Bool(bool),
            });
            each(Cow::Borrowed(key), default);
        }
    }

    fn untyped() -> Self {
        Self { kind: None, relation: Relation::Atomic, keys: &[], atomic_map: None }
    }
}

/// Whether a value at a place of this form is one value to apply: a scalar, or something atomic.
pub(super) fn is_leaf<S>(form: &Form<S>, value: &Value) -> bool {
    match form {
        Form::Scalar(_) => true,
        Form::Struct { atomic } | Form::Map { atomic, .. } => *atomic,
        Form::List { relation, .. } => *relation == Relation::Atomic,
        Form::Untyped => !value.is_object(),
    }
}

/// How an item of a list that merges is named; an error says why it cannot be.
pub(super) fn item_element<S: Structure>(list: S, relation: Relation, item: &Value) -> Result<Element, String> {
    if relation == Relation::Set {
        return match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
            scalar => Ok(Element::Value(Scalar::of(scalar).unwrap_or(Scalar::Null))),
        };
    }
    let Value::Object(map) = item else {
        return Err(match item {
            Value::Null => "associative list with keys may not have a null element".to_owned(),
            _ => "associative list with keys may not have non-map elements".to_owned(),
        });
    };
    let mut found = Vec::with_capacity(2);
    list.keys(&mut |name, default| {
        let value = match map.get(name.as_ref()) {
            Some(value) => Scalar::of(value),
            None => default,
        };
        if let Some(value) = value {
            found.push((name, value));
        }
    });
    if found.is_empty() {
        let mut names = Vec::new();
        list.keys(&mut |name, _| names.push(format!("{name:?}")));
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            names.join(" ")
        ));
    }
    found.sort();
    Ok(Element::Key(found))
}
