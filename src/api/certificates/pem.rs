//! Blocks of PEM, read as Go's reader does: what is around them is skipped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One block.
pub(super) struct Block {
    /// What stands after `BEGIN`.
    pub(super) label: String,
    /// Whether `Key: value` lines come before the content.
    pub(super) has_headers: bool,
    /// The content.
    pub(super) der: Vec<u8>,
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// The first whole block, and what follows it.
pub(super) fn first(mut text: &str) -> Option<(Block, &str)> {
    loop {
        let start = text.find(BEGIN).filter(|at| *at == 0 || text.as_bytes()[at - 1] == b'\n');
        let Some(start) = start else {
            // Something that only looks like a beginning may come before a real one.
            text = &text[text.find(BEGIN)? + BEGIN.len()..];
            continue;
        };
        let rest = &text[start + BEGIN.len()..];
        if let Some(found) = block(rest) {
            return Some(found);
        }
        text = rest;
    }
}

/// Reads on after `BEGIN`.
fn block(rest: &str) -> Option<(Block, &str)> {
    let (line, rest) = rest.split_once('\n')?;
    let label = line.trim_end().strip_suffix(DASHES)?;
    let end = format!("{END}{label}{DASHES}");
    let at = rest.find(&end)?;
    let (body, after) = (&rest[..at], &rest[at + end.len()..]);
    let is_header = |line: &&str| line.contains(':');
    let has_headers = body.lines().take_while(is_header).next().is_some();
    let content: String = body.lines().skip_while(is_header).flat_map(str::split_whitespace).collect();
    let der = STANDARD.decode(content).ok()?;
    Some((Block { label: label.to_owned(), has_headers, der }, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_among_other_text() {
        let text =
            "before\n-----BEGIN A-----\nK: v\n\nAQI=\n-----END A-----\n-----BEGIN B-----\nAw==\n-----END B-----\n";
        let (a, rest) = first(text).expect("a block");
        assert_eq!((a.label.as_str(), a.has_headers, a.der.as_slice()), ("A", true, [1, 2].as_slice()));
        let (b, rest) = first(rest).expect("a block");
        assert_eq!((b.label.as_str(), b.has_headers, b.der.as_slice()), ("B", false, [3].as_slice()));
        assert!(first(rest).is_none());
        for bad in [
            "",
            "-----BEGIN ",
            "-----BEGIN A-----\n",
            "-----BEGIN A-----\n!\n-----END A-----",
            "x-----BEGIN A-----\nAQ==\n-----END A-----",
        ] {
            assert!(first(bad).is_none(), "{bad:?}");
        }
    }
}
