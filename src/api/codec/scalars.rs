//! Scalars with a form of their own: quantities, times, base64, floats. Shared by JSON and protobuf.

use crate::facts::{Kind, Shape};
use crate::meta::time::{self, Timestamp};
use crate::quantity::Quantity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

/// What a client reads when a quantity does not parse.
pub(super) const QUANTITY_PATTERN: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// The zero value of a kind, which a null inside a list or map stands for.
pub(super) fn zero(kind: Kind) -> Value {
    match kind {
        Kind::Str | Kind::Bytes => Value::String(String::new()),
        Kind::I32 | Kind::I64 | Kind::F64 => Value::from(0),
        Kind::Bool => Value::Bool(false),
        Kind::Object(ty) => match ty.shape {
            Shape::Quantity => Value::from("0"),
            Shape::IntOrString => Value::from(0),
            Shape::Object => Value::Object(Map::new()),
            _ => Value::Null,
        },
        Kind::List(_) => Value::Array(Vec::new()),
        Kind::Map(_) => Value::Object(Map::new()),
    }
}

/// A quantity in its canonical form.
pub(super) fn quantity(text: &str) -> Result<Value, String> {
    Quantity::parse(text).map(|q| Value::String(q.to_string())).map_err(|e| e.to_string())
}

/// A time stamp in seconds, in UTC.
pub(super) fn time(text: &str) -> Result<Value, String> {
    time::parse(text, time::Precision::Seconds).map(|t| Value::String(t.to_seconds())).map_err(|e| e.to_string())
}

/// A time stamp in microseconds, in UTC.
pub(super) fn micro_time(text: &str) -> Result<Value, String> {
    time::parse(text, time::Precision::Micros).map(|t| Value::String(t.to_micros())).map_err(|e| e.to_string())
}

/// A time stamp from the wire.
pub(super) fn wire_time(seconds: i64, nanos: i32, micros: bool) -> Value {
    let stamp = Timestamp { seconds, nanos: u32::try_from(nanos).unwrap_or(0) };
    Value::String(if micros { stamp.to_micros() } else { stamp.to_seconds() })
}

/// Checked base64 text without line breaks.
pub(super) fn base64_text(text: &str) -> Result<String, String> {
    let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match STANDARD.decode(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len() / 4 * 4,
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

/// Bytes as base64 text.
pub(super) fn base64_of(bytes: &[u8]) -> Value {
    Value::String(STANDARD.encode(bytes))
}

/// The bytes of base64 text.
pub(super) fn bytes_of(text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|error| error.to_string())
}

/// A float; whole ones are kept as integers, which is how they are written.
pub(super) fn float(text: &str) -> Option<Value> {
    float_value(text.parse::<f64>().ok()?)
}

/// See [`float`].
pub(super) fn float_value(number: f64) -> Option<Value> {
    if number.fract() == 0.0 && number.abs() < 9e15 {
        #[allow(clippy::cast_possible_truncation, reason = "whole and within 53 bits")]
        return Some(Value::from(number as i64));
    }
    Number::from_f64(number).map(Value::Number)
}
