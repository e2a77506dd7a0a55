//! Operators on numbers, text and times, and conversions between types.

use super::eval::{EvalError, Meter};
use super::times;
use super::value::Value;
use std::borrow::Cow;
use std::cmp::Ordering;

type Result<T> = std::result::Result<T, EvalError>;

/// Lengths of text and lists that are made by adding.
fn spend_both(meter: &mut Meter, a: usize, b: usize) -> Result<()> {
    meter.traverse(a.saturating_add(b))
}

fn overflow() -> EvalError {
    EvalError::failed("return error for overflow")
}

fn compared(meter: &mut Meter, arguments: &[Value<'_>]) -> Result<Option<Ordering>> {
    let [a, b] = arguments else { return Err(EvalError::Overload) };
    if let (Value::String(a), Value::String(b)) = (a, b) {
        meter.traverse(a.len().min(b.len()))?;
    }
    let found = a.compare(b);
    // What is no number is in no order; everything else that has none cannot be compared.
    match (a, b, found) {
        (Value::Double(_), _, None) | (_, Value::Double(_), None) if a.type_name() != "string" => Ok(None),
        (_, _, None) => Err(EvalError::Overload),
        (_, _, found) => Ok(found),
    }
}

pub(super) fn less<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(compared(meter, arguments)?.is_some_and(Ordering::is_lt)))
}

pub(super) fn less_or_equal<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(compared(meter, arguments)?.is_some_and(Ordering::is_le)))
}

pub(super) fn greater<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(compared(meter, arguments)?.is_some_and(Ordering::is_gt)))
}

pub(super) fn greater_or_equal<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(compared(meter, arguments)?.is_some_and(Ordering::is_ge)))
}

pub(super) fn add<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let [a, b] = arguments else { return Err(EvalError::Overload) };
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(*b).ok_or_else(overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
        (Value::String(a), Value::String(b)) => {
            spend_both(meter, a.len(), b.len())?;
            Value::text(format!("{a}{b}"))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            spend_both(meter, a.len(), b.len())?;
            Value::Bytes([&**a, &**b].concat().into())
        }
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_add(*b).ok_or_else(overflow)?),
        (Value::Timestamp(time), Value::Duration(length)) | (Value::Duration(length), Value::Timestamp(time)) => {
            Value::Timestamp(time.checked_add(*length).map_err(|_| overflow())?)
        }
        _ => {
            let (Some(mut all), Some(more)) = (a.elements(), b.elements()) else { return Err(EvalError::Overload) };
            spend_both(meter, all.len(), more.len())?;
            all.extend(more);
            Value::list(all)
        }
    })
}

pub(super) fn subtract<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(match arguments {
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_sub(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a.checked_sub(*b).ok_or_else(overflow)?),
        [Value::Double(a), Value::Double(b)] => Value::Double(a - b),
        [Value::Duration(a), Value::Duration(b)] => Value::Duration(a.checked_sub(*b).ok_or_else(overflow)?),
        [Value::Timestamp(a), Value::Timestamp(b)] => Value::Duration(a.duration_since(*b)),
        [Value::Timestamp(time), Value::Duration(length)] => {
            Value::Timestamp(time.checked_sub(*length).map_err(|_| overflow())?)
        }
        _ => return Err(EvalError::Overload),
    })
}

pub(super) fn multiply<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(match arguments {
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_mul(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a.checked_mul(*b).ok_or_else(overflow)?),
        [Value::Double(a), Value::Double(b)] => Value::Double(a * b),
        _ => return Err(EvalError::Overload),
    })
}

pub(super) fn divide<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let by_zero = || EvalError::failed("division by zero");
    Ok(match arguments {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => return Err(by_zero()),
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_div(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a / b),
        [Value::Double(a), Value::Double(b)] => Value::Double(a / b),
        _ => return Err(EvalError::Overload),
    })
}

pub(super) fn remainder<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(match arguments {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            return Err(EvalError::failed("modulus by zero"));
        }
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_rem(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a % b),
        _ => return Err(EvalError::Overload),
    })
}

pub(super) fn not<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    match arguments {
        [Value::Bool(value)] => Ok(Value::Bool(!value)),
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn negate<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    match arguments {
        [Value::Int(value)] => Ok(Value::Int(value.checked_neg().ok_or_else(overflow)?)),
        [Value::Double(value)] => Ok(Value::Double(-value)),
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn kind<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    arguments.first().map(|value| Value::Type(value.type_name())).ok_or(EvalError::Overload)
}

pub(super) fn itself<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    arguments.first().cloned().ok_or(EvalError::Overload)
}

fn range(kind: &str) -> EvalError {
    EvalError::failed(format!("{kind} overflow"))
}

#[allow(clippy::cast_possible_truncation, reason = "looked at before")]
pub(super) fn int<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Int(match arguments {
        [Value::Int(value)] => *value,
        [Value::Uint(value)] => i64::try_from(*value).map_err(|_| range("integer"))?,
        [Value::Double(value)] if value.abs() < 9.2e18 => *value as i64,
        [Value::Double(_)] => return Err(range("integer")),
        [Value::String(text)] => text.parse().map_err(|_| failed("int", text))?,
        [Value::Timestamp(time)] => time.as_second(),
        [Value::Duration(length)] => length.as_secs(),
        _ => return Err(EvalError::Overload),
    }))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "looked at before")]
pub(super) fn uint<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Uint(match arguments {
        [Value::Uint(value)] => *value,
        [Value::Int(value)] => u64::try_from(*value).map_err(|_| range("unsigned integer"))?,
        [Value::Double(value)] if (0.0..1.8e19).contains(value) => *value as u64,
        [Value::Double(_)] => return Err(range("unsigned integer")),
        [Value::String(text)] => text.parse().map_err(|_| failed("uint", text))?,
        _ => return Err(EvalError::Overload),
    }))
}

#[allow(clippy::cast_precision_loss, reason = "that is what the conversion means")]
pub(super) fn double<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Double(match arguments {
        [Value::Double(value)] => *value,
        [Value::Int(value)] => *value as f64,
        [Value::Uint(value)] => *value as f64,
        [Value::String(text)] => text.parse().map_err(|_| failed("double", text))?,
        _ => return Err(EvalError::Overload),
    }))
}

fn failed(to: &str, text: &str) -> EvalError {
    EvalError::failed(format!("type conversion error from string to {to}: {text:?}"))
}

pub(super) fn boolean<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(match arguments {
        [Value::Bool(value)] => *value,
        [Value::String(text)] => match text.as_ref() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err(failed("bool", text)),
        },
        _ => return Err(EvalError::Overload),
    }))
}

pub(super) fn bytes<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    match arguments {
        [Value::Bytes(bytes)] => Ok(Value::Bytes(bytes.clone())),
        [Value::String(text)] => {
            meter.traverse(text.len())?;
            Ok(Value::Bytes(text.as_bytes().into()))
        }
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn string<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let [value] = arguments else { return Err(EvalError::Overload) };
    match value {
        Value::String(text) => Ok(Value::String(text.clone())),
        Value::Bytes(bytes) => {
            meter.traverse(bytes.len())?;
            let text = std::str::from_utf8(bytes);
            text.map(Value::text).map_err(|_| EvalError::failed("invalid UTF-8 in bytes, cannot convert to string"))
        }
        other => show(other).map(Value::text).ok_or(EvalError::Overload),
    }
}

/// As text; `None` where there is no such conversion.
pub(super) fn show(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::String(text) => text.clone().into_owned(),
        Value::Timestamp(time) => time.to_string(),
        Value::Duration(length) => times::seconds_text(*length),
        Value::Opaque(value) => return value.show(),
        _ => return None,
    })
}

/// An argument that is text.
pub(super) fn text<'v, 'a>(arguments: &'v [Value<'a>], index: usize) -> Result<&'v Cow<'a, str>> {
    match arguments.get(index) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(EvalError::Overload),
    }
}

/// An argument that is a whole number.
pub(super) fn whole(arguments: &[Value<'_>], index: usize) -> Result<i64> {
    match arguments.get(index) {
        Some(Value::Int(number)) => Ok(*number),
        _ => Err(EvalError::Overload),
    }
}
