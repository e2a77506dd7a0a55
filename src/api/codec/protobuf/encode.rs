//! Protobuf answers: canonical JSON transcoded by the facts in one pass, without a tree in between.

use super::super::json::{Next, Reader, Syntax};
use super::super::scalars;
use super::MAGIC;
use crate::facts::{self, Field, Kind, Shape, Type};
use crate::meta::{self, time};

/// Why an object cannot be written as protobuf.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The kind has no message, such as a Table.
    #[error(
        "object *{0} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
    )]
    NoMessage(String),
    /// What was to be transcoded is not as the facts have it.
    #[error("cannot write the object as protobuf: {0}")]
    Malformed(String),
}

impl From<Syntax> for EncodeError {
    fn from(Syntax(text): Syntax) -> Self {
        EncodeError::Malformed(text)
    }
}

type Result<T> = std::result::Result<T, Syntax>;

/// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// An object or a list with its envelope.
pub fn encode_protobuf(object: &[u8]) -> std::result::Result<Vec<u8>, EncodeError> {
    let text = std::str::from_utf8(object).map_err(|error| EncodeError::Malformed(error.to_string()))?;
    let (api_version, kind) = type_meta(text)?;
    let (group, version) = meta::split_api_version(&api_version);
    // Two of discovery's kinds go without a version.
    let version = if version.is_empty() { "v1" } else { version };
    let ty =
        facts::type_by_gvk(group, version, &kind).ok_or_else(|| EncodeError::NoMessage(format!("{version}.{kind}")))?;
    let mut out = Vec::with_capacity(object.len() + object.len() / 8 + 64);
    out.extend_from_slice(MAGIC);
    nested(&mut out, 1, |out| {
        bytes(out, 1, api_version.as_bytes());
        bytes(out, 2, kind.as_bytes());
        Ok(())
    })?;
    nested(&mut out, 2, |out| object_fields(&mut Reader::new(text), ty, out))?;
    // Encoding and type of the content: none but the usual.
    bytes(&mut out, 3, b"");
    bytes(&mut out, 4, b"");
    Ok(out)
}

/// A watch event as it is sent: a frame of length and WatchEvent around an enveloped object.
pub fn encode_watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + event.len() + 32);
    out.extend_from_slice(&[0; 4]);
    bytes(&mut out, 1, event.as_bytes());
    key(&mut out, 2, BYTES);
    varint(&mut out, 1 + varint_length(object.len() as u64) as u64 + object.len() as u64);
    bytes(&mut out, 1, object);
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// `apiVersion` and `kind`, which begin our own documents; elsewhere what precedes them is passed over.
fn type_meta(text: &str) -> Result<(String, String)> {
    let (mut api_version, mut kind) = (None, None);
    let found = Reader::new(text).object(|reader, name| {
        let slot = match name.as_ref() {
            "apiVersion" => &mut api_version,
            "kind" => &mut kind,
            _ => return reader.skip(),
        };
        *slot = Some(match reader.peek()? {
            Next::String => reader.string()?.into_owned(),
            other => return Err(unexpected(other, "string")),
        });
        // Both are known: what follows need not be read. No error is worded like this one.
        if api_version.is_some() && kind.is_some() { Err(Syntax(String::new())) } else { Ok(()) }
    });
    match (api_version, kind, found) {
        (Some(api_version), Some(kind), _) => Ok((api_version, kind)),
        (_, _, Err(error)) => Err(error),
        (None, Some(kind), Ok(())) => Ok((String::new(), kind)),
        _ => Err(Syntax("Object 'Kind' is missing".to_owned())),
    }
}

fn unexpected(found: Next, wanted: &str) -> Syntax {
    Syntax(format!("{} where {wanted} was expected", found.name()))
}

fn varint_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn key(out: &mut Vec<u8>, tag: u32, wire: u32) {
    varint(out, u64::from(tag << 3 | wire));
}

fn bytes(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    key(out, tag, BYTES);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn integer(out: &mut Vec<u8>, tag: u32, value: i64) {
    key(out, tag, VARINT);
    varint(out, u64::from_le_bytes(value.to_le_bytes()));
}

/// A message inside: its length is known when it is written, and put in front of it then.
fn nested(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    key(out, tag, BYTES);
    let at = out.len();
    out.push(0);
    write(out)?;
    let length = out.len() - at - 1;
    let extra = varint_length(length as u64) - 1;
    if extra > 0 {
        let end = out.len();
        out.resize(end + extra, 0);
        out.copy_within(at + 1..end, at + 1 + extra);
    }
    let mut rest = length as u64;
    for slot in &mut out[at..at + extra] {
        *slot = rest.to_le_bytes()[0] | 0x80;
        rest >>= 7;
    }
    out[at + extra] = rest.to_le_bytes()[0];
    Ok(())
}

/// The fields of an object. Those flattened in JSON are messages of their own on the wire.
fn object_fields(reader: &mut Reader<'_>, ty: &'static Type, out: &mut Vec<u8>) -> Result<()> {
    match reader.peek()? {
        Next::Object => {}
        Next::Null => return reader.null(),
        other => return Err(unexpected(other, "object")),
    }
    let mut inner: Vec<(u32, &'static Type, Vec<u8>)> = Vec::new();
    let mut next = ty.inline;
    while let Some((tag, ty)) = next {
        inner.push((tag, ty, Vec::new()));
        next = ty.inline;
    }
    reader.object(|reader, name| {
        if let Some(field) = ty.field(&name).filter(|field| field.tag != 0) {
            return field_value(reader, ty, field, out);
        }
        let level = inner.iter_mut().find_map(|(_, ty, buffer)| {
            let ty: &'static Type = ty;
            ty.field(&name).filter(|field| field.tag != 0).map(|field| (ty, field, buffer))
        });
        match level {
            Some((ty, field, buffer)) => field_value(reader, ty, field, buffer),
            // `kind` and `apiVersion`, which the envelope has, and what the facts do not know.
            None => reader.skip(),
        }
    })?;
    let mut below: Option<(u32, Vec<u8>)> = None;
    for (tag, _, mut buffer) in inner.into_iter().rev() {
        if let Some((tag, message)) = below.take() {
            bytes(&mut buffer, tag, &message);
        }
        below = (!buffer.is_empty()).then_some((tag, buffer));
    }
    if let Some((tag, message)) = below {
        bytes(out, tag, &message);
    }
    Ok(())
}

fn field_value(reader: &mut Reader<'_>, ty: &'static Type, field: &'static Field, out: &mut Vec<u8>) -> Result<()> {
    if reader.peek()? == Next::Null {
        return reader.null();
    }
    match field.kind {
        // The one list outside of maps that is a message of its own on the wire.
        Kind::List(inner) if field.name == "verbs" && ty.short_name() == "APIResource" => {
            nested(out, field.tag, |out| list(reader, *inner, 1, out))
        }
        Kind::List(inner) => list(reader, *inner, field.tag, out),
        Kind::Map(inner) => map(reader, *inner, field.tag, out),
        kind => value(reader, kind, field.tag, out),
    }
}

fn list(reader: &mut Reader<'_>, inner: Kind, tag: u32, out: &mut Vec<u8>) -> Result<()> {
    match reader.peek()? {
        Next::Array => reader.array(|reader, _| value(reader, inner, tag, out)),
        other => Err(unexpected(other, "array")),
    }
}

fn map(reader: &mut Reader<'_>, inner: Kind, tag: u32, out: &mut Vec<u8>) -> Result<()> {
    match reader.peek()? {
        Next::Object => {}
        other => return Err(unexpected(other, "object")),
    }
    reader.object(|reader, name| {
        nested(out, tag, |out| {
            bytes(out, 1, name.as_bytes());
            match inner {
                Kind::List(kind) => nested(out, 2, |out| list(reader, *kind, 1, out)),
                kind => value(reader, kind, 2, out),
            }
        })
    })
}

/// A value that is neither list nor map; null stands for the zero value.
fn value(reader: &mut Reader<'_>, kind: Kind, tag: u32, out: &mut Vec<u8>) -> Result<()> {
    let next = reader.peek()?;
    match (kind, next) {
        (Kind::Object(ty), _) => return object(reader, ty, tag, out),
        (Kind::Str | Kind::Bytes, Next::Null) => {
            reader.null()?;
            bytes(out, tag, b"");
        }
        (_, Next::Null) => {
            reader.null()?;
            integer(out, tag, 0);
        }
        (Kind::Str, Next::String) => {
            let text = reader.string()?;
            bytes(out, tag, text.as_bytes());
        }
        (Kind::Bytes, Next::String) => {
            let text = reader.string()?;
            bytes(out, tag, &scalars::bytes_of(&text).map_err(Syntax)?);
        }
        (Kind::Bool, Next::Bool) => {
            let yes = reader.bool()?;
            integer(out, tag, i64::from(yes));
        }
        (Kind::I32 | Kind::I64, Next::Number) => {
            let number = whole(reader.number()?)?;
            integer(out, tag, number);
        }
        (Kind::F64, Next::Number) => {
            let text = reader.number()?;
            let number: f64 = text.parse().map_err(|_| Syntax(format!("{text} is no number")))?;
            key(out, tag, FIXED64);
            out.extend_from_slice(&number.to_le_bytes());
        }
        (kind, found) => return Err(unexpected(found, &format!("{kind:?}").to_lowercase())),
    }
    Ok(())
}

fn whole(text: &str) -> Result<i64> {
    text.parse().map_err(|_| Syntax(format!("{text} is no 64-bit number")))
}

fn object(reader: &mut Reader<'_>, ty: &'static Type, tag: u32, out: &mut Vec<u8>) -> Result<()> {
    nested(out, tag, |out| match ty.shape {
        Shape::Object => object_fields(reader, ty, out),
        Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings => schema_or(reader, ty.shape, out),
        shape => special(reader, shape, out),
    })
}

/// Messages that stand for a scalar or for any JSON.
fn special(reader: &mut Reader<'_>, shape: Shape, out: &mut Vec<u8>) -> Result<()> {
    let next = reader.peek()?;
    match (shape, next) {
        (Shape::Json, _) => bytes(out, 1, reader.raw()?.as_bytes()),
        // The zero time and absent content are empty messages.
        (_, Next::Null) => reader.null()?,
        (Shape::Time | Shape::MicroTime, Next::String) => {
            let text = reader.string()?;
            let stamp = time::parse_any(&text).ok_or_else(|| Syntax(format!("{text} is no time")))?;
            integer(out, 1, stamp.seconds);
            integer(out, 2, i64::from(stamp.nanos));
        }
        (Shape::Quantity, Next::String) => bytes(out, 1, reader.string()?.as_bytes()),
        (Shape::Quantity, Next::Number) => bytes(out, 1, reader.number()?.as_bytes()),
        (Shape::IntOrString, Next::String) => {
            integer(out, 1, 1);
            integer(out, 2, 0);
            bytes(out, 3, reader.string()?.as_bytes());
        }
        (Shape::IntOrString, Next::Number) => {
            integer(out, 1, 0);
            integer(out, 2, whole(reader.number()?)?);
            bytes(out, 3, b"");
        }
        (Shape::FieldsV1 | Shape::RawExtension, _) => bytes(out, 1, reader.raw()?.as_bytes()),
        (_, found) => return Err(unexpected(found, "string")),
    }
    Ok(())
}

/// A schema, or what may stand in its place.
fn schema_or(reader: &mut Reader<'_>, shape: Shape, out: &mut Vec<u8>) -> Result<()> {
    let schema = super::super::typed::schema_type();
    match (reader.peek()?, shape) {
        (Next::Object, Shape::SchemaOrBool) => {
            integer(out, 1, 1);
            nested(out, 2, |out| object_fields(reader, schema, out))
        }
        (Next::Object, _) => nested(out, 1, |out| object_fields(reader, schema, out)),
        (Next::Bool, Shape::SchemaOrBool) => {
            let allows = reader.bool()?;
            integer(out, 1, i64::from(allows));
            Ok(())
        }
        (Next::Array, Shape::SchemaOrStrings) => list(reader, Kind::Str, 2, out),
        (Next::Array, Shape::SchemaOrArray) => {
            reader.array(|reader, _| nested(out, 2, |out| object_fields(reader, schema, out)))
        }
        (Next::Null, _) => reader.null(),
        (found, _) => Err(unexpected(found, "a schema")),
    }
}

#[cfg(test)]
mod tests;
