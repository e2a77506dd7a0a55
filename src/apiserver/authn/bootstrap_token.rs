//! Bootstrap tokens: short secrets in kube-system with which nodes join.

use super::User;
use crate::cache::Cache;
use base64::Engine;
use naru_api::bootstrap_token::{NAME_PREFIX, NAMESPACE, SECRET_TYPE, split};
use naru_api::registry;
use serde_json::Value;
use sha2::{Digest, Sha256};

const GROUP: &str = "system:bootstrappers";

/// The user of a bootstrap token; `None` when it is none, or not one that authenticates (any more).
pub(super) fn user(cache: &Cache, token: &str, now: i64) -> Option<User> {
    let (id, secret) = split(token)?;
    let found = cache.get(&registry::SECRETS, Some(NAMESPACE), &format!("{NAME_PREFIX}{id}"))?;
    let found = crate::objects::tree(&found).ok()?;
    from_secret(&found, id, secret, now)
}

fn from_secret(object: &Value, id: &str, secret: &str, now: i64) -> Option<User> {
    let data = |key: &str| -> Option<String> {
        let bytes = base64::engine::general_purpose::STANDARD.decode(object["data"][key].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let usable = object["type"] == SECRET_TYPE && object["metadata"]["deletionTimestamp"].is_null();
    // Digests are compared, so that the time taken tells nothing about the secret.
    let same = Sha256::digest(data("token-secret")?) == Sha256::digest(secret);
    if !usable || !same || data("token-id")? != id || data("usage-bootstrap-authentication").as_deref() != Some("true")
    {
        return None;
    }
    if let Some(expiration) = data("expiration").filter(|text| !text.is_empty())
        && crate::clock::parse_rfc3339(&expiration).is_none_or(|expiration| expiration <= now)
    {
        return None;
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in data("auth-extra-groups").unwrap_or_default().split(',').filter(|group| !group.is_empty()) {
        if !is_extra_group(group) {
            tracing::warn!(id, group, "a bootstrap token names a group that it may not");
            return None;
        }
        groups.push(group.to_owned());
    }
    Some(User::authenticated(format!("system:bootstrap:{id}"), groups))
}

/// `system:bootstrappers:` and a name of lower-case letters, digits, colons and dashes, ending in one of the first two.
fn is_extra_group(group: &str) -> bool {
    let Some(name) = group.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 256
        && name.bytes().all(|byte| plain(byte) || byte == b':' || byte == b'-')
        && name.bytes().last().is_some_and(plain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(changes: &[(&str, &str)]) -> Value {
        let encode = |text: &str| Value::from(base64::engine::general_purpose::STANDARD.encode(text));
        let mut data = json!({});
        let usual = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:workers"),
        ];
        for (key, value) in usual.iter().chain(changes) {
            data[*key] = encode(value);
        }
        json!({ "type": SECRET_TYPE, "data": data })
    }

    fn check(changes: &[(&str, &str)]) -> Option<User> {
        from_secret(&secret(changes), "abcdef", "0123456789abcdef", 1_000_000_000)
    }

    #[test]
    fn a_usable_token_has_its_groups() {
        let user = check(&[("expiration", "2030-01-01T00:00:00Z")]).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]);
    }

    #[test]
    fn others_are_refused() {
        for changes in [
            ("expiration", "2001-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("token-secret", "0123456789abcdee"),
            ("token-id", "abcdee"),
            ("usage-bootstrap-authentication", "false"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:-"),
        ] {
            assert_eq!(check(&[changes]), None, "{changes:?}");
        }
        let mut wrong = secret(&[]);
        wrong["type"] = "Opaque".into();
        assert_eq!(from_secret(&wrong, "abcdef", "0123456789abcdef", 0), None);
    }
}
