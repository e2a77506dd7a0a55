//! The Common Expression Language: expressions are parsed and checked once, and evaluated within a budget.
//!
//! Ours rather than a crate's: what there is has no types, so that mistakes would show only when a request comes, no
//! costs, and brings a second parser runtime.

mod addresses;
mod ast;
mod check;
mod conversions;
mod eval;
mod formats;
mod functions;
mod lexer;
mod lists;
mod opaque;
mod parser;
mod quantities;
mod strings;
mod times;
mod types;
mod urls;
mod value;
mod versions;

pub use eval::EvalError;
pub use opaque::Opaque;
pub use types::{ObjectType, Type};
pub use value::{Key, Value};

use std::fmt::{self, Display};

/// What one evaluation may cost, as upstream has it for each call.
pub const USUAL_LIMIT: u64 = 1_000_000;

/// The variables that an expression may name.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: Vec<(String, Type)>,
}

impl Environment {
    /// With these variables.
    pub fn new(variables: impl IntoIterator<Item = (&'static str, Type)>) -> Self {
        Self { variables: variables.into_iter().map(|(name, of)| (name.to_owned(), of)).collect() }
    }

    fn variable(&self, name: &str) -> Option<&Type> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, of)| of)
    }
}

/// Something wrong at a place.
#[derive(Debug, Clone, PartialEq)]
struct Issue {
    at: usize,
    text: String,
}

/// Why an expression cannot be used, with the places.
#[derive(Debug, Clone, PartialEq)]
pub struct CompileError {
    source: String,
    issues: Vec<Issue>,
}

impl std::error::Error for CompileError {}

impl Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.issues.iter().enumerate() {
            let before: String = self.source.chars().take(issue.at).collect();
            let number = before.matches('\n').count();
            let column = before.chars().rev().take_while(|c| *c != '\n').count();
            let line = self.source.split('\n').nth(number).unwrap_or_default();
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}ERROR: <input>:{}:{}: {}", number + 1, column + 1, issue.text)?;
            // Wide characters get wide marks, so that the columns meet.
            let mark = |c: char, narrow: char, wide: char| if c.len_utf8() > 1 { wide } else { narrow };
            let dots: String = line.chars().take(column).map(|c| mark(c, '.', '\u{ff0e}')).collect();
            let caret = mark(line.chars().nth(column).unwrap_or(' '), '^', '\u{ff3e}');
            write!(f, "\n | {}\n | {dots}{caret}", line.replace('\t', " "))?;
        }
        Ok(())
    }
}

/// An expression that is ready to be evaluated.
#[derive(Debug, Clone)]
pub struct Program {
    source: String,
    expr: ast::Expr,
    output: Type,
}

impl Program {
    /// Reads and checks an expression.
    pub fn compile(source: &str, environment: &Environment) -> Result<Self, CompileError> {
        let failed = |issues| CompileError { source: source.to_owned(), issues };
        let mut expr = parser::parse(source).map_err(|issue| failed(vec![issue]))?;
        let output = check::check(&mut expr, environment).map_err(failed)?;
        Ok(Self { source: source.to_owned(), expr, output })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of its value, as far as it is known.
    pub fn output(&self) -> &Type {
        &self.output
    }

    /// Whether `operand.field` occurs in it; without an operand, any selection of the field.
    pub fn selects(&self, operand: Option<&str>, field: &str) -> bool {
        self.expr.selects(operand, field)
    }

    /// Its value for these variables, at a cost of at most `limit`.
    pub fn evaluate<'a>(&'a self, given: &'a [(&'a str, Value<'a>)], limit: u64) -> Result<Value<'a>, EvalError> {
        eval::Evaluation::new(given, limit).value(&self.expr)
    }
}

#[cfg(test)]
mod tests;
