//! The lines that two texts do not share, as `diff -u` shows them.

use std::fmt::Write as _;

/// Equal lines shown around a difference.
const CONTEXT: usize = 3;
/// Texts with more lines than this are not compared line by line.
const MAX_LINES: usize = 4000;

/// One step from the old text to the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Keep(usize, usize),
    Remove(usize, usize),
    Add(usize, usize),
}

/// The unified difference of two texts, without a header; empty when they are equal.
pub fn unified(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let steps = steps(&old, &new);
    let changed: Vec<usize> =
        steps.iter().enumerate().filter(|(_, s)| !matches!(s, Step::Keep(..))).map(|(i, _)| i).collect();
    let mut out = String::new();
    let mut rest = changed.as_slice();
    while let Some(&first) = rest.first() {
        let near = |pair: &[usize]| pair[1] - pair[0] <= 2 * CONTEXT + 1;
        let count = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
        let last = rest[count - 1];
        let hunk = &steps[first.saturating_sub(CONTEXT)..(last + CONTEXT + 1).min(steps.len())];
        write_hunk(hunk, &old, &new, &mut out);
        rest = &rest[count..];
    }
    out
}

fn write_hunk(hunk: &[Step], old: &[&str], new: &[&str], out: &mut String) {
    let (Step::Keep(a, b) | Step::Remove(a, b) | Step::Add(a, b)) = hunk[0];
    let before = hunk.iter().filter(|s| !matches!(s, Step::Add(..))).count();
    let after = hunk.iter().filter(|s| !matches!(s, Step::Remove(..))).count();
    let range = |start: usize, count: usize| match count {
        1 => format!("{}", start + 1),
        0 => format!("{start},0"),
        _ => format!("{},{count}", start + 1),
    };
    let _ = writeln!(out, "@@ -{} +{} @@", range(a, before), range(b, after));
    for step in hunk {
        let _ = match step {
            Step::Keep(a, _) => writeln!(out, " {}", old[*a]),
            Step::Remove(a, _) => writeln!(out, "-{}", old[*a]),
            Step::Add(_, b) => writeln!(out, "+{}", new[*b]),
        };
    }
}

/// By the longest common subsequence between the common start and end.
fn steps(old: &[&str], new: &[&str]) -> Vec<Step> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let end = old[start..].iter().rev().zip(new[start..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[start..old.len() - end], &new[start..new.len() - end]);
    let mut steps: Vec<Step> = (0..start).map(|i| Step::Keep(i, i)).collect();
    let (mut i, mut j) = (0, 0);
    if a.len().saturating_mul(b.len()) <= MAX_LINES * MAX_LINES / 4 {
        let width = b.len() + 1;
        // longest[i * width + j]: lines that a[i..] and b[j..] share in order.
        let mut longest = vec![0_u16; (a.len() + 1) * width];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                longest[i * width + j] = if a[i] == b[j] {
                    longest[(i + 1) * width + j + 1].saturating_add(1)
                } else {
                    longest[(i + 1) * width + j].max(longest[i * width + j + 1])
                };
            }
        }
        while i < a.len() && j < b.len() {
            let step = if a[i] == b[j] {
                Step::Keep(start + i, start + j)
            } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
                Step::Remove(start + i, start + j)
            } else {
                Step::Add(start + i, start + j)
            };
            steps.push(step);
            i += usize::from(!matches!(step, Step::Add(..)));
            j += usize::from(!matches!(step, Step::Remove(..)));
        }
    }
    steps.extend((i..a.len()).map(|i| Step::Remove(start + i, start + j)));
    steps.extend((j..b.len()).map(|j| Step::Add(start + a.len(), start + j)));
    steps.extend((0..end).map(|k| Step::Keep(start + a.len() + k, start + b.len() + k)));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hunks() {
        assert_eq!(unified("a\nb", "a\nb"), "");
        assert_eq!(unified("a\nb\nc\nd\ne\nf", "a\nb\nc\nd\nX\nf"), "@@ -2,5 +2,5 @@\n b\n c\n d\n-e\n+X\n f\n");
        assert_eq!(unified("a", "a\nb"), "@@ -1 +1,2 @@\n a\n+b\n");
    }
}
