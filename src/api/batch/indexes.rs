//! Sets of completion indexes, as a Job's status and policies write them: `1,3-5,7`.

use std::fmt;

/// A set of indexes as intervals: ordered, apart from each other, both ends included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes {
    intervals: Vec<(i64, i64)>,
}

/// Why a text is no set of indexes below a limit; worded as clients know it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// More than two ends.
    #[error(
        "the fragment {0:?} violates the requirement that an index interval can have at most two parts separated by '-'"
    )]
    Parts(String),
    /// Not a number.
    #[error("cannot convert string to integer for index: {0:?}")]
    Number(String),
    /// Not below the number of completions.
    #[error("too large index: {0:?}")]
    TooLarge(String),
    /// Not in order.
    #[error("non-increasing order, previous: {0}, current: {1}")]
    Order(i64, i64),
}

fn index(text: &str, completions: i64) -> Result<i64, IndexError> {
    let number: i64 = text.parse().map_err(|_| IndexError::Number(text.to_owned()))?;
    if number >= completions { Err(IndexError::TooLarge(text.to_owned())) } else { Ok(number) }
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), IndexError> {
    let mut ends = text.split('-');
    let (first, last) = (ends.next().unwrap_or(""), ends.next());
    if ends.next().is_some() {
        return Err(IndexError::Parts(text.to_owned()));
    }
    let first = index(first, completions)?;
    let Some(last) = last else { return Ok((first, first)) };
    let last = index(last, completions)?;
    if first >= last { Err(IndexError::Order(first, last)) } else { Ok((first, last)) }
}

impl Indexes {
    /// Reads a set of indexes below `completions`.
    pub fn parse(text: &str, completions: i64) -> Result<Self, IndexError> {
        let mut set = Self::default();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = interval(part, completions)?;
            if let Some((_, before)) = set.intervals.last().filter(|(_, before)| *before >= first) {
                return Err(IndexError::Order(*before, first));
            }
            set.intervals.push((first, last));
        }
        Ok(set)
    }

    /// Reads what can be read of a status that was written by a larger Job: what is not below
    /// `completions` is left out.
    pub fn parse_below(text: &str, completions: i64) -> Self {
        let intervals = text.split(',').filter_map(|part| interval(part, i64::MAX).ok());
        let all = intervals.filter(|(first, _)| *first < completions);
        Self { intervals: all.map(|(first, last)| (first, last.min(completions - 1))).collect() }
    }

    /// How many they are.
    pub fn total(&self) -> i64 {
        self.intervals.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// Whether it is among them.
    pub fn contains(&self, index: i64) -> bool {
        let after = self.intervals.partition_point(|(_, last)| *last < index);
        self.intervals.get(after).is_some_and(|(first, _)| *first <= index)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        self.intervals.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// These and those, which are in order.
    #[must_use]
    pub fn with(&self, ordered: &[i64]) -> Self {
        let mut more = ordered.iter().map(|index| (*index, *index)).peekable();
        let mut old = self.intervals.iter().copied().peekable();
        let mut set = Self::default();
        loop {
            let next = match (old.peek(), more.peek()) {
                (Some(a), Some(b)) if a.0 <= b.0 => old.next(),
                (_, Some(_)) => more.next(),
                _ => old.next(),
            };
            let Some((first, last)) = next else { return set };
            match set.intervals.last_mut() {
                Some(before) if before.1 + 1 >= first => before.1 = before.1.max(last),
                _ => set.intervals.push((first, last)),
            }
        }
    }

    /// The first that is in both.
    pub fn overlap(&self, other: &Self) -> Option<i64> {
        let (mut a, mut b) = (self.intervals.iter().peekable(), other.intervals.iter().peekable());
        while let (Some((a_first, a_last)), Some((b_first, b_last))) = (a.peek(), b.peek()) {
            if a_first <= b_last && b_first <= a_last {
                return Some(*a_first.max(b_first));
            }
            if a_last < b_last {
                a.next();
            } else {
                b.next();
            }
        }
        None
    }
}

impl FromIterator<i64> for Indexes {
    fn from_iter<I: IntoIterator<Item = i64>>(indexes: I) -> Self {
        let mut all: Vec<i64> = indexes.into_iter().collect();
        all.sort_unstable();
        Self::default().with(&all)
    }
}

/// Two neighbours are written one by one, more of them by their ends.
impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.intervals.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn sets_are_read_and_written() {
        let check = |text: &str, expect: Result<i64, &str>| {
            let got = Indexes::parse(text, 10).map(|set| set.total()).map_err(|e| e.to_string());
            assert_eq!(got, expect.map_err(str::to_owned), "{text}");
        };
        check("", Ok(0));
        check("0,2-4,9", Ok(5));
        check(
            "1-2-3",
            Err(
                "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
            ),
        );
        check("a", Err("cannot convert string to integer for index: \"a\""));
        check("1-b", Err("cannot convert string to integer for index: \"b\""));
        check("10", Err("too large index: \"10\""));
        check("3-3", Err("non-increasing order, previous: 3, current: 3"));
        check("3,2", Err("non-increasing order, previous: 3, current: 2"));
    }

    #[test]
    fn sets_grow_meet_and_shrink() {
        let set = Indexes::parse("1,3-5", 100).unwrap();
        assert_eq!(set.with(&[2, 7, 8]).to_string(), "1-5,7,8");
        assert_eq!(set.with(&[0, 4]).to_string(), "0,1,3-5");
        assert!(set.contains(4) && !set.contains(2) && !set.contains(6));
        assert_eq!(set.overlap(&Indexes::parse("2,5-9", 100).unwrap()), Some(5));
        assert_eq!(set.overlap(&Indexes::parse("2,6-9", 100).unwrap()), None);
        assert_eq!(Indexes::parse_below("1,3-5,9", 4).to_string(), "1,3");
        assert_eq!([4, 1, 2, 3].into_iter().collect::<Indexes>().iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
}
