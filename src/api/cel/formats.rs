//! Named forms of texts, and texts that are made by a pattern with verbs.

use super::conversions::{show, text};
use super::eval::{EvalError, Meter};
use super::opaque::Opaque;
use super::value::Value;
use super::{times, urls};
use crate::meta::names;
use crate::status::quote;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

type Result<T> = std::result::Result<T, EvalError>;
/// What is wrong with a text.
type Check = fn(&str) -> Vec<String>;

/// The forms by name. A name's prefix may end with a dash, since something follows.
const FORMATS: [(&str, Check); 13] = [
    ("dns1123Label", names::dns_label),
    ("dns1123Subdomain", names::dns_subdomain),
    ("dns1035Label", names::dns_1035_label),
    ("qualifiedName", names::qualified_name),
    ("dns1123LabelPrefix", |text| names::dns_label(&names::as_prefix(text))),
    ("dns1123SubdomainPrefix", |text| names::dns_subdomain(&names::as_prefix(text))),
    ("dns1035LabelPrefix", |text| names::dns_1035_label(&names::as_prefix(text))),
    ("labelValue", names::label_value),
    ("uri", |text| urls::parse(text).err().into_iter().collect()),
    ("uuid", |text| complain(is_uuid(text), "does not match the UUID format")),
    ("byte", |text| complain(!text.is_empty() && STANDARD.decode(text).is_ok(), "invalid base64")),
    ("date", |text| complain(text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10, "invalid date")),
    ("datetime", |text| complain(text.parse::<jiff::Timestamp>().is_ok(), "invalid datetime")),
];

fn complain(good: bool, why: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![why.to_owned()] }
}

/// Hexadecimal digits in groups of 8, 4, 4, 4 and 12; the dashes may be missing.
fn is_uuid(text: &str) -> bool {
    let mut rest = text;
    for (index, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        if !rest.as_bytes().get(..length).is_some_and(|group| group.iter().all(u8::is_ascii_hexdigit)) {
            return false;
        }
        rest = &rest[length..];
    }
    rest.is_empty()
}

fn find<'a>(name: &str) -> Option<Value<'a>> {
    let at = FORMATS.iter().position(|(known, _)| *known == name)?;
    Some(Value::opaque(Opaque::Format(at)))
}

pub(super) fn named<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(find(text(arguments, 0)?).map_or(Value::Optional(None), Value::some))
}

macro_rules! constant {
    ($($function:ident = $name:literal),*) => {
        $(pub(super) fn $function<'a>(_: &mut Meter, _: &[Value<'a>]) -> Result<Value<'a>> {
            find($name).ok_or(EvalError::Overload)
        })*
    };
}

constant!(
    dns1123_label = "dns1123Label",
    dns1123_subdomain = "dns1123Subdomain",
    dns1035_label = "dns1035Label",
    qualified_name = "qualifiedName",
    dns1123_label_prefix = "dns1123LabelPrefix",
    dns1123_subdomain_prefix = "dns1123SubdomainPrefix",
    dns1035_label_prefix = "dns1035LabelPrefix",
    label_value = "labelValue",
    uri = "uri",
    uuid = "uuid",
    byte = "byte",
    date = "date",
    datetime = "datetime"
);

/// What is wrong with a text; nothing when it has the form.
pub(super) fn validate<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let Some(Value::Opaque(format)) = arguments.first() else { return Err(EvalError::Overload) };
    let Opaque::Format(at) = **format else { return Err(EvalError::Overload) };
    let raw = text(arguments, 1)?;
    meter.spend((raw.len() as u64 + 1).div_ceil(10) * 15)?;
    let (_, check) = FORMATS.get(at).ok_or(EvalError::Overload)?;
    let wrong = check(raw);
    if wrong.is_empty() {
        return Ok(Value::Optional(None));
    }
    Ok(Value::some(Value::list(wrong.into_iter().map(Value::text).collect())))
}

pub(super) fn quoted<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let raw = text(arguments, 0)?;
    meter.traverse(raw.len())?;
    Ok(Value::text(quote(raw)))
}

/// Digits after the point unless the verb says how many.
const PRECISION: usize = 6;
/// More are not given.
const MAX_PRECISION: usize = 1000;

/// `pattern.format(list)`: `%s`, `%d`, `%f`, `%e`, `%b`, `%x`, `%X`, `%o`, `%%`.
pub(super) fn format<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let pattern = text(arguments, 0)?;
    meter.traverse(pattern.len())?;
    let given = arguments.get(1).and_then(Value::elements).ok_or(EvalError::Overload)?;
    let (mut out, mut used, mut rest) = (String::new(), 0, pattern.as_ref());
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (precision, after) = precision(after)?;
        let verb = after.chars().next().ok_or_else(|| EvalError::failed("unexpected end of string"))?;
        rest = &after[verb.len_utf8()..];
        let value = given.get(used).ok_or_else(|| EvalError::failed(format!("index {used} out of range")))?;
        used += 1;
        let shown = verb_of(verb, value, precision)?;
        meter.traverse(shown.len())?;
        out.push_str(&shown);
    }
    if used < given.len() {
        let (expected, got) = (used, given.len());
        let why = format!("too many arguments supplied to string.format (expected {expected}, got {got})");
        return Err(EvalError::failed(why));
    }
    out.push_str(rest);
    Ok(Value::text(out))
}

fn precision(after: &str) -> Result<(usize, &str)> {
    let Some(digits) = after.strip_prefix('.') else { return Ok((PRECISION, after)) };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let precision = digits[..end].parse().ok().filter(|precision| *precision <= MAX_PRECISION);
    let wrong = || EvalError::failed(format!("error while parsing precision: {}", quote(&digits[..end])));
    Ok((precision.ok_or_else(wrong)?, &digits[end..]))
}

fn verb_of(verb: char, value: &Value<'_>, precision: usize) -> Result<String> {
    let wrong = |what: &str| {
        EvalError::failed(format!(
            "error during formatting: {what} clause can only be used on {}, was given {}",
            takes(verb),
            value.type_name()
        ))
    };
    Ok(match (verb, value) {
        ('s', value) => plain(value).ok_or(EvalError::Overload)?,
        ('d', Value::Int(number)) => number.to_string(),
        ('d', Value::Uint(number)) => number.to_string(),
        ('d', _) => return Err(wrong("decimal")),
        ('f' | 'e', value) => {
            let number = match value {
                Value::Double(number) => *number,
                #[allow(clippy::cast_precision_loss, reason = "shown as a fraction")]
                Value::Int(number) => *number as f64,
                #[allow(clippy::cast_precision_loss, reason = "shown as a fraction")]
                Value::Uint(number) => *number as f64,
                _ => return Err(wrong(if verb == 'f' { "fixed-point" } else { "scientific" })),
            };
            if verb == 'f' { fixed(number, precision) } else { scientific(number, precision) }
        }
        ('b', Value::Bool(value)) => u8::from(*value).to_string(),
        ('b', value) => in_base(value, |n| format!("{n:b}")).ok_or_else(|| wrong("binary"))?,
        ('o', value) => in_base(value, |n| format!("{n:o}")).ok_or_else(|| wrong("octal"))?,
        ('x' | 'X', value) => {
            let of_bytes = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let shown = match value {
                Value::String(text) => of_bytes(text.as_bytes()),
                Value::Bytes(bytes) => of_bytes(bytes),
                value => in_base(value, |n| format!("{n:x}")).ok_or_else(|| wrong("hex"))?,
            };
            if verb == 'X' { shown.to_uppercase() } else { shown }
        }
        _ => {
            let why = format!("could not parse formatting clause: unrecognized formatting clause \"{verb}\"");
            return Err(EvalError::failed(why));
        }
    })
}

fn takes(verb: char) -> &'static str {
    match verb {
        'd' | 'o' => "integers",
        'b' => "integers and bools",
        'x' | 'X' => "integers, byte buffers, and strings",
        _ => "doubles",
    }
}

fn in_base(value: &Value<'_>, show: impl Fn(u64) -> String) -> Option<String> {
    match value {
        Value::Int(number) => {
            let sign = if *number < 0 { "-" } else { "" };
            Some(format!("{sign}{}", show(number.unsigned_abs())))
        }
        Value::Uint(number) => Some(show(*number)),
        _ => None,
    }
}

fn special(number: f64) -> Option<&'static str> {
    match number {
        _ if number.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

fn fixed(number: f64, precision: usize) -> String {
    special(number).map_or_else(|| format!("{number:.precision$}"), str::to_owned)
}

/// With an exponent of two digits at least and its sign.
fn scientific(number: f64, precision: usize) -> String {
    if let Some(text) = special(number) {
        return text.to_owned();
    }
    let shown = format!("{number:.precision$e}");
    let (mantissa, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// A value under `%s`.
fn plain(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::Null => "null".to_owned(),
        Value::Type(name) => (*name).to_owned(),
        Value::Double(number) if special(*number).is_some() => fixed(*number, 0),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        value => match (value.elements(), value.keys()) {
            (Some(elements), _) => {
                let inner: Option<Vec<String>> = elements.iter().map(inner).collect();
                format!("[{}]", inner?.join(", "))
            }
            (_, Some(keys)) => {
                let entry = |key: &Value<'_>| Some(format!("{}:{}", inner(key)?, inner(&value.at(key)?)?));
                let mut entries: Vec<String> = keys.iter().map(entry).collect::<Option<_>>()?;
                entries.sort();
                format!("{{{}}}", entries.join(", "))
            }
            _ => show(value)?,
        },
    })
}

/// A value within another one is shown as it would be written.
fn inner(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::String(text) => quote(text),
        Value::Bytes(bytes) => format!("b{}", quote(&String::from_utf8_lossy(bytes))),
        Value::Double(number) => fixed(*number, PRECISION),
        Value::Timestamp(time) => format!("timestamp({})", quote(&time.to_string())),
        Value::Duration(length) => format!("duration({})", quote(&times::seconds_text(*length))),
        value => plain(value)?,
    })
}
