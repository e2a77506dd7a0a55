//! Semantic versions (semver.org).

use super::conversions::text;
use super::eval::{EvalError, Meter};
use super::opaque::Opaque;
use super::value::Value;
use crate::status::quote;
use std::cmp::Ordering;

type Result<T> = std::result::Result<T, EvalError>;

/// A version. What was built is kept, but two versions do not differ by it.
#[derive(Debug, Clone)]
pub struct Version {
    numbers: [u64; 3],
    pre: Vec<Part>,
}

/// A part of what comes before a release: numbers come before words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Word(String),
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.compare(other) == Ordering::Equal
    }
}

impl Version {
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        // What comes before a release has parts, and the release has none.
        let release = |version: &Self| version.pre.is_empty();
        let pre = || release(self).cmp(&release(other)).then_with(|| self.pre.cmp(&other.pre));
        self.numbers.cmp(&other.numbers).then_with(pre)
    }
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn parse(raw: &str) -> std::result::Result<Version, String> {
    if raw.is_empty() {
        return Err("Version string empty".to_owned());
    }
    let parts: Vec<&str> = raw.splitn(3, '.').collect();
    let [major, minor, rest] = parts[..] else {
        return Err("No Major.Minor.Patch elements found".to_owned());
    };
    let (rest, build) = rest.split_once('+').map_or((rest, None), |(rest, build)| (rest, Some(build)));
    let (patch, pre) = rest.split_once('-').map_or((rest, None), |(patch, pre)| (patch, Some(pre)));
    let numbers =
        [number("major", "Major", major)?, number("minor", "Minor", minor)?, number("patch", "Patch", patch)?];
    let pre = pre.map_or(Ok(Vec::new()), |pre| pre.split('.').map(part).collect())?;
    for one in build.into_iter().flat_map(|build| build.split('.')) {
        if one.is_empty() {
            return Err("Build meta data is empty".to_owned());
        }
        if !is_word(one) {
            return Err(format!("Invalid character(s) found in build meta data {}", quote(one)));
        }
    }
    Ok(Version { numbers, pre })
}

fn number(name: &str, title: &str, text: &str) -> std::result::Result<u64, String> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {name} number {}", quote(text)));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("{title} number must not contain leading zeroes {}", quote(text)));
    }
    let why = if text.is_empty() { "invalid syntax" } else { "value out of range" };
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {}: {why}", quote(text)))
}

fn part(text: &str) -> std::result::Result<Part, String> {
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if is_number(text) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {}", quote(text)));
        }
        return text.parse().map(Part::Number).map_err(|error| error.to_string());
    }
    if !is_word(text) {
        return Err(format!("Invalid character(s) found in prerelease {}", quote(text)));
    }
    Ok(Part::Word(text.to_owned()))
}

/// Without the `v` in front and zeros that lead, and with the numbers that are missing.
fn normalized(raw: &str) -> std::result::Result<String, String> {
    let raw = raw.strip_prefix('v').unwrap_or(raw);
    let mut parts: Vec<String> = raw.splitn(3, '.').map(str::to_owned).collect();
    for part in parts.iter_mut().filter(|part| part.len() > 1) {
        let trimmed = part.trim_start_matches('0');
        let lead = if trimmed.starts_with(|c: char| c.is_ascii_digit()) { "" } else { "0" };
        *part = format!("{lead}{trimmed}");
    }
    if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
        return Err("short version cannot contain PreRelease/Build meta data".to_owned());
    }
    parts.resize(3, "0".to_owned());
    Ok(parts.join("."))
}

fn read(meter: &mut Meter, arguments: &[Value<'_>]) -> Result<std::result::Result<Version, String>> {
    let raw = text(arguments, 0)?;
    meter.traverse(raw.len())?;
    match arguments.get(1) {
        Some(Value::Bool(true)) => Ok(normalized(raw).and_then(|raw| parse(&raw))),
        None | Some(Value::Bool(false)) => Ok(parse(raw)),
        Some(_) => Err(EvalError::Overload),
    }
}

pub(super) fn semver<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let version = read(meter, arguments)?;
    version.map(|version| Value::opaque(Opaque::Version(version))).map_err(EvalError::failed)
}

pub(super) fn is_semver<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(read(meter, arguments)?.is_ok()))
}

fn at<'a>(arguments: &[Value<'a>], index: usize) -> Result<Value<'a>> {
    match arguments.first() {
        Some(Value::Opaque(found)) => match &**found {
            Opaque::Version(version) => Ok(Value::Int(i64::try_from(version.numbers[index]).unwrap_or(i64::MAX))),
            _ => Err(EvalError::Overload),
        },
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn major<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    at(arguments, 0)
}

pub(super) fn minor<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    at(arguments, 1)
}

pub(super) fn patch<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    at(arguments, 2)
}
