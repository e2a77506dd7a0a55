//! Types of every part of an expression, before anything is evaluated.

use super::ast::{Expr, Fold, Kind, Literal};
use super::types::{Bound, Type};
use super::{Environment, Issue, functions, strings};

/// Names that stand for types.
pub(super) const TYPE_NAMES: [&str; 12] = [
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "type",
    "null_type",
    "google.protobuf.Duration",
    "google.protobuf.Timestamp",
];

/// Checks a whole expression, and puts into it what its calls mean.
pub(super) fn check(expr: &mut Expr, environment: &Environment) -> Result<Type, Vec<Issue>> {
    let mut checker = Checker { environment, scope: Vec::new(), issues: Vec::new() };
    let found = checker.expr(expr).settled();
    if checker.issues.is_empty() {
        return Ok(found);
    }
    checker.issues.sort_by_key(|issue| issue.at);
    Err(checker.issues)
}

struct Checker<'e> {
    environment: &'e Environment,
    /// Variables of macros, the innermost last.
    scope: Vec<(String, Type)>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    /// Notes what is wrong; what is around it is then checked as if anything were here.
    fn wrong(&mut self, at: usize, text: String) -> Type {
        self.issues.push(Issue { at, text });
        Type::Dyn
    }

    fn variable(&self, name: &str) -> Option<Type> {
        let inner = self.scope.iter().rev().find(|(known, _)| known == name).map(|(_, of)| of.clone());
        inner.or_else(|| self.environment.variable(name).cloned())
    }

    fn expr(&mut self, expr: &mut Expr) -> Type {
        let at = expr.at;
        if let Some(name) = self.qualified_type(expr) {
            expr.kind = Kind::Ident(name);
            return Type::Type;
        }
        match &mut expr.kind {
            Kind::Literal(literal) => literal_type(literal),
            Kind::Ident(name) => match self.variable(name) {
                Some(found) => found,
                None if TYPE_NAMES.contains(&name.as_str()) => Type::Type,
                None => {
                    let text = undeclared(name);
                    self.wrong(at, text)
                }
            },
            Kind::Select { operand, field, test, optional } => {
                let of = self.expr(operand);
                let found = self.field(at, &of, field, *optional);
                if *test { Type::Bool } else { found }
            }
            Kind::Index { operand, index, optional } => {
                let (of, key) = (self.expr(operand), self.expr(index));
                self.index(at, &of, &key, *optional)
            }
            Kind::Call { .. } => self.call(expr),
            Kind::Logic { and, parts } => {
                let found: Vec<Type> = parts.iter_mut().map(|part| self.expr(part)).collect();
                if found.iter().any(|part| *part != Type::Bool && !part.is_open()) {
                    let text = no_overload(if *and { "_&&_" } else { "_||_" }, false, &found);
                    self.wrong(at, text);
                }
                Type::Bool
            }
            Kind::Condition(parts) => {
                let found: Vec<Type> = parts.iter_mut().map(|part| self.expr(part)).collect();
                let joined = found[1].join(&found[2]);
                match joined.filter(|_| found[0] == Type::Bool || found[0].is_open()) {
                    Some(joined) => joined,
                    None => self.wrong(at, no_overload("_?_:_", false, &found)),
                }
            }
            Kind::List(elements) => {
                let mut of = Type::Free;
                for (optional, element) in elements {
                    of = self.element(of, *optional, element);
                }
                Type::list(of)
            }
            Kind::Map(entries) => {
                let (mut key_type, mut value_type) = (Type::Free, Type::Free);
                for (optional, key, value) in entries {
                    key_type = self.element(key_type, false, key);
                    value_type = self.element(value_type, *optional, value);
                }
                Type::map(key_type, value_type)
            }
            Kind::Fold { fold, range, variables, steps } => {
                let range_at = range.at;
                let range = self.expr(range);
                self.fold(at, range_at, *fold, &range, variables, steps)
            }
            Kind::Optional { flat, target, variable, body } => {
                let target_type = self.expr(target);
                let inner = match &target_type {
                    Type::Optional(inner) => (**inner).clone(),
                    open if open.is_open() => Type::Dyn,
                    other => {
                        let name = if *flat { "optFlatMap" } else { "optMap" };
                        let text = no_overload(name, true, &[other.clone(), Type::Dyn]);
                        return self.wrong(at, text);
                    }
                };
                let body = self.within(&[(variable.clone(), inner)], body);
                if *flat { body } else { Type::optional(body) }
            }
            Kind::Bind { variable, value, body } => {
                let bound = self.expr(value);
                self.within(&[(variable.clone(), bound)], body)
            }
        }
    }

    /// `google.protobuf.Timestamp` is a name with dots in it.
    fn qualified_type(&self, expr: &Expr) -> Option<String> {
        let Kind::Select { operand, field, test: false, optional: false } = &expr.kind else { return None };
        let Kind::Select { operand: root, field: middle, .. } = &operand.kind else { return None };
        let name = format!("{}.{middle}.{field}", root.name()?);
        (self.variable(root.name()?).is_none() && TYPE_NAMES.contains(&name.as_str())).then_some(name)
    }

    fn within(&mut self, variables: &[(String, Type)], expr: &mut Expr) -> Type {
        let before = self.scope.len();
        self.scope.extend_from_slice(variables);
        let found = self.expr(expr);
        self.scope.truncate(before);
        found
    }

    /// The type of a list's elements with one more of them.
    fn element(&mut self, of: Type, optional: bool, expr: &mut Expr) -> Type {
        let mut found = self.expr(expr);
        if optional {
            found = match found {
                Type::Optional(inner) => *inner,
                open if open.is_open() => Type::Dyn,
                other => {
                    let text = format!("expected type 'optional_type({other})' but found '{other}'");
                    self.wrong(expr.at, text)
                }
            };
        }
        match of.join(&found) {
            Some(joined) => joined,
            None => {
                self.wrong(expr.at, format!("expected type '{of}' but found '{found}'"));
                of
            }
        }
    }

    fn field(&mut self, at: usize, of: &Type, field: &str, optional: bool) -> Type {
        let (found, optional) = match of {
            Type::Optional(inner) => (self.field_of(at, inner, field), true),
            other => (self.field_of(at, other, field), optional),
        };
        if optional { Type::optional(found) } else { found }
    }

    fn field_of(&mut self, at: usize, of: &Type, field: &str) -> Type {
        match of {
            open if open.is_open() => Type::Dyn,
            Type::Map(key, value) if **key == Type::String || key.is_open() => (**value).clone(),
            Type::Object(object) => match object.field(field) {
                Some(found) => found.clone(),
                None => self.wrong(at, format!("undefined field '{field}'")),
            },
            other => self.wrong(at, format!("type '{other}' does not support field selection")),
        }
    }

    fn index(&mut self, at: usize, of: &Type, key: &Type, optional: bool) -> Type {
        let (inner, chained) = match of {
            Type::Optional(inner) => (&**inner, true),
            other => (other, false),
        };
        let found = match inner {
            open if open.is_open() => Some(Type::Dyn),
            Type::List(of) if *key == Type::Int || key.is_open() => Some((**of).clone()),
            Type::Map(wanted, value) if wanted.takes(key, &mut Bound::new()) => Some((**value).clone()),
            _ => None,
        };
        let Some(found) = found else {
            let name = if optional || chained { "_[?_]" } else { "_[_]" };
            return self.wrong(at, no_overload(name, false, &[of.clone(), key.clone()]));
        };
        if optional || chained { Type::optional(found) } else { found }
    }

    fn call(&mut self, expr: &mut Expr) -> Type {
        let at = expr.at;
        let Kind::Call { function, member, arguments, builtin } = &mut expr.kind else { return Type::Dyn };
        // `optional.of(x)` calls a function of that name unless `optional` is a variable.
        if *member
            && let Some(root) = arguments[0].name()
            && self.variable(root).is_none()
            && functions::find(&format!("{root}.{function}")).is_some()
        {
            *function = format!("{root}.{function}");
            *member = false;
            arguments.remove(0);
        }
        let found: Vec<Type> = arguments.iter_mut().map(|argument| self.expr(argument)).collect();
        let Some(known) = functions::find(function) else {
            let text = undeclared(function);
            return self.wrong(at, text);
        };
        *builtin = Some(known.builtin);
        if matches!(function.as_str(), "matches" | "find" | "findAll")
            && let Some(Expr { at, kind: Kind::Literal(literal), .. }) = arguments.get_mut(1)
            && let Literal::String(pattern) = literal
        {
            // Compiled once, and a mistake in it shows now.
            match strings::pattern(pattern) {
                Ok(compiled) => *literal = Literal::Pattern(compiled),
                Err(_) => {
                    let (at, text) = (*at, format!("invalid {function} argument"));
                    self.wrong(at, text);
                }
            }
        }
        let mut result: Option<Type> = None;
        for overload in &known.overloads {
            let Some(one) = overload.result(*member, &found) else { continue };
            result = match result {
                None => Some(one),
                // Which one it is shows when it is evaluated.
                Some(before) if before != one => Some(Type::Dyn),
                same => same,
            };
        }
        match result {
            Some(result) => result,
            None => {
                let text = no_overload(function, *member, &found);
                self.wrong(at, text)
            }
        }
    }

    fn fold(
        &mut self,
        at: usize,
        range_at: usize,
        fold: Fold,
        range: &Type,
        names: &[String],
        steps: &mut [Expr],
    ) -> Type {
        let kinds = match (range, names.len()) {
            (Type::List(of), 1) => vec![(**of).clone()],
            (Type::Map(key, _), 1) => vec![(**key).clone()],
            (Type::List(of), _) => vec![Type::Int, (**of).clone()],
            (Type::Map(key, value), _) => vec![(**key).clone(), (**value).clone()],
            (open, count) if open.is_open() => vec![Type::Dyn; count],
            (other, count) => {
                let what = "cannot be range of a comprehension (must be list, map, or dynamic)";
                self.wrong(range_at, format!("expression of type '{other}' {what}"));
                vec![Type::Dyn; count]
            }
        };
        let variables: Vec<(String, Type)> = names.iter().cloned().zip(kinds.iter().cloned()).collect();
        let found: Vec<Type> = steps.iter_mut().map(|step| self.within(&variables, step)).collect();
        let tested = match fold {
            Fold::All | Fold::Exists | Fold::ExistsOne | Fold::Filter => true,
            _ => steps.len() == 2,
        };
        if tested && found[0] != Type::Bool && !found[0].is_open() {
            let operator = match fold {
                Fold::All => "_&&_",
                Fold::Exists => "_||_",
                _ => "_?_:_",
            };
            let operands = if operator == "_?_:_" {
                vec![found[0].clone(), Type::Dyn, Type::Dyn]
            } else {
                vec![Type::Bool, found[0].clone()]
            };
            self.wrong(at, no_overload(operator, false, &operands));
        }
        let last = found.last().cloned().unwrap_or(Type::Dyn);
        let key = kinds.first().cloned().unwrap_or(Type::Dyn);
        match fold {
            Fold::All | Fold::Exists | Fold::ExistsOne => Type::Bool,
            Fold::Filter => Type::list(key),
            Fold::Map | Fold::TransformList => Type::list(last),
            Fold::TransformMap => Type::map(key, last),
            Fold::TransformMapEntry => last,
            Fold::SortBy => range.clone(),
        }
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) | Literal::Pattern(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

fn undeclared(name: &str) -> String {
    format!("undeclared reference to '{name}' (in container '')")
}

fn no_overload(function: &str, member: bool, arguments: &[Type]) -> String {
    let names: Vec<String> = arguments.iter().map(|argument| argument.settled().to_string()).collect();
    let applied =
        if member { format!("{}.({})", names[0], names[1..].join(", ")) } else { format!("({})", names.join(", ")) };
    format!("found no matching overload for '{function}' applied to '{applied}'")
}
