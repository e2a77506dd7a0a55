//! What expressions mean, and what is said about those that mean nothing.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use serde_json::json;

fn environment() -> Environment {
    let user = ObjectType::named(
        "test.User",
        [
            ("name", Type::String),
            ("groups", Type::list(Type::String)),
            ("extra", Type::map(Type::String, Type::list(Type::String))),
        ],
    );
    Environment::new([("claims", Type::map(Type::String, Type::Dyn)), ("user", user)])
}

fn evaluate(source: &str, limit: u64) -> Result<String, String> {
    let program = Program::compile(source, &environment()).map_err(|error| error.to_string())?;
    let claims = json!({ "sub": "jane", "n": 5, "f": 2.5, "ok": true, "roles": ["a", "b"], "nested": { "x": [1] },
        "nothing": null });
    let user = json!({ "name": "jane", "groups": ["dev", "ops"], "extra": { "k": ["v"] } });
    let given = [("claims", Value::from(&claims)), ("user", Value::from(&user))];
    let value = program.evaluate(&given, limit).map_err(|error| error.to_string())?;
    Ok(show(&value))
}

fn show(value: &Value<'_>) -> String {
    if let Some(elements) = value.elements() {
        return format!("[{}]", elements.iter().map(show).collect::<Vec<_>>().join(", "));
    }
    if let Some(keys) = value.keys() {
        let entry = |key: &Value<'_>| format!("{}: {}", show(key), show(&value.at(key).unwrap()));
        return format!("{{{}}}", keys.iter().map(entry).collect::<Vec<_>>().join(", "));
    }
    match value {
        Value::Null => "null".to_owned(),
        Value::Optional(None) => "none".to_owned(),
        Value::Optional(Some(inner)) => format!("some({})", show(inner)),
        Value::Type(name) => (*name).to_owned(),
        Value::Bytes(bytes) => format!("{bytes:?}"),
        other => conversions::show(other).unwrap(),
    }
}

#[track_caller]
fn is(source: &str, expected: &str) {
    assert_eq!(evaluate(source, USUAL_LIMIT).as_deref(), Ok(expected), "{source}");
}

#[track_caller]
fn fails(source: &str, expected: &str) {
    assert_eq!(evaluate(source, USUAL_LIMIT).as_ref().map_err(String::as_str), Err(expected), "{source}");
}

#[test]
fn operators() {
    is("1 + 2 * 3 - 4 / 2", "5");
    is("-(3 - 5) % 2 == 0 && !false", "true");
    is("-9223372036854775808", "-9223372036854775808");
    is("0x1F + 7", "38");
    is("'a' + \"b\" + '''c\nd'''", "abc\nd");
    is(r"'\x41\u00e9\101\n' == 'AéA\n' && r'\n' == '\\n'", "true");
    is("b'a\\xff'", "[97, 255]");
    is("1 < 2 ? 'yes' : 'no'", "yes");
    is("[1, 2] + [3]", "[1, 2, 3]");
    is("2 in [1, 2] && 'k' in user.extra && !('z' in claims)", "true");
    is("{'a': [1], 'b': [2]}['b'][0]", "2");
    is("claims.n == 5 && claims.f == 2.5 && claims.n > 4.5 && claims.n != '5'", "true");
    is("duration('1h30m') > duration('1500ms') && string(duration('90s')) == '90s'", "true");
    is("timestamp('2024-02-29T10:00:00Z') + duration('24h')", "2024-03-01T10:00:00Z");
    is("timestamp('2024-02-29T23:00:00Z').getHours('+02:00')", "1");
    is("timestamp('2024-02-29T23:00:00Z').getDayOfWeek()", "4");
    is("type(1) == int && type(claims) == map && type(null) == null_type", "true");
    is("int('7') + int(2.9) + int(3u)", "12");
    is("double('2.5') == 2.5 && bool('true') && uint(3) == 3u", "true");
}

#[test]
fn one_side_that_decides_makes_up_for_the_other() {
    is("claims.missing == 1 || true", "true");
    is("false && claims.missing == 1", "false");
    fails("claims.missing == 1 || false", "no such key: missing");
    is("[1, 0].exists(x, 10 / x == 10)", "true");
    fails("[1, 0].all(x, 10 / x == 10)", "division by zero");
    is("[2, 0].all(x, 10 / x == 10)", "false");
}

#[test]
fn macros() {
    is("has(claims.sub) && !has(claims.missing) && has(claims.nested.x)", "true");
    is("claims.roles.map(r, 'x:' + r)", "[x:a, x:b]");
    is("[1, 2, 3].map(x, x > 1, x * 10)", "[20, 30]");
    is("[1, 2, 3].filter(x, x % 2 == 1)", "[1, 3]");
    is("[1, 2, 3].exists_one(x, x > 2) && user.extra.all(k, k == 'k')", "true");
    is("[1, 2].map(x, [3, 4].map(y, x * y))", "[[3, 4], [6, 8]]");
    is("['a', 'b'].transformMap(i, v, v + string(i))", "{0: a0, 1: b1}");
    is("{'a': 1}.transformList(k, v, k + string(v))", "[a1]");
    is("['x'].all(i, v, i == 0 && v == 'x')", "true");
}

#[test]
fn values_get_names() {
    is("cel.bind(x, claims.sub + '!', x + x)", "jane!jane!");
    is("cel.bind(x, 1, [2, 3].map(y, x + y))", "[3, 4]");
    is("cel.bind(x, 1, cel.bind(x, x + 1, x)) + cel.bind(y, 3, y)", "5");
}

#[test]
fn optional_values() {
    is("claims.?sub.orValue('nobody') + claims.?missing.orValue('!')", "jane!");
    is("claims.?nested.?x[?0].hasValue() && !claims.?nested.?y.hasValue()", "true");
    is("claims.?nested.x[0].value()", "1");
    is("[?claims.?sub, ?claims.?missing]", "[jane]");
    is("{?'a': claims.?sub, ?'b': claims.?missing}", "{a: jane}");
    is("optional.of(1).optMap(x, x + 1).or(optional.none()).orValue(0)", "2");
    is("optional.ofNonZeroValue('').hasValue()", "false");
    is("claims.?roles.optFlatMap(r, r[?5]).orValue('none')", "none");
    fails("optional.none().value()", "optional.none() dereference");
}

#[test]
fn functions_of_text_and_lists() {
    is("'hello'.startsWith('he') && 'hello'.endsWith('lo') && 'hello'.contains('ell')", "true");
    is("'a1b22'.findAll('[0-9]+')", "[1, 22]");
    is("'jane@example.com'.matches('^[a-z]+@example\\\\.com$')", "true");
    is("'a,b,c'.split(',', 2)", "[a, b,c]");
    is("['a', 'b'].join('-') + 'héllo'.substring(1, 3) + 'ABC'.lowerAscii().charAt(2)", "a-bélc");
    is("'abcabc'.indexOf('c') + 'abcabc'.lastIndexOf('c') + [1, 2, 1].lastIndexOf(1)", "9");
    is("'  x '.trim() + 'aaa'.replace('a', 'b', 2)", "xbba");
    is("size('héllo') + size([1, 2]) + {'a': 1}.size()", "8");
    is("[1, 2, 3].sum() + [4, 2].min() + [4, 2].max()", "12");
    is("[1, 2].isSorted() && sets.contains([1, 2], [2]) && !sets.intersects([1], [2])", "true");
    fails("'abc'.substring(2, 1)", "invalid substring range. start: 2, end: 1");
    fails("[1][5]", "index out of bounds: 5");
    fails("1 / 0", "division by zero");
    fails("9223372036854775807 + 1", "return error for overflow");
    fails("claims.sub + 1", "no such overload");
}

#[test]
fn more_functions_of_lists_and_text() {
    is("['b', 'a'].sort() + ['x'].reverse() + [['c'], ['d']].flatten()", "[a, b, x, c, d]");
    is("[dyn([dyn(1), [2]]), [3]].flatten(2)", "[1, 2, 3]");
    is("['bb', 'a'].sortBy(s, size(s))", "[a, bb]");
    is("lists.range(4).slice(1, 3) + [1, 1, 2].distinct()", "[1, 2, 1, 2]");
    is("[1, 2].first().value() + [1, 2].last().orValue(0) + size([optional.none(), optional.of(1)].unwrapOpt())", "4");
    fails("[1].slice(0, 2)", "cannot slice(0, 2), list is length 1");
    is("'%s is %d, %.2f, %x%%'.format([dyn('a'), 5, 2.5, 255])", "a is 5, 2.50, ff%");
    is("'%s %s'.format([dyn([dyn(1), 'a']), {'k': true}])", "[1, \"a\"] {\"k\":true}");
    is("'%e %b %o %X'.format([dyn(1234.5), 5, 8, 'hi'])", "1.234500e+03 101 10 6869");
    is("strings.quote('a\"b')", "\"a\\\"b\"");
    fails(
        "'%d'.format(['x'])",
        "error during formatting: decimal clause can only be used on integers, was given string",
    );
    fails("'%s'.format([])", "index 0 out of range");
    fails("'x'.format([1])", "too many arguments supplied to string.format (expected 0, got 1)");
}

#[test]
fn addresses_and_urls() {
    is("ip('192.168.0.1').family() == 4 && ip('::1').isLoopback() && isIP('fe80::1')", "true");
    is("isIP('127.0.0.01') || isIP('::ffff:1.2.3.4') || isIP('fe80::1%eth0')", "false");
    is("ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')", "true");
    is(
        "string(ip('::0:1')) + string(cidr('10.1.2.3/8').masked()) + string(cidr('10.1.2.3/8').ip())",
        "::110.0.0.0/810.1.2.3",
    );
    is(
        "ip('224.0.0.1').isLinkLocalMulticast() && ip('fe80::1').isLinkLocalUnicast() && ip('8.8.8.8').isGlobalUnicast()",
        "true",
    );
    is("cidr('192.168.0.0/24').containsIP('192.168.0.7') && !cidr('::/0').containsIP(ip('1.2.3.4'))", "true");
    is(
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !cidr('10.1.0.0/16').containsCIDR(cidr('10.0.0.0/8'))",
        "true",
    );
    is("cidr('::/0').prefixLength() == 0 && cidr('0.0.0.0/0').containsIP('9.9.9.9') && !isCIDR('10.0.0.0/33')", "true");
    fails(
        "ip('1.2.3')",
        "IP Address \"1.2.3\" parse error during conversion from string: ParseAddr(\"1.2.3\"): IPv4 address too short",
    );
    is("url('https://jane@example.com:80/a b?k=1&k=%2F#f').getEscapedPath()", "/a%20b");
    is("url('https://[::1]:80/').getHostname() + url('https://[::1]:80/').getPort() + url('/x').getHost()", "::180");
    is("url('https://x/?k=a+b&k=%2F').getQuery()['k'] + [url('HTTPS://x').getScheme()]", "[a b, /, https]");
    is("isURL('/path') && isURL('mailto:jane') && !isURL('../x') && !isURL('https://a:b/') && !isURL('/%zz')", "true");
    fails("url('x')", "URL parse error during conversion from string: parse \"x\": invalid URI for request");
}

#[test]
fn quantities_versions_and_forms() {
    is(
        "quantity('1Gi').isGreaterThan(quantity('1000M')) && quantity('500m').add(quantity('1.5')).asInteger() == 2",
        "true",
    );
    is("quantity('50k').sub(1) == quantity('49999') && quantity('-1').sign() == -1 && !isQuantity('1.3Gx')", "true");
    is("quantity('1.5').asApproximateFloat() == 1.5 && !quantity('1.5').isInteger()", "true");
    fails("quantity('1.5').asInteger()", "cannot convert value to integer");
    is("semver('1.2.3-rc.1').isLessThan(semver('1.2.3')) && semver('1.10.0').compareTo(semver('1.9.0')) == 1", "true");
    is("semver('v01.2', true) == semver('1.2.0+build') && semver('1.2.3').minor() == 2 && !isSemver('1.2')", "true");
    fails("semver('01.2.3')", "Major number must not contain leading zeroes \"01\"");
    is("format.dns1123Label().validate('a-b').hasValue()", "false");
    is("format.dns1123Label().validate('a.b').value()", "[must not contain dots]");
    is(
        "format.named('uuid').value().validate('x').value() + format.date().validate('2024-02-30').orValue(['fine'])",
        "[does not match the UUID format, invalid date]",
    );
    is("format.named('nothing').hasValue() || format.labelValue().validate('ok').hasValue()", "false");
    is("format.dns1123LabelPrefix().validate('a-').hasValue()", "false");
}

#[test]
fn mistakes_show_before_anything_is_evaluated() {
    fails("foo.bar", "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo.bar\n | ^");
    fails("user.nmae", "ERROR: <input>:1:5: undefined field 'nmae'\n | user.nmae\n | ....^");
    fails(
        "user.name == 1",
        "ERROR: <input>:1:11: found no matching overload for '_==_' applied to '(string, int)'\n | user.name == 1\n | ..........^",
    );
    fails(
        "user.name.startsWith(1)",
        "ERROR: <input>:1:21: found no matching overload for 'startsWith' applied to 'string.(int)'\n | user.name.startsWith(1)\n | ....................^",
    );
    fails(
        "true &&\n'é' && user.x",
        "ERROR: <input>:1:6: found no matching overload for '_&&_' applied to '(bool, string, dyn)'\n | true &&\n | .....^\n\
         ERROR: <input>:2:12: undefined field 'x'\n | 'é' && user.x\n | .．.........^",
    );
    fails("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^");
    fails(
        "user.groups.all(1, true)",
        "ERROR: <input>:1:17: argument must be a simple name\n | user.groups.all(1, true)\n | ................^",
    );
    fails(
        "1.all(x, true)",
        "ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | 1.all(x, true)\n | ^",
    );
    fails(
        "nothing(1)",
        "ERROR: <input>:1:8: undeclared reference to 'nothing' (in container '')\n | nothing(1)\n | .......^",
    );
    let expecting = "expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
    fails("1 +", &format!("ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' {expecting}\n | 1 +\n | ...^"));
    fails(
        "user.name.matches('[')",
        "ERROR: <input>:1:19: invalid matches argument\n | user.name.matches('[')\n | ..................^",
    );
    fails(
        "claims.sub.matches(claims.sub + '[')",
        "error parsing regexp: regex parse error:\n    jane[\n        ^\nerror: unclosed character class",
    );
    fails("has(user)", "ERROR: <input>:1:4: invalid argument to has() macro\n | has(user)\n | ...^");
    fails("while", "ERROR: <input>:1:1: reserved identifier: while\n | while\n | ^");
    fails("'a", "ERROR: <input>:1:1: Syntax error: token recognition error at: ''a'\n | 'a\n | ^");
}

#[test]
fn types_of_results_are_known() {
    let output = |source: &str| Program::compile(source, &environment()).unwrap().output().to_string();
    assert_eq!(output("claims.sub"), "dyn");
    assert_eq!(output("claims.sub == 'x'"), "bool");
    assert_eq!(output("user.groups"), "list(string)");
    assert_eq!(output("true ? [] : ['a']"), "list(string)");
    assert_eq!(output("[]"), "list(dyn)");
    assert_eq!(output("{'a': 1u}"), "map(string, uint)");
    assert_eq!(output("optional.of(1)"), "optional_type(int)");
    assert_eq!(output("user.extra.map(k, user.extra[k])"), "list(list(string))");
}

#[test]
fn depth_length_and_cost_are_bounded() {
    let deep = format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(evaluate(&deep, 1).unwrap_err().contains("expression recursion limit exceeded: 128"));
    let chain = vec!["1"; 10_000].join(" + ");
    assert!(evaluate(&chain, 1).unwrap_err().contains("expression recursion limit exceeded: 128"));
    let longest = |terms: usize| vec!["1"; terms].join(" + ");
    is(&longest(parser::MAX_DEPTH), &parser::MAX_DEPTH.to_string());
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels) + &"[0]".repeat(levels));
    is(&nested(parser::MAX_DEPTH / 2 - 1), "1");
    let negated = format!("{}true", "!".repeat(10_001));
    is(&negated, "false");
    let unary = format!("{}1", "-(".repeat(5_000));
    assert!(evaluate(&unary, 1).unwrap_err().contains("recursion limit"));
    is(&vec!["true"; 10_000].join(" && "), "true");
    assert!(evaluate(&format!("'{}'", "x".repeat(100_000)), 1).unwrap_err().contains("exceeds limit"));
    let list = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]";
    let nested =
        format!("{list}.all(a, {list}.all(b, {list}.all(c, {list}.all(d, {list}.all(e, a + b + c + d + e >= 0)))))");
    assert_eq!(evaluate(&nested, USUAL_LIMIT).unwrap_err(), "operation cancelled: actual cost limit exceeded");
    assert_eq!(evaluate("1 + 1", 0).unwrap_err(), "operation cancelled: actual cost limit exceeded");
    let doubling = (0..40).fold("'x'".to_owned(), |inner, _| format!("[{inner}].map(s, s + s)[0]"));
    assert_eq!(evaluate(&doubling, USUAL_LIMIT).unwrap_err(), "operation cancelled: actual cost limit exceeded");
}
