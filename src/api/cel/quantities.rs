//! Amounts of resources, and what compares them (and versions).

use super::conversions::text;
use super::eval::{EvalError, Meter};
use super::opaque::Opaque;
use super::value::Value;
use crate::quantity::Quantity;
use std::cmp::Ordering;

type Result<T> = std::result::Result<T, EvalError>;

fn an_opaque<'v>(arguments: &'v [Value<'_>], index: usize) -> Result<&'v Opaque> {
    match arguments.get(index) {
        Some(Value::Opaque(found)) => Ok(found),
        _ => Err(EvalError::Overload),
    }
}

fn amount(arguments: &[Value<'_>], index: usize) -> Result<Quantity> {
    match arguments.get(index) {
        Some(Value::Int(number)) if index > 0 => Ok(Quantity::from_value(*number)),
        _ => match an_opaque(arguments, index)? {
            Opaque::Quantity(quantity) => Ok(*quantity),
            _ => Err(EvalError::Overload),
        },
    }
}

pub(super) fn quantity<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let raw = text(arguments, 0)?;
    meter.traverse(raw.len())?;
    let quantity = Quantity::parse(raw).map_err(|error| EvalError::failed(error.to_string()))?;
    Ok(Value::opaque(Opaque::Quantity(quantity)))
}

pub(super) fn is_quantity<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let raw = text(arguments, 0)?;
    meter.traverse(raw.len())?;
    Ok(Value::Bool(Quantity::parse(raw).is_ok()))
}

pub(super) fn sign<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Int(amount(arguments, 0)?.cmp(&Quantity::ZERO) as i64))
}

pub(super) fn is_integer<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(amount(arguments, 0)?.is_integer()))
}

pub(super) fn as_integer<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let amount = amount(arguments, 0)?;
    if !amount.is_integer() {
        return Err(EvalError::failed("cannot convert value to integer"));
    }
    Ok(Value::Int(amount.value()))
}

pub(super) fn as_float<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Double(amount(arguments, 0)?.ratio(Quantity::from_value(1))))
}

pub(super) fn add<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::opaque(Opaque::Quantity(amount(arguments, 0)? + amount(arguments, 1)?)))
}

pub(super) fn sub<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::opaque(Opaque::Quantity(amount(arguments, 0)? - amount(arguments, 1)?)))
}

fn compared(arguments: &[Value<'_>]) -> Result<Ordering> {
    an_opaque(arguments, 0)?.compare(an_opaque(arguments, 1)?).ok_or(EvalError::Overload)
}

pub(super) fn is_greater<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(compared(arguments)?.is_gt()))
}

pub(super) fn is_less<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(compared(arguments)?.is_lt()))
}

pub(super) fn compare<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Int(compared(arguments)? as i64))
}
