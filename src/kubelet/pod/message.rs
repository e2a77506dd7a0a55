//! Termination messages: from the file that a container wrote, or from the end of its log.

use super::slot::Run;
use crate::api::cri;
use k8s_openapi::api::core::v1::Container;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// What a container may say at most.
const FILE_LIMIT: u64 = 4096;
/// What its log may say instead.
const LOG_LIMIT: usize = 2048;
const LOG_LINES: usize = 80;

/// The message of a run that ended with `code`.
pub(crate) fn read(run: &Run, container: &Container, code: i32) -> Option<String> {
    let written = run.message_file.as_deref().and_then(|path| tail(path, FILE_LIMIT)).filter(|text| !text.is_empty());
    if written.is_some()
        || code == 0
        || container.termination_message_policy.as_deref() != Some("FallbackToLogsOnError")
    {
        return written;
    }
    let text = tail(run.log.as_deref()?, 64 * 1024)?;
    let lines: Vec<&str> = text
        .lines()
        .filter_map(|line| cri::parse(line.as_bytes()).map(|l| l.content))
        .filter_map(|c| std::str::from_utf8(c).ok())
        .collect();
    let mut out: String =
        lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| format!("{line}\n")).collect();
    if out.len() > LOG_LIMIT {
        let cut = (out.len() - LOG_LIMIT..out.len()).find(|at| out.is_char_boundary(*at)).unwrap_or(out.len());
        out.drain(..cut);
    }
    (!out.is_empty()).then_some(out)
}

/// The last `limit` bytes of a regular file. A container could have put anything else there.
fn tail(path: &Path, limit: u64) -> Option<String> {
    if !std::fs::symlink_metadata(path).ok()?.is_file() {
        return None;
    }
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit))).ok()?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
