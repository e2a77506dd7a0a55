//! The kinds of values that flags have, as upstream's flag library reads them.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

type Parsed<T> = Result<T, String>;

/// Stores a value that could be read.
pub(super) fn put<T>(place: &mut Option<T>, value: Parsed<T>) -> Parsed<()> {
    *place = Some(value?);
    Ok(())
}

/// Any text.
pub(super) fn text(value: &str) -> Parsed<String> {
    Ok(value.to_owned())
}

/// A path.
pub(super) fn file(value: &str) -> Parsed<PathBuf> {
    if value.is_empty() { Err("needs the path of a file".to_owned()) } else { Ok(value.into()) }
}

/// One of the words.
pub(super) fn one_of(value: &str, words: &[&str]) -> Parsed<String> {
    if words.contains(&value) { Ok(value.to_owned()) } else { Err(format!("must be one of {}", words.join(", "))) }
}

/// A number of the type asked for.
pub(super) fn integer<T: FromStr>(value: &str) -> Parsed<T> {
    value.parse().map_err(|_| "not a number that fits".to_owned())
}

/// True or false in Go's spellings.
pub(super) fn boolean(value: &str) -> Parsed<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Adds entries between commas.
pub(super) fn list(place: &mut Vec<String>, value: &str) -> Parsed<()> {
    place.extend(value.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned));
    Ok(())
}

/// Adds `key=value` entries between commas.
pub(super) fn map(place: &mut Vec<(String, String)>, value: &str) -> Parsed<()> {
    for entry in value.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (key, value) = entry.split_once('=').ok_or_else(|| format!("{entry:?} is not of the form key=value"))?;
        place.push((key.trim().to_owned(), value.trim().to_owned()));
    }
    Ok(())
}

/// A duration as Go writes them: `1h30m`, `1.5h`, `300ms`, `0`.
pub(super) fn duration(value: &str) -> Parsed<Duration> {
    naru_api::meta::duration::parse(value).ok_or_else(|| "not a duration such as 90s, 5m or 1h30m".to_owned())
}
