//! Evaluates checked expressions within a budget.

use super::ast::{Expr, Fold, Kind};
use super::check::TYPE_NAMES;
use super::functions::Builtin;
use super::value::{Key, Value};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// A key or a field that is not there.
    #[error("no such key: {0}")]
    Key(String),
    /// Nothing of that name was given.
    #[error("no such attribute(s): {0}")]
    Variable(String),
    /// A function that does not take what it got.
    #[error("no such overload")]
    Overload,
    /// Beyond a list's end.
    #[error("index out of bounds: {0}")]
    Index(i64),
    /// A conversion or a calculation failed.
    #[error("{0}")]
    Failed(String),
    /// The budget is used up.
    #[error("operation cancelled: actual cost limit exceeded")]
    Cost,
}

impl EvalError {
    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
}

/// Counts what an evaluation costs, in upstream's units.
#[derive(Debug)]
pub(super) struct Meter {
    left: u64,
}

impl Meter {
    pub(super) fn new(limit: u64) -> Self {
        Self { left: limit }
    }

    /// Uses up a part of the budget.
    pub(super) fn spend(&mut self, cost: u64) -> Result<()> {
        self.left = self.left.checked_sub(cost).ok_or(EvalError::Cost)?;
        Ok(())
    }

    /// Uses up what looking through this many characters or elements costs.
    pub(super) fn traverse(&mut self, length: usize) -> Result<()> {
        self.spend((length as u64).div_ceil(10))
    }
}

/// Of making a list and a map.
const LIST_COST: u64 = 10;
const MAP_COST: u64 = 30;

type Result<T> = std::result::Result<T, EvalError>;

/// One evaluation.
#[derive(Debug)]
pub(super) struct Evaluation<'a> {
    given: &'a [(&'a str, Value<'a>)],
    /// Variables of macros, the innermost last.
    scope: Vec<(&'a str, Value<'a>)>,
    pub(super) meter: Meter,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(given: &'a [(&'a str, Value<'a>)], limit: u64) -> Self {
        Self { given, scope: Vec::new(), meter: Meter::new(limit) }
    }

    pub(super) fn value(&mut self, expr: &'a Expr) -> Result<Value<'a>> {
        match &expr.kind {
            Kind::Literal(literal) => Ok(Value::literal(literal)),
            Kind::Ident(name) => self.variable(name),
            Kind::Select { operand, field, test, optional } => {
                let of = self.value(operand)?;
                self.meter.spend(1)?;
                select(of, field, *test, *optional)
            }
            Kind::Index { operand, index, optional } => {
                let (of, index) = (self.value(operand)?, self.value(index)?);
                self.meter.spend(1)?;
                element(of, &index, *optional)
            }
            Kind::Call { builtin, arguments, .. } => self.call(*builtin, arguments),
            Kind::Logic { and, parts } => {
                let parts = parts.iter();
                self.decide(*and, parts, |this, part| this.value(part))
            }
            Kind::Condition(parts) => match self.value(&parts[0])? {
                Value::Bool(true) => self.value(&parts[1]),
                Value::Bool(false) => self.value(&parts[2]),
                _ => Err(EvalError::Overload),
            },
            Kind::List(elements) => self.list(elements),
            Kind::Map(entries) => self.map(entries),
            Kind::Fold { fold, range, variables, steps } => self.fold(*fold, range, variables, steps),
            Kind::Optional { flat, target, variable, body } => {
                let Value::Optional(found) = self.value(target)? else { return Err(EvalError::Overload) };
                let Some(found) = found else { return Ok(Value::Optional(None)) };
                self.scope.push((variable, (*found).clone()));
                let body = self.value(body);
                self.scope.pop();
                Ok(if *flat { body? } else { Value::some(body?) })
            }
            Kind::Bind { variable, value, body } => {
                let bound = self.value(value)?;
                self.scope.push((variable, bound));
                let body = self.value(body);
                self.scope.pop();
                body
            }
        }
    }

    fn variable(&mut self, name: &str) -> Result<Value<'a>> {
        self.meter.spend(1)?;
        let inner = self.scope.iter().rev().find(|(known, _)| *known == name);
        if let Some((_, value)) = inner.or_else(|| self.given.iter().find(|(known, _)| *known == name)) {
            return Ok(value.clone());
        }
        let named = TYPE_NAMES.iter().find(|known| **known == name);
        named.map(|name| Value::Type(name)).ok_or_else(|| EvalError::Variable(name.to_owned()))
    }

    fn call(&mut self, builtin: Option<Builtin>, arguments: &'a [Expr]) -> Result<Value<'a>> {
        let Some(builtin) = builtin else { return Err(EvalError::Overload) };
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            values.push(self.value(argument)?);
        }
        self.meter.spend(1)?;
        builtin(&mut self.meter, &values)
    }

    /// All of them (`and`) or one of them. One that decides makes up for errors of the others.
    fn decide<T>(
        &mut self,
        and: bool,
        parts: impl Iterator<Item = T>,
        mut one: impl FnMut(&mut Self, T) -> Result<Value<'a>>,
    ) -> Result<Value<'a>> {
        let mut error = None;
        for part in parts {
            match one(self, part) {
                Ok(Value::Bool(found)) if found != and => return Ok(Value::Bool(found)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => error = error.or(Some(EvalError::Overload)),
                Err(EvalError::Cost) => return Err(EvalError::Cost),
                Err(other) => error = error.or(Some(other)),
            }
        }
        error.map_or(Ok(Value::Bool(and)), Err)
    }

    fn list(&mut self, elements: &'a [(bool, Expr)]) -> Result<Value<'a>> {
        self.meter.spend(LIST_COST)?;
        let mut values = Vec::with_capacity(elements.len());
        for (optional, element) in elements {
            values.extend(unwrap(self.value(element)?, *optional)?);
        }
        Ok(Value::list(values))
    }

    fn map(&mut self, entries: &'a [(bool, Expr, Expr)]) -> Result<Value<'a>> {
        self.meter.spend(MAP_COST)?;
        let mut map = BTreeMap::new();
        for (optional, key, value) in entries {
            let key = self.value(key)?;
            let Some(value) = unwrap(self.value(value)?, *optional)? else { continue };
            put(&mut map, &key, value)?;
        }
        Ok(Value::Map(Rc::new(map)))
    }

    /// What the variables are, one step after the other.
    fn rounds(&mut self, range: &'a Expr, two: bool) -> Result<Vec<(Value<'a>, Value<'a>)>> {
        let range = self.value(range)?;
        if let Some(elements) = range.elements() {
            let numbered = (0_i64..).map(Value::Int).zip(elements);
            return Ok(numbered
                .map(|(index, element)| if two { (index, element) } else { (element, index) })
                .collect());
        }
        let keys = range.keys().ok_or(EvalError::Overload)?;
        let pairs = keys.into_iter().filter_map(|key| range.at(&key).map(|value| (key, value)));
        Ok(pairs.collect())
    }

    fn step(&mut self, names: &'a [String], round: &(Value<'a>, Value<'a>), expr: &'a Expr) -> Result<Value<'a>> {
        let before = self.scope.len();
        self.meter.spend(1)?;
        for (name, value) in names.iter().zip([&round.0, &round.1]) {
            self.scope.push((name, value.clone()));
        }
        let found = self.value(expr);
        self.scope.truncate(before);
        found
    }

    fn fold(&mut self, fold: Fold, range: &'a Expr, names: &'a [String], steps: &'a [Expr]) -> Result<Value<'a>> {
        let rounds = self.rounds(range, names.len() == 2)?;
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return Err(EvalError::Overload) };
        if matches!(fold, Fold::All | Fold::Exists) {
            let one = |this: &mut Self, round: &_| this.step(names, round, first);
            return self.decide(fold == Fold::All, rounds.iter(), one);
        }
        let tested = matches!(fold, Fold::ExistsOne | Fold::Filter) || steps.len() == 2;
        let (mut count, mut list, mut map) = (0, Vec::new(), BTreeMap::new());
        for round in &rounds {
            if tested {
                match self.step(names, round, first)? {
                    Value::Bool(true) => {}
                    Value::Bool(false) => continue,
                    _ => return Err(EvalError::Overload),
                }
            }
            match fold {
                Fold::All | Fold::Exists | Fold::ExistsOne => count += 1,
                Fold::Filter => list.push(round.0.clone()),
                Fold::SortBy => list.push(Value::list(vec![self.step(names, round, last)?, round.0.clone()])),
                Fold::Map | Fold::TransformList => list.push(self.step(names, round, last)?),
                Fold::TransformMap => put(&mut map, &round.0, self.step(names, round, last)?)?,
                Fold::TransformMapEntry => {
                    let entry = self.step(names, round, last)?;
                    for key in entry.keys().ok_or(EvalError::Overload)? {
                        let value = entry.at(&key).ok_or(EvalError::Overload)?;
                        put(&mut map, &key, value)?;
                    }
                }
            }
        }
        Ok(match fold {
            Fold::All | Fold::Exists | Fold::ExistsOne => Value::Bool(count == 1),
            Fold::Filter | Fold::Map | Fold::TransformList => Value::list(list),
            Fold::SortBy => super::lists::sorted_pairs(list)?,
            Fold::TransformMap | Fold::TransformMapEntry => Value::Map(Rc::new(map)),
        })
    }
}

/// An element of a list or a map's value, which `?` makes optional.
fn unwrap(value: Value<'_>, optional: bool) -> Result<Option<Value<'_>>> {
    match value {
        Value::Optional(inner) if optional => Ok(inner.map(|inner| (*inner).clone())),
        _ if optional => Err(EvalError::Overload),
        value => Ok(Some(value)),
    }
}

fn put<'a>(map: &mut BTreeMap<Key, Value<'a>>, key: &Value<'a>, value: Value<'a>) -> Result<()> {
    let key = Key::of(key).ok_or_else(|| EvalError::failed("unsupported key type"))?;
    if map.insert(key, value).is_some() {
        return Err(EvalError::failed("insert failed: key already exists"));
    }
    Ok(())
}

fn select<'a>(of: Value<'a>, field: &str, test: bool, optional: bool) -> Result<Value<'a>> {
    let key = Value::text(field);
    match &of {
        Value::Optional(inner) => {
            let found = inner.as_ref().and_then(|inner| inner.at(&key));
            Ok(if test { Value::Bool(found.is_some()) } else { found.map_or(Value::Optional(None), Value::some) })
        }
        Value::Object(_) | Value::Map(_) => {
            let found = of.at(&key);
            match (test, optional) {
                (true, _) => Ok(Value::Bool(found.is_some())),
                (_, true) => Ok(found.map_or(Value::Optional(None), Value::some)),
                _ => found.ok_or_else(|| EvalError::Key(field.to_owned())),
            }
        }
        Value::Null if optional => Ok(Value::Optional(None)),
        _ => Err(EvalError::Overload),
    }
}

fn element<'a>(of: Value<'a>, index: &Value<'a>, optional: bool) -> Result<Value<'a>> {
    let (of, optional) = match of {
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => ((*inner).clone(), true),
        other => (other, optional),
    };
    let is_list = of.is_list();
    if !is_list && of.keys().is_none() {
        return Err(EvalError::Overload);
    }
    let found = of.at(index);
    if optional {
        return Ok(found.map_or(Value::Optional(None), Value::some));
    }
    found.ok_or_else(|| match index {
        Value::Int(index) if is_list => EvalError::Index(*index),
        _ if is_list => EvalError::Overload,
        Value::String(key) => EvalError::Key(key.clone().into_owned()),
        other => EvalError::Key(super::conversions::show(other).unwrap_or_default()),
    })
}
