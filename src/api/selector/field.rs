//! Field selectors.

use super::SelectorError;
use std::fmt;

/// One requirement of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Field, such as `metadata.name`.
    pub field: String,
    /// Whether the value must be that one (else it must be another).
    pub equal: bool,
    /// Value.
    pub value: String,
}

/// A field selector: all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Reads the form of a query parameter: `metadata.name=a,status.phase!=Running`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for part in split_terms(text).into_iter().filter(|p| !p.is_empty()) {
            let Some((field, operator, value)) = split_term(part) else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            let value = unescape(value)?;
            requirements.push(FieldRequirement { field: field.to_owned(), equal: operator != "!=", value });
        }
        Ok(Self::of(requirements))
    }

    /// Of these requirements.
    pub fn of(mut requirements: Vec<FieldRequirement>) -> Self {
        requirements.sort_by(|a, b| a.field.cmp(&b.field));
        Self { requirements }
    }

    /// The requirements, sorted by field.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// The same requirements under other names, or the first error.
    pub fn renamed<E>(mut self, name: impl Fn(&str) -> Result<String, E>) -> Result<Self, E> {
        for requirement in &mut self.requirements {
            requirement.field = name(&requirement.field)?;
        }
        Ok(self)
    }

    /// Whether it matches every object.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that a field must have, if the selector says so: `metadata.name=a` makes a list a get.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }

    /// Whether fields match; `field` looks one up, an absent one counts as empty.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| (field(&r.field).unwrap_or("") == r.value) == r.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if r.equal { "=" } else { "!=" };
            let value = r.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", r.field)?;
        }
        Ok(())
    }
}

/// Splits at commas that are not escaped.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// Splits at the first operator.
fn split_term(term: &str) -> Option<(&str, &str, &str)> {
    (0..term.len()).filter(|at| term.is_char_boundary(*at)).find_map(|at| {
        let operator = ["!=", "==", "="].into_iter().find(|op| term[at..].starts_with(op))?;
        Some((&term[..at], operator, &term[at + operator.len()..]))
    })
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => {
                    return Err(SelectorError(format!("invalid field selector: invalid escape sequence: \\{c}")));
                }
                None => return Err(SelectorError("invalid field selector: invalid escape sequence: \\".into())),
            },
            '=' | ',' => {
                return Err(SelectorError(format!("invalid field selector: unescaped character in value: {c}")));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn fields_match() {
        let selector = FieldSelector::parse("spec.nodeName=,status.phase!=Running,metadata.name==a").unwrap();
        assert_eq!(selector.exact("metadata.name"), Some("a"));
        assert!(selector.matches(|f| (f == "metadata.name").then_some("a")));
        assert!(!selector.matches(|f| if f == "metadata.name" { Some("a") } else { Some("Running") }));
        assert_eq!(selector.to_string(), "metadata.name=a,spec.nodeName=,status.phase!=Running");
        assert!(FieldSelector::parse("").unwrap().is_everything());
    }

    #[test]
    fn values_may_be_escaped() {
        let selector = FieldSelector::parse(r"a=b\,c\=d\\").unwrap();
        assert_eq!(selector.exact("a"), Some(r"b,c=d\"));
        assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        assert_eq!(FieldSelector::parse("foo").unwrap_err().0, "invalid selector: 'foo'; can't understand 'foo'");
    }
}
