//! Files of variables, as `fileKeyRef` reads them: lines of `NAME='value'`, nothing else of a shell's syntax.

/// The value of `key`, which may span lines; the first definition counts. `None` if there is none.
pub fn value(text: &str, key: &str) -> Result<Option<String>, String> {
    let at = |line: usize, why: &str| Err(format!("invalid environment variable format at line {line}: {why}"));
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, rest)) = line.split_once('=') else { return at(index + 1, "missing '='") };
        let trimmed = name.trim_end_matches([' ', '\t']);
        if trimmed.is_empty() {
            return at(index + 1, "empty variable name");
        }
        if trimmed != name {
            return at(index + 1, "whitespace before '=' is not allowed");
        }
        if rest.starts_with([' ', '\t']) {
            // A shell would take the rest for a command.
            if name == key {
                return Ok(Some(String::new()));
            }
            continue;
        }
        let Some(mut rest) = rest.strip_prefix('\'') else {
            return at(index + 1, "value must be enclosed in single quotes");
        };
        let (mut value, mut last) = (String::new(), index);
        let after = loop {
            if let Some((head, after)) = rest.split_once('\'') {
                value.push_str(head);
                break after;
            }
            value.push_str(rest);
            value.push('\n');
            let Some((next, line)) = lines.next() else {
                return Err(format!(
                    "invalid environment variable format starting at line {}: unclosed single quote",
                    index + 1
                ));
            };
            (last, rest) = (next, line);
        };
        let after = after.trim_start_matches([' ', '\t']);
        if !(after.is_empty() || after.starts_with('#')) {
            return at(last + 1, "unexpected content after closing quote");
        }
        if name == key {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<Option<&str>, &str>) {
        let found = value(text, "KEY");
        assert_eq!(found.as_ref().map(Option::as_deref).map_err(String::as_str), expect, "{text:?}");
    }

    #[test]
    fn values_are_literal_and_may_span_lines() {
        check("KEY='value'", Ok(Some("value")));
        check("\n# comment\n  KEY='a $B \\n \"c\" # d'   # comment\n", Ok(Some("a $B \\n \"c\" # d")));
        check("OTHER='x\nKEY=no'\nKEY='one\ntwo\n'\n", Ok(Some("one\ntwo\n")));
        check("KEY=''\nKEY='later'", Ok(Some("")));
        check("KEY= 'v'", Ok(Some("")));
        check("key='v'", Ok(None));
        check("", Ok(None));
    }

    #[test]
    fn other_syntax_is_refused_by_line() {
        let wrong = |line: usize, why: &str| format!("invalid environment variable format at line {line}: {why}");
        check("A='1'\nKEY", Err(&wrong(2, "missing '='")));
        check("='v'", Err(&wrong(1, "empty variable name")));
        check("KEY ='v'", Err(&wrong(1, "whitespace before '=' is not allowed")));
        check("KEY=v", Err(&wrong(1, "value must be enclosed in single quotes")));
        check("KEY=\"v\"", Err(&wrong(1, "value must be enclosed in single quotes")));
        check("A='\n'x", Err(&wrong(2, "unexpected content after closing quote")));
        check("A='1'\nB='", Err("invalid environment variable format starting at line 2: unclosed single quote"));
    }
}
