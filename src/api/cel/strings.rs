//! Functions of text. Places are counted in characters.

use super::conversions::{text, whole};
use super::eval::{EvalError, Meter};
use super::lists;
use super::value::Value;
use regex::Regex;
use std::borrow::Cow;

type Result<T> = std::result::Result<T, EvalError>;

/// What making a pattern's automaton costs for each of its characters.
const MAKING: u64 = 100;
/// Largest automaton that an expression may need.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// Two texts that are looked through together.
fn pair<'v>(meter: &mut Meter, arguments: &'v [Value<'_>]) -> Result<(&'v str, &'v str)> {
    let (within, part) = (text(arguments, 0)?, text(arguments, 1)?);
    meter.traverse(within.len())?;
    Ok((within, part))
}

pub(super) fn contains<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let (within, part) = pair(meter, arguments)?;
    Ok(Value::Bool(within.contains(part)))
}

pub(super) fn starts_with<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    meter.traverse(text(arguments, 1)?.len())?;
    Ok(Value::Bool(text(arguments, 0)?.starts_with(text(arguments, 1)?.as_ref())))
}

pub(super) fn ends_with<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    meter.traverse(text(arguments, 1)?.len())?;
    Ok(Value::Bool(text(arguments, 0)?.ends_with(text(arguments, 1)?.as_ref())))
}

/// Compiles a pattern.
pub(super) fn pattern(text: &str) -> std::result::Result<Regex, regex::Error> {
    regex::RegexBuilder::new(text).size_limit(MAX_REGEX_BYTES).build()
}

/// The pattern of a call: one that was compiled with the program, or one that is made now.
fn regex<'v>(meter: &mut Meter, arguments: &'v [Value<'_>]) -> Result<Cow<'v, Regex>> {
    let within = text(arguments, 0)?;
    let spend = |meter: &mut Meter, length: usize| {
        meter.spend((within.len() as u64 + 1).div_ceil(10) * (length as u64).div_ceil(4).max(1))
    };
    if let Some(Value::Pattern(compiled)) = arguments.get(1) {
        spend(meter, compiled.as_str().len())?;
        return Ok(Cow::Borrowed(compiled));
    }
    let source = text(arguments, 1)?;
    spend(meter, source.len())?;
    // Making the automaton costs much more than its steps.
    meter.spend(source.len() as u64 * MAKING)?;
    let made = pattern(source);
    made.map(Cow::Owned).map_err(|error| EvalError::failed(format!("error parsing regexp: {error}")))
}

pub(super) fn matches<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let regex = regex(meter, arguments)?;
    Ok(Value::Bool(regex.is_match(text(arguments, 0)?)))
}

pub(super) fn find<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let regex = regex(meter, arguments)?;
    Ok(Value::text(regex.find(text(arguments, 0)?).map_or("", |found| found.as_str())))
}

pub(super) fn find_all<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let regex = regex(meter, arguments)?;
    let most = if arguments.len() > 2 { whole(arguments, 2)? } else { -1 };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let found = regex.find_iter(text(arguments, 0)?).take(most);
    Ok(Value::list(found.map(|found| Value::text(found.as_str())).collect()))
}

/// A place in a text of this many characters; its end is one.
fn place(at: i64, length: usize) -> Result<usize> {
    let found = usize::try_from(at).ok().filter(|place| *place <= length);
    found.ok_or_else(|| EvalError::failed(format!("index out of range: {at}")))
}

pub(super) fn char_at<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let within = text(arguments, 0)?;
    meter.traverse(within.len())?;
    let at = place(whole(arguments, 1)?, within.chars().count())?;
    Ok(Value::text(within.chars().skip(at).take(1).collect::<String>()))
}

/// Where a part begins, in characters.
fn found_at(within: &[char], part: &[char], mut places: impl Iterator<Item = usize>) -> i64 {
    let found = places.find(|at| within.get(*at..at + part.len()) == Some(part));
    found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)
}

pub(super) fn index_of<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    if arguments.first().is_some_and(Value::is_list) {
        return lists::index_of(meter, arguments, false);
    }
    let (within, part) = pair(meter, arguments)?;
    let (within, part): (Vec<char>, Vec<char>) = (within.chars().collect(), part.chars().collect());
    let from = if arguments.len() > 2 { place(whole(arguments, 2)?, within.len())? } else { 0 };
    meter.spend((within.len() as u64).div_ceil(10) * (part.len() as u64).div_ceil(10))?;
    Ok(Value::Int(found_at(&within, &part, from..=within.len())))
}

pub(super) fn last_index_of<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    if arguments.first().is_some_and(Value::is_list) {
        return lists::index_of(meter, arguments, true);
    }
    let (within, part) = pair(meter, arguments)?;
    let (within, part): (Vec<char>, Vec<char>) = (within.chars().collect(), part.chars().collect());
    let last = if arguments.len() > 2 { place(whole(arguments, 2)?, within.len())? } else { within.len() };
    meter.spend((within.len() as u64).div_ceil(10) * (part.len() as u64).div_ceil(10))?;
    Ok(Value::Int(found_at(&within, &part, (0..=last).rev())))
}

pub(super) fn join<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let elements = arguments.first().and_then(Value::elements).ok_or(EvalError::Overload)?;
    let between = if arguments.len() > 1 { text(arguments, 1)?.as_ref() } else { "" };
    let mut joined = String::new();
    for (index, element) in elements.iter().enumerate() {
        let Value::String(part) = element else { return Err(EvalError::Overload) };
        if index > 0 {
            joined.push_str(between);
        }
        joined.push_str(part);
        meter.traverse(part.len() + between.len())?;
    }
    Ok(Value::text(joined))
}

pub(super) fn lower<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    meter.traverse(text(arguments, 0)?.len())?;
    Ok(Value::text(text(arguments, 0)?.to_ascii_lowercase()))
}

pub(super) fn upper<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    meter.traverse(text(arguments, 0)?.len())?;
    Ok(Value::text(text(arguments, 0)?.to_ascii_uppercase()))
}

pub(super) fn replace<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let (within, part) = pair(meter, arguments)?;
    let with = text(arguments, 2)?;
    let most = if arguments.len() > 3 { whole(arguments, 3)? } else { -1 };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let count = within.matches(part).take(most).count();
    meter.traverse(within.len().saturating_add(count.saturating_mul(with.len())))?;
    Ok(Value::text(within.replacen(part, with, most)))
}

pub(super) fn split<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let (within, at) = pair(meter, arguments)?;
    let most = if arguments.len() > 2 { whole(arguments, 2)? } else { -1 };
    let parts: Vec<String> = match usize::try_from(most) {
        Ok(0) => Vec::new(),
        _ if at.is_empty() => {
            let keep = usize::try_from(most).unwrap_or(usize::MAX);
            let chars: Vec<char> = within.chars().collect();
            let single = chars.iter().take(keep.saturating_sub(1)).map(char::to_string);
            let rest: String = chars.iter().skip(keep.saturating_sub(1)).collect();
            single.chain((!rest.is_empty()).then_some(rest)).collect()
        }
        Ok(most) => within.splitn(most, at).map(str::to_owned).collect(),
        Err(_) => within.split(at).map(str::to_owned).collect(),
    };
    Ok(Value::list(parts.into_iter().map(Value::text).collect()))
}

pub(super) fn substring<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let within = text(arguments, 0)?;
    meter.traverse(within.len())?;
    let length = within.chars().count();
    let start = place(whole(arguments, 1)?, length)?;
    let end = if arguments.len() > 2 { place(whole(arguments, 2)?, length)? } else { length };
    if start > end {
        return Err(EvalError::failed(format!("invalid substring range. start: {start}, end: {end}")));
    }
    Ok(Value::text(within.chars().skip(start).take(end - start).collect::<String>()))
}

pub(super) fn trim<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    meter.traverse(text(arguments, 0)?.len())?;
    Ok(Value::text(text(arguments, 0)?.trim()))
}
