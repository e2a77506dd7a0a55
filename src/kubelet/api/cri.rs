//! Lines of container logs: `2006-01-02T15:04:05.999999999Z stdout F text`.

/// One parsed line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its time, as written.
    pub time: &'a str,
    /// Standard error instead of standard output.
    pub stderr: bool,
    /// More of the same line follows.
    pub partial: bool,
    /// What the container wrote, without the line end.
    pub content: &'a [u8],
}

/// Parses a line without its line end.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let partial = parts.next()?.split(|b| *b == b':').next() == Some(b"P");
    Some(Line { time, stderr, partial, content: parts.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn lines_are_split_into_their_parts() {
        let line = parse(b"2024-01-02T03:04:05.6Z stderr P some  text ").unwrap();
        assert_eq!(line, Line { time: "2024-01-02T03:04:05.6Z", stderr: true, partial: true, content: b"some  text " });
        assert_eq!(parse(b"2024-01-02T03:04:05.6Z stdout F ").unwrap().content, b"");
        assert!(!parse(b"t stdout F").unwrap().partial);
        assert_eq!(parse(b"garbage"), None);
        assert_eq!(parse(b"t stdin F x"), None);
    }
}
