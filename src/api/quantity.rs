//! Quantities such as `100m` and `1536Mi`: exact fixed-point numbers with upstream's canonical form.

use std::cmp::Ordering;
use std::fmt;

/// Billionths in one unit: nothing finer is kept.
const NANO: i128 = 1_000_000_000;
/// Larger magnitudes are capped, as upstream caps them.
const MAX_NANO: i128 = (i64::MAX as i128) * NANO;
/// More significant digits than this cannot matter.
const MAX_DIGITS: usize = 30;

const DECIMAL: [(&str, i32); 9] =
    [("E", 18), ("P", 15), ("T", 12), ("G", 9), ("M", 6), ("k", 3), ("", 0), ("m", -3), ("u", -6)];
const BINARY: [(&str, u32); 6] = [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];

/// The family of suffixes that a quantity was written with and is printed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

/// A number of bytes, cores, or anything else that is counted.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// A number with an unknown suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The multiplier of a suffix: a power of two and a power of ten.
fn scale(suffix: &str) -> Option<(u32, i32, Format)> {
    if suffix == "n" {
        return Some((0, -9, Format::Decimal));
    }
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((0, *exponent, Format::Decimal));
    }
    if let Some((_, bits)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Some((*bits, 0, Format::Binary));
    }
    let rest = suffix.strip_prefix(['e', 'E'])?;
    let exponent: i64 = rest.strip_prefix('+').unwrap_or(rest).parse().ok()?;
    Some((0, exponent.clamp(-60, 60) as i32, Format::Exponent))
}

impl Quantity {
    /// Zero.
    pub const ZERO: Quantity = Quantity { nano: 0, format: Format::Decimal };

    /// Reads a quantity as written by a user.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError::Format);
        }
        let known = suffix.chars().all(|c| "eEinumkKMGTP+-0123456789".contains(c));
        if !known {
            return Err(QuantityError::Format);
        }
        let (bits, exponent, format) = scale(suffix).ok_or(QuantityError::Suffix)?;
        let magnitude = magnitude(whole, fraction, bits, exponent);
        let nano = if negative { -magnitude } else { magnitude };
        Ok(Self { nano, format })
    }

    /// A whole number.
    pub fn from_value(value: i64) -> Self {
        Self { nano: i128::from(value) * NANO, format: Format::Decimal }
    }

    /// A whole number of bytes, printed with binary suffixes.
    pub fn from_bytes(value: i64) -> Self {
        Self { nano: i128::from(value) * NANO, format: Format::Binary }
    }

    /// A number of thousandths.
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * (NANO / 1000), format: Format::Decimal }
    }

    /// The value, rounded up to a whole number.
    pub fn value(&self) -> i64 {
        clamp(ceil_div(self.nano, NANO))
    }

    /// The value in thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        clamp(ceil_div(self.nano, NANO / 1000))
    }

    /// How many times the other goes into this one; not exact, and infinite by zero.
    pub fn ratio(&self, by: Quantity) -> f64 {
        self.nano as f64 / by.nano as f64
    }

    /// The next whole number, if this is none.
    pub fn rounded_up(self) -> Self {
        Self { nano: ceil_div(self.nano, NANO).clamp(-MAX_NANO / NANO, MAX_NANO / NANO) * NANO, ..self }
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// Whether it is a whole number.
    pub fn is_integer(&self) -> bool {
        self.nano % NANO == 0
    }

    /// Whether nothing finer than a thousandth is in it.
    pub fn is_milli(&self) -> bool {
        self.nano % (NANO / 1000) == 0
    }

    /// Zero takes the other's format, so that sums print as their parts do.
    fn sum_format(self, other: Quantity) -> Format {
        if self.is_zero() { other.format } else { self.format }
    }

    fn write_decimal(nano: i128, format: Format, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if nano == 0 {
            return f.write_str("0");
        }
        let mut mantissa = nano;
        let mut exponent = -9;
        while mantissa % 1000 == 0 && exponent < 18 {
            mantissa /= 1000;
            exponent += 3;
        }
        if format == Format::Exponent {
            return if exponent == 0 { write!(f, "{mantissa}") } else { write!(f, "{mantissa}e{exponent}") };
        }
        let suffix = DECIMAL.iter().find(|(_, e)| *e == exponent).map_or("n", |(s, _)| s);
        write!(f, "{mantissa}{suffix}")
    }
}

/// `whole.fraction × 2^bits × 10^exponent` in billionths, rounded away from zero and capped.
fn magnitude(whole: &str, fraction: &str, bits: u32, exponent: i32) -> i128 {
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let leading = digits.iter().take_while(|d| **d == b'0').count();
    let significant = &digits[leading..];
    let used = significant.len().min(MAX_DIGITS);
    let dropped = significant.len() - used;
    let mut value: i128 = significant[..used].iter().fold(0, |n, d| n * 10 + i128::from(d - b'0'));
    if value == 0 {
        return 0;
    }
    let point = exponent as i64 + 9 - fraction.len() as i64 + dropped as i64;
    let mut inexact = significant[used..].iter().any(|d| *d != b'0');
    if bits > 0 {
        let Some(scaled) = value.checked_mul(1 << bits.min(60)) else {
            return binary_overflow(value, bits, point);
        };
        value = scaled;
    }
    if point >= 0 {
        for _ in 0..point.min(80) {
            value = value.saturating_mul(10).min(MAX_NANO);
        }
    } else {
        for _ in 0..(-point).min(120) {
            inexact |= value % 10 != 0;
            value /= 10;
        }
    }
    if inexact {
        value += 1;
    }
    value.min(MAX_NANO)
}

/// As `magnitude` for mantissas so long that the binary factor comes last.
fn binary_overflow(mut value: i128, bits: u32, point: i64) -> i128 {
    for _ in 0..(-point).clamp(0, 120) {
        value /= 10;
    }
    for _ in 0..point.clamp(0, 80) {
        value = value.saturating_mul(10).min(MAX_NANO);
    }
    value.saturating_mul(1 << bits.min(60)).min(MAX_NANO)
}

fn ceil_div(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by > 0 { quotient + 1 } else { quotient }
}

fn clamp(value: i128) -> i64 {
    value.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that allows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.nano / NANO;
        let binary = self.format == Format::Binary && self.is_integer() && whole.abs() >= 1024;
        if !binary {
            let format = if self.format == Format::Binary { Format::Decimal } else { self.format };
            return Self::write_decimal(self.nano, format, f);
        }
        for (suffix, bits) in BINARY {
            if whole % (1 << bits) == 0 {
                return write!(f, "{}{suffix}", whole / (1 << bits));
            }
        }
        write!(f, "{whole}")
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;

    /// The sum, in the left one's format.
    fn add(self, other: Quantity) -> Quantity {
        Self { nano: (self.nano + other.nano).clamp(-MAX_NANO, MAX_NANO), format: self.sum_format(other) }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;

    /// The difference, in the left one's format.
    fn sub(self, other: Quantity) -> Quantity {
        Self { nano: (self.nano - other.nano).clamp(-MAX_NANO, MAX_NANO), format: self.sum_format(other) }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("0Mi", "0"),
            ("100m", "100m"),
            ("0.1", "100m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1023", "1023"),
            ("1000", "1k"),
            ("1234567", "1234567"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("1E", "1E"),
            ("1.25k", "1250"),
            ("-100m", "-100m"),
            ("0.1n", "1n"),
            ("100Ei", "9223372036854775807"),
            ("007", "7"),
        ];
        for (text, expect) in cases {
            assert_eq!(Quantity::parse(text).expect(text).to_string(), expect, "{text}");
        }
    }

    #[test]
    fn malformed_texts_are_refused() {
        for text in ["", "x", "1.2.3", "-", "1 Gi", "Mi", "1é"] {
            assert_eq!(Quantity::parse(text).expect_err(text), QuantityError::Format, "{text}");
        }
        for text in ["1mi", "1KiB", "1GG", "1e", "1K"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
        let long = format!("{}.{}Gi", "9".repeat(5000), "1".repeat(5000));
        assert_eq!(Quantity::parse(&long).expect("a number").value(), i64::MAX);
    }

    #[test]
    fn values_round_up_and_compare() {
        let parse = |t| Quantity::parse(t).expect("a number");
        assert_eq!(parse("1100m").value(), 2);
        assert_eq!(parse("0.0001").milli_value(), 1);
        assert_eq!(parse("64Mi").value(), 64 << 20);
        assert_eq!(parse("1Gi"), parse("1024Mi"));
        assert!(parse("999m") < parse("1"));
        assert_eq!((Quantity::ZERO + parse("512Mi") + parse("512Mi")).to_string(), "1Gi");
        assert_eq!((parse("1") - parse("250m")).to_string(), "750m");
    }
}
