//! `$(VAR)` expansion as the API documents it for env values, commands and arguments.

/// Expands `$(NAME)` by `lookup`. `$$` is a literal `$`; a reference that is unknown or not closed stays as it is.
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(body) = after.strip_prefix('(') {
            let Some(end) = body.find(')') else {
                out.push_str("$(");
                rest = body;
                continue;
            };
            let name = &body[..end];
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = &body[end + 1..];
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expect: &str) {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_string()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        assert_eq!(expand(input, lookup), expect, "input {input:?}");
    }

    #[test]
    fn follows_the_documented_rules() {
        check("plain", "plain");
        check("$(A)", "a");
        check("x-$(A)-$(A)", "x-a-a");
        check("$(EMPTY)!", "!");
        check("$(B)", "$(B)");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$a");
        check("$A", "$A");
        check("$(A", "$(A");
        check("end$", "end$");
        check("$$", "$");
    }
}
