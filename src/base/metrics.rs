//! The text form of metrics (Prometheus, version 0.0.4), and histograms.

use std::fmt::{Display, Write};
use std::time::Duration;

/// A part of the process that counts things of its own.
pub trait Source: std::fmt::Debug + Send + Sync {
    /// Writes what it has counted.
    fn render(&self, out: &mut Text);
}

/// Metrics as text.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family of samples.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        self.labels(labels, None);
        let _ = writeln!(self.0, " {value}");
    }

    /// A family with one sample.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The samples of a histogram.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut count = 0;
        for (at, more) in histogram.counts.iter().enumerate() {
            count += more;
            let bound = histogram.bounds.get(at).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            let _ = write!(self.0, "{name}_bucket");
            self.labels(labels, Some(("le", &bound)));
            let _ = writeln!(self.0, " {count}");
        }
        for (suffix, value) in [("sum", histogram.sum), ("count", count as f64)] {
            let _ = write!(self.0, "{name}_{suffix}");
            self.labels(labels, None);
            let _ = writeln!(self.0, " {value}");
        }
    }

    fn labels(&mut self, labels: &[(&str, &str)], more: Option<(&str, &str)>) {
        let mut open = '{';
        for (name, value) in labels.iter().copied().chain(more) {
            let _ = write!(self.0, "{open}{name}=\"");
            for c in value.chars() {
                match c {
                    '"' | '\\' => self.0.extend(['\\', c]),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
            open = ',';
        }
        if open == ',' {
            self.0.push('}');
        }
    }

    /// All of it.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// How often values were at most so large.
#[derive(Debug, Clone)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last counts what is larger than all.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Without any values.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Of what was counted elsewhere: how many up to each bound and not up to the one before, and beyond the last.
    pub fn of(bounds: &'static [f64], counts: Vec<u64>, sum: f64) -> Self {
        Self { bounds, counts, sum }
    }

    /// Both together, of the same bounds.
    pub fn plus(&self, other: &Self) -> Self {
        debug_assert_eq!(self.bounds, other.bounds);
        let counts = self.counts.iter().zip(&other.counts).map(|(a, b)| a + b).collect();
        Self { bounds: self.bounds, counts, sum: self.sum + other.sum }
    }

    /// Counts a duration, in seconds.
    pub fn observe(&mut self, duration: Duration) {
        self.add(duration.as_secs_f64());
    }

    /// Counts a value.
    pub fn add(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut text = Text::default();
        text.family("a_total", "counter", "Things.");
        text.sample("a_total", &[("x", "a\"\\b\n"), ("y", "")], 3);
        text.single("b", "gauge", "One.", 1.5);
        let mut histogram = Histogram::new(&[0.5, 1.0]);
        for value in [0.5, 0.75, 2.0] {
            histogram.add(value);
        }
        text.family("h", "histogram", "Times.");
        text.histogram("h", &[("v", "GET")], &histogram);
        let expect = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"a\\\"\\\\b\\n\",y=\"\"} 3\n\
            # HELP b One.\n# TYPE b gauge\nb 1.5\n\
            # HELP h Times.\n# TYPE h histogram\n\
            h_bucket{v=\"GET\",le=\"0.5\"} 1\nh_bucket{v=\"GET\",le=\"1\"} 2\nh_bucket{v=\"GET\",le=\"+Inf\"} 3\n\
            h_sum{v=\"GET\"} 3.25\nh_count{v=\"GET\"} 3\n";
        assert_eq!(text.into_string(), expect);
    }
}
