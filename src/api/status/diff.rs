//! The lines that two texts do not share, as `diff -u` shows them. Which lines are taken for the same is up to the
//! way in which Python's `difflib`, and what was made after it, looks for the longest run that both texts have, so
//! that upstream's errors come out to the letter.

use std::collections::HashMap;
use std::fmt::Write as _;

/// Equal lines shown around a difference.
const CONTEXT: usize = 3;
/// Comparisons of lines; what they do not suffice for is shown as changed.
const MAX_WORK: usize = 2_000_000;
/// In texts with at least so many lines, those that make up more than a hundredth begin no run.
const POPULAR_FROM: usize = 200;

/// A run of equal lines: where it begins in both texts, and its length.
type Run = (usize, usize, usize);

/// A stretch of both texts: whether it is the same, the lines of the old text, and those of the new one.
type Stretch = (bool, std::ops::Range<usize>, std::ops::Range<usize>);

/// The unified difference of two texts, without a header; empty when they are equal.
pub fn unified(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let stretches = stretches(&old, &new);
    let mut out = String::new();
    let mut hunk: Vec<Stretch> = Vec::new();
    for (i, (same, a, b)) in stretches.iter().cloned().enumerate() {
        if !same {
            hunk.push((same, a, b));
            continue;
        }
        let (first, last) = (i == 0, i + 1 == stretches.len());
        // A long run ends one hunk, and begins the next.
        if !first && (last || a.len() > 2 * CONTEXT) {
            let shown = a.len().min(CONTEXT);
            hunk.push((true, a.start..a.start + shown, b.start..b.start + shown));
            write_hunk(&hunk, &old, &new, &mut out);
            hunk.clear();
        }
        if first || (!last && a.len() > 2 * CONTEXT) {
            let shown = a.len().min(CONTEXT);
            hunk.push((true, a.end - shown..a.end, b.end - shown..b.end));
        } else if !last {
            hunk.push((true, a, b));
        }
    }
    write_hunk(&hunk, &old, &new, &mut out);
    out
}

fn write_hunk(hunk: &[Stretch], old: &[&str], new: &[&str], out: &mut String) {
    let changed = hunk.iter().any(|(same, ..)| !same);
    let (Some(first), Some(last)) = (hunk.first().filter(|_| changed), hunk.last()) else { return };
    let range = |start: usize, end: usize| match end - start {
        1 => format!("{}", start + 1),
        0 => format!("{start},0"),
        count => format!("{},{count}", start + 1),
    };
    let _ = writeln!(out, "@@ -{} +{} @@", range(first.1.start, last.1.end), range(first.2.start, last.2.end));
    for (same, a, b) in hunk {
        for line in &old[a.clone()] {
            let _ = writeln!(out, "{}{line}", if *same { ' ' } else { '-' });
        }
        for line in new[b.clone()].iter().filter(|_| !same) {
            let _ = writeln!(out, "+{line}");
        }
    }
}

fn stretches(old: &[&str], new: &[&str]) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (a, b, length) in runs(old, new) {
        if i < a || j < b {
            all.push((false, i..a, j..b));
        }
        match all.last_mut() {
            Some((true, before, after)) if length > 0 => {
                before.end += length;
                after.end += length;
            }
            _ if length > 0 => all.push((true, a..a + length, b..b + length)),
            _ => {}
        }
        (i, j) = (a + length, b + length);
    }
    all
}

/// The runs that both texts have, in their order; an empty one stands at the end.
fn runs(old: &[&str], new: &[&str]) -> Vec<Run> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (j, line) in new.iter().enumerate() {
        places.entry(line).or_default().push(j);
    }
    if new.len() >= POPULAR_FROM {
        places.retain(|_, at| at.len() <= new.len() / 100 + 1);
    }
    let mut work = MAX_WORK;
    let mut found = vec![(old.len(), new.len(), 0)];
    let mut rest = vec![(0, old.len(), 0, new.len())];
    while let Some((a, a_end, b, b_end)) = rest.pop() {
        let (i, j, length) = longest(old, new, &places, (a, a_end, b, b_end), &mut work);
        if length == 0 {
            continue;
        }
        found.push((i, j, length));
        if a < i && b < j {
            rest.push((a, i, b, j));
        }
        if i + length < a_end && j + length < b_end {
            rest.push((i + length, a_end, j + length, b_end));
        }
    }
    found.sort_unstable();
    found
}

/// The longest run inside a window of both texts; of equal ones the first.
fn longest(
    old: &[&str],
    new: &[&str],
    places: &HashMap<&str, Vec<usize>>,
    (a, a_end, b, b_end): (usize, usize, usize, usize),
    work: &mut usize,
) -> Run {
    let mut best = (a, b, 0);
    let mut ending: HashMap<usize, usize> = HashMap::new();
    for (i, line) in old.iter().enumerate().take(a_end).skip(a) {
        let mut here = HashMap::new();
        let at = places.get(line).map_or(&[][..], Vec::as_slice);
        let from = at.partition_point(|j| *j < b);
        for &j in at[from..].iter().take_while(|j| **j < b_end) {
            if *work == 0 {
                return best;
            }
            *work -= 1;
            let length = 1 + j.checked_sub(1).and_then(|j| ending.get(&j)).copied().unwrap_or(0);
            here.insert(j, length);
            if length > best.2 {
                best = (i + 1 - length, j + 1 - length, length);
            }
        }
        ending = here;
    }
    let (mut i, mut j, mut length) = best;
    while i > a && j > b && old[i - 1] == new[j - 1] {
        (i, j, length) = (i - 1, j - 1, length + 1);
    }
    while i + length < a_end && j + length < b_end && old[i + length] == new[j + length] {
        length += 1;
    }
    (i, j, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hunks() {
        assert_eq!(unified("a\nb", "a\nb"), "");
        assert_eq!(unified("a\nb\nc\nd\ne\nf", "a\nb\nc\nd\nX\nf"), "@@ -2,5 +2,5 @@\n b\n c\n d\n-e\n+X\n f\n");
        assert_eq!(unified("a", "a\nb"), "@@ -1 +1,2 @@\n a\n+b\n");
        assert_eq!(unified("", "b"), "@@ -0,0 +1 @@\n+b\n");
        let (old, new) = ("x\n1\n2\n3\n4\n5\n6\n7\ny", "1\n2\n3\n4\n5\n6\n7");
        assert_eq!(unified(old, new), "@@ -1,4 +1,3 @@\n-x\n 1\n 2\n 3\n@@ -6,4 +5,3 @@\n 5\n 6\n 7\n-y\n");
        assert_eq!(unified("x\n1\n2\ny", "1\n2"), "@@ -1,4 +1,2 @@\n-x\n 1\n 2\n-y\n");
    }

    #[test]
    fn the_longest_run_counts_before_the_first_one() {
        assert_eq!(unified("a\nq\nb\nc\nd", "b\nc\nd\na"), "@@ -1,5 +1,4 @@\n-a\n-q\n b\n c\n d\n+a\n");
    }

    #[test]
    fn large_texts_are_compared_in_bounded_work() {
        let text = |every: usize| (0..10_000).map(|i| format!("{}\n", i % every)).collect::<String>();
        assert!(unified(&text(400), &text(300)).starts_with("@@ -2"));
    }
}
