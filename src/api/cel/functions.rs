//! Every function and operator: its declarations and what it does, one line each.

use super::eval::{EvalError, Meter};
use super::types::{Bound, Type};
use super::value::Value;
use super::{conversions, lists, strings, times};
use std::collections::HashMap;
use std::sync::LazyLock;

/// What a function does with its arguments, a member's target first.
pub(super) type Builtin = for<'a> fn(&mut Meter, &[Value<'a>]) -> Result<Value<'a>, EvalError>;

/// One way to call a function.
#[derive(Debug)]
pub(super) struct Overload {
    member: bool,
    arguments: Vec<Type>,
    result: Type,
}

/// A function with its ways to be called.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) overloads: Vec<Overload>,
    pub(super) builtin: Builtin,
}

impl Overload {
    /// The result, if these arguments fit.
    pub(super) fn result(&self, member: bool, arguments: &[Type]) -> Option<Type> {
        let mut bound = Bound::new();
        let fits = self.member == member
            && self.arguments.len() == arguments.len()
            && self.arguments.iter().zip(arguments).all(|(wanted, actual)| wanted.takes(actual, &mut bound));
        fits.then(|| self.result.filled(&bound))
    }
}

/// Finds a function by name.
pub(super) fn find(name: &str) -> Option<&'static Function> {
    static FOUND: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
        let parsed = TABLE.iter().map(|(name, overloads, builtin)| {
            let overloads = overloads.split(';').filter_map(|text| overload(text.trim())).collect();
            (*name, Function { overloads, builtin: *builtin })
        });
        parsed.collect()
    });
    FOUND.get(name)
}

/// Reads `target.(argument argument) result`; the target is absent for what is no member.
fn overload(text: &str) -> Option<Overload> {
    let (target, rest) = text.split_once('(')?;
    let (arguments, result) = rest.split_once(") ")?;
    let member = target.strip_suffix('.');
    let arguments = member.into_iter().chain(arguments.split_whitespace()).map(Type::parse).collect::<Option<_>>()?;
    Some(Overload { member: member.is_some(), arguments, result: Type::parse(result)? })
}

const ORDER: &str = "(bool bool) bool; (int int) bool; (uint uint) bool; (double double) bool; (string string) bool; \
     (bytes bytes) bool; (timestamp timestamp) bool; (duration duration) bool; (int uint) bool; (int double) bool; \
     (uint int) bool; (uint double) bool; (double int) bool; (double uint) bool";
const NUMBERS: &str = "(int int) int; (uint uint) uint; (double double) double";
const TEXT: &str = "string.(string) bool";
const PART_OF_DATE: &str = "timestamp.() int; timestamp.(string) int";
const PART_OF_TIME: &str = "timestamp.() int; timestamp.(string) int; duration.() int";
const SORTED: &str = "list<int>.() bool; list<uint>.() bool; list<double>.() bool; list<bool>.() bool; \
     list<string>.() bool; list<bytes>.() bool; list<duration>.() bool; list<timestamp>.() bool";
const EXTREME: &str = "list<int>.() int; list<uint>.() uint; list<double>.() double; list<bool>.() bool; \
     list<string>.() string; list<bytes>.() bytes; list<duration>.() duration; list<timestamp>.() timestamp";
const SUM: &str = "list<int>.() int; list<uint>.() uint; list<double>.() double; list<duration>.() duration";
const SETS: &str = "(list<A> list<A>) bool";

/// The functions. Not there yet, of upstream's: `format`, quantities, addresses, URLs, semantic versions, the
/// authorizer and names' formats.
const TABLE: &[(&str, &str, Builtin)] = &[
    ("_==_", "(A A) bool", lists::equal),
    ("_!=_", "(A A) bool", lists::unequal),
    ("_<_", ORDER, conversions::less),
    ("_<=_", ORDER, conversions::less_or_equal),
    ("_>_", ORDER, conversions::greater),
    ("_>=_", ORDER, conversions::greater_or_equal),
    (
        "_+_",
        "(int int) int; (uint uint) uint; (double double) double; (string string) string; (bytes bytes) bytes; \
         (list<A> list<A>) list<A>; (timestamp duration) timestamp; (duration timestamp) timestamp; \
         (duration duration) duration",
        conversions::add,
    ),
    (
        "_-_",
        "(int int) int; (uint uint) uint; (double double) double; (timestamp timestamp) duration; \
         (timestamp duration) timestamp; (duration duration) duration",
        conversions::subtract,
    ),
    ("_*_", NUMBERS, conversions::multiply),
    ("_/_", NUMBERS, conversions::divide),
    ("_%_", "(int int) int; (uint uint) uint", conversions::remainder),
    ("!_", "(bool) bool", conversions::not),
    ("-_", "(int) int; (double) double", conversions::negate),
    ("@in", "(A list<A>) bool; (A map<A,B>) bool", lists::contained),
    (
        "size",
        "(string) int; (bytes) int; (list<A>) int; (map<A,B>) int; \
         string.() int; bytes.() int; list<A>.() int; map<A,B>.() int",
        lists::size,
    ),
    ("type", "(A) type", conversions::kind),
    ("dyn", "(A) dyn", conversions::itself),
    ("int", "(int) int; (uint) int; (double) int; (string) int; (timestamp) int; (duration) int", conversions::int),
    ("uint", "(uint) uint; (int) uint; (double) uint; (string) uint", conversions::uint),
    ("double", "(double) double; (int) double; (uint) double; (string) double", conversions::double),
    ("bool", "(bool) bool; (string) bool", conversions::boolean),
    ("bytes", "(bytes) bytes; (string) bytes", conversions::bytes),
    (
        "string",
        "(string) string; (bool) string; (int) string; (uint) string; (double) string; (bytes) string; \
         (timestamp) string; (duration) string",
        conversions::string,
    ),
    ("duration", "(duration) duration; (string) duration; (int) duration", times::duration),
    ("timestamp", "(timestamp) timestamp; (string) timestamp; (int) timestamp", times::timestamp),
    ("getFullYear", PART_OF_DATE, times::full_year),
    ("getMonth", PART_OF_DATE, times::month),
    ("getDate", PART_OF_DATE, times::date),
    ("getDayOfMonth", PART_OF_DATE, times::day_of_month),
    ("getDayOfWeek", PART_OF_DATE, times::day_of_week),
    ("getDayOfYear", PART_OF_DATE, times::day_of_year),
    ("getHours", PART_OF_TIME, times::hours),
    ("getMinutes", PART_OF_TIME, times::minutes),
    ("getSeconds", PART_OF_TIME, times::seconds),
    ("getMilliseconds", PART_OF_TIME, times::milliseconds),
    ("contains", TEXT, strings::contains),
    ("startsWith", TEXT, strings::starts_with),
    ("endsWith", TEXT, strings::ends_with),
    ("matches", "string.(string) bool; (string string) bool", strings::matches),
    ("find", "string.(string) string", strings::find),
    ("findAll", "string.(string) list<string>; string.(string int) list<string>", strings::find_all),
    ("charAt", "string.(int) string", strings::char_at),
    ("indexOf", "string.(string) int; string.(string int) int; list<A>.(A) int", strings::index_of),
    ("lastIndexOf", "string.(string) int; string.(string int) int; list<A>.(A) int", strings::last_index_of),
    ("join", "list<string>.() string; list<string>.(string) string", strings::join),
    ("lowerAscii", "string.() string", strings::lower),
    ("upperAscii", "string.() string", strings::upper),
    ("replace", "string.(string string) string; string.(string string int) string", strings::replace),
    ("split", "string.(string) list<string>; string.(string int) list<string>", strings::split),
    ("substring", "string.(int) string; string.(int int) string", strings::substring),
    ("trim", "string.() string", strings::trim),
    ("reverse", "string.() string", strings::reverse),
    ("isSorted", SORTED, lists::is_sorted),
    ("sum", SUM, lists::sum),
    ("min", EXTREME, lists::min),
    ("max", EXTREME, lists::max),
    ("sets.contains", SETS, lists::set_contains),
    ("sets.equivalent", SETS, lists::set_equivalent),
    ("sets.intersects", SETS, lists::set_intersects),
    ("optional.of", "(A) optional<A>", lists::optional_of),
    ("optional.ofNonZeroValue", "(A) optional<A>", lists::optional_of_non_zero),
    ("optional.none", "() optional<A>", lists::optional_none),
    ("hasValue", "optional<A>.() bool", lists::has_value),
    ("value", "optional<A>.() A", lists::value),
    ("or", "optional<A>.(optional<A>) optional<A>", lists::or),
    ("orValue", "optional<A>.(A) A", lists::or_value),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declaration_can_be_read() {
        for (name, overloads, _) in TABLE {
            let count = find(name).map_or(0, |function| function.overloads.len());
            assert_eq!(count, overloads.split(';').count(), "{name}");
        }
    }
}
