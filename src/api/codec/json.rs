//! A JSON reader over bytes in memory, with syntax errors worded as Kubernetes clients know them.

use serde_json::{Map, Number, Value};
use std::borrow::Cow;

/// Deeper documents are refused: values are dropped recursively.
pub(super) const MAX_DEPTH: u32 = 400;

/// A syntax error's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Syntax(pub(super) String);

type Result<T> = std::result::Result<T, Syntax>;

/// A reader over one document.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

/// What comes next in the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Next {
    /// The word used in type errors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Next::Null => "null",
            Next::Bool => "bool",
            Next::Number => "number",
            Next::String => "string",
            Next::Array => "array",
            Next::Object => "object",
        }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Reader { text, at: 0, depth: 0 }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    pub(super) fn blanks(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The error for the character at hand.
    fn unexpected<T>(&self, context: &str) -> Result<T> {
        Err(match self.text[self.boundary()..].chars().next() {
            None => Syntax("unexpected end of JSON input".into()),
            Some(c) => Syntax(format!("invalid character {} {context}", quote(c))),
        })
    }

    fn boundary(&self) -> usize {
        let mut at = self.at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }

    /// Looks at the first character of a value.
    pub(super) fn peek(&mut self) -> Result<Next> {
        self.blanks();
        match self.byte() {
            Some(b'"') => Ok(Next::String),
            Some(b'{') => Ok(Next::Object),
            Some(b'[') => Ok(Next::Array),
            Some(b't' | b'f') => Ok(Next::Bool),
            Some(b'n') => Ok(Next::Null),
            Some(b'-' | b'0'..=b'9') => Ok(Next::Number),
            _ => self.unexpected("looking for beginning of value"),
        }
    }

    /// Nothing may follow the top-level value.
    pub(super) fn end(&mut self) -> Result<()> {
        self.blanks();
        match self.byte() {
            None => Ok(()),
            Some(_) => self.unexpected("after top-level value"),
        }
    }

    fn enter(&mut self) -> Result<()> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Syntax("exceeded max depth".into()));
        }
        Ok(())
    }

    /// Reads an object: `member` reads the value of each key.
    pub(super) fn object(&mut self, mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<()>) -> Result<()> {
        self.enter()?;
        self.blanks();
        if self.byte() == Some(b'}') {
            self.at += 1;
            self.depth -= 1;
            return Ok(());
        }
        loop {
            self.blanks();
            if self.byte() != Some(b'"') {
                return self.unexpected("looking for beginning of object key string");
            }
            let key = self.string()?;
            self.blanks();
            if self.byte() != Some(b':') {
                return self.unexpected("after object key");
            }
            self.at += 1;
            member(self, key)?;
            self.blanks();
            match self.byte() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    self.depth -= 1;
                    return Ok(());
                }
                _ => return self.unexpected("after object key:value pair"),
            }
        }
    }

    /// Reads an array: `element` reads each value, given its index.
    pub(super) fn array(&mut self, mut element: impl FnMut(&mut Self, usize) -> Result<()>) -> Result<()> {
        self.enter()?;
        self.blanks();
        if self.byte() == Some(b']') {
            self.at += 1;
            self.depth -= 1;
            return Ok(());
        }
        for index in 0.. {
            element(self, index)?;
            self.blanks();
            match self.byte() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    self.depth -= 1;
                    return Ok(());
                }
                _ => return self.unexpected("after array element"),
            }
        }
        Ok(())
    }

    /// Reads a string whose quote is at hand.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>> {
        self.at += 1;
        let start = self.at;
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    let piece = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Cow::Borrowed(piece));
                }
                Some(b'\\') => return self.escaped(start).map(Cow::Owned),
                Some(0..=0x1f) => return self.unexpected("in string literal"),
                Some(_) => self.at += 1,
                None => return self.unexpected(""),
            }
        }
    }

    /// Reads on from the first escape of a string that began at `start`.
    fn escaped(&mut self, start: usize) -> Result<String> {
        let mut out = String::from(&self.text[start..self.at]);
        let mut from = self.at;
        loop {
            match self.byte() {
                Some(b'"') => {
                    out.push_str(&self.text[from..self.at]);
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    out.push_str(&self.text[from..self.at]);
                    self.at += 1;
                    let c = self.escape()?;
                    out.push(c);
                    from = self.at;
                }
                Some(0..=0x1f) => return self.unexpected("in string literal"),
                Some(_) => self.at += 1,
                None => return self.unexpected(""),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let c = match self.byte() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return self.unexpected("in string escape code"),
        };
        self.at += 1;
        Ok(c)
    }

    /// A surrogate without its partner becomes the replacement character.
    fn unicode(&mut self) -> Result<char> {
        let first = self.hex()?;
        if !(0xd800..0xe000).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        if first < 0xdc00 && self.text.as_bytes()[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex(&mut self) -> Result<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.byte().and_then(|b| char::from(b).to_digit(16)) else {
                return self.unexpected("in \\u hexadecimal character escape");
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    /// Reads a number and returns its text.
    pub(super) fn number(&mut self) -> Result<&'a str> {
        let start = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.unexpected("in numeric literal"),
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            if !matches!(self.byte(), Some(b'0'..=b'9')) {
                return self.unexpected("after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !matches!(self.byte(), Some(b'0'..=b'9')) {
                return self.unexpected("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) {
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    /// Reads `null`.
    pub(super) fn null(&mut self) -> Result<()> {
        self.literal("null")
    }

    /// Reads `true` or `false`.
    pub(super) fn bool(&mut self) -> Result<bool> {
        let yes = self.byte() == Some(b't');
        self.literal(if yes { "true" } else { "false" })?;
        Ok(yes)
    }

    fn literal(&mut self, word: &str) -> Result<()> {
        for expected in word.chars() {
            if self.byte() != Some(expected as u8) {
                return self.unexpected(&format!("in literal {word} (expecting {})", quote(expected)));
            }
            self.at += 1;
        }
        Ok(())
    }

    /// Passes over a value and returns its text.
    pub(super) fn raw(&mut self) -> Result<&'a str> {
        self.blanks();
        let start = self.at;
        self.skip()?;
        Ok(&self.text[start..self.at])
    }

    /// Reads any value as it is.
    pub(super) fn any(&mut self) -> Result<Value> {
        Ok(match self.peek()? {
            Next::Null => {
                self.null()?;
                Value::Null
            }
            Next::Bool => Value::Bool(self.bool()?),
            Next::Number => any_number(self.number()?),
            Next::String => Value::String(self.string()?.into_owned()),
            Next::Array => {
                let mut list = Vec::new();
                self.array(|reader, _| {
                    list.push(reader.any()?);
                    Ok(())
                })?;
                Value::Array(list)
            }
            Next::Object => {
                let mut map = Map::new();
                self.object(|reader, key| {
                    let value = reader.any()?;
                    map.insert(key.into_owned(), value);
                    Ok(())
                })?;
                Value::Object(map)
            }
        })
    }

    /// Reads any value and forgets it.
    pub(super) fn skip(&mut self) -> Result<()> {
        match self.peek()? {
            Next::Null => self.null(),
            Next::Bool => self.bool().map(drop),
            Next::Number => self.number().map(drop),
            Next::String => self.string().map(drop),
            Next::Array => self.array(|reader, _| reader.skip()),
            Next::Object => self.object(|reader, _| reader.skip()),
        }
    }
}

/// A number's text as a value: integers stay integers.
pub(super) fn any_number(text: &str) -> Value {
    if let Ok(n) = text.parse::<i64>() {
        return Value::Number(n.into());
    }
    if let Ok(n) = text.parse::<u64>() {
        return Value::Number(n.into());
    }
    text.parse::<f64>().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}

fn quote(c: char) -> String {
    match c {
        '\'' => "'\\''".into(),
        '"' => "'\"'".into(),
        '\\' => "'\\\\'".into(),
        '\n' => "'\\n'".into(),
        '\r' => "'\\r'".into(),
        '\t' => "'\\t'".into(),
        c if (c as u32) < 0x20 || c as u32 == 0x7f => format!("'\\x{:02x}'", c as u32),
        c => format!("'{c}'"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expect: &str) {
        let mut reader = Reader::new(text);
        let error = reader.any().and_then(|_| reader.end()).unwrap_err();
        assert_eq!(error.0, expect, "{text}");
    }

    #[test]
    fn syntax_errors_name_the_character() {
        check("", "unexpected end of JSON input");
        check("{\"a\": x}", "invalid character 'x' looking for beginning of value");
        check("{a: 1}", "invalid character 'a' looking for beginning of object key string");
        check("{\"a\" 1}", "invalid character '1' after object key");
        check("{\"a\": 1 \"b\"", "invalid character '\"' after object key:value pair");
        check("[1 2]", "invalid character '2' after array element");
        check("{} {}", "invalid character '{' after top-level value");
        check("\"a\nb\"", "invalid character '\\n' in string literal");
        check("\"\\q\"", "invalid character 'q' in string escape code");
        check("tru3", "invalid character '3' in literal true (expecting 'e')");
        check("1.x", "invalid character 'x' after decimal point in numeric literal");
        check(&"[".repeat(500), "exceeded max depth");
        check("é", "invalid character 'é' looking for beginning of value");
    }

    #[test]
    fn values_read_as_serde_reads_them() {
        for text in [
            r#"{"a":[1,-2,3.5,1e3,true,false,null,"x\u00e9\ud83d\ude00\n"],"b":{"c":{}},"d":[],"e":18446744073709551615}"#,
            "  [ 1 , { \"a\" : \"b\" } ]  ",
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(Reader::new(text).any().unwrap(), expected);
        }
        assert_eq!(Reader::new(r#""\ud800x""#).any().unwrap(), Value::from("\u{fffd}x"));
    }

    proptest! {
        #[test]
        fn what_is_json_for_others_is_json_for_us(text in "[\\[\\]{}\",:0-9.eE+\\-truefalsn \\\\u]{0,24}") {
            let ours = {
                let mut reader = Reader::new(&text);
                reader.any().and_then(|v| reader.end().map(|()| v))
            };
            match serde_json::from_str::<Value>(&text) {
                Ok(theirs) => prop_assert_eq!(ours, Ok(theirs)),
                // Lone surrogates and huge exponents are theirs to refuse.
                Err(_) => prop_assert!(ours.is_err() || text.contains("\\u") || text.contains(['e', 'E'])),
            }
        }
    }
}
