//! Functions of points and lengths of time.

use super::conversions::text;
use super::eval::{EvalError, Meter};
use super::value::Value;
use crate::batch::schedule::Zone;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

type Result<T> = std::result::Result<T, EvalError>;

/// As conversions to text have it: seconds.
pub(super) fn seconds_text(length: SignedDuration) -> String {
    let fraction = format!("{:09}", length.subsec_nanos().unsigned_abs());
    let fraction = fraction.trim_end_matches('0');
    let sign = if length.is_negative() { "-" } else { "" };
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{dot}{fraction}s", length.as_secs().unsigned_abs())
}

pub(super) fn duration<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    match arguments {
        [Value::Duration(length)] => Ok(Value::Duration(*length)),
        [Value::Int(nanoseconds)] => Ok(Value::Duration(SignedDuration::from_nanos(*nanoseconds))),
        [Value::String(text)] => {
            let nanos = crate::meta::duration::parse_nanos(text).map_err(EvalError::failed)?;
            Ok(Value::Duration(SignedDuration::from_nanos(nanos)))
        }
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn timestamp<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let found = match arguments {
        [Value::Timestamp(time)] => return Ok(Value::Timestamp(*time)),
        [Value::Int(seconds)] => Timestamp::from_second(*seconds),
        [Value::String(text)] => text.parse(),
        _ => return Err(EvalError::Overload),
    };
    found.map(Value::Timestamp).map_err(|error| EvalError::failed(format!("invalid timestamp: {error}")))
}

/// The zone that a second argument names: `UTC`, `Europe/Berlin`, `+02:00`.
fn zone(arguments: &[Value<'_>]) -> Result<TimeZone> {
    if arguments.len() < 2 {
        return Ok(TimeZone::UTC);
    }
    let name = text(arguments, 1)?.as_ref();
    let wrong = || EvalError::failed(format!("unknown time zone {name}"));
    let (sign, rest) = match name.split_at_checked(1) {
        Some(("-", rest)) => (-1, rest),
        Some(("+", rest)) => (1, rest),
        _ => (1, name),
    };
    let Some((hours, minutes)) = rest.split_once(':') else {
        return Zone::find(name).map(Zone::into_inner).ok_or_else(wrong);
    };
    let number = |text: &str| text.parse::<i32>().ok().filter(|number| (0..60).contains(number)).ok_or_else(wrong);
    let seconds = sign * (number(hours)? * 3600 + number(minutes)? * 60);
    Offset::from_seconds(seconds).map(TimeZone::fixed).map_err(|_| wrong())
}

/// A part of a date, or of a length where those have it.
fn part<'a>(
    arguments: &[Value<'a>],
    of_time: fn(&Zoned) -> i64,
    of_length: Option<fn(&SignedDuration) -> i64>,
) -> Result<Value<'a>> {
    match (arguments.first(), of_length) {
        (Some(Value::Timestamp(time)), _) => Ok(Value::Int(of_time(&time.to_zoned(zone(arguments)?)))),
        (Some(Value::Duration(length)), Some(of_length)) => Ok(Value::Int(of_length(length))),
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn full_year<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    part(arguments, |time| time.year().into(), None)
}

pub(super) fn month<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    part(arguments, |time| i64::from(time.month()) - 1, None)
}

pub(super) fn date<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    part(arguments, |time| time.day().into(), None)
}

pub(super) fn day_of_month<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    part(arguments, |time| i64::from(time.day()) - 1, None)
}

pub(super) fn day_of_week<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    part(arguments, |time| time.weekday().to_sunday_zero_offset().into(), None)
}

pub(super) fn day_of_year<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    part(arguments, |time| i64::from(time.day_of_year()) - 1, None)
}

pub(super) fn hours<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    part(arguments, |time| time.hour().into(), Some(SignedDuration::as_hours))
}

pub(super) fn minutes<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    part(arguments, |time| time.minute().into(), Some(SignedDuration::as_mins))
}

pub(super) fn seconds<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    part(arguments, |time| time.second().into(), Some(SignedDuration::as_secs))
}

pub(super) fn milliseconds<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    part(arguments, |time| time.millisecond().into(), Some(|length| length.subsec_millis().into()))
}
