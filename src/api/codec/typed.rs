//! The typed walk over a JSON document: checks types against the facts and collects unknown and
//! duplicate fields by path while it reads.

use super::json::{Next, Reader, Syntax};
use super::{DecodeError, Decoded, scalars};
use crate::facts::{Field, Kind, Presence, Shape, Type, go_types};
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// More strict errors than this are not reported.
const MAX_STRICT: usize = 100;

type Result<T> = std::result::Result<T, Syntax>;

/// Where the walk is: a chain of frames on the stack, so that the path costs nothing until an error.
#[derive(Clone, Copy)]
enum Path<'p> {
    Root,
    Field(&'p Path<'p>, &'static Type, &'static str),
    Index(&'p Path<'p>, usize),
    Key(&'p Path<'p>, &'p str),
}

impl Path<'_> {
    /// As strict errors write it: `spec.containers[0].name`.
    fn strict(&self, out: &mut String) {
        match self {
            Path::Root => {}
            Path::Field(parent, _, name) => {
                parent.strict(out);
                dot(out, name);
            }
            Path::Key(parent, key) => {
                parent.strict(out);
                dot(out, key);
            }
            Path::Index(parent, index) => {
                parent.strict(out);
                let _ = write!(out, "[{index}]");
            }
        }
    }

    /// As type errors write it: `Container.spec.containers.name`, the struct around the last field first.
    fn go(&self) -> Option<String> {
        let mut names = Vec::new();
        let mut owner = None;
        let mut at = self;
        loop {
            match at {
                Path::Root => break,
                Path::Field(parent, ty, name) => {
                    owner.get_or_insert(ty.short_name());
                    names.push(*name);
                    at = parent;
                }
                Path::Index(parent, _) | Path::Key(parent, _) => at = parent,
            }
        }
        names.push(owner?);
        names.reverse();
        Some(names.join("."))
    }

    /// The Go type of what is here, where it has a name of its own.
    fn named(&self) -> Option<&'static str> {
        match self {
            Path::Root => None,
            Path::Field(_, ty, name) => go_types::of(ty, name),
            Path::Index(parent, _) | Path::Key(parent, _) => go_types::element(parent.named()?),
        }
    }
}

fn dot(out: &mut String, name: &str) {
    if !out.is_empty() {
        out.push('.');
    }
    out.push_str(name);
}

/// What the walk found.
#[derive(Default)]
struct Walk {
    strict: Vec<String>,
    /// The first type error; a later failed scalar takes its place.
    error: Option<String>,
    scalar_error: bool,
}

/// Decodes a document as an object of a type.
pub(super) fn decode(text: &str, ty: &'static Type) -> std::result::Result<Decoded, DecodeError> {
    let mut reader = Reader::new(text);
    let mut walk = Walk::default();
    let value = walk
        .object_of(&mut reader, ty, &Path::Root)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|Syntax(text)| DecodeError::Syntax(text))?;
    if let Some(message) = walk.error {
        return Err(DecodeError::Type(message));
    }
    Ok(Decoded { value: value.unwrap_or_else(|| Value::Object(Map::new())), strict: walk.strict })
}

/// Reads a document without a type; only duplicate fields are reported.
pub(super) fn decode_untyped(text: &str) -> std::result::Result<Decoded, DecodeError> {
    let mut reader = Reader::new(text);
    let mut walk = Walk::default();
    let value = walk
        .untyped(&mut reader, &Path::Root)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|Syntax(text)| DecodeError::Syntax(text))?;
    Ok(Decoded { value, strict: walk.strict })
}

impl Walk {
    fn untyped(&mut self, reader: &mut Reader<'_>, path: &Path<'_>) -> Result<Value> {
        match reader.peek()? {
            Next::Object => {
                let mut map = Map::new();
                reader.object(|reader, key| {
                    let value = self.untyped(reader, &Path::Key(path, &key))?;
                    if map.insert(key.as_ref().to_owned(), value).is_some() {
                        self.report("duplicate", path, &key);
                    }
                    Ok(())
                })?;
                Ok(Value::Object(map))
            }
            Next::Array => {
                let mut list = Vec::new();
                reader.array(|reader, index| {
                    list.push(self.untyped(reader, &Path::Index(path, index))?);
                    Ok(())
                })?;
                Ok(Value::Array(list))
            }
            _ => reader.any(),
        }
    }

    fn report(&mut self, what: &str, path: &Path<'_>, name: &str) {
        if self.strict.len() >= MAX_STRICT {
            return;
        }
        let mut full = String::new();
        path.strict(&mut full);
        dot(&mut full, name);
        let message = format!("{what} field {full:?}");
        if !self.strict.contains(&message) {
            self.strict.push(message);
        }
    }

    fn mismatch(&mut self, found: &str, target: &str, path: &Path<'_>) {
        if self.error.is_none() {
            self.error = Some(mismatch(found, target, path));
        }
    }

    /// A scalar that does not parse ends upstream's decoding at once, so it goes before type errors.
    fn scalar_failed(&mut self, message: String) {
        if !self.scalar_error {
            self.scalar_error = true;
            self.error = Some(message);
        }
    }

    fn value(&mut self, reader: &mut Reader<'_>, kind: Kind, path: &Path<'_>) -> Result<Option<Value>> {
        match kind {
            Kind::Object(ty) => self.object_of(reader, ty, path),
            Kind::List(inner) => self.list(reader, *inner, path),
            Kind::Map(inner) => self.map(reader, inner, path),
            _ => self.scalar(reader, kind, path),
        }
    }

    fn scalar(&mut self, reader: &mut Reader<'_>, kind: Kind, path: &Path<'_>) -> Result<Option<Value>> {
        let next = reader.peek()?;
        match (kind, next) {
            (_, Next::Null) => {
                reader.null()?;
                Ok(None)
            }
            (Kind::Str, Next::String) => Ok(Some(Value::String(reader.string()?.into_owned()))),
            (Kind::Bool, Next::Bool) => Ok(Some(Value::Bool(reader.bool()?))),
            (Kind::I32 | Kind::I64, Next::Number) => {
                let text = reader.number()?;
                let number = text.parse::<i64>().ok().filter(|n| kind == Kind::I64 || i32::try_from(*n).is_ok());
                if number.is_none() {
                    self.mismatch(&format!("number {text}"), &go_type(kind), path);
                }
                Ok(number.map(Value::from))
            }
            (Kind::F64, Next::Number) => {
                let text = reader.number()?;
                let number = scalars::float(text);
                if number.is_none() {
                    self.mismatch(&format!("number {text}"), &go_type(kind), path);
                }
                Ok(number)
            }
            (Kind::Bytes, Next::String) => {
                let text = reader.string()?;
                match scalars::base64_text(&text) {
                    Ok(text) => Ok(Some(Value::String(text))),
                    Err(message) => {
                        self.error.get_or_insert(message);
                        Ok(None)
                    }
                }
            }
            _ => {
                reader.skip()?;
                self.mismatch(next.name(), &go_type(kind), path);
                Ok(None)
            }
        }
    }

    fn list(&mut self, reader: &mut Reader<'_>, inner: Kind, path: &Path<'_>) -> Result<Option<Value>> {
        match reader.peek()? {
            Next::Null => {
                reader.null()?;
                Ok(None)
            }
            Next::Array => {
                let mut list = Vec::new();
                reader.array(|reader, index| {
                    let value = self.value(reader, inner, &Path::Index(path, index))?;
                    list.push(value.unwrap_or_else(|| scalars::zero(inner)));
                    Ok(())
                })?;
                Ok(Some(Value::Array(list)))
            }
            next => {
                reader.skip()?;
                self.mismatch(next.name(), &format!("[]{}", go_type(inner)), path);
                Ok(None)
            }
        }
    }

    fn map(&mut self, reader: &mut Reader<'_>, inner: &'static Kind, path: &Path<'_>) -> Result<Option<Value>> {
        match reader.peek()? {
            Next::Null => {
                reader.null()?;
                Ok(None)
            }
            Next::Object => {
                let mut map = Map::new();
                reader.object(|reader, key| {
                    let value = self.value(reader, *inner, &Path::Key(path, &key))?;
                    if map.contains_key(key.as_ref()) {
                        self.report("duplicate", path, &key);
                    }
                    map.insert(key.into_owned(), value.unwrap_or_else(|| scalars::zero(*inner)));
                    Ok(())
                })?;
                Ok(Some(Value::Object(map)))
            }
            next => {
                reader.skip()?;
                self.mismatch(next.name(), &go_type(Kind::Map(inner)), path);
                Ok(None)
            }
        }
    }

    fn object_of(&mut self, reader: &mut Reader<'_>, ty: &'static Type, path: &Path<'_>) -> Result<Option<Value>> {
        if ty.shape != Shape::Object {
            return self.special(reader, ty, path);
        }
        match reader.peek()? {
            Next::Null => {
                reader.null()?;
                Ok(None)
            }
            Next::Object => self.fields(reader, ty, path).map(Some),
            next => {
                reader.skip()?;
                self.mismatch(next.name(), ty.go_name(), path);
                Ok(None)
            }
        }
    }

    fn fields(&mut self, reader: &mut Reader<'_>, ty: &'static Type, path: &Path<'_>) -> Result<Value> {
        let mut map = Map::new();
        let mut seen: u128 = 0;
        reader.object(|reader, key| {
            let Ok(index) = ty.fields.binary_search_by(|f| f.name.cmp(key.as_ref())) else {
                self.report("unknown", path, &key);
                return reader.skip();
            };
            let field = &ty.fields[index];
            // No type has more than 128 fields; a test holds the facts to it.
            let bit = 1u128 << (index & 127);
            if seen & bit != 0 {
                self.report("duplicate", path, &key);
                map.remove(field.name);
            }
            seen |= bit;
            let value = self.value(reader, field.kind, &Path::Field(path, ty, field.name))?;
            if let Some(value) = value.filter(|v| !absent(field, v) && !field.disabled()) {
                map.insert(field.name.to_owned(), value);
            }
            Ok(())
        })?;
        Ok(Value::Object(map))
    }

    /// Types that are no plain object in JSON.
    fn special(&mut self, reader: &mut Reader<'_>, ty: &'static Type, path: &Path<'_>) -> Result<Option<Value>> {
        let next = reader.peek()?;
        if next == Next::Null {
            reader.null()?;
            // A null of a JSON-valued field (a CRD's default or enum) is a value.
            return Ok((ty.shape == Shape::Json).then_some(Value::Null));
        }
        match ty.shape {
            Shape::FieldsV1 | Shape::RawExtension | Shape::Json => return reader.any().map(Some),
            Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings => {
                return match next {
                    Next::Object => self.fields(reader, schema_type(), path).map(Some),
                    Next::Array if ty.shape == Shape::SchemaOrArray => {
                        self.list(reader, Kind::Object(schema_type()), path)
                    }
                    Next::Array if ty.shape == Shape::SchemaOrStrings => self.list(reader, Kind::Str, path),
                    _ if ty.shape == Shape::SchemaOrBool => self.scalar(reader, Kind::Bool, path),
                    _ => {
                        reader.skip()?;
                        self.mismatch(next.name(), ty.go_name(), path);
                        Ok(None)
                    }
                };
            }
            _ => {}
        }
        let result = match (ty.shape, next) {
            (Shape::Quantity, Next::String) => scalars::quantity(&reader.string()?),
            (Shape::Quantity, Next::Number) => scalars::quantity(reader.number()?),
            (Shape::IntOrString, Next::String) => Ok(Value::String(reader.string()?.into_owned())),
            (Shape::IntOrString, Next::Number) => {
                let text = reader.number()?;
                text.parse::<i32>().map(Value::from).map_err(|_| mismatch(&format!("number {text}"), "int32", path))
            }
            (Shape::Time, Next::String) => scalars::time(&reader.string()?),
            (Shape::MicroTime, Next::String) => scalars::micro_time(&reader.string()?),
            (shape, _) => {
                reader.skip()?;
                Err(match shape {
                    Shape::Quantity => scalars::QUANTITY_PATTERN.to_owned(),
                    Shape::IntOrString => mismatch(next.name(), "int32", path),
                    _ => mismatch(next.name(), "string", path),
                })
            }
        };
        match result {
            Ok(value) => Ok(Some(value)),
            Err(message) => {
                self.scalar_failed(message);
                Ok(None)
            }
        }
    }
}

fn mismatch(found: &str, target: &str, path: &Path<'_>) -> String {
    let target = path.named().unwrap_or(target);
    match path.go() {
        Some(field) => format!("json: cannot unmarshal {found} into Go struct field {field} of type {target}"),
        None => format!("json: cannot unmarshal {found} into Go value of type {target}"),
    }
}

/// Whether the value is the zero that stands for absence.
pub(super) fn absent(field: &Field, value: &Value) -> bool {
    if field.presence != Presence::Plain || field.required {
        return false;
    }
    match value {
        Value::Null => !matches!(field.kind, Kind::Object(ty) if ty.shape == Shape::Json),
        Value::Bool(b) => !b && field.kind == Kind::Bool,
        Value::Number(n) => n.as_f64() == Some(0.0) && matches!(field.kind, Kind::I32 | Kind::I64 | Kind::F64),
        Value::String(s) => s.is_empty() && matches!(field.kind, Kind::Str | Kind::Bytes),
        // An empty list of managed fields asks for them to be forgotten.
        Value::Array(list) => list.is_empty() && matches!(field.kind, Kind::List(_)) && field.name != "managedFields",
        Value::Object(map) => map.is_empty() && matches!(field.kind, Kind::Map(_)),
    }
}

pub(super) fn schema_type() -> &'static Type {
    crate::facts::type_by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
        .expect("the facts have JSON schemas; a test says so")
}

/// A type as Go prints it.
fn go_type(kind: Kind) -> String {
    match kind {
        Kind::Str => "string".into(),
        Kind::I32 => "int32".into(),
        Kind::I64 => "int64".into(),
        Kind::F64 => "float64".into(),
        Kind::Bool => "bool".into(),
        Kind::Bytes => "[]uint8".into(),
        Kind::Object(ty) => ty.go_name().into(),
        Kind::List(inner) => format!("[]{}", go_type(*inner)),
        Kind::Map(Kind::Object(ty)) if ty.shape == Shape::Quantity => "v1.ResourceList".into(),
        Kind::Map(inner) => format!("map[string]{}", go_type(*inner)),
    }
}
