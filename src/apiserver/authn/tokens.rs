//! Static bearer tokens: given by the configuration, or in a file with lines of `token,user,uid,"group1,group2"`.

use super::User;
use crate::config::StaticToken;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Looks tokens up by their digest, so that comparing leaks nothing through timing.
#[derive(Debug)]
pub(crate) struct StaticTokens {
    /// Those of the file, which stay.
    fixed: Vec<StaticToken>,
    /// Leaf lock.
    index: RwLock<HashMap<[u8; 32], Arc<User>>>,
}

impl StaticTokens {
    /// Indexes the configured tokens, and those that stay when they are replaced.
    pub(crate) fn new(configured: &[StaticToken], fixed: Vec<StaticToken>) -> Self {
        let tokens = Self { fixed, index: RwLock::default() };
        tokens.replace(configured);
        tokens
    }

    /// Takes others in the place of the configured ones.
    pub(crate) fn replace(&self, configured: &[StaticToken]) {
        let index = configured.iter().chain(&self.fixed).map(|token| {
            let mut user = User::authenticated(&token.user, token.groups.iter().cloned());
            user.uid.clone_from(&token.uid);
            (Sha256::digest(&token.token).into(), Arc::new(user))
        });
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = index.collect();
    }

    /// The token's user.
    pub(crate) fn user(&self, token: &str) -> Option<Arc<User>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        self.index.read().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned()
    }
}

/// Reads a token file; `name` is for the error.
pub(super) fn parse_file(text: &str, name: &str) -> Result<Vec<StaticToken>, String> {
    let mut tokens = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fields = fields(line).ok_or_else(|| format!("token file '{name}', line {}: wrong quotes", index + 1))?;
        let [token, user, uid, rest @ ..] = fields.as_slice() else {
            return Err(format!(
                "token file '{name}' must have at least 3 columns (token, user name, user uid), found {}",
                fields.len()
            ));
        };
        if token.is_empty() {
            tracing::warn!(file = name, line = index + 1, "empty token in the token file");
            continue;
        }
        let groups = rest.first().map(|groups| groups.split(',').map(str::to_owned).collect()).unwrap_or_default();
        tokens.push(StaticToken { token: token.clone(), user: user.clone(), uid: uid.clone(), groups });
    }
    Ok(tokens)
}

/// The fields of a line of comma-separated values; `None` when its quotes do not match.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            match rest.split_once(',') {
                Some((field, after)) => {
                    fields.push(field.to_owned());
                    rest = after;
                    continue;
                }
                None => {
                    fields.push(rest.to_owned());
                    return Some(fields);
                }
            }
        };
        let mut field = String::new();
        let mut chars = quoted.char_indices().peekable();
        let end = loop {
            match chars.next()? {
                (_, '"') if chars.next_if(|(_, c)| *c == '"').is_some() => field.push('"'),
                (at, '"') => break at + 1,
                (_, c) => field.push(c),
            }
        };
        fields.push(field);
        rest = match &quoted[end..] {
            "" => return Some(fields),
            after => after.strip_prefix(',')?,
        };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn configured_tokens_are_replaced_and_those_of_the_file_stay() {
        let fixed = parse_file("abc,jane,42\n", "f").unwrap();
        let configured = |text: &str| parse_file(text, "g").unwrap();
        let tokens = StaticTokens::new(&configured("old,node,1\n"), fixed);
        tokens.replace(&configured("new,node,1\n"));
        let known = ["abc", "old", "new"].map(|token| tokens.user(token).is_some());
        assert_eq!(known, [true, false, true]);
    }

    #[test]
    fn token_files_have_three_columns_and_groups() {
        let tokens = parse_file("abc,jane,42,\"dev,ops\"\n\ndef,\"jo\"\"e\",7\n,nobody,0\n", "f").unwrap();
        let tokens = StaticTokens::new(&tokens, Vec::new());
        let jane = tokens.user("abc").unwrap();
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "42"));
        assert_eq!(jane.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(tokens.user("def").unwrap().name, "jo\"e");
        assert_eq!(tokens.user(""), None);
        let short = "token file 'f' must have at least 3 columns (token, user name, user uid), found 2";
        assert_eq!(parse_file("a,b\n", "f").err().unwrap(), short);
        assert!(parse_file("a,\"b,c\n", "f").is_err());
    }
}
