//! Protobuf bodies: the `k8s` envelope, and messages transcoded into trees by the facts.

pub(super) mod encode;

use super::typed::absent;
use super::{DecodeError, Decoded, json, scalars};
use crate::facts::{self, Field, Kind, Shape, Type};
use crate::meta;
use serde_json::{Map, Value};

/// What an enveloped body begins with.
const MAGIC: &[u8; 4] = b"k8s\0";

type Result<T> = std::result::Result<T, DecodeError>;

fn broken(what: &str) -> DecodeError {
    DecodeError::Protobuf(format!("proto: {what}"))
}

fn ended() -> DecodeError {
    DecodeError::Protobuf("unexpected EOF".to_owned())
}

/// The envelope around an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion` of the object.
    pub api_version: &'a str,
    /// Kind of the object.
    pub kind: &'a str,
    /// The object's message.
    pub raw: &'a [u8],
}

/// Whether a body has the protobuf envelope.
pub fn is_protobuf(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}

/// Opens the envelope: `apiVersion`, kind and the raw message.
pub fn open_envelope(body: &[u8]) -> Result<Envelope<'_>> {
    let Some(unknown) = body.strip_prefix(MAGIC) else {
        return Err(DecodeError::Protobuf(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".into(),
        ));
    };
    if unknown.is_empty() {
        return Err(DecodeError::Protobuf("empty body".to_owned()));
    }
    let mut envelope = Envelope { api_version: "", kind: "", raw: &[] };
    let mut reader = Wire { bytes: unknown };
    while let Some((tag, value)) = reader.next()? {
        match (tag, value) {
            (1, Item::Bytes(type_meta)) => {
                let mut reader = Wire { bytes: type_meta };
                while let Some((tag, value)) = reader.next()? {
                    match (tag, value) {
                        (1, Item::Bytes(text)) => envelope.api_version = utf8(text)?,
                        (2, Item::Bytes(text)) => envelope.kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Item::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Decodes an enveloped body. Unknown fields are skipped: senders may be newer.
pub fn decode_protobuf(body: &[u8]) -> Result<Decoded> {
    let envelope = open_envelope(body)?;
    let (group, version) = meta::split_api_version(envelope.api_version);
    let Some(ty) = facts::type_by_gvk(group, version, envelope.kind) else {
        return Err(DecodeError::UnknownKind { version: envelope.api_version.into(), kind: envelope.kind.into() });
    };
    let mut value = decode_message(envelope.raw, ty)?;
    if let Value::Object(map) = &mut value {
        map.insert("kind".into(), Value::from(envelope.kind));
        map.insert("apiVersion".into(), Value::from(envelope.api_version));
    }
    Ok(Decoded { value, strict: Vec::new() })
}

/// Decodes a bare message of a type.
pub fn decode_message(raw: &[u8], ty: &'static Type) -> Result<Value> {
    let mut map = Map::new();
    message(raw, ty, &mut map, 0)?;
    Ok(Value::Object(map))
}

/// One value on the wire.
#[derive(Debug, Clone, Copy)]
enum Item<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// A reader over a message.
struct Wire<'a> {
    bytes: &'a [u8],
}

impl<'a> Wire<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value: u64 = 0;
        for (i, byte) in self.bytes.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.bytes = &self.bytes[i + 1..];
                return Ok(value);
            }
        }
        Err(if self.bytes.len() < 10 { ended() } else { broken("integer overflow") })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (piece, rest) = self.bytes.split_at_checked(count).ok_or_else(ended)?;
        self.bytes = rest;
        Ok(piece)
    }

    fn next(&mut self) -> Result<Option<(u32, Item<'a>)>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).ok().filter(|tag| *tag > 0).ok_or_else(|| broken("illegal tag 0"))?;
        let item = match key & 7 {
            0 => Item::Varint(self.varint()?),
            1 => Item::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes were taken"))),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| broken("integer overflow"))?;
                Item::Bytes(self.take(length)?)
            }
            5 => Item::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes were taken"))),
            other => return Err(broken(&format!("illegal wireType {other}"))),
        };
        Ok(Some((tag, item)))
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| broken("invalid UTF-8"))
}

fn bytes<'a>(item: Item<'a>, field: &str) -> Result<&'a [u8]> {
    match item {
        Item::Bytes(bytes) => Ok(bytes),
        _ => Err(broken(&format!("wrong wireType for field {field}"))),
    }
}

/// Reads a message's fields into a map; flattened structs go into the same map.
fn message(raw: &[u8], ty: &'static Type, map: &mut Map<String, Value>, depth: u32) -> Result<()> {
    if depth > json::MAX_DEPTH {
        return Err(broken("exceeded max depth"));
    }
    let mut reader = Wire { bytes: raw };
    while let Some((tag, item)) = reader.next()? {
        if let Some((inline, inner)) = ty.inline
            && inline == tag
        {
            message(bytes(item, inner.name)?, inner, map, depth + 1)?;
            continue;
        }
        let Some(field) = ty.fields.iter().find(|f| f.tag == tag) else { continue };
        if field.disabled() {
            continue;
        }
        if field.name == "verbs" && ty.short_name() == "APIResource" {
            // The one list outside of maps that is a message of its own on the wire.
            let mut verbs = Wire { bytes: bytes(item, field.name)? };
            while let Some((_, item)) = verbs.next()? {
                set(map, field, item, depth + 1)?;
            }
            continue;
        }
        set(map, field, item, depth + 1)?;
    }
    Ok(())
}

fn set(map: &mut Map<String, Value>, field: &'static Field, item: Item<'_>, depth: u32) -> Result<()> {
    match field.kind {
        Kind::List(inner) => {
            let slot = map.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = slot else { return Err(broken("a list was expected")) };
            element(list, *inner, item, field.name, depth)
        }
        Kind::Map(inner) => {
            let (key, value) = entry(bytes(item, field.name)?, *inner, field.name, depth)?;
            let slot = map.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(entries) = slot else { return Err(broken("a map was expected")) };
            entries.insert(key, value);
            Ok(())
        }
        Kind::Object(ty) if ty.shape == Shape::Object => {
            let slot = map.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(inner) = slot else { return Err(broken("a message was expected")) };
            message(bytes(item, field.name)?, ty, inner, depth)
        }
        kind => {
            match single(kind, item, field.name, depth)? {
                Some(value) if !absent(field, &value) => map.insert(field.name.to_owned(), value),
                _ => map.remove(field.name),
            };
            Ok(())
        }
    }
}

/// A list's element, or a packed run of them.
fn element(list: &mut Vec<Value>, inner: Kind, item: Item<'_>, name: &str, depth: u32) -> Result<()> {
    if let (Kind::I32 | Kind::I64 | Kind::Bool, Item::Bytes(packed)) = (inner, item) {
        let mut reader = Wire { bytes: packed };
        while !reader.bytes.is_empty() {
            let item = Item::Varint(reader.varint()?);
            list.extend(single(inner, item, name, depth)?);
        }
        return Ok(());
    }
    list.push(single(inner, item, name, depth)?.unwrap_or_else(|| scalars::zero(inner)));
    Ok(())
}

fn entry(raw: &[u8], inner: Kind, name: &str, depth: u32) -> Result<(String, Value)> {
    let (mut key, mut value) = (String::new(), None);
    let mut reader = Wire { bytes: raw };
    while let Some((tag, item)) = reader.next()? {
        match (tag, inner) {
            (1, _) => key = utf8(bytes(item, name)?)?.to_owned(),
            // A list inside a map is a message of its own on the wire.
            (2, Kind::List(kind)) => {
                let mut items = Vec::new();
                let mut reader = Wire { bytes: bytes(item, name)? };
                while let Some((tag, item)) = reader.next()? {
                    if tag == 1 {
                        element(&mut items, *kind, item, name, depth)?;
                    }
                }
                value = Some(Value::Array(items));
            }
            (2, kind) => value = single(kind, item, name, depth)?,
            _ => {}
        }
    }
    Ok((key, value.unwrap_or_else(|| scalars::zero(inner))))
}

/// A value that is neither list nor map; none where the wire says that it is absent.
fn single(kind: Kind, item: Item<'_>, name: &str, depth: u32) -> Result<Option<Value>> {
    Ok(Some(match (kind, item) {
        (Kind::Str, Item::Bytes(text)) => Value::from(utf8(text)?),
        (Kind::Bytes, Item::Bytes(raw)) => scalars::base64_of(raw),
        (Kind::Bool, Item::Varint(n)) => Value::Bool(n != 0),
        // Negative numbers are sign-extended to 64 bits; the low ones count.
        (Kind::I32, Item::Varint(n)) => Value::from(i32::from_le_bytes(low(n))),
        (Kind::I64, Item::Varint(n)) => Value::from(i64::from_le_bytes(n.to_le_bytes())),
        (Kind::F64, Item::Fixed64(n)) => match scalars::float_value(f64::from_bits(n)) {
            Some(value) => value,
            None => return Ok(None),
        },
        (Kind::F64, Item::Fixed32(n)) => match scalars::float_value(f64::from(f32::from_bits(n))) {
            Some(value) => value,
            None => return Ok(None),
        },
        (Kind::Object(ty), Item::Bytes(raw)) => return object(raw, ty, depth),
        _ => return Err(broken(&format!("wrong wireType for field {name}"))),
    }))
}

fn low(n: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = n.to_le_bytes();
    [a, b, c, d]
}

fn object(raw: &[u8], ty: &'static Type, depth: u32) -> Result<Option<Value>> {
    match ty.shape {
        Shape::Object => {
            let mut map = Map::new();
            message(raw, ty, &mut map, depth + 1)?;
            Ok(Some(Value::Object(map)))
        }
        Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings => schema_or(raw, ty.shape, depth),
        _ => special(raw, ty.shape),
    }
}

/// Messages that stand for a scalar or for any JSON.
fn special(raw: &[u8], shape: Shape) -> Result<Option<Value>> {
    let (mut first, mut second, mut text, mut empty) = (0, 0, None, true);
    let mut reader = Wire { bytes: raw };
    while let Some((tag, item)) = reader.next()? {
        empty = false;
        match (tag, item) {
            (1, Item::Varint(n)) => first = i64::from_le_bytes(n.to_le_bytes()),
            (2, Item::Varint(n)) => second = i32::from_le_bytes(low(n)),
            (1 | 3, Item::Bytes(bytes)) => text = Some(bytes),
            _ => {}
        }
    }
    let failed = DecodeError::Type;
    match shape {
        Shape::Time | Shape::MicroTime => {
            // The zero time is an empty message.
            Ok((!empty).then(|| scalars::wire_time(first, second, shape == Shape::MicroTime)))
        }
        Shape::Quantity => match text {
            Some(text) if !text.is_empty() => scalars::quantity(utf8(text)?).map(Some).map_err(failed),
            _ => Ok(Some(Value::from("0"))),
        },
        Shape::IntOrString if first == 0 => Ok(Some(Value::from(second))),
        Shape::IntOrString => Ok(Some(Value::from(utf8(text.unwrap_or_default())?))),
        _ => match text {
            None | Some([]) => Ok(None),
            Some(inner) if is_protobuf(inner) => decode_protobuf(inner).map(|d| Some(d.value)),
            Some(inner) => super::parse_json(inner).map(Some),
        },
    }
}

/// A schema, or what may stand in its place.
fn schema_or(raw: &[u8], shape: Shape, depth: u32) -> Result<Option<Value>> {
    let schema_tag = if shape == Shape::SchemaOrBool { 2 } else { 1 };
    let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
    let mut reader = Wire { bytes: raw };
    while let Some((tag, item)) = reader.next()? {
        match (tag, item) {
            (tag, Item::Bytes(raw)) if tag == schema_tag => {
                schema = object(raw, super::typed::schema_type(), depth + 1)?
            }
            (2, Item::Bytes(text)) if shape == Shape::SchemaOrStrings => list.push(Value::from(utf8(text)?)),
            (2, Item::Bytes(raw)) => list.extend(object(raw, super::typed::schema_type(), depth + 1)?),
            (1, Item::Varint(n)) => allows = n != 0,
            _ => {}
        }
    }
    Ok(Some(match (schema, shape) {
        (Some(schema), _) => schema,
        (None, Shape::SchemaOrBool) => Value::Bool(allows),
        (None, _) => Value::Array(list),
    }))
}

#[cfg(test)]
mod tests;
