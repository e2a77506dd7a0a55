//! URLs, read as strictly as upstream reads them: whole ones, or paths from the root.

use super::conversions::text;
use super::eval::{EvalError, Meter};
use super::opaque::Opaque;
use super::value::{Key, Value};
use crate::status::quote;
use std::collections::BTreeMap;
use std::rc::Rc;

type Result<T> = std::result::Result<T, EvalError>;

/// Its parts, as they are written.
#[derive(Debug, Clone, PartialEq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
    fragment: String,
}

/// Reads one; the error is the text of Go's parser.
pub(super) fn parse(raw: &str) -> std::result::Result<Url, String> {
    parts(raw).map_err(|why| format!("parse {}: {why}", quote(raw)))
}

fn parts(raw: &str) -> std::result::Result<Url, String> {
    if raw.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if raw.is_empty() {
        return Err("empty url".to_owned());
    }
    let (scheme, rest) = scheme(raw)?;
    if !rest.starts_with('/') && scheme.is_empty() {
        return Err("invalid URI for request".to_owned());
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    // Without a slash there is neither a host nor a path (`mailto:jane`).
    let (host, path) = match rest.strip_prefix("//") {
        Some(rest) if !scheme.is_empty() || !rest.starts_with('/') => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (host(authority)?, path)
        }
        _ if rest.starts_with('/') || *rest == *"*" => (String::new(), rest),
        _ => (String::new(), ""),
    };
    unescape(path, false)?;
    let owned = str::to_owned;
    Ok(Url { scheme: scheme.to_lowercase(), host, path: owned(path), query: owned(query), fragment: owned(fragment) })
}

fn scheme(raw: &str) -> std::result::Result<(&str, &str), String> {
    for (at, c) in raw.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&raw[..at], &raw[at + 1..])),
            _ => break,
        }
    }
    Ok(("", raw))
}

fn host(authority: &str) -> std::result::Result<String, String> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let after = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or("missing ']' in host")?.1,
        None => host.find(':').map_or("", |at| &host[at..]),
    };
    let good = after.is_empty() || after.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if !good {
        return Err(format!("invalid port {} after host", quote(after)));
    }
    match host.chars().find(|c| matches!(c, ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')) {
        Some(' ') => Err("invalid character \" \" in host name".to_owned()),
        Some(c) => Err(format!("invalid character {} in host name", quote(&c.to_string()))),
        None => Ok(host.to_owned()),
    }
}

/// With `%xx` as what it stands for.
fn unescape(text: &str, plus_is_space: bool) -> std::result::Result<String, String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'%' => {
                let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
                let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
                    let shown: String = String::from_utf8_lossy(after).chars().take(2).collect();
                    return Err(format!("invalid URL escape {}", quote(&format!("%{shown}"))));
                };
                bytes.push(byte);
                rest = &after[2..];
            }
            b'+' if plus_is_space => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Url {
    fn hostname(&self) -> &str {
        match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.host.split(':').next().unwrap_or_default(),
        }
    }

    fn port(&self) -> &str {
        let after = self.host.rsplit(']').next().unwrap_or_default();
        after.split_once(':').map_or("", |(_, port)| port)
    }

    /// The path as it was written if all of it may stand in a path, and newly escaped otherwise.
    fn escaped_path(&self) -> String {
        let stays = |b: u8| b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]%/".contains(&b);
        if self.path.bytes().all(stays) {
            return self.path.clone();
        }
        let plain = unescape(&self.path, false).unwrap_or_default();
        let kept = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b);
        let mut escaped = String::with_capacity(plain.len());
        for byte in plain.bytes() {
            if kept(byte) {
                escaped.push(byte.into());
            } else {
                escaped.push_str(&format!("%{byte:02X}"));
            }
        }
        escaped
    }

    /// The values by name; what cannot be read is left out.
    fn query(&self) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for part in self.query.split('&').filter(|part| !part.is_empty() && !part.contains(';')) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if let (Ok(name), Ok(value)) = (unescape(name, true), unescape(value, true)) {
                found.entry(name).or_default().push(value);
            }
        }
        found
    }
}

fn a_url<'v>(arguments: &'v [Value<'_>]) -> Result<&'v Url> {
    match arguments.first() {
        Some(Value::Opaque(found)) => match &**found {
            Opaque::Url(url) => Ok(url),
            _ => Err(EvalError::Overload),
        },
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn url<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let raw = text(arguments, 0)?;
    meter.traverse(raw.len())?;
    let parsed = parse(raw);
    let failed = |why| EvalError::failed(format!("URL parse error during conversion from string: {why}"));
    parsed.map(|url| Value::opaque(Opaque::Url(url))).map_err(failed)
}

pub(super) fn is_url<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let raw = text(arguments, 0)?;
    meter.traverse(raw.len())?;
    Ok(Value::Bool(parse(raw).is_ok()))
}

pub(super) fn get_scheme<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::text(a_url(arguments)?.scheme.as_str()))
}

pub(super) fn get_host<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::text(a_url(arguments)?.host.as_str()))
}

pub(super) fn get_hostname<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::text(a_url(arguments)?.hostname()))
}

pub(super) fn get_port<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::text(a_url(arguments)?.port()))
}

pub(super) fn get_escaped_path<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::text(a_url(arguments)?.escaped_path()))
}

pub(super) fn get_query<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let list = |values: Vec<String>| Value::list(values.into_iter().map(Value::text).collect());
    let entries = a_url(arguments)?.query().into_iter().map(|(name, values)| (Key::String(name), list(values)));
    Ok(Value::Map(Rc::new(entries.collect())))
}
