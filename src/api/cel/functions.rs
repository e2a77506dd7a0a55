//! Every function and operator: its declarations and what it does, one line each.

use super::eval::{EvalError, Meter};
use super::types::{Bound, Type};
use super::value::Value;
use super::{addresses, conversions, formats, lists, quantities, strings, times, urls, versions};
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
const SORT: &str = "list<int>.() list<int>; list<uint>.() list<uint>; list<double>.() list<double>; \
     list<bool>.() list<bool>; list<string>.() list<string>; list<bytes>.() list<bytes>; \
     list<duration>.() list<duration>; list<timestamp>.() list<timestamp>";
const SUM: &str = "list<int>.() int; list<uint>.() uint; list<double>.() double; list<duration>.() duration";
const SETS: &str = "(list<A> list<A>) bool";

const PART_OF_URL: &str = "url.() string";
const COMPARED: &str = "quantity.(quantity) bool; semver.(semver) bool";
const FORMAT: &str = "() format";

/// The functions. Not there yet, of upstream's: the authorizer, which policies have.
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
         (timestamp) string; (duration) string; (ip) string; (cidr) string",
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
    ("format", "string.(list<dyn>) string", formats::format),
    ("strings.quote", "(string) string", formats::quoted),
    ("reverse", "list<A>.() list<A>", lists::reverse),
    ("first", "list<A>.() optional<A>", lists::first),
    ("last", "list<A>.() optional<A>", lists::last),
    ("distinct", "list<A>.() list<A>", lists::distinct),
    ("lists.range", "(int) list<int>", lists::range),
    ("slice", "list<A>.(int int) list<A>", lists::slice),
    ("flatten", "list<list<A>>.() list<A>; list<dyn>.(int) list<dyn>", lists::flatten),
    ("sort", SORT, lists::sort),
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
    ("optional.unwrap", "(list<optional<A>>) list<A>", lists::unwrap),
    ("unwrapOpt", "list<optional<A>>.() list<A>", lists::unwrap),
    ("ip", "(string) ip; cidr.() ip", addresses::ip),
    ("isIP", "(string) bool", addresses::is_ip),
    ("ip.isCanonical", "(string) bool", addresses::is_canonical),
    ("family", "ip.() int", addresses::family),
    ("isUnspecified", "ip.() bool", addresses::is_unspecified),
    ("isLoopback", "ip.() bool", addresses::is_loopback),
    ("isLinkLocalMulticast", "ip.() bool", addresses::is_link_local_multicast),
    ("isLinkLocalUnicast", "ip.() bool", addresses::is_link_local_unicast),
    ("isGlobalUnicast", "ip.() bool", addresses::is_global_unicast),
    ("cidr", "(string) cidr", addresses::cidr),
    ("isCIDR", "(string) bool", addresses::is_cidr),
    ("containsIP", "cidr.(string) bool; cidr.(ip) bool", addresses::contains_ip),
    ("containsCIDR", "cidr.(string) bool; cidr.(cidr) bool", addresses::contains_cidr),
    ("prefixLength", "cidr.() int", addresses::prefix_length),
    ("masked", "cidr.() cidr", addresses::masked),
    ("url", "(string) url", urls::url),
    ("isURL", "(string) bool", urls::is_url),
    ("getScheme", PART_OF_URL, urls::get_scheme),
    ("getHost", PART_OF_URL, urls::get_host),
    ("getHostname", PART_OF_URL, urls::get_hostname),
    ("getPort", PART_OF_URL, urls::get_port),
    ("getEscapedPath", PART_OF_URL, urls::get_escaped_path),
    ("getQuery", "url.() map<string,list<string>>", urls::get_query),
    ("quantity", "(string) quantity", quantities::quantity),
    ("isQuantity", "(string) bool", quantities::is_quantity),
    ("sign", "quantity.() int", quantities::sign),
    ("isInteger", "quantity.() bool", quantities::is_integer),
    ("asInteger", "quantity.() int", quantities::as_integer),
    ("asApproximateFloat", "quantity.() double", quantities::as_float),
    ("add", "quantity.(quantity) quantity; quantity.(int) quantity", quantities::add),
    ("sub", "quantity.(quantity) quantity; quantity.(int) quantity", quantities::sub),
    ("isGreaterThan", COMPARED, quantities::is_greater),
    ("isLessThan", COMPARED, quantities::is_less),
    ("compareTo", "quantity.(quantity) int; semver.(semver) int", quantities::compare),
    ("semver", "(string) semver; (string bool) semver", versions::semver),
    ("isSemver", "(string) bool; (string bool) bool", versions::is_semver),
    ("major", "semver.() int", versions::major),
    ("minor", "semver.() int", versions::minor),
    ("patch", "semver.() int", versions::patch),
    ("format.named", "(string) optional<format>", formats::named),
    ("validate", "format.(string) optional<list<string>>", formats::validate),
    ("format.dns1123Label", FORMAT, formats::dns1123_label),
    ("format.dns1123Subdomain", FORMAT, formats::dns1123_subdomain),
    ("format.dns1035Label", FORMAT, formats::dns1035_label),
    ("format.qualifiedName", FORMAT, formats::qualified_name),
    ("format.dns1123LabelPrefix", FORMAT, formats::dns1123_label_prefix),
    ("format.dns1123SubdomainPrefix", FORMAT, formats::dns1123_subdomain_prefix),
    ("format.dns1035LabelPrefix", FORMAT, formats::dns1035_label_prefix),
    ("format.labelValue", FORMAT, formats::label_value),
    ("format.uri", FORMAT, formats::uri),
    ("format.uuid", FORMAT, formats::uuid),
    ("format.byte", FORMAT, formats::byte),
    ("format.date", FORMAT, formats::date),
    ("format.datetime", FORMAT, formats::datetime),
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
