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
    let out = last_words(&text);
    (!out.is_empty()).then_some(out)
}

/// The end of what a container wrote, from the end of its log; a line that it did not end has no end here either.
fn last_words(log: &str) -> String {
    let pieces: Vec<cri::Line<'_>> = log.lines().filter_map(|line| cri::parse(line.as_bytes())).collect();
    let mut out = String::new();
    for piece in &pieces[pieces.len().saturating_sub(LOG_LINES)..] {
        out.push_str(&String::from_utf8_lossy(piece.content));
        if !piece.partial {
            out.push('\n');
        }
    }
    if out.len() > LOG_LIMIT {
        let cut = (out.len() - LOG_LIMIT..out.len()).find(|at| out.is_char_boundary(*at)).unwrap_or(out.len());
        out.drain(..cut);
    }
    out
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_as_the_container_ended_them() {
        let check = |log: &str, expect: &str| assert_eq!(last_words(log), expect);
        check("t stdout F one\nt stderr F two\n", "one\ntwo\n");
        check("t stdout P DONE\n", "DONE");
        check("t stdout P a\nt stdout F b\n", "ab\n");
        check(&"t stdout F x\n".repeat(100), &"x\n".repeat(LOG_LINES));
    }
}
