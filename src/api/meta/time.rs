//! RFC 3339 time stamps as the API writes them: seconds (`Time`) and microseconds (`MicroTime`), in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// Which of the two layouts a text must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// `2006-01-02T15:04:05Z`; a fraction is accepted.
    Seconds,
    /// `2006-01-02T15:04:05.000000Z`; six digits are required.
    Micros,
}

/// Why a text is no time stamp; worded as clients know it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// It does not have the layout.
    #[error("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {element:?}")]
    Layout {
        /// The whole text.
        text: String,
        /// The layout.
        layout: &'static str,
        /// Where it departs from the layout.
        rest: String,
        /// The element of the layout that was due.
        element: &'static str,
    },
    /// A part is out of its range.
    #[error("parsing time {text:?}: {part} out of range")]
    Range {
        /// The whole text.
        text: String,
        /// `month`, `day`, `hour`, `minute`, `second`.
        part: &'static str,
    },
    /// Something follows.
    #[error("parsing time {text:?}: extra text: {rest:?}")]
    Extra {
        /// The whole text.
        text: String,
        /// What follows.
        rest: String,
    },
}

impl Timestamp {
    /// From the system's clock.
    pub fn from_system(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
    }

    /// From seconds since the epoch.
    pub fn from_seconds(seconds: i64) -> Self {
        Timestamp { seconds, nanos: 0 }
    }

    /// `2006-01-02T15:04:05Z`.
    pub fn to_seconds(self) -> String {
        let mut out = self.civil();
        out.push('Z');
        out
    }

    /// `2006-01-02T15:04:05.000000Z`.
    pub fn to_micros(self) -> String {
        format!("{}.{:06}Z", self.civil(), self.nanos / 1000)
    }

    fn civil(self) -> String {
        let (days, second) = (self.seconds.div_euclid(86_400), self.seconds.rem_euclid(86_400));
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

/// Reads `2006-01-02T15:04:05Z` (or with an offset or a fraction) as seconds since the epoch.
pub fn parse_seconds(text: &str) -> Option<i64> {
    parse(text, Precision::Seconds).ok().map(|t| t.seconds)
}

/// Reads a time stamp of either layout.
pub fn parse_any(text: &str) -> Option<Timestamp> {
    parse(text, Precision::Seconds).ok()
}

/// Seconds since the epoch as `2006-01-02T15:04:05Z`.
pub fn format_seconds(seconds: i64) -> String {
    Timestamp::from_seconds(seconds).to_seconds()
}

/// Reads a time stamp.
pub fn parse(text: &str, precision: Precision) -> Result<Timestamp, TimeError> {
    let mut reader = Layout { text, at: 0, precision };
    let year = reader.digits(4, "2006")?;
    reader.mark(b'-', "-")?;
    let month = reader.digits(2, "01")?;
    reader.mark(b'-', "-")?;
    let day = reader.digits(2, "02")?;
    reader.mark(b'T', "T")?;
    let hour = reader.digits(2, "15")?;
    reader.mark(b':', ":")?;
    let minute = reader.digits(2, "04")?;
    reader.mark(b':', ":")?;
    let second = reader.digits(2, "05")?;
    let nanos = reader.fraction()?;
    let offset = reader.offset()?;
    if reader.at < text.len() {
        return Err(TimeError::Extra { text: text.into(), rest: reader.rest() });
    }
    let range = |ok: bool, part| if ok { Ok(()) } else { Err(TimeError::Range { text: text.into(), part }) };
    range((1..=12).contains(&month), "month")?;
    range((1..=days_in_month(year, month)).contains(&day), "day")?;
    range(hour < 24, "hour")?;
    range(minute < 60, "minute")?;
    range(second < 60, "second")?;
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Ok(Timestamp { seconds, nanos })
}

struct Layout<'a> {
    text: &'a str,
    at: usize,
    precision: Precision,
}

impl Layout<'_> {
    fn rest(&self) -> String {
        self.text.get(self.at..).unwrap_or("").to_owned()
    }

    fn error(&self, element: &'static str) -> TimeError {
        let layout = match self.precision {
            Precision::Seconds => "2006-01-02T15:04:05Z07:00",
            Precision::Micros => "2006-01-02T15:04:05.000000Z07:00",
        };
        TimeError::Layout { text: self.text.to_owned(), layout, rest: self.rest(), element }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn digits(&mut self, count: usize, element: &'static str) -> Result<i64, TimeError> {
        let piece = self.text.as_bytes().get(self.at..self.at + count).filter(|p| p.iter().all(u8::is_ascii_digit));
        let Some(piece) = piece else { return Err(self.error(element)) };
        self.at += count;
        Ok(piece.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0')))
    }

    fn mark(&mut self, mark: u8, element: &'static str) -> Result<(), TimeError> {
        if self.byte() != Some(mark) {
            return Err(self.error(element));
        }
        self.at += 1;
        Ok(())
    }

    fn fraction(&mut self) -> Result<u32, TimeError> {
        let from = self.at;
        if !matches!(self.byte(), Some(b'.' | b',')) {
            return if self.precision == Precision::Micros { Err(self.error(".000000")) } else { Ok(0) };
        }
        self.at += 1;
        let (mut nanos, mut unit) = (0, 100_000_000);
        while let Some(digit) = self.byte().filter(u8::is_ascii_digit) {
            nanos += u32::from(digit - b'0') * unit;
            unit /= 10;
            self.at += 1;
        }
        let digits = self.at - from - 1;
        if digits == 0 || (self.precision == Precision::Micros && digits != 6) {
            self.at = from;
            return Err(self.error(if self.precision == Precision::Micros { ".000000" } else { "Z07:00" }));
        }
        Ok(nanos)
    }

    fn offset(&mut self) -> Result<i64, TimeError> {
        const ELEMENT: &str = "Z07:00";
        let from = self.at;
        let sign = match self.byte() {
            Some(b'Z') => {
                self.at += 1;
                return Ok(0);
            }
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Err(self.error(ELEMENT)),
        };
        self.at += 1;
        let parsed = (|| {
            let hours = self.digits(2, ELEMENT)?;
            self.mark(b':', ELEMENT)?;
            let minutes = self.digits(2, ELEMENT)?;
            Ok(sign * (hours * 3600 + minutes * 60))
        })();
        parsed.map_err(|_: TimeError| {
            self.at = from;
            self.error(ELEMENT)
        })
    }
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since the epoch of a date in the proleptic Gregorian calendar, counted in eras of 400 years.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // The year begins in March, so that a leap day is its last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn stamps_come_back_in_utc() {
        for (text, expect) in [
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            ("2024-02-29T23:59:59+02:00", "2024-02-29T21:59:59Z"),
            ("2000-01-01T00:00:00-00:30", "2000-01-01T00:30:00Z"),
            ("2026-11-21T09:40:01.999Z", "2026-11-21T09:40:01Z"),
        ] {
            assert_eq!(parse(text, Precision::Seconds).unwrap().to_seconds(), expect);
        }
        let micro = parse("2026-11-21T09:40:01.000123Z", Precision::Micros).unwrap();
        assert_eq!(micro.to_micros(), "2026-11-21T09:40:01.000123Z");
        assert_eq!(parse_seconds("2009-02-13T23:31:30Z"), Some(1_234_567_890));
    }

    #[test]
    fn every_day_comes_back() {
        for days in (-800_000..800_000).step_by(37) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }

    #[test]
    fn errors_are_worded_as_clients_know_them() {
        let check = |text: &str, precision, expect: &str| {
            assert_eq!(parse(text, precision).unwrap_err().to_string(), expect);
        };
        check(
            "foo",
            Precision::Seconds,
            r#"parsing time "foo" as "2006-01-02T15:04:05Z07:00": cannot parse "foo" as "2006""#,
        );
        check("2006-13-02T15:04:05Z", Precision::Seconds, r#"parsing time "2006-13-02T15:04:05Z": month out of range"#);
        check("2006-01-02T15:04:05Zx", Precision::Seconds, r#"parsing time "2006-01-02T15:04:05Zx": extra text: "x""#);
        check(
            "2006-01-02T15:04:05Z",
            Precision::Micros,
            r#"parsing time "2006-01-02T15:04:05Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#,
        );
    }
}
