//! Tokens of an expression.

use super::Issue;

/// A token with the number of characters before it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) kind: TokenKind,
    /// As it is written, for errors.
    pub(super) text: String,
}

/// What it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    Ident,
    Int(u64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    Symbol(&'static str),
    End,
}

/// Longest first where one begins with another.
const SYMBOLS: [&str; 26] = [
    "==", "!=", "<=", ">=", "&&", "||", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/", "%",
    "<", ">", "=", "|",
];

/// All tokens of a source, the end last.
pub(super) fn tokens(source: &[char]) -> Result<Vec<Token>, Issue> {
    let mut lexer = Lexer { source, at: 0 };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next()?;
        let last = token.kind == TokenKind::End;
        tokens.push(token);
        if last {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    source: &'a [char],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.source.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn starts_with(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(ahead, wanted)| self.source.get(self.at + ahead) == Some(&wanted))
    }

    fn skip_blanks(&mut self) {
        loop {
            if self.starts_with("//") {
                while self.at < self.source.len() && self.peek(0) != '\n' {
                    self.at += 1;
                }
            } else if matches!(self.peek(0), ' ' | '\t' | '\n' | '\r' | '\u{c}') {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    fn next(&mut self) -> Result<Token, Issue> {
        self.skip_blanks();
        let at = self.at;
        let kind = match self.peek(0) {
            _ if at == self.source.len() => TokenKind::End,
            '0'..='9' => self.number()?,
            '.' if self.peek(1).is_ascii_digit() => self.number()?,
            _ if self.string_ahead() => self.string()?,
            'a'..='z' | 'A'..='Z' | '_' => {
                while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == '_' {
                    self.at += 1;
                }
                TokenKind::Ident
            }
            other => match SYMBOLS.iter().find(|symbol| self.starts_with(symbol)) {
                // Neither stands alone.
                Some(&symbol) if symbol != "=" && symbol != "|" => {
                    self.at += symbol.len();
                    TokenKind::Symbol(symbol)
                }
                _ => return Err(self.unrecognised(at, &other.to_string())),
            },
        };
        let text = match kind {
            TokenKind::End => "<EOF>".to_owned(),
            _ => self.source[at..self.at].iter().collect(),
        };
        Ok(Token { at, kind, text })
    }

    #[allow(clippy::unused_self, reason = "reads as the lexer's own error")]
    fn unrecognised(&self, at: usize, text: &str) -> Issue {
        Issue { at, text: format!("Syntax error: token recognition error at: '{text}'") }
    }

    fn number(&mut self) -> Result<TokenKind, Issue> {
        let start = self.at;
        let hexadecimal = self.starts_with("0x") || self.starts_with("0X");
        if hexadecimal {
            self.at += 2;
            while self.peek(0).is_ascii_hexdigit() {
                self.at += 1;
            }
        } else {
            self.digits();
        }
        let mut whole = true;
        if !hexadecimal {
            if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
                self.at += 1;
                self.digits();
                whole = false;
            }
            let sign = usize::from(matches!(self.peek(1), '+' | '-'));
            if matches!(self.peek(0), 'e' | 'E') && self.peek(1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                self.digits();
                whole = false;
            }
        }
        let text: String = self.source[start..self.at].iter().collect();
        if !whole {
            let value = text.parse().map_err(|_| Issue { at: start, text: "invalid double literal".to_owned() })?;
            return Ok(TokenKind::Double(value));
        }
        let unsigned = matches!(self.peek(0), 'u' | 'U');
        self.at += usize::from(unsigned);
        let value = if hexadecimal { u64::from_str_radix(&text[2..], 16) } else { text.parse() };
        let kind = if unsigned { "uint" } else { "int" };
        let value = value.map_err(|_| Issue { at: start, text: format!("invalid {kind} literal") })?;
        Ok(if unsigned { TokenKind::Uint(value) } else { TokenKind::Int(value) })
    }

    fn digits(&mut self) {
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
    }

    /// Whether a string begins here, with up to two letters before its quote.
    fn string_ahead(&self) -> bool {
        let quote = |c: char| matches!(c, '"' | '\'');
        let prefix = |c: char| matches!(c, 'r' | 'R' | 'b' | 'B');
        quote(self.peek(0))
            || prefix(self.peek(0)) && (quote(self.peek(1)) || prefix(self.peek(1)) && quote(self.peek(2)))
    }

    fn string(&mut self) -> Result<TokenKind, Issue> {
        let start = self.at;
        let (mut raw, mut bytes) = (false, false);
        while !matches!(self.peek(0), '"' | '\'') {
            raw |= matches!(self.peek(0), 'r' | 'R');
            bytes |= matches!(self.peek(0), 'b' | 'B');
            self.at += 1;
        }
        let quote = self.peek(0).to_string();
        let long = quote.repeat(3);
        let (end, multiline) = if self.starts_with(&long) { (long, true) } else { (quote, false) };
        self.at += end.len();
        let mut found = Vec::new();
        while !self.starts_with(&end) {
            let c = self.peek(0);
            if self.at == self.source.len() || (!multiline && matches!(c, '\n' | '\r')) {
                let text: String = self.source[start..self.at].iter().collect();
                return Err(self.unrecognised(start, &text));
            }
            if c == '\\' && !raw {
                self.escape(bytes, &mut found)?;
            } else {
                self.at += 1;
                found.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                if raw && c == '\\' && self.starts_with(&end) && !multiline {
                    // A quote after a backslash does not end a raw string.
                    found.extend_from_slice(end.as_bytes());
                    self.at += 1;
                }
            }
        }
        self.at += end.len();
        if bytes {
            return Ok(TokenKind::Bytes(found));
        }
        let text = String::from_utf8(found).map_err(|_| Issue { at: start, text: "invalid string".to_owned() })?;
        Ok(TokenKind::String(text))
    }

    fn escape(&mut self, bytes: bool, found: &mut Vec<u8>) -> Result<(), Issue> {
        let start = self.at;
        let wrong = || Issue { at: start, text: "Syntax error: token recognition error at: '\\'".to_owned() };
        let letter = self.peek(1);
        self.at += 2;
        let plain = match letter {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' | '\'' | '"' | '`' | '?' => letter,
            'x' | 'X' | 'u' | 'U' | '0'..='3' => {
                let (digits, radix) = match letter {
                    'x' | 'X' => (2, 16),
                    'u' => (4, 16),
                    'U' => (8, 16),
                    _ => (3, 8),
                };
                self.at -= usize::from(radix == 8);
                let text: String = self.source.iter().skip(self.at).take(digits).collect();
                self.at += digits;
                let whole = text.chars().count() == digits && text.chars().all(|c| c.is_digit(radix));
                let code = u32::from_str_radix(&text, radix).ok().filter(|_| whole).ok_or_else(wrong)?;
                if bytes && digits < 4 {
                    found.push(u8::try_from(code).map_err(|_| wrong())?);
                    return Ok(());
                }
                char::from_u32(code).ok_or_else(wrong)?
            }
            _ => return Err(wrong()),
        };
        found.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }
}
