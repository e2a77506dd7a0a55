//! Container output, cut into lines of the CRI log format.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Longest piece of a line in one record; longer lines become several, all but the last marked `P`.
const MAX_LINE: usize = 16 * 1024;

/// A log file that both streams of a container are written to.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        Ok(Self { file: Some(append_to(path)?), path: path.to_owned() })
    }

    /// Opens the path again; the old file keeps what was written to it.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file = Some(append_to(&self.path)?);
        Ok(())
    }

    /// A full disk loses log lines, never the container.
    fn write(&mut self, records: &[u8]) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(records)
        {
            tracing::warn!(path = %self.path.display(), %error, "log lines lost");
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// One output stream on its way into the log.
#[derive(Debug)]
pub(super) struct LineCutter {
    name: &'static str,
    pending: Vec<u8>,
}

impl LineCutter {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, pending: Vec::new() }
    }

    /// The stream's name.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Writes the lines that `bytes` complete and keeps the rest.
    pub(super) fn feed(&mut self, mut bytes: &[u8], now_ns: i64, log: &mut LogFile) {
        let stamp = rfc3339_nano(now_ns);
        let mut records = Vec::with_capacity(bytes.len() + 64);
        while !bytes.is_empty() {
            let room = MAX_LINE - self.pending.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                self.record(&mut records, &stamp, &bytes[..end], b'F');
                bytes = &bytes[end + 1..];
            } else if bytes.len() > room {
                // A newline exactly after a full piece still ends the line there.
                let (full, skip) = if bytes[room] == b'\n' { (b'F', 1) } else { (b'P', 0) };
                self.record(&mut records, &stamp, window, full);
                bytes = &bytes[room + skip..];
            } else {
                self.pending.extend_from_slice(bytes);
                break;
            }
        }
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        log.write(&records);
    }

    /// The stream has ended: writes an unfinished line, as such, since no line end belongs to it.
    pub(super) fn finish(&mut self, now_ns: i64, log: &mut LogFile) {
        if !self.pending.is_empty() {
            let mut records = Vec::with_capacity(self.pending.len() + 64);
            self.record(&mut records, &rfc3339_nano(now_ns), &[], b'P');
            log.write(&records);
        }
    }

    fn record(&mut self, records: &mut Vec<u8>, stamp: &str, tail: &[u8], tag: u8) {
        records.extend_from_slice(stamp.as_bytes());
        records.push(b' ');
        records.extend_from_slice(self.name.as_bytes());
        records.extend_from_slice(&[b' ', tag, b' ']);
        records.append(&mut self.pending);
        records.extend_from_slice(tail);
        records.push(b'\n');
    }
}

/// `2026-01-02T03:04:05.000000006Z`.
pub(super) fn rfc3339_nano(ns: i64) -> String {
    let seconds = ns.div_euclid(1_000_000_000);
    let nanos = ns.rem_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Date of a day counted from 1970-01-01, in the Gregorian calendar. Years are counted from
/// March, so that the leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(pieces: &[&[u8]], expect: &[(char, usize)]) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/log");
        let mut log = LogFile::open(&path).unwrap();
        let mut cutter = LineCutter::new("stdout");
        for piece in pieces {
            cutter.feed(piece, 0, &mut log);
        }
        cutter.finish(0, &mut log);
        let text = std::fs::read_to_string(path).unwrap();
        let prefix = "1970-01-01T00:00:00.000000000Z stdout ";
        let lines: Vec<(char, usize)> = text
            .lines()
            .map(|line| line.strip_prefix(prefix).unwrap())
            .map(|line| (line.chars().next().unwrap(), line.len() - 2))
            .collect();
        assert_eq!(lines, expect);
    }

    #[test]
    fn lines_are_cut_wherever_the_reads_fall() {
        check(&[b"one\ntw", b"o\n\nlast"], &[('F', 3), ('F', 3), ('F', 0), ('P', 4)]);
    }

    #[test]
    fn long_lines_become_partial_records() {
        let long = vec![b'x'; MAX_LINE + 5];
        check(&[&long, b"\n"], &[('P', MAX_LINE), ('F', 5)]);
        let mut exact = vec![b'x'; MAX_LINE];
        exact.push(b'\n');
        check(&[&exact], &[('F', MAX_LINE)]);
        check(&[&exact[..100], &exact[100..], b"y\n"], &[('F', MAX_LINE), ('F', 1)]);
    }

    #[test]
    fn stamps_are_rfc3339() {
        assert_eq!(rfc3339_nano(1_709_210_096_000_000_007), "2024-02-29T12:34:56.000000007Z");
        assert_eq!(rfc3339_nano(1_893_456_000_000_000_000), "2030-01-01T00:00:00.000000000Z");
    }
}
