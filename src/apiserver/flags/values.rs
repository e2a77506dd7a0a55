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
    parse_duration(value).ok_or_else(|| "not a duration such as 90s, 5m or 1h30m".to_owned())
}

/// Reads Go's form of a duration that is not negative.
pub(crate) fn parse_duration(value: &str) -> Option<Duration> {
    if value == "0" {
        return Some(Duration::ZERO);
    }
    let (mut total, mut rest) = (0.0_f64, value);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number * seconds;
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let good = [("0", 0.0), ("90s", 90.0), ("1h30m", 5400.0), ("1.5h", 5400.0), ("300ms", 0.3)];
        for (text, seconds) in good {
            assert_eq!(parse_duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "5", "m", "5x", "-1s", "1..2s", "999999999999999999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
