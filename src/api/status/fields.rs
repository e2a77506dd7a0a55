//! The collector of an object's field errors, and the path to a field.

use super::StatusCause;
use serde_json::Value;
use std::fmt::{self, Display};

/// The path to a field, built on the way down and written out only when something is wrong.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    part: Part<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Part<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The path of a field of the object itself.
    pub fn root(field: &'a str) -> Self {
        Self { parent: None, part: Part::Field(field) }
    }

    /// The path of a field of this one.
    pub fn child(&'a self, field: &'a str) -> Path<'a> {
        Path { parent: Some(self), part: Part::Field(field) }
    }

    /// The path of an item of this list.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), part: Part::Index(index) }
    }

    /// The same place under another name.
    pub fn named(self, field: &'a str) -> Path<'a> {
        Path { part: Part::Field(field), ..self }
    }

    /// The path of an entry of this map.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), part: Part::Key(key) }
    }
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.part {
            Part::Field(name) if self.parent.is_some() => write!(f, ".{name}"),
            Part::Field(name) => f.write_str(name),
            Part::Index(index) => write!(f, "[{index}]"),
            Part::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// A value shown in an error, as upstream shows it.
pub trait BadValue {
    /// Quoted strings, plain numbers and booleans, JSON for all else.
    fn show(&self) -> String;
}

/// A string in double quotes with control characters escaped.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A value already written out as it is to be shown.
#[derive(Debug, Clone)]
pub struct Shown(pub String);

impl BadValue for Shown {
    fn show(&self) -> String {
        self.0.clone()
    }
}

impl BadValue for str {
    fn show(&self) -> String {
        quote(self)
    }
}

impl BadValue for String {
    fn show(&self) -> String {
        quote(self)
    }
}

impl BadValue for Value {
    fn show(&self) -> String {
        match self {
            Value::String(text) => quote(text),
            other => other.to_string(),
        }
    }
}

impl BadValue for serde_json::Map<String, Value> {
    fn show(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl<T: BadValue + ?Sized> BadValue for &T {
    fn show(&self) -> String {
        (**self).show()
    }
}

impl<T: BadValue> BadValue for Option<T> {
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "null".to_owned(), BadValue::show)
    }
}

macro_rules! plain {
    ($($t:ty),*) => { $(impl BadValue for $t {
        fn show(&self) -> String {
            self.to_string()
        }
    })* };
}
plain!(i32, i64, u32, u64, usize, bool);

/// Collects the errors of one object's fields.
#[derive(Debug, Default, Clone)]
pub struct FieldErrors {
    causes: Vec<StatusCause>,
}

/// More causes than this say nothing new; the rest is dropped to bound the answer.
const MAX_CAUSES: usize = 1000;

impl FieldErrors {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    /// How many errors there are.
    pub fn len(&self) -> usize {
        self.causes.len()
    }

    /// The errors found so far.
    pub fn causes(&self) -> &[StatusCause] {
        &self.causes
    }

    /// The errors themselves.
    pub fn into_causes(self) -> Vec<StatusCause> {
        self.causes
    }

    /// Each error as `path: message`.
    pub fn messages(&self) -> Vec<String> {
        self.causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    /// Takes the errors of another collector.
    pub fn extend(&mut self, other: FieldErrors) {
        self.causes.extend(other.causes);
        self.causes.truncate(MAX_CAUSES);
    }

    /// All errors in one line, each once: bare when there is one, else in brackets.
    pub fn aggregate(&self) -> Option<String> {
        let mut unique: Vec<String> = Vec::new();
        for message in self.messages() {
            if !unique.contains(&message) {
                unique.push(message);
            }
        }
        match unique.len() {
            0 => None,
            1 => unique.pop(),
            _ => Some(format!("[{}]", unique.join(", "))),
        }
    }

    fn push(&mut self, reason: &str, path: impl Display, mut message: String, detail: &str) {
        if self.causes.len() >= MAX_CAUSES {
            return;
        }
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(detail);
        }
        self.causes.push(StatusCause { reason: reason.to_owned(), message, field: path.to_string() });
    }

    /// `Required value`.
    pub fn required(&mut self, path: impl Display, detail: &str) {
        self.push("FieldValueRequired", path, "Required value".to_owned(), detail);
    }

    /// `Invalid value: "x": detail`.
    pub fn invalid(&mut self, path: impl Display, value: impl BadValue, detail: &str) {
        self.push("FieldValueInvalid", path, format!("Invalid value: {}", value.show()), detail);
    }

    /// `Invalid value: detail`, where the value would say too much.
    pub fn invalid_whole(&mut self, path: impl Display, detail: &str) {
        self.push("FieldValueInvalid", path, "Invalid value".to_owned(), detail);
    }

    /// `Unsupported value: "x": supported values: "A", "B"`.
    pub fn not_supported(&mut self, path: impl Display, value: impl BadValue, supported: &[&str]) {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|s| quote(s)).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        let message = format!("Unsupported value: {}", value.show());
        self.push("FieldValueNotSupported", path, message, &detail);
    }

    /// `Forbidden: detail`.
    pub fn forbidden(&mut self, path: impl Display, detail: &str) {
        self.push("FieldValueForbidden", path, "Forbidden".to_owned(), detail);
    }

    /// `Duplicate value: "x"`.
    pub fn duplicate(&mut self, path: impl Display, value: impl BadValue) {
        self.push("FieldValueDuplicate", path, format!("Duplicate value: {}", value.show()), "");
    }

    /// `Duplicate value: "x": detail`.
    pub fn duplicate_because(&mut self, path: impl Display, value: impl BadValue, detail: &str) {
        self.push("FieldValueDuplicate", path, format!("Duplicate value: {}", value.show()), detail);
    }

    /// `Not found: "x"`.
    pub fn not_found(&mut self, path: impl Display, value: impl BadValue) {
        self.push("FieldValueNotFound", path, format!("Not found: {}", value.show()), "");
    }

    /// `Not found: "x": detail`.
    pub fn not_found_because(&mut self, path: impl Display, value: impl BadValue, detail: &str) {
        self.push("FieldValueNotFound", path, format!("Not found: {}", value.show()), detail);
    }

    /// `Too long: may not be more than 63 bytes`. The value itself is not shown.
    pub fn too_long(&mut self, path: impl Display, max_bytes: usize) {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {max_bytes} {unit}");
        self.push("FieldValueTooLong", path, "Too long".to_owned(), &detail);
    }

    /// `Too many: 5: must have at most 3 items`.
    pub fn too_many(&mut self, path: impl Display, actual: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        self.push("FieldValueTooMany", path, format!("Too many: {actual}"), &detail);
    }

    /// `Invalid value: "x": field is immutable`.
    pub fn immutable(&mut self, path: impl Display, value: impl BadValue) {
        self.invalid(path, value, "field is immutable");
    }

    /// `Internal error: detail`.
    pub fn internal(&mut self, path: impl Display, detail: &str) {
        self.push("InternalError", path, "Internal error".to_owned(), detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_upstream_writes_them() {
        let spec = Path::root("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        assert_eq!(first.child("image").to_string(), "spec.containers[0].image");
        let data = Path::root("data");
        assert_eq!(data.key("a.b").to_string(), "data[a.b]");
    }

    #[test]
    fn values_are_shown_by_type() {
        let mut errors = FieldErrors::default();
        errors.invalid("a", "x\n\"", "d");
        errors.invalid("a", serde_json::json!({"k": [1, "s"]}), "field is immutable");
        errors.invalid("a", None::<&str>, "d");
        errors.not_supported("a", "Y", &["A", "B"]);
        errors.too_many("a", 5, 1);
        errors.too_long("a", 63);
        errors.forbidden("a", "");
        assert_eq!(
            errors.messages(),
            [
                r#"a: Invalid value: "x\n\"": d"#,
                r#"a: Invalid value: {"k":[1,"s"]}: field is immutable"#,
                "a: Invalid value: null: d",
                r#"a: Unsupported value: "Y": supported values: "A", "B""#,
                "a: Too many: 5: must have at most 1 item",
                "a: Too long: may not be more than 63 bytes",
                "a: Forbidden",
            ]
        );
    }
}
