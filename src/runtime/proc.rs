//! Facts about processes and the machine's present boot, read from /proc.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Changes with each boot. Empty if the kernel does not say.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// When a process started, in ticks since boot; `None` if there is none. With the number, it names
/// a process uniquely within a boot.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command, in parentheses, may hold anything; the fields after it are numbers.
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Nanoseconds since the epoch.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Mount points at or below `directory`, deepest last.
pub(crate) fn mounts_below(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mount_points(&table).filter(|mount| mount.starts_with(directory)).collect()
}

/// The mount points of a `mountinfo` table, in its order: what lies deeper comes later.
pub fn mount_points(table: &str) -> impl Iterator<Item = std::path::PathBuf> {
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape)
}

/// Undoes the kernel's octal escapes of blanks in mount tables.
pub(crate) fn unescape(field: &str) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.first_chunk::<3>()).flatten();
        match octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_start_time_and_a_number_out_of_range_none() {
        assert!(start_time(std::process::id()).is_some());
        assert_eq!(start_time(u32::MAX), None);
    }

    #[test]
    fn escapes_in_mount_tables_are_undone() {
        assert_eq!(unescape(r"/a\040b\134c"), std::path::PathBuf::from(r"/a b\c"));
        assert_eq!(unescape(r"/a\0"), std::path::PathBuf::from(r"/a\0"));
    }
}
