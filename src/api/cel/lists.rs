//! Functions of lists, maps, sets and optional values.

use super::conversions;
use super::eval::{EvalError, Meter};
use super::value::Value;
use std::cmp::Ordering;
use std::rc::Rc;

type Result<T> = std::result::Result<T, EvalError>;

fn elements<'a>(arguments: &[Value<'a>], index: usize) -> Result<Vec<Value<'a>>> {
    arguments.get(index).and_then(Value::elements).ok_or(EvalError::Overload)
}

pub(super) fn equal<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let [a, b] = arguments else { return Err(EvalError::Overload) };
    let size = |value: &Value<'_>| value.size().unwrap_or(1);
    meter.traverse(size(a).min(size(b)))?;
    Ok(Value::Bool(a.same(b)))
}

pub(super) fn unequal<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let same = equal(meter, arguments)?;
    conversions::not(meter, &[same])
}

pub(super) fn contained<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let [wanted, within] = arguments else { return Err(EvalError::Overload) };
    if let Some(elements) = within.elements() {
        meter.spend(elements.len() as u64)?;
        return Ok(Value::Bool(elements.iter().any(|element| element.same(wanted))));
    }
    match within {
        Value::Object(_) | Value::Map(_) => Ok(Value::Bool(within.at(wanted).is_some())),
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn size<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let size = arguments.first().and_then(Value::size).ok_or(EvalError::Overload)?;
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

/// Where an element is first, or last.
pub(super) fn index_of<'a>(meter: &mut Meter, arguments: &[Value<'a>], last: bool) -> Result<Value<'a>> {
    let all = elements(arguments, 0)?;
    let [_, wanted] = arguments else { return Err(EvalError::Overload) };
    meter.spend(all.len() as u64)?;
    let is = |element: &Value<'_>| element.same(wanted);
    let found = if last { all.iter().rposition(is) } else { all.iter().position(is) };
    Ok(Value::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)))
}

pub(super) fn is_sorted<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let all = elements(arguments, 0)?;
    meter.spend(all.len() as u64)?;
    for pair in all.windows(2) {
        if pair[0].compare(&pair[1]).ok_or(EvalError::Overload)? == Ordering::Greater {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

pub(super) fn sum<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let mut all = elements(arguments, 0)?.into_iter();
    let Some(mut sum) = all.next() else { return Ok(Value::Int(0)) };
    for one in all {
        meter.spend(1)?;
        sum = conversions::add(meter, &[sum, one])?;
    }
    Ok(sum)
}

fn extreme<'a>(meter: &mut Meter, arguments: &[Value<'a>], wanted: Ordering) -> Result<Value<'a>> {
    let mut all = elements(arguments, 0)?.into_iter();
    let name = if wanted == Ordering::Less { "min" } else { "max" };
    let mut found = all.next().ok_or_else(|| EvalError::failed(format!("{name} called on empty list")))?;
    for one in all {
        meter.spend(1)?;
        if one.compare(&found).ok_or(EvalError::Overload)? == wanted {
            found = one;
        }
    }
    Ok(found)
}

pub(super) fn min<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    extreme(meter, arguments, Ordering::Less)
}

pub(super) fn max<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    extreme(meter, arguments, Ordering::Greater)
}

/// Both sets, once comparing each with each is paid for.
fn sets<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<(Vec<Value<'a>>, Vec<Value<'a>>)> {
    let (a, b) = (elements(arguments, 0)?, elements(arguments, 1)?);
    meter.spend((a.len() as u64).saturating_mul(b.len() as u64))?;
    Ok((a, b))
}

fn is_in(one: &Value<'_>, all: &[Value<'_>]) -> bool {
    all.iter().any(|other| other.same(one))
}

pub(super) fn set_contains<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let (a, b) = sets(meter, arguments)?;
    Ok(Value::Bool(b.iter().all(|one| is_in(one, &a))))
}

pub(super) fn set_equivalent<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let (a, b) = sets(meter, arguments)?;
    Ok(Value::Bool(b.iter().all(|one| is_in(one, &a)) && a.iter().all(|one| is_in(one, &b))))
}

pub(super) fn set_intersects<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let (a, b) = sets(meter, arguments)?;
    Ok(Value::Bool(b.iter().any(|one| is_in(one, &a))))
}

pub(super) fn optional_of<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    arguments.first().cloned().map(Value::some).ok_or(EvalError::Overload)
}

pub(super) fn optional_of_non_zero<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let value = arguments.first().ok_or(EvalError::Overload)?;
    Ok(if value.is_zero() { Value::Optional(None) } else { Value::some(value.clone()) })
}

pub(super) fn optional_none<'a>(_: &mut Meter, _: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Optional(None))
}

pub(super) fn has_value<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    match arguments {
        [Value::Optional(inner)] => Ok(Value::Bool(inner.is_some())),
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn value<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    match arguments {
        [Value::Optional(Some(inner))] => Ok((**inner).clone()),
        [Value::Optional(None)] => Err(EvalError::failed("optional.none() dereference")),
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn or<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    match arguments {
        [Value::Optional(None), other @ Value::Optional(_)] => Ok(other.clone()),
        [found @ Value::Optional(_), _] => Ok(found.clone()),
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn or_value<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    match arguments {
        [Value::Optional(Some(inner)), _] => Ok((**inner).clone()),
        [Value::Optional(None), other] => Ok(other.clone()),
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn reverse<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let mut all = elements(arguments, 0)?;
    meter.spend(all.len() as u64)?;
    all.reverse();
    Ok(Value::list(all))
}

pub(super) fn first<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Optional(elements(arguments, 0)?.first().cloned().map(Rc::new)))
}

pub(super) fn last<'a>(_: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Optional(elements(arguments, 0)?.last().cloned().map(Rc::new)))
}

pub(super) fn distinct<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let all = elements(arguments, 0)?;
    let mut found: Vec<Value<'a>> = Vec::new();
    for one in all {
        meter.spend(found.len() as u64 + 1)?;
        if !is_in(&one, &found) {
            found.push(one);
        }
    }
    Ok(Value::list(found))
}

/// The numbers below one.
pub(super) fn range<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let end = conversions::whole(arguments, 0)?;
    meter.spend(u64::try_from(end).unwrap_or(0))?;
    Ok(Value::list((0..end).map(Value::Int).collect()))
}

pub(super) fn slice<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let all = elements(arguments, 0)?;
    let (start, end) = (conversions::whole(arguments, 1)?, conversions::whole(arguments, 2)?);
    let failed = |why: String| EvalError::failed(format!("cannot slice({start}, {end}), {why}"));
    let (Ok(from), Ok(to)) = (usize::try_from(start), usize::try_from(end)) else {
        return Err(failed("negative indexes not supported".to_owned()));
    };
    if from > to {
        return Err(failed("start index must be less than or equal to end index".to_owned()));
    }
    meter.spend((to - from) as u64)?;
    let part = all.get(from..to).ok_or_else(|| failed(format!("list is length {}", all.len())))?;
    Ok(Value::list(part.to_vec()))
}

/// Lists in a list become parts of it, so many levels deep.
pub(super) fn flatten<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let depth = if arguments.len() > 1 { conversions::whole(arguments, 1)? } else { 1 };
    if depth < 0 {
        return Err(EvalError::failed("level must be non-negative"));
    }
    let mut all = elements(arguments, 0)?;
    for _ in 0..depth {
        if !all.iter().any(Value::is_list) {
            break;
        }
        let mut flat = Vec::new();
        for one in all {
            match one.elements() {
                Some(inner) => flat.extend(inner),
                None => flat.push(one),
            }
        }
        meter.spend(flat.len() as u64)?;
        all = flat;
    }
    Ok(Value::list(all))
}

pub(super) fn sort<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let all = elements(arguments, 0)?;
    meter.spend(all.len() as u64)?;
    sorted_pairs(all.into_iter().map(|one| Value::list(vec![one.clone(), one])).collect())
}

/// The second elements of pairs, in the order of the first ones.
pub(super) fn sorted_pairs(pairs: Vec<Value<'_>>) -> Result<Value<'_>> {
    let mut pairs = pairs.iter().filter_map(Value::elements).collect::<Vec<_>>();
    for two in pairs.windows(2) {
        if two[0][0].type_name() != two[1][0].type_name() || two[0][0].compare(&two[1][0]).is_none() {
            return Err(EvalError::failed("list elements must have the same type"));
        }
    }
    pairs.sort_by(|a, b| a[0].compare(&b[0]).unwrap_or(Ordering::Equal));
    Ok(Value::list(pairs.into_iter().filter_map(|mut pair| pair.pop()).collect()))
}

/// What is there of a list of optional values.
pub(super) fn unwrap<'a>(meter: &mut Meter, arguments: &[Value<'a>]) -> Result<Value<'a>> {
    let all = elements(arguments, 0)?;
    meter.spend(all.len() as u64)?;
    let mut found = Vec::new();
    for one in all {
        let Value::Optional(inner) = one else { return Err(EvalError::Overload) };
        found.extend(inner.map(|inner| (*inner).clone()));
    }
    Ok(Value::list(found))
}
