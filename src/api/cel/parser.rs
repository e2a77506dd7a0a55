//! From tokens to expressions, by precedence; macros are recognised here.

use super::Issue;
use super::ast::{Expr, Fold, Kind, Literal};
use super::lexer::{Token, TokenKind, tokens};

/// Deepest nesting. Upstream's parser has 250; every level is some frames of a thread's stack.
pub(super) const MAX_DEPTH: usize = 128;
/// Longest source, in characters.
const MAX_LENGTH: usize = 100_000;
/// What may begin an expression, in the words of upstream's parser.
const BEGINNINGS: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, \
                          BYTES, IDENTIFIER}";
/// Words that name nothing.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
/// Operators between two operands, the loosest first.
const BINARY: [&[&str]; 5] =
    [&["||"], &["&&"], &["<", "<=", ">=", ">", "==", "!=", "in"], &["+", "-"], &["*", "/", "%"]];

/// Reads a whole source.
pub(super) fn parse(source: &str) -> Result<Expr, Issue> {
    let source: Vec<char> = source.chars().collect();
    if source.len() > MAX_LENGTH {
        let text = format!("expression code point size exceeds limit: size: {}, limit {MAX_LENGTH}", source.len());
        return Err(Issue { at: 0, text });
    }
    let mut parser = Parser { tokens: tokens(&source)?, next: 0, depth: 0 };
    let expr = parser.expression()?;
    let rest = parser.peek();
    if rest.kind != TokenKind::End {
        let text = format!("Syntax error: mismatched input '{}' expecting <EOF>", rest.text);
        return Err(Issue { at: rest.at, text });
    }
    Ok(expr)
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        // The end is never taken.
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek().kind, TokenKind::Symbol(found) if found == symbol)
    }

    /// Takes the symbol if it is next, and says where it was.
    fn take(&mut self, symbol: &str) -> Option<usize> {
        let at = self.peek().at;
        self.is(symbol).then(|| {
            self.next += 1;
            at
        })
    }

    fn expect(&mut self, symbol: &str) -> Result<usize, Issue> {
        match self.take(symbol) {
            Some(at) => Ok(at),
            None => Err(self.wrong(&format!("'{symbol}'"))),
        }
    }

    fn wrong(&self, expected: &str) -> Issue {
        let found = self.peek();
        Issue { at: found.at, text: format!("Syntax error: mismatched input '{}' expecting {expected}", found.text) }
    }

    /// An expression of a kind, refused when it is too deep.
    fn node(&self, at: usize, kind: Kind) -> Result<Expr, Issue> {
        let mut expr = Expr { at, depth: 1, kind };
        expr.depth += expr.children().iter().map(|child| child.depth).max().unwrap_or(0);
        if expr.depth > MAX_DEPTH { Err(too_deep(at)) } else { Ok(expr) }
    }

    fn call(&self, at: usize, function: &str, arguments: Vec<Expr>) -> Result<Expr, Issue> {
        self.node(at, Kind::Call { function: function.to_owned(), member: false, arguments, builtin: None })
    }

    fn expression(&mut self) -> Result<Expr, Issue> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(too_deep(self.peek().at));
        }
        let test = self.operators(0)?;
        let expr = match self.take("?") {
            None => test,
            Some(at) => {
                let yes = self.operators(0)?;
                self.expect(":")?;
                let no = self.expression()?;
                self.node(at, Kind::Condition(Box::new([test, yes, no])))?
            }
        };
        self.depth -= 1;
        Ok(expr)
    }

    /// The operator that comes next, with how tightly it binds.
    fn operator(&self) -> Option<(usize, &'static str)> {
        let token = self.peek();
        if !matches!(token.kind, TokenKind::Symbol(_) | TokenKind::Ident) {
            return None;
        }
        let mut levels = BINARY.iter().enumerate();
        levels.find_map(|(level, known)| Some((level, known.iter().copied().find(|known| *known == token.text)?)))
    }

    /// Operands and the operators between them that bind at least as tightly as `level`.
    fn operators(&mut self, level: usize) -> Result<Expr, Issue> {
        let mut left = self.unary()?;
        // Whether `left` is a chain of this loop's own, which grows in breadth.
        let mut chain = None;
        while let Some((found, operator)) = self.operator().filter(|(found, _)| *found >= level) {
            let at = self.peek().at;
            self.next += 1;
            let right = self.operators(found + 1)?;
            left = match left.kind {
                Kind::Logic { and, mut parts } if chain == Some(found) => {
                    parts.push(right);
                    self.node(left.at, Kind::Logic { and, parts })?
                }
                _ if found < 2 => self.node(at, Kind::Logic { and: found == 1, parts: vec![left, right] })?,
                _ => {
                    let function = if operator == "in" { "@in".to_owned() } else { format!("_{operator}_") };
                    self.call(at, &function, vec![left, right])?
                }
            };
            chain = (found < 2).then_some(found);
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, Issue> {
        let symbol = if self.is("!") { "!" } else { "-" };
        let Some(at) = self.take(symbol) else { return self.member() };
        let mut count = 1;
        while self.take(symbol).is_some() {
            count += 1;
        }
        // The smallest number has no positive twin.
        if symbol == "-" && count % 2 == 1 {
            let literal = match self.peek().kind {
                TokenKind::Int(value) => Some(Literal::Int(
                    0_i64
                        .checked_sub_unsigned(value)
                        .ok_or_else(|| Issue { at, text: "invalid int literal".to_owned() })?,
                )),
                TokenKind::Double(value) => Some(Literal::Double(-value)),
                _ => None,
            };
            if let Some(literal) = literal {
                self.next += 1;
                let literal = self.node(at, Kind::Literal(literal))?;
                return self.suffixes(literal);
            }
        }
        let operand = self.member()?;
        if count % 2 == 0 {
            return Ok(operand);
        }
        self.call(at, if symbol == "!" { "!_" } else { "-_" }, vec![operand])
    }

    fn member(&mut self) -> Result<Expr, Issue> {
        let expr = self.primary()?;
        self.suffixes(expr)
    }

    fn suffixes(&mut self, mut expr: Expr) -> Result<Expr, Issue> {
        loop {
            if let Some(at) = self.take(".") {
                let optional = self.take("?").is_some();
                let name = self.identifier(true)?;
                expr = match self.take("(") {
                    Some(open) if !optional => self.member_call(open, expr, name)?,
                    Some(_) => return Err(self.wrong(BEGINNINGS)),
                    None => {
                        let operand = Box::new(expr);
                        self.node(at, Kind::Select { operand, field: name, test: false, optional })?
                    }
                };
            } else if let Some(at) = self.take("[") {
                let optional = self.take("?").is_some();
                let index = Box::new(self.expression()?);
                self.expect("]")?;
                expr = self.node(at, Kind::Index { operand: Box::new(expr), index, optional })?;
            } else {
                return Ok(expr);
            }
        }
    }

    fn identifier(&mut self, selector: bool) -> Result<String, Issue> {
        let token = self.peek();
        if token.kind != TokenKind::Ident || (!selector && token.text == "in") {
            return Err(self.wrong("IDENTIFIER"));
        }
        let name = token.text.clone();
        self.next += 1;
        Ok(name)
    }

    fn arguments(&mut self, end: &str) -> Result<Vec<Expr>, Issue> {
        let mut arguments = Vec::new();
        while self.take(end).is_none() {
            if !arguments.is_empty() {
                self.expect(",")?;
            }
            arguments.push(self.expression()?);
        }
        Ok(arguments)
    }

    fn primary(&mut self) -> Result<Expr, Issue> {
        let token = self.peek().clone();
        let at = token.at;
        let literal = match token.kind {
            TokenKind::Int(value) => {
                let value = i64::try_from(value);
                Literal::Int(value.map_err(|_| Issue { at, text: "invalid int literal".to_owned() })?)
            }
            TokenKind::Uint(value) => Literal::Uint(value),
            TokenKind::Double(value) => Literal::Double(value),
            TokenKind::String(value) => Literal::String(value),
            TokenKind::Bytes(value) => Literal::Bytes(value),
            TokenKind::Symbol(symbol) => return self.grouped(at, symbol),
            TokenKind::End => return Err(self.wrong(BEGINNINGS)),
            TokenKind::Ident => match token.text.as_str() {
                "true" => Literal::Bool(true),
                "false" => Literal::Bool(false),
                "null" => Literal::Null,
                _ => return self.name(),
            },
        };
        self.next += 1;
        self.node(at, Kind::Literal(literal))
    }

    fn name(&mut self) -> Result<Expr, Issue> {
        let at = self.peek().at;
        let name = self.identifier(false)?;
        if RESERVED.contains(&name.as_str()) {
            return Err(Issue { at, text: format!("reserved identifier: {name}") });
        }
        let Some(open) = self.take("(") else { return self.node(at, Kind::Ident(name)) };
        let mut arguments = self.arguments(")")?;
        if name != "has" || arguments.len() != 1 {
            return self.call(open, &name, arguments);
        }
        // Its argument is not evaluated, only looked at.
        match arguments.pop().map(|argument| argument.kind) {
            Some(Kind::Select { operand, field, test: false, optional: false }) => {
                self.node(open, Kind::Select { operand, field, test: true, optional: false })
            }
            _ => Err(Issue { at: open, text: "invalid argument to has() macro".to_owned() }),
        }
    }

    fn grouped(&mut self, at: usize, symbol: &str) -> Result<Expr, Issue> {
        match symbol {
            "(" => {
                self.next += 1;
                let expr = self.expression()?;
                self.expect(")")?;
                Ok(expr)
            }
            "[" => {
                self.next += 1;
                let mut elements = Vec::new();
                while self.take("]").is_none() {
                    if !elements.is_empty() {
                        self.expect(",")?;
                        if self.take("]").is_some() {
                            break;
                        }
                    }
                    elements.push((self.take("?").is_some(), self.expression()?));
                }
                self.node(at, Kind::List(elements))
            }
            "{" => {
                self.next += 1;
                let mut entries = Vec::new();
                while self.take("}").is_none() {
                    if !entries.is_empty() {
                        self.expect(",")?;
                        if self.take("}").is_some() {
                            break;
                        }
                    }
                    let optional = self.take("?").is_some();
                    let key = self.expression()?;
                    self.expect(":")?;
                    entries.push((optional, key, self.expression()?));
                }
                self.node(at, Kind::Map(entries))
            }
            // A name of the root; there is nothing but the root.
            "." => {
                self.next += 1;
                self.name()
            }
            _ => Err(self.wrong(BEGINNINGS)),
        }
    }

    fn member_call(&mut self, at: usize, target: Expr, name: String) -> Result<Expr, Issue> {
        let mut arguments = self.arguments(")")?;
        if target.name() == Some("cel") && name == "bind" && arguments.len() == 3 {
            let variable = simple_name(&arguments[0])?;
            let (body, value) = (arguments.pop(), arguments.pop());
            let (Some(body), Some(value)) = (body, value) else { return Err(self.wrong(BEGINNINGS)) };
            return self.node(at, Kind::Bind { variable, value: Box::new(value), body: Box::new(body) });
        }
        let (fold, variables) = match (name.as_str(), arguments.len()) {
            ("all", 2) => (Fold::All, 1),
            ("exists", 2) => (Fold::Exists, 1),
            ("exists_one" | "existsOne", 2) => (Fold::ExistsOne, 1),
            ("filter", 2) => (Fold::Filter, 1),
            ("map", 2 | 3) => (Fold::Map, 1),
            ("sortBy", 2) => (Fold::SortBy, 1),
            ("all", 3) => (Fold::All, 2),
            ("exists", 3) => (Fold::Exists, 2),
            ("existsOne", 3) => (Fold::ExistsOne, 2),
            ("transformList", 3 | 4) => (Fold::TransformList, 2),
            ("transformMap", 3 | 4) => (Fold::TransformMap, 2),
            ("transformMapEntry", 3 | 4) => (Fold::TransformMapEntry, 2),
            ("optMap" | "optFlatMap", 2) => {
                let (variable, body) = (simple_name(&arguments[0])?, arguments.pop());
                let body = Box::new(body.ok_or_else(|| self.wrong(BEGINNINGS))?);
                let flat = name == "optFlatMap";
                return self.node(at, Kind::Optional { flat, target: Box::new(target), variable, body });
            }
            _ => {
                arguments.insert(0, target);
                return self.node(at, Kind::Call { function: name, member: true, arguments, builtin: None });
            }
        };
        let steps = arguments.split_off(variables);
        let variables = arguments.iter().map(simple_name).collect::<Result<Vec<_>, _>>()?;
        if variables.len() == 2 && variables[0] == variables[1] {
            let text = format!("duplicate variable name: {}", variables[0]);
            return Err(Issue { at: arguments[1].at, text });
        }
        self.node(at, Kind::Fold { fold, range: Box::new(target), variables, steps })
    }
}

fn too_deep(at: usize) -> Issue {
    Issue { at, text: format!("expression recursion limit exceeded: {MAX_DEPTH}") }
}

fn simple_name(expr: &Expr) -> Result<String, Issue> {
    let name = expr.name().map(str::to_owned);
    name.ok_or_else(|| Issue { at: expr.at, text: "argument must be a simple name".to_owned() })
}
