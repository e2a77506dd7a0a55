//! Expressions as the parser makes them and the checker completes them.

use super::functions::Builtin;
use regex::Regex;

/// An expression, with the place in its source that errors about it name.
#[derive(Debug, Clone)]
pub(super) struct Expr {
    /// Characters before the token that the place is.
    pub(super) at: usize,
    /// Longest way down from here; the evaluation recurses this deep.
    pub(super) depth: usize,
    pub(super) kind: Kind,
}

/// What it is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Literal(Literal),
    Ident(String),
    /// `operand.field`; `test` is `has(operand.field)`, `optional` is `operand.?field`.
    Select {
        operand: Box<Expr>,
        field: String,
        test: bool,
        optional: bool,
    },
    /// `operand[index]`; `optional` is `operand[?index]`.
    Index {
        operand: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    /// Functions and operators. A target is the first of `arguments`. The checker finds what is called.
    Call {
        function: String,
        member: bool,
        arguments: Vec<Expr>,
        builtin: Option<Builtin>,
    },
    /// Both, so that long chains are not deep.
    Logic {
        and: bool,
        parts: Vec<Expr>,
    },
    Condition(Box<[Expr; 3]>),
    /// The flag is of `[?element]`.
    List(Vec<(bool, Expr)>),
    /// The flag is of `{?key: value}`.
    Map(Vec<(bool, Expr, Expr)>),
    /// A macro that goes through a list or a map.
    Fold {
        fold: Fold,
        range: Box<Expr>,
        variables: Vec<String>,
        steps: Vec<Expr>,
    },
    /// `target.optMap(variable, body)`; flat when the body is an optional itself.
    Optional {
        flat: bool,
        target: Box<Expr>,
        variable: String,
        body: Box<Expr>,
    },
    /// `cel.bind(variable, value, body)`.
    Bind {
        variable: String,
        value: Box<Expr>,
        body: Box<Expr>,
    },
}

/// A constant.
#[derive(Debug, Clone)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    /// A pattern that the checker has compiled.
    Pattern(Regex),
}

/// The macros that go through lists and maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fold {
    All,
    Exists,
    ExistsOne,
    Filter,
    /// One step: the value; two: a condition and the value.
    Map,
    TransformList,
    TransformMap,
    TransformMapEntry,
    /// The elements by what the step gives for each.
    SortBy,
}

impl Expr {
    /// The parts, in the order of the source.
    pub(super) fn children(&self) -> Vec<&Expr> {
        match &self.kind {
            Kind::Literal(_) | Kind::Ident(_) => Vec::new(),
            Kind::Select { operand, .. } => vec![operand],
            Kind::Index { operand, index, .. } => vec![operand, index],
            Kind::Call { arguments: parts, .. } | Kind::Logic { parts, .. } => parts.iter().collect(),
            Kind::Condition(parts) => parts.iter().collect(),
            Kind::List(elements) => elements.iter().map(|(_, element)| element).collect(),
            Kind::Map(entries) => entries.iter().flat_map(|(_, key, value)| [key, value]).collect(),
            Kind::Fold { range, steps, .. } => std::iter::once(&**range).chain(steps).collect(),
            Kind::Optional { target, body, .. } => vec![target, body],
            Kind::Bind { value, body, .. } => vec![value, body],
        }
    }

    /// The name, if it is one.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            _ => None,
        }
    }

    /// Whether `operand.field` occurs in it, tests and optional selections included.
    pub(super) fn selects(&self, operand: Option<&str>, wanted: &str) -> bool {
        let here = match &self.kind {
            Kind::Select { operand: of, field, .. } => {
                field == wanted && operand.is_none_or(|operand| of.name() == Some(operand))
            }
            _ => false,
        };
        here || self.children().iter().any(|child| child.selects(operand, wanted))
    }
}
