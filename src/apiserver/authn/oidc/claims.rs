//! From a token's claims to a user.

use crate::authn::User;
use crate::authn::configuration::Provider;
use serde_json::{Map, Value};

/// The claims of a token whose signature is good.
pub(super) type Claims = Map<String, Value>;

/// How far clocks may be apart where a token says that it is not valid yet, in seconds.
const LEEWAY: i64 = 300;

/// Google's tokens may name their issuer without its scheme.
pub(super) fn issuer_of(named: &str) -> &str {
    if named == "accounts.google.com" { "https://accounts.google.com" } else { named }
}

/// Checks what every token must say: from whom it is, for whom, and when.
pub(super) fn check(issuer: &str, wanted: &[String], claims: &Claims, now: i64) -> Result<(), String> {
    let named = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
    if issuer_of(named) != issuer {
        return Err(format!("oidc: id token issued by a different provider, expected {issuer:?} got {named:?}"));
    }
    let audiences: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !wanted.iter().any(|audience| audiences.contains(&audience.as_str())) {
        let quoted: Vec<String> = audiences.iter().map(|audience| format!("{audience:?}")).collect();
        let got = quoted.join(" ");
        return Err(match wanted {
            [one] => format!("oidc: expected audience {one:?} got [{got}]"),
            many => {
                let mut many: Vec<String> = many.iter().map(|audience| format!("{audience:?}")).collect();
                many.sort();
                format!("oidc: expected audience in [{}] got [{got}]", many.join(" "))
            }
        });
    }
    let time = |name: &str| claims.get(name).and_then(Value::as_f64);
    #[allow(clippy::cast_precision_loss, reason = "seconds of this millennium fit")]
    let (exact, leeway) = (now as f64, LEEWAY as f64);
    match time("exp") {
        Some(expires) if expires > exact => {}
        expires => return Err(format!("oidc: token is expired (Token Expiry: {})", in_utc(expires))),
    }
    if let Some(start) = time("nbf").filter(|start| exact + leeway < *start) {
        let (now, start) = (in_utc(Some(exact)), in_utc(Some(start)));
        return Err(format!("oidc: current time {now} before the nbf (not before) time: {start}"));
    }
    Ok(())
}

/// A time of a token as upstream shows it; without one, Go's first of all times.
fn in_utc(seconds: Option<f64>) -> String {
    #[allow(clippy::cast_possible_truncation, reason = "times beyond the calendar are shown as its beginning")]
    let time = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds as i64).ok());
    match time {
        Some(time) => time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
        None => "0001-01-01 00:00:00 +0000 UTC".to_owned(),
    }
}

/// The user that the mappings make of the claims, once all rules hold.
pub(super) fn user(provider: &Provider, claims: &Claims) -> Result<User, String> {
    let expressions = &provider.expressions;
    let name = match expressions.username(claims)? {
        Some(name) => name,
        None => username(provider, claims)?,
    };
    let groups = match expressions.groups(claims)? {
        Some(groups) => groups,
        None => {
            let of = &provider.claim_mappings.groups;
            let found = groups(claims, &of.claim)
                .map_err(|reason| format!("oidc: parse groups claim {:?}: {reason}", of.claim))?;
            found.into_iter().map(|group| prefixed(&of.prefix, group)).collect()
        }
    };
    let mut user = User::authenticated(name, groups.clone());
    let of = &provider.claim_mappings.uid;
    if let Some(uid) = expressions.uid(claims)? {
        user.uid = uid;
    } else if !of.claim.is_empty() {
        let uid = text(claims, &of.claim);
        uid.map_err(|reason| format!("oidc: parse uid claim {:?}: {reason}", of.claim))?.clone_into(&mut user.uid);
    }
    user.extra = expressions.extra(claims)?;
    if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
        user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
    }
    required(provider, claims)?;
    expressions.check_claims(claims)?;
    expressions.check_user(&user, &groups)?;
    Ok(user)
}

fn prefixed(prefix: &Option<String>, value: &str) -> String {
    format!("{}{value}", prefix.as_deref().unwrap_or_default())
}

fn username(provider: &Provider, claims: &Claims) -> Result<String, String> {
    let of = &provider.claim_mappings.username;
    let name =
        text(claims, &of.claim).map_err(|reason| format!("oidc: parse username claims {:?}: {reason}", of.claim))?;
    if of.claim == "email" {
        match claims.get("email_verified") {
            None | Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => return Err("oidc: email not verified".to_owned()),
            Some(_) => return Err("oidc: parse 'email_verified' claim: not a boolean".to_owned()),
        }
    }
    Ok(prefixed(&of.prefix, name))
}

/// Checks the claims that must have one value.
fn required(provider: &Provider, claims: &Claims) -> Result<(), String> {
    for rule in provider.claim_validation_rules.iter().filter(|rule| !rule.claim.is_empty()) {
        if !claims.contains_key(&rule.claim) {
            return Err(format!("oidc: required claim {} not present in ID token", rule.claim));
        }
        let value =
            text(claims, &rule.claim).map_err(|reason| format!("oidc: parse claim {}: {reason}", rule.claim))?;
        if value != rule.required_value {
            return Err(format!(
                "oidc: required claim {} value does not match. Got = {value}, want = {}",
                rule.claim, rule.required_value
            ));
        }
    }
    Ok(())
}

fn text<'a>(claims: &'a Claims, name: &str) -> Result<&'a str, &'static str> {
    match claims.get(name) {
        None => Err("claim not present"),
        Some(value) => value.as_str().ok_or("not a string"),
    }
}

/// The claim may be one group or a list of them, and may be absent.
fn groups<'a>(claims: &'a Claims, name: &str) -> Result<Vec<&'a str>, &'static str> {
    match claims.get(name).filter(|_| !name.is_empty()) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(many)) => {
            many.iter().map(Value::as_str).collect::<Option<_>>().ok_or("not a list of strings")
        }
        Some(_) => Err("neither a string nor a list of strings"),
    }
}
