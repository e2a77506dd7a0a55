//! The grammar of label selectors in query parameters.

use super::SelectorError;
use super::label::{Operator, Requirement};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    End,
    Open,
    Close,
    Comma,
    Not,
    /// `=`, `==`, `!=`, `>`, `<`, `in`, `notin`.
    Operator(&'a str, Operator),
    Word(&'a str),
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::End => "",
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::Not => "!",
            Token::Operator(text, _) | Token::Word(text) => text,
        }
    }

    /// Where a value is due, `in` and `notin` are words.
    fn as_value(self) -> Self {
        match self {
            Token::Operator(text @ ("in" | "notin"), _) => Token::Word(text),
            other => other,
        }
    }
}

fn symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn lex(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next() else { break };
        let length;
        if symbol(first) {
            length = if rest.starts_with("==") || rest.starts_with("!=") { 2 } else { 1 };
            tokens.push(match &rest[..length] {
                "(" => Token::Open,
                ")" => Token::Close,
                "," => Token::Comma,
                "!" => Token::Not,
                op @ ("=" | "==") => Token::Operator(op, Operator::Equals),
                op @ "!=" => Token::Operator(op, Operator::NotEquals),
                op @ ">" => Token::Operator(op, Operator::GreaterThan),
                op => Token::Operator(op, Operator::LessThan),
            });
        } else {
            length = rest.find(|c: char| symbol(c) || matches!(c, ' ' | '\t' | '\r' | '\n')).unwrap_or(rest.len());
            tokens.push(match &rest[..length] {
                op @ "in" => Token::Operator(op, Operator::In),
                op @ "notin" => Token::Operator(op, Operator::NotIn),
                word => Token::Word(word),
            });
        }
        rest = &rest[length..];
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

type Result<T> = std::result::Result<T, SelectorError>;

fn expected<T>(found: Token<'_>, what: &str) -> Result<T> {
    Err(SelectorError(format!("found '{}', expected: {what}", found.text())))
}

/// Parses a whole selector.
pub(super) fn labels(text: &str) -> Result<Vec<Requirement>> {
    let mut parser = Parser { tokens: lex(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        // A key may be called `in`.
        match parser.peek().as_value() {
            Token::Word(_) | Token::Not => {
                let requirement =
                    parser.requirement().map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?;
                requirements.push(requirement);
                match parser.take() {
                    Token::End => return Ok(requirements),
                    Token::Comma => match parser.peek().as_value() {
                        Token::Word(_) | Token::Not => {}
                        other => return expected(other, "identifier after ','"),
                    },
                    other => return expected(other, "',' or 'end of string'"),
                }
            }
            Token::End => return Ok(requirements),
            other => return expected(other, "!, identifier, or 'end of string'"),
        }
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(Token::End)
    }

    fn take(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement> {
        let negated = self.peek() == Token::Not;
        if negated {
            self.at += 1;
        }
        let key = match self.take().as_value() {
            Token::Word(key) => key,
            other => return expected(other, "identifier"),
        };
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        super::label::check_key(key)?;
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = match self.take() {
            Token::Operator(_, operator) => operator,
            other => return expected(other, "in, notin, =, ==, !=, gt, lt"),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String> {
        match self.peek().as_value() {
            Token::End | Token::Comma => Ok(String::new()),
            Token::Word(word) => {
                self.at += 1;
                Ok(word.to_owned())
            }
            other => expected(other, "identifier"),
        }
    }

    /// A list in parentheses; an empty place between commas is the empty value.
    fn values(&mut self) -> Result<Vec<String>> {
        let open = self.take();
        if open != Token::Open {
            return Err(SelectorError(format!("found '{}' expected: '('", open.text())));
        }
        let mut values = Vec::new();
        if self.peek() == Token::Close {
            self.at += 1;
            return Ok(values);
        }
        loop {
            match self.take().as_value() {
                Token::Word(word) => {
                    values.push(word.to_owned());
                    match self.take() {
                        Token::Comma if self.peek() == Token::Close => {
                            self.at += 1;
                            values.push(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {}
                        Token::Close => return Ok(values),
                        other => return expected(other, "',' or ')'"),
                    }
                }
                Token::Comma => {
                    values.push(String::new());
                    if self.peek() == Token::Close {
                        self.at += 1;
                        return Ok(values);
                    }
                }
                other => return expected(other, "',', ')' or identifier"),
            }
        }
    }
}
