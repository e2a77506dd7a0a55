//! Writes YAML as upstream prints objects: sorted keys, lists not indented, text quoted only where it must be.

use serde_json::Value;
use std::fmt::Write;

/// A document with a final newline.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(&mut out, map, 0, false),
        Value::Array(items) if !items.is_empty() => write_list(&mut out, items, 0),
        scalar => write_scalar(&mut out, scalar, 0),
    }
    out
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// `inline`: the first key stands behind a list item's dash.
fn write_map(out: &mut String, map: &serde_json::Map<String, Value>, indent: usize, mut inline: bool) {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort();
    for key in keys {
        if !std::mem::take(&mut inline) {
            pad(out, indent);
        }
        out.push_str(&text(key));
        out.push(':');
        match &map[key] {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                write_map(out, inner, indent + 2, false);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                write_list(out, items, indent);
            }
            scalar => {
                out.push(' ');
                write_scalar(out, scalar, indent + 2);
            }
        }
    }
}

fn write_list(out: &mut String, items: &[Value], indent: usize) {
    for item in items {
        pad(out, indent);
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => write_map(out, map, indent + 2, true),
            // An inner list starts on the dash's line too; flow style keeps that simple.
            Value::Array(inner) if !inner.is_empty() => {
                out.push_str(&item.to_string());
                out.push('\n');
            }
            scalar => write_scalar(out, scalar, indent + 2),
        }
    }
}

fn write_scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::String(string) if is_block(string) => {
            let body = string.trim_end_matches('\n');
            let newlines = string.len() - body.len();
            out.push_str(match newlines {
                0 => "|-\n",
                1 => "|\n",
                _ => "|+\n",
            });
            for line in string.strip_suffix('\n').unwrap_or(string).split('\n') {
                if !line.is_empty() {
                    pad(out, indent);
                    out.push_str(line);
                }
                out.push('\n');
            }
        }
        Value::String(string) => {
            out.push_str(&text(string));
            out.push('\n');
        }
        Value::Object(_) => out.push_str("{}\n"),
        Value::Array(_) => out.push_str("[]\n"),
        other => {
            let _ = writeln!(out, "{other}");
        }
    }
}

/// Several lines that a literal block can hold.
fn is_block(string: &str) -> bool {
    string.contains('\n')
        && !string.trim_end_matches('\n').is_empty()
        && !string.starts_with([' ', '\n', '\t'])
        && string.chars().all(|c| c == '\n' || c == '\t' || !is_special(c))
}

/// Plain where it reads back as the same string, else quoted.
fn text(string: &str) -> String {
    if is_plain(string) {
        return string.to_owned();
    }
    // JSON's escapes are YAML's too, but YAML wants a few more.
    let json = serde_json::to_string(string).unwrap_or_default();
    json.chars().map(|c| if is_special(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }).collect()
}

/// Not printable, or a line break to some readers.
fn is_special(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn is_plain(string: &str) -> bool {
    const WORDS: &[&str] =
        &["null", "true", "false", "yes", "no", "on", "off", "y", "n", ".inf", ".nan", "-.inf", "+.inf"];
    let Some(first) = string.chars().next() else { return false };
    if WORDS.contains(&string.to_ascii_lowercase().as_str()) || string.starts_with("---") || string.starts_with("...") {
        return false;
    }
    // A dash is an indicator only before a space.
    let dash = first == '-' && string.len() > 1 && !string.starts_with("- ");
    if !dash && "-?:,[]{}#&*!|>'\"%@`~=<".contains(first) {
        return false;
    }
    if looks_numeric(string) || string.starts_with(' ') || string.ends_with([' ', ':']) {
        return false;
    }
    !string.contains(": ") && !string.contains(" #") && !string.chars().any(is_special)
}

/// Numbers and times in any notation that a YAML reader might see.
fn looks_numeric(string: &str) -> bool {
    let body = string.trim_start_matches(['-', '+', '.']);
    body.starts_with(|c: char| c.is_ascii_digit())
        && string.chars().all(|c| c.is_ascii_hexdigit() || "+-_.:xoTZtz ".contains(c))
        // Addresses and versions with letters outside of these were sorted out above.
        && !is_address(string)
}

fn is_address(string: &str) -> bool {
    string.parse::<std::net::Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_look_as_upstream_prints_them() {
        let value = json!({"spec": {"clusterIP": "10.43.0.1", "ports": [{"port": 80, "name": "http"}, {"port": 81}], "empty": {}, "none": []},
            "apiVersion": "v1", "metadata": {"annotations": {"note": "two\nlines\n", "n": "80"}}});
        let expect = "apiVersion: v1\nmetadata:\n  annotations:\n    \"n\": \"80\"\n    note: |\n      two\n      lines\nspec:\n  clusterIP: 10.43.0.1\n  empty: {}\n  none: []\n  ports:\n  - name: http\n    port: 80\n  - port: 81\n";
        assert_eq!(to_yaml(&value), expect);
    }

    #[test]
    fn everything_reads_back_as_it_was() {
        let strings = [
            "",
            " ",
            "a",
            "a b",
            "true",
            "Yes",
            "null",
            "~",
            "1",
            "1.5",
            "1e3",
            "0x1f",
            "-1",
            "-",
            "- a",
            "a: b",
            "a #b",
            "#a",
            "a:",
            ":a",
            "[a]",
            "{a}",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "'a'",
            "\"a\"",
            "%a",
            "@a",
            "`a`",
            "a\nb",
            "a\nb\n",
            "a\nb\n\n",
            "\na",
            " a\nb",
            "a\n\n  b\n",
            "a\tb",
            "2001-01-01",
            "2001-01-01T00:00:00Z",
            "12:30:45",
            "10.0.0.1",
            "10.0.0.0/24",
            "100m",
            "1Gi",
            "--flag",
            "-c",
            "é",
            "\u{7f}",
            "a\\b",
            "---",
            "=",
            "<<",
            "0o17",
            "1_000",
            "key: |\n  x",
            "a\r\nb",
            "\u{2028}",
            ".5",
            "+1",
            "off",
        ];
        for string in strings {
            for value in [json!({"k": string}), json!({"l": [string, {"k": string}]}), json!({string: 1})] {
                let text = to_yaml(&value);
                assert_eq!(crate::codec::parse_yaml(text.as_bytes()).unwrap(), value, "{string:?}: {text}");
            }
        }
        for value in [
            json!({"a": null, "b": true, "c": 1.5, "d": -3}),
            json!({"a": [[1, 2], ["x", []]]}),
            json!([1, {"a": [{}]}]),
        ] {
            assert_eq!(crate::codec::parse_yaml(to_yaml(&value).as_bytes()).unwrap(), value);
        }
    }
}
