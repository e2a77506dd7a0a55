//! Label selectors.

use super::{SelectorError, parse};
use crate::meta::names;
use serde_json::Value;
use std::fmt;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// `key=value`.
    Equals,
    /// `key!=value`: holds when the label is absent, too.
    NotEquals,
    /// `key in (a,b)`.
    In,
    /// `key notin (a,b)`: holds when the label is absent, too.
    NotIn,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>1`.
    GreaterThan,
    /// `key<1`.
    LessThan,
}

/// One requirement of a label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// How the value is compared.
    pub operator: Operator,
    /// Values, sorted.
    pub values: Vec<String>,
}

/// A label selector: all requirements must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Requirement {
    pub(super) fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, SelectorError> {
        values.sort();
        values.dedup();
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                return Err(SelectorError(
                    "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".into(),
                ));
            }
            Operator::GreaterThan | Operator::LessThan if !values.iter().all(|v| v.parse::<i64>().is_ok()) => {
                let value = values.first().map_or("", String::as_str);
                return Err(SelectorError(format!(
                    "values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                )));
            }
            _ => {}
        }
        check_key(key)?;
        for (i, value) in values.iter().enumerate() {
            check_value(key, i, value)?;
        }
        Ok(Requirement { key: key.to_owned(), operator, values })
    }

    fn holds(&self, value: Option<&str>) -> bool {
        let among = |v: &str| self.values.iter().any(|x| x == v);
        let number = |compare: fn(&i64, &i64) -> bool| {
            let left = value.and_then(|v| v.parse::<i64>().ok());
            let right = self.values.first().and_then(|v| v.parse::<i64>().ok());
            matches!((left, right), (Some(l), Some(r)) if compare(&l, &r))
        };
        match self.operator {
            Operator::Equals | Operator::In => value.is_some_and(among),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => number(i64::gt),
            Operator::LessThan => number(i64::lt),
        }
    }
}

impl LabelSelector {
    /// Matches everything.
    pub fn everything() -> Self {
        LabelSelector { requirements: Vec::new(), nothing: false }
    }

    /// Matches nothing.
    pub fn nothing() -> Self {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// Reads the form of a query parameter: `app=web,tier in (a,b),!canary`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self::of(parse::labels(text)?))
    }

    /// Reads a `LabelSelector` object; null selects nothing, an empty one everything.
    pub fn from_object(object: &Value) -> Result<Self, SelectorError> {
        if object.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in object.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or("").to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or("");
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(text("key"), operator, values)?);
        }
        Ok(Self::of(requirements))
    }

    /// Reads a plain map of labels, such as a Service's selector.
    pub fn from_map(map: &Value) -> Self {
        let labels = map.as_object().into_iter().flatten();
        Self::of(
            labels
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    operator: Operator::Equals,
                    values: vec![value.as_str().unwrap_or("").to_owned()],
                })
                .collect(),
        )
    }

    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }

    /// Whether it matches every object.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether labels match; `label` looks one up.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.holds(label(&r.key)))
    }

    /// Whether the labels of an object match.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(|key| crate::meta::label(object, key))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let values = r.values.join(",");
            match r.operator {
                Operator::Equals => write!(f, "{}={values}", r.key),
                Operator::NotEquals => write!(f, "{}!={values}", r.key),
                Operator::In => write!(f, "{} in ({values})", r.key),
                Operator::NotIn => write!(f, "{} notin ({values})", r.key),
                Operator::Exists => f.write_str(&r.key),
                Operator::DoesNotExist => write!(f, "!{}", r.key),
                Operator::GreaterThan => write!(f, "{}>{values}", r.key),
                Operator::LessThan => write!(f, "{}<{values}", r.key),
            }?;
        }
        Ok(())
    }
}

pub(super) fn check_key(key: &str) -> Result<(), SelectorError> {
    let wrong = names::qualified_name(key);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(SelectorError(format!("key: Invalid value: {key:?}: {}", wrong.join("; "))))
}

fn check_value(key: &str, index: usize, value: &str) -> Result<(), SelectorError> {
    let wrong = names::label_value(value);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(SelectorError(format!("values[{index}][{key}]: Invalid value: {value:?}: {}", wrong.join("; "))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn check(selector: &str, labels: &Value, expect: bool) {
        let parsed = LabelSelector::parse(selector).unwrap();
        assert_eq!(parsed.matches(|key| labels[key].as_str()), expect, "{selector} on {labels}");
    }

    #[test]
    fn requirements_match_as_upstream() {
        let web = json!({"app": "web", "tier": "front", "n": "7"});
        for selector in [
            "",
            "app=web",
            "app==web",
            "app = web , tier!=back",
            "app in (web, db)",
            "x notin (a)",
            "app",
            "!x",
            "n>6",
            "n < 8",
            "x!=1",
            "tier notin (back),app",
        ] {
            check(selector, &web, true);
        }
        for selector in ["app=db", "x", "!app", "app notin (web)", "n>7", "app>1", "x=", "x in (,a)"] {
            check(selector, &web, false);
        }
        check("x=", &json!({"x": ""}), true);
        check("in in (in,notin)", &json!({"in": "notin"}), true);
    }

    #[test]
    fn objects_select_everything_or_nothing() {
        assert!(LabelSelector::from_object(&json!({})).unwrap().is_everything());
        assert!(!LabelSelector::from_object(&Value::Null).unwrap().matches(|_| None));
        let selector = json!({"matchLabels": {"b": "1", "a": "2"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["z", "y"]}, {"key": "d", "operator": "DoesNotExist"}]});
        let parsed = LabelSelector::from_object(&selector).unwrap();
        assert_eq!(parsed.to_string(), "a=2,b=1,c in (y,z),!d");
        assert_eq!(LabelSelector::parse(&parsed.to_string()).unwrap(), parsed);
        let wrong = json!({"matchExpressions": [{"key": "c", "operator": "Foo"}]});
        let error = LabelSelector::from_object(&wrong).unwrap_err();
        assert_eq!(error.to_string(), r#""Foo" is not a valid label selector operator"#);
    }

    #[test]
    fn errors_say_what_was_expected() {
        let check = |text: &str, expect: &str| assert_eq!(LabelSelector::parse(text).unwrap_err().0, expect, "{text}");
        check("a=b,,", "found ',', expected: identifier after ','");
        check("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        check("a in", "unable to parse requirement: found '' expected: '('");
        check("a in (b", "unable to parse requirement: found '', expected: ',' or ')'");
        check("=b", "found '=', expected: !, identifier, or 'end of string'");
        check("a=b c", "found 'c', expected: ',' or 'end of string'");
        check(
            "a in ()",
            "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
        );
        assert!(
            LabelSelector::parse("-a=b")
                .unwrap_err()
                .0
                .starts_with("unable to parse requirement: key: Invalid value: \"-a\": name part must consist of")
        );
    }
}
