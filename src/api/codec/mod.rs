//! Bytes to objects and back: JSON, YAML and protobuf against the facts, and the canonical form.

mod defaults;
mod json;
mod protobuf;
mod scalars;
mod typed;
mod yaml;
mod yaml_writer;

pub use defaults::apply_constant_defaults;
pub use protobuf::encode::{EncodeError, encode_protobuf, encode_watch_frame};
pub use protobuf::{Envelope, decode_message, decode_protobuf, is_protobuf, open_envelope};
pub use yaml::{decode_yaml, parse_yaml, yaml_to_json};
pub use yaml_writer::to_yaml;

use crate::facts::Type;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// A decoded object.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object: unknown fields, nulls and zero values that mean absence are gone.
    pub value: Value,
    /// What strict decoding objects to, in the order found: `unknown field "spec.foo"`.
    pub strict: Vec<String>,
}

impl Decoded {
    /// The message of strict decoding, if it objects.
    pub fn strict_error(&self) -> Option<String> {
        (!self.strict.is_empty()).then(|| format!("strict decoding error: {}", self.strict.join(", ")))
    }
}

/// Why a body could not be decoded. The text is the one that clients of Kubernetes know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("couldn't get version/kind; json parse error: {0}")]
    Syntax(String),
    /// Not YAML; the text has line and column.
    #[error("error converting YAML to JSON: yaml: {0}")]
    Yaml(String),
    /// A value of the wrong type.
    #[error("{0}")]
    Type(String),
    /// Not protobuf, or not as the facts have it.
    #[error("{0}")]
    Protobuf(String),
    /// No type of that group, version and kind.
    #[error(
        "no kind \"{kind}\" is registered for version \"{version}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    )]
    UnknownKind {
        /// Group and version, as in `apiVersion`.
        version: String,
        /// Kind.
        kind: String,
    },
}

impl DecodeError {
    /// The message of the 400 answer: `Pod in version "v1" cannot be handled as a Pod: ...`.
    /// `given` is the body's kind and version where it could be read, else the route's. A body that cannot be
    /// read at all has none, whatever the caller knows.
    pub fn bad_request(&self, given: Option<(&str, &str)>, expected_kind: &str, body: &[u8]) -> String {
        let readable = match self {
            DecodeError::Syntax(_) | DecodeError::Yaml(_) => false,
            DecodeError::Protobuf(_) => open_envelope(body).is_ok(),
            DecodeError::Type(_) | DecodeError::UnknownKind { .. } => true,
        };
        match given.filter(|_| readable) {
            Some((kind, version)) if !kind.is_empty() => {
                cannot_be_handled(kind, version, expected_kind, &self.to_string())
            }
            _ => format!(
                "the object provided is unrecognized (must be of type {expected_kind}): {self} ({})",
                summary(body, 30)
            ),
        }
    }
}

/// `Pod in version "v1" cannot be handled as a Pod: ...`; also what strict decoding errors are wrapped in.
pub fn cannot_be_handled(kind: &str, version: &str, expected_kind: &str, error: &str) -> String {
    format!("{kind} in version {version:?} cannot be handled as a {expected_kind}: {error}")
}

fn summary(body: &[u8], max: usize) -> String {
    let (piece, more) = if body.len() > max { (&body[..max], " ...") } else { (body, "") };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(piece)),
        Some(_) => piece.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")) + more,
    }
}

/// Decodes a JSON body as an object of the type.
pub fn decode_json(body: &[u8], ty: &'static Type) -> Result<Decoded, DecodeError> {
    let text = match std::str::from_utf8(body) {
        Ok(text) => Cow::Borrowed(text),
        // Invalid UTF-8 becomes replacement characters, as upstream does it.
        Err(_) => String::from_utf8_lossy(body),
    };
    typed::decode(&text, ty)
}

/// Checks a tree (for instance a patched object) against the type.
pub fn decode_value(value: &Value, ty: &'static Type) -> Result<Decoded, DecodeError> {
    let text = serde_json::to_string(value).map_err(|e| DecodeError::Syntax(e.to_string()))?;
    typed::decode(&text, ty)
}

/// Parses any JSON document untyped (patch bodies, custom objects), with the same syntax errors.
pub fn parse_json(body: &[u8]) -> Result<Value, DecodeError> {
    let text = String::from_utf8_lossy(body);
    let mut reader = json::Reader::new(&text);
    let value = reader.any().and_then(|v| reader.end().map(|()| v));
    value.map_err(|json::Syntax(text)| DecodeError::Syntax(text))
}

/// The text of a JSON object's `metadata`, without reading anything else into memory.
pub fn metadata_text(object: &[u8]) -> Option<&str> {
    let mut found = None;
    let text = std::str::from_utf8(object).ok()?;
    // What follows the metadata is not read; the error that ends the reading says nothing.
    let _ = json::Reader::new(text).object(|reader, name| {
        if name != "metadata" {
            return reader.skip();
        }
        found = Some(reader.raw()?);
        Err(json::Syntax(String::new()))
    });
    found
}

/// Parses any JSON document untyped and reports duplicate fields, as strict decoding of a patch needs it.
pub fn parse_json_strict(body: &[u8]) -> Result<Decoded, DecodeError> {
    let text = String::from_utf8_lossy(body);
    typed::decode_untyped(&text)
}

/// A quantity as the server writes it; `None` for what is none.
pub(crate) fn canonical_quantity(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) => scalars::quantity(text).ok(),
        Value::Number(number) => scalars::quantity(&number.to_string()).ok(),
        _ => None,
    }
}

/// A time stamp, in seconds or in microseconds, as the server writes it; `None` for what is none.
pub(crate) fn canonical_time(value: &Value, micros: bool) -> Option<Value> {
    let text = value.as_str()?;
    if micros { scalars::micro_time(text).ok() } else { scalars::time(text).ok() }
}

/// Compact JSON with `kind`, `apiVersion` and `metadata` first, in that order, and the rest sorted.
pub fn canonical(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let Value::Object(map) = value else {
        write(&mut out, value);
        return out;
    };
    const FIRST: [&str; 3] = ["kind", "apiVersion", "metadata"];
    out.push(b'{');
    let first = FIRST.iter().filter_map(|name| map.get_key_value(*name));
    let rest = sorted(map).into_iter().filter(|(key, _)| !FIRST.contains(&key.as_str()));
    for (i, (key, value)) in first.chain(rest).enumerate() {
        member(&mut out, i, key, value);
    }
    out.push(b'}');
    out
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut members: Vec<_> = map.iter().collect();
    // A map may keep insertion order when a dependency turns that on; sorting what is sorted is cheap.
    members.sort_by(|a, b| a.0.cmp(b.0));
    members
}

fn member(out: &mut Vec<u8>, index: usize, key: &str, value: &Value) {
    if index > 0 {
        out.push(b',');
    }
    leaf(out, key);
    out.push(b':');
    write(out, value);
}

fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Object(map) => {
            out.push(b'{');
            for (i, (key, value)) in sorted(map).into_iter().enumerate() {
                member(out, i, key, value);
            }
            out.push(b'}');
        }
        Value::Array(list) => {
            out.push(b'[');
            for (i, value) in list.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(out, value);
            }
            out.push(b']');
        }
        scalar => leaf(out, scalar),
    }
}

fn leaf<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("strings and scalars always serialize into memory");
}

#[cfg(test)]
mod every_field;
#[cfg(test)]
mod tests;
