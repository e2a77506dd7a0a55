//! YAML request bodies: transcoded to JSON text, which the typed walk then reads.

use super::{DecodeError, Decoded, scalars, typed};
use crate::facts::Type;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// Larger than any body that is accepted.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Decodes a YAML body as an object of the type.
pub fn decode_yaml(body: &[u8], ty: &'static Type) -> Result<Decoded, DecodeError> {
    typed::decode(&yaml_to_json(body)?, ty)
}

/// Parses any YAML document untyped.
pub fn parse_yaml(body: &[u8]) -> Result<Value, DecodeError> {
    super::parse_json(yaml_to_json(body)?.as_bytes())
}

/// The JSON text of a YAML document. Duplicate keys are kept, so that the reader can report them.
pub fn yaml_to_json(body: &[u8]) -> Result<String, DecodeError> {
    let text = std::str::from_utf8(body).map_err(|e| {
        let line = body[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        DecodeError::Yaml(format!("line {line}: invalid UTF-8"))
    })?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(MAX_BYTES),
            // Each level costs several frames of the parser: worker threads have 2 MiB of stack.
            max_depth: 100,
            max_nodes: 1_000_000,
            max_events: 4_000_000,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let Json(json) = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let message = error.to_string();
        DecodeError::Yaml(match error.location() {
            Some(at) => {
                let suffix = format!(" at line {}, column {}", at.line(), at.column());
                format!("line {}, column {}: {}", at.line(), at.column(), message.trim_end_matches(&suffix))
            }
            None => message,
        })
    })?;
    Ok(json)
}

/// JSON text made from whatever is deserialized.
struct Json(String);

impl<'de> serde::Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut out = String::new();
        Transcode(&mut out, false).deserialize(deserializer)?;
        Ok(Json(out))
    }
}

/// Writes one value; a key is always a string.
struct Transcode<'a>(&'a mut String, bool);

impl Transcode<'_> {
    fn bare(self, text: &dyn fmt::Display) {
        use fmt::Write as _;
        let quote = if self.1 { "\"" } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{quote}{text}{quote}");
    }
}

impl<'de> DeserializeSeed<'de> for Transcode<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Transcode<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.1 { "a scalar key" } else { "a value" })
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.bare(&value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.bare(&value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.bare(&value);
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        let number = scalars::float_value(value).ok_or_else(|| E::custom("a number must be finite"))?;
        self.bare(&number);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        let text = serde_json::to_string(value).expect("a string always serializes");
        self.0.push_str(&text);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.bare(&"null");
        Ok(())
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let out = self.0;
        if self.1 {
            return Err(serde::de::Error::custom("a key must be a scalar"));
        }
        out.push('[');
        let mut first = true;
        loop {
            let before = out.len();
            if !first {
                out.push(',');
            }
            first = false;
            if seq.next_element_seed(Transcode(out, false))?.is_none() {
                out.truncate(before);
                out.push(']');
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let out = self.0;
        if self.1 {
            return Err(serde::de::Error::custom("a key must be a scalar"));
        }
        out.push('{');
        let mut first = true;
        loop {
            let before = out.len();
            if !first {
                out.push(',');
            }
            first = false;
            if map.next_key_seed(Transcode(out, true))?.is_none() {
                out.truncate(before);
                out.push('}');
                return Ok(());
            }
            out.push(':');
            map.next_value_seed(Transcode(out, false))?;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_reads_as_kubernetes_reads_it() {
        let value = parse_yaml(
            b"# comment\na: yes\nb: \"yes\"\nc: 0644\nd: 1.5\nw: 2.0\ne:\nf: [x, 1, {g: ~}]\n8080: web\ntrue: t\nm: |\n  line\n  two\nday: 2001-01-01\no: &x {a: 1}\np:\n  <<: *x\n  b: 2\n",
        )
        .unwrap();
        let expect = json!({"a": true, "b": "yes", "c": 420, "d": 1.5, "w": 2, "e": null, "f": ["x", 1, {"g": null}],
            "8080": "web", "true": "t", "m": "line\ntwo\n", "day": "2001-01-01", "o": {"a": 1}, "p": {"a": 1, "b": 2}});
        assert_eq!(value, expect);
    }

    #[test]
    fn errors_have_line_and_column() {
        let error = parse_yaml(b"kind: Pod\nmetadata:\n  name: a\n bad: [1\n").unwrap_err().to_string();
        assert!(error.starts_with("error converting YAML to JSON: yaml: line "), "{error}");
        assert!(error.contains("column"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn duplicate_and_unknown_fields_are_reported() {
        let pod = crate::facts::type_by_gvk("", "v1", "Pod").unwrap();
        let decoded = decode_yaml(b"metadata:\n  name: a\n  name: b\nspec:\n  foo: 1\n", pod).unwrap();
        assert_eq!(decoded.strict, ["duplicate field \"metadata.name\"", "unknown field \"spec.foo\""]);
        assert_eq!(decoded.value["metadata"]["name"], "b");
    }

    #[test]
    fn alias_bombs_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 9].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(parse_yaml(bomb.as_bytes()).is_err());
    }
}
